//! Load on one server: one cell of a matrix.

use std::fs;
use std::time::Duration;

use super::fleet::Fleet;
use super::record::{Cell, Figure, figure};
use super::variant;
use crate::load::{self, Measured, Session};
use crate::process;
use crate::progress::Progress;

/// Longest time that a server may take to close connections that have ended.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// Options of a closed loop that finds a capacity.
const CALIBRATION: &str = "--seconds 0.3 --warmup 0.1";

/// Options of a closed loop after which an allocator has set aside its memory for requests.
const FIRST_REQUESTS: &str = "--seconds 0.3 --warmup 0";

/// Options of a load that fills a server, for as long as that takes.
const FILL: &str = "--connections 8 --depth 16 --seconds 600 --warmup 0";

/// The connections of a cell's load, for one turn or several.
#[derive(Debug)]
pub(crate) struct Visit {
    session: Session,
    /// The server, and its descriptors before.
    process: String,
    before: usize,
}

impl Visit {
    /// Connects the clients of a cell to the first server of a fleet.
    pub(crate) fn open(
        cell: &Cell<'_>,
        fleet: &Fleet,
        progress: &mut Progress,
    ) -> Result<Visit, String> {
        if cell.idle() > 0 && cell.round == 1 {
            // Memory that an allocator sets aside for the first requests is no idle client's.
            run(cell, fleet, FIRST_REQUESTS, 0.0, progress)?;
        }
        Visit::with(cell, fleet, &options(cell), progress)
    }

    fn with(
        cell: &Cell<'_>,
        fleet: &Fleet,
        options: &str,
        progress: &mut Progress,
    ) -> Result<Visit, String> {
        let scenario = cell.scenario;
        let requests = match variant::wire(cell.entry.variant()) {
            Some(wire) => wire.to_owned(),
            None => format!("--whatsat {} --bound {}", scenario.whatsat, scenario.bound),
        };
        let (connections, clients) = (cell.point.connections, scenario.clients);
        let options =
            format!("--connections {connections} --clients {clients} {requests} {options}");
        let process = fleet.process(0)?;
        Ok(Visit {
            before: process::descriptors(&process)?,
            process,
            session: load::open(&fleet.options("load", &options)?, progress)?,
        })
    }

    /// A turn, after `warmup` seconds of the same load.
    pub(crate) fn turn(
        &mut self,
        warmup: f64,
        progress: &mut Progress,
    ) -> Result<Measured, String> {
        self.session.turn(warmup, progress)
    }

    /// Closes the connections, and waits until the server has closed them, too.
    pub(crate) fn close(self) -> Result<(), String> {
        drop(self.session);
        process::settle(&self.process, self.before, SETTLE_LIMIT)
    }
}

/// The options that distinguish a cell's load.
fn options(cell: &Cell<'_>) -> String {
    let (entry, scenario) = (cell.entry, cell.scenario);
    let load = match cell.rate {
        Some(rate) => format!("--rate {rate}"),
        None => format!("--depth {}", cell.point.depth),
    };
    format!(
        "--seconds {} --warmup {} --idle {} --drip {} --deaf {} {load}",
        scenario.seconds,
        scenario.warmup + entry.wait,
        cell.idle(),
        entry.drip,
        entry.deaf
    )
}

/// One turn of a load with these options, on connections of its own.
fn run(
    cell: &Cell<'_>,
    fleet: &Fleet,
    options: &str,
    warmup: f64,
    progress: &mut Progress,
) -> Result<Measured, String> {
    let mut visit = Visit::with(cell, fleet, options, progress)?;
    let measured = visit.turn(warmup, progress)?;
    visit.close()?;
    Ok(measured)
}

/// Puts the cell's load on the first server of a fleet, once.
pub(crate) fn load(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let warmup = cell.scenario.warmup + cell.entry.wait;
    let measured = run(cell, fleet, &options(cell), warmup, progress)?;
    let mut figures = figures(cell, &measured);
    figures.extend(latencies(cell, &measured));
    Ok(figures)
}

/// Requests a second that a closed loop gets through, over the cell's connections.
pub(crate) fn capacity(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<f64, String> {
    let measured = run(cell, fleet, CALIBRATION, 0.1, progress)?;
    Ok(measured.replies as f64 / measured.seconds)
}

/// A report of every client, each once; the memory that each of them takes.
pub(crate) fn fill(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let clients = cell.scenario.clients;
    let wire = variant::wire(cell.entry.variant()).unwrap_or_default();
    let options = format!("--clients {clients} --requests {clients} {FILL} {wire}");
    let mut session = load::open(&fleet.options("load", &options)?, progress)?;
    let measured = session.turn(0.0, progress)?;
    let [before, _, end] = measured
        .server_kib
        .ok_or("the server's memory is unknown")?;
    let grown = end.saturating_sub(before) as f64 * 1024.0;
    Ok(vec![
        figure("memory_per_client", grown / clients as f64),
        figure("server_rss", end as f64 * 1024.0),
    ])
}

/// The figures of a single turn.
pub(crate) fn figures(cell: &Cell<'_>, measured: &Measured) -> Vec<Figure> {
    let replies = measured.replies.max(1) as f64;
    let mut figures = vec![
        figure("throughput", measured.replies as f64 / measured.seconds),
        figure(
            "generator_cores",
            measured.own_cpu_nanos as f64 / 1e9 / measured.seconds,
        ),
    ];
    if let Some(cpu) = measured.server_cpu_nanos {
        figures.push(figure("cpu_per_request", cpu as f64 / replies));
    }
    if let Some([before, _, end]) = measured.server_kib {
        figures.push(figure("server_rss", end as f64 * 1024.0));
        // A server that has had idle clients before reuses their memory.
        if cell.idle() > 0 && cell.round == 1 {
            let grown = end.saturating_sub(before) as f64 * 1024.0;
            figures.push(figure("memory_per_idle", grown / cell.idle() as f64));
        }
    }
    figures
}

/// The figures of latencies, of one turn or of several.
pub(crate) fn latencies(cell: &Cell<'_>, measured: &Measured) -> Vec<Figure> {
    let at = |quantile: f64| measured.latency.value_at_quantile(quantile) as f64;
    let mut figures = vec![
        figure("latency_p50", at(0.5)),
        figure("latency_p99", at(0.99)),
        figure("latency_p99_9", at(0.999)),
    ];
    if cell.rate.is_some() {
        let late = measured.lateness.value_at_quantile(0.99) as f64;
        figures.push(figure("late_p99", late));
    }
    figures
}

/// Number of lines in a herd's log that report lost lines; the server must have stopped.
pub(crate) fn dropped_lines(fleet: &Fleet) -> Result<usize, String> {
    let folder = fleet.folder().join("logs");
    let fault = |error: std::io::Error| format!("the log: {error}");
    let mut dropped = 0;
    for entry in fs::read_dir(&folder).map_err(fault)? {
        let text = fs::read(entry.map_err(fault)?.path()).map_err(fault)?;
        let text = String::from_utf8_lossy(&text);
        let reports = |line: &&str| line.contains("log lines dropped");
        dropped += text.lines().filter(reports).count();
    }
    Ok(dropped)
}
