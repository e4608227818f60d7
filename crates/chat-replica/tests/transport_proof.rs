//! Rule 8: what the transport calls refused, and what it does not. Names follow the attacks in docs/protocol.md.

mod transport_harness;

use chat_replica::protocol::{Input, Member, ReplicaId};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use transport_harness::*;

/// A process that met replica 2, which then was killed; and replica 2's address.
async fn bereaved(start: Start) -> (Process, Member, SocketAddr) {
    let peer = Start::new(member(2, 1)).on(listener().await);
    let (met, address) = (peer.me, peer.address);
    let mut me = start.peer(2, address).on(listener().await);
    me.reaches(met).await;
    peer.kill();
    assert_eq!(me.refused().await, met);
    (me, met, address)
}

fn one() -> Start {
    Start { tuning: short(), ..Start::new(member(1, 1)) }
}

#[tokio::test]
async fn a_killed_peer_is_first_gone_then_refused_by_name() {
    let peer = Start::new(member(2, 5)).on(listener().await);
    let mut me = Start::new(member(1, 1)).peer(2, peer.address).on(listener().await);
    let (met, session) = (peer.me, me.reaches(peer.me).await);
    peer.kill();
    let (mut down, mut refused) = (false, 0);
    while refused < 5 {
        match me.next().await {
            Input::SessionDown { session: ended, peer } if ended == session => {
                assert_eq!(peer, met.id);
                down = true;
            }
            Input::Refused { peer } => {
                assert!(down, "refused while the session lasts");
                assert_eq!(peer, met);
                refused += 1;
            }
            // The connection that was made while it died.
            Input::Unreachable { .. } if down && refused == 0 => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_successor_is_refused_under_its_own_name() {
    let (mut me, met, address) = bereaved(one()).await;
    let successor = Start::new(member(2, met.incarnation.count + 1)).on(rebind(address, 64));
    let new = successor.me;
    me.reaches(new).await;
    successor.kill();
    assert_eq!(me.refused().await, new);
}

#[tokio::test]
async fn both_sides_hear_of_each_others_end() {
    let (mine, theirs) = (listener().await, listener().await);
    let mut me = Start::new(member(1, 1)).peer(2, theirs.local_addr().unwrap()).on(mine);
    let mut peer = Start::new(member(2, 1)).peer(1, me.address).on(theirs);
    peer.reaches(me.me).await;
    peer.sender.send(peer.ping(me.me, 1));
    let mut sessions = BTreeSet::new();
    while sessions.len() < 2 {
        let up = |input: &Input| if let Input::SessionUp { session, .. } = input { Some(*session) } else { None };
        sessions.insert(me.until(up).await);
    }
    peer.kill();
    // Refusals count only once both sessions have ended (rule 8): so both ends must come.
    while !sessions.is_empty() {
        me.until(|input| match input {
            Input::SessionDown { session, .. } => Some(sessions.remove(session)),
            _ => None,
        })
        .await;
    }
    me.refused().await;
}

#[tokio::test]
async fn nobody_is_refused_where_nobody_was_met() {
    let nobody = listener().await;
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut me = one().peer(2, address).on(listener().await);
    for _ in 0..20 {
        assert_eq!(me.next().await, Input::Unreachable { peer: ReplicaId(2) });
    }
}

#[tokio::test]
async fn a_stranger_that_accepts_and_never_speaks_is_silence() {
    let (mut me, _, address) = bereaved(one()).await;
    let stranger = rebind(address, 64);
    let kept = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(stranger.accept().await);
        }
    });
    me.falls_silent(2).await;
    kept.abort();
}

#[tokio::test]
async fn a_stranger_that_speaks_garbage_or_hangs_up_is_silence() {
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"[..], &[0; 64], b""] {
        let (mut me, _, address) = bereaved(one()).await;
        let stranger = rebind(address, 64);
        let speaks = tokio::spawn(async move {
            while let Ok((mut connection, _)) = stranger.accept().await {
                let _ = connection.write_all(garbage).await;
            }
        });
        me.falls_silent(2).await;
        speaks.abort();
    }
}

#[tokio::test]
async fn a_black_hole_is_silence() {
    let (mut me, _, address) = bereaved(one()).await;
    let _hole = rebind(address, 1);
    let mut fill = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        fill.push(connected.expect("the hole has room"));
    }
    me.falls_silent(2).await;
}

#[tokio::test]
async fn another_replica_at_the_address_is_silence_and_so_are_its_refusals() {
    for other in [Start::new(member(3, 1)), Start { cluster: Some(OTHER_CLUSTER), ..Start::new(member(2, 1)) }] {
        let (mut me, _, address) = bereaved(one()).await;
        let stranger = other.on(rebind(address, 64));
        me.falls_silent(2).await;
        // The address led elsewhere meanwhile: that it refuses now says nothing about who was met there.
        stranger.kill();
        me.falls_silent(2).await;
    }
}

#[tokio::test]
async fn only_exactly_refused_is_refused() {
    let faulty = Arc::new(Faulty(Mutex::new(Fault::None)));
    let (mut me, met, _) = bereaved(Start { connector: faulty.clone(), ..one() }).await;
    let kinds = [
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
        ErrorKind::PermissionDenied,
        ErrorKind::AddrNotAvailable,
    ];
    let faults = kinds.into_iter().map(Fault::Fails).chain([Fault::ReachesItself, Fault::ReachesAnother]);
    for fault in faults {
        faulty.set(fault);
        me.falls_silent(2).await;
    }
    faulty.set(Fault::None);
    assert_eq!(me.refused().await, met);
}

#[tokio::test]
async fn a_name_is_refused_at_the_address_that_answered() {
    let peer = Start::new(member(2, 1)).on(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let name = format!("localhost:{}", peer.address.port());
    let mut me = one().peer(2, name).on(listener().await);
    let met = peer.me;
    me.reaches(met).await;
    peer.kill();
    // Beyond the dials after which the name is looked up again.
    for _ in 0..15 {
        assert_eq!(me.refused().await, met);
    }
}

#[tokio::test]
async fn a_name_without_an_address_is_silence() {
    let mut me = one().peer(2, "no-such-host.invalid:1").on(listener().await);
    for _ in 0..2 {
        assert_eq!(me.next().await, Input::Unreachable { peer: ReplicaId(2) });
    }
}

#[tokio::test]
async fn a_replica_that_is_about_to_end_still_listens() {
    let peer = Start::new(member(2, 1)).on(listener().await);
    let mut me = one().peer(2, peer.address).on(listener().await);
    me.reaches(peer.me).await;
    peer.shutdown.cancel();
    peer.sender.ended().await;
    me.until(|input| matches!(input, Input::SessionDown { .. }).then_some(())).await;
    for _ in 0..3 {
        assert_eq!(me.next().await, Input::Unreachable { peer: ReplicaId(2) });
    }
}
