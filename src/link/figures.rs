//! Figures about the links, for the metrics.

use std::sync::Arc;
use std::time::Instant;

use super::neighbor::{LinkStatus, Neighbor, Neighbors};
use super::refusals::{PeerOutcome, RejectedPeers};
use crate::metrics::{Cell, CounterFamily, Histogram, HistogramSnapshot};

/// Looks at the figures from another thread.
#[derive(Clone, Debug)]
pub(crate) struct LinkFigures {
    pub(super) neighbors: Arc<Neighbors>,
    pub(super) rejected: Arc<RejectedPeers>,
    pub(super) delays: Arc<Histogram>,
}

/// Figures of one link.
#[derive(Clone, Debug)]
pub(crate) struct LinkFigure {
    /// The neighbor's name.
    pub(crate) name: String,
    /// State of the link.
    pub(crate) status: LinkStatus,
    /// Bytes sent to the neighbor.
    pub(crate) sent: u64,
    /// Bytes received from it.
    pub(crate) received: u64,
}

impl LinkFigures {
    /// Returns the figures of each link, by the neighbors' names.
    pub(crate) fn links(&self, now: Instant) -> Vec<LinkFigure> {
        let figure = |neighbor: Arc<Neighbor>| LinkFigure {
            name: neighbor.name().to_owned(),
            status: neighbor.status(now),
            sent: neighbor.traffic().sent.get(),
            received: neighbor.traffic().received.get(),
        };
        self.neighbors.all().into_iter().map(figure).collect()
    }

    /// Returns the outcomes of connections to the peer port.
    pub(crate) fn connections(&self) -> Arc<CounterFamily<PeerOutcome>> {
        self.rejected.connections()
    }

    /// Returns the times from when a record was received by its origin until it was adopted here, of
    /// all adopted records.
    pub(crate) fn delays(&self) -> HistogramSnapshot {
        self.delays.snapshot()
    }
}
