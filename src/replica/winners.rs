//! The records of a group that are to be stored.

use smallvec::SmallVec;

use crate::model::record::RecordView;
use crate::replica::cache::ClientHash;

/// Reports of a group that need no heap allocation: as many as a turn has.
pub(super) const SMALL_GROUP: usize = 16;

/// Records of a group that are greater than the stored ones.
pub(super) struct Winners<'a> {
    /// Hashes of their clients.
    pub(super) keys: SmallVec<[ClientHash; SMALL_GROUP]>,
    /// The records, in the same order.
    pub(super) records: SmallVec<[RecordView<'a>; SMALL_GROUP]>,
}

impl<'a> Winners<'a> {
    /// Creates an empty group.
    pub(super) fn with_capacity(records: usize) -> Winners<'a> {
        Winners {
            keys: SmallVec::with_capacity(records),
            records: SmallVec::with_capacity(records),
        }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, key: ClientHash, record: RecordView<'a>) {
        self.keys.push(key);
        self.records.push(record);
    }
}
