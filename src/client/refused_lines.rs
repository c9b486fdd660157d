//! Reasons for which lines of clients are refused.
//!
//! The first dialect answers each of them with `? ` and the line, so the log and the counts of
//! [`requests`](super::requests) are what tells them apart. The second names them.

use std::fmt;

use crate::model::command::Invalid;
use crate::model::request::FaultKind;
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
    /// The name of a watch is too long or in use.
    Name,
    /// The client was forgotten later than it reports.
    Forgotten,
    /// A report so old that it has expired.
    Expired,
    /// A question for a client that is unknown here, while this server has not caught up.
    Starting,
    /// No watch of the connection has that name.
    UnknownWatch,
    /// The connection or the server has as many watches as it may have.
    Busy,
    /// A neighbor's program is too old to take part.
    NeighborTooOld,
}

impl Refusal {
    /// All reasons, in the order of their indexes.
    pub(crate) const ALL: [Refusal; 21] = [
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
        Refusal::Name,
        Refusal::Forgotten,
        Refusal::Expired,
        Refusal::Starting,
        Refusal::UnknownWatch,
        Refusal::Busy,
        Refusal::NeighborTooOld,
    ];

    /// Returns the reason for which a report was refused in the first dialect, if it was.
    pub(crate) fn of_report(outcome: &Outcome) -> Option<Refusal> {
        match outcome {
            Outcome::Stored | Outcome::NotNewer | Outcome::Forgotten(_) | Outcome::Expired => None,
            Outcome::TooFarAhead => Some(Refusal::TooFarAhead),
            Outcome::Full => Some(Refusal::Full),
            Outcome::Unwritable => Some(Refusal::Unwritable),
            Outcome::Removed => Some(Refusal::Removed),
        }
    }

    /// Returns the reason for which a line of the second dialect is refused before it is executed.
    pub(super) fn of_fault(fault: &FaultKind<'_>) -> Refusal {
        match fault {
            FaultKind::NoCommand(_) => Refusal::Invalid(Invalid::UnknownCommand),
            FaultKind::FieldCount(_) => Refusal::Invalid(Invalid::FieldCount),
            FaultKind::Client(_) => Refusal::Invalid(Invalid::Client),
            FaultKind::Location(_) | FaultKind::Corners(..) => Refusal::Invalid(Invalid::Location),
            FaultKind::Time(_) => Refusal::Invalid(Invalid::Time),
            FaultKind::Ahead(_) => Refusal::TooFarAhead,
            FaultKind::Radius(_) => Refusal::Invalid(Invalid::Radius),
            FaultKind::Bound(_) => Refusal::Invalid(Invalid::Bound),
            FaultKind::Name(_) => Refusal::Name,
        }
    }

    /// Returns whether the line itself is at fault: it can have any bytes.
    pub(crate) fn is_malformed(self) -> bool {
        matches!(
            self,
            Refusal::Invalid(_) | Refusal::TooLong | Refusal::Http | Refusal::Name
        )
    }

    /// Returns the index of the reason in [`ALL`](Self::ALL).
    pub(super) fn index(self) -> usize {
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
            Refusal::Name => 14,
            Refusal::Forgotten => 15,
            Refusal::Expired => 16,
            Refusal::Starting => 17,
            Refusal::UnknownWatch => 18,
            Refusal::Busy => 19,
            Refusal::NeighborTooOld => 20,
        }
    }

    /// Returns the name, as metrics show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Refusal::Invalid(Invalid::UnknownCommand) => "unknown_command",
            Refusal::Invalid(Invalid::FieldCount) => "field_count",
            Refusal::Invalid(Invalid::Client) => "client_too_long",
            Refusal::Invalid(Invalid::Location) => "bad_location",
            Refusal::Invalid(Invalid::Time) => "bad_time",
            Refusal::Invalid(Invalid::Radius) => "bad_radius",
            Refusal::Invalid(Invalid::Bound) => "bad_bound",
            Refusal::Http => "http",
            Refusal::TooLong => "line_too_long",
            Refusal::UnknownClient => "unknown_client",
            Refusal::TooFarAhead => "too_far_ahead",
            Refusal::Full => "full",
            Refusal::Unwritable => "unwritable",
            Refusal::Removed => "removed",
            Refusal::Name => "bad_name",
            Refusal::Forgotten => "forgotten",
            Refusal::Expired => "expired",
            Refusal::Starting => "starting",
            Refusal::UnknownWatch => "unknown_watch",
            Refusal::Busy => "busy",
            Refusal::NeighborTooOld => "neighbor_too_old",
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
            Refusal::Name => "name of a watch too long or in use",
            Refusal::Forgotten => "client forgotten at a later time",
            Refusal::Expired => "report expired",
            Refusal::Starting => "unknown client, server not caught up",
            Refusal::UnknownWatch => "unknown watch",
            Refusal::Busy => "maximum number of watches",
            Refusal::NeighborTooOld => "a neighbor's program is too old",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_reason_has_an_index_a_name_and_words_of_its_own() {
        for (number, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), number, "{reason}");
        }
        let words: BTreeSet<_> = Refusal::ALL.iter().map(Refusal::to_string).collect();
        let names: BTreeSet<_> = Refusal::ALL.map(Refusal::name).into_iter().collect();
        assert_eq!(words.len(), Refusal::ALL.len());
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
