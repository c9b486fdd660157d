//! Connections as the tools need them: resolved once, without Nagle's delay, and watched by an epoll
//! or, for a client that does one thing after the other, blocking.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;

/// Longest time that making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait of a blocking client.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts where the first could not succeed yet.
const PAUSE: Duration = Duration::from_millis(5);

/// Reply to a client that is refused because the server is full.
pub(crate) const FULL: &[u8] = b"? server full\n";

/// Resolves `HOST:PORT`.
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

/// Connects to the first of the addresses that answers. The stream does not block.
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

/// Connects a client that blocks, for as long as `timeout` in a read.
pub(crate) fn connect_blocking(
    addresses: &[SocketAddr],
    timeout: Duration,
) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match connect(addresses) {
            Ok(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(timeout))?;
                return Ok(stream);
            }
            // Ports of connections that have just been closed are not free at once.
            Err(error)
                if error.kind() == ErrorKind::AddrNotAvailable && start.elapsed() < PATIENCE =>
            {
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Connects a client and sends it a line. Returns the client if the reply is right, or `None` if the
/// server refuses it because it is full.
pub(crate) fn greet(addresses: &[SocketAddr]) -> Result<Option<TcpStream>, String> {
    let fault = |error: io::Error| format!("a good client is not served: {error}");
    let mut stream = connect_blocking(addresses, PATIENCE).map_err(fault)?;
    stream.write_all(b"hello\n").map_err(fault)?;
    let mut reply = Vec::new();
    let mut buffer = [0; 100];
    while !reply.ends_with(b"\n") {
        match stream.read(&mut buffer).map_err(fault)? {
            0 => break,
            read => reply.extend_from_slice(&buffer[..read]),
        }
    }
    match &reply[..] {
        b"? hello\n" => Ok(Some(stream)),
        FULL => Ok(None),
        other => Err(format!(
            "a good client was answered \"{}\"",
            other.escape_ascii()
        )),
    }
}

/// Adds a stream to an epoll, with the number that its events carry.
pub(crate) fn watch(
    epoll: &OwnedFd,
    stream: &TcpStream,
    number: u64,
    flags: EventFlags,
) -> io::Result<()> {
    Ok(epoll::add(
        epoll,
        stream,
        EventData::new_u64(number),
        flags,
    )?)
}

/// Waits for events, at most `nanos` nanoseconds (less than a second).
pub(crate) fn wait(epoll: &OwnedFd, events: &mut Vec<Event>, nanos: u64) -> Result<(), String> {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: nanos as i64,
    };
    match epoll::wait(
        epoll,
        rustix::buffer::spare_capacity(events),
        Some(&timeout),
    ) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(format!("epoll: {error}")),
    }
}
