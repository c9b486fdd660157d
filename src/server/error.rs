//! Errors of starting and of reloading a server, with the texts that the user sees.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::forgetting::ForgetAfterError;
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
    Descriptors(TooFewDescriptors),
    /// The age at which records are forgotten is longer than before, or can't be kept.
    ForgetAfter(ForgetAfterError),
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
                let reason = bind_reason(error);
                write!(f, "cannot listen for {audience} on {address}: {reason}")?;
                let is_missing = error.kind() == io::ErrorKind::AddrNotAvailable;
                f.write_str(match *audience {
                    "clients" | "peers" if is_missing => " (see --bind)",
                    _ => "",
                })
            }
            StartError::Descriptors(error) => write!(f, "{error}"),
            StartError::ForgetAfter(error) => write!(f, "{error}"),
            StartError::Journal(error) => write!(f, "{error}"),
            StartError::Threads(error) => write!(f, "{error}"),
            StartError::Resources(error) => write!(f, "insufficient system resources: {error}"),
        }
    }
}

// No `source`: the text contains the cause.
impl std::error::Error for StartError {}

/// Returns why a server cannot listen on an address.
pub(super) fn bind_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program has that port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// The error of a limit of open files that leaves none for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewDescriptors {
    /// The limit.
    pub limit: usize,
    /// Descriptors that are not for clients.
    pub reserved: usize,
    /// Number of neighbors that some of those are for.
    pub neighbors: usize,
}

impl fmt::Display for TooFewDescriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooFewDescriptors {
            limit,
            reserved,
            neighbors,
        } = self;
        write!(
            f,
            "the limit of {limit} open files leaves none for clients: the server needs {reserved} itself \
             beside {neighbors} neighbors; raise it (ulimit -n) above that"
        )
    }
}

impl std::error::Error for TooFewDescriptors {}

/// Errors of reloading the configuration. After any but [`Threads`](Self::Threads), nothing has been
/// changed.
#[derive(Debug)]
pub enum ReloadError {
    /// The new `servers.txt` does not list this server.
    NotNamed(String),
    /// The new `servers.txt` gives this server addresses other than those that it listens on: the
    /// old ones and the new, for clients and for peers.
    OwnAddress(Box<[[Address; 2]; 2]>),
    /// The age at which records are forgotten is longer than before, or can't be kept.
    ForgetAfter(ForgetAfterError),
    /// The key file belongs to another herd.
    AnotherHerd(AnotherHerd),
    /// The limit of open files is too low for so many neighbors.
    Descriptors(TooFewDescriptors),
    /// A limit of the system on threads is too low for so many neighbors.
    TooManyThreads(TooManyThreads),
    /// No thread can be started for a new neighbor. All other changes have been made; the next reload
    /// tries this one again.
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
            ReloadError::ForgetAfter(error) => write!(f, "{error}"),
            ReloadError::AnotherHerd(error) => write!(f, "{error}"),
            ReloadError::Descriptors(error) => write!(f, "{error}"),
            ReloadError::TooManyThreads(error) => write!(f, "{error}"),
            ReloadError::Threads(error) => {
                write!(
                    f,
                    "cannot start a thread for a new neighbor, all else is in force: {error}"
                )
            }
        }
    }
}

// No `source`: the text contains the cause.
impl std::error::Error for ReloadError {}
