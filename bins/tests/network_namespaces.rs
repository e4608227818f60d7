//! Three replicas and a client with a network of their own each: the two-faults story, and one replica cut off by
//! silence. Where namespaces cannot be made, these tests say so and pass.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "support/script.rs"]
mod script;

use chat_bins::processes::replica::Fault;
use cluster::{Trio, WAIT};
use namespaces::Namespaces;
use serde_json::Value;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

fn namespaces() -> Option<Namespaces> {
    let made = Namespaces::make();
    made.inspect_err(|why| println!("skipped: no network namespaces can be made here ({why})")).ok()
}

fn two_faults(name: &str, fault: &str) {
    let Some(spaces) = namespaces() else { return };
    let outside = Namespaces::inside(&spaces.outside());
    let outside: Vec<_> = outside.iter().map(String::as_str).collect();
    let places = [1, 2, 3].map(|id| format!("{}@{}", Namespaces::address(id), spaces.name(id)));
    let [a, b, c] = &places;
    script::passes(name, &outside, &["two-faults", "--fault", fault, "--at", a, "--at", b, "--at", c]);
}

#[test]
fn two_of_three_are_killed() {
    two_faults("namespaces-killed", "kill");
}

#[test]
fn two_of_three_are_stopped() {
    two_faults("namespaces-stopped", "term");
}

/// A leader, then a backup, falls silent: its network is gone, and nobody gets a refusal.
#[tokio::test]
async fn one_is_cut_off_by_silence() {
    let Some(spaces) = namespaces() else { return };
    let mut story = Silence::begin(&spaces).await;
    let leader = story.leader().await;
    story.cut_off(leader, "the leader").await;
    let leader = story.leader().await;
    story.cut_off(if leader == 1 { 2 } else { 1 }, "a backup").await;
    // What came back holds everything: it goes on alone, once it could prove the others' crashes.
    let last = story.leader().await % 3 + 1;
    let ready = |line: &Value| line["id"] == last && line["leases_from"].as_array().is_some_and(|ids| ids.len() == 2);
    story.trio.until("the last one holds the leases of the others", ready).await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != last) {
        story.trio.replica(id as usize).down(Fault::Kill).await.expect("it is killed");
    }
    story.say("on the last one alone").await;
    story.all_is_there().await;
    story.end().await;
}

/// ada writes to bob, who listens, from outside.
struct Silence<'a> {
    spaces: &'a Namespaces,
    trio: Trio,
    sessions: tempfile::TempDir,
    follower: Child,
    lines: Lines<BufReader<ChildStdout>>,
    acknowledged: Vec<String>,
}

const PASSWORD: &str = "correct horse battery staple";

fn text(message: &Value) -> &str {
    message["text"].as_str().expect("a message has a text")
}

impl<'a> Silence<'a> {
    async fn begin(spaces: &'a Namespaces) -> Silence<'a> {
        let place = |id| (Namespaces::address(id), Namespaces::inside(&spaces.name(id)));
        let outside = Namespaces::inside(&spaces.outside());
        let trio = Trio::start("namespaces-silence", &[1, 2, 3].map(place), outside.clone()).await;
        let sessions = tempfile::tempdir().expect("a temporary directory");
        let chat = |user: &str, arguments: &[&str]| {
            let mut command = command(&outside, &trio.servers(), &sessions);
            command.args(["--user", user]).args(arguments);
            command
        };
        for user in ["ada", "bob"] {
            let registered = chat(user, &["register"]).output().await.expect("chat runs");
            assert!(registered.status.success(), "{registered:?}");
        }
        let mut follower =
            chat("bob", &["--json", "inbox", "--follow"]).stdout(Stdio::piped()).spawn().expect("chat runs");
        let lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
        let mut story = Silence { spaces, trio, sessions, follower, lines, acknowledged: Vec::new() };
        story.say("hello").await;
        story
    }

    async fn leader(&self) -> u32 {
        let line = self.trio.until("one leads all", |line| line["role"] == "primary" && line["in_view"][2] == 3).await;
        line["id"].as_u64().expect("a number") as u32
    }

    async fn ada(&self, inside: &[String], servers: &str, arguments: &[&str]) -> Output {
        let mut command = command(inside, servers, &self.sessions);
        command.args(["--user", "ada", "--json"]).args(arguments);
        command.output().await.expect("chat runs")
    }

    /// A message is acknowledged and arrives. Returns how long each took.
    async fn say(&mut self, words: &str) -> (Duration, Duration) {
        let begun = Instant::now();
        let sent = self.ada(&self.trio.outside, &self.trio.servers(), &["send", "bob", words]).await;
        assert!(sent.status.success(), "{words:?} was not accepted: {}", self.told(&sent));
        let acknowledged = begun.elapsed();
        self.acknowledged.push(words.to_owned());
        loop {
            let line = timeout(WAIT, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("{words:?} was acknowledged, but did not arrive in {WAIT:?}"));
            let message: Value =
                serde_json::from_str(&line.expect("readable").expect("the follower goes on")).expect("JSON");
            if text(&message) == words {
                return (acknowledged, begun.elapsed());
            }
            // What was given up within the cut-off replica may come yet, or never.
            assert!(text(&message).starts_with("into the void"), "{message} came in place of {words:?}");
        }
    }

    fn told(&self, output: &Output) -> String {
        let folder = self.trio.folder.display();
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        format!("{}{}(data and logs are in {folder})", out, err)
    }

    /// Replica `id` is cut off, and joined again.
    async fn cut_off(&mut self, id: u32, what: &str) {
        let within = Namespaces::inside(&self.spaces.name(id));
        let own = Namespaces::address(id).to_string();
        // A session is stored for this list of servers, so that reads need no login later.
        let login = self.ada(&within, &own, &["login"]).await;
        assert!(login.status.success(), "{}", self.told(&login));
        self.spaces.cut(id);
        let cut = Instant::now();
        let (acknowledged, arrived) = self.say(&format!("{what} is cut off")).await;
        println!("{what} cut off: acknowledged after {acknowledged:?}, delivered after {arrived:?}");
        let limit = Duration::from_secs(5);
        assert!(acknowledged < limit, "{what} was cut off, and the others took {acknowledged:?} to go on");
        // The others have gone on: whatever it said now would be wrong.
        let void = format!("into the void of {what}");
        for question in [&["send", "bob", &void][..], &["history", "bob"], &["inbox"], &["accounts"]] {
            let mut command = command(&within, &own, &self.sessions);
            command.args(["--user", "ada", "--timeout", "700ms"]).args(question).env_remove("CHAT_PASSWORD");
            let answer = command.output().await.expect("chat runs");
            assert_eq!(answer.status.code(), Some(3), "{what}, cut off, answered {question:?}: {}", self.told(&answer));
        }
        println!("{what} was cut off for {:?}, and answered nothing", cut.elapsed());
        self.spaces.join(id);
        let joined = Instant::now();
        let leads = |line: &Value| line["role"] == "primary" && line["in_view"][2] == 3;
        let committed = self.trio.until("it is taken back", leads).await["committed"].as_u64();
        let caught_up =
            |line: &Value| line["id"] == id && line["role"] == "backup" && line["applied"].as_u64() >= committed;
        self.trio.until("it has caught up", caught_up).await;
        println!("{what} was joined again and had caught up after {:?}", joined.elapsed());
        self.say(&format!("{what} is back")).await;
    }

    /// The history holds what was acknowledged, once, in order.
    async fn all_is_there(&self) {
        let history = self.ada(&self.trio.outside, &self.trio.servers(), &["history", "bob"]).await;
        assert!(history.status.success(), "{}", self.told(&history));
        let lines = String::from_utf8(history.stdout).expect("UTF-8");
        let messages = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let texts: Vec<_> = messages.map(|message: Value| text(&message).to_owned()).collect();
        let known: Vec<_> = texts.iter().filter(|text| !text.starts_with("into the void")).collect();
        assert!(known.into_iter().eq(&self.acknowledged), "{texts:?} for {:?}", self.acknowledged);
    }

    async fn end(mut self) {
        self.follower.kill().await.expect("it is ended");
        self.trio.passed();
    }
}

/// `chat`, somewhere.
fn command(inside: &[String], servers: &str, sessions: &tempfile::TempDir) -> Command {
    let program = [env!("CARGO_BIN_EXE_chat").to_owned()];
    let mut words = inside.iter().chain(&program);
    let mut command = Command::new(words.next().expect("at least the program"));
    command.args(words).args(["--servers", servers]).kill_on_drop(true);
    command.env("CHAT_STATE_DIR", sessions.path()).env("CHAT_PASSWORD", PASSWORD);
    command
}
