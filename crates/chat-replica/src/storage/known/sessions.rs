//! Sessions by their tokens.

use super::place_of;
use chat_core::{AccountId, Session, Timestamp, TokenHash};

/// A cache line, which most processors get as one: a turn comes after others have used the caches.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Place(Session);

/// Each has one of two places. Where both are taken, the first is given to the last that was used.
///
/// Tokens are hashes already, and clients can choose what they are of: whoever fills places makes others be looked up in the database, and no more.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Number 0 where there is none.
    places: Vec<Place>,
}

impl Sessions {
    pub fn new(room: usize) -> Sessions {
        let (token, account, never) = (TokenHash([0; 32]), AccountId(0), Timestamp(0));
        let none = Place(Session { token, account, number: 0, opened_at: never, expires_at: never });
        Sessions { places: vec![none; room] }
    }

    fn places(&self, token: &TokenHash) -> [usize; 2] {
        let [a, b, c, d, e, f, g, h, ..] = token.0;
        [[a, b, c, d], [e, f, g, h]].map(|half| place_of(u32::from_le_bytes(half), self.places.len()))
    }

    fn is_at(&self, place: usize, token: &TokenHash) -> bool {
        let Place(session) = &self.places[place];
        session.number != 0 && session.token == *token
    }

    fn find(&self, token: &TokenHash) -> Option<usize> {
        self.places(token).into_iter().find(|place| self.is_at(*place, token))
    }

    pub fn get(&self, token: &TokenHash) -> Option<&Session> {
        self.find(token).map(|place| &self.places[place].0)
    }

    pub fn put(&mut self, session: &Session) {
        let places = self.places(&session.token);
        let free = || places.into_iter().find(|place| self.places[*place].0.number == 0);
        let place = self.find(&session.token).or_else(free).unwrap_or(places[0]);
        self.places[place].0 = session.clone();
    }

    pub fn remove(&mut self, token: &TokenHash) {
        if let Some(place) = self.find(token) {
            self.places[place].0.number = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(places: [u8; 2], rest: u8, number: u64) -> Session {
        let mut token = [rest; 32];
        // The highest byte decides, of four that stand the lowest first.
        (token[3], token[7]) = (places[0], places[1]);
        let at = Timestamp(number as i64);
        Session { token: TokenHash(token), account: AccountId(number), number, opened_at: at, expires_at: at }
    }

    #[test]
    fn a_session_is_found_in_either_of_its_places_and_no_other_is_taken_for_it() {
        let mut sessions = Sessions::new(256);
        let [one, two, three] = [([5, 6], 1, 1), ([5, 7], 2, 2), ([5, 6], 3, 3)].map(|(p, r, n)| session(p, r, n));
        assert_eq!(sessions.get(&one.token), None);
        sessions.put(&one);
        sessions.put(&two);
        assert_eq!((sessions.get(&one.token), sessions.get(&two.token)), (Some(&one), Some(&two)));
        assert_eq!(sessions.get(&three.token), None);
        sessions.put(&three);
        assert_eq!(sessions.get(&three.token), Some(&three), "in its second place, which is free");
        assert_eq!((sessions.get(&one.token), sessions.get(&two.token)), (Some(&one), Some(&two)));
        sessions.remove(&two.token);
        assert_eq!((sessions.get(&one.token), sessions.get(&two.token)), (Some(&one), None));
    }

    #[test]
    fn where_both_places_are_taken_the_last_that_was_used_has_one() {
        let mut sessions = Sessions::new(256);
        let all: Vec<_> = (1..=3).map(|number| session([5, 6], number as u8, number)).collect();
        all.iter().for_each(|session| sessions.put(session));
        assert_eq!(sessions.get(&all[2].token), Some(&all[2]));
        assert_eq!(all.iter().filter(|session| sessions.get(&session.token).is_some()).count(), 2);
    }

    #[test]
    fn what_is_known_of_a_session_is_what_was_said_last() {
        let mut sessions = Sessions::new(256);
        let (other, before) = (session([5, 9], 1, 1), session([5, 6], 2, 2));
        sessions.put(&other);
        sessions.put(&before);
        sessions.remove(&other.token);
        let after = Session { number: 7, ..before };
        sessions.put(&after);
        assert_eq!(sessions.get(&after.token), Some(&after));
        sessions.remove(&after.token);
        assert_eq!(sessions.get(&after.token), None, "its first place is free, and it was in the second");
    }
}
