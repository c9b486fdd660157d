//! Counts what came over a link's socket that no neighbor sent, and tells of it.
//!
//! Connections to the peer port that were refused, and connections of either direction that were
//! broken off for what came over them. All are counted, and not all of them logged as warnings,
//! since how many there are is up to strangers.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::Mutex;

/// Shortest time between two refusals that are logged as warnings; those between are details.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// The same for two with the same reason: a neighbor that is refused tries again each second.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// What one server has refused since it was started.
#[derive(Debug, Default)]
pub struct RejectedPeers {
    count: AtomicU64,
    /// The last warning: when, and for which reason.
    warned: Mutex<Option<(Instant, String)>>,
}

impl RejectedPeers {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one more, and logs which connection it was and why.
    pub(super) fn add(&self, connection: impl fmt::Display, reason: impl fmt::Display) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let level = if self.is_worth_a_warning(Instant::now(), &reason.to_string()) {
            Level::Warn
        } else {
            Level::Debug
        };
        log::log!(
            level,
            "{connection} refused: {reason} (refused so far: {count})"
        );
    }

    fn is_worth_a_warning(&self, now: Instant, reason: &str) -> bool {
        let mut warned = self.warned.lock();
        let quiet = warned.as_ref().is_some_and(|(at, last)| {
            let interval = if last == reason {
                REPEAT_INTERVAL
            } else {
                WARNING_INTERVAL
            };
            now < *at + interval
        });
        if !quiet {
            *warned = Some((now, reason.to_owned()));
        }
        !quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_fill_the_log() {
        let (refusals, start) = (RejectedPeers::default(), Instant::now());
        for (milliseconds, reason, expected) in [
            (0, "wrong key", true),
            (10, "wrong key", false),
            (20, "too slow", false),
            (1_500, "wrong key", false),
            (1_600, "too slow", true),
            (1_700, "wrong key", false),
            (2_700, "wrong key", true),
            (62_600, "wrong key", false),
            (62_700, "wrong key", true),
        ] {
            let now = start + Duration::from_millis(milliseconds);
            let got = refusals.is_worth_a_warning(now, reason);
            assert_eq!(got, expected, "{reason} after {milliseconds} ms");
        }
    }
}
