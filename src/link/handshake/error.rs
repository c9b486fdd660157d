//! Reasons for which a handshake or a status request fails.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::{HANDSHAKE_TIMEOUT, MAX_SKEW, VERSIONS};
use crate::health::judge::Refusal;
use crate::link::framing::is_timeout;

/// Beginning of the reason in a `BYE` to a server that is not a neighbor.
const NO_NEIGHBOR: &str = "servers.txt here names no neighbor";

/// Beginning of the reason in a `BYE` to a server whose clock differs by too much.
const SKEW: &str = "its clock differs by";

/// Reason for which a handshake or a status request failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// The connection could not be made, or broke.
    Io(io::Error),
    /// It took too long.
    TimedOut,
    /// The other side took longer than this to identify itself.
    Late(Duration),
    /// The other side closed the connection early.
    Closed,
    /// The other side reset the connection, as a forwarder does whose own server is down.
    Reset,
    /// The other side closed the connection when this server had proved its key.
    KeyRefused,
    /// The other side has no key of this herd.
    WrongKey,
    /// The other side has the key, but does not speak this protocol.
    NotAPeer,
    /// The other side speaks no version that this server speaks.
    Version((u64, u64)),
    /// The other side belongs to another herd.
    AnotherHerd,
    /// Another server answers at the neighbor's address: its name.
    WrongName(String),
    /// The other side addressed another server: the name that it sought, and this server's.
    Mistaken(String, String),
    /// This server's `servers.txt` does not name the other side as a neighbor.
    NotANeighbor(String),
    /// The clocks differ by too much.
    Skew(String),
    /// Another server of the same name is connected: both in words.
    Twins(String),
    /// The other side refused, with this reason.
    Refused(String),
    /// The answer to a status request can't be read.
    Answer(String),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Io(error) => write!(f, "{error}"),
            HandshakeError::TimedOut => {
                let seconds = HANDSHAKE_TIMEOUT.as_secs();
                write!(f, "the handshake took longer than {seconds} s")
            }
            HandshakeError::Late(limit) => {
                write!(f, "the handshake took longer than {} s", limit.as_secs())
            }
            HandshakeError::Closed => f.write_str("it closed during the handshake"),
            HandshakeError::Reset => f.write_str("it reset the connection during the handshake"),
            HandshakeError::KeyRefused => f.write_str(
                "it closed during the handshake: it probably has another key, or no handshake slot free",
            ),
            HandshakeError::WrongKey => f.write_str("wrong key or not a peer"),
            HandshakeError::NotAPeer => f.write_str("it does not speak the herd's link protocol"),
            HandshakeError::Version((low, high)) => write!(
                f,
                "it speaks link versions {low} to {high}, this server {} to {}",
                VERSIONS.0, VERSIONS.1
            ),
            HandshakeError::AnotherHerd => {
                f.write_str("it has the key, but its key file names another herd")
            }
            HandshakeError::WrongName(name) => write!(f, "it calls itself {name}"),
            HandshakeError::Mistaken(sought, own) => {
                write!(f, "it looks for {sought} at the address of {own}")
            }
            HandshakeError::NotANeighbor(name) => {
                write!(f, "{NO_NEIGHBOR} {name}")
            }
            HandshakeError::Skew(skew) => {
                write!(
                    f,
                    "{SKEW} {skew} s, more than {} s",
                    MAX_SKEW.as_secs()
                )
            }
            HandshakeError::Twins(text) => f.write_str(text),
            HandshakeError::Refused(reason) => write!(f, "refused: {reason}"),
            HandshakeError::Answer(error) => write!(
                f,
                "its answer can't be read, perhaps it is of another version: {error}"
            ),
        }
    }
}

impl HandshakeError {
    /// Returns whether no neighbor fails like this, whatever its settings: another program answers
    /// at its address, or alters the data that it sends.
    pub(in crate::link) fn is_suspicious(&self) -> bool {
        match self {
            HandshakeError::WrongKey | HandshakeError::NotAPeer => true,
            HandshakeError::Io(error) => error.kind() == ErrorKind::InvalidData,
            _ => false,
        }
    }
}

/// Returns whether a connection was closed for that reason since the clocks differ.
pub(in crate::link) fn is_skew(reason: &str) -> bool {
    reason.starts_with(SKEW)
}

impl HandshakeError {
    /// Returns what the other side's answer says of this server; `None` if it did not answer.
    pub(in crate::link) fn refusal(&self) -> Option<Refusal> {
        match self {
            HandshakeError::Io(_)
            | HandshakeError::TimedOut
            | HandshakeError::Closed
            | HandshakeError::Reset => None,
            HandshakeError::KeyRefused | HandshakeError::WrongKey => Some(Refusal::WrongKey),
            HandshakeError::Refused(reason) if reason.starts_with(NO_NEIGHBOR) => {
                Some(Refusal::NotANeighbor)
            }
            HandshakeError::Refused(reason) if is_skew(reason) => Some(Refusal::Skew),
            HandshakeError::Skew(_) => Some(Refusal::Skew),
            _ => Some(Refusal::Other),
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HandshakeError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> HandshakeError {
        HandshakeError::Io(error)
    }
}

/// Returns the meaning of a socket's error during a handshake or a status request.
pub(in crate::link) fn failed(error: io::Error) -> HandshakeError {
    match error.kind() {
        _ if is_timeout(&error) => HandshakeError::TimedOut,
        ErrorKind::UnexpectedEof => HandshakeError::Closed,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            HandshakeError::Reset
        }
        _ => HandshakeError::Io(error),
    }
}

/// Returns the error of a machine without random numbers, or of an unknown cipher.
pub(super) fn no_cipher(error: snow::Error) -> HandshakeError {
    HandshakeError::Io(io::Error::other(error))
}
