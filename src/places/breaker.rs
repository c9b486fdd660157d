//! When not to call: a circuit breaker for a provider that fails, and a cap on what it costs.
//!
//! Values in, values out: the time is an argument.

use std::time::{Duration, Instant};

/// Calls that are looked back on.
const WINDOW: usize = 20;

/// Failures among them at which the breaker opens.
const FAILURES: usize = WINDOW / 2;

/// How long it stays open before one call is tried.
const OPEN: Duration = Duration::from_secs(5);

/// Refuses calls to a provider of whose last 20 calls half have failed: for 5 s, then lets one
/// through, whose success closes it.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Outcomes of the last calls, `true` for a failure; a ring once it is full.
    failed: Vec<bool>,
    next: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// Calls are refused until then.
    Open(Instant),
    /// One call is under way, and decides. Should it never report, another is tried then.
    Trial(Instant),
}

impl Breaker {
    /// Whether a call may be made now; if not, how long until one may.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed => Ok(()),
            State::Open(until) | State::Trial(until) if now < until => Err(until - now),
            State::Open(_) | State::Trial(_) => {
                self.state = State::Trial(now + OPEN);
                Ok(())
            }
        }
    }

    /// Takes the outcome of a call that was admitted. Says whether the breaker has just opened.
    pub fn report(&mut self, failed: bool, now: Instant) -> bool {
        match self.state {
            // A call that began before it opened says nothing new.
            State::Open(_) => false,
            State::Trial(_) if failed => {
                self.state = State::Open(now + OPEN);
                false
            }
            State::Trial(_) => {
                *self = Breaker::default();
                false
            }
            State::Closed => {
                if self.failed.len() < WINDOW {
                    self.failed.push(failed);
                } else {
                    self.failed[self.next] = failed;
                    self.next = (self.next + 1) % WINDOW;
                }
                let failures = self.failed.iter().filter(|&&failed| failed).count();
                let opens = self.failed.len() == WINDOW && failures >= FAILURES;
                if opens {
                    self.state = State::Open(now + OPEN);
                }
                opens
            }
        }
    }
}

/// So many calls a minute, and no more: what a provider can cost at most.
#[derive(Debug)]
pub struct CallRate {
    per_minute: u32,
    /// Calls that may be made at once, refilled as time passes.
    saved: f64,
    last: Instant,
}

impl CallRate {
    /// `per_minute` calls at once, and as many in each minute after.
    pub fn new(per_minute: u32, now: Instant) -> CallRate {
        CallRate {
            per_minute,
            saved: f64::from(per_minute),
            last: now,
        }
    }

    /// Takes a call, if there is one left.
    pub fn take(&mut self, now: Instant) -> bool {
        let limit = f64::from(self.per_minute);
        let refill = now.saturating_duration_since(self.last).as_secs_f64() / 60.0 * limit;
        self.saved = (self.saved + refill).min(limit);
        self.last = now;
        let left = self.saved >= 1.0;
        if left {
            self.saved -= 1.0;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened(start: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for call in 0..WINDOW {
            assert_eq!(breaker.admit(start), Ok(()));
            let opens = breaker.report(call % 2 == 0, start);
            assert_eq!(opens, call == WINDOW - 1, "call {call}");
        }
        breaker
    }

    #[test]
    fn half_of_a_full_window_opens_it() {
        let start = Instant::now();
        assert_eq!(opened(start).admit(start + SECOND), Err(4 * SECOND));
        let mut breaker = Breaker::default();
        for call in 0..1_000 {
            breaker.report(call % WINDOW < FAILURES - 1, start);
            assert_eq!(breaker.admit(start), Ok(()), "call {call}");
        }
    }

    #[test]
    fn one_trial_decides() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let later = start + OPEN;
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(
            breaker.admit(later).is_err(),
            "a second call beside the trial"
        );
        breaker.report(true, later);
        assert_eq!(breaker.admit(later + 4 * SECOND), Err(SECOND));
        assert_eq!(breaker.admit(later + OPEN), Ok(()));
        breaker.report(false, later + OPEN);
        for _ in 0..WINDOW - 1 {
            assert_eq!(breaker.admit(later + OPEN), Ok(()));
            breaker.report(true, later + OPEN);
        }
    }

    #[test]
    fn a_trial_that_never_reports_does_not_shut_it_for_ever() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert_eq!(breaker.admit(start + OPEN), Ok(()));
        assert_eq!(breaker.admit(start + 2 * OPEN), Ok(()));
    }

    #[test]
    fn calls_are_capped_by_the_minute() {
        let start = Instant::now();
        let mut rate = CallRate::new(3, start);
        let taken = |rate: &mut CallRate, now| (0..10).filter(|_| rate.take(now)).count();
        assert_eq!(taken(&mut rate, start), 3);
        assert_eq!(taken(&mut rate, start + 20 * SECOND), 1);
        assert_eq!(taken(&mut rate, start + 600 * SECOND), 3);
    }
}
