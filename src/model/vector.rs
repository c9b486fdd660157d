//! Version vectors: for each origin and epoch, the sequence number up to which all reports are
//! held.
//!
//! An entry means "of the reports that this origin numbered in this epoch, I hold all up to here,
//! or newer ones of the same clients". A vector advances by a server's own numbering and by a
//! neighbor's marker, never by a single record: records of one origin arrive over two paths and may
//! leave gaps. A missing entry claims nothing, so it can only cost a resend.

use std::collections::BTreeMap;

use crate::model::decimal::parse_u64;
use crate::model::fields::{MAX_NAME_BYTES, fields};
use crate::model::time::write_u64;

/// Maximum number of entries in a line; a longer vector takes several lines.
const ENTRIES_PER_LINE: usize = 64;

/// Maximum length in bytes of a line that [`Vector::write_lines`] writes, its LF included.
pub(crate) const MAX_LINE_BYTES: usize = 16 + ENTRIES_PER_LINE * (MAX_NAME_BYTES + 2 * 20 + 3);

/// Maximum number of entries accepted from a neighbor; a vector with more is malformed.
const MAX_ENTRIES: usize = 65_536;

/// Sequence number up to which all reports are held, by origin and epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vector(BTreeMap<Box<[u8]>, BTreeMap<u64, u64>>);

impl Vector {
    /// Returns whether a record is covered: the vector's owner holds it, or a newer one of its
    /// client.
    pub fn covers(&self, origin: &[u8], epoch: u64, sequence: u64) -> bool {
        self.0
            .get(origin)
            .and_then(|epochs| epochs.get(&epoch))
            .is_some_and(|&held| sequence <= held)
    }

    /// Returns the sequence number of an entry; 0 if there is none.
    pub(crate) fn sequence(&self, origin: &[u8], epoch: u64) -> u64 {
        let epochs = self.0.get(origin);
        let sequence = epochs.and_then(|epochs| epochs.get(&epoch));
        sequence.copied().unwrap_or_default()
    }

    /// Raises one entry; a sequence number below the entry's changes nothing.
    pub fn advance(&mut self, origin: &[u8], epoch: u64, sequence: u64) {
        if !self.0.contains_key(origin) {
            self.0.insert(origin.into(), BTreeMap::new());
        }
        if let Some(epochs) = self.0.get_mut(origin) {
            let held = epochs.entry(epoch).or_insert(0);
            *held = (*held).max(sequence);
        }
    }

    /// Raises every entry to that of `other`.
    pub fn merge(&mut self, other: &Vector) {
        for (origin, epoch, sequence) in other.entries() {
            self.advance(origin, epoch, sequence);
        }
    }

    /// Returns whether every entry of `other` is covered, so that merging it would change nothing.
    pub(crate) fn includes(&self, other: &Vector) -> bool {
        other
            .entries()
            .all(|(origin, epoch, sequence)| self.covers(origin, epoch, sequence))
    }

    /// Returns whether any origin has more than one epoch.
    pub(crate) fn has_several_epochs(&self) -> bool {
        self.0.values().any(|epochs| epochs.len() > 1)
    }

    /// Removes and returns the entries that `removes` selects by origin and epoch.
    pub(crate) fn split_off(&mut self, mut removes: impl FnMut(&[u8], u64) -> bool) -> Vector {
        let mut removed = Vector::default();
        for (origin, epochs) in &mut self.0 {
            epochs.retain(|&epoch, &mut sequence| {
                let is_removed = removes(origin, epoch);
                if is_removed {
                    removed.advance(origin, epoch, sequence);
                }
                !is_removed
            });
        }
        self.0.retain(|_, epochs| !epochs.is_empty());
        removed
    }

    /// Returns whether there is an entry for that origin and epoch.
    pub(crate) fn has_epoch(&self, origin: &[u8], epoch: u64) -> bool {
        self.0
            .get(origin)
            .is_some_and(|epochs| epochs.contains_key(&epoch))
    }

    /// Appends the vector as lines `KEYWORD MORE [origin epoch sequence]...`, where `MORE` is 1
    /// on every line but the last.
    pub fn write_lines(&self, keyword: &str, out: &mut Vec<u8>) {
        let mut entries = self.entries().peekable();
        loop {
            out.extend_from_slice(keyword.as_bytes());
            let more_at = out.len() + 1;
            out.extend_from_slice(b" 0");
            for (origin, epoch, sequence) in entries.by_ref().take(ENTRIES_PER_LINE) {
                out.push(b' ');
                out.extend_from_slice(origin);
                out.push(b' ');
                write_u64(epoch, out);
                out.push(b' ');
                write_u64(sequence, out);
            }
            out.push(b'\n');
            if entries.peek().is_none() {
                return;
            }
            out[more_at] = b'1';
        }
    }

    /// Adds the entries of one line that [`write_lines`](Self::write_lines) wrote. Returns whether
    /// it is the last line, or `None` if it is malformed.
    pub fn read_line(&mut self, keyword: &str, line: &[u8]) -> Option<bool> {
        let mut fields = fields(line);
        if fields.next()? != keyword.as_bytes() {
            return None;
        }
        let last = match fields.next()? {
            b"0" => true,
            b"1" => false,
            _ => return None,
        };
        while let Some(origin) = fields.next() {
            if origin.len() > MAX_NAME_BYTES || self.len() >= MAX_ENTRIES {
                return None;
            }
            self.advance(
                origin,
                parse_u64(fields.next()?)?,
                parse_u64(fields.next()?)?,
            );
        }
        Some(last)
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Returns whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns all entries: origin, epoch and sequence number, sorted.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&[u8], u64, u64)> {
        self.0.iter().flat_map(|(origin, epochs)| {
            epochs
                .iter()
                .map(move |(&epoch, &sequence)| (&origin[..], epoch, sequence))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_covers_up_to_its_highest_sequence_and_no_other_epoch() {
        let mut vector = Vector::default();
        vector.advance(b"Ball", 7, 5);
        vector.advance(b"Ball", 7, 3);
        for (origin, epoch, sequence, expected) in [
            (&b"Ball"[..], 7, 5, true),
            (b"Ball", 7, 6, false),
            (b"Ball", 8, 1, false),
            (b"Welsh", 7, 1, false),
        ] {
            assert_eq!(vector.covers(origin, epoch, sequence), expected);
        }
    }

    #[test]
    fn any_number_of_entries_is_read_back_from_its_lines() {
        for entries in [0, 1, 64, 65, 200] {
            let mut vector = Vector::default();
            for epoch in 0..entries {
                vector.advance(b"Ball", epoch, epoch + 10);
            }
            let mut text = Vec::new();
            vector.write_lines("VECTOR", &mut text);
            let mut read = Vector::default();
            let mut last = Vec::new();
            for line in text
                .strip_suffix(b"\n")
                .expect("a line")
                .split(|&byte| byte == b'\n')
            {
                assert!(line.len() < MAX_LINE_BYTES);
                last.push(read.read_line("VECTOR", line).expect("a good line"));
            }
            assert_eq!(read, vector, "{entries} entries");
            assert_eq!(last.iter().filter(|&&last| last).count(), 1);
            assert_eq!(last.last(), Some(&true));
        }
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            "",
            "VECTOR",
            "VECTOR 2",
            "MARKER 0",
            "VECTOR 0 Ball",
            "VECTOR 0 Ball 1",
            "VECTOR 0 Ball 1 x",
        ] {
            assert_eq!(
                Vector::default().read_line("VECTOR", line.as_bytes()),
                None,
                "{line}"
            );
        }
    }

    #[test]
    fn merging_keeps_the_higher_of_each_entry() {
        let (mut a, mut b) = (Vector::default(), Vector::default());
        a.advance(b"x", 1, 5);
        b.advance(b"x", 1, 4);
        b.advance(b"y", 1, 9);
        assert!(!a.includes(&b));
        a.merge(&b);
        assert!(a.covers(b"x", 1, 5) && a.covers(b"y", 1, 9));
        assert!(a.includes(&b) && !b.includes(&a));
    }
}
