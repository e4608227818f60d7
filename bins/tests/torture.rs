//! Every kind of fault once on real processes, with every named point on a message's way, and a judge of what clients saw. The run
//! itself is `chat-torture --tour`; `chat-torture --minutes 30` goes on for longer.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Decides what happens to whom; the last test run that failed says which it was.
fn seed() -> String {
    let seed = std::env::var("SEED").ok();
    seed.unwrap_or_else(|| (u64::from(std::process::id()) % 1000).to_string())
}

#[test]
fn nothing_is_lost_by_anything_that_happens_to_replicas() {
    let (folder, seed) =
        (Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-{}", std::process::id())), seed());
    println!("SEED={seed}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-torture"));
    command.args(["--tour", "--json", "--rate", "200", "--seed", &seed, "--keep"]).arg(&folder);
    let output = command.output().expect("chat-torture starts");
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let figures: Value =
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("no figures ({error}): {told}\n{wrong}"));
    let where_to_look = format!("seed {seed}; data, logs and the history are in {}\n{wrong}", folder.display());
    assert!(output.status.success() && figures["verdict"] == "PASS", "{}; {where_to_look}", figures["why"]);

    for (what, why) in figures["skipped"].as_object().expect("an object") {
        println!("skipped: {what}: {why}");
    }
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} is not a number; {where_to_look}"));
    let times = |title: &str| {
        let steps = figures["steps"].as_array().expect("an array");
        steps.iter().find(|step| step["step"] == title).map_or(0, |step| number(&step["times"]))
    };
    assert_eq!(times("kill -9 of all three in turn"), 6, "every order; {where_to_look}");
    for title in ["kill -9 of two at once", "SIGSTOP of one, less than 5 s", "SIGTERM", "no file handles"] {
        assert_eq!(times(title), 1, "{title}; {where_to_look}");
    }
    for (what, title) in [("full", "disk full"), ("clock", "wall clock jumps")] {
        assert!(times(title) > 0 || figures["skipped"][what].is_string(), "{title}; {where_to_look}");
    }
    let points = figures["points"].as_array().expect("an array");
    assert_eq!(points.len(), chat_replica::failpoint::Point::ALL.len(), "{points:?}; {where_to_look}");
    for point in points {
        assert!(number(&point["ended"]) > 0, "no process ended at {}; {where_to_look}", point["point"]);
    }
    assert!(
        number(&figures["acknowledged"]) > 0 && number(&figures["held"]) > 0,
        "nothing was judged; {where_to_look}"
    );
    println!("{} kill -9, {} starts, {} acknowledged", figures["kills"], figures["starts"], figures["acknowledged"]);
    std::fs::remove_dir_all(&folder).expect("the folder of a run that passed can be removed");
}
