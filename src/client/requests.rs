//! Outcomes of clients' lines: each line that is taken is counted once, by its command and by what
//! became of it.

use crate::client::refused_lines::Refusal;
use crate::model::command::Invalid;
use crate::model::fields::fields;
use crate::model::request::Verb;

/// Command of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandName {
    /// A report.
    Iamat,
    /// A question for the places near a client.
    Whatsat,
    /// None, or a line that is refused before its command is looked at.
    Other,
    /// The request for the second dialect.
    Hello,
    /// A question for a client's location.
    Where,
    /// A question for the clients near a point.
    Nearby,
    /// A question for the clients in a box.
    Within,
    /// A wish that a client be forgotten.
    Forget,
    /// The begin of a watch.
    Watch,
    /// The end of a watch.
    Unwatch,
    /// A sign of life.
    Ping,
    /// A proof of a right.
    Auth,
}

impl CommandName {
    /// All commands, in the order of their discriminants.
    const ALL: [CommandName; 12] = [
        CommandName::Iamat,
        CommandName::Whatsat,
        CommandName::Other,
        CommandName::Hello,
        CommandName::Where,
        CommandName::Nearby,
        CommandName::Within,
        CommandName::Forget,
        CommandName::Watch,
        CommandName::Unwatch,
        CommandName::Ping,
        CommandName::Auth,
    ];

    /// Returns the command of a line that is refused for that reason in the first dialect.
    pub(super) fn of_refused(line: &[u8], reason: Refusal) -> CommandName {
        match reason {
            // Either command is refused for these.
            Refusal::Invalid(Invalid::FieldCount | Invalid::Client) => match fields(line).next() {
                Some(b"WHATSAT") => CommandName::Whatsat,
                _ => CommandName::Iamat,
            },
            Refusal::Invalid(Invalid::Radius | Invalid::Bound) | Refusal::UnknownClient => {
                CommandName::Whatsat
            }
            Refusal::Invalid(Invalid::Location | Invalid::Time)
            | Refusal::TooFarAhead
            | Refusal::Full
            | Refusal::Unwritable
            | Refusal::Removed => CommandName::Iamat,
            _ => CommandName::Other,
        }
    }

    /// Returns the command of a line of the second dialect; `None`: it has none.
    pub(super) fn of_verb(verb: Option<Verb>) -> CommandName {
        match verb {
            None => CommandName::Other,
            Some(Verb::Iamat) => CommandName::Iamat,
            Some(Verb::Whatsat) => CommandName::Whatsat,
            Some(Verb::Where) => CommandName::Where,
            Some(Verb::Nearby) => CommandName::Nearby,
            Some(Verb::Within) => CommandName::Within,
            Some(Verb::Forget) => CommandName::Forget,
            Some(Verb::Watch) => CommandName::Watch,
            Some(Verb::Unwatch) => CommandName::Unwatch,
            Some(Verb::Ping) => CommandName::Ping,
            Some(Verb::Auth) => CommandName::Auth,
        }
    }

    /// Returns the name, as metrics show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CommandName::Iamat => "iamat",
            CommandName::Whatsat => "whatsat",
            CommandName::Other => "other",
            CommandName::Hello => "hello",
            CommandName::Where => "where",
            CommandName::Nearby => "nearby",
            CommandName::Within => "within",
            CommandName::Forget => "forget",
            CommandName::Watch => "watch",
            CommandName::Unwatch => "unwatch",
            CommandName::Ping => "ping",
            CommandName::Auth => "auth",
        }
    }

    /// Returns the reasons for which lines of the command can be refused.
    fn refusals(self) -> &'static [Refusal] {
        use Refusal::{
            Busy, Expired, Forgotten, Full, Http, Name, NeighborTooOld, Removed, Starting,
            TooFarAhead, TooLong, UnknownClient, UnknownWatch, Unwritable,
        };
        const COMMAND: Refusal = Refusal::Invalid(Invalid::UnknownCommand);
        const COUNT: Refusal = Refusal::Invalid(Invalid::FieldCount);
        const ID: Refusal = Refusal::Invalid(Invalid::Client);
        const LOCATION: Refusal = Refusal::Invalid(Invalid::Location);
        const TIME: Refusal = Refusal::Invalid(Invalid::Time);
        const RADIUS: Refusal = Refusal::Invalid(Invalid::Radius);
        const BOUND: Refusal = Refusal::Invalid(Invalid::Bound);
        match self {
            CommandName::Iamat => &[
                COUNT,
                ID,
                LOCATION,
                TIME,
                TooFarAhead,
                Full,
                Unwritable,
                Removed,
                Forgotten,
                Expired,
            ],
            CommandName::Whatsat => &[COUNT, ID, RADIUS, BOUND, UnknownClient, Starting],
            CommandName::Other => &[COMMAND, TooLong, Http],
            CommandName::Hello => &[],
            CommandName::Where => &[COUNT, ID, UnknownClient, Starting],
            CommandName::Nearby => &[COUNT, ID, LOCATION, RADIUS, BOUND, UnknownClient, Starting],
            CommandName::Within => &[COUNT, LOCATION, BOUND],
            CommandName::Forget => &[COUNT, ID, Full, Unwritable, Removed, NeighborTooOld],
            CommandName::Watch => &[COUNT, Name, ID, LOCATION, RADIUS, Busy],
            CommandName::Unwatch => &[COUNT, Name, UnknownWatch],
            CommandName::Ping | CommandName::Auth => &[COUNT],
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
    /// The line of that other command was carried out.
    Done(CommandName),
    /// The line of that command was refused.
    Refused(CommandName, Refusal),
}

/// Number of indexes of outcomes: not every command can be refused for every reason.
pub(crate) const REQUEST_OUTCOMES: usize =
    FIRST_REFUSED + CommandName::ALL.len() * Refusal::ALL.len();

/// Index of the first command that was carried out.
const FIRST_DONE: usize = 4;

/// Index of the first refusal.
const FIRST_REFUSED: usize = FIRST_DONE + CommandName::ALL.len();

impl RequestOutcome {
    /// Returns all outcomes that can occur.
    pub(crate) fn all() -> impl Iterator<Item = RequestOutcome> {
        use RequestOutcome::{Answered, Done, NotNewer, PlacesFailed, Refused, Stored};
        let refused = |command: CommandName| {
            let reasons = command.refusals().iter();
            reasons.map(move |reason| Refused(command, *reason))
        };
        let done = CommandName::ALL.into_iter().filter(|command| {
            use CommandName::{Iamat, Other, Whatsat};
            !matches!(command, Iamat | Whatsat | Other)
        });
        [Stored, NotNewer, Answered, PlacesFailed]
            .into_iter()
            .chain(done.map(Done))
            .chain(CommandName::ALL.into_iter().flat_map(refused))
    }

    /// Returns the index of the outcome, below [`REQUEST_OUTCOMES`].
    #[inline]
    pub(super) fn index(self) -> usize {
        match self {
            RequestOutcome::Stored => 0,
            RequestOutcome::NotNewer => 1,
            RequestOutcome::Answered => 2,
            RequestOutcome::PlacesFailed => 3,
            RequestOutcome::Done(command) => FIRST_DONE + command as usize,
            RequestOutcome::Refused(command, reason) => {
                FIRST_REFUSED + command as usize * Refusal::ALL.len() + reason.index()
            }
        }
    }

    /// Returns the command of the line.
    pub(crate) fn command(self) -> CommandName {
        match self {
            RequestOutcome::Stored | RequestOutcome::NotNewer => CommandName::Iamat,
            RequestOutcome::Answered | RequestOutcome::PlacesFailed => CommandName::Whatsat,
            RequestOutcome::Done(command) | RequestOutcome::Refused(command, _) => command,
        }
    }

    /// Returns the name, as metrics show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            RequestOutcome::Stored => "stored",
            RequestOutcome::NotNewer => "not_newer",
            RequestOutcome::Answered | RequestOutcome::Done(_) => "answered",
            RequestOutcome::PlacesFailed => "places_failed",
            RequestOutcome::Refused(_, reason) => reason.name(),
        }
    }
}

/// Numbers of lines by outcome, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestTotals(pub(super) [u64; REQUEST_OUTCOMES]);

impl RequestTotals {
    /// Returns the number of lines of that outcome.
    pub(crate) fn of(&self, outcome: RequestOutcome) -> u64 {
        self.0[outcome.index()]
    }

    /// Returns the number of lines of each outcome that can occur.
    pub(crate) fn all(&self) -> impl Iterator<Item = (RequestOutcome, u64)> {
        RequestOutcome::all().map(|outcome| (outcome, self.of(outcome)))
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
        for (index, command) in CommandName::ALL.into_iter().enumerate() {
            assert_eq!(command as usize, index, "{command:?}");
        }
        let all: Vec<_> = RequestOutcome::all().collect();
        let indexes: BTreeSet<_> = all.iter().map(|outcome| outcome.index()).collect();
        assert!(indexes.iter().all(|index| *index < REQUEST_OUTCOMES));
        let labels: BTreeSet<_> = all
            .iter()
            .map(|outcome| (outcome.command().name(), outcome.name()))
            .collect();
        assert_eq!((indexes.len(), labels.len()), (all.len(), all.len()));
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
    fn refusals_of_several_commands_are_one_number() {
        let mut totals = RequestTotals([0; REQUEST_OUTCOMES]);
        let reason = Refusal::Invalid(Invalid::FieldCount);
        for (command, count) in [
            (CommandName::Iamat, 2),
            (CommandName::Whatsat, 3),
            (CommandName::Ping, 4),
        ] {
            totals.0[RequestOutcome::Refused(command, reason).index()] = count;
        }
        totals.0[RequestOutcome::Stored.index()] = 7;
        let expected = Refusal::ALL.map(|one| (one, if one == reason { 9 } else { 0 }));
        assert_eq!(totals.refused(), expected);
    }
}
