//! What can go wrong, one function each.

use super::disk::Disk;
use super::process::Busy;
use super::world::{Happening, World, host_of};
use chat_replica::protocol::*;

impl World {
    /// kill -9, at any moment: the transaction under way may or may not have become durable.
    pub fn kill(&mut self, host: usize, why: &str) {
        let Some(process) = self.process(host) else { return };
        let (member, run, syncing) = (process.member, process.run, matches!(process.busy, Busy::Syncing(_)));
        if syncing && self.random.chance(500) {
            self.write(host);
        }
        self.note(|| format!("{member} {why}"));
        self.hosts[host].process = None;
        self.hosts[host].gone.push(member);
        self.serving_since[host] = None;
        self.hang_up(host, run);
    }

    /// Power is lost: what was written without a sync is gone.
    pub fn cut_power(&mut self, host: usize) {
        if self.process(host).is_some() {
            self.kill(host, "loses power");
            let disk = &mut self.hosts[host].disk;
            disk.bound = disk.synced_bound;
        }
    }

    /// SIGSTOP: no steps, but the sockets accept.
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

    pub fn resume(&mut self, host: usize, run: u64) {
        let Some(process) = self.running(host, run) else { return };
        if !process.paused {
            return;
        }
        process.paused = false;
        let member = process.member;
        self.note(|| format!("{member} goes on"));
        self.check_reads();
        self.dial_again(host);
        match self.process(host).map(|process| &process.busy) {
            Some(Busy::Stepped(_)) => self.emit(host),
            Some(Busy::Durable(_)) => self.finish(host),
            Some(Busy::No) => self.schedule_turn(host),
            _ => {}
        }
    }

    pub fn cut_both(&mut self, a: usize, b: usize) {
        self.cut(a, b);
        self.cut(b, a);
        self.note(|| format!("link {}-{} is cut", a + 1, b + 1));
    }

    pub fn cut_one_way(&mut self, a: usize, b: usize) {
        self.cut(a, b);
        self.note(|| format!("link {}->{} is cut one way", a + 1, b + 1));
    }

    pub fn isolate(&mut self, host: usize) {
        for other in 0..self.settings.n {
            self.cut(host, other);
            self.cut(other, host);
        }
        self.note(|| format!("host {} is cut off", host + 1));
    }

    /// Messages of this kind from a to b get lost, or "all" of them.
    pub fn mute(&mut self, a: usize, b: usize, kind: &'static str) {
        self.network.muted.push((a, b, kind));
        self.note(|| format!("of {}->{} each {kind} gets lost", a + 1, b + 1));
    }

    /// One dial of b by a is refused, although b lives.
    pub fn refuse_once(&mut self, a: usize, b: usize) {
        let last = self.process(a).and_then(|process| process.dials[b].last);
        if let Some(last) = last {
            self.note(|| format!("one dial {}->{} is refused", a + 1, b + 1));
            self.input(a, Input::Refused { peer: last });
        }
    }

    pub fn heal_all(&mut self) {
        self.note(|| "all links are whole".to_string());
        self.network.muted.clear();
        for a in 0..self.settings.n {
            for b in 0..self.settings.n {
                self.heal(a, b);
            }
        }
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&mut self, host: usize) {
        self.kill(host, "is stopped, its disk is replaced");
        let disk = Disk::empty(DiskId(self.random.bytes16()));
        let old = std::mem::replace(&mut self.hosts[host].disk, disk);
        self.hosts[host].wiped.push(old.id);
        self.network.rolled_back[host] = false;
        self.note(|| format!("host {} has an empty disk", host + 1));
    }

    /// The disk is what it was at an earlier start, and all others know better.
    pub fn roll_back(&mut self, host: usize, snapshot: Disk) {
        self.kill(host, "is stopped, its disk is rolled back");
        self.note(|| format!("host {} is rolled back to start {}", host + 1, snapshot.starts.count));
        self.hosts[host].disk = snapshot;
        self.network.rolled_back[host] = true;
    }

    /// Whether every other disk would notice that this one went back to `snapshot`, and it cannot act alone before it hears so.
    pub fn would_be_noticed(&self, host: usize, snapshot: &Disk) -> bool {
        let noticed = |other: usize| {
            let known = &self.hosts[other].disk.known;
            known.iter().any(|m| {
                m.id == super::world::id(host) && m.disk == snapshot.id && m.incarnation.count > snapshot.starts.count
            })
        };
        let alone =
            snapshot.log.iter().rev().find_map(|entry| entry.body.view()).is_none_or(|view| view.members.len() == 1);
        snapshot.id == self.hosts[host].disk.id
            && !alone
            && (0..self.settings.n).filter(|other| *other != host).all(noticed)
    }

    /// A disk that was rolled back is another disk from now on (rule 12).
    pub fn become_another_disk(&mut self, host: usize) {
        let new = DiskId(self.random.bytes16());
        let disk = &mut self.hosts[host].disk;
        let old = std::mem::replace(&mut disk.id, new);
        disk.deaths.clear();
        self.hosts[host].wiped.push(old);
        self.note(|| format!("host {} has another disk id", host + 1));
    }

    /// The end of the log is damaged while the process is down (rule 15).
    pub fn damage(&mut self, host: usize) {
        let len = self.hosts[host].disk.log.len() as u64;
        if len > 2 {
            let from = len - self.random.below(len.min(20) - 1);
            self.damage_from(host, from);
        }
    }

    /// The log is damaged from this entry on.
    pub fn damage_from(&mut self, host: usize, from: u64) {
        self.kill(host, "is stopped, its log is damaged");
        self.hosts[host].disk.lose_tail(from);
        self.note(|| format!("host {} lost its log from {from} on", host + 1));
    }

    /// SIGTERM: it hands over, and exits when it may.
    pub fn leave(&mut self, host: usize) {
        if let Some(process) = &mut self.hosts[host].process {
            process.leaving = true;
            self.input(host, Input::Leave);
        }
    }

    /// A fencing command tells `host` what is true: that run is gone.
    pub fn fenced(&mut self, host: usize, peer: Member) {
        assert!(self.hosts[host_of(peer.id)].gone.contains(&peer), "fences do not lie here");
        self.input(host, Input::Fenced { peer });
    }
}
