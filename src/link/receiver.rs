//! Takes what neighbors flood.
//!
//! A fixed set of threads, one for each neighbor and one for each handshake slot: strangers can
//! fill the slots for two seconds, but never take a neighbor's place. A neighbor that connects
//! again replaces its old connection.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver as Incoming, Sender, bounded};
use log::{Level, debug, info, log_enabled, warn};
use parking_lot::Mutex;

use super::handshake::{self, HANDSHAKE_TIMEOUT, Hello};
use super::sender::Waker;
use super::wire::{Lines, is_timeout, prepare};
use super::{PONG_INTERVAL, SILENCE_LIMIT};
use crate::herd::Herd;
use crate::outbox::LinkId;
use crate::printable::Printable;
use crate::record::RecordView;
use crate::time::Timestamp;
use crate::vector::Vector;

/// Connections that may be shaking hands at once; past this they are closed unheard.
const HANDSHAKE_SLOTS: usize = 16;

/// A neighbor, as receivers know it.
#[derive(Debug)]
pub struct Known {
    /// Its place in the flood: what comes from it does not go back to it.
    pub link: LinkId,
    /// Wakes the thread that dials it.
    pub waker: Waker,
}

/// What the receiver threads share.
#[derive(Debug)]
struct Shared {
    herd: Arc<Herd>,
    neighbors: HashMap<String, Known>,
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
    hand: Sender<(TcpStream, SocketAddr)>,
}

/// Where the peer listener brings its connections.
#[derive(Clone, Debug)]
pub struct Door(Sender<(TcpStream, SocketAddr)>);

impl Door {
    /// Hands a connection to a free thread; where there is none it is closed.
    pub fn enter(&self, stream: TcpStream, from: SocketAddr) {
        if self.0.try_send((stream, from)).is_err() {
            warn!("peer connection from {from} closed: all handshake slots are taken");
        }
    }
}

impl Receivers {
    /// Makes all the threads.
    pub fn start(herd: Arc<Herd>, neighbors: HashMap<String, Known>) -> io::Result<Receivers> {
        let count = neighbors.len() + HANDSHAKE_SLOTS;
        let shared = Arc::new(Shared {
            herd,
            neighbors,
            open: Mutex::default(),
        });
        let (hand, incoming) = bounded(0);
        let mut receivers = Receivers {
            shared,
            threads: Vec::with_capacity(count),
            hand,
        };
        for index in 0..count {
            let (shared, incoming) = (Arc::clone(&receivers.shared), incoming.clone());
            let thread = std::thread::Builder::new()
                .name(format!("link-receiver-{index}"))
                .stack_size(crate::STACK_BYTES)
                .spawn(move || shared.work(&incoming));
            match thread {
                Ok(thread) => receivers.threads.push(thread),
                Err(error) => {
                    receivers.stop();
                    return Err(error);
                }
            }
        }
        Ok(receivers)
    }

    /// Where connections are brought.
    pub fn door(&self) -> Door {
        Door(self.hand.clone())
    }

    /// Shuts every connection and joins the threads. The listener's [`Door`] must be gone.
    pub fn stop(self) {
        {
            let mut open = self.shared.open.lock();
            open.stopping = true;
            for stream in open.streams.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        drop(self.hand);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work(&self, incoming: &Incoming<(TcpStream, SocketAddr)>) {
        let mut lines = Lines::default();
        for (stream, from) in incoming {
            let Some(connection) = self.register(&stream) else {
                continue;
            };
            lines.clear();
            if let Err(error) = self.serve(connection, &stream, from, &mut lines) {
                warn!("peer connection from {from} failed: {error}");
            }
            self.open.lock().remove(connection);
        }
    }

    /// Notes an open socket, so that stopping can shut it.
    fn register(&self, stream: &TcpStream) -> Option<u64> {
        let handle = stream.try_clone().ok()?;
        let mut open = self.open.lock();
        if open.stopping {
            return None;
        }
        open.connections += 1;
        let connection = open.connections;
        open.streams.insert(connection, handle);
        Some(connection)
    }

    fn serve(
        &self,
        connection: u64,
        mut stream: &TcpStream,
        from: SocketAddr,
        lines: &mut Lines,
    ) -> Result<(), handshake::HandshakeError> {
        prepare(stream, HANDSHAKE_TIMEOUT)?;
        let own = || Hello::new(self.herd.name(), self.herd.epoch(), Timestamp::now());
        let knows = |name: &str| self.neighbors.contains_key(name);
        let other = handshake::accept(stream, lines, own, knows)?;
        let Some(known) = self.neighbors.get(&other.name) else {
            return Ok(());
        };
        self.open.lock().replace(connection, &other.name);
        known.waker.wake();
        info!("neighbor {} connected from {from}", other.name);
        stream.set_read_timeout(Some(PONG_INTERVAL))?;
        let mut vector = Vec::new();
        self.herd.vector().write_lines("VECTOR", &mut vector);
        stream.write_all(&vector)?;
        let neighbor = Neighbor {
            name: &other.name,
            link: known.link,
            herd: &self.herd,
            marker: Vector::default(),
            records: 0,
        };
        let reason = match neighbor.receive(stream, lines) {
            Ok(reason) => reason,
            Err(error) => error.to_string(),
        };
        info!("neighbor {} gone: {reason}", other.name);
        Ok(())
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

    fn remove(&mut self, connection: u64) {
        self.streams.remove(&connection);
        self.by_neighbor
            .retain(|_, &mut current| current != connection);
    }
}

/// A neighbor while it is connected.
struct Neighbor<'a> {
    name: &'a str,
    link: LinkId,
    herd: &'a Herd,
    /// The lines of a marker that have come so far.
    marker: Vector,
    /// Records received over this connection.
    records: u64,
}

impl Neighbor<'_> {
    /// Applies what comes until the connection ends; says why it did.
    fn receive(mut self, mut stream: &TcpStream, lines: &mut Lines) -> io::Result<String> {
        let mut heard = Instant::now();
        let mut pong_due = Instant::now();
        loop {
            let now = Instant::now();
            if now >= pong_due {
                stream.write_all(format!("PONG {}\n", self.records).as_bytes())?;
                pong_due = now + PONG_INTERVAL;
            }
            if now >= heard + SILENCE_LIMIT {
                return Ok(format!("not heard of for {} s", SILENCE_LIMIT.as_secs()));
            }
            let block = lines.take_block()?;
            if block.is_empty() {
                match lines.fill(stream) {
                    Ok(0) => return Ok("closed by the neighbor".to_owned()),
                    Ok(_) => heard = Instant::now(),
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            if let Some(reason) = self.apply(block, stream)? {
                return Ok(reason);
            }
        }
    }

    /// Applies one block of lines: records in a row are one group. A reason, if it ends the
    /// connection.
    fn apply(&mut self, block: &[u8], mut stream: &TcpStream) -> io::Result<Option<String>> {
        let mut records: Vec<RecordView<'_>> = Vec::new();
        for line in block
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
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
                    Some(true) => self.herd.advance(&std::mem::take(&mut self.marker)),
                    Some(false) => {}
                    None => return Err(self.broken(line)),
                }
            } else if line == b"RESYNC" {
                let mut vector = Vec::new();
                self.herd.vector().write_lines("VECTOR", &mut vector);
                stream.write_all(&vector)?;
            } else if let Some(reason) = line.strip_prefix(b"BYE ") {
                return Ok(Some(Printable(reason).to_string()));
            } else {
                return Err(self.broken(line));
            }
        }
        self.adopt(&mut records);
        Ok(None)
    }

    fn adopt(&mut self, records: &mut Vec<RecordView<'_>>) {
        if !records.is_empty() {
            self.records += records.len() as u64;
            let adopted = self.herd.adopt(records, self.link);
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
