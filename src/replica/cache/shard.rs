//! One table of the cache: records packed end to end in chunks of memory, and an index over them.
//!
//! A separate heap allocation for each record costs the allocator's header and rounding, a fat
//! pointer in the index, and a visit to the record each time the index grows. Here an index entry
//! is 8 bytes, with enough of the hash in it to grow without reading the records; a report of the
//! same size as the one before it, as nearly all are, is written over it in place.
//! Measured at 1 M clients with ids of 26 bytes: see `bench/REPORT.md`.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::model::record::RecordView;

/// Records begin at multiples of this many bytes, a unit.
const UNIT_BYTES: usize = 8;

/// Bytes of one chunk: small enough that a server with few clients is small, since pages that
/// were never written take no memory.
const CHUNK_BYTES: usize = 64 << 10;

/// Units of one chunk.
const CHUNK_UNITS: usize = CHUNK_BYTES / UNIT_BYTES;

/// Index entry of one client.
#[derive(Clone, Copy)]
struct Slot {
    /// Half of the client's hash.
    tag: u32,
    /// Offset of the record, in units: up to 32 GiB in each shard.
    offset: u32,
}

/// Outcome of [`Shard::store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// It is the client's first record.
    New,
    /// It is greater than the stored record, and has replaced it.
    Replaced,
    /// It is not greater than the stored record.
    Not,
}

/// A table of records.
#[derive(Default)]
pub(super) struct Shard {
    index: HashTable<Slot>,
    records: Records,
}

impl Shard {
    /// Returns the client's record.
    pub(super) fn find(&self, tag: u32, client: &[u8]) -> Option<RecordView<'_>> {
        let records = &self.records;
        self.index
            .find(spread(tag), |slot| {
                slot.tag == tag && records.client(slot.offset) == client
            })
            .map(|slot| records.view(slot.offset))
    }

    /// Stores a record if it is greater than the client's stored one, or the client's first.
    pub(super) fn store(&mut self, tag: u32, record: &RecordView<'_>) -> Stored {
        let records = &mut self.records;
        let entry = self.index.entry(
            spread(tag),
            |slot| slot.tag == tag && records.client(slot.offset) == record.client,
            |slot| spread(slot.tag),
        );
        let stored = match entry {
            Entry::Occupied(mut entry) => {
                let offset = entry.get().offset;
                if record.order(&records.view(offset)).is_le() {
                    return Stored::Not;
                }
                entry.get_mut().offset = records.replace(offset, record);
                Stored::Replaced
            }
            Entry::Vacant(entry) => {
                let offset = records.append(record);
                entry.insert(Slot { tag, offset });
                Stored::New
            }
        };
        if self.records.is_wasteful() {
            self.compact();
        }
        stored
    }

    /// Returns all records, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.index.iter().map(|slot| self.records.view(slot.offset))
    }

    /// Copies the live records to new chunks.
    fn compact(&mut self) {
        let mut compacted = Records::default();
        for slot in self.index.iter_mut() {
            slot.offset = compacted.append(&self.records.view(slot.offset));
        }
        self.records = compacted;
    }
}

/// Expands a tag to a hash. The index takes its buckets from the low bits of a hash and its own tags
/// from the top seven; both come from the half that an entry keeps.
fn spread(tag: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(tag)
}

/// Records end to end, each within one chunk.
#[derive(Default)]
struct Records {
    chunks: Vec<Box<[u8]>>,
    /// Units of the last chunk that are in use.
    taken: usize,
    /// Units of records that were replaced and could not be overwritten.
    wasted: usize,
}

impl Records {
    fn view(&self, offset: u32) -> RecordView<'_> {
        RecordView::unpack(&mut self.bytes(offset)).expect("a packed record")
    }

    fn client(&self, offset: u32) -> &[u8] {
        RecordView::packed_client(self.bytes(offset))
    }

    /// Returns the bytes of the record at `offset`, and those behind it.
    fn bytes(&self, offset: u32) -> &[u8] {
        let offset = offset as usize;
        let chunk = &self.chunks[offset / CHUNK_UNITS];
        &chunk[offset % CHUNK_UNITS * UNIT_BYTES..]
    }

    fn append(&mut self, record: &RecordView<'_>) -> u32 {
        let units = units(record);
        if self.chunks.is_empty() || self.taken + units > CHUNK_UNITS {
            self.chunks.push(vec![0; CHUNK_BYTES].into_boxed_slice());
            self.taken = 0;
        }
        let chunk = self.chunks.len() - 1;
        let begin = self.taken * UNIT_BYTES;
        record.pack_into(&mut self.chunks[chunk][begin..]);
        let offset = chunk * CHUNK_UNITS + self.taken;
        self.taken += units;
        offset as u32
    }

    /// Overwrites the record at `offset` if the new one takes as many units, else appends the new
    /// one. Returns its offset.
    fn replace(&mut self, offset: u32, record: &RecordView<'_>) -> u32 {
        let replaced = units(&self.view(offset));
        if replaced == units(record) {
            let offset = offset as usize;
            let begin = offset % CHUNK_UNITS * UNIT_BYTES;
            record.pack_into(&mut self.chunks[offset / CHUNK_UNITS][begin..]);
        } else {
            self.wasted += replaced;
            return self.append(record);
        }
        offset
    }

    /// Returns whether a third of all units is wasted, and at least a chunk.
    fn is_wasteful(&self) -> bool {
        self.wasted > CHUNK_UNITS && 3 * self.wasted > self.chunks.len() * CHUNK_UNITS
    }
}

/// Units that a record takes.
fn units(record: &RecordView<'_>) -> usize {
    record.packed_bytes().div_ceil(UNIT_BYTES)
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
