//! The accept loops of a port: one for each of its addresses.
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

use log::{Level, debug, info, log};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::logging::RECOVERY;
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

/// Attempts to find a port that is free at all addresses, where any port will do.
const PORT_ATTEMPTS: usize = 16;

/// Listens on an address. Port 0 selects a free port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    listen(address, false)
}

fn listen(address: SocketAddr, is_v6_only: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A server that restarts must not wait for the connections of its last run to expire.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if is_v6_only {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The sockets of one port, at least one, and the addresses that it was to have besides.
#[derive(Debug)]
pub struct Bound {
    listeners: Vec<TcpListener>,
    /// Addresses that this machine does not have, or no longer, with the error of each.
    pub left_out: Vec<(SocketAddr, io::Error)>,
}

impl From<TcpListener> for Bound {
    fn from(listener: TcpListener) -> Bound {
        Bound {
            listeners: vec![listener],
            left_out: Vec::new(),
        }
    }
}

impl Bound {
    /// Listens on all of these addresses, which have one port. Those that this machine does not
    /// have are left out, as long as there is another. Port 0 selects one that is free at all.
    ///
    /// # Errors
    ///
    /// Returns the address that failed for another reason, or else the first one. `addresses` must
    /// not be empty.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Bound, (SocketAddr, io::Error)> {
        let mut attempts = 1;
        loop {
            match Bound::bind_once(addresses) {
                // The port that was free at the first address is taken at another.
                Err((address, error))
                    if address.port() == 0
                        && error.kind() == ErrorKind::AddrInUse
                        && attempts < PORT_ATTEMPTS =>
                {
                    attempts += 1;
                }
                bound => return bound,
            }
        }
    }

    fn bind_once(addresses: &[SocketAddr]) -> Result<Bound, (SocketAddr, io::Error)> {
        let mut distinct: Vec<SocketAddr> = Vec::new();
        for &address in addresses {
            if !distinct.contains(&address) {
                distinct.push(address);
            }
        }
        // By itself `::` takes the port of `0.0.0.0` too.
        let has_v4 = distinct.iter().any(SocketAddr::is_ipv4);
        let mut port = 0;
        let (mut listeners, mut left_out) = (Vec::new(), Vec::new());
        for address in distinct {
            let mut wanted = address;
            if wanted.port() == 0 {
                wanted.set_port(port);
            }
            match listen(wanted, has_v4 && address.is_ipv6()) {
                Ok(listener) => {
                    port = listener.local_addr().map_or(0, |own| own.port());
                    listeners.push(listener);
                }
                Err(error) if is_foreign(&error) => left_out.push((address, error)),
                Err(error) => return Err((address, error)),
            }
        }
        if listeners.is_empty() && !left_out.is_empty() {
            return Err(left_out.swap_remove(0));
        }
        Ok(Bound {
            listeners,
            left_out,
        })
    }

    /// Returns the first address that it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.listeners.first() {
            Some(listener) => listener.local_addr(),
            None => Err(ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Returns the sockets.
    pub fn listeners(&self) -> &[TcpListener] {
        &self.listeners
    }
}

/// Returns whether binding failed since this machine has no such address, or no such protocol.
fn is_foreign(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
        return true;
    }
    error.kind() == ErrorKind::AddrNotAvailable
}

/// Outcome of accepting a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is served, or had closed already.
    In,
    /// It was refused at capacity.
    Refused,
}

/// Handler of the connections of a listener. Each of its sockets has a clone.
pub trait Accept: Clone + Send + 'static {
    /// Handles a new connection.
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) -> Accepted;

    /// Handles a connection that there is no descriptor for: it is sent a refusal and closed.
    fn refuse(&mut self, stream: TcpStream, from: SocketAddr);

    /// Closes a descriptor that is held for a refused connection, if there is one.
    fn free_descriptor(&mut self) {}
}

/// A listener's threads, one for each socket.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<Accepting>,
    stopper: Stopper,
}

/// A socket and its thread.
#[derive(Debug)]
struct Accepting {
    address: SocketAddr,
    handle: TcpListener,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Starts to accept, on a thread for each socket, named `name`, `name-1` and so on. Each holds a
    /// descriptor in reserve from now on. Fails if there is no descriptor, or no thread.
    pub fn start(name: &str, bound: Bound, accept: impl Accept) -> io::Result<Listener> {
        Listener::start_behind(name, bound, accept, None)
    }

    /// The same, but the first connection is accepted only once that signal has been given. Until
    /// then connections wait with the kernel.
    pub fn start_behind(
        name: &str,
        bound: Bound,
        accept: impl Accept,
        opening: Option<&Stop>,
    ) -> io::Result<Listener> {
        let (stopper, stop) = thread::stop_pair();
        let mut listener = Listener {
            sockets: Vec::new(),
            stopper,
        };
        for (index, socket) in bound.listeners.into_iter().enumerate() {
            let name = match index {
                0 => name.to_owned(),
                _ => format!("{name}-{index}"),
            };
            let gate = Gate {
                opening: opening.cloned(),
                stop: stop.clone(),
            };
            match Accepting::start(name, socket, gate, accept.clone()) {
                Ok(accepting) => listener.sockets.push(accepting),
                Err(error) => {
                    listener.stop();
                    return Err(error);
                }
            }
        }
        Ok(listener)
    }

    /// Returns the first address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.sockets[0].address
    }

    /// Returns all addresses that it listens on, in words.
    pub fn addresses(&self) -> String {
        let addresses: Vec<_> = self
            .sockets
            .iter()
            .map(|socket| socket.address.to_string())
            .collect();
        addresses.join(", ")
    }

    /// Stops accepting, and joins the threads.
    pub fn stop(self) {
        self.stopper.stop();
        for socket in self.sockets {
            socket.stop();
        }
    }
}

/// The signals of a thread that accepts: to begin, and to end.
struct Gate {
    /// `None` to begin at once.
    opening: Option<Stop>,
    stop: Stop,
}

impl Gate {
    /// Waits for the begin. Returns whether it has come before the end.
    fn passes(&self) -> bool {
        let Some(opening) = &self.opening else {
            return true;
        };
        thread::waiting(|| {
            crossbeam_channel::select! {
                recv(opening.channel()) -> _ => true,
                recv(self.stop.channel()) -> _ => false,
            }
        })
    }
}

impl Accepting {
    fn start(
        name: String,
        listener: TcpListener,
        gate: Gate,
        accept: impl Accept,
    ) -> io::Result<Accepting> {
        let address = listener.local_addr()?;
        let handle = listener.try_clone()?;
        // Before the server reports that it is ready: the reserve must be held before connections
        // can use up the descriptors.
        let reserve = open_reserve()?;
        let thread = thread::spawn(name, move || {
            if gate.passes() {
                run(&listener, reserve, &gate.stop, accept);
            }
        })?;
        Ok(Accepting {
            address,
            handle,
            thread,
        })
    }

    /// Joins the thread, which has been signaled to stop.
    fn stop(self) {
        // On Linux this ends a blocked `accept`; elsewhere a connection of our own does.
        let shut = SockRef::from(&self.handle).shutdown(Shutdown::Both);
        if shut.is_err() || cfg!(not(target_os = "linux")) {
            let _ = TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1));
        }
        let _ = self.thread.join();
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
    let mut has_warned = false;
    while !stop.is_set() {
        if reserve.is_none() {
            reserve = open_reserve().ok();
        }
        // The last descriptor is not for a client: it is needed to refuse the next ones.
        let accepted = match &reserve {
            Some(_) => thread::waiting(|| listener.accept()),
            None => Err(io::Error::other("no descriptor is left")),
        };
        let pause = match accepted {
            _ if stop.is_set() => return,
            Ok((stream, from)) => match accept.accept(stream, from) {
                Accepted::In => {
                    if std::mem::take(&mut has_warned) {
                        info!(target: RECOVERY, "connections are accepted again");
                    }
                    continue;
                }
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
                    has_warned = true;
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
                if let Ok((stream, from)) = thread::waiting(|| listener.accept()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn all_addresses_get_one_port_and_those_of_other_machines_are_left_out() {
        // The last one is of the block for documentation, which no machine has.
        let wanted = addresses(&["127.0.0.1:0", "127.0.0.1:0", "192.0.2.1:0"]);
        let bound = Bound::bind(&wanted).unwrap();
        assert_eq!(bound.listeners.len(), 1);
        assert_eq!(bound.left_out.len(), 1);
        assert_eq!(bound.left_out[0].0, wanted[2]);
        let (address, error) = Bound::bind(&wanted[2..]).unwrap_err();
        assert_eq!(address, wanted[2]);
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_port_that_is_taken_at_one_address_is_an_error_and_not_left_out() {
        let bound = Bound::bind(&addresses(&["127.0.0.1:0", "127.0.0.2:0"])).unwrap();
        let [first, second] = [0, 1].map(|index| bound.listeners[index].local_addr().unwrap());
        assert_eq!(first.port(), second.port());
        let other = SocketAddr::from(([127, 0, 0, 3], first.port()));
        let (address, error) = Bound::bind(&[other, second]).unwrap_err();
        assert_eq!((address, error.kind()), (second, ErrorKind::AddrInUse));
    }

    #[test]
    fn both_protocols_share_a_port() {
        let wanted = addresses(&["[::]:0", "0.0.0.0:0"]);
        let bound = Bound::bind(&wanted).unwrap();
        // A machine without IPv6 leaves the first one out.
        assert_eq!(bound.listeners.len() + bound.left_out.len(), 2);
        assert!(
            bound
                .left_out
                .iter()
                .all(|(address, _)| *address == wanted[0])
        );
    }
}
