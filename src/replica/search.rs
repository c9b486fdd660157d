//! Searches for the clients that are near a point or within a box.

use std::cmp::Ordering;

use super::Replica;
use crate::model::area::{Circle, Rectangle};
use crate::model::geo::{Position, distance_km};
use crate::model::record::RecordView;
use crate::model::time::Timestamp;

/// Records that a search has found, in its order.
#[derive(Debug, Default)]
pub struct Hits {
    /// The packed records, end to end.
    packed: Vec<u8>,
    /// Where each begins, and its distance in kilometers; 0 for a box.
    found: Vec<(usize, f64)>,
}

impl Hits {
    /// Returns the number of records found.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Returns whether none was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns the records, each with its distance in kilometers from the middle of the circle.
    pub fn iter(&self) -> impl Iterator<Item = (f64, RecordView<'_>)> {
        self.found.iter().map(|&(begin, km)| {
            let record = RecordView::unpack(&mut &self.packed[begin..]).expect("a packed record");
            (km, record)
        })
    }

    fn push(&mut self, km: f64, record: &RecordView<'_>) {
        self.found.push((self.packed.len(), km));
        record.pack(&mut self.packed);
    }
}

impl Replica {
    /// Finds up to `bound` clients in a circle, nearest first, those of equal distance by their ids;
    /// `left_out` is not among them.
    pub fn nearby(
        &self,
        circle: &Circle,
        bound: usize,
        left_out: Option<&[u8]>,
        now: Timestamp,
    ) -> Hits {
        let horizon = self.horizon(now);
        let mut all = Hits::default();
        self.scan(
            &mut all,
            |all, record| {
                let is_wanted = !record.is_tombstone()
                    && !horizon.is_dead(record.time)
                    && Some(record.client) != left_out;
                if let Some(position) = Position::parse(record.location).filter(|_| is_wanted) {
                    let km = distance_km(&circle.center, &position);
                    if km <= circle.radius_km {
                        all.push(km, record);
                    }
                }
            },
            |_| true,
        );
        let mut sorted: Vec<_> = all.iter().collect();
        sorted.sort_by(
            |(km, record), (other_km, other)| match km.total_cmp(other_km) {
                Ordering::Equal => record.client.cmp(other.client),
                order => order,
            },
        );
        let mut hits = Hits::default();
        for (km, record) in sorted.iter().take(bound) {
            hits.push(*km, record);
        }
        hits
    }

    /// Finds up to `bound` clients in a box, in no order.
    pub fn within(&self, rectangle: &Rectangle, bound: usize, now: Timestamp) -> Hits {
        let horizon = self.horizon(now);
        let mut hits = Hits::default();
        self.scan(
            &mut hits,
            |hits, record| {
                let is_wanted =
                    !record.is_tombstone() && !horizon.is_dead(record.time) && hits.len() < bound;
                let position = Position::parse(record.location).filter(|_| is_wanted);
                if position.is_some_and(|position| rectangle.contains(&position)) {
                    hits.push(0.0, record);
                }
            },
            |_| true,
        );
        hits
    }
}
