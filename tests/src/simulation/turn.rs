//! One turn of a process: the production node's, its effects carried out one by one, with a crash or a pause between any two.

use super::journal::{Effect, Landing};
use super::process::{Busy, Ending};
use super::violation::Broken;
use super::world::{Happening, Host, World};
use chat_replica::node::Disk as _;
use chat_replica::protocol::*;
use std::hash::Hash as _;

impl World {
    /// As the driver does: take what has arrived, read the clock, let the node turn.
    pub(crate) fn turn(&mut self, host: usize) {
        let limit = if self.random.chance(200) { 1 + self.random.below(4) as usize } else { 64 };
        let sync_takes = self.random.within(self.settings.sync).max(self.hosts[host].stall);
        let now = self.now;
        let Host { process: Some(process), .. } = &mut self.hosts[host] else { return };
        process.turn_due = false;
        if process.paused || process.busy != Busy::No {
            return;
        }
        let took = process.turned.synced.take().map(|took| Input::Persisted { took });
        let some = process.inbox.len().min(limit);
        let mut inputs: Vec<Input> = took.into_iter().chain(process.inbox.drain(..some)).collect();
        let mut told = Vec::new();
        inputs.extend(process.service.propose(process.node.replica(), &mut told));
        inputs.hash(&mut self.hash);
        if self.settings.trace {
            let member = process.member;
            let lines: Vec<String> = inputs.iter().map(describe_input).collect();
            lines.into_iter().for_each(|line| self.note(|| format!("{member} takes {line}")));
        }
        let Host { process: Some(process), .. } = &mut self.hosts[host] else { return };
        process.steps += 1;
        process.sync_takes = sync_takes;
        process.landed = false;
        let (clock, mut journal) = (process.clock, process.node.disk().journal().clone());
        let written = journal.clone();
        let reads_on = || clock.at(now + if written.is_synced() { sync_takes } else { 0 });
        // What failed is in the journal, where it happened.
        process.turned = process.node.turn(clock.at(now), inputs, &reads_on, &mut journal).unwrap_or_default();
        process.effects = journal.take();
        process.busy = Busy::Acting;
        self.answer(host, told);
        self.check_commits(host);
        self.check_reads();
        self.act(host);
    }

    /// Carries out what the turn still has to do, as far as it gets.
    pub(crate) fn act(&mut self, host: usize) {
        loop {
            if self.violation.is_some() || self.crashes_here(host) || self.pauses_here(host) {
                return;
            }
            let Some(process) = &mut self.hosts[host].process else { return };
            let Some(effect) = process.effects.pop_front() else { break };
            match effect {
                Effect::Send(envelope) => {
                    self.check_durable(host, &envelope.message);
                    self.transmit(host, envelope);
                }
                Effect::Event(event) => self.happened(host, event),
                Effect::Applied { index, epoch, results, copies } => self.applied(host, index, epoch, results, copies),
                Effect::Commit(Landing::Synced) => {
                    process.busy = Busy::Syncing;
                    let (run, takes) = (process.run, process.sync_takes);
                    return self.after(takes, Happening::Synced { host, run });
                }
                Effect::Commit(_) => self.land(host),
                Effect::Failed(why) => {
                    // Nobody knows what became of the transaction.
                    if self.random.chance(500) {
                        self.land(host);
                    }
                    return self.end(host, why);
                }
            }
        }
        self.finish(host);
    }

    /// The kernel has written, whether the process is paused or not.
    pub(crate) fn synced(&mut self, host: usize, run: u64) {
        let now = self.now;
        let Some(process) = self.running(host, run) else { return };
        process.busy = Busy::Acting;
        self.land(host);
        let Some(process) = self.running(host, run) else { return };
        if process.paused {
            process.slept_since = Some(now - process.sync_takes);
        } else {
            self.act(host);
        }
    }

    /// The transaction under way lands.
    pub(crate) fn land(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        process.landed = true;
        let member = process.member;
        if let Err(what) = process.node.disk_mut().land() {
            self.violate(Broken::SoundDisk, member, what);
        }
    }

    /// The turn ends, and what came of it is published.
    fn finish(&mut self, host: usize) {
        let now = self.now;
        let Some(process) = &mut self.hosts[host].process else { return };
        process.busy = Busy::No;
        let mut told = Vec::new();
        process.service.turned(&process.turned, &mut told);
        let gate_moved = process.service.publish(process.node.replica(), process.node.disk().state().applied);
        let ending = process.ending;
        self.answer(host, told);
        match ending {
            Some(Ending::Left) => return self.end(host, "has left and exits"),
            Some(Ending::RolledBack) => {
                self.end(host, "was rolled back and exits");
                return self.become_another_disk(host);
            }
            None => {}
        }
        if gate_moved {
            self.gate_moved(host);
        }
        self.let_show(host);
        self.check_state(host);
        let Some(process) = &mut self.hosts[host].process else { return };
        let more = !process.inbox.is_empty() || process.service.has_work(process.node.replica());
        if process.turned.synced.is_some() || more || process.node.is_behind() {
            return self.schedule_turn(host);
        }
        let (run, wake) = (process.run, process.clock.shows(process.node.wake_at()).max(now + 10));
        process.wake = wake;
        self.at(wake, Happening::Wake { host, run, at: wake });
    }

    /// What the turn has handed to the other thread takes its time.
    fn let_show(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.node.disk().is_showing() && !process.showing {
            process.showing = true;
            let run = process.run;
            let takes = 4 * self.random.within(self.settings.sync);
            self.after(takes, Happening::Shown { host, run });
        }
    }

    /// The other thread is done, and tells the process.
    pub(crate) fn shown(&mut self, host: usize, run: u64) {
        let Some(process) = self.running(host, run) else { return };
        if process.paused {
            return process.service.held.push(Happening::Shown { host, run });
        }
        let member = process.member;
        match process.node.disk_mut().arrive() {
            Ok(true) => {
                process.showing = false;
                self.schedule_turn(host);
            }
            Ok(false) => self.after(10, Happening::Shown { host, run }),
            Err(what) => self.violate(Broken::SoundDisk, member, what),
        }
    }

    fn crashes_here(&mut self, host: usize) -> bool {
        let Some(process) = &mut self.hosts[host].process else { return true };
        let Some(left) = process.crash_in else { return false };
        process.crash_in = left.checked_sub(1);
        if left == 0 {
            self.kill(host, "is killed between two effects");
        }
        left == 0
    }

    fn pauses_here(&mut self, host: usize) -> bool {
        let Some(process) = &mut self.hosts[host].process else { return true };
        let Some((left, pause)) = process.pause_in else { return false };
        process.pause_in = left.checked_sub(1).map(|left| (left, pause));
        if left == 0 {
            self.pause(host, pause);
        }
        left == 0
    }
}

fn describe_input(input: &Input) -> String {
    match input {
        Input::Receive(envelope) => match &envelope.message {
            Message::Append(append) => format!(
                "from {}: Append {} prev {:?}, {} entries {:?}, committed {}",
                envelope.from,
                append.epoch,
                append.prev,
                append.entries.len(),
                append.entries.iter().filter_map(|entry| entry.body.view()).collect::<Vec<_>>(),
                append.committed
            ),
            Message::Hello(hello) => format!(
                "from {}: Hello {:?} {:?}, deaths {:?}",
                envelope.from,
                hello.last,
                hello.promised,
                hello.deaths.last()
            ),
            message => format!("from {}: {message:?}", envelope.from),
        },
        Input::Propose(batch) => format!("a batch of {} bytes", batch.len()),
        input => format!("{input:?}"),
    }
}
