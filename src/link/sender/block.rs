//! A block: all that is gathered from the queue for one write to a neighbor.

use std::sync::Arc;

use crate::model::vector::Vector;
use crate::replica::outbox::Batch;

/// Beginnings of the lines that a neighbor of before is sent none of, or not always.
const TOMBSTONE: &[u8] = b"TOMBSTONE ";
const DIGEST: &[u8] = b"DIGEST ";

/// Lines for one write. A batch that goes alone is not copied.
#[derive(Debug, Default)]
pub(super) struct Block {
    alone: Option<Batch>,
    gathered: Vec<u8>,
    records: usize,
    marker: Option<Arc<Vector>>,
}

impl Block {
    /// Begins with these lines, which may be none.
    pub(super) fn new(lines: Vec<u8>) -> Block {
        Block {
            gathered: lines,
            ..Block::default()
        }
    }

    /// Adds a batch.
    pub(super) fn push(&mut self, batch: Batch) {
        self.records += batch.records();
        self.marker = batch.marked().cloned().or(self.marker.take());
        match self.alone.take() {
            None if self.gathered.is_empty() => self.alone = Some(batch),
            first => {
                if let Some(first) = first {
                    self.gathered.extend_from_slice(&first);
                }
                self.gathered.extend_from_slice(&batch);
            }
        }
    }

    /// Adds the part of a batch that a neighbor which knows no tombstones may be sent. While there are
    /// some, that is no marker, since it would have the neighbor claim them, and no digest.
    pub(super) fn push_for_old(&mut self, batch: Batch, are_tombstones: bool) {
        if batch.marked().is_some() || batch.starts_with(DIGEST) {
            if !are_tombstones {
                self.push(batch);
            }
            return;
        }
        let lines = || batch.split_inclusive(|&byte| byte == b'\n');
        let withheld = lines().filter(|line| line.starts_with(TOMBSTONE)).count();
        if withheld == 0 {
            return self.push(batch);
        }
        let kept: Vec<&[u8]> = lines()
            .filter(|line| !line.starts_with(TOMBSTONE))
            .collect();
        if !kept.is_empty() {
            self.push(Batch::new(kept.concat(), batch.records() - withheld));
        }
    }

    /// Returns the lines.
    pub(super) fn lines(&self) -> &[u8] {
        self.alone.as_deref().unwrap_or(&self.gathered)
    }

    /// Returns how many of the lines are records.
    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Returns the vector of the last marker among them.
    pub(super) fn marked(&self) -> Option<&Arc<Vector>> {
        self.marker.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Batch {
        let mut vector = Vector::default();
        vector.advance(b"Ball", 7, 2);
        Batch::marker(vector)
    }

    #[test]
    fn lines_are_kept_in_order_and_counted() {
        for (first, expected) in [("", ""), ("FORGET-AFTER 60\n", "FORGET-AFTER 60\n")] {
            let mut block = Block::new(first.into());
            assert_eq!(block.lines(), expected.as_bytes());
            block.push(Batch::new(b"RECORD a\n".to_vec(), 1));
            block.push(marker());
            block.push(Batch::new(b"TOMBSTONE b\n".to_vec(), 1));
            let lines = format!("{expected}RECORD a\nMARKER 0 Ball 7 2\nTOMBSTONE b\n");
            assert_eq!(block.lines(), lines.as_bytes());
            assert_eq!(block.records(), 2);
            assert!(block.marked().is_some());
        }
    }

    #[test]
    fn a_neighbor_of_before_is_sent_no_tombstone_and_nothing_that_covers_one() {
        for (are_tombstones, markers) in [(true, ""), (false, "MARKER 0 Ball 7 2\nDIGEST 1\n")] {
            let mut block = Block::default();
            let mixed = b"RECORD a\nTOMBSTONE b\nRECORD c\n".to_vec();
            block.push_for_old(Batch::new(mixed, 3), are_tombstones);
            block.push_for_old(Batch::new(b"TOMBSTONE d\n".to_vec(), 1), are_tombstones);
            block.push_for_old(marker(), are_tombstones);
            block.push_for_old(Batch::new(b"DIGEST 1\n".to_vec(), 0), are_tombstones);
            let lines = format!("RECORD a\nRECORD c\n{markers}");
            assert_eq!(String::from_utf8_lossy(block.lines()), lines);
            assert_eq!(block.records(), 2);
            assert_eq!(block.marked().is_some(), !are_tombstones);
        }
    }
}
