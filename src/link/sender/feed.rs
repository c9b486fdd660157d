//! The protocol that keeps one neighbor fed with records, without sockets or threads.
//!
//! Every connection starts from the neighbor's version vector: the records that it lacks are
//! written from the cache straight to the connection, then a marker that says so, then whatever
//! the flood has queued meanwhile. So a record lost in a dying socket, or in a queue that
//! overflowed, costs a delay and not a hole. A neighbor that is away holds nothing up and costs no
//! memory.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::link::framing::Transport;
use crate::link::handshake::{self, FORGET_VERSION, HandshakeError, Peer as Connected};
use crate::link::neighbor::Neighbor;
use crate::link::sender::block::Block;
use crate::link::sender::orders::{Order, Request};
use crate::logging::RECOVERY;
use crate::logging::lines::{Extent, LineBatch, Peer};
use crate::model::digest::DigestKey;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::Replica;
use crate::replica::outbox::{NeighborStart, OutboxReceiver, Queued};

/// Shortest time between two scans of the cache for one neighbor.
pub(in crate::link) const RESYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which a sign of life is sent if nothing else was in the meantime. Markers come each
/// second as a rule, but not while a disk does not answer.
pub(in crate::link) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum wait for the apply lock before a resync is put off, so that signs of life go on.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Bytes gathered from the queue for one write.
const WRITE_BYTES: usize = 256 << 10;

/// The sending side of the link to one neighbor, over all its connections.
#[derive(Debug)]
pub(in crate::link) struct Feed {
    replica: Arc<Replica>,
    key: DigestKey,
    neighbor: Arc<Neighbor>,
    outbox: OutboxReceiver,
    /// Epoch of the neighbor's start that is connected, or was last.
    epoch: u64,
    /// Version of the link protocol that both sides speak.
    version: u64,
    /// Age at which this server forgets records, as the neighbor was told it last over this connection.
    told: Option<Duration>,
    /// The neighbor's vector, while a resync from it is due.
    resync_from: Option<Vector>,
    /// When the cache may be scanned for this neighbor again.
    resync_allowed: Instant,
    /// Nothing has been written since the last sign of life was due.
    is_quiet: bool,
    /// Begin of the last write, if records were queued meanwhile that have yet to be taken.
    behind: Option<Instant>,
    /// The queue has overflowed since the last resync.
    overflowed: bool,
}

impl Feed {
    /// The link to a neighbor that is not connected. `key` is the herd's.
    pub(in crate::link) fn new(
        replica: Arc<Replica>,
        key: DigestKey,
        neighbor: Arc<Neighbor>,
        outbox: OutboxReceiver,
        now: Instant,
    ) -> Feed {
        Feed {
            replica,
            key,
            neighbor,
            outbox,
            epoch: 0,
            version: 0,
            told: None,
            resync_from: None,
            resync_allowed: now,
            is_quiet: false,
            behind: None,
            overflowed: false,
        }
    }

    /// Returns the queue, whose batches go to [`send_queued`](Self::send_queued) once they are
    /// [taken](OutboxReceiver::taken).
    pub(in crate::link) fn outbox(&self) -> &OutboxReceiver {
        &self.outbox
    }

    /// Begins with a new connection to the neighbor, before anything is written or read.
    pub(in crate::link) fn connected(&mut self, peer: &Connected, now: Instant) {
        (self.epoch, self.is_quiet) = (peer.hello.epoch, false);
        (self.version, self.told) = (peer.version, peer.told);
        self.neighbor.speaks(peer.version, peer.hello.forget_after);
        (self.resync_from, self.behind) = (None, None);
        self.neighbor.connected(now);
    }

    /// Ends with a connection.
    pub(in crate::link) fn disconnected(&self) {
        self.replica.set_down(self.neighbor.link());
    }

    /// Takes the neighbor's vector: a resync is due.
    pub(in crate::link) fn take_vector(&mut self, vector: Vector) {
        self.neighbor.holds(&vector);
        self.resync_from = Some(vector);
    }

    /// Returns when [`resync`](Self::resync) is to be called, if at all.
    pub(in crate::link) fn resync_due(&self) -> Option<Instant> {
        self.resync_from.as_ref().map(|_| self.resync_allowed)
    }

    /// Sends the records that the neighbor lacks from the cache. The link is live from before the
    /// scan, so records applied meanwhile queue behind it.
    pub(in crate::link) fn resync(&mut self, to: &mut impl Transport) -> io::Result<()> {
        let Some(held) = self.resync_from.take() else {
            return Ok(());
        };
        let began = to.now();
        let since = self.neighbor.resyncing(began);
        let start = NeighborStart {
            link: self.neighbor.link(),
            epoch: self.epoch,
        };
        let Some(captured) = self.replica.set_live_within(start, LOCK_WAIT) else {
            self.resync_from = Some(held);
            self.resync_allowed = to.now() + LOCK_WAIT;
            return Ok(());
        };
        // A scan that breaks off counts too: a link that flaps would scan the cache all the time.
        self.resync_allowed = to.now() + RESYNC_INTERVAL;
        let records = self.send_from_cache(&held, |_| true, since, to)?;
        // Behind the scan, which has left out what is dead by an age that was in force by now.
        let mut marker = self.change_of_age();
        if self.withholds_tombstones() {
            // It ends the resync, and claims nothing.
            Vector::default().write_lines("MARKER", &mut marker);
        } else {
            captured.write_lines("MARKER", &mut marker);
            self.neighbor.marked(Arc::new(captured));
        }
        to.write(&marker)?;
        self.is_quiet = false;
        self.note_behind(began);
        self.neighbor.resynced();
        self.resync_allowed = to.now() + RESYNC_INTERVAL;
        let name = self.neighbor.name();
        if std::mem::take(&mut self.overflowed) {
            info!(target: RECOVERY, "sent {records} records that neighbor {name} lacked");
        } else {
            info!("sent {records} records that neighbor {name} lacked");
        }
        Ok(())
    }

    /// Takes a request of another thread. Before the first resync of a connection a repair is
    /// pointless, and is dropped.
    pub(in crate::link) fn take_request(
        &mut self,
        request: &Request,
        to: &mut impl Transport,
    ) -> io::Result<()> {
        match request {
            Request::Repair(buckets) if self.neighbor.is_resynced() => self.repair(buckets, to),
            Request::ResyncAll if self.neighbor.is_resynced() => {
                self.resync_from = Some(Vector::default());
                Ok(())
            }
            Request::Repair(_) | Request::ResyncAll | Request::Wake => Ok(()),
        }
    }

    /// Sends a sign of life, a marker that claims nothing, if nothing was sent since the last call.
    /// To be called once in each [`KEEPALIVE_INTERVAL`].
    pub(in crate::link) fn keep_alive(&mut self, to: &mut impl Transport) -> io::Result<()> {
        if std::mem::replace(&mut self.is_quiet, true) {
            to.write(b"MARKER 0\n")?;
        }
        Ok(())
    }

    /// Returns whether the neighbor knows no tombstones, and there are some. It is sent none, and so
    /// neither a marker, which would have it claim them for the time after its upgrade, nor a digest.
    fn withholds_tombstones(&self) -> bool {
        self.version < FORGET_VERSION && self.replica.tombstones() > 0
    }

    /// Returns the line that tells the neighbor the age at which this server forgets records, if that
    /// has changed. It goes before every marker that was made since: what such a marker claims leaves
    /// out what is dead here.
    fn change_of_age(&mut self) -> Vec<u8> {
        let age = self.replica.forget_after_in_force();
        if self.version < FORGET_VERSION || age == self.told {
            return Vec::new();
        }
        self.told = age;
        format!("FORGET-AFTER {}\n", handshake::seconds(age)).into_bytes()
    }

    /// Sends all records of these buckets, among the records that are sent anyway.
    fn repair(&mut self, buckets: &[usize], to: &mut impl Transport) -> io::Result<()> {
        let is_in_them =
            |record: &RecordView<'_>| buckets.contains(&self.key.bucket(record.client));
        let now = to.now();
        let records = self.send_from_cache(&Vector::default(), is_in_them, now, to)?;
        self.note_behind(now);
        info!(
            "sent all {records} records of {} buckets in which neighbor {} differs",
            buckets.len(),
            self.neighbor.name()
        );
        Ok(())
    }

    /// Sends what is queued, as far as the transport's deadline allows, and the reason for closing.
    pub(in crate::link) fn close(
        &mut self,
        order: &Order,
        to: &mut impl Transport,
    ) -> io::Result<()> {
        while let Ok(queued) = self.outbox.try_take() {
            self.send_queued(queued, to)?;
        }
        to.write(format!("BYE {}\n", order.reason()).as_bytes())
    }

    /// Sends the reason for which the neighbor is refused.
    pub(in crate::link) fn refuse(
        &self,
        reason: &HandshakeError,
        to: &mut impl Transport,
    ) -> io::Result<()> {
        to.write(format!("BYE {reason}\n").as_bytes())
    }

    /// Writes the records that `held` does not cover and that are wanted straight to the
    /// connection, in bounded blocks; they count as queued at `since`. Returns how many there were.
    fn send_from_cache(
        &self,
        held: &Vector,
        is_wanted: impl Fn(&RecordView<'_>) -> bool,
        since: Instant,
        to: &mut impl Transport,
    ) -> io::Result<usize> {
        let clock = to.clock();
        let mut scan = Scan {
            lines: Vec::with_capacity(WRITE_BYTES),
            gathered: 0,
            records: 0,
            neighbor: &self.neighbor,
            since,
            to,
            written: Ok(()),
        };
        self.replica.records_above(
            held,
            clock,
            &mut scan,
            |scan, record| {
                let is_known = self.version >= FORGET_VERSION || !record.is_tombstone();
                if is_known && is_wanted(record) {
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

    /// Sends what was taken from the queue, together with what is queued behind it.
    pub(in crate::link) fn send_queued(
        &mut self,
        first: Queued,
        to: &mut impl Transport,
    ) -> io::Result<()> {
        let now = to.now();
        let since = self.behind.unwrap_or(now);
        let Queued::Lines(lines) = first else {
            return self.ask_for_vector(since, to);
        };
        let mut block = Block::new(self.change_of_age());
        let mut next = Some(lines);
        while let Some(lines) = next.take() {
            if self.version < FORGET_VERSION {
                block.push_for_old(lines, self.replica.tombstones() > 0);
            } else {
                block.push(lines);
            }
            if block.lines().len() >= WRITE_BYTES {
                break;
            }
            match self.outbox.try_take() {
                Ok(Queued::Lines(more)) => next = Some(more),
                Ok(Queued::Overflowed) => return self.ask_for_vector(since, to),
                Err(_) => {}
            }
        }
        let (lines, records) = (block.lines(), block.records());
        if lines.is_empty() {
            return Ok(());
        }
        let peer = Peer::Neighbor(self.neighbor.name());
        if let Some(mut log) = LineBatch::begin(peer, Timestamp::now()) {
            let mut start = 0;
            for end in memchr::memchr_iter(b'\n', lines) {
                if RecordView::is_line(&lines[start..]) {
                    log.sent(&lines[start..end], Extent::Whole);
                }
                start = end + 1;
            }
        }
        self.neighbor.writing(records, since);
        if let Some(marker) = block.marked() {
            self.neighbor.marked(Arc::clone(marker));
        }
        self.is_quiet = false;
        let written = to.write(lines);
        self.note_behind(now);
        written
    }

    /// Notes whether records have been queued during a write that began at that time.
    fn note_behind(&mut self, began: Instant) {
        self.behind = self.outbox.has_records().then_some(began);
    }

    fn ask_for_vector(&mut self, since: Instant, to: &mut impl Transport) -> io::Result<()> {
        self.neighbor.overflowed(since);
        warn!(
            "the queue for neighbor {} overflowed: asking for its vector, to send the rest from the cache",
            self.neighbor.name()
        );
        self.overflowed = true;
        to.write(b"RESYNC\n")
    }
}

/// A scan of the cache on its way to a neighbor.
struct Scan<'a, T> {
    lines: Vec<u8>,
    /// Records among the lines.
    gathered: usize,
    /// Records written so far.
    records: usize,
    neighbor: &'a Neighbor,
    since: Instant,
    to: &'a mut T,
    written: io::Result<()>,
}

impl<T: Transport> Scan<'_, T> {
    fn write(scan: &mut Scan<'_, T>) -> bool {
        scan.neighbor.writing(scan.gathered, scan.since);
        scan.records += std::mem::take(&mut scan.gathered);
        scan.written = scan.to.write(&scan.lines);
        scan.lines.clear();
        scan.written.is_ok()
    }
}
