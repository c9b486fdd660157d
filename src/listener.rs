//! Accepts connections: clients' for the pool, peers' for the link receivers.
//!
//! A failing `accept` does not take the connection off the queue, so a bare loop would spin
//! (1.3 million times a second, measured, once the descriptors are used up). This one backs
//! off, and keeps one descriptor in reserve so that clients can be told instead of being left
//! to wait.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use log::{debug, error, warn};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::pool::{Admission, Connection, Hall};
use crate::session::FULL;
use crate::shutdown::Stop;
use crate::time::CoarseClock;

/// Connections that the kernel holds for us; past this, connecting takes seconds.
const BACKLOG: i32 = 4_096;

/// Pause after an `accept` that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

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

/// What is done with the connections of a listener.
pub trait Accept: Send + 'static {
    /// Takes a new connection.
    fn accept(&mut self, stream: TcpStream, from: SocketAddr);

    /// Takes a connection that there is no descriptor for: it can only be told, and closed.
    fn refuse(&mut self, stream: TcpStream, from: SocketAddr);
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
    /// Begins to accept.
    pub fn start(
        name: &str,
        listener: TcpListener,
        stop: Stop,
        accept: impl Accept,
    ) -> io::Result<Listener> {
        let address = listener.local_addr()?;
        let handle = listener.try_clone()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopping);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(crate::STACK_BYTES)
            .spawn(move || run(&listener, &flag, &stop, accept))?;
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

fn run(listener: &TcpListener, stopping: &AtomicBool, stop: &Stop, mut accept: impl Accept) {
    let mut reserve = File::open("/dev/null").ok();
    let mut exhausted = false;
    while !stopping.load(Ordering::Acquire) {
        match listener.accept() {
            Ok(_) if stopping.load(Ordering::Acquire) => return,
            Ok((stream, from)) => {
                exhausted = false;
                accept.accept(stream, from);
            }
            Err(_) if stopping.load(Ordering::Acquire) => return,
            // The client has gone again, or a signal came.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) =>
            {
                debug!("accept: {error}");
            }
            Err(error) => {
                if !exhausted {
                    warn!("cannot accept connections: {error}");
                }
                exhausted = true;
                // With the reserve given up, one client can be accepted and told.
                if reserve.take().is_some()
                    && let Ok((stream, from)) = listener.accept()
                {
                    accept.refuse(stream, from);
                }
                reserve = File::open("/dev/null").ok();
                if stop.wait(BACK_OFF) {
                    return;
                }
            }
        }
    }
}

/// Brings clients to the pool.
#[derive(Debug)]
pub struct Clients {
    /// The pool.
    pub hall: Hall,
    /// Who counts them.
    pub admission: Admission,
    /// The time that deadlines are counted in.
    pub clock: CoarseClock,
}

impl Accept for Clients {
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) {
        let Some(admitted) = self.admission.admit() else {
            return self.refuse(stream, from);
        };
        // Replies leave as they are written.
        if let Err(error) = stream.set_nodelay(true) {
            return debug!("client {from} was gone at once: {error}");
        }
        let connection = Connection::new(stream, from, admitted, self.clock.now());
        if let Err(connection) = self.hall.enter(connection) {
            refuse(connection.stream(), from);
        }
    }

    fn refuse(&mut self, stream: TcpStream, from: SocketAddr) {
        refuse(&stream, from);
    }
}

/// Tells a client that there is no room, without waiting for it.
fn refuse(mut stream: &TcpStream, from: SocketAddr) {
    warn!("client {from} refused: server full");
    let told = stream
        .set_nonblocking(true)
        .and_then(|()| stream.write_all(FULL));
    if told.and_then(|()| stream.shutdown(Shutdown::Write)).is_ok() {
        // What it has sent already is taken, since closing over unread input would reset the
        // connection before it has read its refusal.
        let _ = stream.read(&mut [0; 4_096]);
    }
}

/// Brings peers to the link receivers.
#[derive(Debug)]
pub struct Peers(pub crate::link::receiver::Door);

impl Accept for Peers {
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) {
        self.0.enter(stream, from);
    }

    fn refuse(&mut self, _stream: TcpStream, from: SocketAddr) {
        warn!("peer connection from {from} closed: no descriptor is left for it");
    }
}
