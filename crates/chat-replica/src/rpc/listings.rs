//! Who one is, who else there is, and what was said.

use super::context::{Looked, RpcContext, Seen, found, valid_session};
use super::convert::Page;
use super::errors::Fault;
use super::{auth, convert};
use crate::storage::state::SqliteState;
use crate::subscribers::size;
use bytes::Bytes;
use chat_core::store::page_limit;
use chat_core::{Account, AccountId, Lookup as _, Message, MessageId, Pattern, Read as _, Rejection, Username};
use chat_proto::{HistoryPage, v1};
use tonic::Request;

/// How many bytes of messages are in one answer, about: clients take 4 MiB.
pub(super) const ANSWER_BYTES: usize = 1 << 20;
/// How many messages are read at once: what is read and not wanted is bounded, 32 times the largest text.
pub(super) const CHUNK: usize = 32;

pub(super) async fn who_am_i(
    context: &RpcContext,
    request: Request<v1::WhoAmIRequest>,
) -> Result<v1::WhoAmIResponse, Fault> {
    let token = auth::bearer(request.metadata())?;
    let look = context.read_as_leader(move |state| {
        let session = found!(valid_session(state, &token)?);
        let account = found!(state.account(session.account)?.ok_or(Rejection::SessionInvalid));
        Ok(Ok((account, state.marks(session.account)?)))
    });
    let (account, marks) = look.await?.value;
    Ok(v1::WhoAmIResponse { account: Some(convert::account(&account)), marks: Some(convert::marks(marks)) })
}

pub(super) async fn list_accounts(
    context: &RpcContext,
    request: Request<v1::ListAccountsRequest>,
) -> Result<v1::ListAccountsResponse, Fault> {
    let token = auth::bearer(request.metadata())?;
    let v1::ListAccountsRequest { pattern, after, limit, min_index } = request.into_inner();
    let (pattern, limit) = (Pattern::parse(&pattern)?, page_limit(limit)?);
    let after = if after.is_empty() { None } else { Some(Username::parse(&after)?) };
    let look = context.read(min_index, move |state| {
        found!(valid_session(state, &token)?);
        // One more than asked for says whether there are more.
        Ok(Ok(state.accounts(&pattern, after.as_ref(), limit + 1)?))
    });
    let Seen { value: mut accounts, applied } = look.await?;
    let more = accounts.len() > limit;
    accounts.truncate(limit);
    let accounts = accounts.iter().map(convert::account).collect();
    Ok(v1::ListAccountsResponse { accounts, more, applied_index: applied })
}

pub(super) async fn history(context: &RpcContext, request: Request<v1::HistoryRequest>) -> Result<HistoryPage, Fault> {
    let token = auth::bearer(request.metadata())?;
    let v1::HistoryRequest { with, before, limit, min_index } = request.into_inner();
    let (with, limit) = (Username::parse(&with)?, page_limit(limit)?);
    let look = context.read(min_index, move |state| {
        let me = found!(valid_session(state, &token)?).account;
        // A tombstone has a history, too.
        let Some(other) = state.account_by_name(&with)? else {
            return Ok(Err(Rejection::NoSuchAccount { name: with.clone() }));
        };
        let me = found!(state.account(me)?.ok_or(Rejection::SessionInvalid));
        conversation(state, (&me, &other), before.map(MessageId), limit).map(Ok)
    });
    let Seen { value: (messages, more), applied } = look.await?;
    Ok(HistoryPage { messages, more, applied_index: applied })
}

/// The newest messages before one, encoded, by ascending id, as many as are asked for and fit; and whether there are older ones.
fn conversation(
    state: &SqliteState<'_>,
    (me, other): (&Account, &Account),
    before: Option<MessageId>,
    limit: usize,
) -> rusqlite::Result<(Bytes, bool)> {
    let (mut page, mut more) = (Page::new(me, other), false);
    state.conversation_back((me, other), before, limit + 1, |found| {
        more = page.messages.len() == limit || page.messages.bytes() >= ANSWER_BYTES;
        if !more {
            page.push(&found);
        }
        Ok(!more)
    })?;
    Ok((page.messages.reversed(), more))
}

/// The messages of a mailbox after a position, as many as fit into one answer.
pub(super) fn mailbox(state: &SqliteState<'_>, account: AccountId, after: u64) -> Looked<Vec<Message>> {
    let (mut messages, mut bytes, mut position): (Vec<Message>, _, _) = (Vec::new(), 0, after);
    while bytes < ANSWER_BYTES && messages.len() < MAILBOX {
        let chunk = state.messages_after(account, position, CHUNK)?;
        let Some(last) = chunk.last() else { break };
        position = last.seq;
        bytes += chunk.iter().map(size).sum::<usize>();
        messages.extend(chunk);
    }
    Ok(Ok(messages))
}

/// How many messages of a mailbox are in one answer, about.
const MAILBOX: usize = 512;
