//! The figures of each second: rates and quantiles from totals, and those of the last ten minutes.

use std::collections::VecDeque;
use std::time::Duration;

use super::text::write_time;
use crate::metrics::HistogramSnapshot;
use crate::model::time::{Timestamp, write_u64};

/// Seconds of the history.
const HISTORY: usize = 600;

/// Totals since the server's start, of which the figures are the differences.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Number of reports from clients.
    pub(crate) reports: u64,
    /// Number of questions from clients.
    pub(crate) questions: u64,
    /// Durations of turns.
    pub(crate) turn: HistogramSnapshot,
    /// Delays of records from the server at which they were reported to this one.
    pub(crate) flood: HistogramSnapshot,
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
        let quantiles = |now: &HistogramSnapshot, before: &HistogramSnapshot| {
            let since = now.since(before);
            QUANTILES.map(|quantile| {
                let seconds = since.quantile(quantile)?;
                Some((seconds * 1e9).round() / 1e9)
            })
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn all(history: &History) -> Vec<Value> {
        let mut out = Vec::new();
        history.write_all(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn figures_are_rates_of_a_second() {
        let totals = |reports, questions, turns| {
            let mut turn = HistogramSnapshot::default();
            (0..turns).for_each(|_| turn.observe(1_000_000));
            Totals {
                reports,
                questions,
                turn,
                clients: 7,
                records: 9,
                ..Totals::default()
            }
        };
        let mut history = History::new(totals(1_000, 50, 3));
        assert_eq!(all(&history), [Value::Null; 0]);
        let at = |second: u64| Timestamp::from_nanos(second * 1_000_000_000 + 5_999_999);
        history.add(totals(1_500, 51, 13), Duration::from_millis(2_000), at(1));
        history.add(totals(1_500, 51, 13), Duration::from_millis(1_003), at(2));
        let mut ten = HistogramSnapshot::default();
        (0..10).for_each(|_| ten.observe(1_000_000));
        let [median, p99] =
            [0.5, 0.99].map(|part| (ten.quantile(part).unwrap() * 1e9).round() / 1e9);
        let expected = json!({
            "at": 1005, "reports": 250, "questions": 0.5, "turn_p50": median, "turn_p99": p99,
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
