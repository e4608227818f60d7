//! A script as a file: comments, commands, and under each command what it prints, indented.

use super::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};

const INDENT: &str = "    ";

/// A command, and what is expected of it.
#[derive(Debug)]
struct Command<'t> {
    /// From 1.
    line: usize,
    text: &'t str,
    expected: Vec<&'t str>,
}

#[derive(Debug)]
enum Part<'t> {
    /// A comment or an empty line.
    Verbatim(&'t str),
    Command(Command<'t>),
}

/// What came of a script.
#[derive(Debug)]
pub struct Ran {
    /// The file with what its commands print.
    pub updated: String,
    /// The first command that did not print what was expected, or failed.
    pub failure: Option<String>,
    /// The script could not be carried out to its end: nothing of it is to be kept.
    pub broken: bool,
}

fn parse(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    for (at, line) in text.lines().enumerate() {
        match line.strip_prefix(INDENT) {
            Some(printed) => match parts.last_mut() {
                Some(Part::Command(command)) => command.expected.push(printed),
                _ => return Err(format!("line {}: nothing was commanded that could print this", at + 1)),
            },
            None if line.starts_with('#') || line.trim().is_empty() => parts.push(Part::Verbatim(line)),
            None => parts.push(Part::Command(Command { line: at + 1, text: line, expected: Vec::new() })),
        }
    }
    Ok(parts)
}

/// Runs a script. `name` is for its reader.
pub fn run(name: &str, text: &str) -> Ran {
    let parts = match parse(text) {
        Ok(parts) => parts,
        Err(why) => return Ran { updated: text.into(), failure: Some(format!("{name}, {why}")), broken: true },
    };
    let mut world = World::new();
    let mut ran = Ran { updated: String::new(), failure: None, broken: false };
    for part in parts {
        let command = match part {
            Part::Verbatim(line) => {
                ran.updated += &format!("{line}\n");
                continue;
            }
            Part::Command(command) => command,
        };
        let done = catch_unwind(AssertUnwindSafe(|| world.run(command.text)))
            .unwrap_or_else(|panic| Err(format!("panicked: {}", words_of(&*panic))));
        let got = world.out.take();
        ran.updated += &format!("{}\n", command.text);
        got.iter().for_each(|line| ran.updated += &format!("{INDENT}{line}\n"));
        let at = format!("{name}, line {}: {}", command.line, command.text);
        if let Err(why) = done {
            ran.failure = Some(format!("{at}\n  cannot be carried out: {why}\n  it printed\n{}", indented(&got)));
            ran.broken = true;
            return ran;
        }
        if got != command.expected && ran.failure.is_none() {
            ran.failure = Some(format!("{at}\n{}", difference(&command.expected, &got)));
        }
    }
    ran
}

fn words_of(panic: &dyn std::any::Any) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("    {line}\n")).collect()
}

/// What was expected (-) and what came (+), without what is the same at both ends.
fn difference(expected: &[&str], got: &[String]) -> String {
    let same = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let (expected_left, got_left) = (&expected[same..], &got[same..]);
    let after = expected_left.iter().rev().zip(got_left.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for line in &expected[same.saturating_sub(2)..same] {
        text += &format!("      {line}\n");
    }
    for line in &expected_left[..expected_left.len() - after] {
        text += &format!("    - {line}\n");
    }
    for line in &got_left[..got_left.len() - after] {
        text += &format!("    + {line}\n");
    }
    for line in got_left[got_left.len() - after..].iter().take(2) {
        text += &format!("      {line}\n");
    }
    text
}

/// The sentence that a script begins with, if it does: its first comment, up to an empty line or a command.
pub fn sentence(text: &str) -> Option<String> {
    let comment = text.lines().map_while(|line| line.strip_prefix("# "));
    let joined = comment.collect::<Vec<_>>().join(" ");
    let end = joined.find(". ").map_or(joined.len(), |at| at + 1);
    Some(joined[..end].to_string()).filter(|sentence| sentence.ends_with('.') && sentence.len() > 20)
}
