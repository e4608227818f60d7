//! Everything, at the sizes that are quoted; or in a few minutes, to see whether something is badly wrong.

use clap::Args;

/// What the documents quote.
const QUOTED: &[&str] = &[
    "echo --clients 1,16,64,256 --secs 10",
    "sync --secs 10",
    "send --clients 1,16,64,256 --secs 10",
    "send --clients 64,256,1024 --handles 4 --secs 10",
    "deliver --secs 20",
    "failover --kills 20 --clients 16",
    "failover --kills 10 --clients 16 --silent",
    "failover --kills 20 --clients 16 --transfer",
    "idle --secs 30",
    "streams --streams 10000 --accounts 1000",
    "grow --messages 10000,10000000 --accounts 100,1000000 --clients 64 --secs 20",
    "read --messages 10000000 --accounts 1000000 --clients 1,64 --secs 10",
    "start --messages 10000000 --accounts 1000000 --away 60 --rate 5000",
];

/// The same kinds of measurement, seconds each.
const QUICK: &[&str] = &[
    "echo --clients 1,64 --secs 2",
    "sync --secs 1",
    "send --clients 1,64 --secs 2",
    "send --clients 64,256 --handles 4 --secs 2",
    "deliver --secs 3",
    "failover --kills 4 --clients 16",
    "failover --kills 2 --clients 16 --silent",
    "failover --kills 4 --clients 16 --transfer",
    "idle --secs 5",
    "streams --streams 2000 --accounts 200",
    "grow --messages 10000,100000 --accounts 100,10000 --clients 64 --secs 3",
    "read --messages 100000 --accounts 10000 --clients 1,64 --secs 2",
    "start --messages 100000 --accounts 10000 --away 5 --rate 5000",
];

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Smaller sizes, seconds instead of minutes
    #[arg(long)]
    quick: bool,
}

impl Flags {
    /// The command lines, one after the other.
    pub fn lines(&self) -> impl Iterator<Item = String> + use<> {
        let lines = if self.quick { QUICK } else { QUOTED };
        lines.iter().map(|line| (*line).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{What, parse};

    #[test]
    fn every_line_can_be_run() {
        for line in [true, false].into_iter().flat_map(|quick| Flags { quick }.lines()) {
            let what = parse(&line).expect("it is a command line");
            assert!(!matches!(what, What::All(_) | What::Compare(_)), "{line}");
        }
    }
}
