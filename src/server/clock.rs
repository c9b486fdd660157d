//! Whether this server's clock is to be believed, before records are dropped by it: a wrong clock
//! deletes nothing.
//!
//! With neighbors, one that is linked must have confirmed the clock within the last seconds. A herd of
//! one believes it after an hour in which it has run like the monotonic clock, which nobody can set.

use std::time::{Duration, Instant};

use crate::model::time::Timestamp;

/// Maximum difference between the wall clock and where the monotonic clock would have it.
const MAX_DIFFERENCE_NANOS: u64 = 60_000_000_000;

/// Time for which both clocks must have run alike in a herd of one.
const TRIAL: Duration = Duration::from_secs(3_600);

/// Time without a confirmation after which that is told. Neighbors send their clocks each second.
const CONFIRMATION_DUE: Duration = Duration::from_secs(5);

/// A moment, by the monotonic and by the wall clock.
pub(super) type Moment = (Instant, Timestamp);

/// Why the clock is not believed; `None` for a reason that is none to worry about.
pub(super) type Doubt = Option<String>;

/// The clock under observation. Time is an argument.
#[derive(Debug)]
pub(super) struct ClockTrust {
    /// A moment within the last hour, from which the wall clock is expected to have run on.
    base: Moment,
    /// When the wall clock was set last, or the start.
    since: Instant,
    /// Seconds by which it was set then.
    set_by: Option<i128>,
    /// When a neighbor, or none being there, confirmed the clock last.
    confirmed: Instant,
}

impl ClockTrust {
    pub(super) fn new(now: Instant, wall: Timestamp) -> ClockTrust {
        ClockTrust {
            base: (now, wall),
            since: now,
            set_by: None,
            confirmed: now,
        }
    }

    /// Returns the time, if it is certain, or why it is not. `confirmed` is the moment at
    /// which a linked neighbor's clock agreed, if one's has in the last seconds. To be called several
    /// times a second.
    pub(super) fn look(
        &mut self,
        now: Instant,
        wall: Timestamp,
        neighbors: usize,
        confirmed: Option<Moment>,
    ) -> Result<Timestamp, Doubt> {
        self.observe(now, wall);
        if neighbors == 0 {
            self.confirmed = now;
            return self.judge_alone(now, wall);
        }
        if let Some((then, wall)) = confirmed {
            self.confirmed = now;
            // The clock may have been set since.
            let elapsed = now.saturating_duration_since(then).as_nanos();
            let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
            return Ok(Timestamp::from_nanos(
                wall.as_nanos().saturating_add(elapsed),
            ));
        }
        let is_due = now.saturating_duration_since(self.confirmed) >= CONFIRMATION_DUE;
        Err(is_due.then(|| {
            "no linked neighbor confirms this server's clock: nothing that has expired is dropped"
                .to_owned()
        }))
    }

    fn observe(&mut self, now: Instant, wall: Timestamp) {
        let (then, then_wall) = self.base;
        let elapsed = now.saturating_duration_since(then);
        let difference = i128::from(wall.as_nanos())
            - i128::from(then_wall.as_nanos())
            - elapsed.as_nanos().cast_signed();
        if difference.unsigned_abs() > u128::from(MAX_DIFFERENCE_NANOS) {
            (self.base, self.since) = ((now, wall), now);
            self.set_by = Some(difference / 1_000_000_000);
        } else if elapsed >= TRIAL {
            // A clock that is slewed may be a minute off after months.
            self.base = (now, wall);
        }
    }

    fn judge_alone(&self, now: Instant, wall: Timestamp) -> Result<Timestamp, Doubt> {
        if now.saturating_duration_since(self.since) >= TRIAL {
            return Ok(wall);
        }
        Err(self.set_by.map(|seconds| {
            format!(
                "this server's clock was set by {seconds:+} s: nothing that has expired is dropped before it has run \
                 evenly for an hour"
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_479_413_884;

    /// A clock, looked at twice a second up to `until`, in seconds; `wall` is the wall clock then.
    fn run(
        trust: &mut ClockTrust,
        start: Instant,
        seconds: std::ops::Range<u64>,
        neighbors: usize,
        wall: impl Fn(u64) -> u64,
    ) -> Vec<(u64, Result<Timestamp, Doubt>)> {
        let mut changes: Vec<(u64, Result<Timestamp, Doubt>)> = Vec::new();
        for second in seconds {
            let now = start + Duration::from_secs(second);
            let wall = Timestamp::from_nanos(wall(second) * 1_000_000_000);
            let found = trust.look(now, wall, neighbors, None);
            let is_news = match (changes.last(), &found) {
                (Some((_, Ok(_))), Ok(_)) => false,
                (Some((_, last)), found) => last != found,
                (None, _) => true,
            };
            if is_news {
                changes.push((second, found));
            }
        }
        changes
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_herd_of_one_believes_its_clock_after_an_hour_of_even_running() {
        let start = Instant::now();
        let mut trust = ClockTrust::new(start, at(START));
        // It is set back a little, which is no matter, and then by two hours, and back again.
        let wall = |second: u64| match second {
            0..5_000 => START + second,
            5_000..9_000 => START + second - 30,
            9_000..9_010 => START + second + 7_200,
            _ => START + second,
        };
        let changes = run(&mut trust, start, 0..20_000, 0, wall);
        let set = |by: &str| {
            Err(Some(format!(
                "this server's clock was set by {by} s: nothing that has expired is dropped before it has run evenly for an hour"
            )))
        };
        assert_eq!(
            changes,
            [
                (0, Err(None)),
                (3_600, Ok(at(START + 3_600))),
                (9_000, set("+7230")),
                (9_010, set("-7200")),
                (12_610, Ok(at(START + 12_610))),
            ]
        );
    }

    #[test]
    fn a_clock_that_runs_twice_as_fast_is_never_believed() {
        let start = Instant::now();
        let mut trust = ClockTrust::new(start, at(START));
        let changes = run(&mut trust, start, 0..20_000, 0, |second| START + 2 * second);
        assert!(
            changes.iter().all(|(_, found)| found.is_err()),
            "{changes:?}"
        );
    }

    #[test]
    fn with_neighbors_only_a_confirmed_moment_counts() {
        let start = Instant::now();
        let mut trust = ClockTrust::new(start, at(START));
        let now = |second| start + Duration::from_secs(second);
        let confirmed = (now(1), at(START + 1));
        // The clock jumps behind it.
        let jumped = at(START + 90_000);
        let time = trust.look(now(2), jumped, 2, Some(confirmed));
        assert_eq!(time, Ok(at(START + 2)));
        assert_eq!(trust.look(now(6), jumped, 2, None), Err(None));
        assert!(matches!(trust.look(now(7), jumped, 2, None), Err(Some(_))));
        // However long it has run evenly.
        let changes = run(&mut trust, start, 8..9_000, 2, |second| START + second);
        assert!(
            changes.iter().all(|(_, found)| found.is_err()),
            "{changes:?}"
        );
    }
}
