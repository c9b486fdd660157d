//! `herd-bench flood`: how long a report takes from one server to the others.
//!
//! For each report, every other server is asked again and again, as fast as it answers, until
//! its `WHATSAT` shows the report's time. The delay runs from just before the report is sent,
//! so it holds the client's own way to both servers too: what one client sees of another.

mod end;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use argh::FromArgs;
use hdrhistogram::Histogram;
use rustix::event::epoll;

use crate::figures::{duration, grouped};
use crate::progress::Progress;
use crate::{Failure, csv, net, print};
use end::End;

/// Longest time until a report is seen everywhere. A herd that is whole takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest delay that a histogram can hold, in nanoseconds: more than the deadline.
const MAX_NANOS: u64 = 10_000_000_000;

/// Location of the client; the servers only pass it on.
const LOCATION: &str = "+34.068930-118.445127";

/// Longest wait for a reply before the deadline is checked again, in nanoseconds.
const WAIT_NANOS: u64 = 100_000_000;

/// Measure how long a report takes from one server to the others.
///
/// For each report sent to `--from`, each server of `--to` is polled over an open connection
/// until its WHATSAT shows the report. Prints median, p99 and worst delay for each server, for
/// all of them together, and for the last server that each report reached.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "flood",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --from 127.0.0.1:12000 --to 127.0.0.1:12001,127.0.0.1:12002"
)]
pub(crate) struct Flood {
    /// HOST:PORT of the client port that takes the reports
    #[argh(option, arg_name = "host:port")]
    from: String,

    /// client ports of the servers that must show them, separated by commas
    #[argh(option, arg_name = "host:port,...")]
    to: String,

    /// reports to send, one after the other (default: 1000)
    #[argh(option, default = "1_000", arg_name = "n")]
    count: u64,

    /// append the result to this file, a row for each server, with a header if it is new
    #[argh(option, arg_name = "file")]
    csv: Option<PathBuf>,
}

impl Flood {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let usage = |error: String| Failure::Usage(format!("flood: {error}"));
        let names: Vec<&str> = self.to.split(',').filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Err(usage("--to names no server".to_owned()));
        }
        if self.count == 0 {
            return Err(usage("--count must be at least 1".to_owned()));
        }
        net::resolve(&self.from).map_err(usage)?;
        for name in &names {
            net::resolve(name).map_err(usage)?;
        }
        let progress = &mut Progress::new();
        let result = measure(&self.from, &names, self.count, Duration::MAX, progress);
        let rows = result.map_err(|error| Failure::Failed(format!("void: {error}")))?;
        print(&text(&self.from, self.count, &rows))?;
        if let Some(path) = &self.csv {
            for row in &rows {
                csv::append(path, &cells(&self.from, self.count, row)).map_err(Failure::Failed)?;
            }
        }
        Ok(())
    }
}

/// Delays in nanoseconds to one server, to all, or to the last of each report.
#[derive(Debug)]
pub(crate) struct Row {
    to: String,
    pub(crate) delays: Histogram<u64>,
}

impl Row {
    fn new(to: &str) -> Result<Row, String> {
        Ok(Row {
            to: to.to_owned(),
            delays: Histogram::new_with_bounds(1, MAX_NANOS, 3)
                .map_err(|error| format!("histogram: {error}"))?,
        })
    }
}

/// Sends `count` reports, or as many as the time allows. The last row is that of the last server
/// that each report reached.
pub(crate) fn measure(
    from: &str,
    names: &[&str],
    count: u64,
    time: Duration,
    progress: &mut Progress,
) -> Result<Vec<Row>, String> {
    let began = Instant::now();
    let fault = |error: rustix::io::Errno| format!("epoll: {error}");
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(fault)?;
    let connect = |address: &str, number: usize| {
        let stream = net::connect(&net::resolve(address)?)
            .map_err(|error| format!("can't connect to {address}: {error}"))?;
        net::watch(&epoll, &stream, number as u64, epoll::EventFlags::IN)
            .map_err(|error| format!("epoll: {error}"))?;
        Ok::<_, String>(End::new(address, stream))
    };
    let client = format!("flood-{:020}", std::process::id());
    let inquiry = format!("WHATSAT {client} 0 0\n");
    // The last of the ends is the one that reports.
    let mut ends = Vec::new();
    let mut rows = Vec::new();
    for (index, name) in names.iter().enumerate() {
        ends.push(connect(name, index)?);
        rows.push(Row::new(name)?);
    }
    ends.push(connect(from, names.len())?);
    let (mut all, mut last) = (Row::new("all")?, Row::new("last of each")?);
    let mut events: Vec<epoll::Event> = Vec::with_capacity(names.len() + 1);
    let mut previous = 0;
    for number in 0..count {
        if began.elapsed() >= time {
            break;
        }
        let shown = format!(" {client} {LOCATION} {}\n", next_time(&mut previous));
        let start = Instant::now();
        ends[names.len()].send(&format!("IAMAT{shown}"), &shown)?;
        for end in &mut ends[..names.len()] {
            end.send(&inquiry, &shown)?;
        }
        let mut farthest = 0;
        while ends.iter().any(|end| end.waiting().is_some()) {
            if start.elapsed() > DEADLINE {
                let names: Vec<&str> = ends.iter().filter_map(End::waiting).collect();
                return Err(format!(
                    "report {} of {count} was not seen within 5 s at: {}",
                    number + 1,
                    names.join(", ")
                ));
            }
            net::wait(&epoll, &mut events, WAIT_NANOS)?;
            for event in events.drain(..) {
                let index = event.data.u64() as usize;
                if ends[index].read()? && index < names.len() {
                    let delay = start.elapsed().as_nanos() as u64;
                    rows[index].delays.saturating_record(delay);
                    all.delays.saturating_record(delay);
                    farthest = farthest.max(delay);
                }
            }
        }
        last.delays.saturating_record(farthest);
        progress.show(|| format!("{} of {} reports", grouped(number + 1), grouped(count)));
    }
    rows.push(all);
    rows.push(last);
    Ok(rows)
}

/// The clock as the protocol writes times, later than the time before.
fn next_time(previous: &mut u128) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    *previous = now.as_nanos().max(*previous + 1);
    let (seconds, nanos) = (*previous / 1_000_000_000, *previous % 1_000_000_000);
    format!("{seconds}.{nanos:09}")
}

/// The rows as aligned lines.
fn text(from: &str, count: u64, rows: &[Row]) -> String {
    let width = rows
        .iter()
        .map(|row| row.to.len())
        .max()
        .unwrap_or(0)
        .max(8);
    let mut out = format!("{} reports at {from}\n\n", grouped(count));
    out.push_str(&format!(
        "{:<width$}  {:>9}  {:>9}  {:>9}\n",
        "shown at", "median", "p99", "worst"
    ));
    for row in rows {
        let [median, p99, worst] = quantiles(row).map(|nanos| duration(nanos as f64));
        out.push_str(&format!(
            "{:<width$}  {median:>9}  {p99:>9}  {worst:>9}\n",
            row.to
        ));
    }
    out
}

fn cells(from: &str, count: u64, row: &Row) -> [(&'static str, String); 6] {
    let [median, p99, worst] = quantiles(row).map(|nanos| nanos.to_string());
    [
        ("from", from.to_owned()),
        ("to", row.to.clone()),
        ("reports", count.to_string()),
        ("delay_p50_ns", median),
        ("delay_p99_ns", p99),
        ("delay_worst_ns", worst),
    ]
}

fn quantiles(row: &Row) -> [u64; 3] {
    let delays = &row.delays;
    [
        delays.value_at_quantile(0.5),
        delays.value_at_quantile(0.99),
        delays.max(),
    ]
}

#[cfg(test)]
#[path = "flood/tests.rs"]
mod tests;
