//! The digest of a replica's records.

use super::Replica;
use crate::model::digest::{Digest, DigestKey};
use crate::model::time::Timestamp;

impl Replica {
    /// Returns the digest of the records that were received up to `until` and were not about to die then,
    /// by a scan of the whole cache; `None` if `go_on`, which is called now and then, returns `false`.
    ///
    /// No clock has a part in it, so servers that hold the same records agree on it whenever they scan.
    pub fn digest(
        &self,
        key: &DigestKey,
        until: Timestamp,
        mut go_on: impl FnMut() -> bool,
    ) -> Option<Digest> {
        let edge = self.digest_edge(until);
        let mut state = (Digest::new(until), true);
        self.scan(
            &mut state,
            |(digest, _), record| {
                if !edge.is_dead(record.time) {
                    digest.add(key, record);
                }
            },
            |(_, wanted)| {
                *wanted = go_on();
                *wanted
            },
        );
        let (digest, wanted) = state;
        wanted.then_some(digest)
    }
}
