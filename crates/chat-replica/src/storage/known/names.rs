//! To whom names lead.

use super::table::{IN_LINE, Row, Table};
use super::{WAYS, place_of};
use chat_core::{AccountId, Username};
use std::hash::{BuildHasher as _, RandomState};

/// Which accounts have which names: only of those that are not deleted. Names never change, and are not given to another account.
///
/// A name is known again by 96 bits of two keyed hashes. With a million names here, one that is not among them is taken for another once in 2^76 times,
/// and nobody who does not know this process' keys can do better than by chance.
#[derive(Debug)]
pub(super) struct Names {
    /// 96 bits of a name, and an account; all 0 where there is none.
    places: Table,
    keys: [RandomState; 2],
    /// Which place of a full set is given to another name next.
    next: usize,
}

/// Where a name can be, and how it is known there.
pub(super) struct Print {
    sets: [usize; 2],
    bits: [u32; 3],
}

impl Names {
    /// None yet, in a table of sets.
    pub fn new(places: Table) -> Names {
        Names { places, keys: [RandomState::new(), RandomState::new()], next: 0 }
    }

    pub fn print(&self, name: &Username) -> Print {
        let [first, second] = [&self.keys[0], &self.keys[1]].map(|key| key.hash_one(name.as_str()));
        let halves = |hash: u64| [(hash >> 32) as u32, hash as u32];
        let ([a, b], [c, d]) = (halves(first), halves(second));
        let sets = self.places.len() / WAYS;
        // The half that chooses the second set tells names apart, too: of those that are in that set by their other one.
        Print { sets: [a, b].map(|half| place_of(half, sets)), bits: [b, c, d] }
    }

    fn set(&self, set: usize) -> impl Iterator<Item = (usize, Row)> {
        (set * WAYS..).zip(self.places.rows(set * WAYS, WAYS))
    }

    /// The place of a name. Both sets are looked through, as waiting for memory twice takes longer.
    fn find(&self, print: &Print) -> Option<usize> {
        let [x, y, z] = print.bits;
        let mut found = None;
        for set in print.sets {
            for (at, place) in self.set(set) {
                let is_it = place[..3] == [x, y, z] && place[3] != 0;
                found = if is_it { Some(at) } else { found };
            }
        }
        found
    }

    pub fn get(&self, name: &Username) -> Option<AccountId> {
        self.known_as(&self.print(name))
    }

    /// Whose name it is that has this print.
    pub fn known_as(&self, print: &Print) -> Option<AccountId> {
        self.find(print).map(|at| AccountId(u64::from(self.places.row(at)[3])))
    }

    /// Reads something of each cache line that a name with this print can be in.
    pub fn touch(&self, print: &Print) -> u32 {
        let places = print.sets.into_iter().flat_map(|set| (set * WAYS..(set + 1) * WAYS).step_by(IN_LINE));
        places.fold(0, |all, at| all ^ self.places.row(at)[0])
    }

    /// In the emptier one of its sets, so that both fill evenly. Where both are full, it gets the place of another one, or none.
    pub fn put(&mut self, name: &Username, id: AccountId, instead: bool) {
        let print = self.print(name);
        let Some(id) = u32::try_from(id.0).ok().filter(|id| *id != 0) else { return };
        let mut best = (0, None);
        for set in print.sets {
            let mut free = (0, None);
            for (at, place) in self.set(set) {
                if place[3] == 0 {
                    free = (free.0 + 1, Some(at));
                } else if place[..3] == print.bits {
                    return;
                }
            }
            if free.0 > best.0 {
                best = free;
            }
        }
        self.next = (self.next + 1) % WAYS;
        let Some(place) = best.1.or_else(|| instead.then_some(print.sets[0] * WAYS + self.next)) else { return };
        let [x, y, z] = print.bits;
        self.places.set(place, [x, y, z, id]);
    }

    pub fn remove(&mut self, name: &Username) {
        if let Some(at) = self.find(&self.print(name)) {
            self.places.set(at, [0; 4]);
        }
    }
}
