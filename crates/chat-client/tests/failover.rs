//! The client against replicas that die, hang, hand over and lie.

mod fake;

use std::time::{Duration, Instant};

use chat_client::{Client, Error, Key, Reason, Role, Session};
use fake::{Cluster, Mood};

async fn client(cluster: &Cluster) -> Client {
    Client::builder().servers(cluster.addresses()).connect().await.unwrap()
}

async fn session(cluster: &Cluster) -> Session {
    client(cluster).await.log_in("ann", "correct horse").await.unwrap()
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// Refuses every connection.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn the_leader_is_found_from_any_address() {
    let cluster = Cluster::start(3).await;
    cluster.lead(Some(3));
    for address in cluster.addresses() {
        let client = Client::builder().servers([address]).connect().await.unwrap();
        let leader = client.find_leader().await.unwrap();
        assert_eq!((leader.id, &leader.address), (3, &cluster.replica(3).address));
    }
}

#[tokio::test]
async fn a_silent_address_holds_up_nobody() {
    let cluster = Cluster::start(2).await;
    cluster.replica(2).mood.send_replace(Mood::Hangs);
    let servers = [nobody().await, cluster.replica(2).address.clone(), cluster.replica(1).address.clone()];
    let began = Instant::now();
    let client = Client::builder().servers(servers).connect().await.unwrap();
    assert_eq!(client.find_leader().await.unwrap().id, 1);
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

/// Neither accepts nor refuses: a full backlog. Drop the second half last.
async fn black_hole() -> (String, Vec<std::net::TcpStream>, tokio::net::TcpListener) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(connection) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
        filling.push(connection);
    }
    (address.to_string(), filling, listener)
}

#[tokio::test]
async fn a_black_hole_holds_up_nobody() {
    let cluster = Cluster::start(1).await;
    let (hole, _filling, _listener) = black_hole().await;
    let began = Instant::now();
    let servers = [hole.clone(), cluster.replica(1).address.clone()];
    let client = Client::builder().servers(servers).connect().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    let statuses = client.status_of_all().await;
    assert_eq!(
        statuses.iter().map(|status| status.role.clone()).collect::<Vec<_>>(),
        [Role::Primary, Role::Unreachable]
    );
    let builder = Client::builder().servers([hole]).timeout(Duration::from_millis(200));
    let began = Instant::now();
    assert!(matches!(builder.connect().await, Err(Error::NoLeader { .. })));
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn nobody_there_is_no_leader_within_the_deadline() {
    let address = nobody().await;
    let timeout = Duration::from_millis(200);
    let began = Instant::now();
    let error = Client::builder().servers([&address]).timeout(timeout).connect().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(1));
    let Error::NoLeader { tried, .. } = error else { panic!("{error:?}") };
    assert_eq!((tried[0].address.as_str(), tried[0].why.as_str()), (address.as_str(), "connection refused"));
}

#[tokio::test]
async fn whom_the_cluster_waits_for_is_told() {
    let cluster = Cluster::start(2).await;
    cluster.lead(None);
    let builder = Client::builder().servers(cluster.addresses()).timeout(Duration::from_millis(200));
    let client = builder.connect_lazy().unwrap();
    let error = client.register("ann", "correct horse").await.unwrap_err();
    assert!(
        matches!(&error, Error::NoLeader { waiting_for, tried } if *waiting_for == [7] && tried.len() == 2),
        "{error}"
    );
    assert!(!error.to_string().contains("horse"));
}

#[tokio::test]
async fn a_refusal_comes_through_at_once() {
    let cluster = Cluster::start(1).await;
    let error = client(&cluster).await.log_in("ann", "wrong").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::WrongCredentials));
    let session = session(&cluster).await;
    assert_eq!(session.send("nobody", "hello").await.unwrap_err().reason(), Some(Reason::NoSuchRecipient));
    assert_eq!(session.send("bob", "").await.unwrap_err().reason(), Some(Reason::TextEmpty));
    let large = session.send("bob", &"x".repeat(65537)).await.unwrap_err();
    assert!(matches!(large, Error::Refused(refusal) if refusal.limit == Some(65536)));
    session.send("bob", &"x".repeat(65536)).await.unwrap();
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_for_again_with_its_key() {
    let cluster = Cluster::start(1).await;
    cluster.replica(1).mood.send_replace(Mood::SwallowsAnswers);
    client(&cluster).await.register("ann", "correct horse").await.unwrap();
    let log = cluster.state.log.lock().unwrap();
    let keys: Vec<_> = log.registrations.iter().map(|registration| registration.key.clone()).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn sends_keep_their_order_through_a_death() {
    let cluster = Cluster::start(3).await;
    let session = session(&cluster).await;
    let mut submitted = Vec::new();
    for number in 0..2000 {
        submitted.push(session.submit("bob", &number.to_string()).await.unwrap());
        if number == 1000 {
            // Wherever it is by now: some are carried out, some on the way, some not sent.
            cluster.has(300).await;
            cluster.kill(1).await;
            cluster.lead(Some(2));
        }
    }
    let mut last = 0;
    for result in submitted {
        let sent = result.await.unwrap();
        assert!(sent.seq > last);
        last = sent.seq;
    }
    assert_eq!(cluster.texts(), numbered(2000));
}

/// More than a connection takes while nobody reads: frames are cut anywhere when it breaks.
#[tokio::test]
async fn sends_keep_their_order_through_a_death_with_frames_half_sent() {
    let cluster = Cluster::start(2).await;
    let session = session(&cluster).await;
    session.send("bob", "0").await.unwrap();
    cluster.replica(1).mood.send_replace(Mood::Hangs);
    let text = |number: usize| format!("{number} {}", "x".repeat(60_000));
    let mut submitted = Vec::new();
    for number in 1..100 {
        submitted.push(session.submit("bob", &text(number)).await.unwrap());
        // So that the connection is written meanwhile.
        tokio::task::yield_now().await;
    }
    cluster.kill(1).await;
    cluster.lead(Some(2));
    for (number, result) in (2..).zip(submitted) {
        assert_eq!(result.await.unwrap().seq, number);
    }
    let numbers: Vec<_> = cluster.texts().iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(numbers, numbered(100));
}

#[tokio::test]
async fn a_send_that_is_given_up_before_it_has_a_place_is_not_sent() {
    let cluster = Cluster::start(1).await;
    let session = Client::builder().servers(cluster.addresses()).queue(1).connect().await.unwrap();
    let session = session.log_in("ann", "correct horse").await.unwrap();
    cluster.replica(1).mood.send_replace(Mood::Hangs);
    let large = "x".repeat(60_000);
    let mut submitted = Vec::new();
    // Until there is no place any more: nobody reads.
    while let Ok(sent) = tokio::time::timeout(Duration::from_millis(5), session.submit("bob", &large)).await {
        submitted.push(sent.unwrap());
    }
    assert!(tokio::time::timeout(Duration::ZERO, session.submit("bob", "given up")).await.is_err());
    // Given up behind its place, it is sent all the same.
    drop(submitted.pop());
    cluster.replica(1).mood.send_replace(Mood::Works);
    let last = session.send("bob", "last").await.unwrap();
    assert_eq!(last.seq as usize, submitted.len() + 2);
    let texts = cluster.texts();
    assert!(!texts.contains(&"given up".to_owned()) && texts.last().is_some_and(|text| text == "last"));
}

/// What does not fit on the connection any more is not asked for frames either.
#[tokio::test]
async fn sends_to_a_leader_that_does_not_read_keep_their_deadlines() {
    let cluster = Cluster::start(1).await;
    let client = Client::builder().servers(cluster.addresses()).timeout(Duration::from_millis(500));
    let session = client.connect().await.unwrap().log_in("ann", "correct horse").await.unwrap();
    session.send("bob", "0").await.unwrap();
    cluster.replica(1).mood.send_replace(Mood::Hangs);
    let large = "x".repeat(60_000);
    let mut submitted = Vec::new();
    for _ in 0..100 {
        submitted.push(session.submit("bob", &large).await.unwrap());
        tokio::task::yield_now().await;
    }
    for result in submitted {
        result.await.unwrap_err();
    }
    // By now nothing is waited for.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = tokio::time::timeout(Duration::from_secs(5), session.send("bob", "late")).await;
    late.expect("it has a deadline").unwrap_err();
}

/// The first send starts its session's task, where it is made; the connection is where the client is.
#[test]
fn a_send_is_told_that_its_runtime_has_ended() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (one, other) = (runtime(), runtime());
    let cluster = one.block_on(Cluster::start(1));
    let session = one.block_on(session(&cluster));
    other.block_on(session.send("bob", "0")).unwrap();
    drop(other);
    let late = async { tokio::time::timeout(Duration::from_secs(5), session.send("bob", "1")).await };
    let late = one.block_on(late).expect("it does not wait for ever");
    assert!(matches!(late, Err(Error::Usage(_))), "{late:?}");
    drop(cluster);
}

#[tokio::test]
async fn a_session_that_nobody_has_leaves_no_stream_behind() {
    let cluster = Cluster::start(1).await;
    let client = client(&cluster).await;
    let session = client.log_in("ann", "correct horse").await.unwrap();
    session.send("bob", "one").await.unwrap();
    drop(session.submit("bob", "two").await.unwrap());
    assert_eq!(*cluster.state.streams.borrow(), 1);
    drop(session);
    let none = async { cluster.state.streams.subscribe().wait_for(|streams| *streams == 0).await.map(drop) };
    tokio::time::timeout(Duration::from_secs(5), none).await.expect("it is closed").unwrap();
    assert_eq!(cluster.texts(), ["one", "two"]);
}

#[tokio::test]
async fn sends_keep_their_order_through_handovers() {
    let cluster = Cluster::start(3).await;
    let session = session(&cluster).await;
    let mut submitted = Vec::new();
    for number in 0..3000 {
        submitted.push(session.submit("bob", &number.to_string()).await.unwrap());
        if number % 500 == 250 {
            cluster.has(number / 2).await;
            cluster.lead(Some(number as u32 / 500 % 3 + 1));
        }
    }
    for result in submitted {
        result.await.unwrap();
    }
    assert_eq!(cluster.texts(), numbered(3000));
}

#[tokio::test]
async fn a_dead_leader_costs_milliseconds() {
    let cluster = Cluster::start(3).await;
    let session = session(&cluster).await;
    session.send("bob", "before").await.unwrap();
    cluster.lead(Some(3));
    cluster.kill(1).await;
    let began = Instant::now();
    let sent = session.send("bob", "after").await.unwrap();
    println!("moved to replica {} in {:?}", sent.epoch.replica, began.elapsed());
    assert_eq!(sent.epoch.replica, 3);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_silent_leader_is_left_when_another_leads() {
    let cluster = Cluster::start(3).await;
    let session = session(&cluster).await;
    session.send("bob", "before").await.unwrap();
    cluster.replica(1).mood.send_replace(Mood::Hangs);
    let (send, whoami) = (session.clone(), session.clone());
    let send = tokio::spawn(async move { send.send("bob", "after").await });
    let whoami = tokio::spawn(async move { whoami.whoami().await });
    // The second question is that of the suspicion.
    let mut asked = cluster.replica(2).asked.subscribe();
    asked.borrow_and_update();
    asked.changed().await.unwrap();
    let began = Instant::now();
    cluster.lead(Some(2));
    assert_eq!(send.await.unwrap().unwrap().epoch.replica, 2);
    whoami.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_silent_leader_without_a_successor_leaves_the_outcome_unknown() {
    let cluster = Cluster::start(2).await;
    let builder = Client::builder().servers(cluster.addresses()).timeout(Duration::from_millis(700));
    let session = builder.connect().await.unwrap().log_in("ann", "correct horse").await.unwrap();
    cluster.replica(1).mood.send_replace(Mood::SwallowsAnswers);
    let key = Key::generate();
    let error = session.send_with_key(key, "bob", "hello").await.unwrap_err();
    assert_eq!(error, Error::Unknown { key });
    cluster.replica(1).mood.send_replace(Mood::Works);
    let sent = session.send_with_key(key, "bob", "hello").await.unwrap();
    assert!(sent.duplicate);
    assert_eq!(cluster.texts(), ["hello"]);
    cluster.replica(1).mood.send_replace(Mood::Hangs);
    let began = Instant::now();
    assert!(matches!(session.whoami().await, Err(Error::NoLeader { .. })));
    assert!(matches!(session.client().register("bob", "password").await, Err(Error::Unknown { .. })));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn an_overloaded_leader_is_asked_until_the_deadline() {
    let cluster = Cluster::start(1).await;
    let builder = Client::builder().servers(cluster.addresses()).timeout(Duration::from_millis(300));
    let session = builder.connect().await.unwrap().log_in("ann", "correct horse").await.unwrap();
    cluster.replica(1).mood.send_replace(Mood::Overloaded);
    let error = session.send("bob", "one").await.unwrap_err();
    // Unknown, where the deadline passed in the middle of an attempt.
    assert!(error.reason() == Some(Reason::Overloaded) || matches!(error, Error::Unknown { .. }), "{error:?}");
    let frames = cluster.state.log.lock().unwrap().frames;
    assert!((2..100).contains(&frames), "{frames} attempts");
    cluster.replica(1).mood.send_replace(Mood::Works);
    session.send("bob", "two").await.unwrap();
    assert_eq!(cluster.texts(), ["two"]);
}

#[tokio::test]
async fn an_endless_name_takes_nobody_with_it() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    let endless = "x".repeat(60_000);
    let mut submitted = Vec::new();
    for _ in 0..100 {
        match session.submit(&endless, "hello").await {
            Ok(sent) => submitted.push(sent),
            Err(error) => assert_eq!(error.reason(), Some(Reason::NoSuchRecipient)),
        }
    }
    session.send("bob", "hello").await.expect("a frame of such names would have been too large");
    assert_eq!(cluster.texts(), ["hello"]);
}

#[tokio::test]
async fn a_revoked_session_refuses_everything() {
    let cluster = Cluster::start(1).await;
    let client = client(&cluster).await;
    let session = client.restore(&"f".repeat(64)).unwrap();
    for _ in 0..2 {
        assert_eq!(session.send("bob", "hello").await.unwrap_err().reason(), Some(Reason::SessionInvalid));
    }
    let mut inbox = session.inbox();
    for _ in 0..2 {
        assert_eq!(inbox.next().await.unwrap_err().reason(), Some(Reason::SessionInvalid));
    }
}

#[tokio::test]
async fn an_inbox_goes_on_through_everything() {
    let cluster = Cluster::start(3).await;
    let session = session(&cluster).await;
    let mut inbox = session.inbox();
    let mut seen = Vec::new();
    for round in 0..6 {
        for number in 0..50 {
            session.send("ann", &(round * 50 + number).to_string()).await.unwrap();
        }
        match round {
            0 => cluster.lead(Some(2)),
            1 => {
                cluster.kill(2).await;
                cluster.lead(Some(3));
            }
            2 => {
                cluster.revive(2).await;
                cluster.lead(None);
                cluster.lead(Some(2));
            }
            3 => {
                cluster.replica(3).mood.send_replace(Mood::SkipsOne);
                cluster.lead(Some(3));
            }
            _ => {}
        }
        for _ in 0..(if round == 0 { 10 } else { 45 }) {
            seen.push(inbox.next().await.unwrap());
        }
    }
    while seen.len() < 300 {
        seen.push(inbox.next().await.unwrap());
    }
    assert_eq!(seen.iter().map(|message| message.text.clone()).collect::<Vec<_>>(), numbered(300));
    assert_eq!(inbox.last(), 300);
}

/// Takes 5 s: the service promises a sign of life every 2 s, and the watchdog allows for more than two of them.
#[tokio::test]
async fn an_inbox_that_falls_silent_is_opened_again() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    session.send("ann", "one").await.unwrap();
    let mut inbox = session.inbox();
    assert_eq!(inbox.next().await.unwrap().text, "one");
    cluster.replica(1).mood.send_replace(Mood::MuteInbox);
    session.send("ann", "two").await.unwrap();
    assert_eq!(inbox.next().await.unwrap().text, "two");
}

#[tokio::test]
async fn an_inbox_begins_where_it_is_told() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    for number in 0..5 {
        session.send("ann", &number.to_string()).await.unwrap();
    }
    assert_eq!(session.inbox_after(3).next().await.unwrap().text, "3");
}

#[tokio::test]
async fn long_answers_come_page_by_page() {
    let cluster = Cluster::start(2).await;
    let session = session(&cluster).await;
    let accounts = session.accounts("*").all().await.unwrap();
    assert_eq!(accounts.len(), 2500);
    assert!(accounts.is_sorted_by_key(|account| account.name.clone()));
    for number in 0..25 {
        session.send("ann", &number.to_string()).await.unwrap();
    }
    let (mut history, mut pages) = (session.history("ann").page_size(10), Vec::new());
    while let Some(page) = history.older().await.unwrap() {
        pages.push(page.iter().map(|message| message.id).collect::<Vec<_>>());
    }
    assert_eq!(pages, [(16..=25).collect::<Vec<_>>(), (6..=15).collect(), (1..=5).collect()]);
}

#[tokio::test]
async fn every_replica_has_a_status() {
    let cluster = Cluster::start(3).await;
    let client = Client::builder().servers([cluster.replica(1).address.clone()]).connect().await.unwrap();
    cluster.kill(3).await;
    let statuses = client.status_of_all().await;
    let roles: Vec<_> = statuses.iter().map(|status| (status.id.unwrap(), status.role.clone())).collect();
    assert_eq!(roles, [(1, Role::Primary), (2, Role::Backup), (3, Role::Unreachable)]);
    assert_eq!(statuses[2].why, "connection refused");
    let declared = client.declare_crashed(3).await.unwrap();
    assert_eq!(declared[0].outcome.as_ref().unwrap().count, 4);
    assert_eq!(declared[1].outcome.as_ref().unwrap_err().message, "in contact with 3");
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    let shown = format!("{session:?} {:?} {:?}", session.client(), session.inbox());
    assert!(!shown.contains(&session.export()) && !shown.contains("horse"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_one_session() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    let began = Instant::now();
    let tasks = (0..256).map(|_| {
        let session = session.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                session.send("bob", "hello").await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let frames = cluster.state.log.lock().unwrap().frames;
    println!("{:.0} sends/s, {frames} frames", 12800.0 / began.elapsed().as_secs_f64());
    assert_eq!(cluster.texts().len(), 12800);
    assert!(frames < 6400, "{frames} frames for 12800 sends");
}
