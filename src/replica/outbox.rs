//! The queue between the flood and one neighbor's sender: bounded in batches and in bytes.
//!
//! The flood holds the sending end and never waits; the link's sender thread holds the receiving
//! end. They know nothing else of each other.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::vector::Vector;
use crate::sync::{AtomicBool, AtomicUsize, Ordering, Receiver, Sender, TryRecvError, bounded};

/// Batches of records held for one neighbor; past this its link is dirty.
pub const QUEUE_BATCHES: usize = 16_384;

/// Bytes of records held for one neighbor; past this its link is dirty.
pub const QUEUE_BYTES: usize = 16 << 20;

/// Id of a neighbor in the flood. It is never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(pub usize);

/// One start of a neighbor: what one connection speaks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighborStart {
    /// The neighbor's place in the flood.
    pub link: LinkId,
    /// Epoch of the start, from the neighbor's `HELLO`.
    pub epoch: u64,
}

/// Whole lines that are sent to several neighbors as they are.
#[derive(Clone, Debug)]
pub struct Batch {
    lines: Arc<[u8]>,
    records: usize,
    /// The vector of the marker that the lines are, if they are one.
    marker: Option<Arc<Vector>>,
}

impl Batch {
    /// A batch of lines, of which `records` are records.
    pub fn new(lines: Vec<u8>, records: usize) -> Batch {
        Batch {
            lines: lines.into(),
            records,
            marker: None,
        }
    }

    /// A batch that is a marker of that vector.
    pub fn marker(vector: Vector) -> Batch {
        let mut lines = Vec::new();
        vector.write_lines("MARKER", &mut lines);
        Batch {
            marker: Some(Arc::new(vector)),
            ..Batch::new(lines, 0)
        }
    }

    /// Returns the vector of the marker that the batch is, if it is one.
    pub fn marked(&self) -> Option<&Arc<Vector>> {
        self.marker.as_ref()
    }

    /// Returns how many of the lines are records.
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

/// Entry of the queue.
#[derive(Clone, Debug)]
pub enum Queued {
    /// Lines to be sent as they are: records, or a marker that covers the records before it.
    Lines(Batch),
    /// The queue was full and has been cleared; no entry follows until a resync.
    Overflowed,
}

/// The queue was full: it has been cleared, and its last entry says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// Counts of what is queued. Writers: the flood, under the apply lock, and the receiving end, which
/// subtracts what it takes.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicUsize,
    records: AtomicUsize,
    /// Batches have been dropped since the queue was last cleared for a resync. Writer: the flood.
    overflowed: AtomicBool,
}

impl Counts {
    /// Adds a batch. Returns the number of bytes.
    fn add(&self, batch: &Batch) -> usize {
        self.records.fetch_add(batch.records, Ordering::Relaxed);
        self.bytes.fetch_add(batch.len(), Ordering::Relaxed) + batch.len()
    }

    fn remove(&self, batch: &Batch) {
        self.records.fetch_sub(batch.records, Ordering::Relaxed);
        self.bytes.fetch_sub(batch.len(), Ordering::Relaxed);
    }

    fn forget(&self, queued: &Queued) {
        if let Queued::Lines(batch) = queued {
            self.remove(batch);
        }
    }
}

/// Fill of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// Batches of lines.
    pub batches: usize,
    /// Bytes of lines.
    pub bytes: usize,
    /// Records among the lines.
    pub records: usize,
    /// It was full, and its content has been dropped: a resync is to come.
    pub overflowed: bool,
}

/// Shows the fill of a queue.
#[derive(Clone, Debug)]
pub struct Gauge {
    queue: Receiver<Queued>,
    counts: Arc<Counts>,
}

impl Gauge {
    /// Returns the fill at about this moment.
    pub fn depth(&self) -> Depth {
        Depth {
            batches: self.queue.len(),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            records: self.counts.records.load(Ordering::Relaxed),
            overflowed: self.counts.overflowed.load(Ordering::Relaxed),
        }
    }
}

/// The flood's end of a queue.
#[derive(Debug)]
pub struct OutboxSender {
    queue: Sender<Queued>,
    /// The receiving end, to clear the queue with.
    other_end: Receiver<Queued>,
    counts: Arc<Counts>,
}

/// The end of a queue that a link's sender thread drains.
#[derive(Debug)]
pub struct OutboxReceiver {
    queue: Receiver<Queued>,
    counts: Arc<Counts>,
}

/// Makes an empty queue of at most `batches` batches.
pub fn outbox(batches: usize) -> (OutboxSender, OutboxReceiver) {
    let (queue, other_end) = bounded(batches);
    let counts = Arc::new(Counts::default());
    let receiver = OutboxReceiver {
        queue: other_end.clone(),
        counts: Arc::clone(&counts),
    };
    let sender = OutboxSender {
        queue,
        other_end,
        counts,
    };
    (sender, receiver)
}

impl OutboxSender {
    /// Queues lines; where there is no room, clears the queue and queues
    /// [`Queued::Overflowed`] instead.
    pub fn push(&self, batch: &Batch) -> Result<(), Overflow> {
        let bytes = self.counts.add(batch);
        if bytes <= QUEUE_BYTES && self.queue.try_send(Queued::Lines(batch.clone())).is_ok() {
            return Ok(());
        }
        self.counts.remove(batch);
        self.clear();
        self.counts.overflowed.store(true, Ordering::Relaxed);
        // There is room for this one: the queue has just been emptied, and nothing else adds to it.
        let queued = self.queue.try_send(Queued::Overflowed);
        debug_assert!(queued.is_ok());
        Err(Overflow)
    }

    /// Drops all that is queued.
    pub fn clear(&self) {
        while let Ok(queued) = self.other_end.try_recv() {
            self.counts.forget(&queued);
        }
        self.counts.overflowed.store(false, Ordering::Relaxed);
    }
}

impl OutboxReceiver {
    /// Returns the queue itself, to wait for along with others. An entry that it yields must be passed
    /// to [`taken`](Self::taken).
    pub fn channel(&self) -> &Receiver<Queued> {
        &self.queue
    }

    /// Subtracts an entry of [`channel`](Self::channel) from the counts.
    pub fn taken(&self, queued: Queued) -> Queued {
        self.counts.forget(&queued);
        queued
    }

    /// Takes the next entry, without waiting.
    pub fn try_take(&self) -> Result<Queued, TryRecvError> {
        self.queue.try_recv().map(|queued| self.taken(queued))
    }

    /// Returns whether records are queued.
    pub fn has_records(&self) -> bool {
        self.counts.records.load(Ordering::Relaxed) > 0
    }

    /// Returns the gauge of the queue.
    pub fn gauge(&self) -> Gauge {
        Gauge {
            queue: self.queue.clone(),
            counts: Arc::clone(&self.counts),
        }
    }
}
