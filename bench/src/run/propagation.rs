//! Delay of a report through a ring of five servers, idle and under load.

use std::thread;
use std::time::Duration;

use super::fleet::{Fleet, Workplace};
use super::measure;
use super::record::{Cell, Figure, figure};
use super::scenario::Entry;
use super::variant::Variant;
use crate::flood;
use crate::progress::Progress;

/// The ring: of the file that the herd comes with.
const NAMES: [&str; 5] = ["Alford", "Holiday", "Hamilton", "Ball", "Welsh"];

/// Reports that are sent first: connections between servers come up, and caches warm.
const FIRST_REPORTS: u64 = 50;

/// Attempts of the first reports: a link may not be up when the ring has started.
const FIRST_TRIES: usize = 3;

/// Load before and after the reports whose delay counts.
const MARGIN: Duration = Duration::from_millis(300);

/// A ring of five whose links are up.
pub(crate) fn start(
    workplace: &Workplace,
    entry: &Entry,
    clients: usize,
    progress: &mut Progress,
) -> Result<Fleet, String> {
    let variant = Variant::new(entry, None, clients)?;
    let fleet = Fleet::start(workplace, variant, &NAMES)?;
    let mut result = Err(String::new());
    for _ in 0..FIRST_TRIES {
        result = delays(&fleet, FIRST_REPORTS, Duration::MAX, progress);
        if result.is_ok() {
            break;
        }
    }
    result.map(|_| fleet)
}

/// From just before a report leaves for the first server until the last of the others shows it.
/// With the cell's rate, that server is under load meanwhile.
pub(crate) fn measure(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let Some(_) = cell.rate else {
        return delays(fleet, cell.scenario.count, Duration::MAX, progress);
    };
    thread::scope(|scope| {
        let load = scope.spawn(|| measure::load(cell, fleet, &mut Progress::silent()));
        thread::sleep(Duration::from_secs_f64(cell.scenario.warmup) + MARGIN);
        let time = Duration::from_secs_f64(cell.scenario.seconds).saturating_sub(2 * MARGIN);
        let delays = delays(fleet, u64::MAX, time, progress);
        let load = load.join().map_err(|_| "the load panicked".to_owned())?;
        let mut figures = delays?;
        figures.extend(load.map_err(|error| format!("the load beside it: {error}"))?);
        Ok(figures)
    })
}

fn delays(
    fleet: &Fleet,
    count: u64,
    time: Duration,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let addresses: Vec<String> = (0..NAMES.len())
        .map(|index| fleet.client(index).to_string())
        .collect();
    let others: Vec<&str> = addresses[1..].iter().map(String::as_str).collect();
    fleet.workplace().note(&format!(
        "target/release/herd-bench flood --from {} --to {}",
        addresses[0],
        others.join(",")
    ));
    let rows = flood::measure(&addresses[0], &others, count, time, progress)?;
    let last = rows.last().ok_or("no server to reach")?;
    if last.delays.is_empty() {
        return Err("no report got through in the time".to_owned());
    }
    let at = |quantile: f64| last.delays.value_at_quantile(quantile) as f64;
    Ok(vec![
        figure("flood_p50", at(0.5)),
        figure("flood_p99", at(0.99)),
        figure("flood_reports", last.delays.len() as f64),
    ])
}
