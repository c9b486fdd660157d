//! Compares the cache with the neighbors', in case a record is ever lost that the rest of the link
//! protocol considers sent (anti-entropy).
//!
//! One thread in each server. Every minute it sends its digest to all neighbors, behind the records
//! that are queued for them; and it compares each neighbor's digest with its own of the same moment.
//! A bucket that differs by the same amount twice running is not in motion but wrong: this server's
//! records of those buckets are sent to the neighbor, whatever its vector covers. The neighbor does
//! likewise, and then both hold the newest record of each client.
//!
//! A digest is a scan of the whole cache. Measured on a busy machine: 185 ns a record, 40 of them
//! the scan itself; so a million clients take a thread 0.2 s, three times a minute in a ring, and
//! a report waits at most 3 ms for the shard that is being read. The alternative, to update the
//! digest with each report, would slow down the path that everything waits for.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use log::{debug, info, warn};

use super::neighbor::{Comparison, Neighbor};
use crate::logging::RECOVERY;
use crate::model::digest::{BUCKETS, Digest, DigestKey};
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::thread::{self, Stop};

/// Age at which a record counts: younger ones may be on their way.
pub(crate) const SETTLED: Duration = Duration::from_secs(10);

/// Neighbors' digests that wait to be compared; past this one is dropped, and the next comes a
/// minute later.
const PEER_DIGESTS: usize = 16;

/// Buckets that are sent one by one, an eighth of the cache; past this all records are sent, so that
/// one round repairs any difference.
const REPAIRED_BUCKETS: usize = 32;

/// Digest that a neighbor has sent.
#[derive(Debug)]
pub(super) struct PeerDigest {
    pub(super) neighbor: Arc<Neighbor>,
    pub(super) digest: Digest,
}

/// The receivers' way to bring their neighbors' digests.
#[derive(Clone, Debug)]
pub(super) struct PeerDigests(Sender<PeerDigest>);

impl PeerDigests {
    /// Makes the queue of digests that wait to be compared.
    pub(super) fn new() -> (PeerDigests, Receiver<PeerDigest>) {
        let (sender, receiver) = bounded(PEER_DIGESTS);
        (PeerDigests(sender), receiver)
    }

    /// Has a digest compared, if there is room for it.
    pub(super) fn offer(&self, peer_digest: PeerDigest) {
        if let Err(refused) = self.0.try_send(peer_digest) {
            let neighbor = refused.into_inner().neighbor;
            debug!(
                "a digest of neighbor {} is dropped: others wait to be compared",
                neighbor.name()
            );
        }
    }
}

/// Returns the moment up to which records count in a comparison at `now`.
pub(crate) fn settled(now: Timestamp) -> Timestamp {
    let age = u64::try_from(SETTLED.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanos(now.as_nanos().saturating_sub(age))
}

/// The thread that compares.
#[derive(Debug)]
pub(super) struct Audit {
    thread: JoinHandle<()>,
    peer_digests: PeerDigests,
}

impl Audit {
    /// Starts to send and compare digests, once in each `interval`.
    pub(super) fn start(
        replica: Arc<Replica>,
        key: DigestKey,
        interval: Duration,
        stop: Stop,
    ) -> io::Result<Audit> {
        let (peer_digests, received) = PeerDigests::new();
        let auditor = Auditor::new(replica, key, interval, stop);
        let thread = thread::spawn("link-audit", move || auditor.run(&received))?;
        Ok(Audit {
            thread,
            peer_digests,
        })
    }

    /// Returns a way to bring neighbors' digests.
    pub(super) fn peer_digests(&self) -> PeerDigests {
        self.peer_digests.clone()
    }

    /// Waits for the thread to end, after its stop signal.
    pub(super) fn join(self) {
        let _ = self.thread.join();
    }
}

/// State of the audit thread. Time is an argument of all but [`run`](Self::run).
pub(super) struct Auditor {
    replica: Arc<Replica>,
    key: DigestKey,
    interval: Duration,
    stop: Stop,
}

impl Auditor {
    pub(super) fn new(
        replica: Arc<Replica>,
        key: DigestKey,
        interval: Duration,
        stop: Stop,
    ) -> Auditor {
        Auditor {
            replica,
            key,
            interval,
            stop,
        }
    }

    fn run(self, peer_digests: &Receiver<PeerDigest>) {
        // Servers that are started together should not all scan at once.
        let mut due = Instant::now() + self.interval.mul_f64(0.5 + 0.5 * fastrand::f64());
        loop {
            let event = thread::waiting(|| {
                select! {
                    recv(self.stop.channel()) -> _ => None,
                    recv(peer_digests) -> peer_digest => peer_digest.ok().map(Some),
                    recv(crossbeam_channel::at(due)) -> _ => Some(None),
                }
            });
            match event {
                None => return,
                Some(Some(peer_digest)) => self.compare(&peer_digest, Instant::now()),
                Some(None) => {
                    self.send(Timestamp::now());
                    due = Instant::now() + self.interval;
                }
            }
        }
    }

    fn digest(&self, until: Timestamp) -> Option<Digest> {
        let go_on = || !self.stop.is_set();
        self.replica.digest(&self.key, until, go_on)
    }

    /// Sends the neighbors this server's digest.
    pub(super) fn send(&self, now: Timestamp) {
        if !self.replica.has_live_links() {
            return;
        }
        if let Some(digest) = self.digest(settled(now)) {
            let mut lines = Vec::new();
            digest.write_lines(&mut lines);
            self.replica.publish(lines);
        }
    }

    /// Compares a neighbor's digest with this server's, and has a lasting difference repaired.
    pub(super) fn compare(&self, peer_digest: &PeerDigest, now: Instant) {
        let PeerDigest { neighbor, digest } = peer_digest;
        let name = neighbor.name();
        let last = neighbor.comparison().lock().take();
        // A neighbor can't make this server scan all the time.
        if matches!(&last, Some(last) if now < last.at + self.interval / 2) {
            debug!("neighbor {name} sends digests too often; this one is not compared");
            *neighbor.comparison().lock() = last;
            return;
        }
        let Some(own) = self.digest(digest.until) else {
            return;
        };
        let mut difference = digest.difference(&own);
        let lasting = match &last {
            Some(last) => difference.lasting_since(&last.difference),
            None => Vec::new(),
        };
        debug!(
            "neighbor {name} differs in {} buckets, {} of them as before",
            difference.buckets(),
            lasting.len()
        );
        if !lasting.is_empty() {
            let sends_all = lasting.len() > REPAIRED_BUCKETS;
            neighbor.diverged(lasting.len());
            warn!(
                "neighbor {name} holds different records in {} of {BUCKETS} buckets of the cache, as it did {:.0} s ago: sending it all records{}",
                lasting.len(),
                self.interval.as_secs_f64(),
                if sends_all { "" } else { " of these buckets" }
            );
            if sends_all {
                neighbor.resync_all();
            } else {
                neighbor.repair(&lasting);
            }
            // The records that are sent now can be judged once they have arrived.
            difference.forget(&lasting);
        }
        let was_reported = last.is_some_and(|last| last.is_reported);
        if was_reported && difference.buckets() == 0 && lasting.is_empty() {
            info!(target: RECOVERY, "neighbor {name} holds the same records again");
        }
        *neighbor.comparison().lock() = Some(Comparison {
            at: now,
            is_reported: !lasting.is_empty() || was_reported && difference.buckets() > 0,
            difference,
        });
    }
}
