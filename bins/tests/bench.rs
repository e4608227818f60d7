//! `chat-bench` from outside: what it prints is measured on real replicas, and a base that it saved is compared with.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn bench(arguments: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_chat-bench");
    Command::new(program).args(arguments.split_whitespace()).output().expect("it can be started")
}

/// What a measurement that succeeds prints.
fn measured(arguments: &str) -> (String, Vec<Value>) {
    let output = bench(&format!("{arguments} --json"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {said}");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect();
    (text, lines)
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {line}"))
}

fn is_sound(line: &Value) {
    let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|name| number(line, name));
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{line}");
    assert!(number(line, "acks_per_s") > 0.0 && number(line, "server_cpu_s_per_1000") > 0.0, "{line}");
}

#[test]
fn sends_are_measured_as_often_as_asked_for() {
    // Not in a temporary directory, which may be in memory: then nothing would be written to a disk.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let data = folder.path().display();
    let (_, lines) = measured(&format!("send --clients 4 --handles 2 --secs 1 --runs 2 --data {data}"));
    let runs: Vec<&Value> = lines.iter().map(|line| &line["run"]).collect();
    assert_eq!(runs, [&Value::from(1), &Value::from(2), &Value::from("median")]);
    for line in &lines {
        is_sound(line);
        assert_eq!((&line["name"], &line["clients"]), (&"send".into(), &4.into()));
        // On every replica the log has at least the text.
        assert!(number(line, "disk_bytes_per_message") > 128.0, "{line}");
    }
}

#[test]
fn deliveries_are_measured_in_an_open_loop() {
    let (_, lines) = measured("deliver --senders 2 --receivers 3 --rate 50 --secs 2");
    assert_eq!(lines.len(), 1);
    is_sound(&lines[0]);
    assert!((40.0..60.0).contains(&number(&lines[0], "acks_per_s")), "{}", lines[0]);
}

#[test]
fn a_filled_cluster_has_full_pages() {
    let (_, lines) = measured("read --messages 600 --accounts 30 --clients 2 --secs 1");
    let names: Vec<&Value> = lines.iter().map(|line| &line["name"]).collect();
    assert_eq!(names, ["read-history", "read-history-anywhere", "read-accounts"]);
    lines.iter().for_each(is_sound);
}

#[test]
fn what_a_long_answer_costs_is_another_yardstick() {
    let (_, lines) = measured("echo --clients 1 --secs 1 --answer 20000");
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(line["name"], "echo-answer");
    is_sound(line);
}

#[test]
fn a_planned_change_of_the_leader_is_measured() {
    let (_, lines) = measured("failover --kills 2 --clients 4 --transfer");
    assert_eq!((&lines[0]["name"], number(&lines[0], "kills")), (&"failover-transfer".into(), 2.0));
    assert!(number(&lines[0], "max_ms") > 0.0);
}

#[test]
fn what_got_worse_since_a_saved_run_is_told_by_the_exit_code() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let save = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let compare = |path: &Path, threshold: &str| bench(&format!("compare {} --threshold {threshold}", path.display()));
    let (echo, _) = measured("echo --clients 1 --secs 1");
    let (sends, lines) = measured("send --clients 1 --secs 1");

    let same = compare(&save("same", &(echo.clone() + &sends)), "1000000");
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stderr));

    let mut faster = lines[0].clone();
    faster["acks_per_s"] = (number(&lines[0], "acks_per_s") * 1000.0).into();
    let worse = compare(&save("faster", &format!("{echo}{faster}\n")), "90");
    assert_eq!(worse.status.code(), Some(1));
    let (said, told) = (String::from_utf8_lossy(&worse.stderr), String::from_utf8_lossy(&worse.stdout));
    assert!(said.contains("1 of 1 measurements got worse") && told.contains("WORSE"), "{said}{told}");

    let wrong = compare(&save("wrong", "{\"args\": \"frobnicate\"}\n"), "15");
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn command_lines_that_make_no_sense_are_refused_in_one_sentence() {
    for (arguments, names) in [
        ("send --clients 3 --handles 2", "3 callers cannot share 2 clients"),
        ("send --clients 0", "at least 1"),
        ("streams --streams 1000 --accounts 2", "64 streams"),
        ("grow --messages 1,2 --accounts 3", "as many numbers"),
        ("grow --messages 1,1 --accounts 3,3", "a size twice"),
        ("failover --silent --transfer", "--transfer"),
        ("idle --servers 127.0.0.1:1", "leave --servers out"),
        ("compare /nonexistent/base.jsonl", "/nonexistent/base.jsonl"),
    ] {
        let output = bench(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(names) && said.lines().count() == 1, "{arguments}: {said}");
    }
}
