//! Histograms of durations, with the same buckets for all of them.
//!
//! The upper bounds double from a microsecond, so the bucket of a duration is the length of a number
//! in bits, and a quantile is off by less than a factor of two.

use std::time::Duration;

use super::{Cell, Counter};

/// Number of buckets with an upper bound: from 1 µs to 134 s. One more has all that is longer.
const BOUNDED: usize = 28;

/// Number of buckets.
const BUCKETS: usize = BOUNDED + 1;

const NANOS_PER_MICROSECOND: u64 = 1_000;

/// Returns the upper bound of a bucket, which belongs to it; `None` for the last.
pub(crate) fn upper_bound_nanos(bucket: usize) -> Option<u64> {
    (bucket < BOUNDED).then(|| NANOS_PER_MICROSECOND << bucket)
}

/// Returns the bucket of a duration.
fn bucket(nanos: u64) -> usize {
    let above = nanos.saturating_sub(1) / NANOS_PER_MICROSECOND;
    let bits = u64::BITS - above.leading_zeros();
    (bits as usize).min(BOUNDED)
}

/// A histogram of durations in cells of kind `C`.
#[derive(Debug, Default)]
pub(crate) struct Histogram<C = Counter> {
    buckets: [C; BUCKETS],
    sum_nanos: C,
}

impl<C: Cell> Histogram<C> {
    /// Adds a duration.
    #[inline]
    pub(crate) fn observe(&self, nanos: u64) {
        self.buckets[bucket(nanos)].add(1);
        self.sum_nanos.add(nanos);
    }

    /// Adds all durations of another histogram.
    pub(crate) fn add(&self, other: &HistogramSnapshot) {
        for (cell, &count) in self.buckets.iter().zip(&other.buckets) {
            if count > 0 {
                cell.add(count);
            }
        }
        self.sum_nanos.add(other.sum_nanos);
    }

    /// Returns what has been added so far. Durations that are added meanwhile may be missing in a
    /// part of it.
    pub(crate) fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].get()),
            sum_nanos: self.sum_nanos.get(),
        }
    }
}

/// A histogram at one moment, or one that a single thread gathers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistogramSnapshot {
    buckets: [u64; BUCKETS],
    sum_nanos: u64,
}

impl HistogramSnapshot {
    /// Adds a duration.
    pub(crate) fn observe(&mut self, nanos: u64) {
        self.buckets[bucket(nanos)] += 1;
        self.sum_nanos = self.sum_nanos.wrapping_add(nanos);
    }

    /// Adds all durations of another histogram.
    pub(crate) fn add(&mut self, other: &HistogramSnapshot) {
        for (count, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
        self.sum_nanos = self.sum_nanos.wrapping_add(other.sum_nanos);
    }

    /// Returns what was added since an earlier snapshot of the same histogram.
    pub(crate) fn since(&self, earlier: &HistogramSnapshot) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: std::array::from_fn(|bucket| {
                self.buckets[bucket].saturating_sub(earlier.buckets[bucket])
            }),
            sum_nanos: self.sum_nanos.saturating_sub(earlier.sum_nanos),
        }
    }

    /// Returns the number of durations in each bucket.
    pub(crate) fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// Returns the number of durations.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the durations.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// Returns the duration in seconds that the part `q` of all durations, from 0 to 1, does not
    /// exceed; `None` if there are none. Within a bucket the durations are taken for evenly
    /// distributed; what is longer than the highest bound counts as that.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q.clamp(0.0, 1.0) * self.count() as f64;
        let mut below = 0.0;
        let mut lower = 0.0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            let Some(upper) = upper_bound_nanos(bucket) else {
                break;
            };
            let (count, upper) = (count as f64, upper as f64);
            if count > 0.0 && below + count >= rank {
                let part = (rank - below) / count;
                return Some((lower + part * (upper - lower)) / 1e9);
            }
            (below, lower) = (below + count, upper);
        }
        (self.count() > 0).then_some(lower / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::OwnCounter;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        for (nanos, expected) in [
            (0, 0),
            (1, 0),
            (1_000, 0),
            (1_001, 1),
            (2_000, 1),
            (2_001, 2),
            (4_000, 2),
            (4_001, 3),
            (u64::MAX, BOUNDED),
        ] {
            assert_eq!(bucket(nanos), expected, "{nanos}");
        }
        for index in 0..BOUNDED {
            let bound = upper_bound_nanos(index).unwrap();
            assert_eq!((bucket(bound), bucket(bound + 1)), (index, index + 1));
        }
        assert_eq!(upper_bound_nanos(BOUNDED), None);
    }

    #[test]
    fn both_kinds_of_cells_and_a_gathered_one_agree() {
        let (own, shared) = (Histogram::<OwnCounter>::default(), <Histogram>::default());
        let mut gathered = HistogramSnapshot::default();
        for nanos in [
            0,
            999,
            5_000,
            5_000,
            3_000_000_000,
            u64::from(u32::MAX) * 100,
        ] {
            own.observe(nanos);
            gathered.observe(nanos);
        }
        shared.add(&gathered);
        assert_eq!(own.snapshot(), gathered);
        assert_eq!(shared.snapshot(), gathered);
        let mut twice = gathered;
        twice.add(&own.snapshot());
        assert_eq!(twice.count(), 12);
        assert_eq!(twice.since(&gathered), gathered);
        let sum = 999 + 10_000 + 3_000_000_000 + u64::from(u32::MAX) * 100;
        assert_eq!(gathered.sum(), Duration::from_nanos(sum));
    }

    #[track_caller]
    fn check(nanos: &[u64], q: f64, expected: Option<f64>) {
        let mut histogram = HistogramSnapshot::default();
        nanos.iter().for_each(|&nanos| histogram.observe(nanos));
        let found = histogram.quantile(q);
        let is_near = match (found, expected) {
            (Some(found), Some(expected)) => (found - expected).abs() < 1e-12,
            (found, expected) => found == expected,
        };
        assert!(is_near, "{found:?} instead of {expected:?}");
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        check(&[], 0.5, None);
        check(&[1_500; 100], 0.5, Some(1.5e-6));
        check(&[1_500; 100], 0.99, Some(1.99e-6));
        check(&[1_500; 100], 1.0, Some(2e-6));
        let mut mixed = vec![1_500; 98];
        mixed.extend([7_000_000, 7_000_000]);
        check(&mixed, 0.5, Some((1.0 + 50.0 / 98.0) * 1e-6));
        check(&mixed, 0.99, Some(0.006_144));
        // The last bucket has no upper bound.
        check(&[u64::MAX], 0.5, Some(134.217_728));
    }
}
