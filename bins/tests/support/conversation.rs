//! Two who talk across a network of namespaces, and what must come of it.

use super::cluster::{Trio, WAIT};
use super::namespaces::Namespaces;
use serde_json::Value;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// ada writes to bob, who listens, from outside.
pub struct Conversation<'a> {
    spaces: &'a Namespaces,
    pub trio: Trio,
    sessions: tempfile::TempDir,
    follower: Child,
    lines: Lines<BufReader<ChildStdout>>,
    acknowledged: Vec<String>,
}

const PASSWORD: &str = "correct horse battery staple";

fn text(message: &Value) -> &str {
    message["text"].as_str().expect("a message has a text")
}

fn leads_all(line: &Value) -> bool {
    line["role"] == "primary" && line["in_view"][2] == 3
}

impl<'a> Conversation<'a> {
    /// `environment` is what the replicas get in theirs, `NAME=value`.
    pub async fn begin(spaces: &'a Namespaces, name: &str, environment: &[&str]) -> Conversation<'a> {
        let place = |id| {
            let mut within = Namespaces::inside(&spaces.name(id));
            if !environment.is_empty() {
                within.extend(["env"].iter().chain(environment).map(|word| (*word).to_owned()));
            }
            (Namespaces::address(id), within)
        };
        let outside = Namespaces::inside(&spaces.outside());
        let trio = Trio::start(name, &[1, 2, 3].map(place), outside.clone()).await;
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
        let mut story = Conversation { spaces, trio, sessions, follower, lines, acknowledged: Vec::new() };
        story.say("hello").await;
        story
    }

    pub async fn leader(&self) -> u32 {
        let line = self.trio.until("one leads all", leads_all).await;
        line["id"].as_u64().expect("a number") as u32
    }

    pub async fn ada(&self, inside: &[String], servers: &str, arguments: &[&str]) -> Output {
        let mut command = command(inside, servers, &self.sessions);
        command.args(["--user", "ada", "--json"]).args(arguments);
        command.output().await.expect("chat runs")
    }

    /// A message is acknowledged and arrives. Returns how long each took.
    pub async fn say(&mut self, words: &str) -> (Duration, Duration) {
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

    pub fn told(&self, output: &Output) -> String {
        let folder = self.trio.folder.display();
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        format!("{}{}(data and logs are in {folder})", out, err)
    }

    /// Replica `id` is cut off from the others by `cut`, and joined again by `join`.
    pub async fn cut_off(
        &mut self,
        id: u32,
        what: &str,
        cut: impl Fn(&Namespaces, u32),
        join: impl Fn(&Namespaces, u32),
    ) {
        let within = Namespaces::inside(&self.spaces.name(id));
        let own = Namespaces::address(id).to_string();
        // A session is stored for this list of servers, so that reads need no login later.
        let login = self.ada(&within, &own, &["login"]).await;
        assert!(login.status.success(), "{}", self.told(&login));
        cut(self.spaces, id);
        let began = Instant::now();
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
        println!("{what} was cut off for {:?}, and answered nothing", began.elapsed());
        join(self.spaces, id);
        let joined = Instant::now();
        let committed = self.trio.until("it is taken back", leads_all).await["committed"].as_u64();
        let caught_up =
            |line: &Value| line["id"] == id && line["role"] == "backup" && line["applied"].as_u64() >= committed;
        self.trio.until("it has caught up", caught_up).await;
        println!("{what} was joined again and had caught up after {:?}", joined.elapsed());
        self.say(&format!("{what} is back")).await;
    }

    /// The history holds what was acknowledged, once, in order.
    pub async fn all_is_there(&self) {
        let history = self.ada(&self.trio.outside, &self.trio.servers(), &["history", "bob"]).await;
        assert!(history.status.success(), "{}", self.told(&history));
        let lines = String::from_utf8(history.stdout).expect("UTF-8");
        let messages = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let texts: Vec<_> = messages.map(|message: Value| text(&message).to_owned()).collect();
        let known: Vec<_> = texts.iter().filter(|text| !text.starts_with("into the void")).collect();
        assert!(known.into_iter().eq(&self.acknowledged), "{texts:?} for {:?}", self.acknowledged);
    }

    pub async fn end(mut self) {
        self.follower.kill().await.expect("it is ended");
        self.trio.passed();
    }
}

/// `chat`, somewhere.
pub fn command(inside: &[String], servers: &str, sessions: &tempfile::TempDir) -> Command {
    let program = [env!("CARGO_BIN_EXE_chat").to_owned()];
    let mut words = inside.iter().chain(&program);
    let mut command = Command::new(words.next().expect("at least the program"));
    command.args(words).args(["--servers", servers]).kill_on_drop(true);
    command.env("CHAT_STATE_DIR", sessions.path()).env("CHAT_PASSWORD", PASSWORD);
    command
}
