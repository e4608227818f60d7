//! How much of what has committed a turn carries out: somebody waits for its answers, or for what it says to the others.

use crate::protocol::{Persist, Time};
use core::time::Duration;

/// A long log to catch up with must not keep the node from answering pings.
const MOST: usize = 1 << 20;
/// And so many bytes where the log comes first: for a backup whose primary waits for it to hold what it was sent.
const MOST_BESIDE_THE_LOG: usize = 64 << 10;
/// Nobody waits for what a backup carries out, but for its answer to what comes meanwhile: after so long it looks. Where every message looks up
/// somebody on a disk that was not read for long, a megabyte took a third of a second.
const TIME: Duration = Duration::from_millis(5);
/// And after so long where the log comes first: what comes takes several looks at the network.
const TIME_BESIDE_THE_LOG: Duration = Duration::from_millis(1);
/// Whoever asked a primary waits for what it carries out, but a primary that has missed much carries out for seconds, and is not to seem silent meanwhile.
const TIME_OF_PRIMARY: Duration = Duration::from_millis(50);
/// A backup that falls further behind than it was, by so many bytes, carries out more than comes, however long that takes: everybody waits for it then. As a
/// rule without this bound, it made everybody wait for up to a second after a start, when each message looks up somebody on a cold disk.
const OWED_AT_MOST: usize = 8 << 20;
/// Before it is in the view, one copy of each message is missing, and it carries out nothing while the log comes, with no longer pauses than this.
const PAUSE: Duration = Duration::from_millis(50);
/// But no longer than this: if it is not taken in by then, it may be for long, and is to be of use to whoever reads.
const LEARNING: Duration = Duration::from_secs(10);

/// Who carries out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// It answers what it carries out.
    Primary,
    /// In the view.
    Backup,
    /// Not in the view, or not known to be.
    Learner,
}

/// How much a turn carries out: so many bytes in any case, and an entry beyond them; then more until that takes too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    pub least: usize,
    pub most: usize,
    pub time: Duration,
}

/// What came, and was not carried out.
#[derive(Debug)]
pub(crate) struct Backlog {
    most: usize,
    role: Role,
    /// Bytes of entries that this turn brought.
    comes: usize,
    /// Those that came while it was a backup, less those that it carried out; none once it has carried out all.
    owed: usize,
    /// Since when it learns, and since when more of the log can come.
    learning: Option<(Time, Time)>,
}

impl Backlog {
    /// Nothing came.
    pub fn new() -> Backlog {
        Backlog { most: MOST, role: Role::Learner, comes: 0, owed: 0, learning: None }
    }

    /// With so many bytes in one turn at most, about.
    pub fn at_most(self, most: usize) -> Backlog {
        Backlog { most, ..self }
    }

    /// What the turn brings.
    pub fn note(&mut self, now: Time, role: Role, persist: &[Persist]) {
        let size = |what: &Persist| if let Persist::Append(entry) = what { entry.size() } else { 0 };
        (self.role, self.comes) = (role, persist.iter().map(size).sum());
        self.owed = if role == Role::Backup { self.owed + self.comes } else { 0 };
        self.learning = match (role, self.learning) {
            (Role::Primary | Role::Backup, _) => None,
            (Role::Learner, learning) if self.comes > 0 => Some((learning.map_or(now, |(since, _)| since), now)),
            (Role::Learner, learning) => learning.filter(|(_, from)| now < from.after(PAUSE)),
        };
    }

    /// What came in this turn is durable, which can take long where much comes: more waits in line meanwhile, and its sender stops at a full window.
    pub fn durable(&mut self, now: Time) {
        if self.comes > 0 {
            self.learning = self.learning.map(|(since, _)| (since, now));
        }
    }

    /// So many bytes were carried out, and perhaps there is nothing more that has committed: what is owed then was cut back.
    pub fn carried_out(&mut self, bytes: usize, is_all: bool) {
        self.owed = if is_all { 0 } else { self.owed.saturating_sub(bytes) };
    }

    /// Until then nothing is carried out.
    pub fn learning_until(&self) -> Option<Time> {
        let is_early = |(since, from): &(Time, Time)| from.since(*since) < LEARNING;
        self.learning.filter(is_early).map(|(_, from)| from.after(PAUSE))
    }

    /// How much this turn carries out.
    pub fn share(&self) -> Share {
        let Backlog { most, comes, .. } = *self;
        match self.role {
            Role::Primary => Share { least: 0, most, time: TIME_OF_PRIMARY },
            Role::Learner | Role::Backup if comes == 0 => Share { least: 0, most, time: TIME },
            Role::Learner | Role::Backup => {
                let least = if self.owed > OWED_AT_MOST { 2 * comes } else { 0 };
                Share { least, most: least.max(most.min(MOST_BESIDE_THE_LOG)), time: TIME_BESIDE_THE_LOG }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Body, ChainHash, Entry, Epoch, ReplicaId};

    fn entry(bytes: usize) -> Persist {
        let epoch = Epoch { round: 1, replica: ReplicaId(1) };
        Persist::Append(Entry::chained(ChainHash::default(), 1, epoch, Body::Commands(vec![0; bytes].into())))
    }

    fn at(ms: u64) -> Time {
        Time(1_000 * ms)
    }

    #[test]
    fn a_learner_that_is_not_taken_in_for_long_carries_out_what_it_hears() {
        let mut backlog = Backlog::new();
        for ms in (0..20_000).step_by(10) {
            backlog.note(at(ms), Role::Learner, &[entry(1000)]);
            let until = (ms < 10_000).then(|| at(ms + 50));
            assert_eq!(backlog.learning_until(), until);
        }
        backlog.note(at(20_040), Role::Learner, &[]);
        backlog.note(at(20_050), Role::Learner, &[]);
        backlog.note(at(20_060), Role::Learner, &[entry(1000)]);
        assert_eq!(backlog.learning_until(), Some(at(20_110)), "it begins again after a pause");
    }

    #[test]
    fn a_learner_that_hears_no_more_or_becomes_something_else_carries_out_all() {
        let mut backlog = Backlog::new();
        backlog.note(at(0), Role::Learner, &[entry(1000)]);
        assert_eq!(backlog.learning_until(), Some(at(50)));
        backlog.note(at(10), Role::Backup, &[]);
        assert_eq!(backlog.learning_until(), None);
        backlog.note(at(20), Role::Learner, &[entry(1000)]);
        backlog.note(at(69), Role::Learner, &[]);
        assert_eq!(backlog.learning_until(), Some(at(70)));
        backlog.note(at(70), Role::Learner, &[]);
        assert_eq!(backlog.learning_until(), None);
    }

    #[test]
    fn a_pause_begins_once_what_came_is_durable() {
        let mut backlog = Backlog::new();
        backlog.note(at(0), Role::Learner, &[entry(1000)]);
        backlog.durable(at(100));
        backlog.note(at(149), Role::Learner, &[]);
        backlog.durable(at(149));
        assert_eq!(backlog.learning_until(), Some(at(150)));
        backlog.note(at(150), Role::Learner, &[]);
        assert_eq!(backlog.learning_until(), None);
    }

    #[test]
    fn only_who_falls_far_behind_carries_out_more_than_comes() {
        let mut backlog = Backlog::new();
        let note = |backlog: &mut Backlog| {
            backlog.note(at(0), Role::Backup, &[entry(1 << 20)]);
            backlog.share().least
        };
        for _ in 0..7 {
            assert_eq!(note(&mut backlog), 0);
        }
        assert!(note(&mut backlog) >= 2 << 20);
        backlog.carried_out(2 << 20, false);
        assert_eq!(note(&mut backlog), 0);
        // Nothing is left, though less was carried out than came: the rest was cut back.
        backlog.carried_out(1 << 20, true);
        for _ in 0..7 {
            assert_eq!(note(&mut backlog), 0);
        }
        backlog.note(at(0), Role::Primary, &[]);
        assert_eq!(note(&mut backlog), 0, "what it owed as another does not count");
    }
}
