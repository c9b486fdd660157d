//! One table of the cache: records packed end to end in chunks of memory, and an index over them.
//!
//! A separate heap allocation for each record costs the allocator's header and rounding, a fat
//! pointer in the index, and a visit to the record each time the index grows. Here an index entry
//! is 8 bytes, with enough of the hash in it to grow without reading the records; a report of the
//! same size as the one before it, as nearly all are, is written over it in place.
//! Measured at 1 M clients with ids of 26 bytes: see `bench/REPORT.md`.

use std::ops::Range;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::Search;
use super::grid::{Grid, NONE};
use crate::model::grid::{Cover, Point};
use crate::model::record::RecordView;
use crate::model::time::Timestamp;

/// Records begin at multiples of this many bytes, a unit.
const UNIT_BYTES: usize = 8;

/// Bytes of one chunk: small enough that a server with few clients is small, since pages that
/// were never written take no memory.
const CHUNK_BYTES: usize = 64 << 10;

/// Units of one chunk.
const CHUNK_UNITS: usize = CHUNK_BYTES / UNIT_BYTES;

/// Bytes before each record: the number of its client's entry in the grid.
const NUMBER_BYTES: usize = 4;

/// Entries of the grid that a search looks at while it holds the lock, about: 1 ms at most. Small in tests,
/// so that a few thousand clients are pieces.
const PIECE: usize = if cfg!(test) { 16 } else { 16 << 10 };

/// Cells past which a search looks at all records instead.
const MAX_CELLS: usize = 4_096;

/// Cells that are looked at together.
const BATCH: usize = 64;

/// Room for a search's work on one batch.
#[derive(Default)]
pub(super) struct Scratch {
    numbers: Vec<u32>,
    found: Vec<(Point, u32)>,
}

/// Index entry of one client.
#[derive(Clone, Copy)]
struct Slot {
    /// Half of the client's hash.
    tag: u32,
    /// Offset of the record, in units: up to 32 GiB in each shard.
    offset: u32,
}

/// Outcome of storing a record; `tombstone` says whether the record found there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is the client's first record.
    New,
    /// It is greater than the record found there, and has replaced it.
    Replaced { tombstone: bool },
    /// It is not greater than the record found there.
    Not { tombstone: bool },
}

impl Stored {
    /// Returns whether a tombstone has taken the place of a location, or has kept it: a journal that was
    /// given both holds a location that is to be forgotten.
    pub(crate) fn forgets(self, record: &RecordView<'_>) -> bool {
        match self {
            Stored::New => false,
            Stored::Replaced { tombstone } => !tombstone && record.is_tombstone(),
            Stored::Not { tombstone } => tombstone && !record.is_tombstone(),
        }
    }
}

/// The times up to which records are removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    pub(crate) reports: Timestamp,
    pub(crate) tombstones: Timestamp,
}

impl From<Timestamp> for Until {
    fn from(time: Timestamp) -> Until {
        Until {
            reports: time,
            tombstones: time,
        }
    }
}

impl Until {
    fn takes(self, record: &RecordView<'_>) -> bool {
        let until = match record.is_tombstone() {
            true => self.tombstones,
            false => self.reports,
        };
        record.time <= until
    }
}

/// A table of records.
#[derive(Default)]
pub(super) struct Shard {
    index: HashTable<Slot>,
    records: Records,
    grid: Grid,
    /// Number of the last change in the feed that is one of this table.
    last_change: u64,
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

    /// Returns the number of records.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns the number of the last change that was noted.
    pub(super) fn last_change(&self) -> u64 {
        self.last_change
    }

    /// Keeps the number of a change, if it was noted.
    pub(super) fn note_change(&mut self, change: Option<u64>) {
        self.last_change = change.unwrap_or(self.last_change);
    }

    /// Stores a record if it is greater than the client's stored one, or the client's first.
    #[cfg(test)]
    fn store(&mut self, tag: u32, record: &RecordView<'_>) -> Stored {
        self.store_noting(tag, record, |_| None)
    }

    /// Stores a record if it is greater than the client's stored one, or the client's first. If so,
    /// `note` is shown the record before it, and returns the number of the change if it was noted.
    pub(super) fn store_noting(
        &mut self,
        tag: u32,
        record: &RecordView<'_>,
        note: impl FnOnce(Option<&RecordView<'_>>) -> Option<u64>,
    ) -> Stored {
        let records = &mut self.records;
        let entry = self.index.entry(
            spread(tag),
            |slot| slot.tag == tag && records.client(slot.offset) == record.client,
            |slot| spread(slot.tag),
        );
        let (stored, change) = match entry {
            Entry::Occupied(mut entry) => {
                let offset = entry.get().offset;
                let found = records.view(offset);
                let tombstone = found.is_tombstone();
                if record.order(&found).is_le() {
                    return Stored::Not { tombstone };
                }
                let change = note(Some(&found));
                let has_moved = record.location != found.location;
                let new_offset = records.replace(offset, record);
                if has_moved || new_offset != offset {
                    entry.get_mut().offset = new_offset;
                    records.place(&mut self.grid, new_offset, Point::parse(record.location));
                }
                (Stored::Replaced { tombstone }, change)
            }
            Entry::Vacant(entry) => {
                let offset = records.append(record, NONE);
                records.place(&mut self.grid, offset, Point::parse(record.location));
                entry.insert(Slot { tag, offset });
                (Stored::New, note(None))
            }
        };
        self.note_change(change);
        if self.records.is_wasteful() {
            self.compact();
        }
        stored
    }

    /// Returns all records, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.index.iter().map(|slot| self.records.view(slot.offset))
    }

    /// Returns the records in the cells of a cover.
    pub(super) fn in_cells(&self, cover: &Cover) -> impl Iterator<Item = RecordView<'_>> {
        let mut found = Vec::new();
        self.grid.collect(cover.iter(), &mut Vec::new(), &mut found);
        let records = found.into_iter();
        records.map(|(_, offset)| self.records.view(offset))
    }

    /// Returns the records of a range of tags.
    pub(super) fn iter_tags(&self, tags: Range<u64>) -> impl Iterator<Item = RecordView<'_>> {
        let slots = self.index.iter();
        slots
            .filter(move |slot| tags.contains(&u64::from(slot.tag)))
            .map(|slot| self.records.view(slot.offset))
    }

    /// Number of buckets of the index. It grows with the table, and records change their buckets then.
    pub(super) fn buckets(&self) -> usize {
        self.index.num_buckets()
    }

    /// Returns whether any record in these buckets is of that time or before.
    pub(super) fn has_until(&self, until: Timestamp, mut buckets: Range<usize>) -> bool {
        buckets.any(|bucket| {
            let slot = self.index.get_bucket(bucket);
            slot.is_some_and(|slot| self.records.view(slot.offset).time <= until)
        })
    }

    /// Removes the records in these buckets that are of that time or before; each is shown to `gone`.
    pub(super) fn remove_until(
        &mut self,
        until: impl Into<Until>,
        buckets: Range<usize>,
        mut gone: impl FnMut(&RecordView<'_>),
    ) {
        let until = until.into();
        for bucket in buckets {
            if let Ok(entry) = self.index.get_bucket_entry(bucket) {
                let offset = entry.get().offset;
                let record = self.records.view(offset);
                if until.takes(&record) {
                    gone(&record);
                    entry.remove();
                    self.records.place(&mut self.grid, offset, None);
                    self.records.erase(offset);
                }
            }
        }
        if self.records.is_wasteful() {
            self.compact();
        }
    }

    /// Shows the records that a search wants, from the entry numbered `begin` of the grid on. Returns the
    /// number of the entry at which it must go on after this piece.
    pub(super) fn search(
        &self,
        search: &mut impl Search,
        begin: usize,
        scratch: &mut Scratch,
    ) -> Option<usize> {
        let most = self.grid.len().min(MAX_CELLS);
        if begin == 0
            && let Some(cover) = search.cover(most)
            && (self.grid.len() <= PIECE || self.grid.count(cover.iter(), PIECE) <= PIECE)
        {
            let Scratch { numbers, found } = scratch;
            let mut cells = cover.iter().peekable();
            while cells.peek().is_some() && !search.is_done() {
                found.clear();
                self.grid
                    .collect(cells.by_ref().take(BATCH), numbers, found);
                found.retain(|&(point, _)| search.wants(point));
                // Brings the beginnings of these records to the processor's caches, all at once.
                let touched = found.iter().map(|&(_, offset)| self.records.number(offset));
                std::hint::black_box(touched.fold(0, |all, number| all ^ number));
                for &(point, offset) in &*found {
                    if search.wants(point) {
                        search.take(&self.records.view(offset));
                    }
                }
            }
            return None;
        }
        let end = begin + PIECE;
        for (point, offset) in self.grid.numbered(begin, end) {
            if search.wants(point) {
                search.take(&self.records.view(offset));
            }
            if search.is_done() {
                return None;
            }
        }
        (end < self.grid.end()).then_some(end)
    }

    /// Copies the live records to new chunks.
    fn compact(&mut self) {
        let mut compacted = Records::default();
        for slot in self.index.iter_mut() {
            let number = self.records.number(slot.offset);
            slot.offset = compacted.append(&self.records.view(slot.offset), number);
            if number != NONE {
                self.grid.set_offset(number, slot.offset);
            }
        }
        let mut former = std::mem::replace(&mut self.records, compacted);
        for chunk in &mut former.chunks {
            // Freed memory keeps its bytes. The compiler may not leave this out.
            std::hint::black_box(chunk).fill(0);
        }
        std::hint::black_box(&former.chunks);
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
    /// Units of records that were removed, or replaced and could not be overwritten: zeros.
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
        &self.chunks[offset as usize / CHUNK_UNITS][begin(offset) + NUMBER_BYTES..]
    }

    /// Returns the number of the entry in the grid; [`NONE`] if the client has none.
    fn number(&self, offset: u32) -> u32 {
        let bytes = &self.chunks[offset as usize / CHUNK_UNITS][begin(offset)..];
        bytes
            .first_chunk()
            .map_or(NONE, |number| u32::from_le_bytes(*number))
    }

    fn set_number(&mut self, offset: u32, number: u32) {
        let bytes = &mut self.chunks[offset as usize / CHUNK_UNITS][begin(offset)..];
        bytes[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    }

    /// Has the grid follow the client of the record at `offset`, which is at `point` now, or nowhere.
    fn place(&mut self, grid: &mut Grid, offset: u32, point: Option<Point>) {
        match (self.number(offset), point) {
            (NONE, None) => {}
            (NONE, Some(point)) => {
                let number = grid.insert(point, offset);
                self.set_number(offset, number);
            }
            (number, None) => {
                grid.remove(number);
                self.set_number(offset, NONE);
            }
            (number, Some(point)) => {
                grid.set_point(number, point);
                grid.set_offset(number, offset);
            }
        }
    }

    fn append(&mut self, record: &RecordView<'_>, number: u32) -> u32 {
        let units = units(record);
        if self.chunks.is_empty() || self.taken + units > CHUNK_UNITS {
            self.chunks.push(vec![0; CHUNK_BYTES].into_boxed_slice());
            self.taken = 0;
        }
        let chunk = self.chunks.len() - 1;
        let begin = self.taken * UNIT_BYTES;
        record.pack_into(&mut self.chunks[chunk][begin + NUMBER_BYTES..]);
        let offset = (chunk * CHUNK_UNITS + self.taken) as u32;
        self.taken += units;
        self.set_number(offset, number);
        offset
    }

    /// Overwrites the record at `offset` if the new one takes as many units, else appends the new
    /// one. Returns its offset. Nothing of the former record stays in memory.
    fn replace(&mut self, offset: u32, record: &RecordView<'_>) -> u32 {
        let replaced = self.view(offset).packed_bytes();
        let bytes = record.packed_bytes();
        if units_of(replaced) != units_of(bytes) {
            let number = self.number(offset);
            self.erase(offset);
            return self.append(record, number);
        }
        let place = self.bytes_mut(offset);
        record.pack_into(place);
        if bytes < replaced {
            place[bytes..replaced].fill(0);
        }
        offset
    }

    /// Overwrites the record at `offset` with zeros; its place is wasted.
    fn erase(&mut self, offset: u32) {
        let record = self.view(offset);
        let (bytes, units) = (record.packed_bytes(), units(&record));
        self.bytes_mut(offset)[..bytes].fill(0);
        self.wasted += units;
    }

    /// Returns the bytes of the record at `offset`, and those behind it.
    fn bytes_mut(&mut self, offset: u32) -> &mut [u8] {
        &mut self.chunks[offset as usize / CHUNK_UNITS][begin(offset) + NUMBER_BYTES..]
    }

    /// Returns whether a third of all units is wasted, and at least a chunk.
    fn is_wasteful(&self) -> bool {
        self.wasted > CHUNK_UNITS && 3 * self.wasted > self.chunks.len() * CHUNK_UNITS
    }
}

/// Units that a record takes.
fn units(record: &RecordView<'_>) -> usize {
    units_of(record.packed_bytes())
}

/// Units that a record of `packed_bytes` takes, with the number before it.
fn units_of(packed_bytes: usize) -> usize {
    (NUMBER_BYTES + packed_bytes).div_ceil(UNIT_BYTES)
}

/// Byte of its chunk at which the record at `offset` begins.
fn begin(offset: u32) -> usize {
    offset as usize % CHUNK_UNITS * UNIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let stored = shard.store(7, &record(client, b"+1+1", time));
            assert_eq!(stored, Stored::New);
        }
        let time = |client: &[u8]| shard.find(7, client).map(|found| found.time.as_nanos());
        assert_eq!(
            [time(b"a"), time(b"b"), time(b"c"), time(b"d")],
            [Some(1), Some(2), Some(3), None]
        );
        assert!(shard.find(8, b"a").is_none());
    }

    /// Returns whether the bytes are anywhere in the memory of a table.
    fn has_bytes(shard: &Shard, bytes: &[u8]) -> bool {
        let found = |chunk: &[u8]| chunk.windows(bytes.len()).any(|window| window == bytes);
        shard.records.chunks.iter().any(|chunk| found(chunk))
    }

    #[test]
    fn nothing_of_a_location_stays_in_memory_once_its_client_was_forgotten() {
        // Of every length, so that the tombstone takes its place or another one.
        for length in 1..60 {
            let mut shard = Shard::default();
            let locations = [[b'1'; 60], [b'2'; 60]];
            // The first is replaced by one of another length, and stays behind as waste.
            let first = record(b"a", &locations[0][..60 - length], 1);
            let second = record(b"a", &locations[1][..length], 2);
            let other = record(b"b", b"+3+3", 1);
            for record in [first, second, other] {
                shard.store(7, &record);
            }
            assert!(has_bytes(&shard, second.location));
            let time = Timestamp::from_nanos(3);
            let tombstone = RecordView::tombstone(b"a", time, b"Ball", 1, 2);
            let stored = shard.store(7, &tombstone);
            assert_eq!(stored, Stored::Replaced { tombstone: false });
            assert!(stored.forgets(&tombstone));
            assert!(
                !has_bytes(&shard, b"11") && !has_bytes(&shard, b"2"),
                "{length}"
            );
            assert_eq!(shard.find(7, b"a"), Some(tombstone));
            assert_eq!(shard.find(7, b"b"), Some(other));
            let buckets = 0..shard.buckets();
            let mut gone = Vec::new();
            shard.remove_until(time, buckets, |record| gone.push(record.client.to_vec()));
            gone.sort();
            assert_eq!(gone, [b"a", b"b"]);
            assert!(!has_bytes(&shard, b"Ball") && !has_bytes(&shard, b"+3+3"));
        }
    }

    #[test]
    fn records_that_are_removed_give_their_memory_back() {
        let mut shard = Shard::default();
        let mut most = 0;
        for round in 0..30_u64 {
            for number in 0..2_000_u32 {
                let client = format!("client-{round}-{number}");
                shard.store(number, &record(client.as_bytes(), b"+1+1", round));
            }
            most = most.max(shard.records.chunks.len());
            let until = Timestamp::from_nanos(round);
            let buckets = 0..shard.buckets();
            shard.remove_until(until, buckets, |_| {});
            assert_eq!(shard.iter().count(), 0);
        }
        // 2,000 records of 64 bytes: 2 chunks.
        assert!(most <= 4, "{most} chunks");
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
