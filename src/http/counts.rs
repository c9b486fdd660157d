//! Ends of the port's connections, for the metrics.

use crate::metrics::{CounterFamily, Label};

/// End of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A request was answered.
    Answered,
    /// The stream of events was opened.
    Viewer,
    /// A request was refused for its head, and told why.
    Refused,
    /// The client went before it was answered, or did not take its answer.
    Left,
    /// It made room for a newcomer.
    Evicted,
}

/// The numbers of each since the start.
pub(super) type Counts = CounterFamily<Outcome>;

impl Label for Outcome {
    const ALL: &'static [Outcome] = &[
        Outcome::Answered,
        Outcome::Viewer,
        Outcome::Refused,
        Outcome::Left,
        Outcome::Evicted,
    ];

    fn index(self) -> usize {
        self as usize
    }

    fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Viewer => "viewer",
            Outcome::Refused => "refused",
            Outcome::Left => "left",
            Outcome::Evicted => "evicted",
        }
    }
}
