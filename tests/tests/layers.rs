//! The layers of docs/ARCHITECTURE.md hold: what must be pure is, and wire types stay where they belong.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// Lines of code, without comments, in which one of `words` stands as a path's first segment.
fn uses(files: &[PathBuf], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a source file");
        for (at, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| mentions(code, word)) {
                found.push(format!("{}:{}: {}", file.display(), at + 1, line.trim()));
            }
        }
    }
    found
}

fn mentions(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + word.len()..];
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
            && (after.starts_with("::") || after.starts_with(';'))
    })
}

#[test]
fn pure_code_has_no_io_clock_or_randomness() {
    let impure = [
        "tokio",
        "tonic",
        "rusqlite",
        "prost",
        "rand",
        "getrandom",
        "std::time",
        "std::net",
        "std::fs",
        "std::io",
        "std::thread",
        "std::sync::mpsc",
        "chat_proto",
    ];
    for dir in ["crates/chat-core/src", "crates/chat-replica/src/protocol"] {
        let files = sources(&root().join(dir));
        assert!(files.len() > 5, "{dir} has moved: this test looks at nothing");
        assert_eq!(uses(&files, &impure), [] as [&str; 0], "{dir} must stay pure");
    }
}

#[test]
fn wire_types_stay_in_rpc_and_transport() {
    let src = root().join("crates/chat-replica/src");
    let mut files = sources(&src);
    files.retain(|file| {
        let inside = file.strip_prefix(&src).expect("below src");
        // server asks peers for their cluster's id before a start, and its assembly plugs the generated services together.
        let server = [Path::new("server.rs"), Path::new("server/assembly.rs")];
        !inside.starts_with("rpc") && !inside.starts_with("transport") && !server.contains(&inside)
    });
    assert!(files.len() > 15, "the sources have moved: this test looks at nothing");
    assert_eq!(uses(&files, &["chat_proto", "prost", "tonic"]), [] as [&str; 0], "wire types must not spread");
}

#[test]
fn the_check_sees_what_it_should() {
    assert!(mentions("use tokio::sync::mpsc;", "tokio"));
    assert!(mentions("let now = std::time::Instant::now();", "std::time"));
    assert!(!mentions("use crate::tokio_like::x;", "tokio"));
    assert!(!mentions("use core::time::Duration;", "std::time"));
}
