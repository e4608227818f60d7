//! What somebody asks of the demonstration while it runs: single keys on a terminal, lines everywhere.

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

/// A key that could begin a line stands for itself if nothing follows it for so long.
const PAUSE: Duration = Duration::from_millis(600);
/// More than any command has.
const LONGEST: usize = 64;

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Kill(u32),
    Start(u32),
    Stop(u32),
    Pause(u32),
    Resume(u32),
    /// Kill it if it runs, else start it.
    Toggle(u32),
    Status,
    Quit,
    /// Not understood.
    What(String),
}

impl Order {
    /// `None` for an empty line.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let id = |text: &str| text.parse::<u32>().ok();
        let order = match *words.as_slice() {
            [] => return None,
            ["status" | "s"] => Some(Self::Status),
            ["quit" | "q" | "exit"] => Some(Self::Quit),
            [number] => id(number).map(Self::Toggle),
            ["kill", number] => id(number).map(Self::Kill),
            ["start", number] => id(number).map(Self::Start),
            ["stop", number] => id(number).map(Self::Stop),
            ["pause", number] => id(number).map(Self::Pause),
            ["resume", number] => id(number).map(Self::Resume),
            _ => None,
        };
        Some(order.unwrap_or_else(|| Self::What(line.trim().to_owned())))
    }

    /// Whether this key needs no Enter when it is the first of a line.
    fn of_key(key: u8) -> Option<Self> {
        match key {
            b'1'..=b'9' => Some(Self::Toggle(u32::from(key - b'0'))),
            b'q' => Some(Self::Quit),
            _ => None,
        }
    }
}

/// Standard input, whatever it is.
pub(super) struct Keyboard {
    input: tokio::io::Stdin,
    /// How the terminal was, if it is one. Put back when this is dropped.
    terminal: Option<Termios>,
    typed: String,
    /// When what was typed stands for itself.
    decided: Option<Instant>,
    over: bool,
}

impl Keyboard {
    /// A terminal gives keys from now on, and shows nothing by itself.
    pub fn open() -> Self {
        let terminal = std::io::stdin().is_terminal().then(|| tcgetattr(std::io::stdin()).ok()).flatten();
        let terminal = terminal.filter(|before| {
            let mut now = before.clone();
            // Signals stay: Ctrl-C is Ctrl-C.
            now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            now.special_codes[SpecialCodeIndex::VMIN] = 1;
            now.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(std::io::stdin(), OptionalActions::Now, &now).is_ok()
        });
        Self { input: tokio::io::stdin(), terminal, typed: String::new(), decided: None, over: false }
    }

    /// The line that is being typed on a terminal.
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// The next order. `None`: a key was pressed that is none by itself, so [`typed`](Self::typed) has changed. Never
    /// returns once the input has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Order> {
        if self.over {
            return std::future::pending().await;
        }
        let mut key = [0];
        let read = match self.decided {
            None => self.input.read(&mut key).await,
            Some(decided) => match timeout_at(decided, self.input.read(&mut key)).await {
                Ok(read) => read,
                Err(_) => {
                    self.decided = None;
                    return Order::parse(&std::mem::take(&mut self.typed));
                }
            },
        };
        match read {
            Ok(1) => {
                let order = self.take(key[0]);
                // `s` is the status, unless it goes on as a word.
                let undecided = self.terminal.is_some() && self.typed == "s";
                self.decided = undecided.then(|| Instant::now() + PAUSE);
                order
            }
            _ => {
                self.over = true;
                Order::parse(&std::mem::take(&mut self.typed))
            }
        }
    }

    fn take(&mut self, key: u8) -> Option<Order> {
        match key {
            b'\n' | b'\r' => Order::parse(&std::mem::take(&mut self.typed)),
            8 | 127 => {
                self.typed.pop();
                None
            }
            _ if self.terminal.is_some() && self.typed.is_empty() && Order::of_key(key).is_some() => Order::of_key(key),
            b' '..=b'~' if self.typed.len() < LONGEST => {
                self.typed.push(char::from(key));
                None
            }
            _ => None,
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(before) = &self.terminal {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_orders() {
        assert_eq!(Order::parse(" kill 2 "), Some(Order::Kill(2)));
        assert_eq!(Order::parse("2"), Some(Order::Toggle(2)));
        assert_eq!(Order::parse("status"), Some(Order::Status));
        assert_eq!(Order::parse("  "), None);
        for nonsense in ["kill", "kill x", "kill 1 2", "fly"] {
            assert_eq!(Order::parse(nonsense), Some(Order::What(nonsense.to_owned())));
        }
    }
}
