//! Histories survive being written and read, and what is none is refused.

mod model;

use chat_check::{History, ReadError};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(50) })]

    #[test]
    fn what_is_written_is_read(steps in model::steps(0..60, 4, 6)) {
        let history = model::whole(&steps, 4);
        let mut file = Vec::new();
        history.write(&mut file).expect("written to memory");
        prop_assert_eq!(History::read(&file[..]).expect("just written"), history);
    }
}

#[test]
fn another_version_is_refused() {
    let read = History::read(&b"{\"chat_history\":999}\n"[..]);
    assert!(matches!(read, Err(ReadError::Version { found: 999 })), "{read:?}");
}

#[test]
fn something_else_is_refused() {
    assert!(matches!(History::read(&b""[..]), Err(ReadError::NoHeader)));
    assert!(matches!(History::read(&b"{\"call\":1}\n"[..]), Err(ReadError::NoHeader)));
}

#[test]
fn a_torn_line_is_named() {
    let read = History::read(&b"{\"chat_history\":1}\n{\"call\":{\"client\":1,"[..]);
    assert!(matches!(read, Err(ReadError::Line { line: 2, .. })), "{read:?}");
}
