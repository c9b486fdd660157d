//! The change feed: which records have changed, for those who watch.
//!
//! A change is noted where a record is replaced, under the write lock of its shard: that is where
//! the old record is at hand, and where the order of two changes of one client is decided. A shard
//! keeps the number of its last change, so that a reader of the shard knows exactly which changes it
//! has seen. A change that nobody watches is not noted, which costs one look where nobody watches
//! anything, and one for each of two cells where somebody does.
//!
//! The feed is bounded like an outbox: past its bound it is cleared, and its reader has to begin
//! from the cache.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64 as Word;
use std::sync::{Arc, OnceLock};

use crate::model::geo::Position;
use crate::model::grid::{Cell, Cover};
use crate::model::record::{MAX_PACKED_BYTES, RecordView};
use crate::model::time::Timestamp;

use super::Replica;
use crate::replica::cache::{ClientHash, HashPosition, PieceRead};
use crate::sync::{AtomicUsize, Mutex, Ordering, Receiver, Sender, bounded};

/// Changes that wait for the reader of the feed; past this the feed overflows.
const MAX_CHANGES: usize = 65_536;

/// Binary logarithm of the number of bits of a [`Filter`].
const FILTER_BITS: u32 = 20;

/// A change of one client's record.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Number of the change: later ones have greater numbers.
    pub(crate) number: u64,
    /// Hash of the client.
    pub(crate) client: ClientHash,
    /// The location before it, and its time; `None` of a client that was unknown or forgotten.
    pub(crate) before: Option<(Position, Timestamp)>,
    /// The cells of both, the second only if it is another than the first.
    pub(crate) cells: [Option<Cell>; 2],
    /// The location after it; `None` of a client that was forgotten or has expired.
    pub(crate) after: Option<Position>,
    /// The record after it, packed; a tombstone if the client is gone.
    pub(crate) record: Arc<[u8]>,
}

impl Change {
    /// Returns the record after the change.
    pub(crate) fn record(&self) -> RecordView<'_> {
        unpack(&self.record)
    }
}

/// Returns the record that was packed.
pub(crate) fn unpack(mut packed: &[u8]) -> RecordView<'_> {
    RecordView::unpack(&mut packed).expect("a packed record")
}

/// The changes that somebody wants to be told of.
#[derive(Debug)]
pub(crate) enum Interest<'a> {
    /// All.
    Everywhere,
    /// Those that begin or end in one of these cells.
    Cells(&'a Cover),
    /// Those of this client.
    Client(ClientHash),
}

/// Changes taken out of the feed.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The changes in the order of their numbers.
    pub(crate) changes: Vec<Change>,
    /// Set if changes before them were lost.
    pub(crate) has_overflowed: bool,
}

/// The change feed of a replica.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Number of interests; nothing else is looked at while it is 0.
    interests: AtomicUsize,
    everywhere: AtomicUsize,
    cells: Filter,
    clients: Filter,
    queue: Mutex<Queue>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

#[derive(Debug, Default)]
struct Queue {
    taken: Taken,
    /// Number of the last change.
    last: u64,
}

impl Default for Feed {
    fn default() -> Feed {
        let (wake, woken) = bounded(1);
        Feed {
            interests: AtomicUsize::new(0),
            everywhere: AtomicUsize::new(0),
            cells: Filter::default(),
            clients: Filter::default(),
            queue: Mutex::default(),
            wake,
            woken,
        }
    }
}

impl Feed {
    /// Notes changes of that interest from now on. A change that is not noted is in the cache
    /// before a reader locks its shard after this call.
    pub(crate) fn add(&self, interest: &Interest<'_>) {
        match interest {
            Interest::Everywhere => {
                self.everywhere.fetch_add(1, Ordering::Relaxed);
            }
            Interest::Cells(cells) => cells.iter().for_each(|cell| self.cells.add(of_cell(cell))),
            Interest::Client(client) => self.clients.add(client.bits()),
        }
        self.interests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes back an interest that was added.
    pub(crate) fn remove(&self, interest: &Interest<'_>) {
        self.interests.fetch_sub(1, Ordering::Relaxed);
        match interest {
            Interest::Everywhere => {
                self.everywhere.fetch_sub(1, Ordering::Relaxed);
            }
            Interest::Cells(cells) => cells
                .iter()
                .for_each(|cell| self.cells.remove(of_cell(cell))),
            Interest::Client(client) => self.clients.remove(client.bits()),
        }
    }

    /// Returns whether there is an interest.
    #[cfg(test)]
    pub(crate) fn is_watched(&self) -> bool {
        let bits = |filter: &Filter| !filter.counts.lock().is_empty();
        let interests = self.interests.load(Ordering::Relaxed);
        interests > 0 || bits(&self.cells) || bits(&self.clients)
    }

    /// Notes that a client's record `before` becomes `after`, or that it is dropped, if somebody
    /// watches it. Returns the number of the change.
    ///
    /// To be called under the write lock of the client's shard.
    #[inline]
    pub(super) fn note(
        &self,
        client: ClientHash,
        before: Option<&RecordView<'_>>,
        after: Option<&RecordView<'_>>,
    ) -> Option<u64> {
        match self.interests.load(Ordering::Relaxed) {
            0 => None,
            _ => self.note_if_watched(client, before, after),
        }
    }

    fn note_if_watched(
        &self,
        client: ClientHash,
        before: Option<&RecordView<'_>>,
        after: Option<&RecordView<'_>>,
    ) -> Option<u64> {
        let cell = |record: &RecordView<'_>| Cell::of_location(record.location);
        let from = before.and_then(cell);
        let is_same = matches!(
            (before, after), (Some(before), Some(after)) if before.location == after.location
        );
        let to = match is_same {
            true => from,
            false => after.and_then(cell),
        };
        if from.is_none() && to.is_none() {
            return None;
        }
        let from_other = from.filter(|_| from != to);
        let cells = [to, from_other];
        let mut in_cells = cells.iter().flatten();
        let is_watched = self.everywhere.load(Ordering::Relaxed) > 0
            || in_cells.any(|cell| self.cells.has(of_cell(*cell)))
            || self.clients.has(client.bits());
        if !is_watched {
            return None;
        }
        let before = before.filter(|_| from.is_some());
        let last = match (after, before) {
            (Some(after), _) => *after,
            (None, Some(before)) => RecordView {
                location: b"",
                time_text: b"",
                ..*before
            },
            (None, None) => return None,
        };
        let mut packed = [0; MAX_PACKED_BYTES];
        last.pack_into(&mut packed);
        let record = Arc::from(&packed[..last.packed_bytes()]);
        let position = |record: &RecordView<'_>| Position::parse(record.location);
        let before = before.and_then(|before| Some((position(before)?, before.time)));
        let after = after.and_then(position);
        let mut queue = self.queue.lock();
        queue.last += 1;
        let number = queue.last;
        let taken = &mut queue.taken;
        if taken.changes.len() >= MAX_CHANGES {
            *taken = Taken {
                changes: Vec::new(),
                has_overflowed: true,
            };
        }
        taken.changes.push(Change {
            number,
            client,
            before,
            cells,
            after,
            record,
        });
        Some(number)
    }

    /// Wakes the reader of the feed, after changes were noted.
    pub(super) fn wake(&self) {
        // A channel that is full wakes it as well.
        let _ = self.wake.try_send(());
    }

    /// Returns the channel that has a value once changes were noted.
    pub(crate) fn woken(&self) -> &Receiver<()> {
        &self.woken
    }

    /// Takes all changes, for the one reader of the feed.
    pub(crate) fn take(&self) -> Taken {
        std::mem::take(&mut self.queue.lock().taken)
    }
}

impl Replica {
    /// Returns the feed of the changes that somebody watches.
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Returns a client's hash.
    pub(crate) fn key(&self, client: &[u8]) -> ClientHash {
        self.locations.key(client)
    }

    /// Shows the raw records of one piece of the cache; see `cache::Locations::piece`.
    pub(crate) fn piece(
        &self,
        from: HashPosition,
        records: usize,
        cover: Option<&Cover>,
        show: impl FnMut(&RecordView<'_>),
    ) -> PieceRead {
        self.locations.piece(from, records, cover, show)
    }

    /// Shows a client's raw record; see `cache::Locations::with_last_change`.
    pub(crate) fn with_last_change(
        &self,
        client: &[u8],
        look: impl FnOnce(Option<RecordView<'_>>),
    ) -> u64 {
        self.locations
            .with_last_change(self.locations.key(client), client, look)
    }
}

fn of_cell(cell: Cell) -> u64 {
    // Neighboring cells are spread, or all cells of a town would share a few words.
    u64::from(cell.bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

/// A set of hashes that may hold more than was added: bits that are read without a lock.
///
/// They are plain atomics and not those of `crate::sync`: which of two threads comes first at a bit
/// is decided by the lock of the shard under which it is read, as [`Feed::add`] says.
#[derive(Debug, Default)]
struct Filter {
    /// The bits, once there is one.
    words: OnceLock<Box<[Word]>>,
    /// How often each bit that is set was added.
    counts: Mutex<HashMap<u32, u32>>,
}

impl Filter {
    fn bit(hash: u64) -> u32 {
        hash as u32 & ((1 << FILTER_BITS) - 1)
    }

    fn has(&self, hash: u64) -> bool {
        let bit = Filter::bit(hash);
        self.words.get().is_some_and(|words| {
            let word = words[bit as usize / 64].load(Ordering::Relaxed);
            word & 1 << (bit % 64) != 0
        })
    }

    fn add(&self, hash: u64) {
        let bit = Filter::bit(hash);
        let words = self
            .words
            .get_or_init(|| (0..1 << (FILTER_BITS - 6)).map(|_| Word::new(0)).collect());
        let mut counts = self.counts.lock();
        *counts.entry(bit).or_insert(0) += 1;
        words[bit as usize / 64].fetch_or(1 << (bit % 64), Ordering::Relaxed);
    }

    fn remove(&self, hash: u64) {
        let bit = Filter::bit(hash);
        let mut counts = self.counts.lock();
        let Some(count) = counts.get_mut(&bit) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            counts.remove(&bit);
            if let Some(words) = self.words.get() {
                words[bit as usize / 64].fetch_and(!(1 << (bit % 64)), Ordering::Relaxed);
            }
        }
    }
}
