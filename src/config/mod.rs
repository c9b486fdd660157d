//! The checked configuration of one server.
//!
//! `topology` reads `servers.txt`, `keys` the key file, and `limits` the limits of the system on
//! threads and descriptors. The raw flags of the command line are types of the program; a
//! [`Config`] needs no further checks.

pub mod keys;
pub mod limits;
pub mod topology;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::keys::KeyFile;
use crate::config::topology::{Address, ServerEntry, Topology};
use crate::disk::Readers;

/// Settings of one server.
#[derive(Clone, Debug)]
pub struct Config {
    /// This server's line of `servers.txt`.
    pub server: ServerEntry,
    /// All servers of the herd.
    pub topology: Topology,
    /// The herd's id, and the keys of its servers.
    pub keys: KeyFile,
    /// Local address on which the server's ports are bound instead of the host of its line; `None`
    /// for that host.
    pub bind: Option<IpAddr>,
    /// Kind of the pool, by which its workers wait for clients.
    pub pool: PoolKind,
    /// Number of workers of the pool, 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// Maximum number of clients at a time; `None` for as many as descriptors allow.
    pub max_clients: Option<usize>,
    /// Maximum number of clients of one address at a time; `None` for no limit of its own.
    pub max_clients_per_address: Option<usize>,
    /// Maximum number of bytes of replies that clients have not taken, in all; past it the client
    /// goes whose replies have waited longest.
    pub max_unsent_bytes: usize,
    /// Maximum number of clients that are known or were forgotten; further ones are refused.
    pub max_records: usize,
    /// Time after which the connection of a silent client is closed.
    pub idle_timeout: Duration,
    /// Directory of the server's journal, in a subdirectory of its name; `None` for no journal.
    pub data_dir: Option<PathBuf>,
    /// When a report is acknowledged.
    pub ack: Ack,
    /// The age at which records are forgotten may be longer than the one that was last in force.
    pub may_lengthen_forget_after: bool,
    /// Time within which the location of a client that was forgotten is gone from the journal.
    pub compact_within: Duration,
    /// The users that may read the files in that directory.
    pub readers: Readers,
    /// Interval at which digests of the records are compared with the neighbors'.
    pub digest_interval: Duration,
    /// The HTTP port; `None` for none.
    pub http: Option<HttpConfig>,
}

#[cfg(test)]
impl Config {
    /// Settings of a server Ball without neighbors, which keeps at most ten records and no journal.
    pub(crate) fn of_lone_server() -> Config {
        let topology = Topology::parse(b"Ball 127.0.0.1:1 127.0.0.1:2\n").expect("a topology");
        Config {
            server: topology.server("Ball").expect("its line").clone(),
            topology,
            keys: KeyFile::generate().expect("a key"),
            bind: None,
            pool: PoolKind::default(),
            workers: 1,
            max_clients: None,
            max_clients_per_address: None,
            max_unsent_bytes: 256 << 20,
            max_records: 10,
            idle_timeout: Duration::from_secs(60),
            data_dir: None,
            ack: Ack::Memory,
            may_lengthen_forget_after: false,
            compact_within: DEFAULT_COMPACT_WITHIN,
            readers: Readers::Owner,
            digest_interval: DEFAULT_DIGEST_INTERVAL,
            http: None,
        }
    }
}

/// Settings of the HTTP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address on which it listens; port 0 for a free one.
    pub address: Address,
    /// Without that address, any free port of the loopback address is taken, or else there is no
    /// HTTP port.
    pub is_optional: bool,
    /// Names besides that of the address by which it may be addressed.
    pub hosts: Vec<String>,
}

/// A fault in a file of the configuration, displayed behind the file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line number, from 1; 0 for the file as a whole.
    pub line: usize,
    /// Description of the fault.
    pub message: String,
}

impl Fault {
    fn new(line: usize, message: impl Into<String>) -> Fault {
        let message = message.into();
        Fault { line, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// When a report is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, argh::FromArgValue)]
pub enum Ack {
    /// Once the cache has it; the journal is written later. Survives a clean stop.
    Memory,
    /// Once the kernel has its journal entry. Survives a crash of the process.
    Journal,
    /// Once its journal entry is on disk. Survives the loss of power.
    Disk,
}

/// Kinds of pools, by which their workers wait for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, argh::FromArgValue)]
pub enum PoolKind {
    /// Each worker serves one connection, and blocks on it, until it closes.
    Dedicated,
    /// Workers take turns at the kernel's readiness queue.
    Shared,
}

impl Default for PoolKind {
    /// Returns `Shared` where it is supported: on Linux.
    fn default() -> PoolKind {
        if cfg!(target_os = "linux") {
            PoolKind::Shared
        } else {
            PoolKind::Dedicated
        }
    }
}

/// Default number of workers of a pool: with shared workers one hot worker serves all clients, and
/// the others help when it falls behind.
pub const DEFAULT_WORKERS: usize = 4;

/// Maximum number of workers of a pool. A thread takes four of the 65,530 memory mappings that
/// Linux allows a process by default; past those the process would be aborted.
pub const MAX_WORKERS: usize = 8_192;

/// Default maximum number of clients whose location is kept.
pub const DEFAULT_MAX_RECORDS: usize = 10_000_000;

/// Default maximum number of bytes of replies that clients have not taken, in all.
pub const DEFAULT_MAX_UNSENT_BYTES: usize = 256 << 20;

/// Least maximum of that kind: what two clients may leave untaken.
pub const MIN_MAX_UNSENT_BYTES: usize = 256 << 10;

/// Interval at which digests are compared with the neighbors'; tests use a shorter one.
pub const DEFAULT_DIGEST_INTERVAL: Duration = Duration::from_secs(60);

/// Default time within which what was forgotten is gone from the journal.
pub const DEFAULT_COMPACT_WITHIN: Duration = Duration::from_secs(24 * 3_600);

/// Default time after which the connection of a silent client is closed.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(600);
