//! The best places of a search so far, sorted, in an array of fixed size.
//!
//! Places are ranked by prominence, then by distance. Twenty are few enough for a plain insertion:
//! with it a whole search was measured to take a quarter less time than with a binary search and
//! one move of the rest.

/// Maximum number of places that one search finds; a greater bound is reduced to this.
pub(super) const MAX_HITS: usize = 20;

/// A place found by a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hit {
    /// Position in the index.
    pub(super) index: usize,
    /// First ranking criterion.
    pub(super) prominence: u8,
    /// Second ranking criterion: the square of the distance in the units of a node's vector.
    pub(super) squared_distance: f64,
}

/// The best hits so far, best first.
pub(super) struct Hits {
    hits: [Hit; MAX_HITS],
    found: usize,
    bound: usize,
}

impl Hits {
    /// Creates an empty list of at most `bound` hits.
    pub(super) fn new(bound: usize) -> Hits {
        let none = Hit {
            index: 0,
            prominence: 0,
            squared_distance: 0.0,
        };
        Hits {
            hits: [none; MAX_HITS],
            found: 0,
            bound: bound.min(MAX_HITS),
        }
    }

    /// Returns the hits, best first.
    pub(super) fn as_slice(&self) -> &[Hit] {
        &self.hits[..self.found]
    }

    /// Returns whether a place of this prominence could be among the best.
    #[inline]
    pub(super) fn may_rank(&self, prominence: u8) -> bool {
        self.found < self.bound || prominence >= self.hits[self.bound - 1].prominence
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
    }
}

impl Hit {
    /// Returns whether this hit is ranked before another. No two are equal, so the order in which
    /// they are found does not matter.
    pub(super) fn outranks(&self, other: &Hit) -> bool {
        other
            .prominence
            .cmp(&self.prominence)
            .then(self.squared_distance.total_cmp(&other.squared_distance))
            .then(self.index.cmp(&other.index))
            .is_lt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inserts hits of (prominence, squared distance) in order of their index, and checks the indices
    /// that remain, best first.
    #[track_caller]
    fn check(bound: usize, hits: &[(u8, f64)], expected: &[usize]) {
        let mut best = Hits::new(bound);
        for (index, &(prominence, squared_distance)) in hits.iter().enumerate() {
            if best.may_rank(prominence) {
                best.insert(Hit {
                    index,
                    prominence,
                    squared_distance,
                });
            }
        }
        let got: Vec<usize> = best.as_slice().iter().map(|hit| hit.index).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn hits_are_ranked_by_prominence_distance_and_index() {
        check(3, &[], &[]);
        check(3, &[(1, 5.0), (9, 9.0)], &[1, 0]);
        check(3, &[(1, 5.0), (1, 4.0), (1, 5.0), (1, 4.5)], &[1, 3, 0]);
        check(2, &[(7, 1.0), (7, 1.0), (7, 1.0)], &[0, 1]);
        check(1, &[(1, 0.0), (2, 9.0), (2, 8.0), (1, 0.0)], &[2]);
    }
}
