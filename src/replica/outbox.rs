//! The queue between the flood and one neighbor's sender: bounded in groups and in bytes.
//!
//! The flood holds the inlet and never waits; the sender holds the outlet. They know nothing
//! else of each other.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{
    AtomicBool, AtomicUsize, Ordering, Receiver, RecvTimeoutError, Sender, TryRecvError, bounded,
};

/// Groups of records held for one neighbor; past this its link is dirty.
pub const QUEUE_GROUPS: usize = 16_384;

/// Bytes of records held for one neighbor; past this its link is dirty.
pub const QUEUE_BYTES: usize = 16 << 20;

/// One neighbor in the flood; none that comes later has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(pub usize);

/// Whole lines that go to several neighbors as they are.
#[derive(Clone, Debug)]
pub struct Batch {
    lines: Arc<[u8]>,
    records: usize,
}

impl Batch {
    /// Lines of which so many are records.
    pub fn new(lines: Vec<u8>, records: usize) -> Batch {
        Batch {
            lines: lines.into(),
            records,
        }
    }

    /// How many of the lines are records.
    pub fn records(&self) -> usize {
        self.records
    }
}

impl Deref for Batch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.lines
    }
}

/// What a sender finds in its queue.
#[derive(Clone, Debug)]
pub enum Queued {
    /// Lines to be sent as they are: records, or a marker that covers records before it.
    Lines(Batch),
    /// The queue was full and has been cleared; nothing more comes until a resync.
    Overflowed,
}

/// The queue was full: it has been cleared, and its reader will be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// What waits in a queue, counted.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicUsize,
    records: AtomicUsize,
    /// Something has been dropped since the queue was last cleared for a resync.
    overflowed: AtomicBool,
}

impl Counts {
    /// Counts a group in; how many bytes there are now.
    fn add(&self, group: &Batch) -> usize {
        self.records.fetch_add(group.records, Ordering::Relaxed);
        self.bytes.fetch_add(group.len(), Ordering::Relaxed) + group.len()
    }

    fn remove(&self, group: &Batch) {
        self.records.fetch_sub(group.records, Ordering::Relaxed);
        self.bytes.fetch_sub(group.len(), Ordering::Relaxed);
    }

    fn forget(&self, queued: &Queued) {
        if let Queued::Lines(group) = queued {
            self.remove(group);
        }
    }
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Groups of lines.
    pub groups: usize,
    /// Bytes of lines.
    pub bytes: usize,
    /// Records among the lines.
    pub records: usize,
    /// It was full, and what it held has been dropped: a resync is to come.
    pub overflowed: bool,
}

/// Looks at a queue from outside.
#[derive(Clone, Debug)]
pub struct Gauge {
    queue: Receiver<Queued>,
    counts: Arc<Counts>,
}

impl Gauge {
    /// How full the queue is at about this moment.
    pub fn depth(&self) -> Depth {
        Depth {
            groups: self.queue.len(),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            records: self.counts.records.load(Ordering::Relaxed),
            overflowed: self.counts.overflowed.load(Ordering::Relaxed),
        }
    }
}

/// The flood's end.
#[derive(Debug)]
pub struct OutboxSender {
    queue: Sender<Queued>,
    /// The sender's end, to clear the queue with.
    other_end: Receiver<Queued>,
    counts: Arc<Counts>,
}

/// The end that a neighbor's sender thread drains.
#[derive(Debug)]
pub struct OutboxReceiver {
    queue: Receiver<Queued>,
    counts: Arc<Counts>,
}

/// An empty queue of at most `groups` groups.
pub fn outbox(groups: usize) -> (OutboxSender, OutboxReceiver) {
    let (queue, other_end) = bounded(groups);
    let counts = Arc::new(Counts::default());
    let outlet = OutboxReceiver {
        queue: other_end.clone(),
        counts: Arc::clone(&counts),
    };
    let inlet = OutboxSender {
        queue,
        other_end,
        counts,
    };
    (inlet, outlet)
}

impl OutboxSender {
    /// Queues lines; where there is no room, clears the queue and leaves word of it instead.
    pub fn push(&self, group: &Batch) -> Result<(), Overflow> {
        let bytes = self.counts.add(group);
        if bytes <= QUEUE_BYTES && self.queue.try_send(Queued::Lines(group.clone())).is_ok() {
            return Ok(());
        }
        self.counts.remove(group);
        self.clear();
        self.counts.overflowed.store(true, Ordering::Relaxed);
        // There is room for this one: the queue has just been emptied, and nobody else adds.
        let told = self.queue.try_send(Queued::Overflowed);
        debug_assert!(told.is_ok());
        Err(Overflow)
    }

    /// Lets go of all that is queued.
    pub fn clear(&self) {
        while let Ok(queued) = self.other_end.try_recv() {
            self.counts.forget(&queued);
        }
        self.counts.overflowed.store(false, Ordering::Relaxed);
    }
}

impl OutboxReceiver {
    /// The queue itself, to wait for along with others; what comes out goes through
    /// [`taken`](Self::taken).
    pub fn channel(&self) -> &Receiver<Queued> {
        &self.queue
    }

    /// Counts what was received from [`channel`](Self::channel) as gone.
    pub fn taken(&self, queued: Queued) -> Queued {
        self.counts.forget(&queued);
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

    /// What shows how full the queue is.
    pub fn gauge(&self) -> Gauge {
        Gauge {
            queue: self.queue.clone(),
            counts: Arc::clone(&self.counts),
        }
    }
}
