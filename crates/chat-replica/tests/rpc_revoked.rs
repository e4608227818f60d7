//! What an open stream of sends may still do when its session has ended.

#[allow(dead_code, reason = "every test file uses its own part of it")]
mod rpc_harness;

use chat_proto::v1::{self, Reason, tagged_result};
use rpc_harness::{User, alone, ok, soon, text};
use tokio_stream::wrappers::ReceiverStream;

#[tokio::test]
async fn a_revoked_session_writes_no_more_into_the_log() {
    let replica = alone().await;
    let ann = User::new(&replica, "ann").await;
    let (sender, frames) = tokio::sync::mpsc::channel(1);
    let mut stream = ok(ann.client.clone().send_stream(ann.asks(ReceiverStream::new(frames)))).await;
    ok(ann.client.clone().log_out(ann.asks(v1::LogOutRequest {}))).await;
    let mut ends = Vec::new();
    for tag in 0..3 {
        let sends = vec![v1::TaggedSend { tag, send: Some(text("ann", "to myself")) }];
        sender.send(v1::SendStreamRequest { sends }).await.unwrap();
        let results = soon(stream.message()).await.unwrap().unwrap().results;
        let Some(tagged_result::Result::Failure(failure)) = &results[0].result else { panic!("{results:?}") };
        assert_eq!(failure.detail.as_ref().unwrap().reason(), Reason::SessionInvalid);
        ends.push(replica.server.handle().status().borrow().last);
    }
    assert_eq!(ends[1], ends[2], "what cannot succeed any more is not worth an entry");
}
