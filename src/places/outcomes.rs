//! Whether searches for places fail, for the server's state. Reads no clock: the time is an argument.

use std::time::{Duration, Instant};

use super::failure::Failure;

/// Failures in a row that are no accident any more.
const IN_A_ROW: u32 = 3;

/// Time for which a search that this server has refused counts.
const HOLDS: Duration = Duration::from_millis(1_500);

/// The outcomes of the last calls to a provider.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// Failures since the last success.
    failures: u32,
    /// The last of them, in words.
    last: String,
    /// The last failure was a denial or a quota: the next call would end the same.
    is_refused: bool,
    /// The last search that this server has refused by itself, and why.
    own: Option<(Instant, String)>,
}

impl Outcomes {
    /// Takes the outcome of a call; `None` for a success.
    pub(super) fn called(&mut self, failure: Option<&Failure>) {
        match failure {
            None => (self.failures, self.is_refused) = (0, false),
            // It says nothing of the provider.
            Some(Failure::Stopped) => {}
            Some(failure) => {
                self.failures = self.failures.saturating_add(1);
                self.last = failure.to_string();
                self.is_refused = matches!(failure, Failure::Denied(_) | Failure::Quota(_));
            }
        }
    }

    /// Notes that this server has refused a search by itself, and why, in words.
    pub(super) fn refused(&mut self, now: Instant, why: &str) {
        self.own = Some((now, why.to_owned()));
    }

    /// Returns why searches fail; a problem of the provider holds until a call succeeds.
    /// `is_suspended` says that the circuit breaker is open.
    pub(super) fn problem(&self, now: Instant, is_suspended: bool) -> Option<String> {
        let Outcomes { failures, last, .. } = self;
        if is_suspended {
            return Some(format!(
                "the places provider keeps failing, and calls to it are suspended: {last}"
            ));
        }
        if self.is_refused {
            return Some(format!("the places provider refuses the last call: {last}"));
        }
        if *failures >= IN_A_ROW {
            return Some(format!(
                "the last {failures} calls to the places provider failed: {last}"
            ));
        }
        let (at, why) = self.own.as_ref()?;
        (now < *at + HOLDS).then(|| format!("searches for places are refused: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_provider_is_a_problem_until_a_call_succeeds() {
        let (mut outcomes, now) = (Outcomes::default(), Instant::now());
        let shown = |outcomes: &Outcomes| outcomes.problem(now, false);
        assert_eq!(shown(&outcomes), None);
        for _ in 0..2 {
            outcomes.called(Some(&Failure::Truncated));
        }
        assert_eq!(shown(&outcomes), None, "an accident");
        outcomes.called(Some(&Failure::Truncated));
        let incomplete = "The places provider's answer was incomplete. Try again.";
        assert_eq!(
            shown(&outcomes),
            Some(format!(
                "the last 3 calls to the places provider failed: {incomplete}"
            ))
        );
        assert_eq!(
            outcomes.problem(now, true),
            Some(format!(
                "the places provider keeps failing, and calls to it are suspended: {incomplete}"
            ))
        );
        outcomes.called(None);
        assert_eq!(shown(&outcomes), None);
        for refusal in [Failure::Denied("No.".into()), Failure::Quota("No.".into())] {
            outcomes.called(Some(&refusal));
            outcomes.called(Some(&Failure::Stopped));
            let reason = "the places provider refuses the last call: No.";
            assert_eq!(shown(&outcomes).as_deref(), Some(reason));
            outcomes.called(None);
            assert_eq!(shown(&outcomes), None);
        }
    }

    #[test]
    fn what_this_server_refuses_is_a_problem_for_a_moment() {
        let (mut outcomes, now) = (Outcomes::default(), Instant::now());
        outcomes.refused(now, "the limit");
        let reason = "searches for places are refused: the limit";
        assert_eq!(outcomes.problem(now, false).as_deref(), Some(reason));
        assert_eq!(outcomes.problem(now + HOLDS, false), None);
    }
}
