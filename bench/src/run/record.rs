//! The record of a run: its rows, in memory and in a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::scenario::{Entry, Point, Scenario};
use crate::csv;

/// The metric of a cell that has failed; its note says why.
pub(crate) const VOID: &str = "void";

/// The columns of `results.csv`.
const COLUMNS: [&str; 13] = [
    "scenario",
    "variant",
    "round",
    "connections",
    "depth",
    "rate",
    "workers",
    "idle",
    "clients",
    "metric",
    "value",
    "unit",
    "note",
];

/// One figure of one cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
}

/// A figure of a metric, in the metric's [`unit()`].
pub(crate) fn figure(metric: &'static str, value: f64) -> Figure {
    Figure { metric, value }
}

/// What a metric is counted in: `ns`, `bytes`, `1/s`, `cores`, or nothing for a plain number.
pub(crate) fn unit(metric: &str) -> &'static str {
    match metric {
        "throughput" | "apply_rate" | "close_rate" | "reset_rate" => "1/s",
        "cpu_per_request" | "late_p99" | "copy" | "restart" | "recovery" | "flood_p50"
        | "flood_p99" => "ns",
        metric if metric.starts_with("latency_") => "ns",
        "server_rss" => "bytes",
        metric if metric.contains("memory") => "bytes",
        "generator_cores" => "cores",
        metric if metric.ends_with("_cpu") => "cores",
        _ => "",
    }
}

/// A figure and where it belongs.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) variant: String,
    pub(crate) round: usize,
    pub(crate) point: Point,
    pub(crate) figure: Figure,
    pub(crate) note: String,
}

/// Which cell a figure is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) point: &'a Point,
    pub(crate) entry: &'a Entry,
    pub(crate) round: usize,
    /// Requests a second of an open loop.
    pub(crate) rate: Option<f64>,
}

impl Cell<'_> {
    /// Connections that say nothing.
    pub(crate) fn idle(&self) -> usize {
        self.point.idle + self.entry.idle
    }

    /// Clients that are connected at a time.
    pub(crate) fn clients(&self) -> usize {
        self.point.connections + self.idle() + self.entry.drip + self.entry.deaf
    }
}

/// All rows so far.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    pub(crate) rows: Vec<Row>,
}

impl Record {
    /// An empty record; what the file held is gone.
    pub(crate) fn create(path: &Path) -> Result<Record, String> {
        let mut file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        writeln!(file, "{}", COLUMNS.join(",")).map_err(|e| e.to_string())?;
        Ok(Record {
            file,
            rows: Vec::new(),
        })
    }

    /// Adds what a cell gave, or that it is void.
    pub(crate) fn add(
        &mut self,
        cell: &Cell<'_>,
        result: Result<Vec<Figure>, String>,
    ) -> Result<(), String> {
        let (figures, failure) = match result {
            Ok(figures) => (figures, None),
            Err(error) => (vec![figure(VOID, 1.0)], Some(error)),
        };
        for figure in figures {
            let note = match (&failure, cell.point.fraction) {
                // A reply that was wrong is told over several lines.
                (Some(error), _) => error.split_whitespace().collect::<Vec<_>>().join(" "),
                (None, Some(part)) => format!("{part} of capacity"),
                (None, None) => String::new(),
            };
            let row = Row {
                scenario: cell.scenario.name.clone(),
                variant: cell.entry.name.clone(),
                round: cell.round,
                point: cell.point.clone(),
                figure,
                note,
            };
            let optional = |value: Option<String>| value.unwrap_or_default();
            let cells = [
                row.scenario.clone(),
                row.variant.clone(),
                row.round.to_string(),
                cell.point.connections.to_string(),
                optional(cell.rate.is_none().then(|| cell.point.depth.to_string())),
                optional(cell.rate.map(|rate| format!("{rate:.0}"))),
                optional(cell.point.workers.map(|workers| workers.to_string())),
                cell.idle().to_string(),
                cell.scenario.clients.to_string(),
                row.figure.metric.to_owned(),
                shortest(row.figure.value),
                unit(row.figure.metric).to_owned(),
                row.note.clone(),
            ];
            let line = csv::row(cells.iter().map(String::as_str));
            // One write a row: an interrupted run keeps whole rows.
            self.file
                .write_all(format!("{line}\n").as_bytes())
                .map_err(|error| format!("can't write the results: {error}"))?;
            self.rows.push(row);
        }
        Ok(())
    }

    /// The values of a metric by round, for one variant at one point.
    pub(crate) fn values(
        &self,
        scenario: &str,
        variant: &str,
        point: &Point,
        metric: &str,
    ) -> BTreeMap<usize, f64> {
        self.rows
            .iter()
            .filter(|row| {
                row.scenario == scenario
                    && row.variant == variant
                    && row.point == *point
                    && row.figure.metric == metric
            })
            .map(|row| (row.round, row.figure.value))
            .collect()
    }

    /// Why a variant's cell is void, if it is.
    pub(crate) fn void(&self, scenario: &str, variant: &str, point: &Point) -> Option<&str> {
        let row = self.rows.iter().find(|row| {
            row.scenario == scenario
                && row.variant == variant
                && row.point == *point
                && row.figure.metric == VOID
        });
        row.map(|row| row.note.as_str())
    }
}

/// A figure with three decimals at most.
fn shortest(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_short() {
        for (value, expected) in [
            (1.0, "1"),
            (0.25, "0.25"),
            (1234.5678, "1234.568"),
            (100.0, "100"),
        ] {
            assert_eq!(shortest(value), expected);
        }
    }
}
