//! One turn of a process, in the order of `node.rs`: send what promises nothing, sync, send what rests on it. What has
//! changed is printed first, as it is the reason for the rest.

use super::words::kind;
use super::world::{Done, Process, Trap, World};
use chat_replica::protocol::*;
use core::time::Duration;

impl World {
    /// Something happens to a process. One whose sync hangs, or that is paused, takes it later.
    pub fn give(&mut self, id: u32, input: Input) -> Done {
        let Some(process) = self.hosts.get_mut(&id).and_then(|host| host.process.as_mut()) else { return Ok(()) };
        process.inbox.push_back(input);
        self.take_inputs(id)
    }

    /// Takes what has queued, one turn each.
    pub fn take_inputs(&mut self, id: u32) -> Done {
        while let Some(host) = self.hosts.get_mut(&id) {
            let Some(process) = host.process.as_mut().filter(|p| !p.paused && p.syncing.is_none()) else { break };
            let Some(input) = process.inbox.pop_front() else { break };
            self.turn(id, [input])?;
        }
        Ok(())
    }

    /// One turn, for all these inputs.
    pub fn turn(&mut self, id: u32, inputs: impl IntoIterator<Item = Input>) -> Done {
        let now = Time(self.now);
        let host = self.host(id)?;
        let Some(process) = &mut host.process else { return Ok(()) };
        let effects = process.replica.step(now, inputs, &host.disk);
        process.wake = process.replica.wake_at().0.max(now.0 + 10);
        let ends = self.tell(id, &effects)?;
        self.send(id, &effects.send)?;
        self.check(id)?;
        self.sync(id, effects)?;
        ends.map_or(Ok(()), |why| self.end(id, why))
    }

    fn send(&mut self, id: u32, envelopes: &[Envelope]) -> Done {
        for envelope in envelopes {
            let lost = self.transmit(id, envelope);
            let (from, to) = (self.names.of(&envelope.from), self.names.of(&envelope.to));
            let text = self.names.message(&envelope.message);
            let lost = if lost { " (lost)" } else { "" };
            self.out.message(kind(&envelope.message), format!("{from} -> {to}: {text}{lost}"));
        }
        Ok(())
    }

    /// Makes durable what is to be durable, unless the disk hangs or the process is killed before.
    fn sync(&mut self, id: u32, effects: Effects) -> Done {
        let now = self.now;
        let host = self.host(id)?;
        let Some(process) = &mut host.process else { return Ok(()) };
        if effects.persist.is_empty() {
            host.disk.raise_bound(process.replica.committed());
            return self.send(id, &effects.send_after);
        }
        if process.trap == Some(Trap::BeforeSync) {
            let line = format!("{} is killed before it syncs", process.name);
            self.out.say(line);
            return self.kill(id);
        }
        process.syncing = Some((effects, now));
        if host.stalled {
            let line = format!("{}: its sync hangs", process.name);
            self.out.say(line);
            return Ok(());
        }
        self.synced(id)
    }

    /// The sync under way is through.
    pub fn synced(&mut self, id: u32) -> Done {
        let now = self.now;
        let host = self.host(id)?;
        let Some(process) = &mut host.process else { return Ok(()) };
        let Some((effects, began)) = process.syncing.take() else { return Ok(()) };
        host.disk.commit(&effects.persist, process.replica.committed())?;
        let (name, trap) = (process.name.clone(), process.trap);
        // A sync takes a millisecond of which no clock tells, or as long as it hung.
        let took = Duration::from_micros((now - began).max(1000));
        process.inbox.push_front(Input::Persisted { took });
        if let Some(text) = self.names.transaction(&effects.persist, self.out.shows("known")) {
            self.out.detail(format!("{name} syncs: {text}"));
        }
        if trap == Some(Trap::AfterSync) {
            self.out.say(format!("{name} is killed once it has synced"));
            return self.kill(id);
        }
        self.send(id, &effects.send_after)
    }

    /// Prints what has changed. Returns why the process must end, if it must.
    fn tell(&mut self, id: u32, effects: &Effects) -> Result<Option<&'static str>, String> {
        let mut ends = None;
        let process = self.process(id)?;
        let name = process.name.clone();
        let founded = effects.persist.iter().any(
            |what| matches!(what, Persist::Append(Entry { body: Body::Founding { view, .. }, .. }) if view.primary == process.member.id),
        );
        for event in &effects.events {
            let text = match event {
                Event::Joined(_) if founded => "founds the cluster".into(),
                Event::Joined(_) => "joins the cluster".into(),
                Event::Serving(epoch) => format!("serves in {epoch}"),
                Event::SteppedDown(epoch) => format!("steps down from {epoch}"),
                Event::View(at) => format!("knows {} committed", self.names.view(&at.view)),
                Event::Suspected(member) => format!("suspects {}", self.names.of(member)),
                Event::Proven(member, how) => format!("{} is proven crashed ({how})", self.names.of(member)),
                Event::ProofContradicted(member) => {
                    format!("{} was proven crashed, and speaks", self.names.of(member))
                }
                Event::RolledBack { by, .. } => {
                    ends = Some("ends, and its disk becomes another one");
                    format!("{by} has seen this disk further on")
                }
                Event::Left => {
                    ends = Some("ends");
                    "has left".into()
                }
                Event::Repaired => "its disk counts again".into(),
                Event::Fatal(why) => {
                    ends = Some("ends");
                    format!("fatal: {why}")
                }
            };
            self.out.say(format!("{name}: {text}"));
        }
        self.tell_standing(id)?;
        Ok(ends)
    }

    fn tell_standing(&mut self, id: u32) -> Done {
        let process = self.process(id)?;
        let (name, status) = (process.name.clone(), process.replica.status());
        let before = process.seen.standing.replace((status.standing, status.leader));
        let committed = std::mem::replace(&mut process.seen.committed, status.committed);
        if before != Some((status.standing, status.leader)) {
            let leader = status.leader.map_or(String::new(), |leader| leader.to_string());
            let text = match status.standing {
                Standing::Primary => format!("leads in {}", status.epoch),
                Standing::Backup => format!("is a backup of {leader}"),
                Standing::Learner => format!("is a learner of {leader}"),
                Standing::Waiting if before.is_none() => return Ok(()),
                Standing::Waiting => "follows nobody".into(),
            };
            self.out.say(format!("{name}: {text}"));
        }
        if committed != status.committed {
            self.out.detail(format!("{name}: committed {}", status.committed));
        }
        Ok(())
    }

    /// One history, nothing acknowledged is lost, no stale read.
    fn check(&mut self, id: u32) -> Done {
        let host = self.hosts.get(&id).ok_or("no such host")?;
        let Some(process) = &host.process else { return Ok(()) };
        let (replica, truth) = (&process.replica, &mut self.truth);
        let committed = replica.committed();
        for index in 1..=committed {
            let Some(entry) = replica.log().read(index, 0, &host.disk).into_iter().next() else { break };
            match truth.committed.get(index as usize - 1) {
                Some(known) if *known != entry => {
                    return Err(format!("two histories: {} has another entry {index} committed", process.name));
                }
                Some(_) => {}
                None => truth.committed.push(entry),
            }
        }
        if replica.serving().is_some() {
            truth.acknowledged = truth.acknowledged.max(committed);
        }
        let may_read = |p: &&Process| !p.paused && p.replica.lease_until().is_some_and(|until| until > Time(self.now));
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        for reader in processes.filter(may_read) {
            if reader.replica.committed() < truth.acknowledged {
                return Err(format!("{} may answer a stale read", reader.name));
            }
        }
        Ok(())
    }

    fn end(&mut self, id: u32, why: &'static str) -> Done {
        let Ok(process) = self.process(id) else { return Ok(()) };
        let name = process.name.clone();
        self.out.say(format!("{name} {why}"));
        self.kill(id)?;
        if why.contains("another") {
            let disk = self.new_disk(id)?;
            self.host(id)?.disk.become_another(disk);
        }
        Ok(())
    }
}
