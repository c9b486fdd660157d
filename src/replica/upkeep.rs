//! The threads that look after a replica while others report to it: one brings the journal to disk,
//! for all callers that wait for that at once; one watches the journal's files, compacts the journal
//! when it has grown, drops dead records, and prunes the version vector, with or without a journal; one sends markers.
//!
//! With `--ack disk` a client's replies wait until its reports are on disk. No worker blocks for
//! that: it leaves a callback with a position in the journal, and one sync serves all callers
//! before it. What must be done under the apply lock is in `durable` and `prune`.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use log::{Level, debug, error, info};

use super::Replica;
use super::stall::Stall;
use crate::logging::RECOVERY;
use crate::model::time::Timestamp;
use crate::store::journal::{JournalError, SyncPosition, Syncer};
use crate::thread::{self, Stop, Stopper};

/// Callbacks that may wait for the disk; past this their callers block until the next sync.
const QUEUE_WAITERS: usize = 65_536;

/// Maximum time that the journal is behind the cache with `--ack memory`.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Interval of the checks whether the journal's files are still there, and whether it has grown too
/// large or has failed.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Longest pause after a compaction that failed. It may have written most of the records by then,
/// and would use up the disk if it were repeated all the time.
const MAX_COMPACTION_PAUSE: Duration = Duration::from_secs(60);

/// Time for which the journal still counts as failing once it has been written again, after its files
/// were deleted or changed: otherwise nobody who asks once a second would be told. The log keeps it.
const TAMPERING_SHOWN: Duration = Duration::from_secs(1);

/// Free space of a disk that was full with which reports are expected to be taken again, even if a
/// compaction needs more.
const ROOM_BYTES: u64 = 64 << 10;

/// Interval at which epochs without a live record are pruned from the vector.
const PRUNING_INTERVAL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });

/// Interval at which dead records are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Interval at which markers are sent: up to where this server holds everything. They also show
/// the neighbors that this server is alive.
const MARKER_INTERVAL: Duration = Duration::from_secs(1);

/// Called once a position in the journal is on disk.
pub(crate) type OnDisk = Box<dyn FnOnce() + Send>;

struct Waiter {
    position: SyncPosition,
    on_disk: OnDisk,
}

/// Waits for the disk on behalf of sessions.
#[derive(Clone)]
pub(crate) struct Durability(Sender<Waiter>);

impl std::fmt::Debug for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Durability").finish_non_exhaustive()
    }
}

impl Durability {
    /// Calls `on_disk`, on another thread, once everything up to that position is on disk. After
    /// [`Upkeep::stop`] it is dropped instead.
    pub(crate) fn wait(&self, position: SyncPosition, on_disk: OnDisk) {
        // The channel closes only when the syncer has ended.
        let _ = self.0.send(Waiter { position, on_disk });
    }
}

/// The threads of a replica's upkeep.
#[derive(Debug)]
pub(crate) struct Upkeep {
    replica: Arc<Replica>,
    stopper: Stopper,
    /// `None` without a journal.
    durability: Option<Durability>,
    stall: Stall,
    threads: Vec<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts the threads. `syncer` is that of the replica's journal, if it has one.
    pub(crate) fn start(replica: &Arc<Replica>, syncer: Option<Syncer>) -> io::Result<Upkeep> {
        let (stopper, stop) = thread::stop_pair();
        let (stall, stalled) = Stall::new();
        let mut upkeep = Upkeep {
            replica: Arc::clone(replica),
            stopper,
            durability: None,
            stall,
            threads: Vec::new(),
        };
        let thread = upkeep.stall.start_thread(replica, stalled, stop.clone())?;
        upkeep.threads.push(thread);
        let (marked, stop_markers) = (Arc::clone(replica), stop.clone());
        let send_markers = move || {
            while !stop_markers.wait(MARKER_INTERVAL) {
                marked.send_markers();
            }
        };
        upkeep.threads.push(thread::spawn("markers", send_markers)?);
        let (kept, stop_upkeep) = (Arc::clone(replica), stop.clone());
        let thread = thread::spawn("upkeep", move || keep_up(&kept, &stop_upkeep))?;
        upkeep.threads.push(thread);
        if let Some(syncer) = syncer {
            let (queue, waiters) = bounded(QUEUE_WAITERS);
            upkeep.durability = Some(Durability(queue));
            let replica = Arc::clone(replica);
            let sync = move || sync_for(&replica, &syncer, &waiters, &stop);
            upkeep.threads.push(thread::spawn("journal-syncer", sync)?);
        }
        Ok(upkeep)
    }

    /// Returns the handle by which sessions wait for the disk; `None` without a journal.
    pub(crate) fn durability(&self) -> Option<Durability> {
        self.durability.clone()
    }

    /// Returns the handle by which sessions wait for a disk that does not answer.
    pub(crate) fn stall(&self) -> Stall {
        self.stall.clone()
    }

    /// Brings everything to disk, and joins the threads. Sessions must have ended. Returns the number
    /// of acknowledged reports that are lost, since the journal can't be written: those that waited
    /// in memory, with [`Ack::Memory`](crate::config::Ack::Memory), or all if its files are gone.
    pub(crate) fn stop(self) -> u64 {
        self.stopper.stop();
        for thread in self.threads {
            if thread.join().is_err() {
                error!("an upkeep thread ended in a panic");
            }
        }
        // The files may have been deleted since the last check.
        let is_lost = self.replica.check_journal(&mut None);
        if (is_lost || self.replica.missing_reports() > 0)
            && let Err(error) = self.replica.compact_journal(Timestamp::now())
        {
            end_if_unsynced(&error);
            error!("journal not compacted: {error}");
            if is_lost {
                return self.replica.len() as u64;
            }
        }
        self.replica.missing_reports()
    }
}

/// Flushes and syncs the journal, and calls back the waiters whose positions are on disk.
fn sync_for(replica: &Replica, syncer: &Syncer, waiters: &Receiver<Waiter>, stop: &Stop) {
    loop {
        let first = thread::waiting(|| {
            select! {
                recv(waiters) -> waiter => waiter.ok(),
                recv(stop.channel()) -> _ => None,
                default(FLUSH_INTERVAL) => None,
            }
        });
        // Read before the queue is emptied: a stopping server has no more sessions to add to it.
        let stopping = stop.is_set();
        let mut waiting: Vec<Waiter> = first.into_iter().chain(waiters.try_iter()).collect();
        replica.flush_journal();
        while stopping || !waiting.is_empty() {
            thread::next_piece();
            let position = sync(syncer);
            let (done, rest): (Vec<Waiter>, _) = waiting
                .into_iter()
                .partition(|waiter| waiter.position <= position);
            waiting = rest;
            for waiter in done {
                (waiter.on_disk)();
            }
            if stopping && waiting.is_empty() {
                return;
            }
        }
    }
}

/// Watches and compacts the journal, drops dead records, and prunes the vector when that is due.
fn keep_up(replica: &Replica, stop: &Stop) {
    let (mut pruned, mut swept) = (Instant::now(), Instant::now());
    let mut logged = None;
    // Since when the journal has been whole again.
    let mut whole: Option<Instant> = None;
    let mut retry = Retry::default();
    while !stop.wait(CHECK_INTERVAL) {
        if pruned.elapsed() >= PRUNING_INTERVAL {
            replica.prune_vector();
            pruned = Instant::now();
        }
        if swept.elapsed() >= SWEEP_INTERVAL {
            let dropped = replica.drop_dead(Timestamp::now(), || !stop.is_set());
            if dropped > 0 {
                debug!("dropped {dropped} records that had expired");
            }
            swept = Instant::now();
        }
        if replica.check_journal(&mut logged) {
            whole = None;
            retry = Retry::default();
        }
        if retry.is_due() {
            match replica.compact_journal(Timestamp::now()) {
                Ok(true) => {
                    retry.succeeded();
                    retry = Retry::default();
                    whole = Some(Instant::now());
                }
                Ok(false) => {}
                Err(error) => {
                    end_if_unsynced(&error);
                    if matches!(error, JournalError::NoRoom { free, .. } if free >= ROOM_BYTES) {
                        replica.note_room();
                    }
                    retry.failed(&error);
                }
            }
        }
        if whole.is_some_and(|since| since.elapsed() >= TAMPERING_SHOWN) {
            replica.forget_tampering();
            whole = None;
        }
    }
}

/// When to try a compaction again that failed.
#[derive(Default)]
struct Retry {
    pause: Duration,
    next: Option<Instant>,
    failed: bool,
}

impl Retry {
    fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    fn succeeded(&self) {
        if self.failed {
            info!(target: RECOVERY, "journal compacted");
        } else {
            info!("journal compacted");
        }
    }

    fn failed(&mut self, error: &JournalError) {
        let level = if self.failed {
            Level::Debug
        } else {
            Level::Warn
        };
        log::log!(level, "journal not compacted: {error}");
        self.failed = true;
        // Asking for the free space writes nothing, and an append that failed meanwhile says that
        // there may be room by now.
        let wrote = !matches!(error, JournalError::NoRoom { .. });
        self.pause = match wrote {
            true => (2 * self.pause).clamp(CHECK_INTERVAL, MAX_COMPACTION_PAUSE),
            false => Duration::ZERO,
        };
        self.next = Some(Instant::now() + self.pause);
    }
}

/// Returns once everything that was appended before is on disk.
fn sync(syncer: &Syncer) -> SyncPosition {
    match syncer.sync() {
        Ok(position) => position,
        Err(error) => end(&error),
    }
}

/// Ends the process if `error` is that of a sync.
///
/// A failed sync is never retried: the kernel may have dropped the bytes that it could not write,
/// and would report the next sync as a success. A compaction that went on would take what was lost
/// for written.
fn end_if_unsynced(error: &JournalError) {
    if matches!(error, JournalError::Sync(_)) {
        end(error);
    }
}

/// The one way out for every failed sync.
fn end(error: &JournalError) -> ! {
    crate::exit::fail(format_args!("{error}; exiting at once"))
}
