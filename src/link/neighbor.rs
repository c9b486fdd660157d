//! The state of a neighbor, in one place, and the neighbors by name.
//!
//! Each field has one writer, named beside it; everybody else reads. The receiving side reports
//! once a second how many records it has applied over the connection (`PONG`), so the number that
//! is written or queued and not yet acknowledged is known on the sending side. Counting costs an
//! addition for each batch of records; the rest changes with the connection.
//!
//! Whether the flood queues records for the neighbor is the flood's own field, since it changes
//! under the apply lock. An overflow of the queue shows in the outbox, and is read from there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender as Channel;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::link::sender::orders::{CloseReason, Request};
use crate::model::digest::DigestDifference;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::outbox::{Depth, Gauge, LinkId};

/// Phase of the link to a neighbor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkPhase {
    /// Not connected; the neighbor is dialed again in a moment.
    #[default]
    Down,
    /// Dialing, or in the handshake.
    Connecting,
    /// Connected; the neighbor's vector is awaited, or records that it lacks are being sent from
    /// the cache.
    Resyncing,
    /// Every record is queued and sent as it comes.
    Live,
    /// The queue has overflowed, and a resync is to come.
    Dirty,
}

impl LinkPhase {
    /// Returns whether there is a connection.
    pub fn is_connected(self) -> bool {
        !matches!(self, LinkPhase::Down | LinkPhase::Connecting)
    }
}

impl std::fmt::Display for LinkPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            LinkPhase::Down => "down",
            LinkPhase::Connecting => "connecting",
            LinkPhase::Resyncing => "resyncing",
            LinkPhase::Live => "live",
            LinkPhase::Dirty => "dirty",
        })
    }
}

/// State of a link at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Phase.
    pub phase: LinkPhase,
    /// Records written over this connection.
    pub written: u64,
    /// Records of those that the neighbor has applied, by its last `PONG`.
    pub acknowledged: u64,
    /// Fill of the queue.
    pub queue: Depth,
    /// Number of resyncs: how often the neighbor was sent the records that it lacked from the cache.
    pub resyncs: u64,
    /// Number of buckets in which the neighbor was found to differ.
    pub diverged: u64,
    /// Why the last connection ended or could not be made.
    pub error: Option<LinkError>,
}

/// Why and when a connection ended or could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkError {
    /// When, in nanoseconds since 1970.
    pub at: Timestamp,
    /// Why, in words.
    pub reason: String,
}

impl LinkStatus {
    /// Returns the number of records that the neighbor has yet to apply; `None` while there is no
    /// connection to count them over. After an overflow the true number is higher.
    pub fn lag(&self) -> Option<u64> {
        let sent = self.written + self.queue.records as u64;
        self.phase
            .is_connected()
            .then(|| sent.saturating_sub(self.acknowledged))
    }
}

/// Refusal of a connection by a neighbor that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The neighbor has proved its key, and its `servers.txt` does not name this server a neighbor.
    NotANeighbor,
    /// It closed the connection when this server had proved its key, several times in a row: it has
    /// another. Anybody at its address could do that.
    WrongKey,
    /// The clocks differ by too much.
    Skew,
    /// For another reason.
    Other,
}

/// Reports of another server of the same name hold for this time after the last one: the loser of
/// the two tries again each second.
const TWIN_REPORT: Duration = Duration::from_secs(10);

/// Markers sent and not yet acknowledged that are kept for one neighbor: one comes each second, and
/// the oldest are dropped first.
const MARKERS: usize = 64;

/// The last comparison of a neighbor's digest with this server's.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) at: Instant,
    pub(super) difference: DigestDifference,
    /// A difference was reported, and has not been found repaired since.
    pub(super) is_reported: bool,
}

/// A neighbor.
#[derive(Debug)]
pub(super) struct Neighbor {
    name: String,
    /// Place in the flood: records from it do not go back to it.
    link: LinkId,
    /// Requests to its sender thread, from any thread.
    requests: Channel<Request>,
    /// Reason for which its connections are to be closed. Writer: the owner of all links.
    closing: OnceLock<CloseReason>,
    /// Records written over this connection. Writer: the sender thread.
    written: AtomicU64,
    /// Writer: the sender thread.
    connection: Mutex<Connection>,
    /// Records of `written` that the neighbor has applied. Writer: the sender's reader thread.
    acknowledged: AtomicU64,
    /// Fill of the queue and whether it has overflowed. Writer: the flood, under the apply lock.
    outbox: Gauge,
    /// Writer: the audit thread.
    comparison: Mutex<Option<Comparison>>,
    /// Buckets found to differ. Writer: the audit thread.
    diverged: AtomicU64,
    /// Writers: the sender thread sets what was sent, its reader thread what is confirmed.
    holdings: Mutex<Holdings>,
    /// The last report of two servers of one name, and its time. Writers: a receiver, for two that
    /// call themselves as this neighbor; the sender's reader thread, for this server's own name.
    twin: Mutex<Option<(Instant, String)>>,
}

/// Records that a neighbor is known to hold, by its own words.
#[derive(Debug, Default)]
struct Holdings {
    /// Vector that covers records which the neighbor has confirmed.
    confirmed: Vector,
    /// Markers sent over this connection, each with the number of records before it.
    sent: VecDeque<(u64, Arc<Vector>)>,
}

/// The part of the state that changes seldom.
#[derive(Debug, Default)]
struct Connection {
    /// Never [`LinkPhase::Dirty`]: that is the outbox's to know.
    phase: LinkPhase,
    resyncs: u64,
    error: Option<LinkError>,
    /// The neighbor's last refusal of a connection, since the last connection.
    refusal: Option<Refusal>,
}

impl Neighbor {
    /// A neighbor that is not connected.
    pub(super) fn new(
        name: &str,
        link: LinkId,
        outbox: Gauge,
        requests: Channel<Request>,
    ) -> Neighbor {
        Neighbor {
            name: name.to_owned(),
            link,
            requests,
            closing: OnceLock::new(),
            written: AtomicU64::new(0),
            connection: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            outbox,
            comparison: Mutex::default(),
            diverged: AtomicU64::new(0),
            holdings: Mutex::default(),
            twin: Mutex::default(),
        }
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns its place in the flood.
    pub(super) fn link(&self) -> LinkId {
        self.link
    }

    /// Has the sender dial at once.
    pub(super) fn wake_sender(&self) {
        // A sender with requests waiting is awake.
        let _ = self.requests.try_send(Request::Wake);
    }

    /// Has the sender send all records of these buckets.
    pub(super) fn repair(&self, buckets: &[usize]) {
        // A difference that can't be reported now is found again at the next comparisons.
        let _ = self.requests.try_send(Request::Repair(buckets.into()));
    }

    /// Has the sender send all records.
    pub(super) fn resync_all(&self) {
        let _ = self.requests.try_send(Request::ResyncAll);
    }

    /// Notes that its connections are to be closed, and why.
    pub(super) fn close(&self, reason: CloseReason) {
        // The first reason counts.
        let _ = self.closing.set(reason);
    }

    /// Returns the reason for which its connections are to be closed.
    pub(super) fn closing(&self) -> Option<CloseReason> {
        self.closing.get().copied()
    }

    /// Notes that it is being dialed.
    pub(super) fn connecting(&self) {
        self.connection.lock().phase = LinkPhase::Connecting;
    }

    /// Notes a new connection, before anything is written over it.
    pub(super) fn connected(&self) {
        self.written.store(0, Ordering::Relaxed);
        self.holdings.lock().sent.clear();
        let mut connection = self.connection.lock();
        connection.phase = LinkPhase::Resyncing;
        connection.refusal = None;
    }

    /// Notes that a resync begins.
    pub(super) fn resyncing(&self) {
        self.connection.lock().phase = LinkPhase::Resyncing;
    }

    /// Notes that a resync is complete.
    pub(super) fn resynced(&self) {
        let mut connection = self.connection.lock();
        connection.phase = LinkPhase::Live;
        connection.resyncs += 1;
    }

    /// Returns whether a resync has been completed over this connection.
    pub(super) fn is_resynced(&self) -> bool {
        self.connection.lock().phase == LinkPhase::Live
    }

    /// Notes that there is no connection, and why. A neighbor that does not answer takes back nothing
    /// of what it has said of this server's place in the herd.
    pub(super) fn lost(&self, at: Timestamp, reason: String, refusal: Option<Refusal>) {
        let mut connection = self.connection.lock();
        connection.phase = LinkPhase::Down;
        connection.error = Some(LinkError { at, reason });
        let stays = matches!(
            connection.refusal,
            Some(Refusal::NotANeighbor | Refusal::WrongKey)
        );
        if refusal.is_some() || !stays {
            connection.refusal = refusal;
        }
    }

    /// Returns whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.lock().phase.is_connected()
    }

    /// Returns its name, and why there is no connection.
    pub(super) fn shown_error(&self) -> String {
        let connection = self.connection.lock();
        let error = connection.error.as_ref();
        let reason = error.map_or("not connected yet", |error| &error.reason);
        format!("{}: {reason}", self.name)
    }

    /// Returns the refusal that the last attempt to connect ended with.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.connection.lock().refusal
    }

    /// Counts records that are about to be written. Before the write, so that no acknowledgement
    /// is ever ahead of it.
    pub(super) fn writing(&self, records: usize) {
        self.written.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Notes how many records the neighbor has applied; `false` if that is more than were sent.
    pub(super) fn acknowledge(&self, records: u64) -> bool {
        let plausible = records <= self.written.load(Ordering::Relaxed);
        if plausible {
            self.acknowledged.store(records, Ordering::Relaxed);
            self.holdings.lock().confirm(records);
        }
        plausible
    }

    /// Notes the vector that the neighbor has sent: all that it holds, whatever it held before.
    pub(super) fn holds(&self, vector: &Vector) {
        self.holdings.lock().confirmed.clone_from(vector);
    }

    /// Notes that a marker has been written behind all records so far.
    pub(super) fn marked(&self, marker: Arc<Vector>) {
        let written = self.written.load(Ordering::Relaxed);
        let mut holdings = self.holdings.lock();
        if holdings.sent.len() >= MARKERS {
            holdings.sent.pop_front();
        }
        holdings.sent.push_back((written, marker));
    }

    /// Returns a vector that covers records which the neighbor has confirmed that it holds.
    pub(super) fn confirmed(&self) -> Vector {
        self.holdings.lock().confirmed.clone()
    }

    /// Notes a report that two servers have one name. Returns whether it is news.
    pub(super) fn report_twin(&self, now: Instant, text: &str) -> bool {
        let mut twin = self.twin.lock();
        let is_news = !matches!(&*twin, Some((at, _)) if now < *at + TWIN_REPORT);
        *twin = Some((now, text.to_owned()));
        is_news
    }

    /// Returns the report that two servers have one name, while it holds.
    pub(super) fn twin(&self, now: Instant) -> Option<String> {
        let twin = self.twin.lock();
        let (at, text) = twin.as_ref()?;
        (now < *at + TWIN_REPORT).then(|| text.clone())
    }

    /// Returns the last comparison with this server, to be replaced.
    pub(super) fn comparison(&self) -> &Mutex<Option<Comparison>> {
        &self.comparison
    }

    /// Counts buckets in which the neighbor differs.
    pub(super) fn diverged(&self, buckets: usize) {
        self.diverged.fetch_add(buckets as u64, Ordering::Relaxed);
    }

    /// Returns the state of the link as of about now.
    pub(super) fn status(&self) -> LinkStatus {
        let queue = self.outbox.depth();
        let connection = self.connection.lock();
        let phase = match connection.phase {
            LinkPhase::Live if queue.overflowed => LinkPhase::Dirty,
            phase => phase,
        };
        LinkStatus {
            phase,
            written: self.written.load(Ordering::Relaxed),
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            queue,
            resyncs: connection.resyncs,
            diverged: self.diverged.load(Ordering::Relaxed),
            error: connection.error.clone(),
        }
    }
}

impl Holdings {
    /// Takes the acknowledgement of that number of records.
    fn confirm(&mut self, records: u64) {
        while let Some((before, _)) = self.sent.front()
            && *before <= records
        {
            if let Some((_, marker)) = self.sent.pop_front() {
                self.confirmed.merge(&marker);
            }
        }
    }
}

/// The neighbors of a server by name. Writer: the owner of all links.
#[derive(Debug, Default)]
pub(super) struct Neighbors(RwLock<BTreeMap<String, Arc<Neighbor>>>);

impl Neighbors {
    /// Adds a neighbor.
    pub(super) fn insert(&self, neighbor: Arc<Neighbor>) {
        self.0.write().insert(neighbor.name.clone(), neighbor);
    }

    /// Removes a neighbor, whose connections are to be closed.
    pub(super) fn dismiss(&self, name: &str) {
        if let Some(neighbor) = self.0.write().remove(name) {
            neighbor.close(CloseReason::Dismissed);
        }
    }

    /// Returns the neighbor of that name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Neighbor>> {
        self.0.read().get(name).cloned()
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Returns all of them.
    pub(super) fn all(&self) -> Vec<Arc<Neighbor>> {
        self.0.read().values().cloned().collect()
    }

    /// Returns the state of all links.
    pub(super) fn status(&self) -> BTreeMap<String, LinkStatus> {
        let neighbors = self.0.read();
        let status =
            |(name, neighbor): (&String, &Arc<Neighbor>)| (name.clone(), neighbor.status());
        neighbors.iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::outbox::{Batch, OutboxSender, outbox};

    fn neighbor(batches: usize) -> (OutboxSender, Neighbor) {
        let (sender, receiver) = outbox(batches);
        let (requests, _) = crossbeam_channel::bounded(1);
        let neighbor = Neighbor::new("Ball", LinkId(0), receiver.gauge(), requests);
        (sender, neighbor)
    }

    #[test]
    fn lag_is_the_number_written_or_queued_and_not_acknowledged() {
        let (outbox, neighbor) = neighbor(2);
        assert_eq!(neighbor.status().lag(), None);
        neighbor.connected();
        neighbor.writing(10);
        outbox.push(&Batch::new(b"one\ntwo\n".to_vec(), 2)).unwrap();
        assert_eq!(neighbor.status().lag(), Some(12));
        assert!(neighbor.acknowledge(7));
        assert_eq!(neighbor.status().lag(), Some(5));
        // More than was sent is no acknowledgement.
        assert!(!neighbor.acknowledge(11));
        assert_eq!(neighbor.status().lag(), Some(5));
        // The next connection counts from 0.
        neighbor.lost(Timestamp::from_nanos(5), "gone".to_owned(), None);
        assert_eq!(neighbor.status().lag(), None);
        neighbor.connected();
        assert!(neighbor.acknowledge(0));
        assert_eq!(neighbor.status().lag(), Some(2));
    }

    #[test]
    fn a_marker_is_confirmed_with_the_records_before_it() {
        let (_outbox, neighbor) = neighbor(2);
        let marker = |sequence| {
            let mut vector = Vector::default();
            vector.advance(b"Ball", 1, sequence);
            Arc::new(vector)
        };
        neighbor.connected();
        neighbor.holds(&marker(1));
        neighbor.writing(10);
        neighbor.marked(marker(11));
        neighbor.writing(5);
        neighbor.marked(marker(16));
        for (acknowledged, held) in [(9, 1), (10, 11), (14, 11), (15, 16)] {
            assert!(neighbor.acknowledge(acknowledged));
            assert_eq!(neighbor.confirmed(), *marker(held), "{acknowledged}");
        }
        // A connection that is lost does not unsay what was confirmed over it; markers that were
        // not confirmed count no more.
        neighbor.writing(1);
        neighbor.marked(marker(17));
        neighbor.connected();
        assert!(neighbor.acknowledge(0));
        assert_eq!(neighbor.confirmed(), *marker(16));
        // A neighbor that comes back without its data has confirmed nothing.
        neighbor.holds(&Vector::default());
        assert_eq!(neighbor.confirmed(), Vector::default());
    }

    #[test]
    fn a_refusal_holds_until_the_neighbor_answers_something_else() {
        let (_outbox, neighbor) = neighbor(2);
        let lose = |refusal| neighbor.lost(Timestamp::from_nanos(5), "gone".to_owned(), refusal);
        for (refusal, expected) in [
            (Some(Refusal::Skew), Some(Refusal::Skew)),
            (None, None),
            (Some(Refusal::NotANeighbor), Some(Refusal::NotANeighbor)),
            // It does not answer.
            (None, Some(Refusal::NotANeighbor)),
            (Some(Refusal::Other), Some(Refusal::Other)),
            (Some(Refusal::WrongKey), Some(Refusal::WrongKey)),
            (None, Some(Refusal::WrongKey)),
        ] {
            lose(refusal);
            assert_eq!(neighbor.refusal(), expected);
        }
        neighbor.connected();
        assert_eq!(neighbor.refusal(), None);
    }

    #[test]
    fn an_overflow_shows_before_the_sender_has_seen_it() {
        let (outbox, neighbor) = neighbor(1);
        neighbor.connected();
        neighbor.resynced();
        let batch = Batch::new(b"one\n".to_vec(), 1);
        outbox.push(&batch).unwrap();
        assert_eq!(neighbor.status().phase, LinkPhase::Live);
        outbox.push(&batch).unwrap_err();
        assert_eq!(neighbor.status().phase, LinkPhase::Dirty);
        outbox.clear();
        assert_eq!(neighbor.status().phase, LinkPhase::Live);
    }

    #[test]
    fn a_phase_is_written_alike_in_words_and_in_json() {
        for phase in [
            LinkPhase::Down,
            LinkPhase::Connecting,
            LinkPhase::Resyncing,
            LinkPhase::Live,
            LinkPhase::Dirty,
        ] {
            let json = serde_json::to_string(&phase).unwrap();
            assert_eq!(json, format!("\"{phase}\""));
        }
    }
}
