//! Outcomes of the searches of a provider on the network, for the metrics: of each call, and of each
//! search that needed none.

use super::breaker::Refusal;
use super::failure::Failure;
use crate::metrics::Label;

/// Outcome of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// The provider has answered.
    Ok,
    /// No call: an equal search was answered a while ago.
    Cached,
    /// No call of its own: an equal search was under way.
    Shared,
    /// No call: the circuit breaker was open.
    Suspended,
    /// No call: those of the minute were used up.
    Limited,
    /// No call: too many searches waited.
    QueueFull,
    /// No call: the search waited for too long.
    Expired,
    /// [`Failure::Denied`].
    Denied,
    /// [`Failure::Quota`] of the provider.
    Quota,
    /// [`Failure::BadRequest`].
    BadRequest,
    /// [`Failure::Reported`] by the provider.
    Reported,
    /// [`Failure::Timeout`] of a call.
    Timeout,
    /// [`Failure::Connect`].
    Connect,
    /// [`Failure::Truncated`].
    Truncated,
    /// [`Failure::TooLarge`].
    TooLarge,
    /// [`Failure::Http`].
    Http,
    /// [`Failure::Malformed`].
    Malformed,
    /// [`Failure::Stopped`].
    Stopped,
}

impl CallOutcome {
    /// Returns the outcome of a call.
    pub(super) fn of_call<T>(result: &Result<T, Failure>) -> CallOutcome {
        match result {
            Ok(_) => CallOutcome::Ok,
            Err(Failure::Denied(_)) => CallOutcome::Denied,
            Err(Failure::Quota(_)) => CallOutcome::Quota,
            Err(Failure::BadRequest(_)) => CallOutcome::BadRequest,
            Err(Failure::Reported(_)) => CallOutcome::Reported,
            Err(Failure::Timeout) => CallOutcome::Timeout,
            Err(Failure::Connect(_)) => CallOutcome::Connect,
            Err(Failure::Truncated) => CallOutcome::Truncated,
            Err(Failure::TooLarge) => CallOutcome::TooLarge,
            Err(Failure::Http(_)) => CallOutcome::Http,
            Err(Failure::Malformed(_)) => CallOutcome::Malformed,
            Err(Failure::Stopped) => CallOutcome::Stopped,
        }
    }

    /// Returns the outcome of a search for which no call is made.
    pub(super) fn of_refusal(refusal: Refusal) -> CallOutcome {
        match refusal {
            Refusal::Suspended(_) => CallOutcome::Suspended,
            Refusal::LimitReached(_) => CallOutcome::Limited,
        }
    }
}

impl Label for CallOutcome {
    const ALL: &'static [CallOutcome] = &[
        CallOutcome::Ok,
        CallOutcome::Cached,
        CallOutcome::Shared,
        CallOutcome::Suspended,
        CallOutcome::Limited,
        CallOutcome::QueueFull,
        CallOutcome::Expired,
        CallOutcome::Denied,
        CallOutcome::Quota,
        CallOutcome::BadRequest,
        CallOutcome::Reported,
        CallOutcome::Timeout,
        CallOutcome::Connect,
        CallOutcome::Truncated,
        CallOutcome::TooLarge,
        CallOutcome::Http,
        CallOutcome::Malformed,
        CallOutcome::Stopped,
    ];

    fn index(self) -> usize {
        self as usize
    }

    fn name(self) -> &'static str {
        match self {
            CallOutcome::Ok => "ok",
            CallOutcome::Cached => "cached",
            CallOutcome::Shared => "shared",
            CallOutcome::Suspended => "suspended",
            CallOutcome::Limited => "limited",
            CallOutcome::QueueFull => "queue_full",
            CallOutcome::Expired => "expired",
            CallOutcome::Denied => "denied",
            CallOutcome::Quota => "quota",
            CallOutcome::BadRequest => "bad_request",
            CallOutcome::Reported => "reported",
            CallOutcome::Timeout => "timeout",
            CallOutcome::Connect => "connect",
            CallOutcome::Truncated => "truncated",
            CallOutcome::TooLarge => "too_large",
            CallOutcome::Http => "http",
            CallOutcome::Malformed => "malformed",
            CallOutcome::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_outcome_has_its_index_and_a_name_of_its_own() {
        let all = CallOutcome::ALL;
        for (index, outcome) in all.iter().enumerate() {
            assert_eq!(outcome.index(), index, "{outcome:?}");
        }
        let names: BTreeSet<_> = all.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(names.len(), all.len());
    }
}
