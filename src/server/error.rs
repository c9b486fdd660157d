//! Errors of starting and of reloading a server, with the texts that the user sees.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::config::limits::TooManyThreads;
use crate::config::topology::Address;
use crate::link::keyring::AnotherHerd;
use crate::store::journal::JournalError;

/// Errors of starting a server.
#[derive(Debug)]
pub enum StartError {
    /// One of its own addresses cannot be resolved.
    Resolve(Address, io::Error),
    /// It cannot listen on an address. The first field says for which peers: `clients` or `peers`.
    Bind(&'static str, SocketAddr, io::Error),
    /// The limit of open files is too low.
    Descriptors {
        /// The limit.
        limit: usize,
        /// Descriptors that are not for clients.
        reserved: usize,
    },
    /// The journal cannot be opened.
    Journal(JournalError),
    /// A limit of the system on threads is too low.
    Threads(TooManyThreads),
    /// A thread cannot be started, or another resource of the system is missing.
    Resources(io::Error),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::Resources(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Resolve(address, error) => write!(f, "cannot resolve {address}: {error}"),
            StartError::Bind(audience, address, error) => {
                write!(f, "cannot listen for {audience} on {address}: ")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => f.write_str("another program has that port"),
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("this machine has no such address (see --bind)")
                    }
                    _ => write!(f, "{error}"),
                }
            }
            StartError::Descriptors { limit, reserved } => write!(
                f,
                "the limit of {limit} open files leaves none for clients; raise it (ulimit -n) above {reserved}"
            ),
            StartError::Journal(error) => write!(f, "{error}"),
            StartError::Threads(error) => write!(f, "{error}"),
            StartError::Resources(error) => write!(f, "insufficient system resources: {error}"),
        }
    }
}

// No `source`: the text contains the cause.
impl std::error::Error for StartError {}

/// Errors of reloading the configuration. Except for the last one, nothing has been changed.
#[derive(Debug)]
pub enum ReloadError {
    /// The new `servers.txt` does not list this server.
    NotNamed(String),
    /// The new `servers.txt` gives this server addresses other than those that it listens on: the
    /// old ones and the new, for clients and for peers.
    OwnAddress(Box<[[Address; 2]; 2]>),
    /// The key file belongs to another herd.
    AnotherHerd(AnotherHerd),
    /// No thread can be started for a new neighbor. All possible changes have been made; the next
    /// reload tries the rest again.
    Threads(io::Error),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::NotNamed(name) => {
                write!(f, "servers.txt no longer names this server, {name}")
            }
            ReloadError::OwnAddress(addresses) => {
                let [old, new] = addresses
                    .each_ref()
                    .map(|[client, peer]| format!("{client} {peer}"));
                write!(
                    f,
                    "this server's own addresses are {old} now and would be {new}; changing them requires a restart"
                )
            }
            ReloadError::AnotherHerd(error) => write!(f, "{error}"),
            ReloadError::Threads(error) => {
                write!(f, "cannot start a thread for a new neighbor: {error}")
            }
        }
    }
}

// No `source`: the text contains the cause.
impl std::error::Error for ReloadError {}
