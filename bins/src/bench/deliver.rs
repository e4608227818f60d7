//! From the start of a send until the recipient's live stream has it.

use super::figures::Times;
use super::load::{closed_loop, positive};
use super::pace::{REACHED, paced};
use super::people::{Person, people};
use super::report::{Line, Report};
use super::send::{PAYLOAD, WARM_UP};
use super::stage::Stage;
use crate::processes::Broken;
use clap::Args;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Receivers share so many clients at most: a connection carries hundreds of streams.
const RECEIVING_CLIENTS: usize = 8;
/// Longer than anything that was sent should take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// So many senders
    #[arg(long, value_parser = positive, value_name = "N")]
    senders: Option<usize>,
    /// So many receivers, each with a live stream
    #[arg(long, value_parser = positive, value_name = "R")]
    receivers: Option<usize>,
    /// So many sends per second, whether or not they are answered, counted from when they were due. Without: each sender sends when its last
    /// message has been acknowledged
    #[arg(long, value_parser = positive, value_name = "X")]
    rate: Option<usize>,
    /// For so many seconds each
    #[arg(long, default_value_t = 5, value_parser = positive, value_name = "S")]
    secs: usize,
}

#[derive(Clone, Copy, Debug)]
struct Load {
    senders: usize,
    receivers: usize,
    rate: Option<usize>,
}

pub(super) async fn run(stage: &mut Stage, report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    stage.up().await?;
    let Flags { senders, receivers, rate, secs } = *flags;
    let loads = if senders.is_none() && receivers.is_none() && rate.is_none() {
        vec![Load { senders: 1, receivers: 1, rate: None }, Load { senders: 64, receivers: 1000, rate: Some(5000) }]
    } else {
        vec![Load { senders: senders.unwrap_or(1), receivers: receivers.unwrap_or(1), rate }]
    };
    for load in loads {
        let senders = people(stage, load.senders, load.senders).await?;
        let receivers = people(stage, load.receivers, RECEIVING_CLIENTS).await?;
        let time = Duration::from_secs(secs as u64);
        let once = async || {
            let cpu = || stage.own().map(|cluster| cluster.cpu_seconds());
            measure(&senders, &receivers, load.rate, time, &cpu).await
        };
        report.measure(once).await?;
    }
    Ok(())
}

async fn measure(
    senders: &[Person],
    receivers: &[Person],
    rate: Option<usize>,
    time: Duration,
    cpu: &dyn Fn() -> Option<f64>,
) -> Result<Line, Broken> {
    let mail = Mail::new(receivers);
    let mut streams = Streams::open(receivers, &mail).await?;
    streams.all_live(&senders[0], &mail).await?;
    let names = mail.names.clone();
    let name = if rate.is_some() { "deliver-paced" } else { "deliver" };
    let line = Line::new(name, senders.len()).with("receivers", receivers.len() as f64);
    if rate.is_none() {
        mail.closed(senders, WARM_UP).await?;
        streams.take(mail.sent()).await?;
    }
    let (cpu_before, sent_before, began) = (cpu(), mail.sent(), Instant::now());
    let sent = match rate {
        None => {
            mail.closed(senders, time).await?;
            mail.sent() - sent_before
        }
        Some(rate) => {
            let begin = mail.begin;
            let to = move |number: u64| names[number as usize % names.len()].clone();
            let message = move |number: u64, at: Instant| (to(number), stamped(at.duration_since(begin)));
            paced(senders, rate, time, message).await?.acknowledged
        }
    };
    let times = Times::of(streams.take(sent).await?);
    let per_second = times.count() as f64 / began.elapsed().as_secs_f64();
    let used = cpu().zip(cpu_before).map(|(after, before)| after - before);
    let cpu_per_1000 = used.map(|used| used / times.count().max(1) as f64 * 1000.0);
    let line = Line { per_second: Some(per_second), cpu_per_1000, ..line.timed(&times) };
    let Some(rate) = rate else { return Ok(line) };
    let line = line.with("asked_per_s", rate as f64);
    let reached = per_second >= rate as f64 * REACHED;
    Ok(if reached { line } else { line.noted(format!("{rate} per second were not reached")) })
}

/// What is sent carries when that began: the time since a common instant.
#[derive(Clone, Debug)]
struct Mail {
    begin: Instant,
    names: Arc<[String]>,
    sent: Arc<AtomicU64>,
}

impl Mail {
    fn new(receivers: &[Person]) -> Mail {
        let names = receivers.iter().map(|person| person.name.clone()).collect();
        Mail { begin: Instant::now(), names, sent: Arc::default() }
    }

    /// How many were acknowledged in closed loops.
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    async fn closed(&self, senders: &[Person], time: Duration) -> Result<(), Broken> {
        let callers = senders.iter().cloned().enumerate().map(|(place, person)| {
            let (mail, mut turn) = (self.clone(), place);
            move || {
                let (mail, session) = (mail.clone(), person.session.clone());
                let to = mail.names[turn % mail.names.len()].clone();
                turn += 1;
                async move {
                    session.send(&to, &stamped(mail.begin.elapsed())).await?;
                    mail.sent.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
            }
        });
        closed_loop(callers, time).await.map(drop)
    }
}

/// A text that says when it was sent, in nanoseconds.
fn stamped(sent: Duration) -> String {
    format!("{:0width$}", sent.as_nanos(), width = PAYLOAD)
}

fn stamp(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_nanos)
}

/// Everybody's live streams, and what they bring.
struct Streams {
    arrivals: mpsc::UnboundedReceiver<Result<Duration, Broken>>,
    _tasks: JoinSet<()>,
}

impl Streams {
    /// Opens a stream for each, from the end of the mailbox on.
    async fn open(receivers: &[Person], mail: &Mail) -> Result<Streams, Broken> {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for person in receivers {
            let last = person.session.whoami().await?.marks.last;
            let (mut inbox, arrived, begin) = (person.session.inbox_after(last), arrived.clone(), mail.begin);
            tasks.spawn(async move {
                loop {
                    let arrival = inbox.next().await.map_err(Broken::from).and_then(|message| {
                        let foreign = || Broken(format!("somebody else writes to {}", message.to));
                        Ok(begin.elapsed().saturating_sub(stamp(&message.text).ok_or_else(foreign)?))
                    });
                    let over = arrival.is_err();
                    if arrived.send(arrival).is_err() || over {
                        return;
                    }
                }
            });
        }
        Ok(Streams { arrivals, _tasks: tasks })
    }

    /// Sends one message to each, and waits until all have it: all streams are there.
    async fn all_live(&mut self, sender: &Person, mail: &Mail) -> Result<(), Broken> {
        let mut submitted = Vec::new();
        for name in &*mail.names {
            submitted.push(sender.session.submit(name, &stamped(mail.begin.elapsed())).await?);
        }
        for answer in submitted {
            answer.await?;
        }
        self.take(mail.names.len() as u64).await.map(drop)
    }

    /// How long the next so many took.
    async fn take(&mut self, messages: u64) -> Result<Vec<Duration>, Broken> {
        let mut times = Vec::new();
        for at in 0..messages {
            let next = tokio::time::timeout(PATIENCE, self.arrivals.recv()).await;
            let Ok(Some(took)) = next else {
                return Err(Broken(format!("{} of {messages} acknowledged messages did not arrive", messages - at)));
            };
            times.push(took?);
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_when_it_was_sent_and_has_the_size_of_all() {
        let sent = Duration::from_nanos(12_345_678_901);
        assert_eq!((stamp(&stamped(sent)), stamped(sent).len()), (Some(sent), PAYLOAD));
        assert_eq!(stamp("hello"), None);
    }
}
