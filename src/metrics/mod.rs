//! Counters and histograms: written where something happens, read when somebody asks.
//!
//! Counting lies on the path of every request, so a thread that counts often has cells of its own:
//! an addition is then a load and a store, without an instruction that locks a cache line. Readers
//! add the cells of all threads up. What is rarely counted has one cell for all threads. Nothing
//! here knows what is counted or how it is shown.

mod histogram;

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use histogram::{Histogram, HistogramSnapshot, upper_bound_nanos};

/// A number that only grows.
pub(crate) trait Cell: Default {
    /// Adds to the number.
    fn add(&self, amount: u64);

    /// Returns the number.
    fn get(&self) -> u64;
}

/// A counter that any number of threads write.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Cell for Counter {
    fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter that one thread writes at a time. Additions of two at once would be lost.
#[derive(Debug, Default)]
pub(crate) struct OwnCounter(AtomicU64);

impl Cell for OwnCounter {
    #[inline]
    fn add(&self, amount: u64) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(amount), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A label whose values are known when the program is compiled.
pub(crate) trait Label: Copy + 'static {
    /// All values, in the order of their indexes.
    const ALL: &'static [Self];

    /// Returns the index of the value in [`ALL`](Self::ALL).
    fn index(self) -> usize;

    /// Returns the value as it is shown: lower case, with underscores.
    fn name(self) -> &'static str;
}

/// Counters by the values of a label, each there from the start. Any number of threads write them.
pub(crate) struct CounterFamily<L> {
    counters: Box<[Counter]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label> CounterFamily<L> {
    /// Adds one.
    pub(crate) fn count(&self, value: L) {
        self.counters[value.index()].add(1);
    }

    /// Returns the number of one value.
    #[cfg(test)]
    pub(crate) fn get(&self, value: L) -> u64 {
        self.counters[value.index()].get()
    }
}

impl<L: Label> Default for CounterFamily<L> {
    fn default() -> CounterFamily<L> {
        CounterFamily {
            counters: L::ALL.iter().map(|_| Counter::default()).collect(),
            label: PhantomData,
        }
    }
}

impl<L: Label> fmt::Debug for CounterFamily<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.named()).finish()
    }
}

/// Counters by a label that the reader need not know.
pub(crate) trait NamedCounts: fmt::Debug + Send + Sync {
    /// Returns the name of each value and its number.
    fn named(&self) -> Vec<(&'static str, u64)>;
}

impl<L: Label> NamedCounts for CounterFamily<L> {
    fn named(&self) -> Vec<(&'static str, u64)> {
        let names = L::ALL.iter().map(|value| value.name());
        names.zip(self.counters.iter().map(Cell::get)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Side {
        Left,
        Right,
    }

    impl Label for Side {
        const ALL: &'static [Side] = &[Side::Left, Side::Right];

        fn index(self) -> usize {
            self as usize
        }

        fn name(self) -> &'static str {
            match self {
                Side::Left => "left",
                Side::Right => "right",
            }
        }
    }

    #[test]
    fn each_value_has_a_counter_from_the_start() {
        let sides = CounterFamily::<Side>::default();
        sides.count(Side::Right);
        sides.count(Side::Right);
        assert_eq!(sides.named(), [("left", 0), ("right", 2)]);
        assert_eq!(sides.get(Side::Left), 0);
    }

    #[test]
    fn threads_lose_no_addition_to_a_shared_counter() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.add(1)));
            }
        });
        assert_eq!(counter.get(), 40_000);
        let own = OwnCounter::default();
        own.add(2);
        own.add(3);
        assert_eq!(own.get(), 5);
    }
}
