//! The one clock: the process's monotonic time for the protocol, and the wall's for display.

use crate::protocol::Time;
use chat_core::Timestamp;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the monotonic clock as the protocol counts it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now, a second from zero so that "never" is long ago.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Time {
        Time(self.origin.elapsed().as_micros() as u64 + 1_000_000)
    }

    /// The instant of a protocol time.
    pub fn instant(&self, time: Time) -> Instant {
        self.origin + Duration::from_micros(time.0.saturating_sub(1_000_000).min(u64::from(u32::MAX) * 1_000_000))
    }
}

/// The wall's time, for display and for when sessions expire; never for order.
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis() as i64)
}
