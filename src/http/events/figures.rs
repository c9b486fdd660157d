//! The figures of each second: rates and quantiles from totals, and those of the last ten minutes.

use std::collections::VecDeque;
use std::time::Duration;

use super::text::write_time;
use crate::model::time::{Timestamp, write_u64};

/// Seconds of the history.
const HISTORY: usize = 600;

/// Totals since the server's start, of which the figures are the differences.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    /// Number of reports from clients.
    pub(crate) reports: u64,
    /// Number of questions from clients.
    pub(crate) questions: u64,
    /// Durations of turns: for each upper bound in seconds, the number of turns up to it. The last
    /// bound may be infinite.
    pub(crate) turn: Vec<(f64, u64)>,
    /// Delays of records from the server at which they were reported to this one, likewise.
    pub(crate) flood: Vec<(f64, u64)>,
    /// Number of connections of clients at this moment.
    pub(crate) clients: u64,
    /// Number of records at this moment.
    pub(crate) records: u64,
}

/// Figures of one second.
#[derive(Clone, Debug)]
struct Figures {
    at: Timestamp,
    reports: f64,
    questions: f64,
    turn: [Option<f64>; 2],
    flood: [Option<f64>; 2],
    clients: u64,
    records: u64,
}

/// Quantiles that are shown of a duration.
const QUANTILES: [f64; 2] = [0.5, 0.99];

/// The figures of the last seconds.
#[derive(Debug)]
pub(super) struct History {
    totals: Totals,
    figures: VecDeque<Figures>,
}

impl History {
    /// No figures yet; the first are the differences from these totals.
    pub(super) fn new(totals: Totals) -> History {
        History {
            totals,
            figures: VecDeque::with_capacity(HISTORY),
        }
    }

    /// Adds the figures of the time since the totals before.
    pub(super) fn add(&mut self, totals: Totals, elapsed: Duration, at: Timestamp) {
        let before = &self.totals;
        let rate = |now: u64, before: u64| {
            let rate = now.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(1e-3);
            (rate * 10.0).round() / 10.0
        };
        let quantiles = |now: &[(f64, u64)], before: &[(f64, u64)]| {
            QUANTILES.map(|quantile| quantile_between(now, before, quantile))
        };
        let figures = Figures {
            at,
            reports: rate(totals.reports, before.reports),
            questions: rate(totals.questions, before.questions),
            turn: quantiles(&totals.turn, &before.turn),
            flood: quantiles(&totals.flood, &before.flood),
            clients: totals.clients,
            records: totals.records,
        };
        if self.figures.len() == HISTORY {
            self.figures.pop_front();
        }
        self.figures.push_back(figures);
        self.totals = totals;
    }

    /// Appends the newest figures as JSON.
    pub(super) fn write_last(&self, out: &mut Vec<u8>) {
        if let Some(figures) = self.figures.back() {
            figures.write(out);
        }
    }

    /// Appends all figures as a JSON list, oldest first.
    pub(super) fn write_all(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, figures) in self.figures.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            figures.write(out);
        }
        out.push(b']');
    }
}

impl Figures {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"at\":");
        write_time(self.at, out);
        for (name, value) in [
            ("reports", Some(self.reports)),
            ("questions", Some(self.questions)),
            ("turn_p50", self.turn[0]),
            ("turn_p99", self.turn[1]),
            ("flood_p50", self.flood[0]),
            ("flood_p99", self.flood[1]),
        ] {
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            match value {
                // Without an exponent, which JSON would allow too.
                Some(value) if value.is_finite() => {
                    out.extend_from_slice(value.to_string().as_bytes());
                }
                _ => out.extend_from_slice(b"null"),
            }
        }
        for (name, value) in [("clients", self.clients), ("records", self.records)] {
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            write_u64(value, out);
        }
        out.push(b'}');
    }
}

/// Returns the quantile of the measurements between two histograms, to the nanosecond; `None` if there
/// are none. Within a bucket the measurements are taken to be evenly distributed.
fn quantile_between(now: &[(f64, u64)], before: &[(f64, u64)], quantile: f64) -> Option<f64> {
    // A histogram that was empty has no bounds yet.
    let count = |index: usize| -> u64 {
        let earlier = before.get(index).map_or(0, |bucket| bucket.1);
        now[index].1.saturating_sub(earlier)
    };
    let total = count(now.len().checked_sub(1)?);
    if total == 0 {
        return None;
    }
    let rank = quantile * total as f64;
    let (mut lower, mut below) = (0.0, 0);
    for (index, &(upper, _)) in now.iter().enumerate() {
        let up_to = count(index);
        if up_to > below && up_to as f64 >= rank {
            // Of the last bucket only its lower bound is known.
            if upper.is_infinite() {
                break;
            }
            let share = (rank - below as f64) / (up_to - below) as f64;
            lower += (upper - lower) * share.clamp(0.0, 1.0);
            break;
        }
        below = up_to.max(below);
        if upper.is_finite() {
            lower = upper;
        }
    }
    Some((lower * 1e9).round() / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const EMPTY: [(f64, u64); 4] = [(0.1, 0), (0.2, 0), (0.4, 0), (f64::INFINITY, 0)];

    #[track_caller]
    fn check(now: [u64; 4], before: [u64; 4], quantile: f64, expected: Option<f64>) {
        let histogram = |counts: [u64; 4]| {
            let mut buckets = EMPTY;
            for (bucket, count) in buckets.iter_mut().zip(counts) {
                bucket.1 = count;
            }
            buckets
        };
        let got = quantile_between(&histogram(now), &histogram(before), quantile);
        assert_eq!(got, expected, "{now:?} - {before:?}");
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        check([0, 10, 10, 10], [0; 4], 0.5, Some(0.15));
        check([10, 10, 10, 10], [0; 4], 0.5, Some(0.05));
        check([5, 10, 10, 10], [0; 4], 0.5, Some(0.1));
        check([50, 90, 100, 100], [0; 4], 0.99, Some(0.38));
        check([0, 0, 1, 1], [0; 4], 0.99, Some(0.398));
        // Past the last finite bound nothing more is known.
        check([0, 0, 0, 10], [0; 4], 0.5, Some(0.4));
        check([9, 9, 9, 10], [0; 4], 0.99, Some(0.4));
    }

    #[test]
    fn a_quantile_is_of_what_was_measured_since() {
        check([100, 110, 110, 110], [100, 100, 100, 100], 0.5, Some(0.15));
        check([100, 100, 100, 100], [100, 100, 100, 100], 0.5, None);
        check([0; 4], [0; 4], 0.5, None);
        assert_eq!(quantile_between(&[], &[], 0.5), None);
        assert_eq!(quantile_between(&[(0.1, 4)], &[], 0.5), Some(0.05));
    }

    fn all(history: &History) -> Vec<Value> {
        let mut out = Vec::new();
        history.write_all(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn figures_are_rates_of_a_second() {
        let totals = |reports, questions, turns| Totals {
            reports,
            questions,
            turn: vec![(0.001, turns), (f64::INFINITY, turns)],
            clients: 7,
            records: 9,
            ..Totals::default()
        };
        let mut history = History::new(totals(1_000, 50, 3));
        assert_eq!(all(&history), [Value::Null; 0]);
        let at = |second: u64| Timestamp::from_nanos(second * 1_000_000_000 + 5_999_999);
        history.add(totals(1_500, 51, 13), Duration::from_millis(2_000), at(1));
        history.add(totals(1_500, 51, 13), Duration::from_millis(1_003), at(2));
        let expected = json!({
            "at": 1005, "reports": 250, "questions": 0.5, "turn_p50": 0.0005, "turn_p99": 0.00099,
            "flood_p50": null, "flood_p99": null, "clients": 7, "records": 9,
        });
        let quiet = json!({
            "at": 2005, "reports": 0, "questions": 0, "turn_p50": null, "turn_p99": null,
            "flood_p50": null, "flood_p99": null, "clients": 7, "records": 9,
        });
        assert_eq!(all(&history), [expected, quiet.clone()]);
        let mut last = Vec::new();
        history.write_last(&mut last);
        assert_eq!(serde_json::from_slice::<Value>(&last).unwrap(), quiet);
    }

    #[test]
    fn the_history_has_the_last_ten_minutes_oldest_first() {
        let mut history = History::new(Totals::default());
        let second = Duration::from_secs(1);
        for number in 0..HISTORY as u64 + 5 {
            let at = Timestamp::from_nanos(number * 1_000_000);
            history.add(Totals::default(), second, at);
        }
        let times: Vec<u64> = all(&history)
            .iter()
            .map(|figures| figures["at"].as_u64().unwrap())
            .collect();
        assert_eq!(times, (5..HISTORY as u64 + 5).collect::<Vec<_>>());
    }
}
