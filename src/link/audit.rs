//! Compares the cache with the neighbors', in case anything is ever lost that the rest of the
//! link protocol believes to be there.
//!
//! One thread in each server. Every minute it sends its digest to all neighbors, behind
//! the records that are queued for them; and it holds each neighbor's digest against its own of
//! the same moment. What differs by the same amount twice running is not in motion but wrong:
//! this server's records of those buckets are sent to the neighbor, whatever its vector says.
//! The neighbor does likewise, and then both hold the newest of each client.
//!
//! A digest is a scan of the whole cache. Measured on a busy machine: 185 ns a record, 40 of them
//! the scan itself; so a million clients take a thread 0.2 s, three times a minute in a ring, and
//! a report waits at most 3 ms for the shard that is being read. The alternative, keeping the
//! digest up with each report, would cost the path that everything waits for.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use log::{debug, warn};

use super::receiver::Known;
use crate::model::digest::{Digest, DigestDifference, DigestKey};
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::thread::Stop;

/// How long ago a record must have been received to count: younger ones may be on their way.
pub const SETTLED: Duration = Duration::from_secs(10);

/// Neighbors' digests that wait to be compared; past this one is dropped, and the next comes a
/// minute later.
const CLAIMS: usize = 16;

/// Buckets that are sent to one neighbor in a round, a sixteenth of the cache; past this the
/// others wait for the next round.
const REPAIRED_BUCKETS: usize = 16;

/// What a neighbor says that it holds.
#[derive(Debug)]
pub(super) struct PeerDigest {
    /// Its name.
    pub(super) name: String,
    /// Who it is.
    pub(super) known: Arc<Known>,
    /// Its digest.
    pub(super) digest: Digest,
}

/// Where receivers bring what their neighbors say that they hold.
#[derive(Clone, Debug)]
pub struct PeerDigests(Sender<PeerDigest>);

impl PeerDigests {
    pub(super) fn bring(&self, claim: PeerDigest) {
        if let Err(refused) = self.0.try_send(claim) {
            let name = refused.into_inner().name;
            debug!("a digest of neighbor {name} is dropped: others wait to be compared");
        }
    }
}

/// The last comparison with one neighbor.
#[derive(Debug)]
pub(super) struct Comparison {
    at: Instant,
    difference: DigestDifference,
}

/// The digest of what `herd` holds that was received up to `until`; `None` if `go_on`, which is
/// asked now and then, says that it is wanted no longer.
pub(super) fn digest_of(
    replica: &Replica,
    key: &DigestKey,
    until: Timestamp,
    mut go_on: impl FnMut() -> bool,
) -> Option<Digest> {
    let mut state = (Digest::new(until), true);
    replica.scan(
        &mut state,
        |(digest, _), record| digest.add(key, record),
        |(_, wanted)| {
            *wanted = go_on();
            *wanted
        },
    );
    let (digest, wanted) = state;
    wanted.then_some(digest)
}

/// The moment up to which records count that is compared now.
pub fn settled(now: Timestamp) -> Timestamp {
    let age = u64::try_from(SETTLED.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanos(now.as_nanos().saturating_sub(age))
}

/// The thread that compares.
#[derive(Debug)]
pub struct Audit {
    thread: JoinHandle<()>,
    claims: PeerDigests,
}

impl Audit {
    /// Begins to compare, once in each `interval`.
    pub fn start(
        replica: Arc<Replica>,
        key: DigestKey,
        interval: Duration,
        stop: Stop,
    ) -> io::Result<Audit> {
        let (sender, claims) = bounded(CLAIMS);
        let auditor = Auditor {
            replica,
            key,
            interval,
            stop,
        };
        let thread = std::thread::Builder::new()
            .name("link-audit".to_owned())
            .stack_size(crate::thread::STACK_BYTES)
            .spawn(move || auditor.run(&claims))?;
        Ok(Audit {
            thread,
            claims: PeerDigests(sender),
        })
    }

    /// Where neighbors' digests are brought.
    pub fn claims(&self) -> PeerDigests {
        self.claims.clone()
    }

    /// Waits for the thread to end, after it has been told to.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

/// The thread's state.
struct Auditor {
    replica: Arc<Replica>,
    key: DigestKey,
    interval: Duration,
    stop: Stop,
}

impl Auditor {
    fn run(self, claims: &Receiver<PeerDigest>) {
        // Servers that are started together should not all scan at once.
        let mut due = Instant::now() + self.interval.mul_f64(0.5 + 0.5 * fastrand::f64());
        loop {
            select! {
                recv(self.stop.channel()) -> _ => return,
                recv(claims) -> claim => match claim {
                    Ok(claim) => self.compare(&claim),
                    Err(_) => return,
                },
                recv(crossbeam_channel::at(due)) -> _ => {
                    self.send();
                    due = Instant::now() + self.interval;
                }
            }
        }
    }

    fn digest(&self, until: Timestamp) -> Option<Digest> {
        digest_of(&self.replica, &self.key, until, || !self.stop.is_set())
    }

    /// Tells the neighbors what this server holds.
    fn send(&self) {
        if !self.replica.has_live_links() {
            return;
        }
        if let Some(digest) = self.digest(settled(Timestamp::now())) {
            let mut lines = Vec::new();
            digest.write_lines(&mut lines);
            self.replica.tell(lines);
        }
    }

    /// Holds a neighbor's digest against this server's.
    fn compare(&self, claim: &PeerDigest) {
        let PeerDigest { name, known, .. } = claim;
        let now = Instant::now();
        let last = known.comparison().lock().take();
        // Nobody makes this server scan all the time.
        if matches!(&last, Some(last) if now < last.at + self.interval / 2) {
            debug!("neighbor {name} sends digests too often; this one is not compared");
            *known.comparison().lock() = last;
            return;
        }
        let Some(own) = self.digest(claim.digest.until) else {
            return;
        };
        let mut difference = claim.digest.difference(&own);
        let lasting = match &last {
            Some(last) => difference.lasting_since(&last.difference),
            None => Vec::new(),
        };
        debug!(
            "neighbor {name} differs in {} buckets, {} of them as before",
            difference.buckets(),
            lasting.len()
        );
        let repaired = &lasting[..lasting.len().min(REPAIRED_BUCKETS)];
        if !lasting.is_empty() {
            known.monitor().diverged(repaired.len());
            warn!(
                "neighbor {name} holds other records in {} of 256 buckets of the cache, and did so {:.0} s ago: sending it all of {} buckets",
                lasting.len(),
                self.interval.as_secs_f64(),
                repaired.len()
            );
            known.sender().repair(repaired);
            // What is sent now can be judged once it has arrived.
            difference.forget(repaired);
        }
        *known.comparison().lock() = Some(Comparison {
            at: now,
            difference,
        });
    }
}
