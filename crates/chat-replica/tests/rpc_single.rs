//! The calls of clients, on a cluster of one real replica: every rule that needs no second one.

#[allow(dead_code, reason = "every test file uses its own part of it")]
mod rpc_harness;

use chat_proto::v1::admin_service_client::AdminServiceClient;
use chat_proto::v1::chat_service_client::ChatServiceClient;
use chat_proto::v1::{self, Reason, tagged_result};
use rpc_harness::*;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_registered_once() {
    let replica = alone().await;
    let mut client = ChatServiceClient::new(replica.channel.clone());
    let request = v1::RegisterRequest { display_name: "Ann ☃".into(), ..registration("Ann.B") };
    let first = ok(client.register(request.clone())).await;
    let account = first.account.clone().unwrap();
    assert_eq!((&account.name[..], &account.display_name[..], first.duplicate), ("ann.b", "Ann ☃", false));

    let second = ok(client.register(request.clone())).await;
    assert_eq!((second.account, second.duplicate), (first.account, true));
    let other = v1::RegisterRequest { name: "ben".into(), ..request };
    assert_eq!(refusal(client.register(other)).await, (Code::FailedPrecondition, Reason::KeyConflict));
    assert_eq!(refusal(client.register(registration("ann.b"))).await, (Code::AlreadyExists, Reason::NameTaken));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_checked() {
    let replica = alone().await;
    let mut client = ChatServiceClient::new(replica.channel.clone());
    let good = registration("ann");
    for (bad, why) in [
        (v1::RegisterRequest { name: "-ann".into(), ..good.clone() }, Reason::NameInvalid),
        (v1::RegisterRequest { display_name: "a\nb".into(), ..good.clone() }, Reason::DisplayNameInvalid),
        (v1::RegisterRequest { password: "1234567".into(), ..good.clone() }, Reason::PasswordInvalid),
        (v1::RegisterRequest { password: "x".repeat(257), ..good.clone() }, Reason::PasswordInvalid),
        (v1::RegisterRequest { key: vec![1; 17].into(), ..good.clone() }, Reason::KeyInvalid),
    ] {
        assert_eq!(refusal(client.register(bad)).await, (Code::InvalidArgument, why));
    }
    assert!(!ok(client.register(good)).await.duplicate, "refusals leave no trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_and_ends() {
    let replica = alone().await;
    let ann = User::new(&replica, "ann").await;
    let mut client = ann.client.clone();
    assert_eq!(ann.who_am_i().await.unwrap().account.unwrap().name, "ann");

    let unauthenticated = Code::Unauthenticated;
    let wrong = v1::LogInRequest { password: "wrong horse".into(), ..login("ann", [1; 32]) };
    assert_eq!(refusal(client.log_in(wrong)).await, (unauthenticated, Reason::WrongCredentials));
    let nobody = login("nobody", [1; 32]);
    assert_eq!(refusal(client.log_in(nobody)).await, (unauthenticated, Reason::WrongCredentials));
    let short = v1::LogInRequest { token: vec![1; 31].into(), ..login("ann", [1; 32]) };
    assert_eq!(refusal(client.log_in(short)).await, (Code::InvalidArgument, Reason::TokenInvalid));

    let again = login("ann", [2; 32]);
    let first = ok(client.log_in(again.clone())).await;
    assert_eq!(ok(client.log_in(again.clone())).await, first);
    let in_use = v1::LogInRequest { key: key().into(), ..again };
    assert_eq!(refusal(client.log_in(in_use)).await, (Code::InvalidArgument, Reason::TokenInvalid));

    let mut inbox = ann.inbox(None).await.unwrap();
    ok(client.log_out(ann.asks(v1::LogOutRequest {}))).await;
    ok(client.log_out(ann.asks(v1::LogOutRequest {}))).await;
    let ended = (unauthenticated, Reason::SessionInvalid);
    assert_eq!(inbox.end().await, ended);
    assert_eq!(refusal(ann.who_am_i()).await, ended);
    assert_eq!(refusal(ann.send(text("ann", "hello"))).await, ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_nothing_is_told() {
    let replica = alone().await;
    let mut client = ChatServiceClient::new(replica.channel.clone());
    let invalid = (Code::Unauthenticated, Reason::SessionInvalid);
    assert_eq!(refusal(client.who_am_i(v1::WhoAmIRequest {})).await, invalid);
    assert_eq!(refusal(client.list_accounts(v1::ListAccountsRequest::default())).await, invalid);
    assert_eq!(refusal(client.inbox(v1::InboxRequest::default())).await, invalid);
    let mut stranger = Request::new(text("ann", "hello"));
    let token = format!("Bearer {}", "ab".repeat(32));
    stranger.metadata_mut().insert("authorization", token.parse().unwrap());
    assert_eq!(refusal(client.send(stranger)).await, invalid);
    assert_eq!(refusal(client.send_stream(tokio_stream::empty())).await, invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_sent_once_and_says_where_it_is() {
    let replica = alone().await;
    let (ann, ben) = (User::new(&replica, "ann").await, User::new(&replica, "ben").await);
    let request = text("Ben", "hello");
    let first = ann.send(request.clone()).await.unwrap();
    assert_eq!((first.seq, first.copies, first.duplicate), (1, 1, false));
    assert!(first.index > 0 && first.epoch.unwrap().replica == 1 && first.sent_at_ms > 0);

    let again = User::again(&replica, "ann").await;
    let second = again.send(request.clone()).await.unwrap();
    assert_eq!(second, v1::SendResponse { duplicate: true, ..first }, "another session, same account");
    let other = v1::SendRequest { text: "hullo".into(), ..request };
    assert_eq!(refusal(ann.send(other)).await, (Code::FailedPrecondition, Reason::KeyConflict));
    assert_eq!(ben.marks().await, (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_checked() {
    let replica = alone().await;
    let ann = User::new(&replica, "ann").await;
    assert_eq!(refusal(ann.send(text("nobody", "hello"))).await, (Code::NotFound, Reason::NoSuchRecipient));
    assert_eq!(refusal(ann.send(text("ann", ""))).await, (Code::InvalidArgument, Reason::TextEmpty));
    let large = ann.send(text("ann", &"x".repeat(65_537))).await.unwrap_err();
    assert_eq!(reason(&large), (Code::InvalidArgument, Reason::TextTooLarge));
    assert_eq!(chat_proto::from_status(&large).unwrap().limit, Some(65_536));
    assert!(large.message().contains("65536"), "{large:?}");
    assert_eq!(ann.send(text("ann", &"x".repeat(65_536))).await.unwrap().seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_is_live_and_goes_on_where_it_was() {
    let replica = alone().await;
    let (ann, ben) = (User::new(&replica, "ann").await, User::new(&replica, "ben").await);
    ann.send(text("ben", "one")).await.unwrap();
    let mut inbox = ben.inbox(None).await.unwrap();
    assert_eq!(inbox.messages(1).await[0].text, "one");
    ann.send(text("ben", "two")).await.unwrap();
    let two = &inbox.messages(1).await[0];
    assert_eq!((two.seq, &two.text[..], &two.from[..], &two.to[..]), (2, "two", "ann", "ben"));

    let marks = ben.acknowledge(Some(1), None).await.unwrap();
    assert_eq!(marks, v1::Marks { read: 0, delivered: 1, last: 2 });
    assert_eq!(ben.acknowledge(Some(1), None).await.unwrap(), marks, "asking again changes nothing");
    assert_eq!(ben.acknowledge(None, None).await.unwrap(), marks);
    let beyond = ben.acknowledge(None, Some(3));
    assert_eq!(refusal(beyond).await, (Code::OutOfRange, Reason::MarkBeyondLast));

    let mut resumed = ben.inbox(None).await.unwrap();
    assert_eq!(resumed.messages(1).await[0].text, "two", "after the delivered mark");
    let mut behind = ben.inbox(Some(0)).await.unwrap();
    assert_eq!(behind.messages(2).await.len(), 2);
    assert_eq!(refusal(ben.inbox(Some(3))).await, (Code::OutOfRange, Reason::MarkBeyondLast));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_without_messages_beats() {
    let replica = alone().await;
    let ann = User::new(&replica, "ann").await;
    let mut inbox = ann.inbox(None).await.unwrap();
    for _ in 0..2 {
        let beat = tokio::time::timeout(std::time::Duration::from_secs(2), inbox.stream.message()).await;
        assert_eq!(beat.expect("within 2 s").unwrap().unwrap(), v1::InboxResponse { messages: vec![], last: 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_sends_keeps_their_order() {
    const SENDS: u64 = 5000;
    let replica = alone().await;
    let (ann, ben) = (User::new(&replica, "ann").await, User::new(&replica, "ben").await);
    let mut inbox = ben.inbox(None).await.unwrap();
    let send = |tag: u64| {
        let to = if tag.is_multiple_of(100) { "nobody" } else { "ben" };
        let send = if tag % 100 == 1 { None } else { Some(text(to, &tag.to_string())) };
        v1::TaggedSend { tag, send }
    };
    let frames: Vec<_> = (0..SENDS)
        .step_by(250)
        .map(|first| v1::SendStreamRequest { sends: (first..first + 250).map(send).collect() })
        .collect();
    let call = ann.asks(tokio_stream::iter(frames));
    let mut results = Vec::new();
    let mut stream = ok(ann.client.clone().send_stream(call)).await;
    while let Some(frame) = soon(stream.message()).await.unwrap() {
        results.extend(frame.results);
    }
    assert!(results.iter().map(|result| result.tag).eq(0..SENDS));
    let mut seqs = Vec::new();
    for result in results {
        match (result.tag % 100, result.result.unwrap()) {
            (0, tagged_result::Result::Failure(failure)) => {
                assert_eq!(
                    (failure.code, failure.detail.unwrap().reason()),
                    (Code::NotFound as i32, Reason::NoSuchRecipient)
                );
            }
            (1, tagged_result::Result::Failure(failure)) => {
                assert_eq!(failure.detail.unwrap().reason(), Reason::KeyInvalid, "a tag without a send");
            }
            (2.., tagged_result::Result::Sent(sent)) => seqs.push(sent.seq),
            (_, other) => panic!("{}: {other:?}", result.tag),
        }
    }
    let delivered = SENDS / 100 * 98;
    assert!(seqs.into_iter().eq(1..=delivered));
    let messages = inbox.messages(delivered as usize).await;
    assert!(messages.iter().map(|message| message.seq).eq(1..=delivered));
    let sent = (0..SENDS).filter(|tag| tag % 100 > 1).map(|tag| tag.to_string());
    assert!(messages.iter().map(|message| message.text.clone()).eq(sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_sends_stays_open_and_answers_meanwhile() {
    let replica = alone().await;
    let ann = User::new(&replica, "ann").await;
    let (sender, frames) = tokio::sync::mpsc::channel(1);
    let call = ann.asks(tokio_stream::wrappers::ReceiverStream::new(frames));
    let mut stream = ok(ann.client.clone().send_stream(call)).await;
    for tag in 1..=3 {
        let sends = vec![v1::TaggedSend { tag, send: Some(text("ann", "to myself")) }];
        sender.send(v1::SendStreamRequest { sends }).await.unwrap();
        let results = soon(stream.message()).await.unwrap().unwrap().results;
        let Some(tagged_result::Result::Sent(sent)) = &results[0].result else { panic!("{results:?}") };
        assert_eq!((results.len(), results[0].tag, sent.seq), (1, tag, tag));
    }
    drop(sender);
    assert!(soon(stream.message()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_inbox_falls_behind_and_misses_nothing() {
    const MESSAGES: usize = 1500;
    let replica = alone().await;
    let (ann, ben) = (User::new(&replica, "ann").await, User::new(&replica, "ben").await);
    let mut inbox = ben.inbox(None).await.unwrap();
    assert!(soon(inbox.stream.message()).await.unwrap().unwrap().messages.is_empty(), "it is live");
    let long = "x".repeat(16 << 10);
    let frames = (0..MESSAGES).map(|tag| v1::SendStreamRequest {
        sends: vec![v1::TaggedSend { tag: tag as u64, send: Some(text("ben", &long)) }],
    });
    let call = ann.asks(tokio_stream::iter(frames.collect::<Vec<_>>()));
    // 24 MB that nobody reads: more than the windows and the queue take.
    let results = ok(ann.client.clone().send_stream(call)).await.map(|frame| frame.unwrap().results.len());
    assert_eq!(soon(results.fold(0, |all, some| all + some)).await, MESSAGES);
    let messages = inbox.messages(MESSAGES).await;
    assert!(messages.iter().map(|message| message.seq).eq(1..=MESSAGES as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_has_pages() {
    let replica = alone().await;
    let (ann, ben) = (User::new(&replica, "ann").await, User::new(&replica, "ben").await);
    for number in 0..5 {
        let (from, to) = if number % 2 == 0 { (&ann, "ben") } else { (&ben, "ann") };
        from.send(text(to, &number.to_string())).await.unwrap();
    }
    ann.send(text("ann", "aside")).await.unwrap();
    let page = async |before, limit, min_index| {
        let call = ben.asks(v1::HistoryRequest { with: "ann".into(), before, limit, min_index });
        let page = ok(ben.client.clone().history(call)).await;
        let texts: Vec<_> = page.messages.iter().map(|message| message.text.clone()).collect();
        (texts.join(" "), page.more, page.messages.first().map(|message| message.id), page.applied_index)
    };
    let (texts, more, before, applied) = page(None, 2, None).await;
    assert_eq!((&texts[..], more), ("3 4", true));
    let (texts, more, before, _) = page(before, 2, None).await;
    assert_eq!((&texts[..], more), ("1 2", true));
    let (texts, more, ..) = page(before, 2, None).await;
    assert_eq!((&texts[..], more), ("0", false));
    let (texts, more, _, seen) = page(None, 0, Some(applied)).await;
    assert_eq!((&texts[..], more), ("0 1 2 3 4", false));
    assert!(seen >= applied);

    let nobody = v1::HistoryRequest { with: "nobody".into(), ..Default::default() };
    let call = ben.client.clone().history(ben.asks(nobody)).await;
    assert_eq!(reason(&call.unwrap_err()), (Code::NotFound, Reason::NoSuchAccount));
    let ahead = v1::HistoryRequest { with: "ann".into(), min_index: Some(applied + 1000), ..Default::default() };
    let call = soon(ben.client.clone().history(ben.asks(ahead))).await;
    assert_eq!(call.unwrap_err().code(), Code::Unavailable, "nobody has seen that much");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_large_messages_fits_into_answers() {
    let replica = alone().await;
    let ann = User::new(&replica, "ann").await;
    let large = "x".repeat(65_536);
    for _ in 0..40 {
        ann.send(text("ann", &large)).await.unwrap();
    }
    let (mut before, mut seen) = (None, 0);
    loop {
        let call = ann.asks(v1::HistoryRequest { with: "ann".into(), before, limit: 1000, min_index: None });
        let page = ok(ann.client.clone().history(call)).await;
        seen += page.messages.len();
        before = page.messages.first().map(|message| message.id);
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, 40);
    let mut inbox = ann.inbox(None).await.unwrap();
    assert_eq!(inbox.messages(40).await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_has_pages_and_patterns() {
    let replica = alone().await;
    let ann = User::new(&replica, "ann").await;
    let mut client = ann.client.clone();
    for name in ["anna", "ben", "a.n"] {
        ok(client.register(registration(name))).await;
    }
    let list = async |pattern: &str, after: &str, limit| {
        let (pattern, after) = (pattern.to_owned(), after.to_owned());
        let call = ann.asks(v1::ListAccountsRequest { pattern, after, limit, min_index: None });
        let page = ok(ann.client.clone().list_accounts(call)).await;
        let names: Vec<_> = page.accounts.into_iter().map(|account| account.name).collect();
        (names.join(" "), page.more)
    };
    assert_eq!(list("", "", 0).await, ("a.n ann anna ben".into(), false));
    assert_eq!(list("", "", 2).await, ("a.n ann".into(), true));
    assert_eq!(list("", "ann", 2).await, ("anna ben".into(), false));
    assert_eq!(list("AN*", "", 0).await, ("ann anna".into(), false));
    assert_eq!(list("a?n", "", 0).await, ("a.n ann".into(), false));
    let invalid = Code::InvalidArgument;
    let many = v1::ListAccountsRequest { limit: 1001, ..Default::default() };
    assert_eq!(refusal(client.list_accounts(ann.asks(many))).await, (invalid, Reason::LimitInvalid));
    let long = v1::ListAccountsRequest { pattern: "*".repeat(129), ..Default::default() };
    assert_eq!(refusal(client.list_accounts(ann.asks(long))).await, (invalid, Reason::PatternInvalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_deleted_once_and_for_good() {
    let replica = alone().await;
    let (ann, ben) = (User::new(&replica, "ann").await, User::new(&replica, "ben").await);
    ann.send(text("ben", "from ann")).await.unwrap();
    ben.send(text("ann", "to ann")).await.unwrap();
    let mut inbox = ann.inbox(None).await.unwrap();
    let mut client = ann.client.clone();
    let request =
        v1::DeleteAccountRequest { key: key().into(), password: PASSWORD.into(), refuse_if_undelivered: false };
    let wrong = v1::DeleteAccountRequest { password: "wrong horse".into(), ..request.clone() };
    let wrong = client.delete_account(ann.asks(wrong));
    assert_eq!(refusal(wrong).await, (Code::Unauthenticated, Reason::WrongCredentials));
    let careful = v1::DeleteAccountRequest { refuse_if_undelivered: true, ..request.clone() };
    let careful = soon(client.delete_account(ann.asks(careful))).await.unwrap_err();
    assert_eq!(chat_proto::from_status(&careful).unwrap().undelivered, Some(1));

    let first = ok(client.delete_account(ann.asks(request.clone()))).await;
    assert_eq!((first.discarded, first.duplicate), (1, false));
    let second = ok(client.delete_account(ann.asks(request))).await;
    assert_eq!((second.discarded, second.duplicate), (1, true));
    assert_eq!(inbox.end().await, (Code::Unauthenticated, Reason::AccountDeleted));

    assert_eq!(refusal(ann.who_am_i()).await, (Code::Unauthenticated, Reason::SessionInvalid));
    assert_eq!(refusal(ben.send(text("ann", "hello"))).await, (Code::NotFound, Reason::NoSuchRecipient));
    let back = client.log_in(login("ann", [9; 32]));
    assert_eq!(refusal(back).await, (Code::Unauthenticated, Reason::WrongCredentials));
    assert_eq!(refusal(client.register(registration("ann"))).await, (Code::AlreadyExists, Reason::NameTaken));
    let kept = &ben.inbox(None).await.unwrap().messages(1).await[0];
    assert!(kept.text == "from ann" && kept.sender_deleted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_says_what_it_is() {
    let replica = alone().await;
    let found = ok(ChatServiceClient::new(replica.channel.clone()).find_leader(v1::FindLeaderRequest {})).await;
    assert!(found.serving && found.replica == 1 && found.waiting_for.is_empty());
    assert_eq!(found.leader.as_ref(), found.replicas.first());

    let mut admin = AdminServiceClient::new(replica.channel.clone());
    let status = ok(admin.status(v1::StatusRequest {})).await;
    assert_eq!((status.id, &status.role[..], &status.in_view[..]), (1, "primary", &[1][..]));
    assert!(status.applied <= status.committed && status.committed <= status.last && !status.cluster.is_empty());
    let away = soon(admin.transfer(v1::TransferRequest { id: 2 })).await.unwrap_err();
    assert_eq!((away.code(), away.message()), (Code::NotFound, "there is no replica 2"));
    let oneself = soon(admin.declare_crashed(v1::DeclareCrashedRequest { id: 1 })).await.unwrap_err();
    assert_eq!(oneself.code(), Code::InvalidArgument, "{oneself:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_leader_says_so_at_once() {
    let replica = start(&[2, 3]).await;
    let mut client = ChatServiceClient::new(replica.channel.clone());
    let found = ok(client.find_leader(v1::FindLeaderRequest {})).await;
    assert!(!found.serving && found.leader.is_none() && found.replicas.len() == 3);
    let none = (Code::Unavailable, Reason::NoLeader);
    assert_eq!(refusal(client.register(registration("ann"))).await, none);
    let mut call = Request::new(tokio_stream::empty());
    call.metadata_mut().insert("authorization", format!("Bearer {}", "ab".repeat(32)).parse().unwrap());
    assert_eq!(refusal(client.send_stream(call)).await, none);
    let mut admin = AdminServiceClient::new(replica.channel.clone());
    assert_eq!(ok(admin.status(v1::StatusRequest {})).await.role, "waiting");
    assert_eq!(refusal(admin.transfer(v1::TransferRequest { id: 2 })).await, none);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_the_replica() {
    let replica = alone().await;
    let ann = User::new(&replica, "ann").await;
    let mut inbox = ann.inbox(None).await.unwrap();
    let (_sender, frames) = tokio::sync::mpsc::channel(1);
    let call = ann.asks(tokio_stream::wrappers::ReceiverStream::new(frames));
    let mut sends = ok(ann.client.clone().send_stream(call)).await;
    tokio::task::spawn_blocking(move || replica.server.kill()).await.unwrap();
    assert_eq!(inbox.end().await.0, Code::Unavailable);
    assert_eq!(soon(sends.message()).await.unwrap_err().code(), Code::Unavailable);
}
