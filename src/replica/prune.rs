//! Prunes epochs without a live record from the version vector.
//!
//! Every start of a server adds an entry to the vectors of the whole herd. Once all reports of that
//! epoch have been superseded, the entry is of no use; without it less is claimed, which at worst
//! causes a record to be sent again.

use std::collections::{BTreeMap, BTreeSet};

use super::Replica;
use crate::model::vector::Vector;

impl Replica {
    /// Removes the entries that cover no record in the cache from the vector, and ignores them in
    /// markers until the next call: a neighbor that has not pruned them yet still sends them. So if
    /// all servers prune once a minute, all have forgotten an epoch after two.
    ///
    /// Reads the whole cache if any server has more than one entry; otherwise does nothing.
    pub fn prune_vector(&self) {
        self.apply.lock().pruned = Vector::default();
        if !self.vector().has_several_epochs() {
            return;
        }
        let mut live = BTreeMap::<Box<[u8]>, BTreeSet<u64>>::new();
        self.locations.scan(
            &mut live,
            |live, record| match live.get_mut(record.origin) {
                Some(epochs) if epochs.contains(&record.epoch) => {}
                Some(epochs) => drop(epochs.insert(record.epoch)),
                None => {
                    live.insert(record.origin.into(), [record.epoch].into());
                }
            },
            |_| true,
        );
        let is_own = |origin: &[u8], epoch| origin == self.name.as_bytes() && epoch == self.epoch;
        let mut apply = self.apply.lock();
        // A record applied since the scan may be of an epoch that is removed: then nothing is
        // claimed about it, which is safe.
        apply.pruned = apply.vector.split_off(|origin, epoch| {
            let is_live = live.get(origin).is_some_and(|live| live.contains(&epoch));
            !is_live && !is_own(origin, epoch)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::RecordView;
    use crate::replica::outbox::{LinkId, NeighborStart};

    fn adopt(replica: &Replica, link: LinkId, line: &str) {
        let record = RecordView::parse_line(line.as_bytes()).expect("a record");
        assert_eq!(
            replica.adopt(&[record], NeighborStart { link, epoch: 1 }, record.received),
            1
        );
    }

    #[test]
    fn epochs_without_a_live_record_go_and_do_not_come_back_from_a_neighbor() {
        let replica = Replica::new("Ball", 9, 10);
        let (link, _outlet) = replica.add_link();
        adopt(&replica, link, "RECORD Welsh 1 1 1000000000000 a +1+1 1");
        adopt(&replica, link, "RECORD Welsh 2 1 1000000000000 a +1+1 2");
        adopt(&replica, link, "RECORD Welsh 3 1 1000000000000 b +1+1 3");
        let mut marker = Vector::default();
        for (origin, epoch) in [("Welsh", 1), ("Welsh", 2), ("Welsh", 3), ("Ball", 9)] {
            marker.advance(origin.as_bytes(), epoch, 1);
        }
        replica.advance(&marker);
        let covered = |replica: &Replica| {
            let vector = replica.vector();
            [1, 2, 3].map(|epoch| vector.covers(b"Welsh", epoch, 1))
        };
        replica.prune_vector();
        assert_eq!(covered(&replica), [false, true, true]);
        assert!(replica.vector().covers(b"Ball", 9, 1));
        replica.advance(&marker);
        assert_eq!(covered(&replica), [false, true, true]);
        // Once the whole herd has forgotten an epoch, a later claim is a new one.
        replica.prune_vector();
        replica.advance(&marker);
        assert_eq!(covered(&replica), [true, true, true]);
    }
}
