//! The door: one thread that holds all connections to the peer port until their peers are known.
//!
//! A connection proves itself by its first message, which is read before anything else is done for
//! it: when it arrives, when there is more of it, and once more before it gives its slot up to a
//! newcomer. So strangers, however many, cost a socket and a few system calls each: 18 µs, measured.
//! [`slots`] says how many there are at a time, and which of them is closed for a newcomer.
//!
//! Nothing waits here, neither for a peer nor for a disk: sockets are non-blocking, and watched by
//! [`Poller`]. A peer that is identified leaves for a thread of the
//! [`receiver`](super::receiver). The protocol of the handshake is in
//! [`accept`](mod@crate::link::handshake::accept).

mod slots;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::link::framing::{is_timeout, prepare};
use crate::link::handshake::accept::{Acceptor, Claim, PART_BYTES};
use crate::link::handshake::{HandshakeError, Hello, OBSERVER, Peer, failed};
use crate::link::keyring::Keyring;
use crate::link::known::KnownAddresses;
use crate::link::neighbor::{Neighbor, Neighbors};
use crate::link::refusals::{PeerOutcome, RejectedPeers};
use crate::listener::{Accept, Accepted};
use crate::model::time::Timestamp;
use crate::poller::{Poller, Waker};
use crate::replica::Replica;
use crate::thread;
use slots::{Class, Slots};

/// Connections on their way from the listener; past this it waits, and they do in its backlog.
const NEWCOMERS: usize = 16;

/// Returns the number of descriptors that the door takes at most: two are the poller's.
pub(super) fn descriptors(neighbors: usize) -> usize {
    NEWCOMERS + slots::capacity(neighbors) + 2
}

/// Maximum time that a write of an identified peer's connection blocks.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reason for which a connection is closed to make room for a newcomer.
const EVICTED: &str = "all handshake slots are taken, and it waited longest";

/// State that the door shares with others.
#[derive(Debug)]
pub(super) struct Context {
    /// The server's name and epoch.
    pub(super) replica: Arc<Replica>,
    /// The keys.
    pub(super) keys: Arc<Keyring>,
    /// The neighbors.
    pub(super) neighbors: Arc<Neighbors>,
    /// The addresses of the neighbors.
    pub(super) known: KnownAddresses,
    /// The connections that are refused.
    pub(super) rejected: Arc<RejectedPeers>,
}

/// A connection whose peer is identified. Its reads and writes block.
#[derive(Debug)]
pub(super) struct IdentifiedPeer {
    /// The socket.
    pub(super) stream: Arc<TcpStream>,
    /// The peer's address.
    pub(super) from: SocketAddr,
    /// The peer and its ciphers.
    pub(super) peer: Peer,
    /// The neighbor that it is; `None` for an observer.
    pub(super) neighbor: Option<Arc<Neighbor>>,
}

/// A connection to the peer port, as the log names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FromPeer(pub(super) SocketAddr);

impl fmt::Display for FromPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer connection from {}", self.0)
    }
}

/// The door's thread.
#[derive(Debug)]
pub(super) struct Door {
    acceptor: PeerAcceptor,
    thread: JoinHandle<()>,
}

/// The peer listener's way to the door.
#[derive(Clone, Debug)]
pub struct PeerAcceptor {
    newcomers: Sender<(TcpStream, SocketAddr)>,
    waker: Waker,
    rejected: Arc<RejectedPeers>,
}

impl Accept for PeerAcceptor {
    /// Hands a connection to the door.
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) -> Accepted {
        // Fails only if the door has panicked.
        if thread::waiting(|| self.newcomers.send((stream, from))).is_err() {
            let reason = "nothing takes it any more";
            self.rejected
                .refuse(PeerOutcome::Busy, FromPeer(from), reason);
        }
        self.waker.wake();
        Accepted::In
    }

    /// Counts a connection for which there is no descriptor.
    fn refuse(&mut self, _stream: TcpStream, from: SocketAddr) {
        let reason = "no descriptor is left for it";
        self.rejected
            .refuse(PeerOutcome::NoDescriptor, FromPeer(from), reason);
    }
}

impl Door {
    /// Starts the thread. Peers that are identified are given to `admit`, which must not wait; it
    /// returns the reason for which one is refused.
    pub(super) fn start(
        context: Context,
        admit: impl FnMut(IdentifiedPeer) -> Result<(), &'static str> + Send + 'static,
    ) -> io::Result<Door> {
        let poller = Poller::new()?;
        let (sender, newcomers) = bounded(NEWCOMERS);
        let acceptor = PeerAcceptor {
            newcomers: sender,
            waker: poller.waker(),
            rejected: Arc::clone(&context.rejected),
        };
        let door = DoorThread {
            context,
            poller,
            slots: Slots::new(),
            admit,
        };
        let thread = thread::spawn("link-door", move || door.run(&newcomers))?;
        Ok(Door { acceptor, thread })
    }

    /// Returns a way to bring connections.
    pub(super) fn acceptor(&self) -> PeerAcceptor {
        self.acceptor.clone()
    }

    /// Closes all connections, and joins the thread. All others' [`PeerAcceptor`]s must be gone.
    pub(super) fn stop(self) {
        let PeerAcceptor {
            newcomers, waker, ..
        } = self.acceptor;
        drop(newcomers);
        waker.wake();
        let _ = self.thread.join();
    }
}

/// A connection whose peer is not identified yet. Its reads and writes do not block.
#[derive(Debug)]
struct Pending {
    stream: TcpStream,
    from: SocketAddr,
    since: Instant,
    acceptor: Acceptor,
}

/// State of a handshake after a read.
enum Progress {
    /// More has to come.
    Waits,
    /// The peer is identified.
    Claims(Claim),
}

/// State of the door's thread.
struct DoorThread<A> {
    context: Context,
    poller: Poller,
    slots: Slots<Pending>,
    admit: A,
}

impl Pending {
    /// Reads once, without waiting, and sends what that calls for.
    fn read(&mut self, keyring: &Keyring) -> Result<Progress, HandshakeError> {
        let mut part = [0; PART_BYTES];
        let bytes = match self.stream.read(&mut part) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(bytes) => bytes,
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {
                return Ok(Progress::Waits);
            }
            Err(error) => return Err(failed(error)),
        };
        let mut out = Vec::new();
        let claim = self
            .acceptor
            .take(&part[..bytes], &keyring.current(), &mut out);
        if !out.is_empty() {
            // Only now: strangers are not worth the calls.
            prepare(&self.stream, WRITE_TIMEOUT)?;
            self.send(&out)?;
        }
        Ok(claim?.map_or(Progress::Waits, Progress::Claims))
    }

    /// Sends without waiting. There is room for all of a handshake in a new connection's buffer.
    fn send(&mut self, out: &[u8]) -> Result<(), HandshakeError> {
        self.stream.write_all(out).map_err(failed)
    }

    fn deadline(&self) -> Instant {
        self.since + self.acceptor.timeout()
    }
}

impl<A: FnMut(IdentifiedPeer) -> Result<(), &'static str>> DoorThread<A> {
    fn run(mut self, newcomers: &Receiver<(TcpStream, SocketAddr)>) {
        let mut ready = Vec::new();
        loop {
            let timeout = if newcomers.is_empty() {
                let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
                self.slots.deadline().map(until)
            } else {
                Some(Duration::ZERO)
            };
            self.poller.wait(timeout, self.slots.ids(), &mut ready);
            for id in ready.drain(..) {
                self.read(id);
            }
            for _ in 0..NEWCOMERS {
                match newcomers.try_recv() {
                    Ok((stream, from)) => self.enter(stream, from),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            while let Some(id) = self.slots.overdue(now) {
                if let Some(slot) = self.slots.get_mut(id) {
                    let timeout = slot.connection.acceptor.timeout();
                    self.refuse(id, PeerOutcome::Late, HandshakeError::Late(timeout));
                }
            }
        }
    }

    /// Takes a connection in. What has come with it is read first: one that is refused for it
    /// evicts no other.
    fn enter(&mut self, stream: TcpStream, from: SocketAddr) {
        let mut pending = Pending {
            stream,
            from,
            since: Instant::now(),
            acceptor: Acceptor::default(),
        };
        let progress = pending
            .stream
            .set_nonblocking(true)
            .map_err(HandshakeError::from)
            .and_then(|()| pending.read(&self.context.keys));
        match progress {
            Ok(Progress::Waits) => self.hold(pending),
            Ok(Progress::Claims(claim)) => self.judge(pending, claim),
            Err(error) => self.reject(from, &error),
        }
    }

    /// Counts and logs a connection that is closed for that error.
    fn reject(&self, from: SocketAddr, error: &HandshakeError) {
        let outcome = PeerOutcome::from(error);
        self.context.rejected.refuse(outcome, FromPeer(from), error);
    }

    /// Gives a connection a slot, and waits for more from it.
    fn hold(&mut self, pending: Pending) {
        let class = Class {
            is_known: self.context.known.contains(pending.from.ip()),
            is_proved: pending.acceptor.is_proved(),
        };
        self.make_room(pending.from, class);
        match self.poller.add(&pending.stream, self.slots.next_id()) {
            Ok(()) => {
                let (address, deadline) = (pending.from.ip(), pending.deadline());
                self.slots.insert(address, class, deadline, pending);
            }
            Err(error) => {
                let from = FromPeer(pending.from);
                self.context
                    .rejected
                    .refuse(PeerOutcome::Broken, from, error);
            }
        }
    }

    /// Evicts connections until there is a slot of that class.
    fn make_room(&mut self, from: SocketAddr, class: Class) {
        while let Some(id) = self.to_evict(from, class) {
            // Its bytes may not have been looked at yet.
            self.read(id);
            if self.to_evict(from, class) == Some(id) {
                self.refuse(id, PeerOutcome::NoSlot, EVICTED);
            }
        }
    }

    fn to_evict(&self, from: SocketAddr, class: Class) -> Option<u64> {
        let neighbors = self.context.neighbors.len();
        self.slots.to_evict(from.ip(), class, neighbors)
    }

    /// Reads what a connection has sent, and does what that calls for.
    fn read(&mut self, id: u64) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        match slot.connection.read(&self.context.keys) {
            Ok(Progress::Waits) => {
                let is_proved = slot.connection.acceptor.is_proved();
                let class = Class {
                    is_proved,
                    ..slot.class
                };
                if slot.class == class {
                    return;
                }
                let from = slot.connection.from;
                self.make_room(from, class);
                if let Some(slot) = self.slots.get_mut(id) {
                    (slot.class, slot.deadline) = (class, slot.connection.deadline());
                }
            }
            Ok(Progress::Claims(claim)) => {
                if let Some(pending) = self.slots.remove(id) {
                    self.poller.remove(&pending.stream);
                    self.judge(pending, claim);
                }
            }
            Err(error) => self.refuse(id, PeerOutcome::from(&error), error),
        }
    }

    /// Answers a peer that has identified itself, and lets it in if it is a neighbor or an observer.
    fn judge(&mut self, pending: Pending, claim: Claim) {
        let from = pending.from;
        let identified = match self.answer(pending, claim) {
            Ok(identified) => identified,
            Err(error) => return self.reject(from, &error),
        };
        let rejected = &self.context.rejected;
        match (self.admit)(identified) {
            Ok(()) => rejected.accepted(),
            Err(reason) => rejected.refuse(PeerOutcome::Busy, FromPeer(from), reason),
        }
    }

    fn answer(&self, mut pending: Pending, claim: Claim) -> Result<IdentifiedPeer, HandshakeError> {
        let Context {
            replica,
            keys,
            neighbors,
            ..
        } = &self.context;
        let herd = keys.current().herd();
        let own = Hello::new(herd, replica.name(), replica.epoch(), Timestamp::now())
            .forgetting_after(replica.forget_after_in_force());
        let mut neighbor = None;
        let knows = |name: &str| {
            neighbor = neighbors.get(name);
            neighbor.is_some() || name == OBSERVER
        };
        let mut out = Vec::new();
        let peer = claim.judge(&own, knows, &mut out);
        pending.send(&out)?;
        let peer = peer?;
        pending.stream.set_nonblocking(false)?;
        Ok(IdentifiedPeer {
            stream: Arc::new(pending.stream),
            from: pending.from,
            peer,
            neighbor,
        })
    }

    /// Closes a connection, and counts and logs it.
    fn refuse(&mut self, id: u64, outcome: PeerOutcome, reason: impl fmt::Display) {
        if let Some(pending) = self.slots.remove(id) {
            let from = FromPeer(pending.from);
            drop(pending);
            self.context.rejected.refuse(outcome, from, reason);
        }
    }
}
