//! The order of a run: points, rounds, variants.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::fleet::{Fleet, Workplace};
use super::record::{Cell, Figure, Record};
use super::scenario::{Entry, Kind, Point, Scenario};
use super::statistics::Spread;
use super::variant::Variant;
use super::{catch_up, floods, measure, room};
use crate::progress::Progress;

/// How many times each variant's capacity is measured before a rate is set by it.
const CALIBRATIONS: usize = 3;

/// Seconds that a cell takes beside its own load: starting servers, connecting.
const CELL_SECONDS: f64 = 0.4;

/// Clients of a run that are not its load: who greets, who reports a flood, who asks.
const OTHER_CLIENTS: usize = 8;

/// Where a server that is alone is put.
const ALONE: &[&str] = &["Alone"];

/// A run in the making.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    workplace: &'a Workplace,
    record: Record,
    usable: &'a BTreeSet<String>,
    progress: Progress,
    commands: Vec<String>,
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
        scenarios: &[Scenario],
        progress: Progress,
    ) -> Runner<'a> {
        let mut runner = Runner {
            workplace,
            record,
            usable,
            progress,
            commands: Vec::new(),
            started: Instant::now(),
            expected: 0.0,
            done: 0.0,
        };
        for scenario in scenarios {
            let cells = scenario.points().len() * scenario.rounds;
            let seconds: f64 = runner
                .entries(scenario)
                .iter()
                .map(|entry| expected(scenario, entry))
                .sum();
            runner.expected += cells as f64 * seconds;
        }
        runner
    }

    /// All rows.
    pub(crate) fn into_record(self) -> Record {
        self.record
    }

    /// The commands so far: those of the first round of each scenario.
    pub(crate) fn commands(&self) -> &[String] {
        &self.commands
    }

    fn entries<'s>(&self, scenario: &'s Scenario) -> Vec<&'s Entry> {
        let usable = |entry: &&Entry| self.usable.contains(entry.variant());
        scenario.variants.iter().filter(usable).collect()
    }

    /// Runs a scenario. Cells that fail are void; the error is one of the record's own.
    pub(crate) fn run(&mut self, scenario: &Scenario) -> Result<(), String> {
        if scenario.rounds == 0 {
            return Ok(());
        }
        self.commands.push(format!("# {}", scenario.name));
        match scenario.kind {
            Kind::Load => {
                for point in scenario.points() {
                    self.take_turns(scenario, &point)?;
                }
                Ok(())
            }
            Kind::Flood => self.floods(scenario),
            Kind::Fill | Kind::CatchUp | Kind::Storm | Kind::Full => self.each_alone(scenario),
        }
    }

    /// At one point: servers of all variants stay up, and take turns under load.
    fn take_turns(&mut self, scenario: &Scenario, point: &Point) -> Result<(), String> {
        let entries = self.entries(scenario);
        let mut fleets: Vec<Option<Fleet>> = entries.iter().map(|_| None).collect();
        let mut void = vec![false; entries.len()];
        let mut rate = None;
        if let Some(fraction) = point.fraction {
            let found = self.calibrate(scenario, point, &entries, &mut fleets);
            match found {
                Ok(capacity) => rate = Some((capacity * fraction).round()),
                Err(error) => {
                    for entry in &entries {
                        let cell = cell(scenario, point, entry, 1, None);
                        let error = format!("no capacity to take a part of: {error}");
                        self.record.add(&cell, Err(error))?;
                    }
                    return Ok(());
                }
            }
        }
        for round in 1..=scenario.rounds {
            for (index, entry) in entries.iter().enumerate() {
                let cell = cell(scenario, point, entry, round, rate);
                self.announce(&cell);
                if void[index] {
                    self.finish(&cell);
                    continue;
                }
                let result = alone(self.workplace, &cell, &mut fleets[index])
                    .and_then(|fleet| measure::load(&cell, fleet, &mut self.progress));
                if result.is_err() {
                    // Replies that were wrong once make the cell void, however often they were
                    // right; and what state the server is in nobody knows.
                    void[index] = true;
                    fleets[index] = None;
                }
                self.record.add(&cell, result)?;
                self.finish(&cell);
            }
        }
        for (index, entry) in entries.iter().enumerate() {
            if let Some(fleet) = &mut fleets[index]
                && entry.log
                && fleet.variant().is_herd()
            {
                let cell = cell(scenario, point, entry, scenario.rounds, rate);
                let dropped = fleet
                    .stop_member(0)
                    .and_then(|()| measure::dropped_lines(fleet));
                self.record.add(&cell, dropped)?;
            }
        }
        Ok(())
    }

    /// The capacity of the slowest of those that a scenario names, at a point.
    fn calibrate(
        &mut self,
        scenario: &Scenario,
        point: &Point,
        entries: &[&Entry],
        fleets: &mut [Option<Fleet>],
    ) -> Result<f64, String> {
        let mut found: Vec<Vec<f64>> = entries.iter().map(|_| Vec::new()).collect();
        for _ in 0..CALIBRATIONS {
            for (index, entry) in entries.iter().enumerate() {
                if !scenario.slowest_of.contains(&entry.name) {
                    continue;
                }
                let cell = cell(scenario, point, entry, 1, None);
                let fleet = alone(self.workplace, &cell, &mut fleets[index])?;
                found[index].push(measure::capacity(&cell, fleet, &mut self.progress)?);
            }
        }
        let medians = found.iter().filter_map(|found| Spread::of(found));
        medians
            .map(|capacity| capacity.median)
            .min_by(f64::total_cmp)
            .ok_or_else(|| format!("none of {} takes part", scenario.slowest_of.join(", ")))
    }

    /// Delays through a ring of five, which is each variant's own for a round.
    fn floods(&mut self, scenario: &Scenario) -> Result<(), String> {
        let (points, entries) = (scenario.points(), self.entries(scenario));
        for round in 1..=scenario.rounds {
            for entry in &entries {
                let first = cell(scenario, &points[0], entry, round, None);
                self.announce(&first);
                let clients = first.clients() + OTHER_CLIENTS;
                let fleet = floods::start(self.workplace, entry, clients, &mut self.progress);
                for point in &points {
                    let mut cell = cell(scenario, point, entry, round, None);
                    let result = match (&fleet, point.fraction) {
                        (Err(error), _) => Err(error.clone()),
                        (Ok(_), None) => Ok(None),
                        (Ok(fleet), Some(fraction)) => {
                            measure::capacity(&cell, fleet, &mut self.progress)
                                .map(|capacity| Some((capacity * fraction).round()))
                        }
                    };
                    let result = result.and_then(|rate| {
                        cell.rate = rate;
                        let fleet = fleet.as_ref().map_err(Clone::clone)?;
                        floods::measure(&cell, fleet, &mut self.progress)
                    });
                    self.record.add(&cell, result)?;
                    self.finish(&cell);
                }
            }
        }
        Ok(())
    }

    /// Scenarios for which every cell needs servers that are new.
    fn each_alone(&mut self, scenario: &Scenario) -> Result<(), String> {
        for point in scenario.points() {
            for round in 1..=scenario.rounds {
                for entry in self.entries(scenario) {
                    let cell = cell(scenario, &point, entry, round, None);
                    self.announce(&cell);
                    let result = self.once(&cell);
                    self.record.add(&cell, result)?;
                    self.finish(&cell);
                }
            }
        }
        Ok(())
    }

    fn once(&mut self, cell: &Cell<'_>) -> Result<Vec<Figure>, String> {
        let progress = &mut self.progress;
        if cell.scenario.kind == Kind::CatchUp {
            return catch_up::measure(cell, self.workplace, progress);
        }
        let mut fleet = None;
        let fleet = alone(self.workplace, cell, &mut fleet)?;
        match cell.scenario.kind {
            Kind::Fill => measure::fill(cell, fleet, progress),
            Kind::Storm => room::storm(cell, fleet, progress),
            Kind::Full => room::full(cell, fleet, progress),
            Kind::Load | Kind::Flood | Kind::CatchUp => {
                Err("not a scenario of one cell".to_owned())
            }
        }
    }

    fn announce(&mut self, cell: &Cell<'_>) {
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

    fn finish(&mut self, cell: &Cell<'_>) {
        self.done += expected(cell.scenario, cell.entry);
        let commands = self.workplace.take_commands();
        // The other rounds repeat them.
        if cell.round == 1 {
            self.commands.extend(commands);
        }
    }
}

/// The server of a cell, which is started if it does not run yet.
fn alone<'f>(
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

fn cell<'a>(
    scenario: &'a Scenario,
    point: &'a Point,
    entry: &'a Entry,
    round: usize,
    rate: Option<f64>,
) -> Cell<'a> {
    Cell {
        scenario,
        point,
        entry,
        round,
        rate,
    }
}

/// Seconds that a cell will about take.
fn expected(scenario: &Scenario, entry: &Entry) -> f64 {
    let clients = scenario.clients as f64;
    let load = scenario.seconds + scenario.warmup + entry.wait + CELL_SECONDS;
    match scenario.kind {
        Kind::Load => load,
        Kind::Fill => clients / 150e3 + CELL_SECONDS,
        Kind::Flood => load + 1.0,
        Kind::CatchUp => clients / 150e3 + 2.0,
        Kind::Storm => scenario.count as f64 / 3e3 + 2.0,
        Kind::Full => 12.0,
    }
}
