//! Sending one message, and acknowledging what came.

use super::context::{RpcContext, found, valid_session};
use super::errors::Fault;
use super::{auth, convert};
use crate::clock;
use chat_core::{Command, Lookup as _, Outcome};
use chat_proto::v1;
use tonic::Request;

pub(super) async fn send(context: &RpcContext, request: Request<v1::SendRequest>) -> Result<v1::SendResponse, Fault> {
    let token = auth::bearer(request.metadata())?;
    let command = convert::send(request.into_inner(), token)?;
    context.authenticate(token).await?;
    let (outcome, copies) = context.carry_out_as(&token, command).await?;
    convert::sent(&outcome, copies).ok_or_else(|| Fault::internal("the outcome of another request came back"))
}

pub(super) async fn acknowledge(
    context: &RpcContext,
    request: Request<v1::AcknowledgeRequest>,
) -> Result<v1::AcknowledgeResponse, Fault> {
    let token = auth::bearer(request.metadata())?;
    let &v1::AcknowledgeRequest { delivered, read } = request.get_ref();
    let look = context.read_as_leader(move |state| {
        let session = found!(valid_session(state, &token)?);
        let marks = state.marks(session.account)?;
        Ok(marks.acknowledged(delivered, read).map(|after| (marks, after)))
    });
    // Marks only grow: what they have reached already needs no entry in the log.
    let (before, after) = look.await?.value;
    if before == after {
        return Ok(v1::AcknowledgeResponse { marks: Some(convert::marks(before)) });
    }
    let command = Command::Acknowledge { session: token, delivered, read, at: clock::wall() };
    let (Outcome::Marked(marks), _) = context.carry_out_as(&token, command).await? else {
        return Err(Fault::internal("the outcome of another request came back"));
    };
    Ok(v1::AcknowledgeResponse { marks: Some(convert::marks(marks)) })
}
