//! Facts about the links on which a server's state depends.

use std::sync::Arc;
use std::time::Instant;

use super::catch_up::CatchUp;
use super::keyring::Keyring;
use super::linked::LinkedKey;
use super::neighbor::Neighbors;
use crate::health::judge::NeighborFacts;
use crate::model::time::Timestamp;

/// Looks at the links from another thread.
#[derive(Clone, Debug)]
pub(crate) struct LinkFacts {
    pub(super) neighbors: Arc<Neighbors>,
    pub(super) keys: Arc<Keyring>,
    pub(super) linked: Arc<LinkedKey>,
    pub(super) catch_up: Arc<CatchUp>,
}

impl LinkFacts {
    /// Returns what is known of each neighbor at `now`.
    pub(crate) fn neighbors(&self, now: Instant) -> Vec<NeighborFacts> {
        let neighbors = self.neighbors.all();
        neighbors.iter().map(|one| one.facts(now)).collect()
    }

    /// Returns when a linked neighbor's clock agreed with this server's last, by both of this server's
    /// clocks; `None` if none has in the last seconds.
    pub(crate) fn clock_agreed(&self, now: Instant) -> Option<(Instant, Timestamp)> {
        let neighbors = self.neighbors.all();
        let agreed = neighbors.iter().filter_map(|one| one.clock_agreed(now));
        agreed.max_by_key(|(then, _)| *then)
    }

    /// Returns whether there has never been a link with the key in force.
    pub(crate) fn is_new_key(&self) -> bool {
        !self.linked.is(&self.keys.current())
    }

    /// Returns the wait for a neighbor's records.
    pub(crate) fn catch_up(&self) -> &CatchUp {
        &self.catch_up
    }
}
