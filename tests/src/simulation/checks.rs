//! What is checked at every step.

use super::process::Busy;
use super::world::{World, host_of};
use chat_replica::protocol::*;

impl World {
    /// Committed histories never differ, and clients are told.
    pub fn check_commits(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let committed = process.replica.committed();
        let serving = process.replica.serving();
        let member = process.member;
        if committed == process.seen_commit {
            return;
        }
        assert!(committed > process.seen_commit, "the commit index of {member} moved back");
        for entry in &process.log[process.seen_commit as usize..committed as usize] {
            self.truth.commit(member, entry);
            if serving == Some(entry.epoch) {
                self.truth.lead(member, entry.epoch);
                if matches!(entry.body, Body::Commands(_)) {
                    self.truth.acknowledge(entry.index);
                }
            }
        }
        process.seen_commit = committed;
        if serving.is_some() {
            self.note(|| format!("{member} commits up to {committed}"));
        }
    }

    pub fn check_events(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let Busy::Stepped(effects) = &mut process.busy else { return };
        let (events, member) = (std::mem::take(&mut effects.events), process.member);
        for event in events {
            self.note(|| format!("{member} says {event:?}"));
            match event {
                Event::Fatal(why) => panic!("FATAL at {member}: {why}"),
                Event::ProofContradicted(who) => {
                    // The greeting of a run that ended meanwhile may come late.
                    let alive = self.process(host_of(who.id)).is_some_and(|process| process.member == who);
                    assert!(!alive, "FALSE PROOF at {member}: {who} speaks");
                }
                Event::RolledBack { by, known } => {
                    let starts = self.hosts[host].disk.starts;
                    assert!(
                        self.network.rolled_back[host],
                        "{member} was not rolled back, but {by} knows {known:?}, not {starts:?}"
                    );
                    self.network.rolled_back[host] = false;
                    self.kill(host, "was rolled back and exits");
                    self.become_another_disk(host);
                    return;
                }
                Event::Serving(_) => self.serving_since[host] = Some(self.now),
                Event::SteppedDown(_) => self.serving_since[host] = None,
                Event::Left => {
                    if let Some(process) = &mut self.hosts[host].process {
                        process.left = true;
                    }
                }
                _ => {}
            }
        }
    }

    /// No replica that holds a lease has missed what a client was told (rule 11).
    pub fn check_reads(&mut self) {
        let (truth, now) = (&mut self.truth, self.now);
        for process in self.hosts.iter().filter_map(|host| host.process.as_ref()) {
            if process.may_read(now) {
                truth.read(process.member, process.replica.committed());
            }
        }
    }

    /// What is promised to others is durable when it leaves.
    pub fn check_durable(&self, host: usize, message: &Message) {
        if !self.settings.order_is_checked {
            return;
        }
        let disk = &self.hosts[host].disk;
        match message {
            Message::Vote { epoch, granted: true, .. } | Message::RequestVote { epoch, .. } => {
                assert!(disk.promised >= *epoch, "a promise leaves that is not durable");
            }
            // One turn may accept entries, and then a later primary that cuts them back: as if both had been durable in turn.
            Message::AppendReply { epoch, matched, conflict: false, promised } if *epoch == disk.promised => {
                assert!(disk.log.len() as u64 >= *matched, "an acknowledgement leaves that is not durable");
                assert!(disk.promised >= *promised, "a promise leaves that is not durable");
            }
            _ => {}
        }
    }
}
