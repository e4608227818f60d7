//! Names, texts, patterns, and values as bytes.

mod common;

use chat_core::account::check_password;
use chat_core::codec::{self, DecodeError};
use chat_core::rejection::{DisplayNameFault, NameFault};
use chat_core::store::page_limit;
use chat_core::{
    AccountId, Answer, DisplayName, MessageId, MessageText, PasswordHash, Pattern, Provenance, Rejection, RequestKey,
    Timestamp, Username,
};
use proptest::prelude::*;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() }
}

fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
    let inner = |c: char| letter(c) || ".-_".contains(c);
    (2..=32).contains(&text.len())
        && text.chars().all(inner)
        && text.chars().next().is_some_and(letter)
        && text.chars().last().is_some_and(letter)
}

/// By definition, without any care for how long it takes.
fn naive(pattern: &[char], name: &[char]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some(('*', rest)) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
        Some(('?', rest)) => !name.is_empty() && naive(rest, &name[1..]),
        Some((wanted, rest)) => name.first() == Some(wanted) && naive(rest, &name[1..]),
    }
}

fn answers() -> impl Strategy<Value = Answer> {
    let sent = any::<(u64, u64, i64, u64, u64, u32)>().prop_map(|(id, seq, at, index, round, replica)| Answer::Sent {
        id: MessageId(id),
        seq,
        at: Timestamp(at),
        provenance: Provenance { index, round, replica },
    });
    prop_oneof![
        sent,
        any::<u64>().prop_map(|it| Answer::Registered { account: AccountId(it) }),
        any::<(u64, i64)>().prop_map(|(account, expires)| Answer::SessionOpened {
            account: AccountId(account),
            expires_at: Timestamp(expires),
        }),
        any::<u64>().prop_map(|discarded| Answer::Deleted { discarded }),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn names_follow_their_rule(input in prop_oneof!["[a-cA-C0-9._-]{0,34}", "\\PC{0,5}", "[a-z\u{e4}\u{212a} ]{1,4}"]) {
        let expected = input.to_ascii_lowercase();
        match Username::parse(&input) {
            Ok(name) => {
                prop_assert!(is_name(&expected));
                prop_assert_eq!(name.as_str(), expected);
            }
            Err(rejection) => {
                prop_assert!(!is_name(&expected));
                prop_assert!(matches!(rejection, Rejection::NameInvalid(_)));
            }
        }
    }

    #[test]
    fn display_names_are_trimmed_short_and_printable(input in ".{0,70}") {
        if let Ok(name) = DisplayName::parse(&input) {
            prop_assert_eq!(name.as_str(), input.trim());
            prop_assert!((1..=64).contains(&name.as_str().chars().count()));
            prop_assert!(!name.as_str().contains(char::is_control));
        }
    }

    #[test]
    fn patterns_match_as_the_naive_matcher_says(pattern in "[abAB*?.\u{e4}]{0,8}", name in "[ab]([ab.]{0,6}[ab])") {
        let name = Username::parse(&name).unwrap();
        let compiled = Pattern::parse(&pattern).unwrap();
        let plain = if pattern.is_empty() { "*".into() } else { pattern.to_ascii_lowercase() };
        let (plain, chars): (Vec<_>, Vec<_>) = (plain.chars().collect(), name.as_str().chars().collect());
        let matches = compiled.matches(&name);
        prop_assert_eq!(matches, naive(&plain, &chars));
        prop_assert!(!matches || name.as_str().starts_with(compiled.prefix()));
    }

    #[test]
    fn batches_come_back_as_they_were(commands in common::commands(20)) {
        let bytes = codec::encode(&commands);
        let (read, parts) = codec::split(&bytes).expect("readable");
        prop_assert_eq!((&read, parts.len()), (&commands, commands.len()));
        prop_assert!(bytes.ends_with(&parts.concat()));
        prop_assert_eq!(codec::decode(&bytes), Ok(commands));
    }

    #[test]
    fn answers_come_back_as_they_were(answer in answers()) {
        prop_assert_eq!(codec::decode_answer(&codec::encode_answer(&answer)), Ok(answer));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode(&bytes);
        let _ = codec::decode_answer(&bytes);
        let mut batch = vec![1];
        batch.extend(bytes);
        let _ = codec::decode(&batch);
    }

    #[test]
    fn damaged_batches_are_read_or_refused(
        commands in common::commands(10),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = codec::encode(&commands);
        let place = at.index(bytes.len());
        bytes[place] ^= flip;
        if let Ok(read) = codec::decode(&bytes) {
            prop_assert_eq!(codec::decode(&codec::encode(&read)), Ok(read));
        }
        bytes[place] ^= flip;
        prop_assert!(codec::decode(&bytes[..cut.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert_eq!(codec::decode(&bytes), Err(DecodeError::LeftOver { count: 1 }));
    }
}

#[test]
fn names_say_what_is_wrong_with_them() {
    let fault = |input: &str| Username::parse(input).unwrap_err();
    assert_eq!(fault("a"), Rejection::NameInvalid(NameFault::Length { bytes: 1 }));
    assert_eq!(fault(&"a".repeat(33)).limit(), Some(32));
    assert_eq!(fault("a").limit(), None);
    assert_eq!(fault("a b"), Rejection::NameInvalid(NameFault::Character { found: ' ' }));
    assert_eq!(fault("-ab"), Rejection::NameInvalid(NameFault::Edge { found: '-' }));
    assert_eq!(fault("ab."), Rejection::NameInvalid(NameFault::Edge { found: '.' }));
    assert_eq!(fault("ab.").to_string(), "a user name begins and ends with a letter or a digit, not '.'");
    assert_eq!(Username::parse("Ann.B").unwrap().as_str(), "ann.b");
}

#[test]
fn display_names_say_what_is_wrong_with_them() {
    let fault = |input: &str| DisplayName::parse(input).unwrap_err();
    assert_eq!(fault(" \t "), Rejection::DisplayNameInvalid(DisplayNameFault::Empty));
    assert_eq!(fault(&"\u{e4}".repeat(65)), Rejection::DisplayNameInvalid(DisplayNameFault::Length { chars: 65 }));
    for found in ['\u{7}', '\u{202e}', '\u{2028}'] {
        assert_eq!(fault(&format!("a{found}b")), Rejection::DisplayNameInvalid(DisplayNameFault::Character { found }));
    }
    assert_eq!(DisplayName::parse(" J\u{fc}rg \u{1f600} ").unwrap().as_str(), "J\u{fc}rg \u{1f600}");
}

#[test]
fn limits_are_inclusive_and_named() {
    assert!(MessageText::new("x".repeat(65_536)).is_ok());
    let rejection = MessageText::new("x".repeat(65_537)).unwrap_err();
    assert_eq!(rejection.to_string(), "a message has at most 65536 bytes of text, this one has 65537");
    assert_eq!(rejection.limit(), Some(65_536));
    assert_eq!(MessageText::new("").unwrap_err(), Rejection::TextEmpty);
    assert!(check_password("12345678").is_ok() && check_password(&"x".repeat(256)).is_ok());
    assert_eq!(check_password("1234567").unwrap_err(), Rejection::PasswordInvalid { bytes: 7 });
    assert_eq!(check_password(&"x".repeat(257)).unwrap_err().limit(), Some(256));
    assert_eq!((page_limit(0), page_limit(1000)), (Ok(100), Ok(1000)));
    assert_eq!(page_limit(1001), Err(Rejection::LimitInvalid { asked: 1001 }));
    assert!(Pattern::parse(&"*".repeat(128)).is_ok());
    assert_eq!(Pattern::parse(&"*".repeat(129)), Err(Rejection::PatternInvalid { bytes: 129 }));
    assert_eq!(RequestKey::try_from(&[0_u8; 15][..]), Err(Rejection::KeyInvalid { bytes: 15 }));
}

#[test]
fn secrets_and_texts_are_not_printed() {
    let hash = PasswordHash::new("$argon2id$secret").unwrap();
    assert_eq!(format!("{hash:?}"), "PasswordHash(..)");
    assert_eq!(format!("{:?}", common::token(0xab)), "TokenHash(abababab..)");
    assert_eq!(format!("{:?}", common::text("private")), "MessageText(7 bytes)");
    let command = common::register(1, 0);
    assert!(!format!("{command:?}").contains("argon2id"));
    assert!(PasswordHash::new("hunter22").is_err());
}

#[test]
fn what_no_client_may_send_cannot_be_read_from_bytes_either() {
    let good = codec::encode(&[common::register(1, 0)]);
    let at = good.windows(3).position(|it| it == b"ann").unwrap();
    let mut bad = good.clone();
    bad[at] = b'-';
    assert!(codec::decode(&good).is_ok());
    assert_eq!(codec::decode(&bad), Err(DecodeError::Malformed));
    assert_eq!(codec::decode(&[]), Err(DecodeError::Empty));
    assert_eq!(codec::decode(&[2, 0]), Err(DecodeError::UnknownFormat { found: 2 }));
    // A batch that claims to have 2^60 commands.
    assert_eq!(codec::decode(&[1, 128, 128, 128, 128, 128, 128, 128, 128, 16]), Err(DecodeError::Malformed));
}

/// Bytes that are on disks and must stay readable: a change here needs a new format.
#[test]
fn the_format_of_a_send_is_fixed() {
    let send = chat_core::Command::Send {
        key: common::key(1),
        session: common::token(2),
        to: common::name(0),
        text: common::text("hi"),
        at: Timestamp(-1),
    };
    let mut expected = vec![1, 1, 3];
    expected.extend([1; 16]);
    expected.extend([2; 32]);
    expected.extend(b"\x03ann\x02hi\x01");
    assert_eq!(codec::encode(&[send]), expected);
}
