//! Counts and logs what was rejected on the sockets of links.
//!
//! That is connections to the peer port that were refused, and connections of either direction that
//! were closed because of what arrived on them. All are counted, and not all of them are logged as
//! warnings, since strangers control how many there are.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::Mutex;

use super::handshake::HandshakeError;
use crate::logging::throttle::LogThrottle;
use crate::metrics::{CounterFamily, Label};

/// Shortest time between two rejections that are logged as warnings; those between are logged as
/// details.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// The same for two with the same reason: a neighbor that is refused tries again each second.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Outcome of a connection to the peer port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerOutcome {
    /// Of a neighbor, or of an observer.
    Accepted,
    /// There was no descriptor for it.
    NoDescriptor,
    /// It was closed to make room for another.
    NoSlot,
    /// It did not identify itself in time.
    Late,
    /// It closed before it had identified itself.
    Closed,
    /// It has no key of the herd.
    WrongKey,
    /// It does not speak the protocol.
    NotAPeer,
    /// It speaks no version that this server speaks.
    Version,
    /// It belongs to another herd.
    AnotherHerd,
    /// It looked for another server.
    WrongServer,
    /// It is no neighbor.
    NotANeighbor,
    /// Its clock differs by too much.
    Clock,
    /// No thread was free for it.
    Busy,
    /// It broke.
    Broken,
}

impl Label for PeerOutcome {
    const ALL: &'static [PeerOutcome] = &[
        PeerOutcome::Accepted,
        PeerOutcome::NoDescriptor,
        PeerOutcome::NoSlot,
        PeerOutcome::Late,
        PeerOutcome::Closed,
        PeerOutcome::WrongKey,
        PeerOutcome::NotAPeer,
        PeerOutcome::Version,
        PeerOutcome::AnotherHerd,
        PeerOutcome::WrongServer,
        PeerOutcome::NotANeighbor,
        PeerOutcome::Clock,
        PeerOutcome::Busy,
        PeerOutcome::Broken,
    ];

    fn index(self) -> usize {
        self as usize
    }

    fn name(self) -> &'static str {
        match self {
            PeerOutcome::Accepted => "accepted",
            PeerOutcome::NoDescriptor => "no_descriptor",
            PeerOutcome::NoSlot => "no_slot",
            PeerOutcome::Late => "late",
            PeerOutcome::Closed => "closed",
            PeerOutcome::WrongKey => "wrong_key",
            PeerOutcome::NotAPeer => "not_a_peer",
            PeerOutcome::Version => "version",
            PeerOutcome::AnotherHerd => "another_herd",
            PeerOutcome::WrongServer => "wrong_server",
            PeerOutcome::NotANeighbor => "not_a_neighbor",
            PeerOutcome::Clock => "clock",
            PeerOutcome::Busy => "busy",
            PeerOutcome::Broken => "broken",
        }
    }
}

impl From<&HandshakeError> for PeerOutcome {
    fn from(error: &HandshakeError) -> PeerOutcome {
        match error {
            HandshakeError::Io(error) if error.kind() == ErrorKind::InvalidData => {
                PeerOutcome::NotAPeer
            }
            HandshakeError::TimedOut | HandshakeError::Late(_) => PeerOutcome::Late,
            HandshakeError::Closed | HandshakeError::Reset | HandshakeError::KeyRefused => {
                PeerOutcome::Closed
            }
            HandshakeError::WrongKey => PeerOutcome::WrongKey,
            HandshakeError::NotAPeer => PeerOutcome::NotAPeer,
            HandshakeError::Version(_) => PeerOutcome::Version,
            HandshakeError::AnotherHerd => PeerOutcome::AnotherHerd,
            HandshakeError::WrongName(_) | HandshakeError::Mistaken(..) => PeerOutcome::WrongServer,
            HandshakeError::NotANeighbor(_) => PeerOutcome::NotANeighbor,
            HandshakeError::Skew(_) => PeerOutcome::Clock,
            HandshakeError::Io(_)
            | HandshakeError::Twins(_)
            | HandshakeError::Refused(_)
            | HandshakeError::Answer(_) => PeerOutcome::Broken,
        }
    }
}

/// Rejections of one server since its start.
#[derive(Debug, Default)]
pub(crate) struct RejectedPeers {
    count: AtomicU64,
    connections: Arc<CounterFamily<PeerOutcome>>,
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

    /// Returns the outcomes of all connections to the peer port.
    pub(super) fn connections(&self) -> Arc<CounterFamily<PeerOutcome>> {
        Arc::clone(&self.connections)
    }

    /// Counts a connection to the peer port that is served.
    pub(super) fn accepted(&self) {
        self.connections.count(PeerOutcome::Accepted);
    }

    /// Counts and logs a connection to the peer port that is refused.
    pub(super) fn refuse(
        &self,
        outcome: PeerOutcome,
        connection: impl fmt::Display,
        reason: impl fmt::Display,
    ) {
        self.connections.count(outcome);
        self.add(connection, reason);
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_outcome_has_its_index_and_a_name_of_its_own() {
        let all = PeerOutcome::ALL;
        for (index, outcome) in all.iter().enumerate() {
            assert_eq!(outcome.index(), index, "{outcome:?}");
        }
        let names: BTreeSet<_> = all.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(names.len(), all.len());
    }

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
