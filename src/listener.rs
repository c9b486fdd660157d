//! The accept loop of any port.
//!
//! A failing `accept` does not take the connection off the queue, so a bare loop would spin
//! (1.3 million times a second, measured, once the descriptors are used up). This one backs
//! off, and keeps one descriptor in reserve so that clients can be told instead of being left
//! to wait.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{Level, debug, error, log};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::thread::{self, Stop};

/// Connections that the kernel holds for us; past this, connecting takes seconds.
const BACKLOG: i32 = 4_096;

/// Pause after an `accept` that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(20);

/// Pause after a client that was refused. A refusal costs up to 150 µs, so a flood of clients that
/// there is no room for takes 4 % of a core; those who come meanwhile wait in the backlog.
const REFUSAL_PAUSE: Duration = Duration::from_millis(4);

/// Between two notices that clients are refused, or that none can be accepted; refusals between
/// are counted.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// Listens on an address. A port of 0 takes a free one.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A server that comes back must not wait out the connections of its last run.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is served, or was gone already.
    In,
    /// There was no room for it.
    Refused,
}

/// What is done with the connections of a listener.
pub trait Accept: Send + 'static {
    /// Takes a new connection.
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) -> Accepted;

    /// Takes a connection that there is no descriptor for: it can only be told, and closed.
    fn refuse(&mut self, stream: TcpStream, from: SocketAddr);

    /// Gives back a descriptor that is held for a refused connection, if there is one.
    fn make_room(&mut self) {}
}

/// A listener's thread.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    handle: TcpListener,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Begins to accept. From then on it holds a descriptor to refuse clients with; an error if
    /// there is none, or no thread.
    pub fn start(
        name: &str,
        listener: TcpListener,
        stop: Stop,
        accept: impl Accept,
    ) -> io::Result<Listener> {
        let address = listener.local_addr()?;
        let handle = listener.try_clone()?;
        // Before anybody is told that this server is ready: what takes descriptors away after
        // that must find it held.
        let reserve = open_reserve()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopping);
        let thread = thread::spawn(name, move || {
            run(&listener, reserve, &flag, &stop, accept);
        })?;
        Ok(Listener {
            address,
            handle,
            stopping,
            thread,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        // On Linux this ends a blocked `accept`; elsewhere a connection of our own does.
        let shut = SockRef::from(&self.handle).shutdown(Shutdown::Both);
        if shut.is_err() || cfg!(not(target_os = "linux")) {
            let _ = TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1));
        }
        if self.thread.join().is_err() {
            error!("a listener ended in a panic");
        }
    }
}

/// An address by which this machine reaches its own listener.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// A descriptor that is nothing but a place for the one of a client.
fn open_reserve() -> io::Result<File> {
    File::open("/dev/null")
}

fn run(
    listener: &TcpListener,
    reserve: File,
    stopping: &AtomicBool,
    stop: &Stop,
    mut accept: impl Accept,
) {
    let mut reserve = Some(reserve);
    let mut told = LogThrottle::default();
    while !stopping.load(Ordering::Acquire) {
        if reserve.is_none() {
            reserve = open_reserve().ok();
        }
        // The last descriptor is no client's: with it the next ones are told.
        let accepted = match &reserve {
            Some(_) => listener.accept(),
            None => Err(io::Error::other("no descriptor is left")),
        };
        let pause = match accepted {
            Ok(_) if stopping.load(Ordering::Acquire) => return,
            Ok((stream, from)) => match accept.accept(stream, from) {
                Accepted::In => continue,
                Accepted::Refused => REFUSAL_PAUSE,
            },
            Err(_) if stopping.load(Ordering::Acquire) => return,
            // The client has gone again, or a signal came.
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
                log!(
                    told.level(Instant::now()),
                    "cannot accept connections: {error}"
                );
                // With the reserve given up, or one who was refused before let go, one client
                // can be accepted and told.
                if reserve.take().is_none() {
                    accept.make_room();
                }
                if let Ok((stream, from)) = listener.accept() {
                    // It may have taken its time to come, and descriptors be free again.
                    reserve = open_reserve().ok();
                    if reserve.is_none() {
                        accept.refuse(stream, from);
                    } else if !stopping.load(Ordering::Acquire) {
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

/// When a failure was last told at `warn`. Without descriptors it comes and goes with each client
/// that leaves, and would fill a log.
#[derive(Debug, Default)]
struct LogThrottle(Option<Instant>);

impl LogThrottle {
    /// At which level it is told now.
    fn level(&mut self, now: Instant) -> Level {
        if self.0.is_some_and(|told| now < told + NOTICE_INTERVAL) {
            return Level::Debug;
        }
        self.0 = Some(now);
        Level::Warn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_comes_and_goes_is_told_once_in_a_while() {
        let (mut told, start) = (LogThrottle::default(), Instant::now());
        let mut check = |after: Duration, expected: Level| {
            assert_eq!(told.level(start + after), expected, "{after:?}");
        };
        check(Duration::ZERO, Level::Warn);
        check(BACK_OFF, Level::Debug);
        check(NOTICE_INTERVAL - BACK_OFF, Level::Debug);
        check(NOTICE_INTERVAL, Level::Warn);
        check(NOTICE_INTERVAL + BACK_OFF, Level::Debug);
    }
}
