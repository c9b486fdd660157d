//! The thread that keeps one neighbor fed with records.
//!
//! Every connection starts from the neighbor's version vector: what it lacks is written from
//! the cache straight to the socket, then a marker that says so, then whatever the flood has
//! queued meanwhile. So a record lost in a dying socket, or in a queue that overflowed, costs a
//! delay and not a hole. A connection that breaks is dialed again for as long as the sender is
//! wanted; a neighbor that is away holds nothing up and costs no memory.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender as Channel, bounded, never, select};
use log::{Level, info, log_enabled, warn};

use crate::config::topology::Address;
use crate::link::SILENCE_LIMIT;
use crate::link::framing::{Writer, prepare};
use crate::link::handshake::{self, HANDSHAKE_TIMEOUT, HandshakeError, Hello};
use crate::link::keyring::Keyring;
use crate::link::neighbor::{Monitor, Phase};
use crate::link::refusals::RejectedPeers;
use crate::link::sender::acks::{PeerMessage, Reading};
use crate::link::sender::{CloseReason, Control, Neighbor, Order};
use crate::model::printable::Printable;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::Replica;
use crate::replica::outbox::{OutboxReceiver, Queued};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long after the start a neighbor that is not there yet is no reason for a warning: servers
/// that are started together come up one after the other.
const START_GRACE: Duration = Duration::from_secs(2);

/// Shortest and longest pause before dialing again; it doubles with each failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Shortest time between two scans of the cache for one neighbor.
const RESYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Time for what is queued, and for what is being written, when a neighbor is left. The neighbor gets
/// the rest from others, or from the cache when it is dialed again; without an end to it, a server
/// with a neighbor that crawls could not stop in time to bring its journal to disk.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Bytes gathered from the queue for one write.
const WRITE_BYTES: usize = 256 << 10;

/// What a sender has yet to take of what the neighbor says over one connection. A neighbor says what
/// it holds once at first, and once each time that it is asked.
const HEARD_MESSAGES: usize = 4;

/// A connection that records go out over.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    writer: Writer,
    heard: Receiver<PeerMessage>,
    ordered: Receiver<Order>,
    /// Until when this may be written to, once there is an order.
    until: Option<Instant>,
}

impl Wire {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let out = DeadlineWriter {
            stream: &self.stream,
            ordered: &self.ordered,
            until: &mut self.until,
        };
        self.writer.write(out, lines)
    }

    /// Why the reader has given the connection up, if it has.
    fn reason(&self) -> Option<io::Error> {
        self.heard.try_iter().find_map(|heard| match heard {
            PeerMessage::Lost(error) => Some(error),
            PeerMessage::Vector(_) => None,
        })
    }
}

/// The socket, as it may be written to while the owner has given no order, and for a while after.
struct DeadlineWriter<'a> {
    stream: &'a TcpStream,
    ordered: &'a Receiver<Order>,
    until: &'a mut Option<Instant>,
}

impl io::Write for DeadlineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.until.is_none() && !self.ordered.is_empty() {
            *self.until = Some(Instant::now() + LEAVE_LIMIT);
        }
        if let Some(until) = *self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = "left with records unsent, which it was too slow for";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            self.stream.set_write_timeout(Some(left))?;
        }
        let mut stream = self.stream;
        stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why feeding a neighbor ended.
enum End {
    Lost(io::Error),
    Ordered(Order),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Lost(error)
    }
}

/// The sender thread's state.
pub(super) struct SenderThread {
    pub(super) replica: Arc<Replica>,
    pub(super) keys: Arc<Keyring>,
    pub(super) neighbor: Neighbor,
    pub(super) outlet: OutboxReceiver,
    pub(super) monitor: Arc<Monitor>,
    pub(super) told: Receiver<Control>,
    pub(super) reader: Channel<Reading>,
    pub(super) ordered: Receiver<Order>,
    pub(super) refusals: Arc<RejectedPeers>,
    /// Whether the neighbor has been sent what it lacked since it was connected.
    pub(super) is_live: bool,
    /// When the cache may be scanned for this neighbor again.
    pub(super) resync_allowed: Instant,
}

impl SenderThread {
    /// Dials and feeds until it is ordered to end.
    pub(super) fn run(mut self) {
        let mut pause = BACK_OFF.0;
        let mut failed_before = false;
        let started = Instant::now();
        loop {
            self.monitor.enter(Phase::Connecting);
            match self.dial() {
                Ok(mut wire) => {
                    info!("connected to neighbor {}", self.neighbor.name);
                    let end = self.feed(&mut wire);
                    self.replica.set_down(self.neighbor.link);
                    // The reader blocks on the same socket.
                    let _ = wire.stream.shutdown(Shutdown::Both);
                    match end {
                        End::Ordered(Order::End(_)) => return,
                        End::Ordered(Order::Redial(address)) => {
                            self.neighbor.address = address;
                            continue;
                        }
                        End::Lost(error) => {
                            self.monitor.lost(Timestamp::now(), &error.to_string());
                            warn!(
                                "connection to neighbor {} lost: {error}",
                                self.neighbor.name
                            );
                            if error.kind() == io::ErrorKind::InvalidData {
                                self.refuse(&error);
                            }
                        }
                    }
                    (pause, failed_before) = (BACK_OFF.0, false);
                }
                Err(error) => {
                    self.monitor.lost(Timestamp::now(), &error.to_string());
                    let starting = started.elapsed() < START_GRACE;
                    let level = match (failed_before, starting) {
                        (true, _) => Level::Debug,
                        (false, true) => Level::Info,
                        (false, false) => Level::Warn,
                    };
                    let Neighbor { name, address, .. } = &self.neighbor;
                    log::log!(
                        level,
                        "cannot connect to neighbor {name} at {address}: {error}"
                    );
                    failed_before = !starting;
                    if error.is_suspicious() {
                        self.refuse(&error);
                    }
                }
            }
            match self.pause(pause.mul_f64(0.5 + 0.5 * fastrand::f64())) {
                Some(Order::End(_)) => return,
                Some(Order::Redial(address)) => {
                    self.neighbor.address = address;
                    (pause, failed_before) = (BACK_OFF.0, false);
                }
                None => pause = (pause * 2).min(BACK_OFF.1),
            }
        }
    }

    /// Waits before dialing again, or until there is an order.
    fn pause(&self, pause: Duration) -> Option<Order> {
        let until = Instant::now() + pause;
        loop {
            select! {
                recv(self.ordered) -> order => {
                    // An owner that is gone wants no sender.
                    return Some(order.unwrap_or(Order::End(CloseReason::Stopping)));
                }
                recv(self.told) -> message => match message {
                    Ok(Control::Wake) => return None,
                    // A link that is down is no place for repairs.
                    Ok(Control::Repair(_)) => {}
                    Err(_) => return Some(Order::End(CloseReason::Stopping)),
                },
                default(until.saturating_duration_since(Instant::now())) => return None,
            }
        }
    }

    /// Counts what this side broke off for what the other said.
    fn refuse(&self, reason: impl fmt::Display) {
        let Neighbor { name, address, .. } = &self.neighbor;
        let connection = format!("connection to neighbor {name} at {address}");
        self.refusals.add(connection, reason);
    }

    fn dial(&mut self) -> Result<Wire, HandshakeError> {
        let Address { host, port } = &self.neighbor.address;
        let mut error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host.as_str(), *port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return self.shake_hands(stream),
                Err(failed) => error = failed,
            }
        }
        Err(error.into())
    }

    fn shake_hands(&mut self, stream: TcpStream) -> Result<Wire, HandshakeError> {
        prepare(&stream, SILENCE_LIMIT)?;
        let (name, epoch) = (self.replica.name(), self.replica.epoch());
        let keys = self.keys.current();
        let own = Hello::new(keys.herd(), name, epoch, Timestamp::now());
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let peer = handshake::dial(&stream, &keys, &own, &self.neighbor.name, deadline)?;
        self.monitor.enter(Phase::Resyncing);
        let (says, heard) = bounded(HEARD_MESSAGES);
        let reading = Reading {
            stream: stream.try_clone()?,
            reader: peer.reader,
            heard: says,
        };
        // The reader is free: the connection before this one has been shut.
        self.reader
            .send(reading)
            .map_err(|_| io::Error::other("the reader thread is gone"))?;
        let writer = peer.writer;
        Ok(Wire {
            stream,
            writer,
            heard,
            ordered: self.ordered.clone(),
            until: None,
        })
    }

    fn feed(&mut self, wire: &mut Wire) -> End {
        match self.try_feed(wire) {
            // A write that fails because the reader has shut the socket does not say why.
            Err(End::Lost(error)) => End::Lost(wire.reason().unwrap_or(error)),
            Ok(end) | Err(end) => end,
        }
    }

    fn try_feed(&mut self, wire: &mut Wire) -> Result<End, End> {
        let mut lacking: Option<Vector> = None;
        self.is_live = false;
        let heard = wire.heard.clone();
        loop {
            let until_resync = match &lacking {
                Some(_) => crossbeam_channel::at(self.resync_allowed),
                None => never(),
            };
            select! {
                recv(self.outlet.channel()) -> queued => match queued {
                    Ok(queued) => self.send_queued(self.outlet.taken(queued), wire)?,
                    Err(_) => return Ok(End::Ordered(Order::End(CloseReason::Stopping))),
                },
                recv(heard) -> message => match message {
                    Ok(PeerMessage::Vector(held)) => lacking = Some(held),
                    Ok(PeerMessage::Lost(error)) => return Ok(End::Lost(error)),
                    Err(_) => return Ok(End::Lost(io::Error::other("nothing more is heard"))),
                },
                recv(self.told) -> message => match message {
                    Ok(Control::Repair(buckets)) if self.is_live => self.repair(&buckets, wire)?,
                    Ok(_) => {}
                    Err(_) => return Ok(End::Ordered(Order::End(CloseReason::Stopping))),
                },
                recv(until_resync) -> _ => {
                    if let Some(held) = lacking.take() {
                        self.resync(&held, wire)?;
                    }
                }
                recv(self.ordered) -> order => {
                    let order = order.unwrap_or(Order::End(CloseReason::Stopping));
                    // A neighbor that can't be told is left all the same.
                    let _ = self.take_leave(&order, wire);
                    return Ok(End::Ordered(order));
                }
            }
        }
    }

    /// Sends what is queued, as far as the time goes, and says why nothing more comes.
    fn take_leave(&self, order: &Order, wire: &mut Wire) -> io::Result<()> {
        wire.until = Some(Instant::now() + LEAVE_LIMIT);
        let farewell = match order {
            Order::End(farewell) => *farewell,
            Order::Redial(_) => CloseReason::Moved,
        };
        while let Ok(queued) = self.outlet.try_take() {
            self.send_queued(queued, wire)?;
        }
        wire.write(format!("BYE {farewell}\n").as_bytes())
    }

    /// Sends what the neighbor lacks from the cache. The link is live from before the scan, so
    /// what is applied meanwhile queues behind it.
    fn resync(&mut self, held: &Vector, wire: &mut Wire) -> io::Result<()> {
        self.monitor.enter(Phase::Resyncing);
        // One that breaks off counts too: a link that flaps would scan the cache all the time.
        self.resync_allowed = Instant::now() + RESYNC_INTERVAL;
        let captured = self.replica.set_live(self.neighbor.link);
        let records = self.send_from_cache(held, |_| true, wire)?;
        let mut marker = Vec::new();
        captured.write_lines("MARKER", &mut marker);
        wire.write(&marker)?;
        self.is_live = true;
        self.monitor.resynced();
        self.resync_allowed = Instant::now() + RESYNC_INTERVAL;
        info!(
            "sent {records} records that neighbor {} lacked",
            self.neighbor.name
        );
        Ok(())
    }

    /// Sends all records of these buckets, among what is sent anyway.
    fn repair(&self, buckets: &[usize], wire: &mut Wire) -> io::Result<()> {
        let key = self.keys.digest_key();
        let is_in_them = |record: &RecordView<'_>| buckets.contains(&key.bucket(record.client));
        let records = self.send_from_cache(&Vector::default(), is_in_them, wire)?;
        info!(
            "sent all {records} records of {} buckets in which neighbor {} differs",
            buckets.len(),
            self.neighbor.name
        );
        Ok(())
    }

    /// Writes the records that `held` does not cover, as far as they are wanted, straight to the
    /// socket; how many there were.
    fn send_from_cache(
        &self,
        held: &Vector,
        is_wanted: impl Fn(&RecordView<'_>) -> bool,
        wire: &mut Wire,
    ) -> io::Result<usize> {
        let mut scan = Scan {
            lines: Vec::with_capacity(WRITE_BYTES),
            gathered: 0,
            records: 0,
            monitor: &self.monitor,
            wire,
            written: Ok(()),
        };
        self.replica.records_above(
            held,
            &mut scan,
            |scan, record| {
                if is_wanted(record) {
                    record.write_line(&mut scan.lines);
                    scan.gathered += 1;
                }
            },
            Scan::write,
        );
        let Scan {
            records, written, ..
        } = scan;
        written.map(|()| records)
    }

    /// Writes what came out of the queue, together with all that is there behind it.
    fn send_queued(&self, first: Queued, wire: &mut Wire) -> io::Result<()> {
        let Queued::Lines(lines) = first else {
            return self.ask_for_vector(wire);
        };
        let mut gathered = Vec::new();
        let mut records = lines.records();
        while gathered.len() + lines.len() < WRITE_BYTES {
            match self.outlet.try_take() {
                Ok(Queued::Lines(more)) => {
                    if gathered.is_empty() {
                        gathered.extend_from_slice(&lines);
                    }
                    gathered.extend_from_slice(&more);
                    records += more.records();
                }
                Ok(Queued::Overflowed) => return self.ask_for_vector(wire),
                Err(_) => break,
            }
        }
        let block = if gathered.is_empty() {
            &*lines
        } else {
            &gathered
        };
        if log_enabled!(Level::Info) {
            for line in block
                .split(|&byte| byte == b'\n')
                .filter(|line| line.starts_with(b"RECORD"))
            {
                info!(
                    "sent to neighbor {}: {}",
                    self.neighbor.name,
                    Printable(line)
                );
            }
        }
        self.monitor.writing(records);
        wire.write(block)
    }

    fn ask_for_vector(&self, wire: &mut Wire) -> io::Result<()> {
        self.monitor.enter(Phase::Dirty);
        warn!(
            "the queue for neighbor {} overflowed: sending from the cache",
            self.neighbor.name
        );
        wire.write(b"RESYNC\n")
    }
}

/// A scan of the cache on its way to a neighbor.
struct Scan<'a> {
    lines: Vec<u8>,
    /// Records among the lines, and in all.
    gathered: usize,
    records: usize,
    monitor: &'a Monitor,
    wire: &'a mut Wire,
    written: io::Result<()>,
}

impl Scan<'_> {
    fn write(scan: &mut Scan<'_>) -> bool {
        scan.monitor.writing(scan.gathered);
        scan.records += std::mem::take(&mut scan.gathered);
        scan.written = scan.wire.write(&scan.lines);
        scan.lines.clear();
        scan.written.is_ok()
    }
}
