//! The parts of the server that all sessions share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::client::counts::ClientCounts;
use crate::model::time::CoarseClock;
use crate::places::Places;
use crate::replica::Replica;
use crate::replica::stall::Stall;
use crate::replica::upkeep::Durability;
use crate::watch::Watches;

/// Shared by all sessions of a server.
#[derive(Debug)]
pub(crate) struct Services {
    /// The records.
    pub replica: Arc<Replica>,
    /// The places provider.
    pub places: Places,
    /// The watches of all clients.
    pub watches: Arc<Watches>,
    /// Syncs the journal to disk; `None` without a journal.
    pub durability: Option<Durability>,
    /// Waits for a disk that does not answer.
    pub stall: Stall,
    /// Longest time without input from a client; past this its connection is closed.
    pub idle_timeout: Duration,
    /// Maximum number of bytes of replies that clients have not taken, in all.
    pub max_unsent_bytes: usize,
    /// The clock that deadlines are measured on.
    pub clock: CoarseClock,
    /// Set once the server stops: sessions read once more, answer that, and close.
    pub stopping: AtomicBool,
    /// Numbers of what has happened to clients.
    pub counts: Arc<ClientCounts>,
}
