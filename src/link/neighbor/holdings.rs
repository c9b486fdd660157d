//! The records that a neighbor has confirmed, and the age of the oldest unconfirmed one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::vector::Vector;

/// Writes that are told apart by their times; closer ones count as one, by the earlier time.
const STAMP_STEP: Duration = Duration::from_millis(10);

/// Writes that are told apart for one neighbor; past this later ones count with the last.
const STAMPS: usize = 4_096;

/// Markers sent and not yet acknowledged that are kept for one neighbor: one comes each second, and
/// the oldest are dropped first.
const MARKERS: usize = 64;

/// Records that a neighbor is known to hold, by its own words.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Vector that covers records which the neighbor has confirmed.
    pub(super) confirmed: Vector,
    /// Markers sent over this connection, each with the number of records before it.
    sent: VecDeque<(u64, Arc<Vector>)>,
    /// Writes of records that are not confirmed: the number of records up to and with each, and when
    /// the first of them was queued.
    unconfirmed: VecDeque<(u64, Instant)>,
    /// Since when the neighbor lacks records that are neither written nor queued, but to be sent from
    /// the cache.
    pub(super) missing: Option<Instant>,
}

impl Holdings {
    /// Begins with a new connection. The neighbor may lack anything until the first resync.
    pub(super) fn connected(&mut self, now: Instant) {
        self.sent.clear();
        self.unconfirmed.clear();
        self.missing = Some(now);
    }

    /// Notes that a marker has been written behind the record number `written`.
    pub(super) fn marked(&mut self, written: u64, marker: Arc<Vector>) {
        if self.sent.len() >= MARKERS {
            self.sent.pop_front();
        }
        self.sent.push_back((written, marker));
    }

    /// Notes that records up to the number `written` are being written, the first of them queued at
    /// `since`.
    pub(super) fn written(&mut self, written: u64, since: Instant) {
        let is_full = self.unconfirmed.len() >= STAMPS;
        match self.unconfirmed.back_mut() {
            Some((last, earlier)) if is_full || since < *earlier + STAMP_STEP => *last = written,
            _ => self.unconfirmed.push_back((written, since)),
        }
    }

    /// Returns the age of the oldest record that is not confirmed.
    pub(super) fn lag(&self, now: Instant) -> Duration {
        let written = self.unconfirmed.front().map(|(_, since)| *since);
        let oldest = written.into_iter().chain(self.missing).min();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Takes the acknowledgement of that number of records.
    pub(super) fn confirm(&mut self, records: u64) {
        while let Some((last, _)) = self.unconfirmed.front()
            && *last <= records
        {
            self.unconfirmed.pop_front();
        }
        while let Some((before, _)) = self.sent.front()
            && *before <= records
        {
            if let Some((_, marker)) = self.sent.pop_front() {
                self.confirmed.merge(&marker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writes_that_are_told_apart_are_bounded() {
        let (mut holdings, start) = (Holdings::default(), Instant::now());
        for number in 1..=2 * STAMPS as u64 {
            holdings.written(number, start + Duration::from_secs(number));
        }
        assert_eq!(holdings.unconfirmed.len(), STAMPS);
        holdings.confirm(STAMPS as u64 - 1);
        let last = 2 * STAMPS as u64;
        let age = holdings.lag(start + Duration::from_secs(last));
        assert_eq!(age, Duration::from_secs(STAMPS as u64), "never too low");
        holdings.confirm(last - 1);
        assert_eq!(holdings.unconfirmed.len(), 1);
        holdings.confirm(last);
        assert_eq!(holdings.lag(start), Duration::ZERO);
    }
}
