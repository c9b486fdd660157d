//! Servers that take turns under load.
//!
//! In each pass servers are new: where a process happens to lie in memory and which core it found
//! are then not in all of its rounds. They stay up for all points that differ in the load
//! alone, and at each point variants take turns: A B C, then C B A, so that a machine that gets
//! slower or faster favors none. A turn is short and rounds are many, which is what the median of
//! their ratios needs.

use std::ops::Range;

use super::fleet::Fleet;
use super::measure::{self, Visit};
use super::record::{Cell, Figure, figure};
use super::runner::{Runner, alone};
use super::scenario::{Entry, Point, Scenario};
use crate::load::Measured;

/// Measurements of each variant's capacity before a rate is set by it.
const CALIBRATIONS: usize = 3;

/// Seconds of load before the first round at a point, beside the warm-up of each round: for caches,
/// and for programs that are compiled while they run.
const FIRST_WARMUP: f64 = 0.2;

/// One pass of a scenario of loads.
#[derive(Debug)]
pub(super) struct Turns<'r, 'a, 's> {
    pub(super) runner: &'r mut Runner<'a>,
    pub(super) scenario: &'s Scenario,
    pub(super) points: &'s [Point],
    pub(super) entries: Vec<&'s Entry>,
    /// The numbers of the pass's rounds.
    pub(super) rounds: Range<usize>,
}

/// State of one variant at one point, in one pass.
#[derive(Debug, Default)]
struct Stay {
    visit: Option<Visit>,
    /// The first of its rounds, with the latencies of all so far.
    pooled: Option<Measured>,
}

impl<'s> Turns<'_, '_, 's> {
    /// Runs the rounds. Cells that fail are void; the error is one of the record's own.
    pub(super) fn run(mut self) -> Result<(), String> {
        if self.rounds.is_empty() {
            return Ok(());
        }
        for points in same_servers(self.points) {
            self.same(points)?;
        }
        if self.rounds.contains(&self.scenario.rounds) {
            for ((scenario, point, index), &lines) in &self.runner.lost_lines {
                if *scenario == self.scenario.name {
                    let cell = self.cell(*point, *index, self.scenario.rounds, None);
                    let figures = vec![figure("log_drops", lines as f64)];
                    self.runner.record.add(&cell, Ok(figures))?;
                }
            }
        }
        Ok(())
    }

    fn cell(&self, point: usize, index: usize, round: usize, rate: Option<f64>) -> Cell<'s> {
        let (point, entry) = (&self.points[point], self.entries[index]);
        Cell {
            rate,
            ..Cell::new(self.scenario, point, entry, round)
        }
    }

    /// The rounds at points that the same servers serve.
    fn same(&mut self, points: Range<usize>) -> Result<(), String> {
        let mut fleets: Vec<Option<Fleet>> = self.entries.iter().map(|_| None).collect();
        let mut capacity = None;
        for point in points.clone() {
            let mut rate = None;
            if let Some(fraction) = self.points[point].fraction {
                let capacity = capacity.get_or_insert_with(|| self.calibrate(point, &mut fleets));
                match capacity {
                    Ok(capacity) => rate = Some((*capacity * fraction).round()),
                    Err(error) => {
                        for index in 0..self.entries.len() {
                            let cell = self.cell(point, index, self.rounds.start, None);
                            let error = format!("no capacity to take a part of: {error}");
                            self.runner.record.fail(&cell, error)?;
                        }
                        continue;
                    }
                }
            }
            self.point(point, rate, &mut fleets)?;
        }
        for (index, fleet) in fleets.iter_mut().enumerate() {
            let Some(fleet) = fleet else { continue };
            if !self.entries[index].log || !fleet.variant().is_herd() {
                continue;
            }
            let lines = fleet
                .stop_member(0)
                .and_then(|()| measure::dropped_lines(fleet));
            for point in points.clone() {
                match &lines {
                    Ok(lines) => {
                        let key = (self.scenario.name.clone(), point, index);
                        *self.runner.lost_lines.entry(key).or_default() += lines;
                    }
                    Err(error) => {
                        let cell = self.cell(point, index, self.rounds.end - 1, None);
                        self.runner.record.fail(&cell, error.clone())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The rounds at one point.
    fn point(
        &mut self,
        point: usize,
        rate: Option<f64>,
        fleets: &mut [Option<Fleet>],
    ) -> Result<(), String> {
        let mut stays: Vec<Stay> = fleets.iter().map(|_| Stay::default()).collect();
        for round in self.rounds.clone() {
            for index in order(round, self.entries.len()) {
                let cell = self.cell(point, index, round, rate);
                self.runner.announce(&cell);
                if !self.runner.record.is_void(&cell) {
                    let is_first = round == self.rounds.start;
                    let stay = &mut stays[index];
                    match self.turn(&cell, is_first, &mut fleets[index], stay) {
                        Ok(figures) => self.runner.record.add(&cell, Ok(figures))?,
                        Err(error) => {
                            // The state of the server is unknown.
                            (stays[index], fleets[index]) = (Stay::default(), None);
                            self.runner.record.fail(&cell, error)?;
                        }
                    }
                }
                self.runner.finish(&cell);
            }
        }
        for (index, stay) in stays.into_iter().enumerate() {
            let cell = self.cell(point, index, self.rounds.end - 1, rate);
            if let Some(measured) = &stay.pooled {
                let figures = measure::latencies(&cell, measured);
                self.runner.record.add(&cell, Ok(figures))?;
            }
            if let Some(Err(error)) = stay.visit.map(Visit::close) {
                self.runner.record.fail(&cell, error)?;
            }
        }
        Ok(())
    }

    /// One turn of one variant.
    fn turn(
        &mut self,
        cell: &Cell<'_>,
        is_first: bool,
        fleet: &mut Option<Fleet>,
        stay: &mut Stay,
    ) -> Result<Vec<Figure>, String> {
        let runner = &mut *self.runner;
        let mut visit = match stay.visit.take() {
            Some(visit) => visit,
            None => {
                let fleet = alone(runner.workplace, cell, fleet)?;
                Visit::open(cell, fleet, &mut runner.progress)?
            }
        };
        let mut warmup = self.scenario.warmup;
        if is_first {
            warmup += FIRST_WARMUP + cell.entry.wait;
        }
        let measured = visit.turn(warmup, &mut runner.progress)?;
        if self.scenario.has_background_clients() {
            // To make thousands of connections takes longer than a turn.
            stay.visit = Some(visit);
        } else {
            visit.close()?;
        }
        let figures = measure::figures(cell, &measured);
        stay.pool(measured)?;
        Ok(figures)
    }

    /// The capacity of the slowest of those that the scenario names, at a point.
    fn calibrate(&mut self, point: usize, fleets: &mut [Option<Fleet>]) -> Result<f64, String> {
        let scenario = self.scenario;
        let mut found: Vec<Vec<f64>> = self.entries.iter().map(|_| Vec::new()).collect();
        for _ in 0..CALIBRATIONS {
            for (index, entry) in self.entries.iter().enumerate() {
                if !scenario.slowest_of.contains(&entry.name) {
                    continue;
                }
                let cell = Cell::new(scenario, &self.points[point], entry, 1);
                let fleet = alone(self.runner.workplace, &cell, &mut fleets[index])?;
                let progress = &mut self.runner.progress;
                found[index].push(measure::capacity(&cell, fleet, progress)?);
            }
        }
        // All have the same odd number of values.
        let medians = found.iter_mut().filter_map(|found| {
            found.sort_by(f64::total_cmp);
            found.get(CALIBRATIONS / 2).copied()
        });
        medians
            .min_by(f64::total_cmp)
            .ok_or_else(|| format!("none of {} takes part", scenario.slowest_of.join(", ")))
    }
}

impl Stay {
    fn pool(&mut self, measured: Measured) -> Result<(), String> {
        let Some(pooled) = &mut self.pooled else {
            self.pooled = Some(measured);
            return Ok(());
        };
        let latency = pooled.latency.add(&measured.latency);
        latency
            .and_then(|()| pooled.lateness.add(&measured.lateness))
            .map_err(|error| format!("histograms: {error}"))
    }
}

/// Runs of points that differ in the load alone.
fn same_servers(points: &[Point]) -> Vec<Range<usize>> {
    let server = |point: &Point| (point.connections, point.workers, point.idle);
    let mut ranges = Vec::new();
    let mut start = 0;
    for chunk in points.chunk_by(|a, b| server(a) == server(b)) {
        ranges.push(start..start + chunk.len());
        start += chunk.len();
    }
    ranges
}

/// The order of the variants in a round.
fn order(round: usize, entries: usize) -> Vec<usize> {
    let forward = 0..entries;
    if round % 2 == 1 {
        forward.collect()
    } else {
        forward.rev().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_alternates() {
        assert_eq!(order(1, 3), [0, 1, 2]);
        assert_eq!(order(2, 3), [2, 1, 0]);
    }

    #[test]
    fn servers_do_for_points_that_differ_in_the_load_alone() {
        let point = |connections, depth, idle| Point {
            connections,
            depth,
            fraction: None,
            workers: None,
            idle,
        };
        let points = [
            point(1, 1, 0),
            point(1, 16, 0),
            point(8, 1, 0),
            point(8, 1, 9),
        ];
        assert_eq!(same_servers(&points), [0..2, 2..3, 3..4]);
    }
}
