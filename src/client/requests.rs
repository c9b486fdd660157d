//! Outcomes of clients' lines: each line that is taken is counted once, by its command and by what
//! became of it.

use crate::client::refused_lines::Refusal;
use crate::model::command::Invalid;
use crate::model::fields::fields;

/// Command of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandName {
    /// A report.
    Iamat,
    /// A question.
    Whatsat,
    /// None, or a line that is refused before its command is looked at.
    Other,
}

impl CommandName {
    /// Returns the command of a line that is refused for that reason.
    pub(super) fn of_refused(line: &[u8], reason: Refusal) -> CommandName {
        match reason {
            // Either command is refused for these.
            Refusal::Invalid(Invalid::FieldCount | Invalid::Client) => match fields(line).next() {
                Some(b"WHATSAT") => CommandName::Whatsat,
                _ => CommandName::Iamat,
            },
            Refusal::Invalid(Invalid::UnknownCommand) | Refusal::TooLong | Refusal::Http => {
                CommandName::Other
            }
            Refusal::Invalid(Invalid::Radius | Invalid::Bound) | Refusal::UnknownClient => {
                CommandName::Whatsat
            }
            Refusal::Invalid(Invalid::Location | Invalid::Time)
            | Refusal::TooFarAhead
            | Refusal::Full
            | Refusal::Unwritable
            | Refusal::Removed => CommandName::Iamat,
        }
    }

    /// Returns the name, as metrics show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CommandName::Iamat => "iamat",
            CommandName::Whatsat => "whatsat",
            CommandName::Other => "other",
        }
    }
}

/// Outcome of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    /// A report was stored.
    Stored,
    /// A report was acknowledged, and is not newer than the stored one.
    NotNewer,
    /// A question was answered with places, or with none where there are none.
    Answered,
    /// A question was answered with the location and without places, since the provider failed.
    PlacesFailed,
    /// The line of that command was refused.
    Refused(CommandName, Refusal),
}

/// Number of outcomes.
pub(crate) const REQUEST_OUTCOMES: usize = FIRST_REFUSED + Refusal::ALL.len() + 2;

/// Index of the first refusal.
const FIRST_REFUSED: usize = 4;

/// Refusals for which either command has an outcome.
const OF_EITHER: [Refusal; 2] = [
    Refusal::Invalid(Invalid::FieldCount),
    Refusal::Invalid(Invalid::Client),
];

impl RequestOutcome {
    /// Returns all outcomes that can occur, in the order of their indexes.
    pub(crate) fn all() -> impl Iterator<Item = RequestOutcome> {
        use RequestOutcome::{Answered, NotNewer, PlacesFailed, Refused, Stored};
        let refused = Refusal::ALL
            .into_iter()
            .map(|reason| Refused(CommandName::of_refused(b"", reason), reason));
        let questions = OF_EITHER.map(|reason| Refused(CommandName::Whatsat, reason));
        [Stored, NotNewer, Answered, PlacesFailed]
            .into_iter()
            .chain(refused)
            .chain(questions)
    }

    /// Returns the index of the outcome, below [`REQUEST_OUTCOMES`].
    #[inline]
    pub(super) fn index(self) -> usize {
        match self {
            RequestOutcome::Stored => 0,
            RequestOutcome::NotNewer => 1,
            RequestOutcome::Answered => 2,
            RequestOutcome::PlacesFailed => 3,
            RequestOutcome::Refused(command, reason) => {
                let either = OF_EITHER.iter().position(|one| *one == reason);
                match either {
                    Some(at) if command == CommandName::Whatsat => {
                        FIRST_REFUSED + Refusal::ALL.len() + at
                    }
                    _ => FIRST_REFUSED + reason.index(),
                }
            }
        }
    }

    /// Returns the command of the line.
    pub(crate) fn command(self) -> CommandName {
        match self {
            RequestOutcome::Stored | RequestOutcome::NotNewer => CommandName::Iamat,
            RequestOutcome::Answered | RequestOutcome::PlacesFailed => CommandName::Whatsat,
            RequestOutcome::Refused(command, _) => command,
        }
    }

    /// Returns the name, as metrics show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            RequestOutcome::Stored => "stored",
            RequestOutcome::NotNewer => "not_newer",
            RequestOutcome::Answered => "answered",
            RequestOutcome::PlacesFailed => "places_failed",
            RequestOutcome::Refused(_, reason) => reason.name(),
        }
    }
}

/// Numbers of lines by outcome, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestTotals(pub(super) [u64; REQUEST_OUTCOMES]);

impl RequestTotals {
    /// Returns the number of lines of that outcome.
    pub(crate) fn of(&self, outcome: RequestOutcome) -> u64 {
        self.0[outcome.index()]
    }

    /// Returns the number of lines of each outcome that can occur.
    pub(crate) fn all(&self) -> impl Iterator<Item = (RequestOutcome, u64)> {
        RequestOutcome::all().zip(self.0)
    }

    /// Returns the number of refused lines by reason, whatever the command.
    pub(crate) fn refused(&self) -> [(Refusal, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|reason| {
            let is_it = |outcome: &RequestOutcome| matches!(outcome, RequestOutcome::Refused(_, why) if *why == reason);
            let counts = self.all().filter(|(outcome, _)| is_it(outcome));
            (reason, counts.map(|(_, count)| count).sum())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::command::Command;

    #[test]
    fn each_outcome_has_an_index_and_labels_of_its_own() {
        let all: Vec<_> = RequestOutcome::all().collect();
        assert_eq!(all.len(), REQUEST_OUTCOMES);
        for (index, outcome) in all.iter().enumerate() {
            assert_eq!(outcome.index(), index, "{outcome:?}");
        }
        let labels: BTreeSet<_> = all
            .iter()
            .map(|outcome| (outcome.command().name(), outcome.name()))
            .collect();
        assert_eq!(labels.len(), REQUEST_OUTCOMES);
    }

    #[test]
    fn the_command_of_a_malformed_line_is_known() {
        let long = "x".repeat(256);
        for (line, command, name) in [
            ("", "other", "unknown_command"),
            ("iamat a +1+1 1", "other", "unknown_command"),
            ("IAMAT a +1+1", "iamat", "field_count"),
            ("\tWHATSAT a 1", "whatsat", "field_count"),
            (&format!("IAMAT {long} +1+1 1"), "iamat", "client_too_long"),
            (&format!("WHATSAT {long} 1 1"), "whatsat", "client_too_long"),
            ("IAMAT a 1 1", "iamat", "bad_location"),
            ("IAMAT a +1+1 x", "iamat", "bad_time"),
            ("WHATSAT a 51 1", "whatsat", "bad_radius"),
            ("WHATSAT a 1 21", "whatsat", "bad_bound"),
        ] {
            let reason = Refusal::Invalid(Command::parse(line.as_bytes()).unwrap_err());
            let found = CommandName::of_refused(line.as_bytes(), reason);
            let outcome = RequestOutcome::Refused(found, reason);
            assert_eq!((found.name(), outcome.name()), (command, name), "{line}");
            assert!(RequestOutcome::all().any(|one| one == outcome), "{line}");
        }
    }

    #[test]
    fn refusals_of_both_commands_are_one_number() {
        let mut totals = RequestTotals::default();
        let reason = Refusal::Invalid(Invalid::FieldCount);
        for (command, count) in [(CommandName::Iamat, 2), (CommandName::Whatsat, 3)] {
            totals.0[RequestOutcome::Refused(command, reason).index()] = count;
        }
        totals.0[RequestOutcome::Stored.index()] = 7;
        let expected = Refusal::ALL.map(|one| (one, if one == reason { 5 } else { 0 }));
        assert_eq!(totals.refused(), expected);
    }
}
