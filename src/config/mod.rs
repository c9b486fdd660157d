//! What a server is started with, checked.
//!
//! The command line's raw flags are another type (in the program); a value of this one can be
//! used as it is.

pub mod keys;
pub mod limits;
pub mod topology;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::keys::KeyFile;
use crate::config::topology::{Server, Topology};

/// Settings of one server.
#[derive(Clone, Debug)]
pub struct Config {
    /// This server's line of `servers.txt`.
    pub server: Server,
    /// All servers.
    pub topology: Topology,
    /// Which herd this is, and the keys of its servers.
    pub keys: KeyFile,
    /// Another local address to bind the server's ports on.
    pub bind: Option<IpAddr>,
    /// How the pool's workers wait.
    pub pool: PoolKind,
    /// How many workers the pool has.
    pub workers: usize,
    /// Clients at a time; `None` for as many as descriptors allow.
    pub max_clients: Option<usize>,
    /// Clients whose location is kept; a new one beyond is refused.
    pub max_records: usize,
    /// How long a client may say nothing.
    pub idle_timeout: Duration,
    /// Where the server's durable copy is kept, in a folder of its name; `None` for none.
    pub data_dir: Option<PathBuf>,
    /// When a report is acknowledged.
    pub ack: Ack,
    /// How often the cache is compared with the neighbors'.
    pub digest_interval: Duration,
}

/// When a report is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Once the cache has it; the journal follows behind. Survives a clean stop.
    Memory,
    /// Once the kernel has its journal entry. Survives the death of the process.
    Journal,
    /// Once its journal entry is on disk. Survives the loss of power.
    Disk,
}

/// How the workers of a pool wait for their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// A worker keeps a connection, and blocks on it, until it closes.
    Dedicated,
    /// Workers take turns at the kernel's readiness queue.
    Shared,
}

impl Default for PoolKind {
    /// The lobby, where the kernel has what it needs.
    fn default() -> PoolKind {
        if cfg!(target_os = "linux") {
            PoolKind::Shared
        } else {
            PoolKind::Dedicated
        }
    }
}

/// Workers of a pool, unless told otherwise: one hot worker serves the lobby, and the others
/// step in when it falls behind.
pub const DEFAULT_WORKERS: usize = 4;

/// Most workers of a pool. A thread takes four of the 65,530 mappings that Linux gives a process
/// by default, and beyond those the process would be aborted.
pub const MAX_WORKERS: usize = 8_192;

/// Clients whose location is kept, unless told otherwise.
pub const DEFAULT_MAX_RECORDS: usize = 10_000_000;

/// How often the cache is compared with the neighbors', unless a test can't wait so long.
pub const DEFAULT_DIGEST_INTERVAL: Duration = Duration::from_secs(60);

/// How long a client may say nothing, unless told otherwise.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(600);
