//! Medians, ranges, and the ratios of rounds.
//!
//! A shared machine is slow for minutes at a time, for everybody. So two variants are compared
//! round by round, where they ran within seconds of each other, and what counts is the median
//! of those ratios, not the ratio of medians.

use std::collections::BTreeMap;

/// A median, and how far the values around it lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// Between these lies the middle half of the values.
    pub(crate) lower: f64,
    pub(crate) upper: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// How many values.
    pub(crate) count: usize,
}

impl Spread {
    /// `None` without values.
    pub(crate) fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&least, &most) = (sorted.first()?, sorted.last()?);
        // Between two values, in proportion.
        let at = |part: f64| {
            let place = part * (sorted.len() - 1) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            sorted[below] + (sorted[above] - sorted[below]) * place.fract()
        };
        Some(Spread {
            median: at(0.5),
            lower: at(0.25),
            upper: at(0.75),
            least,
            most,
            count: sorted.len(),
        })
    }

    /// The ratios of the rounds that both have; `None` if there is no such round.
    pub(crate) fn of_ratios(
        of: &BTreeMap<usize, f64>,
        to: &BTreeMap<usize, f64>,
    ) -> Option<Spread> {
        let ratios: Vec<f64> = of
            .iter()
            .filter_map(|(round, value)| Some(value / to.get(round).filter(|to| **to != 0.0)?))
            .collect();
        Spread::of(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_lie_in_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        let spread = Spread::of(&[3.0, 1.0, 2.0]).expect("three values");
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 3.0));
        let spread = Spread::of(&[4.0, 1.0, 2.0, 3.0]).expect("four values");
        assert_eq!((spread.median, spread.count), (2.5, 4));
        assert_eq!((spread.lower, spread.upper), (1.75, 3.25));
    }

    #[test]
    fn rounds_are_paired() {
        // The second round was slow for both; the fourth is one's alone.
        let of = BTreeMap::from([(1, 110.0), (2, 55.0), (3, 120.0), (4, 1.0)]);
        let to = BTreeMap::from([(1, 100.0), (2, 50.0), (3, 100.0), (5, 0.0)]);
        let spread = Spread::of_ratios(&of, &to).expect("three pairs");
        assert_eq!((spread.count, spread.most), (3, 1.2));
        assert!((spread.median - 1.1).abs() < 1e-9, "{spread:?}");
        assert_eq!(Spread::of_ratios(&of, &BTreeMap::new()), None);
        assert_eq!(Spread::of_ratios(&BTreeMap::from([(5, 1.0)]), &to), None);
    }
}
