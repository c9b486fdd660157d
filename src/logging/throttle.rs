//! Keeps one kind of event from filling the log: the first is logged, those that follow are counted
//! until an interval is over.
//!
//! A throttle only decides and counts. Its owner has the clock, the lock and the text, so that
//! nothing is logged under a lock.

use std::time::{Duration, Instant};

/// Decides which of many similar events are logged.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    last_report: Option<Instant>,
    unreported: u64,
}

impl LogThrottle {
    /// Counts `events`, or none when called only to check. Returns `true` if the caller must log a
    /// report now: there are events to report, and the last report is at least `interval` ago.
    pub(crate) fn record(&mut self, events: u64, now: Instant, interval: Duration) -> bool {
        self.unreported += events;
        let due = self.unreported > 0
            && self
                .last_report
                .is_none_or(|last| now.saturating_duration_since(last) >= interval);
        if due {
            self.last_report = Some(now);
        }
        due
    }

    /// Returns the number of events since it was last taken, and begins to count again from 0.
    pub(crate) fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.unreported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn the_first_event_is_reported_and_then_one_in_each_interval() {
        let (mut throttle, start) = (LogThrottle::default(), Instant::now());
        let mut check = |millis: u64, expected: bool| {
            let now = start + Duration::from_millis(millis);
            assert_eq!(throttle.record(1, now, INTERVAL), expected, "{millis} ms");
        };
        check(0, true);
        check(20, false);
        check(9_980, false);
        check(10_000, true);
        check(10_020, false);
        // The interval counts from the report, not from the last event.
        check(20_000, true);
    }

    #[test]
    fn events_between_reports_are_counted() {
        let (mut throttle, start) = (LogThrottle::default(), Instant::now());
        assert!(!throttle.record(0, start, INTERVAL));
        assert!(throttle.record(1, start, INTERVAL));
        assert_eq!(throttle.take_count(), 1);
        for _ in 0..5 {
            assert!(!throttle.record(2, start, INTERVAL));
        }
        assert!(!throttle.record(0, start + INTERVAL / 2, INTERVAL));
        assert!(throttle.record(0, start + INTERVAL, INTERVAL));
        assert_eq!(throttle.take_count(), 10);
        assert!(!throttle.record(0, start + INTERVAL * 3, INTERVAL));
    }

    #[test]
    fn an_interval_may_change_from_event_to_event() {
        let (mut throttle, start) = (LogThrottle::default(), Instant::now());
        assert!(throttle.record(1, start, INTERVAL));
        assert!(!throttle.record(1, start + INTERVAL / 2, INTERVAL));
        assert!(throttle.record(1, start + INTERVAL / 2, INTERVAL / 2));
    }
}
