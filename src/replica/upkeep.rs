//! The threads behind the journal: one brings it to disk, for all who wait for that at once, and
//! one writes it anew when it has grown.
//!
//! With `--ack disk` a client's replies wait until its reports are on disk. Nobody blocks for it:
//! whoever must wait leaves a callback with a place in the journal, and one sync answers all who
//! came before it.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{Level, error, info};
use parking_lot::Mutex;

use crate::replica::Replica;
use crate::store::journal::{SyncPosition, Syncer};
use crate::thread::{self, Stop, Stopper};

/// Connections that may wait for the disk; past this whoever comes waits for room here.
const QUEUE_WAITERS: usize = 65_536;

/// How far `--ack memory` may be behind.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(100);

/// How often it is seen to whether the journal has grown too large, or has failed.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(1);

/// How often starts of servers that no record is left of are forgotten.
const PRUNING_INTERVAL: Duration = Duration::from_secs(60);

/// Called once a place in the journal is on disk.
pub type OnDisk = Box<dyn FnOnce() + Send>;

struct Waiter {
    position: SyncPosition,
    on_disk: OnDisk,
}

/// The threads, and who waits for them.
pub struct Durability {
    /// Gone once the server stops.
    queue: Mutex<Option<Sender<Waiter>>>,
    compaction: Stopper,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Durability").finish_non_exhaustive()
    }
}

impl Durability {
    /// Starts the thread. `herd` keeps the journal that `syncer` brings to disk.
    pub fn start(replica: Arc<Replica>, syncer: Syncer) -> io::Result<Durability> {
        let (queue, waiters) = bounded(QUEUE_WAITERS);
        let (compaction, stop) = thread::stop_pair();
        let thread = |name: &str| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .stack_size(crate::thread::STACK_BYTES)
        };
        let kept = Arc::clone(&replica);
        let compacting = thread("journal-compactor").spawn(move || compact(&kept, &stop))?;
        let syncing = thread("journal-syncer").spawn(move || run(&replica, &syncer, &waiters))?;
        Ok(Durability {
            queue: Mutex::new(Some(queue)),
            compaction,
            threads: Mutex::new(vec![compacting, syncing]),
        })
    }

    /// Sees to it that `on_disk` is called once everything up to that place is on disk.
    pub fn wait(&self, position: SyncPosition, on_disk: OnDisk) {
        let waiter = Waiter { position, on_disk };
        let queue = self.queue.lock().clone();
        if let Some(queue) = queue {
            // The thread outlives every sender.
            let _ = queue.send(waiter);
        }
    }

    /// Brings everything to disk, and ends the threads.
    pub fn stop(&self) {
        self.compaction.stop();
        self.queue.lock().take();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}

fn run(replica: &Replica, syncer: &Syncer, waiters: &Receiver<Waiter>) {
    loop {
        let first = waiters.recv_timeout(CATCH_UP_INTERVAL);
        let stopping = matches!(first, Err(RecvTimeoutError::Disconnected));
        let mut waiting: Vec<Waiter> = first.into_iter().chain(waiters.try_iter()).collect();
        replica.catch_up();
        while stopping || !waiting.is_empty() {
            let position = sync(syncer);
            let (done, rest) = waiting
                .into_iter()
                .partition(|waiter| waiter.position <= position);
            waiting = rest;
            let done: Vec<Waiter> = done;
            for waiter in done {
                (waiter.on_disk)();
            }
            if stopping && waiting.is_empty() {
                return;
            }
        }
    }
}

fn compact(replica: &Replica, stop: &Stop) {
    let mut failed_before = false;
    let mut pruned = Instant::now();
    while !stop.wait(COMPACTION_INTERVAL) {
        if pruned.elapsed() >= PRUNING_INTERVAL {
            replica.prune_vector();
            pruned = Instant::now();
        }
        match replica.compact_journal() {
            Ok(true) => {
                info!("journal written anew, without what is out of date");
                failed_before = false;
            }
            Ok(false) => {}
            Err(error) => {
                let level = if failed_before {
                    Level::Debug
                } else {
                    Level::Warn
                };
                log::log!(level, "journal not written anew: {error}");
                failed_before = true;
            }
        }
    }
}

/// A failed sync is never tried again: the kernel may have dropped what it could not write, and
/// would call the next one a success.
fn sync(syncer: &Syncer) -> SyncPosition {
    match syncer.sync() {
        Ok(position) => position,
        Err(error) => {
            error!("{error}; ending at once");
            log::logger().flush();
            // The log thread may not come to it any more.
            let _ = writeln!(io::stderr(), "{error}; ending at once");
            std::process::exit(1);
        }
    }
}
