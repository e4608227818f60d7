//! A replica of the chat service.

pub mod clock;
pub mod driver;
pub mod handle;
pub mod node;
pub mod options;
pub mod protocol;
pub mod rpc;
pub mod server;
pub mod storage;
pub mod subscribers;
pub mod transport;
