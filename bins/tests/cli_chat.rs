//! `chat` and `chatctl` as processes: exit codes, JSON keys, what is kept on disk and what is never shown. The service
//! is the scripted one of the client library's tests, in which there is one mailbox, and the password is
//! `correct horse`.

#[path = "../../crates/chat-client/tests/fake/mod.rs"]
mod fake;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use fake::{Cluster, Mood};
use serde_json::Value;

const PASSWORD: &str = "correct horse";

struct Shell {
    servers: String,
    state: tempfile::TempDir,
}

impl Shell {
    fn new(servers: impl Into<String>) -> Self {
        Self { servers: servers.into(), state: tempfile::tempdir().unwrap() }
    }

    fn of(cluster: &Cluster) -> Self {
        Self::new(cluster.addresses().join(","))
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for name in ["CHAT_PASSWORD", "CHAT_USER", "CHAT_TIMEOUT", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        command.env("CHAT_SERVERS", &self.servers).env("CHAT_STATE_DIR", self.state.path());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn chat(&self, arguments: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_chat"), arguments).output().unwrap()
    }

    fn chatctl(&self, arguments: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_chatctl"), arguments).output().unwrap()
    }

    /// With `input` on standard input.
    fn chat_reading(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_chat"), arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn log_in(&self, name: &str) {
        let output = self.chat_reading(&["--user", name, "--password-stdin", "login"], &format!("{PASSWORD}\n"));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    assert_eq!(code(output), 0, "{}", stderr(output));
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Refuses every connection: nothing listens on this address.
const NOBODY: &str = "127.213.7.9:9";

fn session_files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn wrong_usage_is_2() {
    let shell = Shell::new(NOBODY);
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["--timeout", "soon", "whoami"],
        &["send"],
        &["whoami"],
        &["--user", "ann", "whoami"],
        &["--user", "ann", "login"],
        &["--servers", "no-port", "--user", "ann", "whoami"],
        &["--servers", "", "--user", "ann", "whoami"],
        &["--user", "ann", "--password-stdin", "send", "bob", "-"],
        &["--user", "ann", "send", "bob", "hi", "--key", "not-a-key"],
    ];
    for arguments in cases {
        let output = shell.chat(arguments);
        assert_eq!((code(&output), stdout(&output)), (2, String::new()), "{arguments:?}: {}", stderr(&output));
        // Without a command it shows what there is; any other mistake is one sentence.
        let said = stderr(&output);
        assert!(
            arguments.is_empty() || said.starts_with("chat: ") && said.lines().count() == 1,
            "{arguments:?}: {said}"
        );
    }
    assert!(stderr(&shell.chat(&[])).contains("Usage: chat"));
    assert_eq!(code(&shell.chatctl(&[])), 2);
    assert_eq!(code(&shell.chatctl(&["declare-crashed", "three"])), 2);
    assert_eq!(code(&shell.chatctl(&["transfer", "three"])), 2);
    assert_eq!(code(&shell.chatctl(&["transfer"])), 2);
    assert_eq!(code(&shell.chat(&["--help"])), 0);
}

#[test]
fn no_leader_is_3_and_says_why_without_the_password() {
    let shell = Shell::new(NOBODY);
    for command in ["register", "login", "whoami", "inbox", "delete-account"] {
        let mut command = shell.command(env!("CARGO_BIN_EXE_chat"), &["--user", "ann", "--timeout", "200ms", command]);
        let output = command.env("CHAT_PASSWORD", PASSWORD).output().unwrap();
        assert_eq!((code(&output), stdout(&output)), (3, String::new()));
        let expected = format!("chat: no leader within the deadline ({NOBODY}: connection refused)\n");
        assert_eq!(stderr(&output), expected);
    }
    let status = shell.chatctl(&["status", "--json"]);
    assert_eq!(code(&status), 3);
    let line: Value = serde_json::from_str(&stdout(&status)).unwrap();
    assert_eq!((line["role"].as_str(), line["address"].as_str()), (Some("unreachable"), Some(NOBODY)));
    assert_eq!(code(&shell.chatctl(&["declare-crashed", "3"])), 3);
    let transfer = shell.chatctl(&["transfer", "3", "--json"]);
    assert_eq!((code(&transfer), stdout(&transfer)), (3, String::new()));
    assert_eq!(stderr(&transfer), format!("chatctl: no replica answered ({NOBODY}: connection refused)\n"));
}

#[tokio::test]
async fn a_refusal_is_1() {
    let cluster = Cluster::start(1).await;
    let shell = Shell::of(&cluster);
    let output = shell.chat_reading(&["--user", "ann", "--password-stdin", "login"], "wrong password\n");
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output), "chat: scripted: REASON_WRONG_CREDENTIALS\n");
    assert_eq!(session_files(shell.state.path()), 0);
    shell.log_in("ann");
    assert_eq!(code(&shell.chat(&["send", "nobody", "hello"])), 1);
    assert_eq!(code(&shell.chat(&["send", "bob", ""])), 1);
}

#[tokio::test]
async fn a_session_is_stored_used_and_closed() {
    let cluster = Cluster::start(3).await;
    let shell = Shell::of(&cluster);
    let mut register = shell.command(env!("CARGO_BIN_EXE_chat"), &["--user", "Ann", "--json", "register"]);
    let register = register.env("CHAT_PASSWORD", PASSWORD).output().unwrap();
    assert_eq!(keys(&objects(&register)[0]), ["created_at", "display_name", "name"]);
    shell.log_in("Ann");
    assert_eq!(session_files(shell.state.path()), 1);
    // Whose session it is needs no saying while it is the only one, nor does the order of the servers matter.
    let mut servers = cluster.addresses();
    servers.reverse();
    let whoami = objects(&shell.chat(&["--servers", &servers.join(","), "--json", "whoami"]));
    assert_eq!(whoami[0]["last"], 0);
    shell.log_in("bob");
    let ambiguous = shell.chat(&["whoami"]);
    assert_eq!(code(&ambiguous), 2);
    assert!(stderr(&ambiguous).contains("ann or bob"), "{}", stderr(&ambiguous));
    assert_eq!(code(&shell.chat(&["--user", "bob", "logout"])), 0);
    assert_eq!(code(&shell.chat(&["--user", "bob", "logout"])), 0);
    assert_eq!(session_files(shell.state.path()), 1);
    assert_eq!(code(&shell.chat(&["whoami"])), 0);
}

#[tokio::test]
async fn a_password_at_hand_logs_in_by_itself() {
    let cluster = Cluster::start(1).await;
    let shell = Shell::of(&cluster);
    let mut whoami = shell.command(env!("CARGO_BIN_EXE_chat"), &["--user", "ann", "whoami"]);
    let output = whoami.env("CHAT_PASSWORD", PASSWORD).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[tokio::test]
async fn lines_are_sent_in_order_and_received_once() {
    let cluster = Cluster::start(3).await;
    let shell = Shell::of(&cluster);
    shell.log_in("ann");
    let lines: Vec<_> = (0..2500).map(|number| format!("line {number}")).collect();
    let sent = objects(&shell.chat_reading(&["--json", "send", "Bob", "-"], &(lines.join("\n") + "\n")));
    assert_eq!(keys(&sent[0]), ["from", "id", "sent_at", "seq", "text", "to"]);
    assert_eq!((sent[0]["from"].as_str(), sent[0]["to"].as_str()), (Some("ann"), Some("bob")));
    assert!(sent.iter().map(|line| line["text"].as_str().unwrap()).eq(lines.iter().map(String::as_str)));
    let received = objects(&shell.chat(&["--json", "inbox"]));
    assert_eq!(keys(&received[0]), ["from", "id", "sent_at", "seq", "text", "to"]);
    assert!(received.iter().map(|line| line["text"].as_str().unwrap()).eq(lines.iter().map(String::as_str)));
    assert_eq!(cluster.state.log.lock().unwrap().delivered, 2500);
    assert_eq!(stdout(&shell.chat(&["inbox"])), "", "nothing is shown twice");
    let history = objects(&shell.chat(&["--json", "history", "bob", "--limit", "120"]));
    assert!(history.iter().map(|line| line["text"].as_str().unwrap()).eq(lines[2380..].iter().map(String::as_str)));
    assert_eq!(objects(&shell.chat(&["--json", "accounts"])).len(), 2500);
}

#[tokio::test]
async fn a_refused_line_stops_no_other() {
    let cluster = Cluster::start(1).await;
    let shell = Shell::of(&cluster);
    shell.log_in("ann");
    let output = shell.chat_reading(&["send", "bob"], "one\n\nthree\n");
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output), "chat: line 2: a message needs a text\n");
    assert_eq!(cluster.texts(), ["one", "three"]);
    let output = shell.chat_reading(&["send", "BOB", "-"], &format!("{}\nfive\n", "x".repeat(1 << 20)));
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output), "chat: line 1: a text may have 65536 bytes; this one has 1048576\n");
    assert!(stdout(&output).contains("to bob"), "{}", stdout(&output));
    assert_eq!(cluster.texts(), ["one", "three", "five"]);
}

#[tokio::test]
async fn a_follower_goes_on_through_a_failover_until_interrupted() {
    let cluster = Cluster::start(3).await;
    let shell = Shell::of(&cluster);
    shell.log_in("ann");
    assert_eq!(code(&shell.chat(&["send", "ann", "\u{1b}[2Jone"])), 0);
    let mut follower = shell.command(env!("CARGO_BIN_EXE_chat"), &["inbox", "--follow"]).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.ends_with(r": \u{1b}[2Jone"), "{first}");
    cluster.kill(1).await;
    cluster.lead(Some(3));
    assert_eq!(code(&shell.chat(&["send", "ann", "two"])), 0);
    assert!(lines.next().unwrap().unwrap().ends_with(": two"));
    let interrupt = Command::new("kill").args(["-INT", &follower.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_failure() {
    let cluster = Cluster::start(1).await;
    let shell = Shell::of(&cluster);
    shell.log_in("ann");
    let mut command = shell.command(env!("CARGO_BIN_EXE_chat"), &["accounts"]);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
}

#[tokio::test]
async fn an_unknown_outcome_names_the_key_to_ask_with() {
    let cluster = Cluster::start(1).await;
    let shell = Shell::of(&cluster);
    shell.log_in("ann");
    cluster.replica(1).mood.send_replace(Mood::SwallowsAnswers);
    let output = shell.chat(&["--timeout", "400ms", "send", "bob", "once"]);
    assert_eq!(code(&output), 3);
    let message = stderr(&output);
    let key = message.trim_end().rsplit(' ').next().unwrap();
    cluster.replica(1).mood.send_replace(Mood::Works);
    let again = shell.chat(&["send", "bob", "once", "--key", key]);
    assert!(stdout(&again).contains("had been sent before"), "{} {}", stdout(&again), stderr(&again));
    assert_eq!(cluster.texts(), ["once"]);
}

#[tokio::test]
async fn deleting_wants_the_password_and_forgets_the_session() {
    let cluster = Cluster::start(1).await;
    let shell = Shell::of(&cluster);
    shell.log_in("ann");
    assert_eq!(code(&shell.chat(&["delete-account"])), 2);
    let deleted = objects(&shell.chat_reading(&["--password-stdin", "--json", "delete-account"], PASSWORD));
    assert_eq!((deleted[0]["name"].as_str(), deleted[0]["discarded"].as_u64()), (Some("ann"), Some(3)));
    assert_eq!(session_files(shell.state.path()), 0);
}

#[tokio::test]
async fn operators_see_every_replica() {
    let cluster = Cluster::start(3).await;
    let shell = Shell::of(&cluster);
    cluster.kill(3).await;
    let lines = objects(&shell.chatctl(&["status", "--json"]));
    let expected = [
        "address",
        "applied",
        "committed",
        "epoch",
        "id",
        "in_view",
        "incarnation",
        "leader",
        "leases_from",
        "role",
        "waiting_for",
    ];
    assert_eq!(keys(&lines[0]), expected);
    let roles: Vec<_> = lines.iter().map(|line| line["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["primary", "backup", "unreachable"]);
    let table = stdout(&shell.chatctl(&["status"]));
    assert_eq!(table.lines().count(), 4, "{table}");
    let alive = shell.chatctl(&["declare-crashed", "2"]);
    assert_eq!((code(&alive), stdout(&alive)), (1, String::new()));
    assert!(stderr(&alive).contains("this is replica 2, and it answers"), "{}", stderr(&alive));
    let declared = shell.chatctl(&["declare-crashed", "3"]);
    assert_eq!(code(&declared), 0);
    assert!(stdout(&declared).contains("takes start 4 of replica 3 for crashed"));
    assert!(stderr(&declared).contains("in contact with 3"));
}

#[tokio::test]
async fn a_transfer_that_comes_out_otherwise_is_1() {
    let cluster = Cluster::start(4).await;
    let shell = Shell::of(&cluster);
    // In this service, 1, 2 and 3 are the view.
    let outside = shell.chatctl(&["transfer", "4"]);
    assert_eq!((code(&outside), stdout(&outside)), (1, String::new()));
    assert_eq!(stderr(&outside), "chatctl: replica 4 (backup) cannot take over: it is not in the view (1,2,3)\n");
    cluster.replica(1).mood.send_replace(Mood::HandsToAnother);
    let elsewhere = shell.chatctl(&["transfer", "3", "--json"]);
    assert_eq!((code(&elsewhere), stdout(&elsewhere)), (1, String::new()));
    let expected = "replica 1 was asked to hand over to replica 3, but now replica 2 leads";
    assert!(stderr(&elsewhere).contains(expected), "{}", stderr(&elsewhere));
    cluster.lead(None);
    let nobody = shell.chatctl(&["--timeout", "200ms", "transfer", "3"]);
    assert_eq!((code(&nobody), stdout(&nobody)), (3, String::new()));
    assert!(stderr(&nobody).contains("no leader within the deadline"), "{}", stderr(&nobody));
}
