//! The best places of a search so far, in order, in an array of fixed size.
//!
//! Prominence comes first and nearness next. Twenty is few enough for a plain insertion: with
//! it a whole call was measured to take a quarter less time than with a binary search and one
//! move of the rest.

/// Places that one search finds at most; a greater bound is cut to this.
pub(super) const MAX_HITS: usize = 20;

/// A place that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hit {
    /// Where it stands in the index.
    pub(super) index: usize,
    /// What it is ranked by first.
    pub(super) prominence: u8,
    /// What it is ranked by next: the square of its distance in the units of a node's vector.
    pub(super) squared_distance: f64,
}

/// The best hits so far, best first.
pub(super) struct Hits {
    hits: [Hit; MAX_HITS],
    found: usize,
    bound: usize,
}

impl Hits {
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

    /// What was found, best first.
    pub(super) fn as_slice(&self) -> &[Hit] {
        &self.hits[..self.found]
    }

    /// Whether a place of this prominence might be among the best.
    #[inline]
    pub(super) fn may_take(&self, prominence: u8) -> bool {
        self.found < self.bound || prominence >= self.hits[self.bound - 1].prominence
    }

    /// Puts a hit in its place, if it has one.
    pub(super) fn take(&mut self, hit: Hit) {
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
    /// Whether this hit stands before another. Two never stand level, so the order in which they
    /// are found does not matter.
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

    /// Takes hits of (prominence, squared distance) in turn, index by index; gives the indices that
    /// stay, best first.
    #[track_caller]
    fn check(bound: usize, hits: &[(u8, f64)], expected: &[usize]) {
        let mut best = Hits::new(bound);
        for (index, &(prominence, squared_distance)) in hits.iter().enumerate() {
            if best.may_take(prominence) {
                best.take(Hit {
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
    fn prominence_then_nearness_then_index() {
        check(3, &[], &[]);
        check(3, &[(1, 5.0), (9, 9.0)], &[1, 0]);
        check(3, &[(1, 5.0), (1, 4.0), (1, 5.0), (1, 4.5)], &[1, 3, 0]);
        check(2, &[(7, 1.0), (7, 1.0), (7, 1.0)], &[0, 1]);
        check(1, &[(1, 0.0), (2, 9.0), (2, 8.0), (1, 0.0)], &[2]);
    }
}
