//! What can go wrong, one function each.

use super::MS;
use super::disk::{Disk, DiskFault};
use super::process::Busy;
use super::world::{Happening, Snapshot, World, host_of};
use chat_replica::protocol::*;

impl World {
    /// kill -9, at any moment: the transaction under way may or may not have landed.
    pub fn kill(&mut self, host: usize, why: &str) {
        if self.process(host).is_some_and(|process| process.busy == Busy::Syncing) && self.random.chance(500) {
            self.land(host);
        }
        if self.process(host).is_some() {
            self.crashes += 1;
        }
        self.end(host, why);
    }

    /// The process ends, and its kernel ends its sessions and connections.
    pub(crate) fn end(&mut self, host: usize, why: &str) {
        let Some(process) = self.hosts[host].process.take() else { return };
        let (member, run) = (process.member, process.run);
        let mut disk = process.node.into_disk();
        disk.roll_back();
        self.note(|| format!("{member} {why}"));
        self.hosts[host].spare = Some(disk);
        self.hosts[host].gone.push(member);
        self.serving_since[host] = None;
        self.hang_up(host, run);
        self.reset_connections(run);
    }

    /// Power is lost: what was written without a sync is gone.
    pub fn cut_power(&mut self, host: usize) {
        if self.process(host).is_some() {
            self.kill(host, "loses power");
            self.hosts[host].disk_mut().lose_unsynced();
        }
    }

    /// The disk goes wrong next time that it is used so: the process ends (rule 15).
    pub(crate) fn disk_fails(&mut self, host: usize, fault: DiskFault) {
        if let Some(process) = &self.hosts[host].process {
            process.node.disk().fault.set(Some(fault));
        }
    }

    /// The wall's clock of a host jumps; nothing but times for display and expiry may depend on it.
    pub(crate) fn jump_wall(&mut self, host: usize, milliseconds: i64) {
        self.hosts[host].wall_offset += milliseconds;
        self.note(|| format!("the wall's clock of host {} jumps by {} s", host + 1, milliseconds / 1000));
    }

    /// SIGSTOP for so many microseconds: no steps, but the sockets accept.
    pub fn pause(&mut self, host: usize, duration: u64) {
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.paused {
            return;
        }
        process.paused = true;
        let (run, member) = (process.run, process.member);
        self.note(|| format!("{member} is paused for {} ms", duration / 1000));
        self.after(duration, Happening::Resume { host, run });
    }

    /// As [`World::pause`], after so many more effects of turns.
    pub(crate) fn pause_after(&mut self, host: usize, effects: u64, duration: u64) {
        if let Some(process) = &mut self.hosts[host].process {
            process.pause_in = Some((effects, duration));
        }
    }

    /// Every message from a to b takes so much longer.
    pub fn slow_link(&mut self, a: usize, b: usize, micros: u64) {
        self.network.slow[a][b] = micros;
        self.note(|| format!("link {}->{} takes {} ms longer", a + 1, b + 1, micros / MS));
    }

    /// SIGCONT: what was under way goes on, and what has arrived meanwhile is taken.
    pub(crate) fn resume(&mut self, host: usize, run: u64) {
        let now = self.now;
        let Some(process) = self.running(host, run) else { return };
        if !std::mem::replace(&mut process.paused, false) {
            return;
        }
        if let Some(since) = process.slept_since.take() {
            process.turned.synced = Some(process.clock.at(now).since(process.clock.at(since)));
        }
        let member = process.member;
        let held = std::mem::take(&mut process.service.held);
        self.note(|| format!("{member} goes on"));
        self.check_reads();
        held.into_iter().for_each(|happening| self.after(0, happening));
        self.dial_again(host);
        match self.process(host).map(|process| process.busy) {
            Some(Busy::Acting) => self.act(host),
            Some(Busy::No) => self.schedule_turn(host),
            _ => {}
        }
    }

    /// Nothing passes between a and b.
    pub fn cut_both(&mut self, a: usize, b: usize) {
        self.cut(a, b);
        self.cut(b, a);
        self.note(|| format!("link {}-{} is cut", a + 1, b + 1));
    }

    /// Nothing passes from a to b.
    pub fn cut_one_way(&mut self, a: usize, b: usize) {
        self.cut(a, b);
        self.note(|| format!("link {}->{} is cut one way", a + 1, b + 1));
    }

    /// Nothing passes between this host and the others.
    pub fn isolate(&mut self, host: usize) {
        for other in 0..self.settings.n {
            self.cut(host, other);
            self.cut(other, host);
        }
        self.note(|| format!("host {} is cut off", host + 1));
    }

    /// Everything passes again, as fast as ever.
    pub fn heal_all(&mut self) {
        self.note(|| "all links are whole".to_string());
        self.network.muted.clear();
        for a in 0..self.settings.n {
            for b in 0..self.settings.n {
                self.heal(a, b);
                self.network.slow[a][b] = 0;
            }
        }
    }

    /// Whether another disk than this one has heard of the cluster, if anything was committed. Where none has, nobody can tell a new disk in its place from
    /// a cluster that is yet to be founded: its owner has lost the only copy.
    pub fn is_known_elsewhere(&self, host: usize) -> bool {
        let mut others = (0..self.settings.n).filter(|other| *other != host);
        self.truth.committed() == 0 || others.any(|other| !self.hosts[other].disk().log.is_empty())
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&mut self, host: usize) {
        self.kill(host, "is stopped, its disk is replaced");
        let disk = Disk::empty(DiskId(self.random.bytes16()));
        let old = self.hosts[host].spare.replace(disk);
        self.hosts[host].wiped.extend(old.map(|old| old.id));
        self.network.rolled_back[host] = false;
        self.note(|| format!("host {} has an empty disk", host + 1));
    }

    /// A disk of another cluster is plugged in by mistake. It does not know that what it holds had committed.
    pub fn plug_in(&mut self, host: usize, Snapshot(mut disk): Snapshot) {
        self.kill(host, "is stopped, its disk is mistaken for another");
        disk.forget_commits();
        self.hosts[host].spare = Some(*disk);
    }

    /// The disk is what it was at an earlier start, and all others know better.
    pub fn roll_back(&mut self, host: usize, snapshot: Snapshot) {
        let Snapshot(snapshot) = snapshot;
        self.kill(host, "is stopped, its disk is rolled back");
        self.note(|| format!("host {} is rolled back to start {}", host + 1, snapshot.starts.count));
        self.hosts[host].spare = Some(*snapshot);
        self.network.rolled_back[host] = true;
    }

    /// Whether every other disk would notice that this one went back to `snapshot`, and it cannot act alone before it hears so.
    pub fn would_be_noticed(&self, host: usize, Snapshot(snapshot): &Snapshot) -> bool {
        let noticed = |other: usize| {
            let known = &self.hosts[other].disk().known;
            known.iter().any(|m| {
                m.id == super::world::id(host) && m.disk == snapshot.id && m.incarnation.count > snapshot.starts.count
            })
        };
        let alone =
            snapshot.log.iter().rev().find_map(|entry| entry.body.view()).is_none_or(|view| view.members.len() == 1);
        snapshot.id == self.hosts[host].disk().id
            && !alone
            && (0..self.settings.n).filter(|other| *other != host).all(noticed)
    }

    /// A disk that was rolled back is another disk from now on (rule 12).
    pub(crate) fn become_another_disk(&mut self, host: usize) {
        let new = DiskId(self.random.bytes16());
        let disk = self.hosts[host].disk_mut();
        let old = std::mem::replace(&mut disk.id, new);
        disk.deaths.clear();
        // Not before: whoever says so can be killed before it is so, and says it again.
        self.network.rolled_back[host] = false;
        self.hosts[host].wiped.push(old);
        self.note(|| format!("host {} has another disk id", host + 1));
    }

    /// The end of the log is damaged while the process is down (rule 15).
    pub(crate) fn damage(&mut self, host: usize) {
        let len = self.hosts[host].disk().log.len() as u64;
        if len > 2 {
            let from = len - self.random.below(len.min(20) - 1);
            self.damage_from(host, from);
        }
    }

    /// The log is damaged from this entry on.
    pub fn damage_from(&mut self, host: usize, from: u64) {
        self.kill(host, "is stopped, its log is damaged");
        if self.random.chance(500) {
            self.hosts[host].disk_mut().lose_tail(from);
        } else {
            self.hosts[host].disk_mut().break_log(from);
        }
        self.note(|| format!("host {} lost its log from {from} on", host + 1));
    }

    /// SIGTERM: it hands over, and exits when it may.
    pub fn leave(&mut self, host: usize) {
        if let Some(process) = &mut self.hosts[host].process {
            process.leaving = true;
            self.input(host, Input::Leave);
        }
    }

    /// A fencing command tells `host` that `peer` was ended, which is true.
    ///
    /// # Panics
    /// If that process runs.
    pub fn fenced(&mut self, host: usize, peer: Member) {
        assert!(self.hosts[host_of(peer.id)].gone.contains(&peer), "fences do not lie here");
        self.input(host, Input::Fenced { peer });
    }
}
