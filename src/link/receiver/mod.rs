//! Takes what neighbors flood.
//!
//! A set of threads, one for each neighbor and one for each handshake slot: strangers can
//! fill the slots for two seconds, but never take a neighbor's place. A neighbor that connects
//! again replaces its old connection, once it has proved that it is there: whoever replays what a
//! neighbor has sent gets no further than the handshake, and the neighbor's connection goes on.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver as Incoming, Sender as Hand, bounded};
use log::{Level, debug, info, log_enabled};
use parking_lot::{Mutex, RwLock};

use crate::link::audit::{Comparison, PeerDigest, PeerDigests};
use crate::link::framing::{Filled, Reader, Writer, is_timeout, prepare, reset_at_close};
use crate::link::handshake::{self, HANDSHAKE_TIMEOUT, HandshakeError, Hello};
use crate::link::keyring::Keyring;
use crate::link::liveness::Liveness;
use crate::link::neighbor::Monitor;
use crate::link::refusals::RejectedPeers;
use crate::link::sender::{Sender, SenderHandle};
use crate::link::status::{self, OBSERVER, ServerStatus};
use crate::link::{DISMISSED, PONG_INTERVAL};
use crate::listener::{Accept, Accepted};
use crate::model::digest::DigestReader;
use crate::model::printable::Printable;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::Replica;
use crate::replica::outbox::LinkId;

/// How long a read waits before it is looked at whether the neighbor has been silent for too long,
/// or a `PONG` is due.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Connections that may be shaking hands at once; past this they are closed unheard.
const HANDSHAKE_SLOTS: usize = 16;

/// A neighbor, as receivers know it.
#[derive(Debug)]
pub struct Known {
    /// Its place in the flood: what comes from it does not go back to it.
    link: LinkId,
    /// The thread that dials it.
    sender: SenderHandle,
    /// How that fares.
    monitor: Arc<Monitor>,
    /// When its records were last compared with this server's, and what that showed.
    comparison: Mutex<Option<Comparison>>,
    /// It is a neighbor no longer.
    dismissed: AtomicBool,
}

impl Known {
    /// A neighbor of that place in the flood, whom that sender feeds.
    pub fn new(link: LinkId, sender: &Sender) -> Known {
        Known {
            link,
            sender: sender.handle(),
            monitor: sender.monitor(),
            comparison: Mutex::default(),
            dismissed: AtomicBool::new(false),
        }
    }

    pub(super) fn sender(&self) -> &SenderHandle {
        &self.sender
    }

    pub(super) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    pub(super) fn comparison(&self) -> &Mutex<Option<Comparison>> {
        &self.comparison
    }

    fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Acquire)
    }
}

/// What the receiver threads share.
#[derive(Debug)]
struct Shared {
    replica: Arc<Replica>,
    keys: Arc<Keyring>,
    claims: PeerDigests,
    /// Clients that are connected.
    clients: Arc<AtomicUsize>,
    started: Instant,
    neighbors: RwLock<HashMap<String, Arc<Known>>>,
    refusals: Arc<RejectedPeers>,
    /// The connections being served, each with its number; by the neighbor's name once that is
    /// known, else by number.
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    stopping: bool,
    connections: u64,
    streams: HashMap<u64, TcpStream>,
    by_neighbor: HashMap<String, u64>,
}

/// The receiver threads.
#[derive(Debug)]
pub struct Receivers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    hand: Hand<(TcpStream, SocketAddr)>,
    incoming: Incoming<(TcpStream, SocketAddr)>,
}

/// Where the peer listener brings its connections.
#[derive(Clone, Debug)]
pub struct PeerAcceptor {
    hand: Hand<(TcpStream, SocketAddr)>,
    refusals: Arc<RejectedPeers>,
}

impl Accept for PeerAcceptor {
    /// Hands a connection to a free thread; where there is none it is closed.
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) -> Accepted {
        if self.hand.try_send((stream, from)).is_err() {
            self.refusals
                .add(from_peer(from), "all handshake slots are taken");
        }
        Accepted::In
    }

    /// Counts a connection that there is no descriptor for.
    fn refuse(&mut self, _stream: TcpStream, from: SocketAddr) {
        let reason = "no descriptor is left for it";
        self.refusals.add(from_peer(from), reason);
    }
}

impl Receivers {
    /// Makes the threads for the handshakes; there is no neighbor yet. `clients` is how many
    /// clients are connected, for observers.
    pub fn start(
        replica: Arc<Replica>,
        keys: Arc<Keyring>,
        claims: PeerDigests,
        clients: Arc<AtomicUsize>,
        refusals: Arc<RejectedPeers>,
    ) -> io::Result<Receivers> {
        let shared = Arc::new(Shared {
            replica,
            keys,
            claims,
            clients,
            started: Instant::now(),
            neighbors: RwLock::default(),
            refusals,
            open: Mutex::default(),
        });
        let (hand, incoming) = bounded(0);
        let mut receivers = Receivers {
            shared,
            threads: Vec::with_capacity(HANDSHAKE_SLOTS),
            hand,
            incoming,
        };
        match receivers.make_threads(HANDSHAKE_SLOTS) {
            Ok(()) => Ok(receivers),
            Err(error) => {
                receivers.stop();
                Err(error)
            }
        }
    }

    fn make_threads(&mut self, count: usize) -> io::Result<()> {
        for index in self.threads.len()..count {
            let (shared, incoming) = (Arc::clone(&self.shared), self.incoming.clone());
            let thread = std::thread::Builder::new()
                .name(format!("link-receiver-{index}"))
                .stack_size(crate::thread::STACK_BYTES)
                .spawn(move || shared.work(&incoming))?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Lets a neighbor in from now on, with a thread of its own: what a neighbor that is gone
    /// has left, or a new one.
    pub fn admit(&mut self, name: &str, known: Known) -> io::Result<()> {
        let neighbors = self.shared.neighbors.read().len() + 1;
        self.make_threads(HANDSHAKE_SLOTS + neighbors)?;
        let mut known_now = self.shared.neighbors.write();
        known_now.insert(name.to_owned(), Arc::new(known));
        Ok(())
    }

    /// Lets a neighbor in no longer, and ends its connection with the reason.
    pub fn dismiss(&self, name: &str) {
        if let Some(known) = self.shared.neighbors.write().remove(name) {
            known.dismissed.store(true, Ordering::Release);
            self.shared.open.lock().wake(name);
        }
    }

    /// Where connections are brought.
    pub fn door(&self) -> PeerAcceptor {
        PeerAcceptor {
            hand: self.hand.clone(),
            refusals: Arc::clone(&self.shared.refusals),
        }
    }

    /// Shuts every connection and joins the threads. The listener's [`PeerAcceptor`] must be gone.
    pub fn stop(self) {
        {
            let mut open = self.shared.open.lock();
            open.stopping = true;
            for stream in open.streams.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        drop((self.hand, self.incoming));
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// A connection to the peer port, for the log.
fn from_peer(from: SocketAddr) -> String {
    format!("peer connection from {from}")
}

impl Shared {
    fn work(&self, incoming: &Incoming<(TcpStream, SocketAddr)>) {
        for (stream, from) in incoming {
            let connection = match self.register(&stream) {
                Ok(Some(connection)) => connection,
                Ok(None) => continue,
                Err(error) => {
                    self.refusals.add(from_peer(from), error);
                    continue;
                }
            };
            if let Err(error) = self.serve(connection, &stream, from) {
                self.refusals.add(from_peer(from), error);
            }
            self.open.lock().remove(connection);
        }
    }

    /// Notes an open socket, so that stopping can shut it; `None` if it is too late for that. An
    /// error if no descriptor is left.
    fn register(&self, stream: &TcpStream) -> io::Result<Option<u64>> {
        let handle = stream.try_clone()?;
        let mut open = self.open.lock();
        if open.stopping {
            return Ok(None);
        }
        open.connections += 1;
        let connection = open.connections;
        open.streams.insert(connection, handle);
        Ok(Some(connection))
    }

    /// All that is known of this server but its digest.
    fn status(&self) -> ServerStatus {
        let status = |(name, known): (&String, &Arc<Known>)| (name.clone(), known.monitor.status());
        let mut links: Vec<_> = self.neighbors.read().iter().map(status).collect();
        links.sort_by(|(one, _), (other, _)| one.cmp(other));
        ServerStatus {
            records: self.replica.len() as u64,
            epoch: self.replica.epoch(),
            uptime: self.started.elapsed(),
            clients: self.clients.load(Ordering::Relaxed) as u64,
            refused: self.refusals.count(),
            links,
            digest: None,
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
        let mut known = None;
        let knows = |name: &str| {
            known = self.neighbors.read().get(name).cloned();
            known.is_some() || name == OBSERVER
        };
        let peer = handshake::accept(stream, &keys, own, knows, deadline)?;
        let name = &*peer.hello.name;
        let Some(known) = known else {
            debug!("{from} asks for the status");
            let (key, status) = (self.keys.digest_key(), self.status());
            return status::answer(peer, stream, &self.replica, &key, &status, deadline);
        };
        self.open.lock().replace(connection, name);
        known.sender.wake();
        info!("neighbor {name} connected from {from}");
        stream.set_read_timeout(Some(WATCH_INTERVAL))?;
        let neighbor = Neighbor {
            name,
            known: &known,
            link: known.link,
            replica: &self.replica,
            stream,
            writer: peer.writer,
            claims: &self.claims,
            marker: Vector::default(),
            digest: DigestReader::default(),
            records: 0,
        };
        let (reason, error) = match neighbor.receive(peer.reader) {
            Ok(reason) => (reason, None),
            Err(error) => (error.to_string(), Some(error)),
        };
        info!("neighbor {name} gone: {reason}");
        match error {
            Some(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Open {
    /// Makes this the neighbor's connection; an older one is shut.
    fn replace(&mut self, connection: u64, name: &str) {
        if let Some(old) = self.by_neighbor.insert(name.to_owned(), connection)
            && let Some(stream) = self.streams.get(&old)
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets the thread of a neighbor's connection see at once that it is dismissed; it can still
    /// write.
    fn wake(&self, name: &str) {
        let connection = self.by_neighbor.get(name);
        if let Some(stream) = connection.and_then(|number| self.streams.get(number)) {
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    fn remove(&mut self, connection: u64) {
        self.streams.remove(&connection);
        self.by_neighbor
            .retain(|_, &mut current| current != connection);
    }
}

/// A neighbor while it is connected.
struct Neighbor<'a> {
    name: &'a str,
    known: &'a Arc<Known>,
    claims: &'a PeerDigests,
    link: LinkId,
    replica: &'a Replica,
    stream: &'a TcpStream,
    writer: Writer,
    /// The lines of a marker that have come so far.
    marker: Vector,
    /// The same of a digest.
    digest: DigestReader,
    /// Records received over this connection.
    records: u64,
}

/// The lines of a block, each of which ends with an LF.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', block).map(move |end| {
        let line = &block[start..end];
        start = end + 1;
        line
    })
}

impl Neighbor<'_> {
    /// Says what this server holds, and applies what comes until the connection ends; says why
    /// it did.
    fn receive(mut self, mut reader: Reader) -> io::Result<String> {
        self.send_vector()?;
        let mut silence = Liveness::begin(Instant::now());
        let mut pong_due = Instant::now();
        loop {
            if self.known.is_dismissed() {
                let bye = format!("BYE {DISMISSED}\n");
                self.writer.write(self.stream, bye.as_bytes())?;
                return Ok("a neighbor no longer".to_owned());
            }
            let now = Instant::now();
            if now >= pong_due {
                let pong = format!("PONG {}\n", self.records);
                self.writer.write(self.stream, pong.as_bytes())?;
                pong_due = now + PONG_INTERVAL;
            }
            if now >= silence.deadline() {
                reset_at_close(self.stream);
                return Err(silence.reason(now));
            }
            let block = reader.take_block()?;
            if block.is_empty() {
                match reader.fill(self.stream) {
                    // Only what has been decrypted is by the neighbor.
                    Ok(Filled::Frames) => silence.heard(Instant::now()),
                    Ok(Filled::Part) => silence.part(Instant::now()),
                    Ok(Filled::End) if self.known.is_dismissed() => {}
                    Ok(Filled::End) => return Ok("closed by the neighbor".to_owned()),
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            if let Some(reason) = self.apply(block)? {
                return Ok(reason);
            }
        }
    }

    /// Applies one block of lines: records in a row are one group. A reason, if it ends the
    /// connection.
    fn apply(&mut self, block: &[u8]) -> io::Result<Option<String>> {
        // Room for as many as there mostly are: growing would copy them again and again.
        let mut records: Vec<RecordView<'_>> = Vec::with_capacity(1 + block.len() / 96);
        for line in lines(block) {
            if line.starts_with(b"RECORD") {
                if log_enabled!(Level::Info) {
                    info!("received from neighbor {}: {}", self.name, Printable(line));
                }
                let Some(record) = RecordView::parse_line(line) else {
                    return Err(self.broken(line));
                };
                records.push(record);
                continue;
            }
            self.adopt(&mut records);
            if line.starts_with(b"MARKER") {
                match self.marker.read_line("MARKER", line) {
                    Some(true) => self.replica.advance(&std::mem::take(&mut self.marker)),
                    Some(false) => {}
                    None => return Err(self.broken(line)),
                }
            } else if line.starts_with(b"DIGEST") {
                self.take_digest(line)?;
            } else if line == b"RESYNC" {
                self.send_vector()?;
            } else if let Some(reason) = line.strip_prefix(b"BYE ") {
                return Ok(Some(Printable(reason).to_string()));
            } else {
                return Err(self.broken(line));
            }
        }
        self.adopt(&mut records);
        Ok(None)
    }

    /// Takes a line of what the neighbor says that it holds; the last one has it compared.
    fn take_digest(&mut self, line: &[u8]) -> io::Result<()> {
        let whole = self.digest.read_line(line);
        if let Some(digest) = whole.map_err(|_| self.broken(line))? {
            self.claims.bring(PeerDigest {
                name: self.name.to_owned(),
                known: Arc::clone(self.known),
                digest,
            });
        }
        Ok(())
    }

    fn send_vector(&mut self) -> io::Result<()> {
        let mut vector = Vec::new();
        self.replica.vector().write_lines("VECTOR", &mut vector);
        self.writer.write(self.stream, &vector)
    }

    fn adopt(&mut self, records: &mut Vec<RecordView<'_>>) {
        if !records.is_empty() {
            self.records += records.len() as u64;
            let adopted = self.replica.adopt(records, self.link);
            debug!(
                "{adopted} of {} records from {} were new",
                records.len(),
                self.name
            );
            records.clear();
        }
    }

    fn broken(&self, line: &[u8]) -> io::Error {
        let shown = &line[..line.len().min(200)];
        let what = format!("it sent what makes no sense: {}", Printable(shown));
        io::Error::new(io::ErrorKind::InvalidData, what)
    }
}
