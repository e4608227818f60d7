//! Carrying out one command: deterministic, and total.
//!
//! Always in the same order: has it been carried out already; may it be; do it; remember it.

use std::sync::Arc;

use crate::session::{EXPIRED_PER_OPEN, MAX_PER_ACCOUNT};
use crate::{
    Account, AccountId, Answer, BodyHash, Command, DisplayName, Event, Lookup, Message, MessageId, MessageText,
    Outcome, Party, PasswordHash, Provenance, Rejection, RequestKey, RequestRecord, Scope, Session, Store, Timestamp,
    TokenHash, Username,
};

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// For who asked.
    pub result: Result<Outcome, Rejection>,
    /// For who listens, in order. Empty when nothing changed.
    pub events: Vec<Event>,
}

/// Carries out `command`, which the log entry at `provenance` carried. The error is the store's own; the caller
/// then abandons the transaction.
pub fn apply<S: Store>(store: &mut S, provenance: Provenance, command: &Command) -> Result<Applied, S::Error> {
    let mut events = Vec::new();
    let Some(scope) = scope(store, command)? else {
        return Ok(Applied { result: Err(Rejection::SessionInvalid), events });
    };
    let claim = Claim::new(command, scope);
    if let Some(claim) = &claim
        && let Some(result) = claim.settled(store)?
    {
        return Ok(Applied { result, events });
    }
    let result = carry_out(store, provenance, scope, command, &mut events)?;
    if let (Some(claim), Ok(outcome)) = (claim, &result)
        && let Some(answer) = Answer::of(outcome)
    {
        store.insert_request(&claim.key, claim.scope, &RequestRecord { body: claim.body, answer })?;
    }
    Ok(Applied { result, events })
}

/// What `command` would get for having been carried out before: its first outcome, or
/// [`Rejection::KeyConflict`]. `None` if it is new.
///
/// For checks that a repetition can no longer pass, such as the password of an account that it has deleted.
pub fn repeated<R: Lookup>(store: &R, command: &Command) -> Result<Option<Result<Outcome, Rejection>>, R::Error> {
    let claim = scope(store, command)?.and_then(|scope| Claim::new(command, scope));
    claim.map_or(Ok(None), |claim| claim.settled(store))
}

/// What came of a command, for who asked.
type Verdict = Result<Outcome, Rejection>;

/// A key, and what it is used for.
struct Claim {
    key: RequestKey,
    scope: Scope,
    body: BodyHash,
}

impl Claim {
    fn new(command: &Command, scope: Scope) -> Option<Self> {
        Some(Claim { key: command.key()?, scope, body: BodyHash::of(command)? })
    }

    fn settled<R: Lookup>(&self, store: &R) -> Result<Option<Verdict>, R::Error> {
        let Some(record) = store.request(&self.key, self.scope)? else { return Ok(None) };
        if record.body != self.body {
            return Ok(Some(Err(Rejection::KeyConflict)));
        }
        let duplicate = true;
        let outcome = match record.answer {
            Answer::Registered { account } => {
                store.account(account)?.map(|account| Outcome::Registered { account, duplicate })
            }
            Answer::SessionOpened { account, expires_at } => {
                store.account(account)?.map(|account| Outcome::SessionOpened { account, expires_at, duplicate })
            }
            Answer::Sent { id, seq, at, provenance } => Some(Outcome::Sent { id, seq, at, provenance, duplicate }),
            Answer::Deleted { discarded } => Some(Outcome::Deleted { discarded, duplicate }),
        };
        // Accounts leave tombstones, so there always is an outcome.
        Ok(outcome.map(Ok))
    }
}

/// Within what the command's key is unique; `None` if it needs a session and has none.
fn scope<R: Lookup>(store: &R, command: &Command) -> Result<Option<Scope>, R::Error> {
    match command {
        Command::Send { session, at, .. } => {
            Ok(valid_session(store, session, *at)?.map(|session| Scope::Account(session.account)))
        }
        _ => Ok(Some(Scope::Service)),
    }
}

fn carry_out<S: Store>(
    store: &mut S,
    provenance: Provenance,
    scope: Scope,
    command: &Command,
    events: &mut Vec<Event>,
) -> Result<Verdict, S::Error> {
    match command {
        Command::Register { name, display_name, password, at, .. } => {
            register(store, name, display_name, password, *at)
        }
        &Command::OpenSession { account, token, at, expires_at, .. } => {
            open_session(store, account, token, at, expires_at, events)
        }
        Command::CloseSession { token, .. } => close_session(store, token, events),
        Command::Send { to, text, at, .. } => match scope {
            Scope::Account(from) => send(store, provenance, from, to, text, *at, events),
            Scope::Service => Ok(Err(Rejection::SessionInvalid)),
        },
        Command::Acknowledge { session, delivered, read, at } => {
            acknowledge(store, session, *delivered, *read, *at, events)
        }
        Command::DeleteAccount { session, refuse_if_undelivered, at, .. } => {
            delete_account(store, session, *refuse_if_undelivered, *at, events)
        }
    }
}

fn valid_session<R: Lookup>(store: &R, token: &TokenHash, at: Timestamp) -> Result<Option<Session>, R::Error> {
    Ok(store.session(token)?.filter(|session| session.valid_at(at)))
}

fn register<S: Store>(
    store: &mut S,
    name: &Username,
    display_name: &DisplayName,
    password: &PasswordHash,
    at: Timestamp,
) -> Result<Verdict, S::Error> {
    if store.account_by_name(name)?.is_some() {
        return Ok(Err(Rejection::NameTaken { name: name.clone() }));
    }
    let mut counters = store.counters()?;
    counters.accounts += 1;
    store.set_counters(counters)?;
    let account = Account {
        id: AccountId(counters.accounts),
        name: name.clone(),
        display_name: display_name.clone(),
        created_at: at,
        deleted: false,
    };
    store.insert_account(&account, password)?;
    Ok(Ok(Outcome::Registered { account, duplicate: false }))
}

fn open_session<S: Store>(
    store: &mut S,
    account: AccountId,
    token: TokenHash,
    at: Timestamp,
    expires_at: Timestamp,
    events: &mut Vec<Event>,
) -> Result<Verdict, S::Error> {
    // The password was right when the primary looked; the account can have been deleted since.
    let Some(account) = store.account(account)?.filter(|account| !account.deleted) else {
        return Ok(Err(Rejection::WrongCredentials));
    };
    if store.session(&token)?.is_some() {
        return Ok(Err(Rejection::TokenInvalid));
    }
    for session in store.expired_sessions(at, EXPIRED_PER_OPEN)? {
        end_session(store, session.token, events)?;
    }
    let open = store.sessions_of(account.id)?;
    let surplus = (open.len() + 1).saturating_sub(MAX_PER_ACCOUNT);
    for session in &open[..surplus] {
        end_session(store, session.token, events)?;
    }
    let mut counters = store.counters()?;
    counters.sessions += 1;
    store.set_counters(counters)?;
    let number = counters.sessions;
    store.insert_session(&Session { token, account: account.id, number, opened_at: at, expires_at })?;
    Ok(Ok(Outcome::SessionOpened { account, expires_at, duplicate: false }))
}

fn close_session<S: Store>(store: &mut S, token: &TokenHash, events: &mut Vec<Event>) -> Result<Verdict, S::Error> {
    if store.session(token)?.is_some() {
        end_session(store, *token, events)?;
    }
    Ok(Ok(Outcome::SessionClosed))
}

fn end_session<S: Store>(store: &mut S, token: TokenHash, events: &mut Vec<Event>) -> Result<(), S::Error> {
    store.remove_session(&token)?;
    events.push(Event::SessionEnded { token });
    Ok(())
}

fn send<S: Store>(
    store: &mut S,
    provenance: Provenance,
    from: AccountId,
    to: &Username,
    text: &MessageText,
    at: Timestamp,
    events: &mut Vec<Event>,
) -> Result<Verdict, S::Error> {
    let Some(recipient) = store.recipient(to)? else {
        return Ok(Err(Rejection::NoSuchRecipient { name: to.clone() }));
    };
    let Some(sender) = store.name(from)? else { return Ok(Err(Rejection::SessionInvalid)) };
    let mut counters = store.counters()?;
    counters.messages += 1;
    let mut marks = store.marks(recipient)?;
    marks.last += 1;
    store.set_counters(counters)?;
    store.set_marks(recipient, marks)?;
    let (id, seq) = (MessageId(counters.messages), marks.last);
    let message = Arc::new(Message {
        id,
        seq,
        from: Party { id: from, name: sender },
        to: Party { id: recipient, name: to.clone() },
        text: text.clone(),
        sent_at: at,
        sender_deleted: false,
    });
    store.insert_message(&message)?;
    events.push(Event::Delivered { recipient, message });
    Ok(Ok(Outcome::Sent { id, seq, at, provenance, duplicate: false }))
}

fn acknowledge<S: Store>(
    store: &mut S,
    session: &TokenHash,
    delivered: Option<u64>,
    read: Option<u64>,
    at: Timestamp,
    events: &mut Vec<Event>,
) -> Result<Verdict, S::Error> {
    let Some(Session { account, .. }) = valid_session(store, session, at)? else {
        return Ok(Err(Rejection::SessionInvalid));
    };
    let before = store.marks(account)?;
    let marks = match before.acknowledged(delivered, read) {
        Ok(marks) => marks,
        Err(rejection) => return Ok(Err(rejection)),
    };
    if marks != before {
        store.set_marks(account, marks)?;
        events.push(Event::MarksMoved { account, marks });
    }
    Ok(Ok(Outcome::Marked(marks)))
}

fn delete_account<S: Store>(
    store: &mut S,
    session: &TokenHash,
    refuse_if_undelivered: bool,
    at: Timestamp,
    events: &mut Vec<Event>,
) -> Result<Verdict, S::Error> {
    let Some(Session { account, .. }) = valid_session(store, session, at)? else {
        return Ok(Err(Rejection::SessionInvalid));
    };
    let marks = store.marks(account)?;
    let discarded = marks.undelivered();
    if refuse_if_undelivered && discarded > 0 {
        return Ok(Err(Rejection::UndeliveredMessages { count: discarded }));
    }
    for session in store.sessions_of(account)? {
        end_session(store, session.token, events)?;
    }
    store.discard_after(account, marks.delivered)?;
    store.bury_account(account)?;
    events.push(Event::AccountDeleted { account });
    Ok(Ok(Outcome::Deleted { discarded, duplicate: false }))
}
