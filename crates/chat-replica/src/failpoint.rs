//! Named points at which a test can end the process as kill -9 would: in the middle of things.
//!
//! Only with the cargo feature `failpoints`, which is off by default: without it `reach` is empty, and nothing is read from the
//! environment. With it, `chatd` takes its orders from `FAILPOINTS` (the syntax is that of the crate `fail`):
//!
//! ```text
//! FAILPOINTS="after-commit=1%return"              at one of a hundred passages, by chance
//! FAILPOINTS="before-persist=20*off->return"      at the 21st
//! FAILPOINTS_AFTER="serving"                      passages count only once this point was passed: by then it is a primary
//! ```
//!
//! | point | the process ends |
//! | --- | --- |
//! | `start-verify` | before the log is read and verified |
//! | `start-verified` | after it, before the new process run is written |
//! | `start-begun` | when that is written and not yet committed |
//! | `start-durable` | when it is durable, before the file `identity` says so |
//! | `start-identified` | when that is done: before anything listens to peers |
//! | `identity-written` | when the new file `identity` is written, before it takes the place of the old one |
//! | `before-send` | before a turn's messages that promise nothing leave |
//! | `after-send` | when they were handed to the transport, before anything else of the turn |
//! | `before-apply` | before committed entries are carried out: on a replica that does not lead and has something to make durable, after all that is below up to `after-promises` |
//! | `after-apply` | when an entry was carried out, before anybody is answered |
//! | `after-answers` | when answers and streams were told, before the state is committed |
//! | `before-persist` | before a turn writes what is to be durable |
//! | `before-commit` | when it is written, before it is committed and synced |
//! | `before-mark` | when it is synced, before the mark says so |
//! | `after-commit` | when both are done, before anything that rests on it leaves |
//! | `after-promises` | when that was handed to the transport |
//! | `cutting-back` | when the mark was lowered, before the tail of the log is cut |
//! | `taking-in` | when the database was given what waits for it, before that is committed |
//! | `taken-in` | when it is committed, which is not synced |
//! | `checkpoint` | before the write-ahead log is moved into the database |
//! | `after-checkpoint` | when all but its last pages are there |
//! | `view-committed` | when a new view is known to be committed |
//! | `serving` | when a new primary begins to serve |

/// Whether this build has them.
pub const COMPILED: bool = cfg!(feature = "failpoints");

macro_rules! points {
    ($($point:ident = $name:literal,)*) => {
        /// A named point; the module's documentation says where it is.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[allow(missing_docs, reason = "the table above says what each is")]
        pub enum Point { $($point,)* }

        impl Point {
            /// All of them, in the order of the table.
            pub const ALL: &[Point] = &[$(Point::$point,)*];

            /// As `FAILPOINTS` names it.
            pub fn name(self) -> &'static str {
                match self { $(Point::$point => $name,)* }
            }
        }
    };
}

points! {
    StartVerify = "start-verify",
    StartVerified = "start-verified",
    StartBegun = "start-begun",
    StartDurable = "start-durable",
    StartIdentified = "start-identified",
    IdentityWritten = "identity-written",
    BeforeSend = "before-send",
    AfterSend = "after-send",
    BeforeApply = "before-apply",
    AfterApply = "after-apply",
    AfterAnswers = "after-answers",
    BeforePersist = "before-persist",
    BeforeCommit = "before-commit",
    BeforeMark = "before-mark",
    AfterCommit = "after-commit",
    AfterPromises = "after-promises",
    CuttingBack = "cutting-back",
    TakingIn = "taking-in",
    TakenIn = "taken-in",
    Checkpoint = "checkpoint",
    AfterCheckpoint = "after-checkpoint",
    ViewCommitted = "view-committed",
    Serving = "serving",
}

/// The orders of the environment hold for as long as this lives.
#[derive(Debug)]
pub struct Armed {
    #[cfg(feature = "failpoints")]
    _scenario: Scenario,
}

#[cfg(feature = "failpoints")]
struct Scenario(#[allow(dead_code, reason = "its end disarms")] fail::FailScenario<'static>);

#[cfg(feature = "failpoints")]
impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scenario")
    }
}

/// Takes the orders of the environment variable `FAILPOINTS`; without the feature, none. Once in a process. With orders that make no
/// sense the process ends.
#[must_use]
pub fn arm() -> Armed {
    Armed {
        #[cfg(feature = "failpoints")]
        _scenario: Scenario(fail::FailScenario::setup()),
    }
}

/// The process passes the point, or ends there if it was told to.
#[inline]
pub(crate) fn reach(point: Point) {
    #[cfg(feature = "failpoints")]
    end_if_told(point);
    #[cfg(not(feature = "failpoints"))]
    let _ = point;
}

#[cfg(feature = "failpoints")]
fn end_if_told(point: Point) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    static AFTER: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FAILPOINTS_AFTER").ok());
    static PASSED: AtomicBool = AtomicBool::new(false);
    if let Some(after) = &*AFTER {
        if point.name() == after {
            PASSED.store(true, Ordering::Relaxed);
        }
        if !PASSED.load(Ordering::Relaxed) {
            return;
        }
    }
    fail::fail_point!(point.name(), |_| {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "chatd: failpoint {}", point.name());
        // Nothing is flushed, unwound or closed in order.
        std::process::abort()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_point() {
        let table: Vec<&str> = include_str!("failpoint.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `")?.split_once('`').map(|(name, _)| name))
            .collect();
        let names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(table, names);
    }
}
