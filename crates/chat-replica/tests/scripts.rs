//! Scripts that show the protocol step by step: `scripts/*.txt` drive the production state machine, and what it does must be
//! what they say. `UPDATE=1 cargo test -p chat-replica --test scripts` writes what it does into them, and docs/scripts.md anew.

#![forbid(unsafe_code)]

mod scripts_harness;

use scripts_harness::file::{run, sentence};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The tests read and write the same files.
static FILES: Mutex<()> = Mutex::new(());

/// Above this line of docs/scripts.md people write, below it this test does.
const LIST: &str = "## The scripts\n";

fn updating() -> bool {
    std::env::var_os("UPDATE").is_some_and(|value| value == "1")
}

/// Name and text of every script, in order.
fn scripts() -> Vec<(PathBuf, String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "txt"));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, name, text)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_script_does_what_it_says() {
    let _alone = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let scripts = scripts();
    let found = scripts.len();
    let mut failures = Vec::new();
    for (path, name, text) in scripts {
        let ran = run(&name, &text);
        if updating() && !ran.broken {
            fs::write(&path, &ran.updated).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        } else if let Some(failure) = ran.failure {
            failures.push(failure);
        } else {
            assert_eq!(ran.updated, text, "{name}: spaces at the end of a line, or no end of the last one");
        }
    }
    assert!(failures.is_empty(), "\n{}\n(- expected, + got; UPDATE=1 writes what was got)", failures.join("\n"));
    assert!(found >= 30, "the scripts have moved: only {found} are found");
}

#[test]
fn the_index_has_every_script() {
    let _alone = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut list = String::from(LIST);
    for (_, name, text) in scripts() {
        let sentence =
            sentence(&text).unwrap_or_else(|| panic!("{name} does not begin with a sentence that says what it shows"));
        list += &format!("\n- [{name}](../crates/chat-replica/tests/scripts/{name}): {sentence}");
    }
    list += "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scripts.md");
    let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let at = page.find(LIST).unwrap_or_else(|| panic!("{} has no list of scripts", path.display()));
    if updating() {
        fs::write(&path, format!("{}{list}", &page[..at]))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    } else {
        assert_eq!(page[at..], list, "docs/scripts.md is behind: UPDATE=1 writes its list");
    }
}

/// A fencing command switches off whoever is suspected.
#[test]
fn nobody_is_suspected_after_a_restart_or_in_a_handing_over() {
    let suspicions = |script: &str| {
        let ran = run("suspicion.txt", script);
        assert!(!ran.broken, "{:?}", ran.failure);
        ran.updated.lines().filter(|line| line.contains("suspects")).map(str::to_string).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(suspicions("founded 3\nkill 2\nstart 2\nwait 1s\n"), none, "the primary serves, a backup was restarted");
    assert_eq!(suspicions("founded 1\nkill 1\nstart 1\nwait 1s\n"), none, "its predecessor is on its own host");
    assert_eq!(suspicions("founded 3\ntransfer 1 3\nwait 1s\n"), none, "the primary hands over, and lives");
    assert_eq!(suspicions("founded 3\nleave 1\nwait 1s\n"), none, "the primary hands over, and leaves");
    let silent = suspicions("founded 3\ncut 1-2 1-3\nwait 1s\n");
    assert_eq!(silent, ["    2: suspects 1", "    3: suspects 1"], "the primary is silent");
}

#[test]
fn a_script_that_expects_something_else_fails_with_its_line() {
    let text = "# A pair is founded, by its lowest id.\nfounded 2\n    1: primary, serves\n";
    let failure = run("wrong.txt", text).failure.expect("it expects something else");
    assert!(
        failure.starts_with("wrong.txt, line 2: founded 2\n    - 1: primary, serves\n    + 1: primary"),
        "{failure}"
    );
    let updated = run("wrong.txt", text).updated;
    assert!(run("right.txt", &updated).failure.is_none(), "what was written is right");
}

#[test]
fn a_script_that_cannot_be_carried_out_is_not_rewritten() {
    for (text, why) in [
        ("founded 2\npropse 1 \"a\"\n", "propse is not a command"),
        ("founded 2\nrefuse 2 1 x3\n", "host 1 does not refuse"),
        ("founded 2\nkill 1\nrefuse 2 1\nfence 2 3\n", "no view names it"),
        ("    printed by nobody\n", "nothing was commanded"),
    ] {
        let ran = run("broken.txt", text);
        assert!(ran.broken, "{text}");
        assert!(ran.failure.as_ref().is_some_and(|failure| failure.contains(why)), "{:?}", ran.failure);
    }
}
