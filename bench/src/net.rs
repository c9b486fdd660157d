//! Connections as the tools need them: resolved once, without Nagle's delay, non-blocking.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses of `HOST:PORT`.
pub(crate) fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| format!("`{address}` is no HOST:PORT: {error}"))?
        .collect();
    if found.is_empty() {
        return Err(format!("`{address}` has no address"));
    }
    Ok(found)
}

/// Connects to the first of the addresses that answers.
pub(crate) fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut failure = io::Error::other("no address");
    for address in addresses {
        match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
