//! Registering, logging in and out, deleting an account.

use super::context::{RpcContext, found, valid_session};
use super::errors::Fault;
use super::{auth, convert};
use crate::clock;
use chat_core::account::check_password;
use chat_core::{
    AccountId, Command, DisplayName, Lookup as _, Outcome, PasswordHash, Read as _, Rejection, Username, repeated,
};
use chat_proto::v1;
use tonic::Request;
use zeroize::Zeroizing;

/// Outcomes answer the command that was carried out: anything else is a mistake of ours.
const OTHER_OUTCOME: &str = "the outcome of another request came back";

pub(super) async fn register(
    context: &RpcContext,
    request: v1::RegisterRequest,
) -> Result<v1::RegisterResponse, Fault> {
    let v1::RegisterRequest { key, name, display_name, password } = request;
    let password = Zeroizing::new(password);
    let (key, name) = (convert::key(&key)?, Username::parse(&name)?);
    let display_name =
        if display_name.is_empty() { DisplayName::of(&name) } else { DisplayName::parse(&display_name)? };
    check_password(&password)?;
    let command = |password| {
        let (name, display_name) = (name.clone(), display_name.clone());
        Command::Register { key, name, display_name, password, at: clock::wall() }
    };
    // Hashing is dear, so what can be known without it comes first. The password is no part of what makes it a repetition.
    let (wanted, without_password) = (name.clone(), command(no_password()?));
    let look = context.read_as_leader(move |state| {
        if let Some(settled) = repeated(state, &without_password)? {
            return Ok(settled.map(Some));
        }
        // For good: names are never given out again.
        let taken = state.account_by_name(&wanted)?.is_some();
        Ok(if taken { Err(Rejection::NameTaken { name: wanted.clone() }) } else { Ok(None) })
    });
    let outcome = match look.await?.value {
        Some(settled) => settled,
        None => {
            let password = context.on_pool(context.passwords.hash(password)).await?;
            context.carry_out(command(password)).await?.0
        }
    };
    let Outcome::Registered { account, duplicate } = outcome else { return Err(Fault::internal(OTHER_OUTCOME)) };
    Ok(v1::RegisterResponse { account: Some(convert::account(&account)), duplicate })
}

/// Stands in a command that is only compared, never proposed.
fn no_password() -> Result<PasswordHash, Fault> {
    PasswordHash::new("$").map_err(|_| Fault::internal("no stand-in for a password hash"))
}

/// What is known of a name and key before the password is verified.
enum Known {
    /// The session was opened under this key before.
    Opened(Outcome),
    /// The account, if somebody has the name.
    Holder(Option<(AccountId, PasswordHash)>),
}

pub(super) async fn log_in(context: &RpcContext, request: v1::LogInRequest) -> Result<v1::LogInResponse, Fault> {
    let v1::LogInRequest { key, name, password, token } = request;
    let password = Zeroizing::new(password);
    let (key, name, token) = (convert::key(&key)?, Username::parse(&name)?, auth::token_hash(&token)?);
    // Nobody has such a password, and a long one would cost more than it should.
    check_password(&password).map_err(|_| Rejection::WrongCredentials)?;
    let command = move |account, at, expires_at| Command::OpenSession { key, account, token, at, expires_at };
    let now = clock::wall();
    let look = context.read_as_leader(move |state| {
        let Some(account) = state.account_by_name(&name)? else { return Ok(Ok(Known::Holder(None))) };
        // A conflict is not told before the password was right: it would say that there is such an account.
        if let Some(Ok(outcome)) = repeated(state, &command(account.id, now, now))? {
            return Ok(Ok(Known::Opened(outcome)));
        }
        Ok(Ok(Known::Holder(state.password(account.id)?.map(|hash| (account.id, hash)))))
    });
    let outcome = match look.await?.value {
        Known::Opened(outcome) => outcome,
        Known::Holder(holder) => {
            let (account, hash) = holder.unzip();
            let right = context.on_pool(context.passwords.verify(password, hash)).await?;
            let account = account.filter(|_| right).ok_or(Rejection::WrongCredentials)?;
            let at = clock::wall();
            context.carry_out(command(account, at, context.expiry(at))).await?.0
        }
    };
    let Outcome::SessionOpened { account, expires_at, .. } = outcome else {
        return Err(Fault::internal(OTHER_OUTCOME));
    };
    Ok(v1::LogInResponse { account: Some(convert::account(&account)), expires_at_ms: expires_at.0 })
}

pub(super) async fn log_out(
    context: &RpcContext,
    request: Request<v1::LogOutRequest>,
) -> Result<v1::LogOutResponse, Fault> {
    let token = auth::bearer(request.metadata())?;
    context.sessions.forget(&token);
    // Only a session that is there is worth an entry in the log.
    let look = context.read_as_leader(move |state| Ok(Ok(state.session(&token)?.is_some())));
    if look.await?.value {
        context.carry_out(Command::CloseSession { token, at: clock::wall() }).await?;
    }
    Ok(v1::LogOutResponse {})
}

pub(super) async fn delete_account(
    context: &RpcContext,
    request: Request<v1::DeleteAccountRequest>,
) -> Result<v1::DeleteAccountResponse, Fault> {
    let session = auth::bearer(request.metadata())?;
    let v1::DeleteAccountRequest { key, password, refuse_if_undelivered } = request.into_inner();
    let password = Zeroizing::new(password);
    let command =
        Command::DeleteAccount { key: convert::key(&key)?, session, refuse_if_undelivered, at: clock::wall() };
    let settling = command.clone();
    // A repetition comes first: it has no session any more, and no password.
    let look = context.read_as_leader(move |state| {
        if let Some(settled) = repeated(state, &settling)? {
            return Ok(settled.map(Deleting::Done));
        }
        let session = found!(valid_session(state, &session)?);
        Ok(Ok(Deleting::New(state.password(session.account)?)))
    });
    let outcome = match look.await?.value {
        Deleting::Done(outcome) => outcome,
        Deleting::New(hash) => {
            check_password(&password).map_err(|_| Rejection::WrongCredentials)?;
            if !context.on_pool(context.passwords.verify(password, hash)).await? {
                return Err(Rejection::WrongCredentials.into());
            }
            context.carry_out_as(&session, command).await?.0
        }
    };
    let Outcome::Deleted { discarded, duplicate } = outcome else { return Err(Fault::internal(OTHER_OUTCOME)) };
    context.sessions.forget(&session);
    Ok(v1::DeleteAccountResponse { discarded, duplicate })
}

/// What is known of a deletion before the password is verified.
enum Deleting {
    /// It was carried out before.
    Done(Outcome),
    /// It was not, and this is the password's hash.
    New(Option<PasswordHash>),
}
