//! Counts of the port's connections by how they ended.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// The counts since the start.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; Outcome::ALL.len()]);

impl Outcome {
    /// All outcomes, in the order of their discriminants.
    pub(super) const ALL: [Outcome; 5] = [
        Outcome::Answered,
        Outcome::Viewer,
        Outcome::Refused,
        Outcome::Left,
        Outcome::Evicted,
    ];

    /// Returns the name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Viewer => "viewer",
            Outcome::Refused => "refused",
            Outcome::Left => "left",
            Outcome::Evicted => "evicted",
        }
    }
}

impl Counts {
    /// Counts one.
    pub(super) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of each.
    pub(super) fn all(&self) -> impl Iterator<Item = (Outcome, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Outcome::ALL.into_iter().zip(counts)
    }
}
