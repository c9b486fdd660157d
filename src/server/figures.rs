//! The figures about clients in the server's status, which links send without knowing clients.

use std::sync::Arc;

use crate::client::counts::ClientCounts;
use crate::client::limit::ConnectionLimit;
use crate::link::status::{ClientFigures, ServerStatus};

/// The sources of the figures in the status.
#[derive(Debug)]
pub(super) struct Figures {
    /// The number of clients.
    pub(super) limit: ConnectionLimit,
    /// The counts.
    pub(super) counts: Arc<ClientCounts>,
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
        let refused = self.counts.requests().refused().into_iter();
        status.lines_refused = refused
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_string(), count))
            .collect();
    }
}
