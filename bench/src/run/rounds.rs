//! Runs the rounds of a scenario: those whose servers take turns by `turns`, the others with new
//! servers for every cell.

use std::ops::Range;

use super::record::{Cell, Figure};
use super::runner::{OTHER_CLIENTS, Runner, alone};
use super::scenario::{Kind, Scenario};
use super::turns::Turns;
use super::{at_capacity, catch_up, measure, propagation};

impl Runner<'_> {
    /// Runs some rounds of a scenario. Cells that fail are void; the error is one of the record's own.
    pub(crate) fn run(&mut self, scenario: &Scenario, rounds: Range<usize>) -> Result<(), String> {
        if rounds.contains(&1) {
            self.commands.push(format!("# {}", scenario.name));
        }
        self.workplace.divide_cores(!scenario.shared_cores)?;
        match scenario.kind {
            Kind::Load => Turns {
                scenario,
                points: &scenario.points(),
                entries: self.entries(scenario),
                rounds,
                runner: self,
            }
            .run(),
            Kind::Flood => self.floods(scenario, rounds),
            Kind::Fill | Kind::CatchUp | Kind::Churn | Kind::Full => {
                self.each_alone(scenario, rounds)
            }
        }
    }

    /// Delays through a ring of five, which is each variant's own for a round.
    fn floods(&mut self, scenario: &Scenario, rounds: Range<usize>) -> Result<(), String> {
        let (points, entries) = (scenario.points(), self.entries(scenario));
        for round in rounds {
            for entry in &entries {
                let first = Cell::new(scenario, &points[0], entry, round);
                self.announce(&first);
                let clients = first.clients() + OTHER_CLIENTS;
                let fleet = propagation::start(self.workplace, entry, clients, &mut self.progress);
                for point in &points {
                    let mut cell = Cell { point, ..first };
                    let result = fleet.as_ref().map_err(Clone::clone).and_then(|fleet| {
                        if let Some(fraction) = point.fraction {
                            let capacity = measure::capacity(&cell, fleet, &mut self.progress)?;
                            cell.rate = Some((capacity * fraction).round());
                        }
                        propagation::measure(&cell, fleet, &mut self.progress)
                    });
                    self.record.add(&cell, result)?;
                    self.finish(&cell);
                }
            }
        }
        Ok(())
    }

    /// Scenarios for which every cell needs servers that are new.
    fn each_alone(&mut self, scenario: &Scenario, rounds: Range<usize>) -> Result<(), String> {
        for point in scenario.points() {
            for round in rounds.clone() {
                for entry in self.entries(scenario) {
                    let cell = Cell::new(scenario, &point, entry, round);
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
            Kind::Churn => at_capacity::churn(cell, fleet, progress),
            Kind::Full => at_capacity::full(cell, fleet, progress),
            Kind::Load | Kind::Flood | Kind::CatchUp => {
                Err("not a scenario of one cell".to_owned())
            }
        }
    }
}
