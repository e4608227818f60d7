//! One turn of a process: as the driver in production, and a crash or a pause between any two of its effects.

use super::process::Busy;
use super::world::{Happening, Host, World};
use chat_replica::protocol::*;
use core::time::Duration;

impl World {
    /// One turn of the driver: take what is queued, read the clock, step.
    pub fn turn(&mut self, host: usize) {
        let limit = if self.random.chance(200) { 1 + self.random.below(4) as usize } else { 64 };
        let now = self.now;
        let Host { process: Some(process), disk, .. } = &mut self.hosts[host] else { return };
        process.turn_due = false;
        if process.paused || !matches!(process.busy, Busy::No) {
            return;
        }
        let took = process.synced.take().map(|took| Input::Persisted { took: Duration::from_micros(took) });
        let some = process.inbox.len().min(limit);
        let inputs: Vec<Input> = took.into_iter().chain(process.inbox.drain(..some)).collect();
        let tracing = self.settings.trace;
        let told: Vec<String> = if tracing { inputs.iter().map(describe_input).collect() } else { Vec::new() };
        let effects = process.replica.step(process.clock.at(now), inputs, disk);
        process.steps += 1;
        process.follow_log(&effects);
        let member = process.member;
        let pause = process.pause_in_turn.take();
        process.busy = Busy::Stepped(effects);
        for what in told {
            self.note(|| format!("{member} takes {what}"));
        }
        self.check_commits(host);
        self.check_events(host);
        self.check_reads();
        let Some(process) = &mut self.hosts[host].process else { return };
        if let Some(pause) = pause {
            process.paused = true;
            let run = process.run;
            self.note(|| format!("{member} is paused in mid-turn"));
            self.after(pause, Happening::Resume { host, run });
        } else {
            self.emit(host);
        }
    }

    /// What does not depend on the disk leaves; then the disk begins to write.
    pub fn emit(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let Busy::Stepped(mut effects) = std::mem::replace(&mut process.busy, Busy::No) else { return };
        let run = process.run;
        for envelope in std::mem::take(&mut effects.send) {
            if self.crashes_here(host) {
                return;
            }
            let early = self.settings.order_is_checked && rests_on_disk(&envelope.message);
            assert!(!early, "left before it was durable: {:?}", envelope.message);
            self.transmit(host, envelope);
        }
        if self.crashes_here(host) {
            return;
        }
        let Some(process) = &mut self.hosts[host].process else { return };
        if effects.persist.is_empty() {
            // Written without a sync: a power cut may take it, kill -9 does not.
            let committed = process.replica.committed();
            let disk = &mut self.hosts[host].disk;
            disk.bound = disk.bound.max(committed.min(disk.log.len() as u64));
            let Some(process) = &mut self.hosts[host].process else { return };
            process.busy = Busy::Durable(effects);
            self.finish(host);
            return;
        }
        process.busy = Busy::Syncing(effects);
        process.sync_began = self.now;
        let took = self.random.within(self.settings.sync).max(self.hosts[host].stall);
        self.after(took, Happening::Synced { host, run });
    }

    /// The kernel has written, whether the process is paused or not.
    pub fn synced(&mut self, host: usize, run: u64) {
        if self.running(host, run).is_none() {
            return;
        }
        self.write(host);
        if self.crashes_here(host) {
            return;
        }
        self.finish(host);
    }

    /// The transaction under way becomes durable.
    pub fn write(&mut self, host: usize) {
        let now = self.now;
        let Host { process: Some(process), disk, .. } = &mut self.hosts[host] else { return };
        let Busy::Syncing(effects) = std::mem::replace(&mut process.busy, Busy::No) else { return };
        disk.commit(&effects.persist, process.replica.committed());
        process.synced = Some(now - process.sync_began);
        process.busy = Busy::Durable(effects);
    }

    /// What rests on the disk leaves, and the turn ends.
    pub fn finish(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.paused {
            return;
        }
        let Busy::Durable(effects) = std::mem::replace(&mut process.busy, Busy::No) else { return };
        for envelope in effects.send_after {
            if self.crashes_here(host) {
                return;
            }
            self.check_durable(host, &envelope.message);
            self.transmit(host, envelope);
        }
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.left {
            self.kill(host, "has left and exits");
            return;
        }
        if process.synced.is_some() || !process.inbox.is_empty() {
            self.schedule_turn(host);
            return;
        }
        let (run, wake) = (process.run, process.clock.shows(process.replica.wake_at()).max(self.now + 10));
        process.wake = wake;
        self.at(wake, Happening::Wake { host, run, at: wake });
    }

    pub fn crashes_here(&mut self, host: usize) -> bool {
        let Some(process) = &mut self.hosts[host].process else { return true };
        let Some(left) = process.crash_in else { return false };
        process.crash_in = left.checked_sub(1);
        if left == 0 {
            self.kill(host, "is killed between two effects");
        }
        left == 0
    }
}

fn rests_on_disk(message: &Message) -> bool {
    matches!(message, Message::RequestVote { .. } | Message::Vote { .. } | Message::AppendReply { .. })
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
        input => format!("{input:?}"),
    }
}
