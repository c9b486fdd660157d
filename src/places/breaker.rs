//! The reasons not to call a provider: an open circuit breaker, and a limit on calls per minute.
//!
//! [`CallGate`] decides on both at once, so that a call that one of them forbids uses up nothing of
//! the other. Nothing here reads a clock: the time is an argument.

use std::time::{Duration, Instant};

/// Number of most recent calls that are considered.
const WINDOW: u32 = 20;

/// Number of failures among them at which the breaker opens.
const FAILURES: u32 = WINDOW / 2;

/// Time for which the breaker stays open before a trial call.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// A reason not to make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The circuit breaker is open; with the time until the next trial call.
    Suspended(Duration),
    /// The calls of the minute are used up; with the time until the next one is admitted.
    LimitReached(Duration),
}

/// Admits calls to a provider: circuit breaker and limit on calls together.
#[derive(Debug)]
pub(super) struct CallGate {
    breaker: CircuitBreaker,
    limit: Option<RateLimit>,
}

impl CallGate {
    /// Creates a gate with a closed breaker, and no limit on calls if there is no number.
    pub(super) fn new(calls_per_minute: Option<u32>, now: Instant) -> CallGate {
        CallGate {
            breaker: CircuitBreaker::default(),
            limit: calls_per_minute.map(|calls| RateLimit::new(calls, now)),
        }
    }

    /// Returns whether the breaker allows a call, which is not admitted by that.
    pub(super) fn check(&self, now: Instant) -> Result<(), Refusal> {
        self.breaker.check(now).map_err(Refusal::Suspended)
    }

    /// Admits a call. A refused one is no trial of the breaker and counts for no minute.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Refusal> {
        self.check(now)?;
        if let Some(limit) = &mut self.limit {
            limit.admit(now).map_err(Refusal::LimitReached)?;
        }
        self.breaker.begin(now);
        Ok(())
    }

    /// Returns whether calls are suspended, or tried one by one.
    pub(super) fn is_suspended(&self) -> bool {
        self.breaker.is_open()
    }

    /// Records the outcome of an admitted call. Returns whether the breaker opened because of it.
    pub(super) fn report(&mut self, failed: bool, now: Instant) -> bool {
        self.breaker.report(failed, now)
    }
}

/// A circuit breaker: opens for 5 s when half of the last 20 calls failed, then admits one trial
/// call, whose success closes it.
#[derive(Debug, Default)]
struct CircuitBreaker {
    /// Outcomes of the most recent calls, a bit each, 1 for a failure; the last in the lowest bit.
    failed: u32,
    /// Number of those calls.
    calls: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// Calls are rejected until this time.
    Open(Instant),
    /// A trial call is in flight. If it never reports, another is admitted at this time.
    Trial(Instant),
}

impl CircuitBreaker {
    /// Returns whether a call may be made. The error is the time until one may.
    fn check(&self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Open(until) | State::Trial(until) if now < until => Err(until - now),
            _ => Ok(()),
        }
    }

    /// Returns whether calls are suspended, or tried one by one.
    fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Begins a call that [`check`](Self::check) allows.
    fn begin(&mut self, now: Instant) {
        if self.is_open() {
            self.state = State::Trial(now + OPEN_TIME);
        }
    }

    /// Records the outcome of a call that was begun. Returns whether the breaker opened because of it.
    fn report(&mut self, failed: bool, now: Instant) -> bool {
        match self.state {
            // The call began before the breaker opened, and gives no new information.
            State::Open(_) => false,
            State::Trial(_) if failed => {
                self.state = State::Open(now + OPEN_TIME);
                false
            }
            State::Trial(_) => {
                *self = CircuitBreaker::default();
                false
            }
            State::Closed => {
                self.failed = (self.failed << 1 | u32::from(failed)) & ((1 << WINDOW) - 1);
                self.calls = (self.calls + 1).min(WINDOW);
                let opens = self.calls == WINDOW && self.failed.count_ones() >= FAILURES;
                if opens {
                    self.state = State::Open(now + OPEN_TIME);
                }
                opens
            }
        }
    }
}

/// A token bucket that limits the calls per minute, and so the cost of a provider.
#[derive(Debug)]
struct RateLimit {
    per_minute: u32,
    /// Calls that may be made at once, refilled over time.
    tokens: f64,
    last: Instant,
}

impl RateLimit {
    /// Creates a limit that admits `per_minute` calls at once, and as many in each minute after.
    fn new(per_minute: u32, now: Instant) -> RateLimit {
        RateLimit {
            per_minute,
            tokens: f64::from(per_minute),
            last: now,
        }
    }

    /// Admits a call if a token is left, and consumes the token. The error is the time until there
    /// is one.
    fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let limit = f64::from(self.per_minute);
        let refill = now.saturating_duration_since(self.last).as_secs_f64() / 60.0 * limit;
        self.tokens = (self.tokens + refill).min(limit);
        self.last = now;
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) * 60.0 / limit));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    impl CircuitBreaker {
        fn admit(&mut self, now: Instant) -> Result<(), Duration> {
            self.check(now).inspect(|()| self.begin(now))
        }
    }

    /// Returns a breaker that opened at `start`.
    fn opened(start: Instant) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
        for call in 0..WINDOW {
            assert_eq!(breaker.admit(start), Ok(()));
            let opens = breaker.report(call % 2 == 0, start);
            assert_eq!(opens, call == WINDOW - 1, "call {call}");
        }
        breaker
    }

    #[test]
    fn failure_of_half_the_window_opens_the_breaker() {
        let start = Instant::now();
        assert_eq!(opened(start).admit(start + SECOND), Err(4 * SECOND));
        let mut breaker = CircuitBreaker::default();
        for call in 0..1_000 {
            breaker.report(call % WINDOW < FAILURES - 1, start);
            assert_eq!(breaker.admit(start), Ok(()), "call {call}");
        }
    }

    #[test]
    fn the_trial_call_decides() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let later = start + OPEN_TIME;
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(
            breaker.admit(later).is_err(),
            "a second call during the trial"
        );
        breaker.report(true, later);
        assert_eq!(breaker.admit(later + 4 * SECOND), Err(SECOND));
        assert_eq!(breaker.admit(later + OPEN_TIME), Ok(()));
        breaker.report(false, later + OPEN_TIME);
        for _ in 0..WINDOW - 1 {
            assert_eq!(breaker.admit(later + OPEN_TIME), Ok(()));
            breaker.report(true, later + OPEN_TIME);
        }
    }

    #[test]
    fn a_trial_that_never_reports_is_followed_by_another() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert_eq!(breaker.admit(start + OPEN_TIME), Ok(()));
        assert_eq!(breaker.admit(start + 2 * OPEN_TIME), Ok(()));
    }

    #[test]
    fn calls_per_minute_are_limited() {
        let start = Instant::now();
        let mut limit = RateLimit::new(3, start);
        let admitted =
            |limit: &mut RateLimit, now| (0..10).filter(|_| limit.admit(now).is_ok()).count();
        assert_eq!(admitted(&mut limit, start), 3);
        assert_eq!(admitted(&mut limit, start + 20 * SECOND), 1);
        assert_eq!(admitted(&mut limit, start + 600 * SECOND), 3);
        let wait = limit.admit(start + 605 * SECOND).unwrap_err();
        assert_eq!(wait.as_secs(), 15);
    }

    /// Returns a gate of two calls a minute whose breaker opened at `start`.
    fn opened_gate(start: Instant) -> CallGate {
        CallGate {
            breaker: opened(start),
            limit: Some(RateLimit::new(2, start)),
        }
    }

    #[test]
    fn calls_that_the_breaker_refuses_do_not_count() {
        let start = Instant::now();
        let mut gate = opened_gate(start);
        for _ in 0..1_000 {
            assert!(matches!(gate.admit(start), Err(Refusal::Suspended(_))));
        }
        let later = start + OPEN_TIME;
        assert_eq!(gate.admit(later), Ok(()), "the trial");
        for _ in 0..1_000 {
            assert!(matches!(gate.admit(later), Err(Refusal::Suspended(_))));
        }
        gate.report(false, later);
        assert_eq!(gate.admit(later), Ok(()), "the second call of the minute");
        assert!(matches!(gate.admit(later), Err(Refusal::LimitReached(_))));
    }

    #[test]
    fn a_call_beyond_the_limit_is_no_trial() {
        let start = Instant::now();
        let mut gate = opened_gate(start);
        gate.limit = Some(RateLimit::new(1, start));
        let trial = start + OPEN_TIME;
        assert_eq!(gate.admit(trial), Ok(()));
        gate.report(true, trial);
        // The breaker would admit a trial again, but the call of the minute is used up.
        let next = trial + OPEN_TIME;
        assert!(matches!(gate.admit(next), Err(Refusal::LimitReached(_))));
        // That was no trial: as soon as the limit allows it, one is made.
        let refilled = trial + 60 * SECOND;
        assert!(matches!(
            gate.admit(refilled - SECOND),
            Err(Refusal::LimitReached(_))
        ));
        assert_eq!(gate.admit(refilled), Ok(()));
    }
}
