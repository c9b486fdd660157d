//! Counts of client connections and refused lines, for the server's status.

use super::refused_lines::RefusalCounts;
use super::session::end::EndCounts;

/// Counts of all clients since the start.
#[derive(Debug, Default)]
pub(crate) struct ClientCounts {
    /// Connections that have ended, by reason.
    pub ends: EndCounts,
    /// Lines that were refused, by reason.
    pub refusals: RefusalCounts,
}
