//! The state of a neighbor, in one place, and the neighbors by name.
//!
//! Each field has one writer, named beside it; everybody else reads. The receiving side reports
//! once a second how many records it has applied over the connection (`PONG`), so the sending side
//! knows how old the oldest record is that it has not confirmed. That costs an addition and a time
//! for each write; the rest changes with the connection.
//!
//! Whether the flood queues records for the neighbor is the flood's own field, since it changes
//! under the apply lock. An overflow of the queue shows in the outbox, and is read from there.

mod holdings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender as Channel;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::health::judge::{NeighborFacts, Refusal};
use crate::link::handshake::FORGET_VERSION;
use crate::link::liveness::SILENCE_LIMIT;
use crate::link::sender::orders::{CloseReason, Request};
use crate::link::traffic::Traffic;
use crate::model::digest::DigestDifference;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::outbox::{Depth, Gauge, LinkId};
use holdings::Holdings;

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
    /// Age in milliseconds of the oldest record that the neighbor has not confirmed, from when it was
    /// queued; 0 if there is none, `None` without a connection. A `PONG` comes once a second.
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// Fill of the queue.
    pub queue: Depth,
    /// Number of resyncs: how often the neighbor was sent the records that it lacked from the cache.
    pub resyncs: u64,
    /// Number of buckets in which the neighbor was found to differ.
    pub diverged: u64,
    /// Why the last connection ended or could not be made, as long as that matters: while the link is
    /// not live, and for 10 s after.
    pub error: Option<LinkError>,
}

/// Time for which the error of a link that is live again is shown.
const ERROR_SHOWN: Duration = Duration::from_secs(10);

/// Why and when a connection ended or could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkError {
    /// When, in nanoseconds since 1970, by the server's clock.
    pub at: Timestamp,
    /// Milliseconds since then, which no difference between clocks changes.
    #[serde(default)]
    pub ago_ms: u64,
    /// Why, in words.
    pub reason: String,
}

impl LinkStatus {
    /// Returns the number of records written or queued that the neighbor has not confirmed; `None`
    /// while there is no connection to count them over. After an overflow the true number is higher.
    pub fn unconfirmed(&self) -> Option<u64> {
        let sent = self.written + self.queue.records as u64;
        self.phase
            .is_connected()
            .then(|| sent.saturating_sub(self.acknowledged))
    }
}

/// Evidence that two servers have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TwinEvidence {
    /// One of them was refused a connection. It tries again at least once in a second.
    Refused,
    /// A record that the other one took, which may have been its last.
    Record,
}

impl TwinEvidence {
    /// Returns the time for which it holds.
    fn holds(self) -> Duration {
        match self {
            TwinEvidence::Refused => Duration::from_millis(1_600),
            TwinEvidence::Record => Duration::from_secs(10),
        }
    }
}

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
    /// The last report of two servers of one name, and the time until which it holds. Writers: a
    /// receiver, for two that call themselves as this neighbor; the sender's reader thread, for this
    /// server's own name.
    twin: Mutex<Option<(Instant, String)>>,
    /// Epoch and address of the start that was dialed last. Writer: the sender thread.
    dialed: Mutex<Option<(u64, String)>>,
    /// Writers: the sender thread and a receiver, each of which knows a connection.
    terms: Mutex<Terms>,
    /// When its clock agreed with this server's last, by both of this server's clocks. Writer: the
    /// sender's reader thread.
    clock_agreed: Mutex<Option<(Instant, Timestamp)>>,
    /// Writers: the threads that read and write its connections.
    traffic: Traffic,
}

/// The neighbor's statements about itself over its connections.
#[derive(Clone, Copy, Debug, Default)]
struct Terms {
    /// Version of the link protocol that both sides speak; 0 before the first connection.
    version: u64,
    /// Age at which it forgets records.
    forget_after: Option<Duration>,
}

/// The part of the state that changes seldom.
#[derive(Debug, Default)]
struct Connection {
    /// Never [`LinkPhase::Dirty`]: that is the outbox's to know.
    phase: LinkPhase,
    resyncs: u64,
    error: Option<(Instant, LinkError)>,
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
            dialed: Mutex::default(),
            terms: Mutex::default(),
            clock_agreed: Mutex::default(),
            traffic: Traffic::default(),
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

    /// Returns the bytes that its connections have carried.
    pub(super) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Notes the version in which a connection speaks, and the age at which the neighbor forgets
    /// records.
    pub(super) fn speaks(&self, version: u64, forget_after: Option<Duration>) {
        *self.terms.lock() = Terms {
            version,
            forget_after,
        };
    }

    /// Notes that the neighbor forgets records at another age from now on.
    pub(super) fn forgets_after(&self, age: Option<Duration>) {
        self.terms.lock().forget_after = age;
    }

    /// Notes that its clock agrees with this server's.
    pub(super) fn clock_agrees(&self, now: Instant, clock: Timestamp) {
        *self.clock_agreed.lock() = Some((now, clock));
    }

    /// Returns when its clock agreed with this server's last, if it is linked and that is as recent as
    /// its signs of life are.
    pub(super) fn clock_agreed(&self, now: Instant) -> Option<(Instant, Timestamp)> {
        let is_linked = self.connection.lock().phase.is_connected();
        let agreed = self.clock_agreed.lock();
        agreed.filter(|(then, _)| is_linked && now.saturating_duration_since(*then) < SILENCE_LIMIT)
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

    /// Notes a new connection, before anything is written over it. The neighbor may lack anything
    /// until the first resync.
    pub(super) fn connected(&self, now: Instant) {
        self.written.store(0, Ordering::Relaxed);
        self.holdings.lock().connected(now);
        let mut connection = self.connection.lock();
        connection.phase = LinkPhase::Resyncing;
        connection.refusal = None;
    }

    /// Notes that records which the neighbor has not been sent are no longer queued: the first of them
    /// was queued at `since`.
    pub(super) fn overflowed(&self, since: Instant) {
        self.holdings.lock().missing.get_or_insert(since);
    }

    /// Notes that a resync begins. Returns since when the neighbor lacks what it is sent.
    pub(super) fn resyncing(&self, now: Instant) -> Instant {
        self.connection.lock().phase = LinkPhase::Resyncing;
        *self.holdings.lock().missing.get_or_insert(now)
    }

    /// Notes that a resync is complete: all of it has been written.
    pub(super) fn resynced(&self) {
        self.holdings.lock().missing = None;
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
    pub(super) fn lost(
        &self,
        now: Instant,
        at: Timestamp,
        reason: String,
        refusal: Option<Refusal>,
    ) {
        let mut connection = self.connection.lock();
        connection.phase = LinkPhase::Down;
        let ago_ms = 0;
        connection.error = Some((now, LinkError { at, ago_ms, reason }));
        let stays = matches!(
            connection.refusal,
            Some(Refusal::NotANeighbor | Refusal::WrongKey)
        );
        if refusal.is_some() || !stays {
            connection.refusal = refusal;
        }
    }

    /// Returns what a server's state depends on.
    pub(super) fn facts(&self, now: Instant) -> NeighborFacts {
        let (twin, terms) = (self.twin(now), *self.terms.lock());
        let connection = self.connection.lock();
        let error = connection.error.as_ref();
        NeighborFacts {
            name: self.name.clone(),
            is_linked: connection.phase.is_connected(),
            error: error.map_or_else(
                || "not connected yet".to_owned(),
                |(_, error)| error.reason.clone(),
            ),
            refusal: connection.refusal,
            twin,
            is_old: terms.version < FORGET_VERSION,
            forget_after: terms.forget_after,
        }
    }

    /// Counts records that are about to be written, the first of which was queued at `since`. Before
    /// the write, so that no acknowledgement is ever ahead of it.
    pub(super) fn writing(&self, records: usize, since: Instant) {
        if records == 0 {
            return;
        }
        let records = records as u64;
        let written = self.written.fetch_add(records, Ordering::Relaxed) + records;
        self.holdings.lock().written(written, since);
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
        self.holdings.lock().marked(written, marker);
    }

    /// Returns a vector that covers records which the neighbor has confirmed that it holds.
    pub(super) fn confirmed(&self) -> Vector {
        self.holdings.lock().confirmed.clone()
    }

    /// Notes a report that two servers have one name. Returns whether it is news.
    pub(super) fn report_twin(&self, now: Instant, evidence: TwinEvidence, text: &str) -> bool {
        let mut twin = self.twin.lock();
        let held = twin.as_ref().map(|(until, _)| *until);
        let until = held.map_or(now, |until| until.max(now));
        *twin = Some((until.max(now + evidence.holds()), text.to_owned()));
        held.is_none_or(|until| now >= until)
    }

    /// Returns the report that two servers have one name, while it holds.
    pub(super) fn twin(&self, now: Instant) -> Option<String> {
        let twin = self.twin.lock();
        let (until, text) = twin.as_ref()?;
        (now < *until).then(|| text.clone())
    }

    /// Notes that the start of that epoch was dialed at that address.
    pub(super) fn dialed(&self, epoch: u64, address: String) {
        *self.dialed.lock() = Some((epoch, address));
    }

    /// Returns the address at which the start of that epoch was dialed, if it was the last.
    pub(super) fn dialed_at(&self, epoch: u64) -> Option<String> {
        let dialed = self.dialed.lock();
        let (_, address) = dialed.as_ref().filter(|(dialed, _)| *dialed == epoch)?;
        Some(address.clone())
    }

    /// Returns the last comparison with this server, to be replaced.
    pub(super) fn comparison(&self) -> &Mutex<Option<Comparison>> {
        &self.comparison
    }

    /// Counts buckets in which the neighbor differs.
    pub(super) fn diverged(&self, buckets: usize) {
        self.diverged.fetch_add(buckets as u64, Ordering::Relaxed);
    }

    /// Returns the state of the link as of about `now`.
    pub(super) fn status(&self, now: Instant) -> LinkStatus {
        let queue = self.outbox.depth();
        let lag = self.holdings.lock().lag(now);
        let connection = self.connection.lock();
        let phase = match connection.phase {
            LinkPhase::Live if queue.overflowed => LinkPhase::Dirty,
            phase => phase,
        };
        let error = connection.error.as_ref().and_then(|(at, error)| {
            let ago = now.saturating_duration_since(*at);
            let matters = phase != LinkPhase::Live || ago < ERROR_SHOWN;
            matters.then(|| LinkError {
                ago_ms: milliseconds(ago),
                ..error.clone()
            })
        });
        LinkStatus {
            phase,
            written: self.written.load(Ordering::Relaxed),
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            lag_ms: phase.is_connected().then(|| milliseconds(lag)),
            queue,
            resyncs: connection.resyncs,
            diverged: self.diverged.load(Ordering::Relaxed),
            error,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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

    /// Returns the state of all links as of about `now`.
    pub(super) fn status(&self, now: Instant) -> BTreeMap<String, LinkStatus> {
        let neighbors = self.0.read();
        let status =
            |(name, neighbor): (&String, &Arc<Neighbor>)| (name.clone(), neighbor.status(now));
        neighbors.iter().map(status).collect()
    }
}
