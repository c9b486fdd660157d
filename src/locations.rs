//! The cache: the last record of every client, shared by all workers and links.
//!
//! The clients are dealt over [`SHARDS`] tables by a seeded hash, each behind a `RwLock` of its
//! own. Writers are serialized by the apply lock anyway; what the shards buy is that a table
//! that grows, or is scanned for a neighbor, holds up one client in 64 and not all of them.
//! Measured while a million clients were stored: a reader waited for 4 to 5 ms at worst, with one
//! table for 129 to 209 ms; the stores took the same time in all.
//!
//! No guard leaves this module, and nothing is sent or logged under one.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::RwLock;

use crate::record::{Record, RecordView};

/// How many tables the clients are dealt over. A power of two.
const SHARDS: usize = 64;

/// The last record of every client.
///
/// The hash is seeded anew in every process: ids are chosen by strangers, who could otherwise
/// choose them all alike.
pub struct Locations {
    shards: [RwLock<HashTable<Record>>; SHARDS],
    hasher: foldhash::quality::RandomState,
    len: AtomicUsize,
}

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
    pub fn new() -> Locations {
        Locations {
            shards: std::array::from_fn(|_| RwLock::new(HashTable::new())),
            hasher: foldhash::quality::RandomState::default(),
            len: AtomicUsize::new(0),
        }
    }

    /// How many clients are known.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether no client is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows a client's record, or that there is none, to `look`.
    ///
    /// `look` runs under the shard's read lock: it may copy, and must not call back.
    pub fn with<R>(&self, client: &[u8], look: impl FnOnce(Option<&Record>) -> R) -> R {
        let hash = self.hash(client);
        let table = self.shard(hash).read();
        look(table.find(hash, |record| record.client() == client))
    }

    /// Stores a record if it is greater than the client's stored one in the order between
    /// servers, or the client's first. Says whether it was stored.
    pub fn store(&self, view: &RecordView<'_>) -> bool {
        let hash = self.hash(view.client);
        let mut table = self.shard(hash).write();
        match table.entry(
            hash,
            |record| record.client() == view.client,
            |record| self.hash(record.client()),
        ) {
            Entry::Occupied(mut entry) => {
                if view.order(&entry.get().view()).is_le() {
                    return false;
                }
                let replaced = std::mem::replace(entry.get_mut(), Record::new(view));
                drop(table);
                drop(replaced);
            }
            Entry::Vacant(entry) => {
                entry.insert(Record::new(view));
                drop(table);
                self.len.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }

    /// Shows every record once, a shard at a time; after each shard `between` runs with no lock
    /// held, and ends the scan by returning `false`.
    ///
    /// Records stored meanwhile may be shown or not: who scans must have a second way to hear
    /// of those.
    pub fn scan<S>(
        &self,
        state: &mut S,
        mut show: impl FnMut(&mut S, &Record),
        mut between: impl FnMut(&mut S) -> bool,
    ) {
        for shard in &self.shards {
            let table = shard.read();
            for record in table.iter() {
                show(state, record);
            }
            drop(table);
            if !between(state) {
                return;
            }
        }
    }

    fn hash(&self, client: &[u8]) -> u64 {
        self.hasher.hash_one(client)
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Record>> {
        // The tables take their buckets from the low bits and their tags from the top seven.
        &self.shards[(hash >> 48) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn record(client: &str, time: u64, origin: &'static str) -> Record {
        Record::new(&RecordView {
            client: client.as_bytes(),
            location: b"+0+0",
            time_text: b"1",
            time: Timestamp::from_nanos(time),
            received: Timestamp::from_nanos(time),
            origin: origin.as_bytes(),
            epoch: 1,
            sequence: 1,
        })
    }

    #[track_caller]
    fn check(cache: &Locations, record: &Record, stored: bool) {
        assert_eq!(cache.store(&record.view()), stored, "{record:?}");
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
        cache.with(b"a", |found| {
            assert_eq!(found.map(Record::time), Some(Timestamp::from_nanos(6)))
        });
        cache.with(b"c", |found| assert_eq!(found, None));
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
            |seen, record| seen.push(record.client().to_vec()),
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
