//! The best places of a search so far, sorted, in an array of fixed size.
//!
//! Places are ranked by score: weight divided by the square of the distance, as gravity is. The
//! weight of a locality is its population, so a village is named where one stands in it, and
//! elsewhere the city. Twenty are few enough for a plain insertion: with it a whole search was
//! measured to take a quarter less time than with a binary search and one move of the rest.

use super::format::{UNITS_PER_RADIUS, WEIGHTS};
use crate::model::geo::EARTH_RADIUS_KM;

/// Maximum number of places that one search finds; a greater bound is reduced to this.
pub(super) const MAX_HITS: usize = 20;

/// Distance in kilometers up to which being nearer hardly counts: a locality is an area, of which
/// the index has one point.
const NEAR_KM: f64 = 0.5;

/// The square of [`NEAR_KM`] in the units of a node's vector. It is added to each squared distance.
const SQUARED_NEAR: f64 = {
    let near = NEAR_KM / EARTH_RADIUS_KM * UNITS_PER_RADIUS;
    near * near
};

/// Factor by which the least score is reduced where a product is compared with a weight, so that
/// rounding, a unit in the last place for each of three operations, excludes no place.
const ROUNDING: f64 = 1.0 - 4.0 * f64::EPSILON;

/// A place found by a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hit {
    /// Position in the index.
    pub(super) index: usize,
    /// First ranking criterion; the greatest comes first.
    score: f64,
    /// Second ranking criterion: the square of the distance in the units of a node's vector.
    pub(super) squared_distance: f64,
}

/// The best hits so far, best first.
pub(super) struct Hits {
    hits: [Hit; MAX_HITS],
    found: usize,
    bound: usize,
    /// A place with a lower score is not among the best: 0 until there are as many hits as wanted.
    least: f64,
}

impl Hits {
    /// Creates an empty list of at most `bound` hits.
    pub(super) fn new(bound: usize) -> Hits {
        let none = Hit {
            index: 0,
            score: 0.0,
            squared_distance: 0.0,
        };
        Hits {
            hits: [none; MAX_HITS],
            found: 0,
            bound: bound.min(MAX_HITS),
            least: 0.0,
        }
    }

    /// Returns the hits, best first.
    pub(super) fn as_slice(&self) -> &[Hit] {
        &self.hits[..self.found]
    }

    /// Returns whether a place could be among the best that is at most this prominent and at least
    /// this far away. Never false for one that is.
    #[inline]
    pub(super) fn may_rank(&self, prominence: u8, squared_distance: f64) -> bool {
        WEIGHTS[usize::from(prominence)] >= self.least * (squared_distance + SQUARED_NEAR)
    }

    /// Inserts a hit if it is among the best.
    pub(super) fn insert(&mut self, hit: Hit) {
        if self.found < self.bound {
            self.found += 1;
        } else if !hit.outranks(&self.hits[self.bound - 1]) {
            return;
        }
        let mut rank = self.found - 1;
        while rank > 0 && hit.outranks(&self.hits[rank - 1]) {
            self.hits[rank] = self.hits[rank - 1];
            rank -= 1;
        }
        self.hits[rank] = hit;
        if self.found == self.bound {
            self.least = self.hits[self.bound - 1].score * ROUNDING;
        }
    }
}

impl Hit {
    /// Creates a hit from its index, its prominence and the square of its distance.
    #[inline]
    pub(super) fn new(index: usize, prominence: u8, squared_distance: f64) -> Hit {
        Hit {
            index,
            score: WEIGHTS[usize::from(prominence)] / (squared_distance + SQUARED_NEAR),
            squared_distance,
        }
    }

    /// Returns whether this hit is ranked before another. No two are equal, so the order in which
    /// they are found does not matter.
    pub(super) fn outranks(&self, other: &Hit) -> bool {
        other
            .score
            .total_cmp(&self.score)
            .then(self.squared_distance.total_cmp(&other.squared_distance))
            .then(self.index.cmp(&other.index))
            .is_lt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inserts hits of (prominence, distance in kilometers) in order of their index, and checks the
    /// indices that remain, best first.
    #[track_caller]
    fn check(bound: usize, hits: &[(u8, f64)], expected: &[usize]) {
        let mut best = Hits::new(bound);
        for (index, &(prominence, kilometers)) in hits.iter().enumerate() {
            let squared_distance = (kilometers / NEAR_KM).powi(2) * SQUARED_NEAR;
            let hit = Hit::new(index, prominence, squared_distance);
            let is_among = best.found < best.bound || hit.outranks(&best.hits[best.bound - 1]);
            assert!(best.may_rank(prominence, squared_distance) || !is_among);
            if best.may_rank(prominence, squared_distance) {
                best.insert(hit);
            }
        }
        let got: Vec<usize> = best.as_slice().iter().map(|hit| hit.index).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn hits_are_ranked_by_score_distance_and_index() {
        check(3, &[], &[]);
        check(3, &[(1, 5.0), (9, 5.0)], &[1, 0]);
        check(3, &[(1, 5.0), (1, 4.0), (1, 5.0), (1, 4.5)], &[1, 3, 0]);
        check(2, &[(7, 1.0), (7, 1.0), (7, 1.0)], &[0, 1]);
        check(1, &[(1, 3.0), (20, 3.0), (20, 2.9), (1, 3.0)], &[2]);
    }

    #[test]
    fn weight_makes_up_for_distance() {
        // Four times the weight makes up for twice the distance, and for the first 866 m.
        check(2, &[(100, 20.0), (120, 40.0)], &[1, 0]);
        check(2, &[(100, 20.0), (120, 40.1)], &[0, 1]);
        check(2, &[(100, 0.0), (120, 0.8)], &[1, 0]);
        check(2, &[(100, 0.0), (120, 0.9)], &[0, 1]);
    }
}
