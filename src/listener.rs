//! The accept loop of a port.
//!
//! A failing `accept` does not take the connection off the queue, so a bare loop would spin
//! (1.3 million times a second, measured, once the descriptors are used up). This one backs off,
//! and keeps one descriptor in reserve, so that a connection can be refused with an answer instead
//! of being left to wait. The protocol behind a port, and how it refuses, is its [`Accept`].

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{Level, debug, error, log};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::logging::throttle::LogThrottle;
use crate::thread::{self, Stop, Stopper};

/// Connections that the kernel holds until they are accepted; past this, connecting takes seconds.
const BACKLOG: i32 = 4_096;

/// Pause after an `accept` that failed for lack of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(20);

/// Pause after a connection that was refused. A refusal costs up to 150 µs, so a flood of clients at
/// capacity takes 4 % of a core; connections that arrive meanwhile wait in the backlog.
const REFUSAL_PAUSE: Duration = Duration::from_millis(4);

/// Time between two warnings that connections cannot be accepted. Without descriptors that comes and
/// goes with each client that leaves, and would fill a log.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Listens on an address. Port 0 selects a free port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A server that restarts must not wait for the connections of its last run to expire.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Outcome of accepting a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is served, or had closed already.
    In,
    /// It was refused at capacity.
    Refused,
}

/// Handler of the connections of a listener.
pub trait Accept: Send + 'static {
    /// Handles a new connection.
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) -> Accepted;

    /// Handles a connection that there is no descriptor for: it is sent a refusal and closed.
    fn refuse(&mut self, stream: TcpStream, from: SocketAddr);

    /// Closes a descriptor that is held for a refused connection, if there is one.
    fn free_descriptor(&mut self) {}
}

/// A listener's thread.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    handle: TcpListener,
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Starts to accept, on a thread named `name`. It holds a descriptor in reserve from now on.
    /// Fails if there is no descriptor, or no thread.
    pub fn start(name: &str, listener: TcpListener, accept: impl Accept) -> io::Result<Listener> {
        let address = listener.local_addr()?;
        let handle = listener.try_clone()?;
        // Before the server reports that it is ready: the reserve must be held before connections
        // can use up the descriptors.
        let reserve = open_reserve()?;
        let (stopper, stop) = thread::stop_pair();
        let thread = thread::spawn(name, move || run(&listener, reserve, &stop, accept))?;
        Ok(Listener {
            address,
            handle,
            stopper,
            thread,
        })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, and joins the thread.
    pub fn stop(self) {
        self.stopper.stop();
        // On Linux this ends a blocked `accept`; elsewhere a connection of our own does.
        let shut = SockRef::from(&self.handle).shutdown(Shutdown::Both);
        if shut.is_err() || cfg!(not(target_os = "linux")) {
            let _ = TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1));
        }
        if self.thread.join().is_err() {
            error!("a listener panicked");
        }
    }
}

/// Returns an address by which this machine reaches its own listener.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Opens the descriptor that is closed in order to accept one more connection.
fn open_reserve() -> io::Result<File> {
    File::open("/dev/null")
}

fn run(listener: &TcpListener, reserve: File, stop: &Stop, mut accept: impl Accept) {
    let mut reserve = Some(reserve);
    let mut warnings = LogThrottle::default();
    while !stop.is_set() {
        if reserve.is_none() {
            reserve = open_reserve().ok();
        }
        // The last descriptor is not for a client: it is needed to refuse the next ones.
        let accepted = match &reserve {
            Some(_) => listener.accept(),
            None => Err(io::Error::other("no descriptor is left")),
        };
        let pause = match accepted {
            _ if stop.is_set() => return,
            Ok((stream, from)) => match accept.accept(stream, from) {
                Accepted::In => continue,
                Accepted::Refused => REFUSAL_PAUSE,
            },
            // The client has disconnected already, or a signal arrived.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) =>
            {
                debug!("accept: {error}");
                continue;
            }
            Err(error) => {
                let level = if warnings.record(1, Instant::now(), WARNING_INTERVAL) {
                    Level::Warn
                } else {
                    Level::Debug
                };
                log!(level, "cannot accept connections: {error}");
                // Closing the reserve, or else a connection that was refused earlier, lets one more
                // be accepted and refused.
                if reserve.take().is_none() {
                    accept.free_descriptor();
                }
                if let Ok((stream, from)) = listener.accept() {
                    // This may have blocked for long, and descriptors may be free again.
                    reserve = open_reserve().ok();
                    if reserve.is_none() {
                        accept.refuse(stream, from);
                    } else if !stop.is_set() {
                        accept.accept(stream, from);
                    }
                }
                BACK_OFF
            }
        };
        if stop.wait(pause) {
            return;
        }
    }
}
