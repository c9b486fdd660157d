//! Counts and logs what was rejected on the sockets of links.
//!
//! That is connections to the peer port that were refused, and connections of either direction that
//! were closed because of what arrived on them. All are counted, and not all of them are logged as
//! warnings, since strangers control how many there are.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::Mutex;

use crate::logging::throttle::LogThrottle;

/// Shortest time between two rejections that are logged as warnings; those between are logged as
/// details.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// The same for two with the same reason: a neighbor that is refused tries again each second.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Rejections of one server since its start.
#[derive(Debug, Default)]
pub(crate) struct RejectedPeers {
    count: AtomicU64,
    warnings: Mutex<Warnings>,
}

#[derive(Debug, Default)]
struct Warnings {
    throttle: LogThrottle,
    /// The reason in the last warning.
    reason: String,
}

impl RejectedPeers {
    /// Number of rejections.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts a rejection, and logs the connection and the reason.
    pub(super) fn add(&self, connection: impl fmt::Display, reason: impl fmt::Display) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let level = self.level(Instant::now(), &reason.to_string());
        log::log!(
            level,
            "{connection} refused: {reason} (refused so far: {count})"
        );
    }

    fn level(&self, now: Instant, reason: &str) -> Level {
        let mut warnings = self.warnings.lock();
        let interval = if warnings.reason == reason {
            REPEAT_INTERVAL
        } else {
            WARNING_INTERVAL
        };
        if !warnings.throttle.record(1, now, interval) {
            return Level::Debug;
        }
        reason.clone_into(&mut warnings.reason);
        Level::Warn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_fill_the_log() {
        let (rejected, start) = (RejectedPeers::default(), Instant::now());
        let (warn, debug) = (Level::Warn, Level::Debug);
        for (milliseconds, reason, expected) in [
            (0, "wrong key", warn),
            (10, "wrong key", debug),
            (20, "too slow", debug),
            (1_500, "wrong key", debug),
            (1_600, "too slow", warn),
            (1_700, "wrong key", debug),
            (2_700, "wrong key", warn),
            (62_600, "wrong key", debug),
            (62_700, "wrong key", warn),
        ] {
            let now = start + Duration::from_millis(milliseconds);
            let level = rejected.level(now, reason);
            assert_eq!(level, expected, "{reason} after {milliseconds} ms");
        }
    }
}
