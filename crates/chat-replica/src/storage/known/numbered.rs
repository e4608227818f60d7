//! What accounts have, by their ids.
//!
//! Ids are given out one after the other, so as many accounts as there are places have one each; with more, the last that was used has it.

use super::table::Table;
use chat_core::{AccountId, Marks, Username};

/// How far mailboxes have come.
#[derive(Debug)]
pub(super) struct MarksTable {
    /// An account, and its marks in the order in which [`Marks`] has them; all 0 where there is none.
    places: Table,
}

impl MarksTable {
    /// None yet.
    pub fn new(places: Table) -> MarksTable {
        MarksTable { places }
    }

    fn place(&self, account: AccountId) -> usize {
        (account.0 % self.places.len() as u64) as usize
    }

    pub fn is_free(&self, account: AccountId) -> bool {
        self.places.row(self.place(account))[0] == 0
    }

    pub fn get(&self, account: AccountId) -> Option<Marks> {
        let [id, read, delivered, last] = self.places.row(self.place(account)).map(u64::from);
        (id == account.0 && id != 0).then_some(Marks { read, delivered, last })
    }

    /// Reads something of where an account's marks can be.
    pub fn touch(&self, account: AccountId) -> u32 {
        self.places.row(self.place(account))[0]
    }

    pub fn put(&mut self, account: AccountId, Marks { read, delivered, last }: Marks) {
        let narrow = |number: u64| u32::try_from(number).ok();
        let row = [account.0, read, delivered, last].map(narrow);
        let place = self.place(account);
        // What does not fit is not kept, nor what was there before.
        let row = match row {
            [Some(id), Some(read), Some(delivered), Some(last)] => [id, read, delivered, last],
            _ => [0; 4],
        };
        self.places.set(place, row);
    }
}

/// What accounts are called, deleted or not.
#[derive(Debug)]
pub(super) struct Called {
    places: Vec<Option<(AccountId, Username)>>,
    room: usize,
}

impl Called {
    pub fn new(room: usize) -> Called {
        Called { places: Vec::new(), room }
    }

    fn place(&self, account: AccountId) -> usize {
        (account.0 % self.room as u64) as usize
    }

    pub fn get(&self, account: AccountId) -> Option<&Username> {
        let (id, name) = self.places.get(self.place(account))?.as_ref()?;
        (*id == account).then_some(name)
    }

    pub fn put(&mut self, account: AccountId, name: &Username) {
        let place = self.place(account);
        if place >= self.places.len() {
            self.places.resize(place + 1, None);
        }
        self.places[place] = Some((account, name.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_called_by_its_own_name_or_not_known() {
        let mut called = Called::new(10);
        let name = |name| Username::parse(name).expect("a name");
        let (one, other) = (AccountId(7), AccountId(17));
        assert_eq!(called.get(one), None);
        called.put(one, &name("anna"));
        assert_eq!((called.get(one), called.get(other), called.get(AccountId(9))), (Some(&name("anna")), None, None));
        called.put(other, &name("bert"));
        assert_eq!((called.get(one), called.get(other)), (None, Some(&name("bert"))), "the last has the place");
    }
}
