//! Runs a script of `chat-demo`, as a person would.

use std::path::Path;
use std::process::Command;

/// Runs `chat-demo` with these arguments, after `through`, and demands that it passes. Data and logs of a run that did not are kept.
pub fn passes(name: &str, through: &[&str], arguments: &[&str]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let program = [env!("CARGO_BIN_EXE_chat-demo")];
    let mut words = through.iter().chain(&program);
    let mut command = Command::new(words.next().expect("at least the program"));
    command.args(words).args(arguments).arg("--data").arg(&folder);
    let output = command.output().expect("chat-demo starts");
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    let verdict = told.lines().last().unwrap_or_default();
    assert!(
        output.status.success() && verdict.starts_with("PASS"),
        "{name} ended with {}: {verdict}\n{wrong}\ndata and logs of the replicas are kept in {}",
        output.status,
        folder.display()
    );
    std::fs::remove_dir_all(&folder).expect("the folder of a script that passed can be removed");
}
