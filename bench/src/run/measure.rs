//! Load on one server: one cell of a matrix.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::fleet::Fleet;
use super::record::{Cell, Figure, figure};
use super::variant;
use crate::load::{self, Measured, Session};
use crate::process;
use crate::progress::Progress;

/// How long a server may take to let go of connections that are gone.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// Descriptors that may come and go in a server for reasons of its own.
const SPARE_DESCRIPTORS: usize = 4;

/// Between two looks at a server's descriptors.
const PAUSE: Duration = Duration::from_millis(5);

/// Seconds that a closed loop takes to find a capacity that an open one's rate is a part of.
const CALIBRATION_SECONDS: f64 = 0.3;

/// Requests in flight on each connection while a server is filled.
const FILL_DEPTH: usize = 16;

/// Connections that fill it.
const FILL_CONNECTIONS: usize = 8;

/// Longest time that filling a server may take, in seconds.
const FILL_SECONDS: f64 = 600.0;

/// Puts the cell's load on the first server of a fleet, once.
pub(crate) fn load(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let measured = run(cell, fleet, &as_strs(&options(cell)), progress)?;
    let mut figures = figures(cell, &measured);
    figures.extend(latencies(cell, &measured.latency, &measured.lateness));
    Ok(figures)
}

/// The connections of a cell's load, for as many turns as are wanted.
#[derive(Debug)]
pub(crate) struct Visit {
    session: Session,
    /// The server, and its descriptors before.
    process: String,
    before: usize,
}

impl Visit {
    pub(crate) fn open(
        cell: &Cell<'_>,
        fleet: &Fleet,
        progress: &mut Progress,
    ) -> Result<Visit, String> {
        if cell.idle() > 0 && cell.round == 1 {
            // What an allocator sets aside for the first requests is no idle client's.
            run(
                cell,
                fleet,
                &["--seconds", "0.3", "--warmup", "0"],
                progress,
            )?;
        }
        let options = options(cell);
        let all = common(cell, fleet, &as_strs(&options))?;
        let process = fleet.process(0)?.to_string();
        Ok(Visit {
            before: process::descriptors(&process)?,
            process,
            session: load::open(&as_strs(&all), progress)?,
        })
    }

    /// A turn, after so many seconds of the same load.
    pub(crate) fn turn(
        &mut self,
        warmup: f64,
        progress: &mut Progress,
    ) -> Result<Measured, String> {
        self.session.turn(warmup, progress)
    }

    /// Closes the connections, and waits until the server has let go of them.
    pub(crate) fn close(self) -> Result<(), String> {
        drop(self.session);
        settle(&self.process, self.before)
    }
}

/// The options that make a cell's load what it is.
fn options(cell: &Cell<'_>) -> Vec<String> {
    let entry = cell.entry;
    let mut options: Vec<String> = [
        ("--seconds", cell.scenario.seconds.to_string()),
        ("--warmup", (cell.scenario.warmup + entry.wait).to_string()),
        ("--idle", cell.idle().to_string()),
        ("--drip", entry.drip.to_string()),
        ("--deaf", entry.deaf.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    if let Some(rate) = cell.rate {
        options.extend(["--rate".to_owned(), rate.to_string()]);
    } else {
        options.extend(["--depth".to_owned(), cell.point.depth.to_string()]);
    }
    options
}

fn as_strs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// Requests a second that a closed loop gets through, over the cell's connections.
pub(crate) fn capacity(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<f64, String> {
    let seconds = CALIBRATION_SECONDS.to_string();
    let options = ["--seconds", &seconds, "--warmup", "0.1"];
    let measured = run(cell, fleet, &options, progress)?;
    Ok(measured.replies as f64 / measured.seconds)
}

/// A report of every client, each once; the memory that each of them takes.
pub(crate) fn fill(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let clients = cell.scenario.clients;
    let process = fleet.process(0)?.to_string();
    let address = fleet.client(0).to_string();
    let mut options: Vec<String> = [
        ("--address", address),
        ("--pid", process),
        ("--clients", clients.to_string()),
        ("--requests", clients.to_string()),
        ("--connections", FILL_CONNECTIONS.to_string()),
        ("--depth", FILL_DEPTH.to_string()),
        ("--seconds", FILL_SECONDS.to_string()),
        ("--warmup", "0".to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    options.extend(variant::wire(cell.entry.variant()).map(str::to_owned));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    note(fleet, &options);
    let measured = load::measure(&options, progress)?;
    let [before, _, end] = measured
        .server_kib
        .ok_or("the server's memory is unknown")?;
    let grown = end.saturating_sub(before) as f64 * 1024.0;
    Ok(vec![
        figure("memory_per_client", grown / clients as f64),
        figure("server_rss", end as f64 * 1024.0),
    ])
}

/// The load of a cell, with these options beside those that every load of it has.
fn run(
    cell: &Cell<'_>,
    fleet: &Fleet,
    options: &[&str],
    progress: &mut Progress,
) -> Result<Measured, String> {
    let all = common(cell, fleet, options)?;
    let process = fleet.process(0)?.to_string();
    let before = process::descriptors(&process)?;
    let measured = load::measure(&as_strs(&all), progress)?;
    settle(&process, before)?;
    Ok(measured)
}

/// These options behind those that every load of a cell has; the command is noted.
fn common(cell: &Cell<'_>, fleet: &Fleet, options: &[&str]) -> Result<Vec<String>, String> {
    let scenario = cell.scenario;
    let [address, process] = [fleet.client(0).to_string(), fleet.process(0)?.to_string()];
    let connections = cell.point.connections.to_string();
    let (clients, whatsat) = (scenario.clients.to_string(), scenario.whatsat.to_string());
    let bound = scenario.bound.to_string();
    let mut all = vec!["--address", &address, "--pid", &process];
    all.extend(["--connections", &connections, "--clients", &clients]);
    match variant::wire(cell.entry.variant()) {
        Some(wire) => all.push(wire),
        None => all.extend(["--whatsat", &whatsat, "--bound", &bound]),
    }
    all.extend(options);
    note(fleet, &all);
    Ok(all.into_iter().map(str::to_owned).collect())
}

fn note(fleet: &Fleet, options: &[&str]) {
    let command = format!("target/release/herd-bench load {}", options.join(" "));
    fleet.workplace().note(&command);
}

/// Waits until a server has let go of the connections of a run, so that it owes the next nothing.
fn settle(process: &str, before: usize) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let now = process::descriptors(process)?;
        if now <= before + SPARE_DESCRIPTORS {
            return Ok(());
        }
        if start.elapsed() > SETTLE_LIMIT {
            return Err(format!(
                "{before} descriptors before, still {now} after {} s",
                SETTLE_LIMIT.as_secs()
            ));
        }
        thread::sleep(PAUSE);
    }
}

/// What a turn by itself tells.
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

/// What latencies tell, of one turn or of several.
pub(crate) fn latencies(
    cell: &Cell<'_>,
    latency: &Histogram<u64>,
    lateness: &Histogram<u64>,
) -> Vec<Figure> {
    let at = |quantile: f64| latency.value_at_quantile(quantile) as f64;
    let mut figures = vec![
        figure("latency_p50", at(0.5)),
        figure("latency_p99", at(0.99)),
        figure("latency_p99_9", at(0.999)),
    ];
    if cell.rate.is_some() {
        let late = lateness.value_at_quantile(0.99) as f64;
        figures.push(figure("late_p99", late));
    }
    figures
}

/// How many times a herd's log says that lines were lost; the server must have stopped.
pub(crate) fn dropped_lines(fleet: &Fleet) -> Result<usize, String> {
    let folder = fleet.folder().join("logs");
    let fault = |error: std::io::Error| format!("the log: {error}");
    let mut dropped = 0;
    for entry in fs::read_dir(&folder).map_err(fault)? {
        let text = fs::read(entry.map_err(fault)?.path()).map_err(fault)?;
        let text = String::from_utf8_lossy(&text);
        let tells =
            |line: &&str| line.contains("log lines dropped") || line.contains("log lines lost");
        dropped += text.lines().filter(tells).count();
    }
    Ok(dropped)
}
