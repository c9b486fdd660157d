//! Outcomes of a client's report, and of the wish that it be forgotten.

use crate::model::time::Timestamp;

/// Outcome of a client's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, and acknowledged with its `AT` line.
    Stored,
    /// Not newer than the stored report: acknowledged with its `AT` line all the same, and nothing
    /// else.
    NotNewer,
    /// Not newer than the client's tombstone, which is of that time: as [`NotNewer`](Self::NotNewer).
    Forgotten(Timestamp),
    /// So old that it would have expired by now: as [`NotNewer`](Self::NotNewer).
    Expired,
    /// The time is more than 300 s ahead of this server's clock.
    TooFarAhead,
    /// The client is new, and the server is at capacity.
    Full,
    /// The journal can't be written.
    Unwritable,
    /// No neighbor would take it: the server was removed from the herd.
    Removed,
}

impl Outcome {
    /// Returns whether the client gets the `AT` line of its report.
    pub fn is_acknowledged(self) -> bool {
        matches!(
            self,
            Outcome::Stored | Outcome::NotNewer | Outcome::Forgotten(_) | Outcome::Expired
        )
    }
}

/// Outcome of the wish that a client be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForgetOutcome {
    /// A tombstone of that time is stored.
    Forgotten(Timestamp),
    /// The client is not known here, and the server is at capacity.
    Full,
    /// The journal can't be written.
    Unwritable,
    /// No neighbor would take it: the server was removed from the herd.
    Removed,
    /// The neighbor of that name runs an older program, which knows no tombstones.
    NeighborTooOld(Box<str>),
}
