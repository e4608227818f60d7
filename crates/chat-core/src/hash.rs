//! One number for the whole state, so that replicas can tell that they agree.

use crate::{Account, Answer, Counters, PasswordHash, Provenance, Read, RequestRecord, Row, Session};

/// The BLAKE3 hash of the whole state. Equal states have equal hashes in every kind of store, and on every
/// machine. Reads everything: for tests, snapshots and an operator's check, not for every command.
pub fn state_hash<R: Read>(store: &R) -> Result<[u8; 32], R::Error> {
    let mut hash = StateHash(blake3::Hasher::new());
    let Counters { accounts, messages, sessions } = store.counters()?;
    hash.number(accounts).number(messages).number(sessions);
    store.for_each_row(&mut |row| hash.row(&row))?;
    Ok(*hash.0.finalize().as_bytes())
}

// Written out by hand, so that neither a library nor a new field changes the hash unnoticed.
struct StateHash(blake3::Hasher);

impl StateHash {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn time(&mut self, time: crate::Timestamp) -> &mut Self {
        self.0.update(&time.0.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    fn row(&mut self, row: &Row<'_>) {
        match *row {
            Row::Account { account, password } => self.account(account, password),
            Row::Session(session) => self.session(session),
            Row::Mailbox { account, marks } => {
                self.number(3).number(account.0).number(marks.read).number(marks.delivered).number(marks.last);
            }
            Row::Message { id, seq, from, to, text, sent_at } => {
                self.number(4).number(id.0).number(seq).number(from.0).number(to.0);
                self.bytes(text.as_str().as_bytes()).time(sent_at);
            }
            Row::Request { key, scope, record } => {
                self.number(5).bytes(&key.0).number(scope.as_u64());
                self.record(record);
            }
        }
    }

    fn account(&mut self, account: &Account, password: Option<&PasswordHash>) {
        let Account { id, name, display_name, created_at, deleted } = account;
        self.number(1).number(id.0).bytes(name.as_str().as_bytes()).bytes(display_name.as_str().as_bytes());
        self.time(*created_at).number(u64::from(*deleted));
        self.bytes(password.map_or("", PasswordHash::as_phc).as_bytes());
    }

    fn session(&mut self, session: &Session) {
        let Session { token, account, number, opened_at, expires_at } = session;
        self.number(2).bytes(&token.0).number(account.0).number(*number).time(*opened_at).time(*expires_at);
    }

    fn record(&mut self, record: &RequestRecord) {
        let RequestRecord { body, answer } = record;
        self.bytes(&body.0);
        match *answer {
            Answer::Registered { account } => {
                self.number(1).number(account.0);
            }
            Answer::SessionOpened { account, expires_at } => {
                self.number(2).number(account.0).time(expires_at);
            }
            Answer::Sent { id, seq, at, provenance: Provenance { index, round, replica } } => {
                self.number(3).number(id.0).number(seq).time(at);
                self.number(index).number(round).number(u64::from(replica));
            }
            Answer::Deleted { discarded } => {
                self.number(4).number(discarded);
            }
        }
    }
}
