//! ② What clients and operators ask, in wire types: they stop here, and core types go on from here.
//!
//! Nothing is decided here that the log does not decide again: what these handlers look up beforehand only keeps work that
//! must fail away from the log. A change ends in one of three ways: with its outcome, with an error that says that nothing was done, or
//! with UNKNOWN_OUTCOME.
//!
//! | file | what |
//! | --- | --- |
//! | `chat`, `admin` | the two services, call by call |
//! | `accounts`, `listings`, `sending` | what the calls do |
//! | `send_stream`, `inbox` | the two streams |
//! | `context` | what they share: asking the driver, reading, each within a deadline |
//! | `auth`, `passwords` | whose call it is |
//! | `leadership` | for how long a stream may go on here |
//! | `convert`, `errors` | wire types from and to core types |
//!
//! Every wait has an end: a deadline, the client's going away (tonic drops the handler then, and enforces the client's own timeout), or
//! the shutdown token. Streams have no tasks of their own: they are polled by whoever sends their responses, so they end with them, and a
//! client that does not read holds up only itself.

mod accounts;
mod admin;
mod auth;
mod chat;
mod context;
mod convert;
mod errors;
mod inbox;
mod leadership;
mod listings;
mod passwords;
mod send_stream;
mod sending;

pub use admin::AdminRpc;
pub(crate) use admin::ask_status;
pub use chat::ChatRpc;
pub use context::RpcContext;
