//! The state of a run: the record, the commands so far, and the expected time left.
//! `rounds` runs the scenarios on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::fleet::{Fleet, Workplace};
use super::record::{Cell, Record};
use super::scenario::{Entry, Kind, Scenario};
use super::variant::Variant;
use crate::progress::Progress;

/// Seconds that a cell takes beside its own load: connecting, and waiting for all connections to end.
const CELL_SECONDS: f64 = 0.02;

/// Seconds that starting a server takes, and its first requests.
const START_SECONDS: f64 = 0.7;

/// Clients of a run that are not its load: for greetings, the reports of a flood, and queries.
pub(super) const OTHER_CLIENTS: usize = 8;

/// Name of a server that is alone.
const ALONE: &[&str] = &["Alone"];

/// A run in the making.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    pub(super) workplace: &'a Workplace,
    pub(super) record: Record,
    usable: &'a BTreeSet<String>,
    pub(super) progress: Progress,
    pub(super) commands: Vec<String>,
    /// Log lines that were lost so far, by scenario, point and entry.
    pub(super) lost_lines: BTreeMap<(String, usize, usize), usize>,
    passes: usize,
    started: Instant,
    /// Seconds that all cells were expected to take, and those that are done.
    expected: f64,
    done: f64,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(
        workplace: &'a Workplace,
        record: Record,
        usable: &'a BTreeSet<String>,
        (scenarios, passes): (&[Scenario], usize),
        progress: Progress,
    ) -> Runner<'a> {
        let mut runner = Runner {
            workplace,
            record,
            usable,
            progress,
            commands: Vec::new(),
            lost_lines: BTreeMap::new(),
            passes,
            started: Instant::now(),
            expected: 0.0,
            done: 0.0,
        };
        for scenario in scenarios {
            let cells = scenario.points().len() * scenario.rounds;
            let seconds: f64 = runner
                .entries(scenario)
                .iter()
                .map(|entry| expected(scenario, entry, passes))
                .sum();
            runner.expected += cells as f64 * seconds;
        }
        runner
    }

    /// The commands so far: those of the first round of each scenario.
    pub(crate) fn commands(&self) -> &[String] {
        &self.commands
    }

    pub(super) fn entries<'s>(&self, scenario: &'s Scenario) -> Vec<&'s Entry> {
        let usable = |entry: &&Entry| self.usable.contains(entry.variant());
        scenario.variants.iter().filter(usable).collect()
    }

    pub(super) fn announce(&mut self, cell: &Cell<'_>) {
        let part = (self.done / self.expected.max(1.0)).min(1.0);
        let left = Duration::from_secs_f64((self.expected - self.done).max(0.0));
        self.progress.set_prefix(format!(
            "{:.0} %, {} s, about {} s left | {}, {}, round {} of {} | ",
            part * 100.0,
            self.started.elapsed().as_secs(),
            left.as_secs(),
            cell.scenario.name,
            cell.entry.name,
            cell.round,
            cell.scenario.rounds
        ));
        self.progress.show(|| "starting".to_owned());
    }

    pub(super) fn finish(&mut self, cell: &Cell<'_>) {
        self.done += expected(cell.scenario, cell.entry, self.passes);
        let commands = self.workplace.take_commands();
        // The other rounds repeat them.
        if cell.round == 1 {
            self.commands.extend(commands);
        }
    }
}

/// The server of a cell, which is started if it does not run yet.
pub(super) fn alone<'f>(
    workplace: &Workplace,
    cell: &Cell<'_>,
    fleet: &'f mut Option<Fleet>,
) -> Result<&'f mut Fleet, String> {
    if fleet.is_none() {
        let variant = Variant::new(
            cell.entry,
            cell.point.workers,
            cell.clients() + OTHER_CLIENTS,
        )?;
        *fleet = Some(Fleet::start(workplace, variant, ALONE)?);
    }
    fleet.as_mut().ok_or_else(|| "no server".to_owned())
}

/// Seconds that a cell will about take.
fn expected(scenario: &Scenario, entry: &Entry, passes: usize) -> f64 {
    let clients = scenario.clients as f64;
    let load = scenario.seconds + scenario.warmup + CELL_SECONDS;
    match scenario.kind {
        Kind::Load => {
            let starts = passes.min(scenario.rounds) as f64;
            load + (START_SECONDS + entry.wait) * starts / scenario.rounds.max(1) as f64
        }
        Kind::Fill => clients / 150e3 + START_SECONDS,
        Kind::Flood => load + 1.0 + START_SECONDS,
        Kind::CatchUp => clients / 150e3 + 2.0,
        Kind::Churn => scenario.count as f64 / 3e3 + 2.0,
        Kind::Full => 12.0,
    }
}
