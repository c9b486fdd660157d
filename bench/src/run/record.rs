//! The record of a run: the rows of `results.csv`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::scenario::{Entry, Point, Scenario};
use crate::csv;

/// The metric of a cell that has failed; its note says why.
const VOID: &str = "void";

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

/// Unit of a metric: `ns`, `bytes`, `1/s`, `cores`, or nothing for a plain number.
fn unit(metric: &str) -> &'static str {
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

/// One variant at one point in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) point: &'a Point,
    pub(crate) entry: &'a Entry,
    pub(crate) round: usize,
    /// Requests a second of an open loop.
    pub(crate) rate: Option<f64>,
}

impl<'a> Cell<'a> {
    /// A cell of a closed loop.
    pub(crate) fn new(
        scenario: &'a Scenario,
        point: &'a Point,
        entry: &'a Entry,
        round: usize,
    ) -> Cell<'a> {
        Cell {
            scenario,
            point,
            entry,
            round,
            rate: None,
        }
    }

    /// Connections that send nothing.
    pub(crate) fn idle(&self) -> usize {
        self.point.idle + self.entry.idle
    }

    /// Clients that are connected at a time.
    pub(crate) fn clients(&self) -> usize {
        self.point.connections + self.idle() + self.entry.drip + self.entry.deaf
    }
}

/// A record that is being made.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    /// Cells that [`fail`](Record::fail) has marked void: scenario, variant, point.
    void: Vec<(String, String, Point)>,
}

impl Record {
    /// An empty record; any earlier contents of the file are removed.
    pub(crate) fn create(path: &Path) -> Result<Record, String> {
        let mut file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        writeln!(file, "{}", COLUMNS.join(",")).map_err(|e| e.to_string())?;
        Ok(Record {
            file,
            void: Vec::new(),
        })
    }

    /// Returns whether an earlier round or pass has marked a cell void: a single wrong reply does.
    pub(crate) fn is_void(&self, cell: &Cell<'_>) -> bool {
        self.void.iter().any(|(scenario, variant, point)| {
            *scenario == cell.scenario.name && *variant == cell.entry.name && point == cell.point
        })
    }

    /// Marks a cell void in all rounds, with the reason. The first reason counts.
    pub(crate) fn fail(&mut self, cell: &Cell<'_>, error: String) -> Result<(), String> {
        if self.is_void(cell) {
            return Ok(());
        }
        let (scenario, variant) = (cell.scenario.name.clone(), cell.entry.name.clone());
        self.void.push((scenario, variant, *cell.point));
        self.add(cell, Err(error))
    }

    /// Adds the figures of a cell, or the reason why it is void.
    pub(crate) fn add(
        &mut self,
        cell: &Cell<'_>,
        result: Result<Vec<Figure>, String>,
    ) -> Result<(), String> {
        let (figures, failure) = match result {
            Ok(figures) => (figures, None),
            // A wrong reply is described over several lines.
            Err(error) => (
                vec![figure(VOID, 1.0)],
                Some(error.split_whitespace().collect::<Vec<_>>().join(" ")),
            ),
        };
        let point = cell.point;
        let part = point.fraction.map(|part| format!("{part} of capacity"));
        let note: Vec<String> = [part, failure].into_iter().flatten().collect();
        let note = note.join(": ");
        for figure in figures {
            let cells = [
                cell.scenario.name.clone(),
                cell.entry.name.clone(),
                cell.round.to_string(),
                point.connections.to_string(),
                csv::optional(cell.rate.is_none().then_some(point.depth)),
                csv::optional(cell.rate.map(|rate| format!("{rate:.0}"))),
                csv::optional(point.workers),
                cell.idle().to_string(),
                cell.scenario.clients.to_string(),
                figure.metric.to_owned(),
                shortest(figure.value),
                unit(figure.metric).to_owned(),
                note.clone(),
            ];
            let line = csv::row(cells.iter().map(String::as_str));
            // One write a row: an interrupted run keeps whole rows.
            self.file
                .write_all(format!("{line}\n").as_bytes())
                .map_err(|error| format!("can't write the results: {error}"))?;
        }
        Ok(())
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
