//! The wait for a stalled disk, on behalf of sessions.
//!
//! A report is appended to the journal under the apply lock, so while the disk does not answer one
//! append, every other report has to wait. Workers that waited for it themselves would soon all be
//! taken, and questions, which need no disk, would go unanswered. So a session that finds the lock held for
//! longer than [`STALL_LIMIT`] leaves a callback here and its worker is free; one thread waits for
//! the lock in the place of all, and calls them back once it is free.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select, unbounded};

use super::Replica;
use crate::thread::{self, Stop};

/// Longest time that a worker waits for the apply lock. It is held for microseconds unless the disk
/// stalls, and a worker that waits answers nobody else.
pub(crate) const STALL_LIMIT: Duration = Duration::from_millis(10);

/// Called once records can be changed.
pub(crate) type OnResponsive = Box<dyn FnOnce() + Send>;

/// Waits for a stalled disk on behalf of sessions.
#[derive(Clone)]
pub(crate) struct Stall {
    /// Never full: there is at most one callback for each connection.
    queue: Sender<OnResponsive>,
    is_stalled: Arc<AtomicBool>,
}

impl std::fmt::Debug for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stall").finish_non_exhaustive()
    }
}

impl Stall {
    /// Creates a handle, and the queue of its callbacks.
    pub(crate) fn new() -> (Stall, Receiver<OnResponsive>) {
        let (queue, waiters) = unbounded();
        let is_stalled = Arc::default();
        (Stall { queue, is_stalled }, waiters)
    }

    /// Returns whether callbacks wait: another worker has found the lock held for too long, so that
    /// there is no use in trying.
    pub(crate) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Relaxed)
    }

    /// Calls `on_responsive`, on another thread, once records can be changed. After the end of that
    /// thread it is dropped instead.
    pub(crate) fn wait(&self, on_responsive: OnResponsive) {
        self.is_stalled.store(true, Ordering::Relaxed);
        // The channel closes only when the thread has ended.
        let _ = self.queue.send(on_responsive);
    }

    /// Starts the thread that waits for the apply lock of `replica`, until the stop signal.
    pub(crate) fn start_thread(
        &self,
        replica: &Arc<Replica>,
        waiters: Receiver<OnResponsive>,
        stop: Stop,
    ) -> io::Result<JoinHandle<()>> {
        let (replica, is_stalled) = (Arc::clone(replica), Arc::clone(&self.is_stalled));
        let run = move || {
            loop {
                let first = thread::waiting(|| {
                    select! {
                        recv(waiters) -> waiter => waiter.ok(),
                        recv(stop.channel()) -> _ => None,
                    }
                });
                let Some(first) = first else { return };
                thread::waiting(|| replica.wait_until_responsive());
                // A session that sees the old value meanwhile is one of the next round.
                is_stalled.store(false, Ordering::Relaxed);
                first();
                waiters.try_iter().for_each(|waiter| waiter());
            }
        };
        thread::spawn("disk-stall", run)
    }
}
