//! The queue between the flood and one neighbor's sender: bounded in groups and in bytes.
//!
//! The flood holds the inlet and never waits; the sender holds the outlet. They know nothing
//! else of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

/// Groups of records held for one neighbor; past this its link is dirty.
pub const QUEUE_GROUPS: usize = 16_384;

/// Bytes of records held for one neighbor; past this its link is dirty.
pub const QUEUE_BYTES: usize = 16 << 20;

/// One neighbor, by its place in the flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(pub usize);

/// What a sender finds in its queue.
#[derive(Clone, Debug)]
pub enum Queued {
    /// Lines to be sent as they are: records, or a marker that covers records before it.
    Lines(Arc<[u8]>),
    /// The queue was full and has been cleared; nothing more comes until a resync.
    Overflowed,
}

/// The queue was full: it has been cleared, and its reader will be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// The flood's end.
#[derive(Debug)]
pub struct Inlet {
    queue: Sender<Queued>,
    /// The sender's end, to clear the queue with.
    other_end: Receiver<Queued>,
    bytes: Arc<AtomicUsize>,
}

/// The end that a neighbor's sender thread drains.
#[derive(Debug)]
pub struct Outlet {
    queue: Receiver<Queued>,
    bytes: Arc<AtomicUsize>,
}

/// An empty queue of at most `groups` groups.
pub fn outbox(groups: usize) -> (Inlet, Outlet) {
    let (queue, other_end) = bounded(groups);
    let bytes = Arc::new(AtomicUsize::new(0));
    let outlet = Outlet {
        queue: other_end.clone(),
        bytes: Arc::clone(&bytes),
    };
    let inlet = Inlet {
        queue,
        other_end,
        bytes,
    };
    (inlet, outlet)
}

impl Inlet {
    /// Queues lines; where there is no room, clears the queue and leaves word of it instead.
    pub fn push(&self, lines: &Arc<[u8]>) -> Result<(), Overflow> {
        let bytes = self.bytes.fetch_add(lines.len(), Ordering::Relaxed) + lines.len();
        if bytes <= QUEUE_BYTES
            && self
                .queue
                .try_send(Queued::Lines(Arc::clone(lines)))
                .is_ok()
        {
            return Ok(());
        }
        self.bytes.fetch_sub(lines.len(), Ordering::Relaxed);
        self.clear();
        // There is room for this one: the queue has just been emptied, and nobody else adds.
        let told = self.queue.try_send(Queued::Overflowed);
        debug_assert!(told.is_ok());
        Err(Overflow)
    }

    /// Lets go of all that is queued.
    pub fn clear(&self) {
        while let Ok(queued) = self.other_end.try_recv() {
            uncount(&self.bytes, &queued);
        }
    }
}

impl Outlet {
    /// The queue itself, to wait for along with others; what comes out goes through
    /// [`taken`](Self::taken).
    pub fn channel(&self) -> &Receiver<Queued> {
        &self.queue
    }

    /// Counts what was received from [`channel`](Self::channel) as gone.
    pub fn taken(&self, queued: Queued) -> Queued {
        uncount(&self.bytes, &queued);
        queued
    }

    /// Takes what is there, without waiting.
    pub fn try_take(&self) -> Result<Queued, TryRecvError> {
        self.queue.try_recv().map(|queued| self.taken(queued))
    }

    /// Waits for at most `timeout`.
    pub fn take_timeout(&self, timeout: Duration) -> Result<Queued, RecvTimeoutError> {
        self.queue
            .recv_timeout(timeout)
            .map(|queued| self.taken(queued))
    }

    /// Bytes that wait to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn uncount(bytes: &AtomicUsize, queued: &Queued) {
    if let Queued::Lines(lines) = queued {
        bytes.fetch_sub(lines.len(), Ordering::Relaxed);
    }
}
