//! Reasons for which lines of clients are refused, and how often each occurred.
//!
//! The protocol answers each of them with `? ` and the line, so the log and the counts are what tells
//! them apart.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::command::Invalid;
use crate::replica::Outcome;

/// Reason for which a line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The line is not a command.
    Invalid(Invalid),
    /// The line is the first of an HTTP request.
    Http,
    /// The line is longer than the limit.
    TooLong,
    /// A question for a client that has never reported.
    UnknownClient,
    /// The time of a report is too far ahead of this server's clock.
    TooFarAhead,
    /// A report of a new client when the number of records is at its maximum.
    Full,
    /// The journal can't be written.
    Unwritable,
    /// This server was removed from its herd.
    Removed,
}

impl Refusal {
    /// All reasons, in the order of the counts.
    pub(crate) const ALL: [Refusal; 14] = [
        Refusal::Invalid(Invalid::UnknownCommand),
        Refusal::Invalid(Invalid::FieldCount),
        Refusal::Invalid(Invalid::Client),
        Refusal::Invalid(Invalid::Location),
        Refusal::Invalid(Invalid::Time),
        Refusal::Invalid(Invalid::Radius),
        Refusal::Invalid(Invalid::Bound),
        Refusal::TooLong,
        Refusal::UnknownClient,
        Refusal::TooFarAhead,
        Refusal::Full,
        Refusal::Unwritable,
        Refusal::Removed,
        Refusal::Http,
    ];

    /// Returns the reason for which a report was refused, if it was.
    pub(crate) fn of_report(outcome: &Outcome) -> Option<Refusal> {
        match outcome {
            Outcome::Acknowledged => None,
            Outcome::TooFarAhead => Some(Refusal::TooFarAhead),
            Outcome::Full => Some(Refusal::Full),
            Outcome::Unwritable => Some(Refusal::Unwritable),
            Outcome::Removed => Some(Refusal::Removed),
        }
    }

    /// Returns whether the line itself is at fault: it can have any bytes.
    pub(crate) fn is_malformed(self) -> bool {
        matches!(self, Refusal::Invalid(_) | Refusal::TooLong | Refusal::Http)
    }

    fn index(self) -> usize {
        match self {
            Refusal::Invalid(Invalid::UnknownCommand) => 0,
            Refusal::Invalid(Invalid::FieldCount) => 1,
            Refusal::Invalid(Invalid::Client) => 2,
            Refusal::Invalid(Invalid::Location) => 3,
            Refusal::Invalid(Invalid::Time) => 4,
            Refusal::Invalid(Invalid::Radius) => 5,
            Refusal::Invalid(Invalid::Bound) => 6,
            Refusal::TooLong => 7,
            Refusal::UnknownClient => 8,
            Refusal::TooFarAhead => 9,
            Refusal::Full => 10,
            Refusal::Unwritable => 11,
            Refusal::Removed => 12,
            Refusal::Http => 13,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Invalid(Invalid::UnknownCommand) => "not a command",
            Refusal::Invalid(Invalid::FieldCount) => "too few or too many fields",
            Refusal::Invalid(Invalid::Client) => "client id too long",
            Refusal::Invalid(Invalid::Location) => "bad location",
            Refusal::Invalid(Invalid::Time) => "bad time",
            Refusal::Invalid(Invalid::Radius) => "bad radius",
            Refusal::Invalid(Invalid::Bound) => "bad bound",
            Refusal::Http => "an HTTP request",
            Refusal::TooLong => "line too long",
            Refusal::UnknownClient => "unknown client",
            Refusal::TooFarAhead => "time too far ahead",
            Refusal::Full => "maximum number of records",
            Refusal::Unwritable => "journal can't be written",
            Refusal::Removed => "server removed from the herd",
        })
    }
}

/// Number of refused lines by reason, since the start.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounts([AtomicU64; Refusal::ALL.len()]);

impl RefusalCounts {
    /// Counts a refused line.
    pub(super) fn count(&self, reason: Refusal) {
        self.0[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts, of each reason.
    pub(crate) fn snapshot(&self) -> [(Refusal, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|reason| {
            let count = self.0[reason.index()].load(Ordering::Relaxed);
            (reason, count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_count_and_words_of_its_own() {
        let counts = RefusalCounts::default();
        for (number, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), number, "{reason}");
            (0..=number).for_each(|_| counts.count(reason));
        }
        let expected = std::array::from_fn(|at| (Refusal::ALL[at], at as u64 + 1));
        assert_eq!(counts.snapshot(), expected);
        let words: std::collections::BTreeSet<_> =
            Refusal::ALL.iter().map(Refusal::to_string).collect();
        assert_eq!(words.len(), Refusal::ALL.len());
    }
}
