//! One table of the cache: records laid end to end in chunks of memory, and an index over them.
//!
//! A record of its own in the heap costs the allocator's header and rounding, a fat pointer in
//! the index, and a visit to the record each time the index grows. Here an entry of the index is
//! 8 bytes, with enough of the hash in it to grow without a look at the records; a report that
//! takes as much room as the one before it, which nearly all do, is written over it in place.
//! Measured at 1 M clients with ids of 26 bytes: see `bench/REPORT.md`.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::model::record::RecordView;

/// Records begin at multiples of this many bytes.
const UNIT_BYTES: usize = 8;

/// Bytes of one chunk: small enough that a server with few clients is small, since pages of it
/// that nothing was written to take no memory.
const CHUNK_BYTES: usize = 64 << 10;

/// Units of one chunk.
const CHUNK_UNITS: usize = CHUNK_BYTES / UNIT_BYTES;

/// What a shard holds for one client: the index's entry.
#[derive(Clone, Copy)]
struct Slot {
    /// Half of the client's hash.
    tag: u32,
    /// Where the record begins, in units. 32 GiB can be told apart, for each of the shards.
    place: u32,
}

/// What became of a record that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// The client's first.
    New,
    /// Greater than the one before it, which it replaced.
    Replaced,
    /// Not greater than the stored one.
    Not,
}

/// A table of records.
#[derive(Default)]
pub(super) struct Shard {
    index: HashTable<Slot>,
    records: Records,
}

impl Shard {
    /// The client's record.
    pub(super) fn find(&self, tag: u32, client: &[u8]) -> Option<RecordView<'_>> {
        let records = &self.records;
        self.index
            .find(spread(tag), |slot| {
                slot.tag == tag && records.client(slot.place) == client
            })
            .map(|slot| records.view(slot.place))
    }

    /// Stores a record if it is greater than the client's stored one, or the client's first.
    pub(super) fn store(&mut self, tag: u32, record: &RecordView<'_>) -> Stored {
        let records = &mut self.records;
        let entry = self.index.entry(
            spread(tag),
            |slot| slot.tag == tag && records.client(slot.place) == record.client,
            |slot| spread(slot.tag),
        );
        let stored = match entry {
            Entry::Occupied(mut entry) => {
                let place = entry.get().place;
                if record.order(&records.view(place)).is_le() {
                    return Stored::Not;
                }
                entry.get_mut().place = records.replace(place, record);
                Stored::Replaced
            }
            Entry::Vacant(entry) => {
                let place = records.append(record);
                entry.insert(Slot { tag, place });
                Stored::New
            }
        };
        if self.records.is_wasteful() {
            self.tidy();
        }
        stored
    }

    /// All records, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.index.iter().map(|slot| self.records.view(slot.place))
    }

    /// Copies the live records to new chunks.
    fn tidy(&mut self) {
        let mut tidied = Records::default();
        for slot in self.index.iter_mut() {
            slot.place = tidied.append(&self.records.view(slot.place));
        }
        self.records = tidied;
    }
}

/// The index takes its buckets from the low bits of a hash and its tags from the top seven; both
/// come from the half that an entry keeps.
fn spread(tag: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(tag)
}

/// Records end to end, each within one chunk.
#[derive(Default)]
struct Records {
    chunks: Vec<Box<[u8]>>,
    /// Units of the last chunk that are taken.
    taken: usize,
    /// Units of records that were replaced and could not be written over.
    wasted: usize,
}

impl Records {
    fn view(&self, place: u32) -> RecordView<'_> {
        RecordView::stored(self.bytes(place))
    }

    fn client(&self, place: u32) -> &[u8] {
        RecordView::stored_client(self.bytes(place))
    }

    /// The record there, and what is behind it.
    fn bytes(&self, place: u32) -> &[u8] {
        let place = place as usize;
        let chunk = &self.chunks[place / CHUNK_UNITS];
        &chunk[place % CHUNK_UNITS * UNIT_BYTES..]
    }

    fn append(&mut self, record: &RecordView<'_>) -> u32 {
        let units = units(record);
        if self.chunks.is_empty() || self.taken + units > CHUNK_UNITS {
            self.chunks.push(vec![0; CHUNK_BYTES].into_boxed_slice());
            self.taken = 0;
        }
        let chunk = self.chunks.len() - 1;
        let begin = self.taken * UNIT_BYTES;
        record.store(&mut self.chunks[chunk][begin..]);
        let place = chunk * CHUNK_UNITS + self.taken;
        self.taken += units;
        place as u32
    }

    /// Writes a record over the one that is at `place` if it takes as much room, else elsewhere;
    /// says where.
    fn replace(&mut self, place: u32, record: &RecordView<'_>) -> u32 {
        let replaced = units(&self.view(place));
        if replaced == units(record) {
            let place = place as usize;
            let begin = place % CHUNK_UNITS * UNIT_BYTES;
            record.store(&mut self.chunks[place / CHUNK_UNITS][begin..]);
        } else {
            self.wasted += replaced;
            return self.append(record);
        }
        place
    }

    /// Whether a third of it all is wasted, and at least a chunk.
    fn is_wasteful(&self) -> bool {
        self.wasted > CHUNK_UNITS && 3 * self.wasted > self.chunks.len() * CHUNK_UNITS
    }
}

/// Units that a record takes.
fn units(record: &RecordView<'_>) -> usize {
    record.stored_bytes().div_ceil(UNIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    fn record<'a>(client: &'a [u8], location: &'a [u8], time: u64) -> RecordView<'a> {
        RecordView {
            client,
            location,
            time_text: b"1",
            time: Timestamp::from_nanos(time),
            received: Timestamp::from_nanos(time),
            origin: b"Ball",
            epoch: 1,
            sequence: 1,
        }
    }

    #[test]
    fn clients_of_one_hash_are_told_apart() {
        let mut shard = Shard::default();
        for (client, time) in [(b"a", 1), (b"b", 2), (b"c", 3)] {
            assert_eq!(shard.store(7, &record(client, b"+1+1", time)), Stored::New);
        }
        let time = |client: &[u8]| shard.find(7, client).map(|found| found.time.as_nanos());
        assert_eq!(
            [time(b"a"), time(b"b"), time(b"c"), time(b"d")],
            [Some(1), Some(2), Some(3), None]
        );
        assert!(shard.find(8, b"a").is_none());
    }

    #[test]
    fn records_that_change_their_size_waste_a_bounded_amount() {
        let mut shard = Shard::default();
        let clients: Vec<String> = (0..2_000)
            .map(|client| format!("client-{client}"))
            .collect();
        let locations = ["+1+1", "+1.0000000000+1.0000000000", "+1.000000+1.000000"];
        let mut most = 0;
        for round in 0..30 {
            for (tag, client) in clients.iter().enumerate() {
                let location = locations[(round as usize + tag) % locations.len()].as_bytes();
                let stored = shard.store(tag as u32, &record(client.as_bytes(), location, round));
                assert_eq!(stored == Stored::New, round == 0);
            }
            most = most.max(shard.records.chunks.len());
        }
        // Live are about 2,000 records of up to 88 bytes: 3 chunks.
        assert!(most <= 6, "{most} chunks");
        for (tag, client) in clients.iter().enumerate() {
            let found = shard.find(tag as u32, client.as_bytes());
            let location = locations[(29 + tag) % locations.len()].as_bytes();
            assert_eq!(
                found.map(|found| found.location),
                Some(location),
                "{client}"
            );
        }
        assert_eq!(shard.iter().count(), clients.len());
    }
}
