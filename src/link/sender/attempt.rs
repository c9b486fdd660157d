//! One attempt to connect to a neighbor, on a thread of its own that nothing waits for.
//!
//! Looking up a name can take half a minute where the name servers are dead, and can't be
//! interrupted; connecting and shaking hands take seconds. The sender thread waits for the outcome
//! beside its orders, so a stop or a change of `servers.txt` is never delayed by any of it. An
//! attempt that is given up ends by itself, and its connection is closed.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::config::keys::KeyFile;
use crate::config::topology::Address;
use crate::health::judge::Refusal;
use crate::link::framing::prepare;
use crate::link::handshake::{self, DIAL_TIMEOUT, HandshakeError, Hello, Opening, Peer};
use crate::link::known::KnownAddresses;
use crate::link::sender::orders::ORDER_POLL;
use crate::thread;

/// Maximum time for a connection to be made to one address: a round trip of 2 s, or a first packet
/// that was lost and is sent again after 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    /// The keys that it was made with.
    pub(super) keys: Arc<KeyFile>,
}

/// Failure of an attempt: the error of each address that was tried.
#[derive(Debug)]
pub(in crate::link) enum DialError {
    /// The name could not be looked up, or the machine has no thread or descriptor left.
    Before(io::Error),
    /// No address led to the neighbor. They are given where a name was looked up.
    Addresses(Vec<(Option<SocketAddr>, HandshakeError)>),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Before(error) => write!(f, "{error}"),
            DialError::Addresses(errors) => {
                // Of an address that was not looked up, the reader knows which it is.
                if let [(None, error)] = &errors[..] {
                    return write!(f, "{error}");
                }
                let mut separator = "";
                for (address, error) in errors {
                    f.write_str(separator)?;
                    if let Some(address) = address {
                        write!(f, "{address}: ")?;
                    }
                    write!(f, "{error}")?;
                    separator = "; ";
                }
                Ok(())
            }
        }
    }
}

impl DialError {
    fn errors(&self) -> impl Iterator<Item = &HandshakeError> {
        let errors = match self {
            DialError::Before(_) => &[][..],
            DialError::Addresses(errors) => errors,
        };
        errors.iter().map(|(_, error)| error)
    }

    /// Returns whether another program answers at one of the addresses, or alters the data.
    pub(in crate::link) fn is_suspicious(&self) -> bool {
        self.errors().any(HandshakeError::is_suspicious)
    }

    /// Returns the neighbor's refusal; `None` if no address answered. One that is proved counts
    /// before one that is not.
    pub(in crate::link) fn refusal(&self) -> Option<Refusal> {
        let mut refusals = self.errors().filter_map(HandshakeError::refusal);
        let first = refusals.next();
        match first {
            Some(Refusal::WrongKey) => refusals.next().or(first),
            _ => first,
        }
    }
}

/// Starts an attempt to connect to the neighbor of that name, whose addresses are noted in `known`.
/// Returns the channel of its outcome.
pub(super) fn start(
    neighbor: &str,
    address: &Address,
    keys: Arc<KeyFile>,
    known: KnownAddresses,
    own: impl Fn() -> Hello + Send + 'static,
) -> io::Result<Receiver<Result<Dialed, DialError>>> {
    let (outcome, received) = bounded(1);
    let (neighbor, address) = (neighbor.to_owned(), address.clone());
    thread::spawn_helper(format!("link-dial-{neighbor}"), move || {
        // Where nobody waits for it any more, the connection is closed.
        let _ = outcome.send(dial(&neighbor, &address, &keys, &known, own));
    })?;
    Ok(received)
}

fn dial(
    neighbor: &str,
    address: &Address,
    keys: &Arc<KeyFile>,
    known: &KnownAddresses,
    own: impl Fn() -> Hello,
) -> Result<Dialed, DialError> {
    let host = address.host.as_str();
    let addresses = (host, address.port).to_socket_addrs();
    let addresses: Vec<_> = addresses.map_err(DialError::Before)?.collect();
    known.set(neighbor, addresses.iter().map(SocketAddr::ip));
    let is_name = host.parse::<IpAddr>().is_err();
    let mut errors = Vec::new();
    for address in addresses {
        match connect(neighbor, address, keys, &own()) {
            Ok(dialed) => return Ok(dialed),
            Err(error) => errors.push((is_name.then_some(address), error)),
        }
    }
    if errors.is_empty() {
        let text = "the host has no address";
        let error = io::Error::new(io::ErrorKind::NotFound, text);
        return Err(DialError::Before(error));
    }
    Err(DialError::Addresses(errors))
}

fn connect(
    neighbor: &str,
    address: SocketAddr,
    keys: &Arc<KeyFile>,
    own: &Hello,
) -> Result<Dialed, HandshakeError> {
    let opening = Opening::new(keys)?;
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    prepare(&stream, ORDER_POLL)?;
    let deadline = Instant::now() + DIAL_TIMEOUT;
    let peer = handshake::dial_with(opening, &stream, own, neighbor, deadline)?;
    let keys = Arc::clone(keys);
    Ok(Dialed { stream, peer, keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_named_and_a_proved_refusal_counts_first() {
        let refused = HandshakeError::Refused("its clock differs by +61 s".to_owned());
        let address = |last| Some(SocketAddr::from(([127, 0, 0, last], 4)));
        let error = DialError::Addresses(vec![
            (address(1), HandshakeError::KeyRefused),
            (address(2), HandshakeError::TimedOut),
            (address(3), refused),
        ]);
        let text = error.to_string();
        for part in [
            "127.0.0.1:4: ",
            "; 127.0.0.2:4: ",
            "; 127.0.0.3:4: refused: its clock",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(error.refusal(), Some(Refusal::Skew));
        let closed = DialError::Addresses(vec![(address(1), HandshakeError::KeyRefused)]);
        assert_eq!(closed.refusal(), Some(Refusal::WrongKey));
        let silent = DialError::Addresses(vec![(address(1), HandshakeError::TimedOut)]);
        assert_eq!(silent.refusal(), None);
    }
}
