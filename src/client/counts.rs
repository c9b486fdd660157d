//! What is counted of clients, for the server's status.

use std::sync::Arc;

use super::limit::ConnectionLimit;
use super::refused_lines::RefusalCounts;
use super::session::end::EndCounts;
use crate::link::status::{ClientFigures, ServerStatus};

/// Counts of all clients since the start.
#[derive(Debug, Default)]
pub(crate) struct ClientCounts {
    /// Connections that have ended, by reason.
    pub ends: EndCounts,
    /// Lines that were refused, by reason.
    pub refusals: RefusalCounts,
}

/// The sources of the figures in the status.
#[derive(Debug)]
pub(crate) struct Figures {
    /// The number of clients.
    pub limit: ConnectionLimit,
    /// The counts.
    pub counts: Arc<ClientCounts>,
}

impl ClientFigures for Figures {
    fn fill(&self, status: &mut ServerStatus) {
        let (connected, _) = self.limit.fill();
        status.clients = connected as u64;
        let ended = self.counts.ends.all();
        status.connections_ended = ended
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_string(), count))
            .collect();
        let refused = self.counts.refusals.snapshot().into_iter();
        status.lines_refused = refused
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_string(), count))
            .collect();
    }
}
