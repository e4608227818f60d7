//! What one command prints. A message that comes again in the same words is counted where it came first.

use std::collections::{BTreeSet, HashMap};

/// Messages that would drown the others: greetings, and the pings that ask for leases.
const HIDDEN: [&str; 4] = ["hello", "ping", "pong", "known"];

#[derive(Debug, Default)]
struct Line {
    text: String,
    times: u32,
}

/// How a command may be told to print less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quiet {
    /// `quietly`: neither messages nor details.
    Quietly,
    /// `silently`: nothing.
    Silently,
}

impl Quiet {
    pub fn of(word: &str) -> Option<Quiet> {
        match word {
            "quietly" => Some(Quiet::Quietly),
            "silently" => Some(Quiet::Silently),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Output {
    lines: Vec<Line>,
    /// Where each message was printed.
    printed: HashMap<String, usize>,
    hidden: BTreeSet<String>,
    quiet: Option<Quiet>,
    /// How long the command has waited, and whether that was said.
    waited: Option<(u64, bool)>,
}

impl Output {
    pub fn new() -> Output {
        Output {
            lines: Vec::new(),
            printed: HashMap::new(),
            hidden: HIDDEN.iter().map(|kind| kind.to_string()).collect(),
            quiet: None,
            waited: None,
        }
    }

    /// A command begins.
    pub fn begin(&mut self, quiet: Option<Quiet>) {
        *self = Output { hidden: std::mem::take(&mut self.hidden), quiet, ..Output::new() };
    }

    /// Everything that the command printed.
    pub fn take(&mut self) -> Vec<String> {
        let lines = std::mem::take(&mut self.lines);
        let print = |line: Line| match line.times {
            0 | 1 => line.text,
            times => format!("{} ×{times}", line.text),
        };
        lines.into_iter().map(print).collect()
    }

    pub fn watch(&mut self, kind: &str, shown: bool) {
        if shown {
            self.hidden.remove(kind);
        } else {
            self.hidden.insert(kind.to_string());
        }
    }

    pub fn shows(&self, kind: &str) -> bool {
        !self.hidden.contains(kind)
    }

    /// So many microseconds of the command's wait have passed.
    pub fn waited(&mut self, micros: u64) {
        if self.waited.is_none_or(|(before, _)| before != micros) {
            self.waited = Some((micros, false));
        }
    }

    /// A change of state.
    pub fn say(&mut self, text: impl Into<String>) {
        if self.quiet == Some(Quiet::Silently) {
            return;
        }
        if let Some((micros, said @ false)) = &mut self.waited {
            *said = true;
            let text = format!("after {}:", duration(*micros));
            self.lines.push(Line { text, times: 1 });
        }
        self.lines.push(Line { text: text.into(), times: 1 });
    }

    /// A change of state that quiet commands leave out.
    pub fn detail(&mut self, text: String) {
        if self.quiet.is_none() {
            self.say(text);
        }
    }

    /// A message.
    pub fn message(&mut self, kind: &str, text: String) {
        if self.quiet.is_some() || !self.shows(kind) {
            return;
        }
        if let Some(at) = self.printed.get(&text) {
            self.lines[*at].times += 1;
            return;
        }
        self.say(text.clone());
        self.printed.insert(text, self.lines.len() - 1);
    }
}

/// Microseconds in words: whole milliseconds where they are.
pub fn duration(micros: u64) -> String {
    if micros.is_multiple_of(1000) {
        format!("{} ms", micros / 1000)
    } else {
        format!("{:.1} ms", micros as f64 / 1000.0)
    }
}
