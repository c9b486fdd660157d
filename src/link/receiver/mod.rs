//! The threads that serve the peers which the [`door`](super::door) has let in, and their sockets.
//!
//! There are two threads for each neighbor: one for its connection, and one for the connection that
//! replaces it while the older one has yet to end, since that may take as long as the disk does. No
//! neighbor takes a thread from another. A neighbor that connects again replaces its old
//! connection once it has proved that it is there: a replay of a neighbor's data gets no further
//! than the door, and the neighbor's connection goes on. Observers have threads of their own.
//!
//! The protocol of a connection is in [`connection`]; [`registry`] holds the open connections.

pub(super) mod connection;
pub(super) mod pulse;
pub(super) mod registry;

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver as Incoming, Sender as Hand, bounded};
use log::{debug, info};
use parking_lot::Mutex;

use crate::link::audit::PeerDigests;
use crate::link::catch_up::CatchUp;
use crate::link::door::{Context, Door, FromPeer, IdentifiedPeer, PeerAcceptor};
use crate::link::framing::{Reader, Transport, Writer, is_timeout, reset_at_close};
use crate::link::handshake::HandshakeError;
use crate::link::keyring::Keyring;
use crate::link::known::KnownAddresses;
use crate::link::neighbor::{Neighbor, Neighbors, TwinEvidence};
use crate::link::refusals::RejectedPeers;
use crate::link::status::{self, StatusSource};
use crate::link::traffic::Counted;
use crate::metrics::Histogram;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::thread;
use connection::{Connection, End, Received};
use pulse::{BackChannel, KeptAlive, Pulse};
use registry::Registry;

/// Maximum wait of a read before the neighbor's silence and a due `PONG` are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Connections of one neighbor that are served at a time: the one that counts, and an older one
/// that has yet to end. Past this a connection is closed, and the neighbor dials again.
pub(super) const CONNECTIONS_PER_NEIGHBOR: usize = 2;

/// Threads that answer observers. An observer that is slow holds one until its time is over.
const OBSERVER_THREADS: usize = 4;

/// Maximum time of an answer to an observer, from its identification.
const OBSERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Observers that wait for one of those threads; past this a connection is closed.
const WAITING_OBSERVERS: usize = 16;

/// Observers that are connected at a time.
pub(super) const OBSERVERS: usize = OBSERVER_THREADS + WAITING_OBSERVERS;

/// State that the receiver threads share.
#[derive(Debug)]
struct Shared {
    replica: Arc<Replica>,
    keys: Arc<Keyring>,
    peer_digests: PeerDigests,
    status: StatusSource,
    rejected: Arc<RejectedPeers>,
    catch_up: Arc<CatchUp>,
    /// Delays of adopted records.
    delays: Arc<Histogram>,
    open: Mutex<Registry<Arc<TcpStream>, Arc<BackChannel<Outgoing>>>>,
    kept_alive: KeptAlive<Outgoing>,
    free_threads: Mutex<FreeThreads>,
}

/// The threads for neighbors that are free, and the neighbors that have one.
#[derive(Debug, Default)]
struct FreeThreads {
    free: usize,
    by_neighbor: HashMap<String, usize>,
}

impl FreeThreads {
    /// Takes a thread for a connection of that neighbor. Returns whether it may have one.
    fn take(&mut self, neighbor: &str) -> bool {
        let taken = self.by_neighbor.get(neighbor).copied().unwrap_or_default();
        if self.free == 0 || taken >= CONNECTIONS_PER_NEIGHBOR {
            return false;
        }
        self.free -= 1;
        self.by_neighbor.insert(neighbor.to_owned(), taken + 1);
        true
    }

    /// Notes that a connection of that neighbor has ended.
    fn release(&mut self, neighbor: &str) {
        self.free += 1;
        match self.by_neighbor.get_mut(neighbor) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => {
                self.by_neighbor.remove(neighbor);
            }
        }
    }
}

/// The door and the receiver threads.
#[derive(Debug)]
pub(super) struct Receivers {
    shared: Arc<Shared>,
    pulse: Pulse,
    door: Door,
    /// Threads for neighbors.
    threads: Vec<JoinHandle<()>>,
    observers: Vec<JoinHandle<()>>,
    incoming: Incoming<IdentifiedPeer>,
}

impl Receivers {
    /// Starts the door, and the threads for observers.
    pub(super) fn start(
        replica: Arc<Replica>,
        keys: Arc<Keyring>,
        neighbors: Arc<Neighbors>,
        known: KnownAddresses,
        peer_digests: PeerDigests,
        status: StatusSource,
        (catch_up, delays): (Arc<CatchUp>, Arc<Histogram>),
    ) -> io::Result<Receivers> {
        let rejected = Arc::clone(&status.rejected);
        let kept_alive = KeptAlive::new();
        let pulse = Pulse::start(kept_alive.clone())?;
        let shared = Arc::new(Shared {
            replica: Arc::clone(&replica),
            keys: Arc::clone(&keys),
            peer_digests,
            status,
            rejected: Arc::clone(&rejected),
            catch_up,
            delays,
            open: Mutex::default(),
            free_threads: Mutex::default(),
            kept_alive,
        });
        let (hand, incoming) = bounded(0);
        let (observe, observers) = bounded(WAITING_OBSERVERS);
        let context = Context {
            replica,
            keys,
            neighbors,
            known,
            rejected,
        };
        let mut receivers = Receivers {
            door: Door::start(context, admit(&shared, hand, observe))?,
            shared,
            pulse,
            threads: Vec::new(),
            observers: Vec::with_capacity(OBSERVER_THREADS),
            incoming,
        };
        match receivers.start_observers(&observers) {
            Ok(()) => Ok(receivers),
            Err(error) => {
                receivers.stop();
                Err(error)
            }
        }
    }

    fn start_observers(
        &mut self,
        observers: &Incoming<(IdentifiedPeer, Instant)>,
    ) -> io::Result<()> {
        for index in 0..OBSERVER_THREADS {
            let (shared, observers) = (Arc::clone(&self.shared), observers.clone());
            let run = move || {
                while let Ok((identified, deadline)) = thread::waiting(|| observers.recv()) {
                    shared.serve(identified, |_, identified| {
                        shared.answer(identified, deadline)
                    });
                }
            };
            let thread = thread::spawn(format!("link-observer-{index}"), run)?;
            self.observers.push(thread);
        }
        Ok(())
    }

    /// Makes the threads that are missing for that number of neighbors. Threads of neighbors that
    /// were removed serve new ones.
    pub(super) fn make_threads(&mut self, neighbors: usize) -> io::Result<()> {
        for index in self.threads.len()..CONNECTIONS_PER_NEIGHBOR * neighbors {
            let (shared, incoming) = (Arc::clone(&self.shared), self.incoming.clone());
            let run = move || {
                while let Ok(identified) = thread::waiting(|| incoming.recv()) {
                    let name = identified.peer.hello.name.clone();
                    shared.serve(identified, |connection, identified| {
                        shared.serve_neighbor(connection, identified)
                    });
                    shared.free_threads.lock().release(&name);
                }
            };
            let thread = thread::spawn(format!("link-receiver-{index}"), run)?;
            self.threads.push(thread);
            self.shared.free_threads.lock().free += 1;
        }
        Ok(())
    }

    /// Wakes the thread of a neighbor's connection, to end it if the neighbor was dismissed.
    pub(super) fn wake(&self, name: &str) {
        self.shared.open.lock().wake(name);
    }

    /// Returns a way to bring connections.
    pub(super) fn acceptor(&self) -> PeerAcceptor {
        self.door.acceptor()
    }

    /// Shuts every connection and joins the threads. The listener's [`PeerAcceptor`] must be gone.
    pub(super) fn stop(self) {
        self.shared.open.lock().stop();
        drop(self.incoming);
        // The others end when the door no longer gives them anything.
        self.door.stop();
        for thread in self.threads.into_iter().chain(self.observers) {
            let _ = thread.join();
        }
        self.pulse.stop();
    }
}

/// Returns the way from the door to the threads, which says why a peer is refused.
fn admit(
    shared: &Arc<Shared>,
    hand: Hand<IdentifiedPeer>,
    observe: Hand<(IdentifiedPeer, Instant)>,
) -> impl FnMut(IdentifiedPeer) -> Result<(), &'static str> + Send + use<> {
    let shared = Arc::clone(shared);
    move |identified| {
        if identified.neighbor.is_none() {
            debug!("{} asks for the status", identified.from);
            let deadline = Instant::now() + OBSERVER_TIMEOUT;
            let sent = observe.try_send((identified, deadline));
            return sent.map_err(|_| "too many status requests at once");
        }
        if !shared.free_threads.lock().take(&identified.peer.hello.name) {
            return Err("its earlier connections have yet to end");
        }
        // A free thread is at the channel, or on its way there.
        thread::waiting(|| {
            hand.send(identified)
                .map_err(|_| "no thread is left for it")
        })
    }
}

/// The sending half of a connection.
#[derive(Debug)]
struct Outgoing {
    neighbor: Arc<Neighbor>,
    stream: Arc<TcpStream>,
    writer: Writer,
}

impl Transport for Outgoing {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let to = Counted {
            stream: &*self.stream,
            traffic: self.neighbor.traffic(),
        };
        self.writer.write(to, lines)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn clock(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl Shared {
    /// Runs a connection in view of [`Receivers::stop`], and counts and logs what it is closed for.
    fn serve(
        &self,
        identified: IdentifiedPeer,
        run: impl FnOnce(u64, IdentifiedPeer) -> Result<(), HandshakeError>,
    ) {
        let from = FromPeer(identified.from);
        let Some(connection) = self.open.lock().add(Arc::clone(&identified.stream)) else {
            return;
        };
        if let Err(error) = run(connection, identified) {
            self.rejected.add(from, error);
        }
        self.open.lock().remove(connection);
    }

    /// Answers an observer.
    fn answer(&self, identified: IdentifiedPeer, deadline: Instant) -> Result<(), HandshakeError> {
        let key = self.keys.digest_key();
        status::answer(
            identified.peer,
            &identified.stream,
            &self.status,
            &key,
            deadline,
        )
    }

    /// Serves a neighbor until its connection ends.
    fn serve_neighbor(
        &self,
        connection: u64,
        identified: IdentifiedPeer,
    ) -> Result<(), HandshakeError> {
        let IdentifiedPeer {
            stream,
            from,
            peer,
            neighbor,
        } = identified;
        let Some(neighbor) = neighbor else {
            return Err(HandshakeError::NotANeighbor(peer.hello.name));
        };
        let name = &*peer.hello.name;
        let epoch = peer.hello.epoch;
        let outgoing = Outgoing {
            neighbor: Arc::clone(&neighbor),
            stream: Arc::clone(&stream),
            writer: peer.writer,
        };
        let back = Arc::new(BackChannel::new(outgoing, peer.version));
        let start = (epoch, Some(from.ip().to_canonical()));
        let dialed_at = |epoch| neighbor.dialed_at(epoch);
        let replaced =
            self.open
                .lock()
                .replace(connection, name, start, dialed_at, Arc::clone(&back));
        if let Err(twins) = replaced {
            neighbor.report_twin(Instant::now(), TwinEvidence::Refused, &twins.text);
            // Either may be gone already.
            let _ = back.write(format!("BYE {}\n", twins.text).as_bytes());
            let _ = twins.connected.report_twin(&twins.text);
            return Err(HandshakeError::Twins(twins.text));
        }
        neighbor.wake_sender();
        // The handshake has compared both clocks: what comes now is judged by this one.
        self.replica.trust_clock(Timestamp::now());
        info!("neighbor {name} connected from {from}");
        self.catch_up.connected(connection, name, Instant::now());
        stream.set_read_timeout(Some(WATCH_INTERVAL))?;
        let end = self
            .kept_alive
            .add(&back)
            .map_err(End::from)
            .and_then(|()| {
                neighbor.speaks(peer.version, peer.hello.forget_after);
                Connection::start(
                    Arc::clone(&neighbor),
                    (epoch, peer.hello.forget_after),
                    Arc::clone(&self.replica),
                    (self.peer_digests.clone(), Arc::clone(&self.delays)),
                    back,
                    Instant::now,
                )
            });
        let progress = |received| {
            let now = Instant::now();
            self.catch_up.received(connection, received, now);
        };
        let counted = || Counted {
            stream: &*stream,
            traffic: neighbor.traffic(),
        };
        let end = end.and_then(|served| receive(served, peer.reader, counted, progress));
        let end = end.unwrap_or_else(|end| end);
        self.catch_up.gone(connection, Instant::now());
        info!("neighbor {name} gone: {}", end.reason());
        if matches!(end, End::Silent(_)) {
            reset_at_close(&stream);
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

/// Runs a neighbor's connection to its end, and shows its progress after each block.
fn receive<'a>(
    mut connection: Connection<Outgoing>,
    mut reader: Reader,
    stream: impl Fn() -> Counted<'a, &'a TcpStream>,
    progress: impl Fn(Received),
) -> Result<End, End> {
    loop {
        connection.tick(Instant::now())?;
        let block = reader.take_block().map_err(End::Failed)?;
        if block.is_empty() {
            match reader.fill(stream()) {
                Ok(filled) => connection.note(filled, Instant::now())?,
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        } else {
            connection.apply(block, Instant::now(), Timestamp::now())?;
            connection.applied(Instant::now(), Timestamp::now());
            progress(connection.received());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_neighbor_takes_the_threads_of_another() {
        let mut free_threads = FreeThreads::default();
        assert!(!free_threads.take("Ball"));
        free_threads.free = 4;
        assert!(free_threads.take("Ball") && free_threads.take("Ball"));
        assert!(!free_threads.take("Ball"), "a third");
        assert!(free_threads.take("Welsh"));
        free_threads.release("Ball");
        assert!(free_threads.take("Ball"));
        assert!(free_threads.take("Alford"));
        // A neighbor that was removed may have yet to release.
        assert!(!free_threads.take("Holiday"));
        for name in ["Ball", "Ball", "Welsh", "Alford"] {
            free_threads.release(name);
        }
        assert_eq!((free_threads.free, free_threads.by_neighbor.len()), (4, 0));
    }
}
