//! The receiving side of one connection of a neighbor, without sockets or threads.
//!
//! The neighbor is sent this server's version vector at first and whenever it asks. Its records are
//! applied in batches, as they arrive. Signs of life are not sent from here, but by
//! [`pulse`](super::pulse).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};

use crate::link::audit::{PeerDigest, PeerDigests};
use crate::link::framing::{Filled, Transport, unexpected_line};
use crate::link::handshake::{self, MAX_SKEW};
use crate::link::liveness::Liveness;
use crate::link::neighbor::{Neighbor, TwinEvidence};
use crate::link::receiver::pulse::BackChannel;
use crate::link::sender::acks::TWINS;
use crate::link::sender::orders::CloseReason;
use crate::logging::lines::{Extent, LineBatch, Peer};
use crate::metrics::{Histogram, HistogramSnapshot};
use crate::model::age;
use crate::model::digest::DigestReader;
use crate::model::printable::Printable;
use crate::model::record::{MAX_AHEAD_SECONDS, RecordView};
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::Replica;
use crate::replica::outbox::NeighborStart;

/// Maximum delay of a record, in nanoseconds: records that were away for years would overflow the sum.
const MAX_DELAY_NANOS: u64 = 3_600_000_000_000;

/// End of a connection.
#[derive(Debug)]
pub(in crate::link) enum End {
    /// Closed by either side, with the reason.
    Closed(String),
    /// Given up since the neighbor is silent: to be ended with a reset.
    Silent(io::Error),
    /// Broken, or given up for the data that came over it.
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Failed(error)
    }
}

impl End {
    /// Returns the reason in words.
    pub(in crate::link) fn reason(&self) -> String {
        match self {
            End::Closed(reason) => reason.clone(),
            End::Silent(error) | End::Failed(error) => error.to_string(),
        }
    }
}

/// A connection of a neighbor to this server.
#[derive(Debug)]
pub(in crate::link) struct Connection<T> {
    neighbor: Arc<Neighbor>,
    /// The start that sends: records are not sent back to it.
    source: NeighborStart,
    replica: Arc<Replica>,
    peer_digests: PeerDigests,
    /// Age at which the neighbor forgets records, as it has told over this connection.
    forget_after: Option<Duration>,
    /// The lines of a marker that have come so far.
    marker: Vector,
    /// The lines of a digest that have come so far.
    digest: DigestReader,
    liveness: Liveness,
    back: Arc<BackChannel<T>>,
    received: Received,
    /// Times at which the origins received the records that were adopted and are not yet in `delays`.
    adopted: Vec<Timestamp>,
    delays: Arc<Histogram>,
}

/// Progress of a connection: what has come over it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::link) struct Received {
    /// Number of records.
    pub(in crate::link) records: u64,
    /// The marker at the end of the first resync has come, so the records include everything that the
    /// neighbor had and this server lacked.
    pub(in crate::link) is_resynced: bool,
    /// The neighbor had itself caught up with its herd by then.
    pub(in crate::link) is_ready: bool,
}

/// Returns the lines of a block, each of which ends with an LF.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', block).map(move |end| {
        let line = &block[start..end];
        start = end + 1;
        line
    })
}

impl<T: Transport> Connection<T> {
    /// Begins after the handshake with the neighbor's start of that epoch, which forgets records of that
    /// age: sends it this server's vector.
    pub(in crate::link) fn start(
        neighbor: Arc<Neighbor>,
        (epoch, forget_after): (u64, Option<Duration>),
        replica: Arc<Replica>,
        (peer_digests, delays): (PeerDigests, Arc<Histogram>),
        back: Arc<BackChannel<T>>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Connection<T>, End> {
        send_vector(&replica, &back)?;
        let connection = Connection {
            source: NeighborStart {
                link: neighbor.link(),
                epoch,
            },
            neighbor,
            replica,
            peer_digests,
            forget_after,
            marker: Vector::default(),
            digest: DigestReader::default(),
            // A long vector takes its time to be sent.
            liveness: Liveness::new(now()),
            back,
            received: Received::default(),
            adopted: Vec::new(),
            delays,
        };
        Ok(connection)
    }

    /// Returns what has come so far.
    pub(in crate::link) fn received(&self) -> Received {
        self.received
    }

    /// Does what is due: to be called before each block of lines, and several times a second.
    pub(in crate::link) fn tick(&self, now: Instant) -> Result<(), End> {
        if let Some(reason) = self.neighbor.closing() {
            self.back.write(format!("BYE {reason}\n").as_bytes())?;
            let text = match reason {
                CloseReason::Stopping => "this server stops",
                CloseReason::Dismissed | CloseReason::Moved => "no longer a neighbor",
            };
            return Err(End::Closed(text.to_owned()));
        }
        if now >= self.liveness.deadline() {
            return Err(End::Silent(self.liveness.reason(now)));
        }
        Ok(())
    }

    /// Notes the outcome of a read.
    pub(in crate::link) fn note(&mut self, filled: Filled, now: Instant) -> Result<(), End> {
        self.liveness.note(filled, now);
        match filled {
            // The owner ends the reading side, so that the neighbor is sent the reason now.
            Filled::End if self.neighbor.closing().is_some() => Ok(()),
            Filled::End => Err(End::Closed("closed by the neighbor".to_owned())),
            Filled::Frames | Filled::Part => Ok(()),
        }
    }

    /// Notes that lines have been applied until `now` and `clock`. The neighbor is not silent while
    /// this server does not read, which takes seconds if the disk does not answer.
    pub(in crate::link) fn applied(&mut self, now: Instant, clock: Timestamp) {
        self.liveness = Liveness::new(now);
        if self.adopted.is_empty() {
            return;
        }
        let mut delays = HistogramSnapshot::default();
        for received in self.adopted.drain(..) {
            // The origin's clock may be ahead.
            let nanos = clock.as_nanos().saturating_sub(received.as_nanos());
            delays.observe(nanos.min(MAX_DELAY_NANOS));
        }
        self.delays.add(&delays);
    }

    /// Applies one block of lines, of which records in a row are one batch, at the time `now` and
    /// `clock`.
    pub(in crate::link) fn apply(
        &mut self,
        block: &[u8],
        now: Instant,
        clock: Timestamp,
    ) -> Result<(), End> {
        // Room for the usual number: growing would copy them again and again.
        let mut records: Vec<RecordView<'_>> = Vec::with_capacity(1 + block.len() / 96);
        let mut log = LineBatch::begin(Peer::Neighbor(self.neighbor.name()), clock);
        for line in lines(block) {
            let unexpected = || unexpected_line(line);
            if RecordView::is_line(line) {
                if let Some(log) = &mut log {
                    log.received(line, Extent::Whole);
                }
                let record = RecordView::parse_line(line).ok_or_else(unexpected)?;
                if record.origin == self.replica.name().as_bytes() {
                    self.check_own(&record, now);
                }
                records.push(record);
                continue;
            }
            self.adopt(&mut records, clock);
            if line.starts_with(b"MARKER") {
                let whole = self.marker.read_line("MARKER", line);
                if whole.ok_or_else(unexpected)? {
                    // An empty one claims nothing. It is a sign of life, but none comes within the
                    // first second, in which a server without records ends its resync with one.
                    let marker = std::mem::take(&mut self.marker);
                    let name = self.neighbor.name().as_bytes();
                    // That of a neighbor which forgets earlier than this server claims what is dead
                    // there and not here. The neighbor has sent what it has, but others may have more.
                    let own = self.replica.forget_after_in_force();
                    let is_taken = !age::is_longer(own, self.forget_after);
                    self.received.is_resynced = true;
                    self.received.is_ready |= is_taken && marker.has_epoch(name, self.source.epoch);
                    if is_taken && !marker.is_empty() {
                        self.replica.advance(&marker);
                    }
                }
            } else if line.starts_with(b"DIGEST") {
                let whole = self.digest.read_line(line);
                // Servers that forget at another age hold other records.
                if let Some(digest) = whole.map_err(|_| unexpected())?
                    && self.forget_after == self.replica.forget_after_in_force()
                {
                    let neighbor = Arc::clone(&self.neighbor);
                    self.peer_digests.offer(PeerDigest { neighbor, digest });
                }
            } else if let Some(age) = line.strip_prefix(b"FORGET-AFTER ") {
                self.forget_after = handshake::parse_age(age).ok_or_else(unexpected)?;
                self.neighbor.forgets_after(self.forget_after);
            } else if line == b"RESYNC" {
                send_vector(&self.replica, &self.back)?;
            } else if let Some(reason) = line.strip_prefix(b"BYE ") {
                // The neighbor waits for the acknowledgement of its last records.
                let _ = self.back.pong(clock);
                return Err(End::Closed(Printable(reason).to_string()));
            } else {
                return Err(unexpected().into());
            }
        }
        self.adopt(&mut records, clock);
        Ok(())
    }

    /// Reports a second server of this server's name, which takes reports while this one runs: two
    /// whose neighbors are not the same are seen by none of them.
    fn check_own(&self, record: &RecordView<'_>, now: Instant) {
        // The receipt of a tombstone is its time, which follows a device's clock.
        let ahead = match record.is_tombstone() {
            true => MAX_AHEAD_SECONDS,
            false => 0,
        };
        // An epoch is never before the time of its start.
        let started = self.replica.epoch();
        let is_later = record
            .received
            .is_ahead_of(Timestamp::from_nanos(started), MAX_SKEW.as_secs() + ahead);
        if record.epoch != started && is_later {
            let (name, epoch) = (self.replica.name(), record.epoch);
            let text = format!("{TWINS} {name}: one of epoch {started}, and one of epoch {epoch}");
            if self.neighbor.report_twin(now, TwinEvidence::Record, &text) {
                warn!(
                    "by records that neighbor {} sends, {text}",
                    self.neighbor.name()
                );
            }
        }
    }

    fn adopt(&mut self, records: &mut Vec<RecordView<'_>>, clock: Timestamp) {
        if !records.is_empty() {
            let Connection {
                replica,
                source,
                adopted: received,
                ..
            } = self;
            let show = |record: &RecordView<'_>| received.push(record.received);
            let adopted = replica.adopt_with(records, *source, clock, show);
            self.back.applied(records.len());
            self.received.records += records.len() as u64;
            debug!(
                "{adopted} of {} records from {} were new",
                records.len(),
                self.neighbor.name()
            );
            records.clear();
        }
    }
}

fn send_vector(replica: &Replica, back: &BackChannel<impl Transport>) -> io::Result<()> {
    let mut vector = Vec::new();
    replica.vector().write_lines("VECTOR", &mut vector);
    back.write(&vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::outbox::outbox;

    /// A way back that nobody reads.
    #[derive(Debug)]
    struct Nowhere;

    impl Transport for Nowhere {
        fn write(&mut self, _lines: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn now(&self) -> Instant {
            Instant::now()
        }

        fn clock(&self) -> Timestamp {
            Timestamp::now()
        }
    }

    #[test]
    fn the_delay_of_each_adopted_record_is_measured_once() {
        let second = 1_000_000_000;
        let (_outbox, queue) = outbox(1);
        let (requests, _) = crossbeam_channel::bounded(1);
        let replica = Arc::new(Replica::new("Ball", 1, 10));
        let (link, _) = replica.add_link();
        let neighbor = Arc::new(Neighbor::new("Welsh", link, queue.gauge(), requests));
        let back = Arc::new(BackChannel::new(Nowhere, 2));
        let (digests, _received) = PeerDigests::new();
        let delays = Arc::<Histogram>::default();
        let now = Instant::now();
        let parts = (digests, Arc::clone(&delays));
        let mut connection =
            Connection::start(neighbor, (1, None), replica, parts, back, || now).unwrap();
        let clock = Timestamp::from_nanos(100 * second);
        let records = [("kiwi", 99), ("kiwi", 98), ("moa", 101), ("emu", 0)];
        for (number, (client, received)) in records.into_iter().enumerate() {
            let (time, received) = (9 - number, received * second);
            let line = format!("RECORD Welsh 1 {number} {received} {client} +1+1 {time}\n");
            connection.apply(line.as_bytes(), now, clock).unwrap();
        }
        assert_eq!(delays.snapshot().count(), 0, "not applied yet");
        connection.applied(now, clock);
        connection.applied(now, clock);
        let measured = delays.snapshot();
        // The second record of kiwi is older, and moa's comes from a clock that is ahead.
        assert_eq!(measured.count(), 3);
        assert_eq!(measured.sum().as_secs(), 1 + 100);
    }

    #[test]
    fn markers_and_digests_are_taken_by_the_age_of_both_servers() {
        let age = |seconds| Some(Duration::from_secs(seconds));
        let digest: String = (0..256)
            .step_by(64)
            .map(|first| format!("DIGEST 5 {first}{}\n", " 0".repeat(64)))
            .collect();
        // Own age, the neighbor's, the age that it tells then; whether markers and digests are taken.
        for (own, peer, told, markers, digests) in [
            (None, None, None, true, true),
            (age(60), age(60), None, true, true),
            (age(60), age(61), None, true, false),
            (age(61), age(60), None, false, false),
            (None, age(60), None, false, false),
            (age(60), None, None, true, false),
            (age(60), age(90), Some("60"), true, true),
            (age(60), None, Some("59"), false, false),
            (age(60), age(50), Some("0"), true, false),
        ] {
            let (_outbox, queue) = outbox(1);
            let (requests, _) = crossbeam_channel::bounded(1);
            let replica = Arc::new(Replica::new("Ball", 1, 10));
            replica.set_forget_after(own);
            let (link, _) = replica.add_link();
            let neighbor = Arc::new(Neighbor::new("Welsh", link, queue.gauge(), requests));
            let back = Arc::new(BackChannel::new(Nowhere, 3));
            let (offered, received) = PeerDigests::new();
            let (now, kept) = (Instant::now(), Arc::clone(&replica));
            let parts = (offered, Arc::default());
            let mut connection =
                Connection::start(neighbor, (7, peer), kept, parts, back, || now).unwrap();
            let told = told.map_or(String::new(), |age| format!("FORGET-AFTER {age}\n"));
            let lines = format!("{told}{digest}MARKER 0 Welsh 7 0 Zed 1 5\n");
            let clock = Timestamp::from_nanos(100);
            connection.apply(lines.as_bytes(), now, clock).unwrap();
            assert_eq!(
                replica.vector().covers(b"Zed", 1, 5),
                markers,
                "{own:?} {peer:?}"
            );
            assert_eq!(
                received.try_iter().count() == 1,
                digests,
                "{own:?} {peer:?}"
            );
            // One that is not taken ends the resync all the same, but not the wait for all records.
            assert!(connection.received().is_resynced);
            assert_eq!(connection.received().is_ready, markers);
            let broken = connection.apply(b"FORGET-AFTER x\n", now, clock);
            assert!(matches!(broken, Err(End::Failed(_))));
        }
    }

    #[test]
    fn a_second_server_of_this_name_shows_by_its_records() {
        const STARTED: u64 = 1_479_413_884_000_000_000;
        let second = 1_000_000_000;
        for (epoch, received, is_twin) in [
            // Of this start, and of one before, as far as clocks may differ.
            (STARTED, STARTED + 900 * second, false),
            (STARTED - 5, STARTED - second, false),
            (STARTED - 5, STARTED + 60 * second, false),
            (STARTED - 5, STARTED + 61 * second, true),
            (STARTED + 5, STARTED + 61 * second, true),
        ] {
            let (_outbox, queue) = outbox(1);
            let (requests, _) = crossbeam_channel::bounded(1);
            let replica = Arc::new(Replica::new("Ball", STARTED, 10));
            let (link, _) = replica.add_link();
            let neighbor = Arc::new(Neighbor::new("Welsh", link, queue.gauge(), requests));
            let back = Arc::new(BackChannel::new(Nowhere, 2));
            let (digests, _received) = PeerDigests::new();
            let now = Instant::now();
            let kept = Arc::clone(&neighbor);
            let mut connection = Connection::start(
                kept,
                (1, None),
                replica,
                (digests, Arc::default()),
                back,
                || now,
            )
            .unwrap();
            let line = format!("RECORD Ball {epoch} 1 {received} kiwi +1+1 1\n");
            let clock = Timestamp::from_nanos(STARTED);
            connection.apply(line.as_bytes(), now, clock).unwrap();
            assert_eq!(neighbor.twin(now).is_some(), is_twin, "{line}");
        }
    }
}
