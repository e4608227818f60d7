//! Whether a send costs more where there is much already.

use super::fill::Size;
use super::load::positive;
use super::people::some_of;
use super::report::{Line, Report};
use super::send;
use super::stage::Stage;
use crate::processes::Broken;
use clap::Args;
use std::collections::HashSet;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// So many messages are there already, each time
    #[arg(long, value_delimiter = ',', default_value = "10000,10000000", value_parser = positive, value_name = "N,…")]
    messages: Vec<usize>,
    /// And so many accounts, with a session each
    #[arg(long, value_delimiter = ',', default_value = "100,1000000", value_parser = positive, value_name = "N,…")]
    accounts: Vec<usize>,
    /// So many clients send: to each other, and then to anybody
    #[arg(long, default_value_t = 64, value_parser = positive, value_name = "N")]
    clients: usize,
    /// For so many seconds each
    #[arg(long, default_value_t = 5, value_parser = positive, value_name = "S")]
    secs: usize,
}

impl Flags {
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        if self.messages.len() != self.accounts.len() {
            return Err("--messages and --accounts need as many numbers as each other".to_owned());
        }
        let sizes: HashSet<_> = self.messages.iter().zip(&self.accounts).collect();
        if sizes.len() < self.messages.len() {
            return Err("--messages and --accounts have a size twice".to_owned());
        }
        Ok(())
    }
}

/// All sizes are there at the same time, and are measured in turns, each when all are quiet: a machine that others share does not stay as fast as it was for
/// minutes.
pub(super) async fn run(stage: &Stage, report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    let mut sizes = Vec::new();
    for (&messages, &accounts) in flags.messages.iter().zip(&flags.accounts) {
        let (mut stage, size) = (stage.beside()?, Size { messages, accounts });
        let crowd = stage.filled(&size).await?;
        sizes.push((stage, crowd, size));
    }
    let count = sizes.len();
    for name in ["grow-few", "grow-anybody"] {
        let mut senders = Vec::new();
        for (stage, crowd, _) in &sizes {
            let people = some_of(stage, crowd, flags.clients, name == "grow-anybody").await?;
            send::load(&people, 1, send::WARM_UP).await?;
            senders.push(people);
        }
        let once = async |which: usize| {
            for (stage, ..) in &mut sizes {
                stage.quiet().await?;
            }
            let (stage, _, size) = &sizes[which];
            let line = send::once(stage, name, &senders[which], 1, flags.secs).await?;
            Ok(line.with("messages", size.messages as f64).with("accounts", size.accounts as f64))
        };
        if let [first, .., last] = report.in_turns(count, once).await?.as_slice() {
            report.follows(&ratios(first, last));
        }
    }
    for (mut stage, ..) in sizes {
        stage.down().await?;
    }
    Ok(())
}

/// How many times the first each figure of the last is.
fn ratios(first: &Line, last: &Line) -> Line {
    let median = |line: &Line| line.times_ms.map(|[p50, ..]| p50);
    let figures = [
        ("cpu_ratio", last.cpu_per_1000, first.cpu_per_1000),
        ("acks_ratio", last.per_second, first.per_second),
        ("p50_ratio", median(last), median(first)),
        ("disk_bytes_ratio", last.get("disk_bytes_per_message"), first.get("disk_bytes_per_message")),
        ("resident_ratio", last.get("resident_mib"), first.get("resident_mib")),
    ];
    let known = figures.into_iter().filter_map(|(name, last, first)| Some((name, last? / first.filter(|n| *n > 0.0)?)));
    let name = if first.name == "grow-few" { "grow-few-ratio" } else { "grow-anybody-ratio" };
    Line { name, clients: last.clients, more: known.collect(), ..Line::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_last_to_first_and_only_of_what_is_known() {
        let line = |cpu, disk| Line { cpu_per_1000: cpu, ..Line::new("grow", 64).with("disk_bytes_per_message", disk) };
        let ratios = ratios(&line(Some(0.1), 0.0), &line(Some(0.25), 8.0));
        assert_eq!((ratios.get("cpu_ratio"), ratios.get("disk_bytes_ratio")), (Some(2.5), None));
        assert_eq!((ratios.get("acks_ratio"), ratios.clients), (None, Some(64)));
    }
}
