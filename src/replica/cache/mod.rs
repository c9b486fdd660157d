//! The cache: the latest record of every client, shared by all workers and links.
//!
//! The clients are distributed over [`SHARDS`] tables by a seeded hash, each behind its own
//! `RwLock`. Writers are serialized by the apply lock anyway; the shards make sure that a table
//! that grows, or is scanned for a neighbor, holds up one client in 64 and not all of them.
//! Measured while a million clients were stored: a reader waited 4 to 5 ms at worst, and 129 to
//! 209 ms with a single table; the stores took the same time in total.
//!
//! No lock guard leaves this module, and nothing is sent or logged under one.

mod grid;
mod shard;

use std::hash::BuildHasher;
use std::ops::Range;
use std::rc::Rc;

use crate::model::grid::{Cover, Point};
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::sync::{AtomicUsize, Ordering, RwLock};
use crate::thread::next_piece;
pub(crate) use shard::{Stored, Until};

use shard::{Scratch, Shard};

/// Number of tables. A power of two.
const SHARDS: usize = 64;

/// Buckets of a table that are swept at a time: 0.1 ms with all of their records out of the processor's
/// caches.
const SWEPT_BUCKETS: usize = 1_024;

/// The latest record of every client.
///
/// The hash has a random seed in every process: ids are chosen by strangers, who could otherwise
/// choose ids that collide.
pub(crate) struct Locations {
    shards: [RwLock<Shard>; SHARDS],
    hasher: foldhash::quality::RandomState,
    len: AtomicUsize,
    /// Tombstones among the records. It changes only under the owner's apply lock.
    tombstones: AtomicUsize,
}

/// A part of a table that is swept at once.
#[derive(Debug)]
pub(crate) struct Piece {
    shard: usize,
    buckets: Range<usize>,
}

/// A search for clients by their positions.
pub(crate) trait Search {
    /// Returns cells among which all that it still wants are; `None` if those are over `max_cells`.
    fn cover(&mut self, max_cells: usize) -> Option<Rc<Cover>>;

    /// Returns whether it may want a client that is at `point`, or at most
    /// [`ERROR_UNITS`](crate::model::grid::ERROR_UNITS) away.
    fn wants(&self, point: Point) -> bool;

    /// Takes the record of a client that it may want. It runs under a lock: it may copy, and must not call
    /// the cache.
    fn take(&mut self, record: &RecordView<'_>);

    /// Returns whether it wants no more.
    fn is_done(&self) -> bool;
}

/// A client's hash, computed once for several lookups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientHash(u64);

impl std::fmt::Debug for Locations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Locations")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Default for Locations {
    fn default() -> Locations {
        Locations::new()
    }
}

impl Locations {
    /// An empty cache.
    pub(crate) fn new() -> Locations {
        Locations {
            shards: std::array::from_fn(|_| RwLock::default()),
            hasher: foldhash::quality::RandomState::default(),
            len: AtomicUsize::new(0),
            tombstones: AtomicUsize::new(0),
        }
    }

    /// Number of records: of clients known, and of clients that were forgotten.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Number of clients that were forgotten.
    pub(crate) fn tombstones(&self) -> usize {
        self.tombstones.load(Ordering::Relaxed)
    }

    /// Returns whether no client is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a client's hash.
    pub(crate) fn key(&self, client: &[u8]) -> ClientHash {
        ClientHash(self.hasher.hash_one(client))
    }

    /// Shows a client's record, or that there is none, to `look`. `key` must be the client's.
    ///
    /// `look` runs under the shard's read lock: it may copy, and must not call the cache.
    pub(crate) fn with<R>(
        &self,
        key: ClientHash,
        client: &[u8],
        look: impl FnOnce(Option<RecordView<'_>>) -> R,
    ) -> R {
        look(self.shard(key).read().find(key.tag(), client))
    }

    /// Stores a record if it is greater than the client's stored one in the order between
    /// servers, or the client's first. `key` must be the client's.
    pub(crate) fn store(&self, key: ClientHash, record: &RecordView<'_>) -> Stored {
        self.store_noting(key, record, |_| None)
    }

    /// Does the same. If the record is stored, `note` is shown the one before it, under the shard's write
    /// lock, and returns the number of the change if somebody is to be told of it.
    pub(crate) fn store_noting(
        &self,
        key: ClientHash,
        record: &RecordView<'_>,
        note: impl FnOnce(Option<&RecordView<'_>>) -> Option<u64>,
    ) -> Stored {
        let mut table = self.shard(key).write();
        let stored = table.store_noting(key.tag(), record, note);
        drop(table);
        let was_tombstone = match stored {
            Stored::New => {
                self.len.fetch_add(1, Ordering::Relaxed);
                false
            }
            Stored::Replaced { tombstone } => tombstone,
            Stored::Not { .. } => return stored,
        };
        match (was_tombstone, record.is_tombstone()) {
            (false, true) => drop(self.tombstones.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.tombstones.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        stored
    }

    /// Shows every piece of a table in which there is a record of that time or before to `remove`, with
    /// no lock held; after each piece that was looked at `between` runs, and ends the sweep by returning
    /// `false`.
    ///
    /// A table that grows meanwhile may have records that were not looked at.
    pub(crate) fn sweep(
        &self,
        until: Timestamp,
        mut remove: impl FnMut(&Piece),
        mut between: impl FnMut() -> bool,
    ) {
        for (number, shard) in self.shards.iter().enumerate() {
            let mut start = 0;
            loop {
                let table = shard.read();
                let end = table.buckets().min(start + SWEPT_BUCKETS);
                let found = table.has_until(until, start..end);
                let is_last = end == table.buckets();
                drop(table);
                if found {
                    remove(&Piece {
                        shard: number,
                        buckets: start..end,
                    });
                }
                let goes_on = between();
                next_piece();
                if !goes_on {
                    return;
                }
                if is_last {
                    break;
                }
                start = end;
            }
        }
    }

    /// Removes the records of these times or before from a piece of a table: the one place where records
    /// leave the cache. Each is shown to `gone`, under the table's write lock, which returns the number of
    /// the change if somebody is to be told of it. Returns how many were removed.
    pub(crate) fn remove(
        &self,
        piece: &Piece,
        until: impl Into<Until>,
        mut gone: impl FnMut(&RecordView<'_>) -> Option<u64>,
    ) -> usize {
        let (mut removed, mut tombstones, mut last_change) = (0, 0, None);
        let mut table = self.shards[piece.shard].write();
        let buckets = piece.buckets.start..piece.buckets.end.min(table.buckets());
        table.remove_until(until, buckets, |record| {
            removed += 1;
            tombstones += usize::from(record.is_tombstone());
            last_change = gone(record).or(last_change);
        });
        table.note_change(last_change);
        drop(table);
        self.len.fetch_sub(removed, Ordering::Relaxed);
        self.tombstones.fetch_sub(tombstones, Ordering::Relaxed);
        removed
    }

    /// Shows every record once, a shard at a time; after each shard `between` runs with no lock
    /// held, and ends the scan by returning `false`.
    ///
    /// Records stored meanwhile may be shown or not: the caller must have a second way to learn of
    /// those.
    pub(crate) fn scan<S>(
        &self,
        state: &mut S,
        mut show: impl FnMut(&mut S, &RecordView<'_>),
        mut between: impl FnMut(&mut S) -> bool,
    ) {
        for shard in &self.shards {
            let table = shard.read();
            for record in table.iter() {
                show(state, &record);
            }
            drop(table);
            let goes_on = between(state);
            next_piece();
            if !goes_on {
                return;
            }
        }
    }

    /// Shows every record that the search wants, a shard or a piece of one at a time, with no lock held
    /// between. Returns whether there was a shard of several pieces: a record that was removed from such a
    /// shard and stored again meanwhile may have been shown twice, any other once.
    pub(crate) fn search(&self, search: &mut impl Search) -> bool {
        let mut had_pieces = false;
        let mut scratch = Scratch::default();
        for shard in &self.shards {
            let mut begin = Some(0);
            while let Some(from) = begin {
                if search.is_done() {
                    return had_pieces;
                }
                had_pieces |= from > 0;
                begin = shard.read().search(search, from, &mut scratch);
                next_piece();
            }
        }
        had_pieces
    }

    /// Shows the records of one piece of the cache, which begins at `from` and has about `records` of
    /// them, to `show`, under one read lock: it may copy. With a `cover`, only those in its cells have to
    /// be shown.
    pub(crate) fn piece(
        &self,
        from: HashPosition,
        records: usize,
        cover: Option<&Cover>,
        mut show: impl FnMut(&RecordView<'_>),
    ) -> PieceRead {
        let shard = (from.0 >> 32) as usize;
        let first_tag = from.0 & u64::from(u32::MAX);
        let table = self.shards[shard].read();
        let in_cells = cover.filter(|cover| {
            let is_small = cover.len() < table.len();
            first_tag == 0 && is_small && table.in_cells(cover).take(records).count() < records
        });
        let mut looked = 0;
        let mut look = |record: &RecordView<'_>| {
            looked += 1;
            show(record);
        };
        let end = match in_cells {
            Some(cover) => {
                table.in_cells(cover).for_each(|record| look(&record));
                1 << 32
            }
            None => {
                let pieces = table.len().div_ceil(records).max(1) as u64;
                let end = first_tag + (1_u64 << 32).div_ceil(pieces);
                table
                    .iter_tags(first_tag..end)
                    .for_each(|record| look(&record));
                end.min(1 << 32)
            }
        };
        PieceRead {
            end: HashPosition(((shard as u64) << 32) + end),
            last_change: table.last_change(),
            looked,
        }
    }

    /// Shows a client's record, or that there is none, to `look`, as [`with`](Self::with) does. Returns
    /// the number of the last change that it may show.
    pub(crate) fn with_last_change(
        &self,
        key: ClientHash,
        client: &[u8],
        look: impl FnOnce(Option<RecordView<'_>>),
    ) -> u64 {
        let table = self.shard(key).read();
        look(table.find(key.tag(), client));
        table.last_change()
    }

    fn shard(&self, key: ClientHash) -> &RwLock<Shard> {
        &self.shards[key.shard()]
    }
}

impl ClientHash {
    fn shard(self) -> usize {
        // Within a shard the low half distinguishes clients.
        (self.0 >> 48) as usize % SHARDS
    }

    fn tag(self) -> u32 {
        self.0 as u32
    }

    /// Returns the hash itself.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Returns where the client is in the order of the pieces of the cache.
    pub(crate) fn position(self) -> HashPosition {
        HashPosition((self.shard() as u64) << 32 | u64::from(self.tag()))
    }
}

/// A place in the order in which the cache is read in pieces: by shard, within it by tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HashPosition(u64);

impl HashPosition {
    /// The end of the cache: all clients are before it.
    pub(crate) const END: HashPosition = HashPosition((SHARDS as u64) << 32);
}

/// A part of the cache that was read under one lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PieceRead {
    /// Where it ends, and the next begins.
    pub(crate) end: HashPosition,
    /// Number of the last change of its shard: none of the later ones was read.
    pub(crate) last_change: u64,
    /// Number of records that were looked at.
    pub(crate) looked: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    fn record<'a>(client: &'a str, time: u64, origin: &'a str) -> RecordView<'a> {
        RecordView {
            client: client.as_bytes(),
            location: b"+0+0",
            time_text: b"1",
            time: Timestamp::from_nanos(time),
            received: Timestamp::from_nanos(time),
            origin: origin.as_bytes(),
            epoch: 1,
            sequence: 1,
        }
    }

    #[track_caller]
    fn check(cache: &Locations, record: &RecordView<'_>, stored: bool) {
        let got = cache.store(cache.key(record.client), record);
        let is_stored = !matches!(got, Stored::Not { .. });
        assert_eq!(is_stored, stored, "{record:?}");
    }

    #[test]
    fn the_greatest_record_wins_whatever_the_order_of_arrival() {
        let cache = Locations::new();
        check(&cache, &record("a", 5, "Ball"), true);
        check(&cache, &record("a", 5, "Ball"), false);
        check(&cache, &record("a", 4, "Welsh"), false);
        check(&cache, &record("a", 5, "Alford"), false);
        check(&cache, &record("a", 5, "Welsh"), true);
        check(&cache, &record("a", 6, "Alford"), true);
        check(&cache, &record("b", 1, "Alford"), true);
        assert_eq!(cache.len(), 2);
        let time = |client: &[u8]| {
            cache.with(cache.key(client), client, |found| {
                found.map(|record| record.time.as_nanos())
            })
        };
        assert_eq!(time(b"a"), Some(6));
        assert_eq!(time(b"c"), None);
    }

    #[test]
    fn a_sweep_removes_what_is_old_and_counts_follow() {
        let cache = Locations::new();
        let clients: Vec<String> = (0..20_000).map(|client| client.to_string()).collect();
        for (number, client) in clients.iter().enumerate() {
            let view = record(client, number as u64, "Ball");
            let tombstone = RecordView::tombstone(view.client, view.time, b"Ball", 1, 1);
            let stored = if number % 4 == 0 { tombstone } else { view };
            check(&cache, &stored, true);
        }
        assert_eq!((cache.len(), cache.tombstones()), (20_000, 5_000));
        // A client that reports again is none of the forgotten, and the other way round.
        check(&cache, &record("0", 20_000, "Ball"), true);
        let key = cache.key(b"1");
        let time = Timestamp::from_nanos(20_000);
        for sequence in [1, 2] {
            cache.store(
                key,
                &RecordView::tombstone(b"1", time, b"Ball", 1, sequence),
            );
        }
        assert_eq!((cache.len(), cache.tombstones()), (20_000, 5_000));
        let until = Timestamp::from_nanos(14_999);
        let (mut gone, mut looks) = (Vec::new(), 0);
        let mut remove = |piece: &Piece| {
            let show = |record: &RecordView<'_>| {
                gone.push(record.client.to_vec());
                None
            };
            assert!(cache.remove(piece, until, show) > 0);
        };
        cache.sweep(until, &mut remove, || {
            looks += 1;
            looks < 30
        });
        assert_eq!(looks, 30, "it can be ended");
        cache.sweep(until, &mut remove, || true);
        gone.sort();
        gone.dedup();
        assert_eq!(gone.len(), 15_000 - 2);
        assert_eq!((cache.len(), cache.tombstones()), (5_002, 1_251));
        for (number, client) in clients.iter().enumerate() {
            let held = cache.with(cache.key(client.as_bytes()), client.as_bytes(), |found| {
                found.is_some()
            });
            assert_eq!(held, !(2..15_000).contains(&number), "{client}");
        }
        cache.sweep(until, |piece| panic!("{piece:?}"), || true);
    }

    #[test]
    fn a_scan_shows_every_record_once_and_can_be_ended() {
        let cache = Locations::new();
        for client in 0..1_000 {
            check(&cache, &record(&client.to_string(), 1, "Ball"), true);
        }
        let mut seen = Vec::new();
        cache.scan(
            &mut seen,
            |seen, record| seen.push(record.client.to_vec()),
            |_| true,
        );
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 1_000);
        let mut shown = 0;
        cache.scan(&mut shown, |shown, _| *shown += 1, |_| false);
        assert!(shown < 1_000);
    }
}
