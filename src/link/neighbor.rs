//! How one neighbor's link is doing: what its threads note, for whoever asks.
//!
//! The receiving side says once a second how many records it has applied over the connection
//! (`PONG`), so what is written or queued and not yet acknowledged is known on the sending side.
//! Noting costs an addition for each group of records; the rest changes with the connection.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::model::time::Timestamp;
use crate::replica::outbox::{Depth, Gauge};

/// Where a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not connected; the neighbor is dialed again in a moment.
    #[default]
    Down,
    /// The neighbor is being dialed, or hands are shaken.
    Connecting,
    /// Connected; what the neighbor lacks is asked for, or being sent from the cache.
    Resyncing,
    /// Every record is queued and sent as it comes.
    Live,
    /// The queue has overflowed, and a resync is to come.
    Dirty,
}

impl Phase {
    const ALL: [(Phase, &str); 5] = [
        (Phase::Down, "down"),
        (Phase::Connecting, "connecting"),
        (Phase::Resyncing, "resyncing"),
        (Phase::Live, "live"),
        (Phase::Dirty, "dirty"),
    ];

    /// Reads what `Display` wrote.
    pub fn parse(text: &[u8]) -> Option<Phase> {
        Phase::ALL
            .into_iter()
            .find(|(_, name)| name.as_bytes() == text)
            .map(|(phase, _)| phase)
    }

    /// Whether there is a connection.
    pub fn is_connected(self) -> bool {
        !matches!(self, Phase::Down | Phase::Connecting)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Phase::ALL.iter().find(|(phase, _)| phase == self);
        f.pad(named.map_or("", |(_, name)| name))
    }
}

/// How a link is doing at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Where it is.
    pub phase: Phase,
    /// Records written over this connection.
    pub written: u64,
    /// Records that the neighbor has applied of those, by its last word.
    pub acknowledged: u64,
    /// What waits to be written.
    pub queue: Depth,
    /// How often the neighbor has been sent what it lacked from the cache.
    pub resyncs: u64,
    /// Buckets of the cache in which the neighbor was found to differ.
    pub diverged: u64,
    /// Why the last connection ended or was not made, and when that was.
    pub error: Option<(Timestamp, String)>,
}

impl LinkStatus {
    /// Records that the neighbor has yet to apply; `None` while there is no connection to count
    /// them over. After an overflow the true number is higher.
    pub fn lag(&self) -> Option<u64> {
        let sent = self.written + self.queue.records as u64;
        self.phase
            .is_connected()
            .then(|| sent.saturating_sub(self.acknowledged))
    }
}

/// What a link's threads note.
#[derive(Debug)]
pub struct Monitor {
    written: AtomicU64,
    acknowledged: AtomicU64,
    queue: Gauge,
    noted: Mutex<Noted>,
}

/// What changes seldom.
#[derive(Debug, Default)]
struct Noted {
    phase: Phase,
    resyncs: u64,
    diverged: u64,
    error: Option<(Timestamp, String)>,
}

impl Monitor {
    /// Of a link that is down.
    pub fn new(queue: Gauge) -> Monitor {
        Monitor {
            written: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            queue,
            noted: Mutex::default(),
        }
    }

    /// Notes where the link is.
    pub fn enter(&self, phase: Phase) {
        self.noted.lock().phase = phase;
    }

    /// Counts anew, for a new connection. Before anything is written over it, and after the last
    /// has been heard over the one before.
    pub fn count_anew(&self) {
        self.written.store(0, Ordering::Relaxed);
        self.acknowledged.store(0, Ordering::Relaxed);
    }

    /// Notes that there is no connection, and why.
    pub fn lost(&self, now: Timestamp, reason: &str) {
        let mut noted = self.noted.lock();
        noted.phase = Phase::Down;
        noted.error = Some((now, reason.to_owned()));
    }

    /// Notes records that are about to be written. Before the write, so that no acknowledgement
    /// is ever ahead of it.
    pub fn writing(&self, records: usize) {
        self.written.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Notes how many records the neighbor has applied; `false` if it says more than were sent.
    pub fn acknowledge(&self, records: u64) -> bool {
        let plausible = records <= self.written.load(Ordering::Relaxed);
        if plausible {
            self.acknowledged.store(records, Ordering::Relaxed);
        }
        plausible
    }

    /// Notes that what the neighbor lacked has been sent.
    pub fn resynced(&self) {
        let mut noted = self.noted.lock();
        noted.phase = Phase::Live;
        noted.resyncs += 1;
    }

    /// Notes buckets in which the neighbor differs.
    pub fn diverged(&self, buckets: usize) {
        self.noted.lock().diverged += buckets as u64;
    }

    /// All of it, as of about now.
    pub fn status(&self) -> LinkStatus {
        let queue = self.queue.depth();
        let noted = self.noted.lock();
        let phase = match noted.phase {
            // The sender may be in a write, and not know it yet.
            Phase::Live if queue.overflowed => Phase::Dirty,
            phase => phase,
        };
        LinkStatus {
            phase,
            written: self.written.load(Ordering::Relaxed),
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            queue,
            resyncs: noted.resyncs,
            diverged: noted.diverged,
            error: noted.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::outbox::{Batch, outbox};

    #[test]
    fn lag_is_what_is_written_or_queued_and_not_acknowledged() {
        let (inlet, outlet) = outbox(2);
        let monitor = Monitor::new(outlet.gauge());
        assert_eq!(monitor.status().lag(), None);
        monitor.enter(Phase::Resyncing);
        monitor.writing(10);
        inlet.push(&Batch::new(b"one\ntwo\n".to_vec(), 2)).unwrap();
        assert_eq!(monitor.status().lag(), Some(12));
        assert!(monitor.acknowledge(7));
        assert_eq!(monitor.status().lag(), Some(5));
        // More than was sent is no acknowledgement.
        assert!(!monitor.acknowledge(11));
        assert_eq!(monitor.status().lag(), Some(5));
        // Another connection counts anew.
        monitor.lost(Timestamp::from_nanos(5), "gone");
        assert_eq!(monitor.status().lag(), None);
        monitor.count_anew();
        monitor.enter(Phase::Resyncing);
        assert_eq!(monitor.status().lag(), Some(2));
    }

    #[test]
    fn an_overflow_shows_before_the_sender_has_seen_it() {
        let (inlet, outlet) = outbox(1);
        let monitor = Monitor::new(outlet.gauge());
        monitor.resynced();
        let group = Batch::new(b"one\n".to_vec(), 1);
        inlet.push(&group).unwrap();
        assert_eq!(monitor.status().phase, Phase::Live);
        inlet.push(&group).unwrap_err();
        assert_eq!(monitor.status().phase, Phase::Dirty);
        inlet.clear();
        assert_eq!(monitor.status().phase, Phase::Live);
    }

    #[test]
    fn phases_survive_their_names() {
        for (phase, name) in Phase::ALL {
            assert_eq!(phase.to_string(), name);
            assert_eq!(Phase::parse(name.as_bytes()), Some(phase));
        }
        assert_eq!(Phase::parse(b"lively"), None);
    }
}
