//! The record of a run: its rows, in memory and in `results.csv`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::point::Point;
use super::scenario::{Entry, Scenario};
use super::statistics::Spread;
use crate::csv;

/// The metric of a cell that has failed; its note says why.
pub(crate) const VOID: &str = "void";

/// What follows in a note on the part that a load is.
const OF_CAPACITY: &str = " of capacity";

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
    pub(crate) metric: String,
    pub(crate) value: f64,
    /// Why it is void.
    pub(crate) failure: Option<String>,
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

/// A record that is being made.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    pub(crate) rows: Rows,
}

/// All rows of a record.
#[derive(Debug, Default)]
pub(crate) struct Rows(pub(crate) Vec<Row>);

impl Record {
    /// An empty record; what the file held is gone.
    pub(crate) fn create(path: &Path) -> Result<Record, String> {
        let mut file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        writeln!(file, "{}", COLUMNS.join(",")).map_err(|e| e.to_string())?;
        Ok(Record {
            file,
            rows: Rows::default(),
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
            // A reply that was wrong is told over several lines.
            let failure = failure
                .as_ref()
                .map(|error| error.split_whitespace().collect::<Vec<_>>().join(" "));
            let part = cell
                .point
                .fraction
                .map(|part| format!("{part}{OF_CAPACITY}"));
            let note = [part, failure.clone()].into_iter().flatten();
            let note = note.collect::<Vec<_>>().join(": ");
            let row = Row {
                scenario: cell.scenario.name.clone(),
                variant: cell.entry.name.clone(),
                round: cell.round,
                point: cell.point.clone(),
                metric: figure.metric.to_owned(),
                value: figure.value,
                failure,
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
                row.metric.clone(),
                shortest(row.value),
                unit(&row.metric).to_owned(),
                note,
            ];
            let line = csv::row(cells.iter().map(String::as_str));
            // One write a row: an interrupted run keeps whole rows.
            self.file
                .write_all(format!("{line}\n").as_bytes())
                .map_err(|error| format!("can't write the results: {error}"))?;
            self.rows.0.push(row);
        }
        Ok(())
    }
}

impl Rows {
    /// Reads the rows of these scenarios from a `results.csv`. What the others were is not known.
    pub(crate) fn read(path: &Path, scenarios: &[Scenario]) -> Result<Rows, String> {
        let fault = |error: &str| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| fault(&error.to_string()))?;
        let mut lines = text.lines();
        if lines.next() != Some(&COLUMNS.join(",")) {
            return Err(fault("other columns than a record of this version has"));
        }
        let mut rows = Vec::new();
        for (index, line) in lines.enumerate() {
            let row = csv::cells(line).and_then(|cells| read_row(&cells, scenarios));
            match row {
                Some(row) => rows.extend(row),
                None => return Err(fault(&format!("line {} is no row", index + 2))),
            }
        }
        Ok(Rows(rows))
    }

    /// The values of a metric by round, for one variant at one point.
    pub(crate) fn values(
        &self,
        scenario: &str,
        variant: &str,
        point: &Point,
        metric: &str,
    ) -> BTreeMap<usize, f64> {
        self.0
            .iter()
            .filter(|row| {
                row.scenario == scenario
                    && row.variant == variant
                    && row.point == *point
                    && row.metric == metric
            })
            .map(|row| (row.round, row.value))
            .collect()
    }

    /// Why a variant's cell is void, if it is.
    pub(crate) fn void(&self, scenario: &str, variant: &str, point: &Point) -> Option<&str> {
        let row = self.0.iter().find(|row| {
            row.scenario == scenario
                && row.variant == variant
                && row.point == *point
                && row.metric == VOID
        });
        row?.failure.as_deref()
    }

    /// A metric of a variant at a point, or what it is of another's, round by round; `None` where
    /// it was not measured, or is void: one void round makes a cell void.
    pub(crate) fn spread(
        &self,
        scenario: &str,
        (of, to): (&str, Option<&str>),
        metric: &str,
        point: &Point,
    ) -> Option<Spread> {
        let values = |name: &str| {
            let is_void = self.void(scenario, name, point).is_some();
            (!is_void).then(|| self.values(scenario, name, point, metric))
        };
        let of = values(of)?;
        match to {
            Some(to) => Spread::of_ratios(&of, &values(to)?),
            None => Spread::of(&of.into_values().collect::<Vec<_>>()),
        }
    }
}

/// What a row says. `Some(None)` is one of another scenario or variant; `None` is no row at all.
fn read_row(cells: &[String], scenarios: &[Scenario]) -> Option<Option<Row>> {
    let [
        scenario,
        variant,
        round,
        connections,
        depth,
        _rate,
        workers,
        idle,
        _clients,
        metric,
        value,
        _unit,
        note,
    ] = cells
    else {
        return None;
    };
    let known = scenarios.iter().find(|known| known.name == *scenario);
    let known = known.and_then(|s| s.variants.iter().find(|entry| entry.name == *variant));
    let Some(entry) = known else {
        return Some(None);
    };
    let optional = |text: &str| match text {
        "" => Some(None),
        text => text.parse().ok().map(Some),
    };
    let (part, failure) = match note.split_once(OF_CAPACITY) {
        Some((part, failure)) if part.parse::<f64>().is_ok() => {
            (Some(part), failure.trim_start_matches(": "))
        }
        _ => (None, note.as_str()),
    };
    let idle: usize = idle.parse().ok()?;
    Some(Some(Row {
        scenario: scenario.clone(),
        variant: variant.clone(),
        round: round.parse().ok()?,
        point: Point {
            connections: connections.parse().ok()?,
            // An open loop has none.
            depth: optional(depth)?.unwrap_or(1),
            fraction: part.and_then(|part| part.parse().ok()),
            workers: optional(workers)?,
            // Those that the variant has everywhere do not tell points apart.
            idle: idle.checked_sub(entry.idle)?,
        },
        metric: metric.clone(),
        value: value.parse().ok()?,
        failure: (metric == VOID).then(|| failure.to_owned()),
    }))
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
