//! Digests of all records of a server: a few kilobytes that show where two servers differ.
//!
//! Clients are distributed over [`BUCKETS`] buckets by a keyed hash, and a bucket's digest is the
//! sum of the keyed hashes of its records; so it does not depend on the order in which they are
//! stored, and a difference is located by its bucket. The key is derived from the herd's id: a
//! client that does not know it cannot choose ids that cancel each other out.

use std::hash::Hasher;

use arrayvec::ArrayVec;
use siphasher::sip::SipHasher13;

use crate::model::decimal::parse_u64;
use crate::model::fields::fields;
use crate::model::record::{MAX_PACKED_BYTES, RecordView};
use crate::model::time::{Timestamp, write_u64};

/// Number of buckets over which clients are distributed. A power of two.
pub(crate) const BUCKETS: usize = 256;

/// Number of buckets in a line.
const BUCKETS_PER_LINE: usize = 64;

/// Maximum length in bytes of a line that [`Digest::write_lines`] writes, its LF included.
pub(crate) const MAX_LINE_BYTES: usize = 8 + (2 + BUCKETS_PER_LINE) * 21;

/// Key of the hashes, which all servers of a herd share.
#[derive(Clone, Copy)]
pub struct DigestKey(u64, u64);

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey")
    }
}

impl DigestKey {
    /// Derives the key of the herd with that id.
    pub fn new(herd_id: &[u8]) -> DigestKey {
        let half = |which: u64| {
            let mut hasher = SipHasher13::new_with_keys(0x6865_7264, which);
            hasher.write(herd_id);
            hasher.finish()
        };
        DigestKey(half(0), half(1))
    }

    /// Returns the index of a client's bucket.
    pub fn bucket(&self, client: &[u8]) -> usize {
        SipHasher13::new_with_keys(self.0, self.1).hash(client) as usize % BUCKETS
    }

    fn hash(&self, record: &RecordView<'_>) -> u64 {
        // The same numbers and texts as a packed record has, in another order. In one piece: the
        // hasher takes three times as long for the same bytes in twelve pieces.
        let mut bytes = ArrayVec::<u8, MAX_PACKED_BYTES>::new();
        let mut add = |part: &[u8]| {
            let added = bytes.try_extend_from_slice(part);
            debug_assert!(added.is_ok());
        };
        for number in [
            record.time.as_nanos(),
            record.received.as_nanos(),
            record.epoch,
            record.sequence,
        ] {
            add(&number.to_le_bytes());
        }
        // The length before each text makes the bytes of different records differ.
        for text in [
            record.client,
            record.origin,
            record.location,
            record.time_text,
        ] {
            add(&[text.len() as u8]);
            add(text);
        }
        SipHasher13::new_with_keys(self.1, self.0).hash(&bytes)
    }
}

/// Digest of the records of a server that were received up to a certain time.
///
/// Later records are left out, since they may still be on their way to other servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Time up to which the covered records were received.
    pub until: Timestamp,
    buckets: Box<[u64; BUCKETS]>,
}

impl Digest {
    /// Returns the digest of no records.
    pub(crate) fn new(until: Timestamp) -> Digest {
        Digest {
            until,
            buckets: Box::new([0; BUCKETS]),
        }
    }

    /// Adds a record, if it was received early enough.
    pub(crate) fn add(&mut self, key: &DigestKey, record: &RecordView<'_>) {
        if record.received <= self.until {
            let bucket = &mut self.buckets[key.bucket(record.client)];
            *bucket = bucket.wrapping_add(key.hash(record));
        }
    }

    /// Returns the difference from another digest with the same `until`.
    pub(crate) fn difference(&self, other: &Digest) -> DigestDifference {
        DigestDifference(Box::new(std::array::from_fn(|bucket| {
            self.buckets[bucket].wrapping_sub(other.buckets[bucket])
        })))
    }

    /// Returns a hash of all buckets, to be displayed and compared by eye.
    pub fn total(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        for bucket in self.buckets.iter() {
            hasher.write_u64(*bucket);
        }
        hasher.finish()
    }

    /// Appends the digest as lines `DIGEST until first bucket...`.
    pub(crate) fn write_lines(&self, out: &mut Vec<u8>) {
        for first in (0..BUCKETS).step_by(BUCKETS_PER_LINE) {
            out.extend_from_slice(b"DIGEST");
            let buckets = &self.buckets[first..first + BUCKETS_PER_LINE];
            let numbers = [self.until.as_nanos(), first as u64];
            for number in numbers.iter().chain(buckets) {
                out.push(b' ');
                write_u64(*number, out);
            }
            out.push(b'\n');
        }
    }
}

/// Difference of two servers' digests in each bucket.
///
/// The difference of two sums is the sum of the records that only one side has, minus that of the
/// records that only the other has. So records that both have cancel out, and as long as the same
/// records are missing the difference stays the same number, whatever else is reported meanwhile.
/// Records in motion, which one server added before it received a newer one and the other after
/// that, make a difference too, but a new one each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestDifference(Box<[u64; BUCKETS]>);

impl DigestDifference {
    /// Returns the number of buckets that differ.
    pub(crate) fn buckets(&self) -> usize {
        self.0.iter().filter(|&&by| by != 0).count()
    }

    /// Returns the buckets whose difference is the same as at an earlier comparison: their missing
    /// records were not in motion in between.
    pub(crate) fn lasting_since(&self, earlier: &DigestDifference) -> Vec<usize> {
        (0..BUCKETS)
            .filter(|&bucket| self.0[bucket] != 0 && self.0[bucket] == earlier.0[bucket])
            .collect()
    }

    /// Treats these buckets as equal.
    pub(crate) fn forget(&mut self, buckets: &[usize]) {
        for &bucket in buckets {
            self.0[bucket] = 0;
        }
    }
}

/// Reads a digest line by line.
#[derive(Debug, Default)]
pub struct DigestReader(Option<Digest>);

impl DigestReader {
    /// Reads one line that [`Digest::write_lines`] wrote. Returns the digest after the last line,
    /// and `None` before.
    ///
    /// # Errors
    ///
    /// Fails if the line is malformed or out of order.
    pub(crate) fn read_line(&mut self, line: &[u8]) -> Result<Option<Digest>, BrokenDigest> {
        let mut fields = fields(line);
        if fields.next() != Some(b"DIGEST") {
            return Err(BrokenDigest);
        }
        let mut number = || fields.next().and_then(parse_u64).ok_or(BrokenDigest);
        let until = Timestamp::from_nanos(number()?);
        let first = usize::try_from(number()?).map_err(|_| BrokenDigest)?;
        if first == 0 {
            self.0 = Some(Digest::new(until));
        }
        let digest = self
            .0
            .as_mut()
            .filter(|digest| digest.until == until)
            .ok_or(BrokenDigest)?;
        let end = first.saturating_add(BUCKETS_PER_LINE);
        for bucket in digest.buckets.get_mut(first..end).ok_or(BrokenDigest)? {
            *bucket = number()?;
        }
        Ok(if end == BUCKETS { self.0.take() } else { None })
    }
}

/// The error of a line that is malformed or out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenDigest;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(client: &'static str, time: u64) -> RecordView<'static> {
        RecordView {
            client: client.as_bytes(),
            location: b"+0+0",
            time_text: b"1",
            time: Timestamp::from_nanos(time),
            received: Timestamp::from_nanos(time),
            origin: b"Ball",
            epoch: 1,
            sequence: 1,
        }
    }

    fn digest(records: &[RecordView<'_>]) -> Digest {
        let mut digest = Digest::new(Timestamp::from_nanos(100));
        let key = DigestKey::new(b"a herd");
        for record in records {
            digest.add(&key, record);
        }
        digest
    }

    #[test]
    fn the_same_records_have_the_same_digest_in_any_order() {
        let one = digest(&[record("a", 1), record("b", 2), record("young", 101)]);
        let other = digest(&[record("b", 2), record("a", 1)]);
        assert_eq!(one, other);
        assert_eq!(one.total(), other.total());
        assert_eq!(one.difference(&other).buckets(), 0);
    }

    #[test]
    fn a_difference_is_located_in_its_bucket() {
        let one = digest(&[record("a", 1), record("b", 2)]);
        let other = digest(&[record("a", 1), record("b", 3)]);
        let difference = one.difference(&other);
        assert_eq!(difference.buckets(), 1);
        let bucket = DigestKey::new(b"a herd").bucket(b"b");
        assert_eq!(difference.lasting_since(&difference), [bucket]);
        assert_ne!(one.total(), other.total());
        let key = DigestKey::new(b"another herd");
        let mut keyed = Digest::new(one.until);
        keyed.add(&key, &record("a", 1));
        assert_ne!(keyed.total(), digest(&[record("a", 1)]).total());
    }

    #[test]
    fn lasting_differences_are_distinguished_from_records_in_motion() {
        // Only one server has "a"; "b" is reported again and again, and the servers are compared
        // while only one of them has the newest report.
        let difference = |time| {
            let (b, newer) = (record("b", time), record("b", time + 1));
            digest(&[record("a", 1), b]).difference(&digest(&[newer]))
        };
        let key = DigestKey::new(b"a herd");
        let (a, b) = (key.bucket(b"a"), key.bucket(b"b"));
        assert_ne!(a, b);
        let (first, mut second) = (difference(2), difference(4));
        assert_eq!((first.buckets(), second.buckets()), (2, 2));
        assert_eq!(second.lasting_since(&first), [a]);
        second.forget(&[a]);
        assert!(difference(6).lasting_since(&second).is_empty());
        assert_eq!(difference(8).lasting_since(&difference(6)), [a]);
    }

    #[test]
    fn a_digest_is_read_back_from_its_lines() {
        let sent = digest(&[record("a", 1), record("b", 2)]);
        let mut text = Vec::new();
        sent.write_lines(&mut text);
        let mut reader = DigestReader::default();
        let read: Vec<_> = text
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .inspect(|line| assert!(line.len() < MAX_LINE_BYTES))
            .map(|line| reader.read_line(line).expect("a good line"))
            .collect();
        assert_eq!(read, [None, None, None, Some(sent)]);
        for broken in [
            "",
            "DIGEST",
            "DIGEST 1 0 5",
            "DIGEST 1 64 5",
            "DIGEST 1 18446744073709551615 5",
        ] {
            assert_eq!(
                DigestReader::default().read_line(broken.as_bytes()),
                Err(BrokenDigest)
            );
        }
    }
}
