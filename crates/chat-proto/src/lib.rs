//! Wire types of the chat service, generated from `proto/chat/v1/*.proto`: what clients ask
//! ([`v1::chat_service_client`]), what operators ask ([`v1::admin_service_client`]), and what replicas say to each
//! other ([`v1::replica_service_client`]). The comments in those files are the reference.
//!
//! Beside the generated code there is only how three things travel: an error's typed detail in a gRPC status ([`to_status`],
//! [`from_status`]), the cluster's secret in a request's metadata ([`ClusterSecret`]), and a page of messages ([`HistoryPage`]).

pub mod page;
mod secret;

pub use page::HistoryPage;
pub use secret::ClusterSecret;

/// Package `chat.v1`.
pub mod v1 {
    tonic::include_proto!("chat.v1");
    include!(concat!(env!("OUT_DIR"), "/services/chat.v1.rs"));
}

use prost::Message as _;
use tonic::{Code, Status};

const DETAIL_TYPE: &str = "type.googleapis.com/chat.v1.ErrorDetail";

/// A gRPC status whose details are a `google.rpc.Status` holding `detail`.
pub fn to_status(code: Code, message: impl Into<String>, detail: &v1::ErrorDetail) -> Status {
    let message = message.into();
    let details = tonic_types::pb::Status {
        code: code as i32,
        message: message.clone(),
        details: vec![prost_types::Any { type_url: DETAIL_TYPE.into(), value: detail.encode_to_vec() }],
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// The typed detail of a status made by [`to_status`]; `None` where there is none or it cannot be read.
pub fn from_status(status: &Status) -> Option<v1::ErrorDetail> {
    let outer = tonic_types::pb::Status::decode(status.details()).ok()?;
    let any = outer.details.into_iter().find(|any| any.type_url == DETAIL_TYPE)?;
    v1::ErrorDetail::decode(any.value.as_slice()).ok()
}
