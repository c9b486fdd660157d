//! The threads that take connections to the peer port, and their sockets.
//!
//! There is one thread for each neighbor and one for each handshake slot: strangers can fill the
//! slots for two seconds, but never take a neighbor's place. A neighbor that connects again replaces
//! its old connection, once it has proved that it is there: a replay of a neighbor's data gets no
//! further than the handshake, and the neighbor's connection goes on.
//!
//! The protocol of a connection is in [`connection`]; [`registry`] holds the open connections.

pub(super) mod connection;
pub(super) mod registry;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver as Incoming, Sender as Hand, bounded};
use log::{debug, info};
use parking_lot::Mutex;

use crate::link::audit::PeerDigests;
use crate::link::framing::{Reader, Transport, Writer, is_timeout, prepare, reset_at_close};
use crate::link::handshake::{self, HANDSHAKE_TIMEOUT, HandshakeError, Hello};
use crate::link::keyring::Keyring;
use crate::link::neighbor::Neighbors;
use crate::link::refusals::RejectedPeers;
use crate::link::status::{self, OBSERVER, StatusSource};
use crate::listener::{Accept, Accepted};
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::thread;
use connection::{Connection, End};
use registry::Registry;

/// Maximum wait of a read before the neighbor's silence and a due `PONG` are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum number of handshakes at once; past this a connection is closed unread.
const HANDSHAKE_SLOTS: usize = 16;

/// State that the receiver threads share.
#[derive(Debug)]
struct Shared {
    replica: Arc<Replica>,
    keys: Arc<Keyring>,
    neighbors: Arc<Neighbors>,
    peer_digests: PeerDigests,
    status: StatusSource,
    rejected: Arc<RejectedPeers>,
    open: Mutex<Registry<TcpStream>>,
}

/// The receiver threads.
#[derive(Debug)]
pub(super) struct Receivers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    hand: Hand<(TcpStream, SocketAddr)>,
    incoming: Incoming<(TcpStream, SocketAddr)>,
}

/// The peer listener's way to the receiver threads.
#[derive(Clone, Debug)]
pub struct PeerAcceptor {
    hand: Hand<(TcpStream, SocketAddr)>,
    rejected: Arc<RejectedPeers>,
}

impl Accept for PeerAcceptor {
    /// Hands a connection to a free thread; closes it if there is none.
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) -> Accepted {
        if self.hand.try_send((stream, from)).is_err() {
            self.rejected
                .add(from_peer(from), "all handshake slots are taken");
        }
        Accepted::In
    }

    /// Counts a connection for which there is no descriptor.
    fn refuse(&mut self, _stream: TcpStream, from: SocketAddr) {
        let reason = "no descriptor is left for it";
        self.rejected.add(from_peer(from), reason);
    }
}

impl Receivers {
    /// Starts the threads for handshakes and for the neighbors of now.
    pub(super) fn start(
        replica: Arc<Replica>,
        keys: Arc<Keyring>,
        neighbors: Arc<Neighbors>,
        peer_digests: PeerDigests,
        status: StatusSource,
        rejected: Arc<RejectedPeers>,
    ) -> io::Result<Receivers> {
        let shared = Arc::new(Shared {
            replica,
            keys,
            neighbors,
            peer_digests,
            status,
            rejected,
            open: Mutex::default(),
        });
        let (hand, incoming) = bounded(0);
        let mut receivers = Receivers {
            shared,
            threads: Vec::with_capacity(HANDSHAKE_SLOTS),
            hand,
            incoming,
        };
        match receivers.make_threads(0) {
            Ok(()) => Ok(receivers),
            Err(error) => {
                receivers.stop();
                Err(error)
            }
        }
    }

    /// Makes the threads that are missing for that number of neighbors. Threads of neighbors that
    /// were removed serve new ones.
    pub(super) fn make_threads(&mut self, neighbors: usize) -> io::Result<()> {
        for index in self.threads.len()..HANDSHAKE_SLOTS + neighbors {
            let (shared, incoming) = (Arc::clone(&self.shared), self.incoming.clone());
            let run = move || shared.run(&incoming);
            let thread = thread::spawn(format!("link-receiver-{index}"), run)?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Wakes the thread of a neighbor's connection, to end it if the neighbor was dismissed.
    pub(super) fn wake(&self, name: &str) {
        self.shared.open.lock().wake(name);
    }

    /// Returns a way to bring connections.
    pub(super) fn acceptor(&self) -> PeerAcceptor {
        PeerAcceptor {
            hand: self.hand.clone(),
            rejected: Arc::clone(&self.shared.rejected),
        }
    }

    /// Shuts every connection and joins the threads. The listener's [`PeerAcceptor`] must be gone.
    pub(super) fn stop(self) {
        self.shared.open.lock().stop();
        drop((self.hand, self.incoming));
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// Names a connection to the peer port, for the log.
fn from_peer(from: SocketAddr) -> String {
    format!("peer connection from {from}")
}

/// The sending half of a connection.
struct Outgoing<'a> {
    stream: &'a TcpStream,
    writer: Writer,
}

impl Transport for Outgoing<'_> {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.writer.write(self.stream, lines)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Shared {
    fn run(&self, incoming: &Incoming<(TcpStream, SocketAddr)>) {
        for (stream, from) in incoming {
            // An error if no descriptor is left.
            let handle = match stream.try_clone() {
                Ok(handle) => handle,
                Err(error) => {
                    self.rejected.add(from_peer(from), error);
                    continue;
                }
            };
            let Some(connection) = self.open.lock().add(handle) else {
                continue;
            };
            if let Err(error) = self.serve(connection, &stream, from) {
                self.rejected.add(from_peer(from), error);
            }
            self.open.lock().remove(connection);
        }
    }

    fn serve(
        &self,
        connection: u64,
        stream: &TcpStream,
        from: SocketAddr,
    ) -> Result<(), HandshakeError> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        prepare(stream, HANDSHAKE_TIMEOUT)?;
        let keys = self.keys.current();
        let (name, epoch) = (self.replica.name(), self.replica.epoch());
        let own = || Hello::new(keys.herd(), name, epoch, Timestamp::now());
        let mut neighbor = None;
        let knows = |name: &str| {
            neighbor = self.neighbors.get(name);
            neighbor.is_some() || name == OBSERVER
        };
        let peer = handshake::accept(stream, &keys, own, knows, deadline)?;
        let Some(neighbor) = neighbor else {
            debug!("{from} asks for the status");
            let key = self.keys.digest_key();
            return status::answer(peer, stream, &self.status, &key, deadline);
        };
        let name = &*peer.hello.name;
        self.open.lock().replace(connection, name);
        neighbor.wake_sender();
        info!("neighbor {name} connected from {from}");
        stream.set_read_timeout(Some(WATCH_INTERVAL))?;
        let mut to = Outgoing {
            stream,
            writer: peer.writer,
        };
        let end = Connection::start(
            neighbor,
            Arc::clone(&self.replica),
            self.peer_digests.clone(),
            &mut to,
        )
        .and_then(|connection| receive(connection, peer.reader, &mut to));
        let end = end.unwrap_or_else(|end| end);
        info!("neighbor {name} gone: {}", end.reason());
        if matches!(end, End::Silent(_)) {
            reset_at_close(stream);
        }
        match end {
            End::Silent(error) | End::Failed(error)
                if error.kind() == io::ErrorKind::InvalidData =>
            {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }
}

/// Runs a neighbor's connection to its end.
fn receive(
    mut connection: Connection,
    mut reader: Reader,
    to: &mut Outgoing<'_>,
) -> Result<End, End> {
    loop {
        connection.tick(to)?;
        let block = reader.take_block().map_err(End::Failed)?;
        if block.is_empty() {
            match reader.fill(to.stream) {
                Ok(filled) => connection.note(filled, Instant::now())?,
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        } else {
            connection.apply(block, to)?;
        }
    }
}
