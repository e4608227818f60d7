//! Envelopes <-> frames: what is encoded comes back, and nothing that comes from outside makes the process panic.

use bytes::Bytes;
use chat_proto::v1;
use chat_replica::protocol::*;
use chat_replica::transport::wire::{self, Greeting, Problem};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

fn epoch() -> impl Strategy<Value = Epoch> {
    (0..=u64::MAX / 2, any::<u32>()).prop_map(|(round, replica)| Epoch { round, replica: ReplicaId(replica) })
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    (any::<u64>(), any::<u64>()).prop_map(|(count, nonce)| Incarnation { count, nonce })
}

fn place() -> impl Strategy<Value = Place> {
    // Room behind it for entries.
    (0..u64::MAX - 100, epoch()).prop_map(|(index, epoch)| Place { index, epoch })
}

fn member() -> impl Strategy<Value = Member> {
    (any::<u32>(), any::<[u8; 16]>(), incarnation()).prop_map(|(id, disk, incarnation)| Member {
        id: ReplicaId(id),
        disk: DiskId(disk),
        incarnation,
    })
}

fn view() -> impl Strategy<Value = View> {
    (epoch(), any::<u32>(), vec(member(), 0..4)).prop_map(|(epoch, primary, members)| View {
        epoch,
        primary: ReplicaId(primary),
        members,
    })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        vec(any::<u8>(), 0..200).prop_map(|bytes| Body::Commands(Bytes::from(bytes))),
        view().prop_map(Body::View),
        (any::<[u8; 16]>(), view()).prop_map(|(cluster, view)| Body::Founding { cluster: ClusterId(cluster), view }),
    ]
}

fn append() -> impl Strategy<Value = Append> {
    let entries = vec((epoch(), body(), any::<[u8; 32]>()), 0..5);
    (epoch(), place(), any::<[u8; 32]>(), entries, any::<u64>()).prop_map(|(epoch, prev, hash, entries, committed)| {
        let entry = |(index, (epoch, body, hash))| Entry { index, epoch, body, hash: ChainHash(hash) };
        let entries = (prev.index + 1..).zip(entries).map(entry).collect();
        Append { epoch, prev, prev_hash: ChainHash(hash), entries, committed }
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    let at = (any::<u64>(), view()).prop_map(|(index, view)| ViewAt { index, view });
    let death = (incarnation(), vec(at, 0..3)).prop_map(|(incarnation, views)| Death { incarnation, views });
    let founders = vec(any::<u32>().prop_map(ReplicaId), 0..4);
    (epoch(), place(), any::<u64>(), vec(death, 0..3), any::<bool>(), founders).prop_map(
        |(promised, last, committed, deaths, impaired, founders)| Hello {
            promised,
            last,
            committed,
            deaths,
            impaired,
            founders,
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let ping = (any::<u64>(), epoch(), place(), any::<u64>(), any::<bool>()).prop_map(
        |(sent_at, promised, view, committed, primary)| {
            Message::Ping(Ping { sent_at: Time(sent_at), promised, view, committed, primary })
        },
    );
    let pong = (any::<u64>(), any::<bool>(), epoch(), vec(member(), 0..4)).prop_map(
        |(sent_at, granted, promised, contacts)| {
            Message::Pong(Pong { sent_at: Time(sent_at), granted, promised, contacts })
        },
    );
    prop_oneof![
        hello().prop_map(Message::Hello),
        incarnation().prop_map(|known| Message::Unwelcome { known }),
        ping,
        pong,
        (any::<u64>(), place()).prop_map(|(ballot, last)| Message::Poll { ballot, last }),
        (any::<u64>(), any::<bool>(), epoch()).prop_map(|(ballot, willing, promised)| Message::PollReply {
            ballot,
            willing,
            promised
        }),
        (epoch(), place()).prop_map(|(epoch, last)| Message::RequestVote { epoch, last }),
        (epoch(), any::<bool>(), epoch(), place()).prop_map(|(epoch, granted, promised, last)| Message::Vote {
            epoch,
            granted,
            promised,
            last
        }),
        append().prop_map(Message::Append),
        (epoch(), epoch(), any::<u64>(), any::<bool>()).prop_map(|(epoch, promised, matched, conflict)| {
            Message::AppendReply { epoch, promised, matched, conflict }
        }),
        epoch().prop_map(|epoch| Message::Transfer { epoch }),
        epoch().prop_map(|epoch| Message::Leave { epoch }),
    ]
}

fn cluster() -> impl Strategy<Value = Option<ClusterId>> {
    proptest::option::of(any::<[u8; 16]>().prop_map(ClusterId))
}

fn envelope() -> impl Strategy<Value = Envelope> {
    (cluster(), member(), member(), message()).prop_map(|(cluster, from, to, message)| Envelope {
        cluster,
        from,
        to,
        message,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_envelope_comes_back(sent in envelope()) {
        let bytes = wire::encode(sent.clone()).encode_to_vec();
        let frame = v1::Frame::decode(Bytes::from(bytes)).unwrap();
        prop_assert_eq!(wire::decode(frame), Ok(sent));
    }

    #[test]
    fn a_greeting_comes_back(cluster in cluster(), from in member(), refusal in proptest::option::of(".{1,20}")) {
        let sent = Greeting { cluster, from, refusal };
        let bytes = wire::encode_welcome(sent.clone()).encode_to_vec();
        let welcome = v1::Welcome::decode(Bytes::from(bytes)).unwrap();
        prop_assert_eq!(wire::decode_welcome(welcome), Ok(sent));
    }

    /// Most of these are frames with fields missing, too long, too short or out of range. One that decodes is as good as
    /// any: encoded, it is the same again.
    #[test]
    fn damaged_frames_do_not_panic(sent in envelope(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mut bytes = wire::encode(sent).encode_to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(frame) = v1::Frame::decode(Bytes::from(bytes)) && let Ok(envelope) = wire::decode(frame) {
            prop_assert_eq!(wire::decode(wire::encode(envelope.clone())), Ok(envelope));
        }
    }

    #[test]
    fn noise_does_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(frame) = v1::Frame::decode(bytes.clone()) {
            let _ = wire::decode(frame);
        }
        if let Ok(welcome) = v1::Welcome::decode(bytes) {
            let _ = wire::decode_welcome(welcome);
        }
    }
}

fn sample(payload: Bytes) -> v1::Frame {
    let member =
        |id| Member { id: ReplicaId(id), disk: DiskId([0; 16]), incarnation: Incarnation { count: 1, nonce: 1 } };
    let entries = vec![
        Entry::chained(ChainHash::default(), 8, Epoch::ZERO, Body::Commands(Bytes::new())),
        Entry::chained(ChainHash::default(), 9, Epoch::ZERO, Body::Commands(payload)),
    ];
    wire::encode(Envelope {
        cluster: Some(ClusterId([1; 16])),
        from: member(1),
        to: member(2),
        message: Message::Append(Append {
            epoch: Epoch::ZERO,
            prev: Place { index: 7, epoch: Epoch::ZERO },
            prev_hash: ChainHash::default(),
            entries,
            committed: 0,
        }),
    })
}

fn damaged(damage: impl FnOnce(&mut v1::Frame, &mut v1::Append)) -> (String, Problem) {
    let mut frame = sample(Bytes::new());
    let Some(v1::frame::Message::Append(mut append)) = frame.message.take() else { panic!("not an append") };
    damage(&mut frame, &mut append);
    frame.message = Some(v1::frame::Message::Append(append));
    let error = wire::decode(frame).expect_err("damaged");
    (error.field, error.problem)
}

#[test]
fn an_error_names_the_field() {
    let missing = |field: &str| (field.to_string(), Problem::Missing);
    let length = |field: &str, wanted, got| (field.to_string(), Problem::Length { wanted, got });
    assert_eq!(damaged(|frame, _| frame.from = None), missing("from"));
    assert_eq!(damaged(|frame, _| frame.to.as_mut().unwrap().incarnation = None), missing("to.incarnation"));
    assert_eq!(damaged(|frame, _| frame.cluster = Bytes::from_static(&[1; 15])), length("cluster", 16, 15));
    assert_eq!(damaged(|frame, _| frame.from.as_mut().unwrap().disk = Bytes::new()), length("from.disk", 16, 0));
    assert_eq!(
        damaged(|_, append| append.prev_hash = Bytes::from_static(&[1; 33])),
        length("message.prev_hash", 32, 33)
    );
    assert_eq!(damaged(|_, append| append.entries[1].body = None), missing("message.entries[1].body"));
    assert_eq!(damaged(|_, append| append.prev.as_mut().unwrap().epoch = None), missing("message.prev.epoch"));
    let beyond = damaged(|_, append| append.prev.as_mut().unwrap().index = u64::MAX - 1);
    assert_eq!(beyond, ("message.prev.index".to_string(), Problem::Range));
    let beyond = damaged(|_, append| append.epoch = Some(v1::Epoch { round: u64::MAX / 2 + 1, replica: 1 }));
    assert_eq!(beyond, ("message.epoch.round".to_string(), Problem::Range));
    let error = wire::decode(v1::Frame { message: None, ..sample(Bytes::new()) }).unwrap_err();
    assert_eq!(error.to_string(), "message is missing");
}

#[test]
fn a_payload_is_moved() {
    let payload = Bytes::from(vec![7; 1 << 16]);
    let at = payload.as_ptr();
    let envelope = wire::decode(sample(payload)).unwrap();
    let Message::Append(append) = envelope.message else { panic!("not an append") };
    let Body::Commands(payload) = &append.entries[1].body else { panic!("not commands") };
    assert_eq!((append.entries[1].index, payload.as_ptr()), (9, at));
}
