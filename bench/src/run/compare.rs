//! `herd-bench compare`: whether two records say the same.
//!
//! What is compared are ratios, those that the scenarios set targets for: each is the median over
//! the rounds of its run. Figures by themselves depend on what else the machine did, so they are
//! left out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use argh::FromArgs;

use super::SCENARIOS;
use super::point::Point;
use super::record::Rows;
use super::scenario::{self, Scenario};
use super::statistics::Spread;
use super::summary::{point_words, ratio};
use super::target::Target;
use crate::Failure;

/// How many times one of two ratios may be the other.
const APART: f64 = 1.10;

/// Compare two records: do their median ratios agree within 10 %?
///
/// Run it in the project's folder. Exit code 0 if every ratio of the two records agrees, 1 if one
/// does not, or only one of the records has it.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "compare",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} bench/runs/first bench/runs/second"
)]
pub(crate) struct Compare {
    /// the records are of quick runs, which judge medians where full runs judge tails
    #[argh(switch)]
    quick: bool,

    /// folder of a record
    #[argh(positional)]
    first: PathBuf,

    /// folder of another
    #[argh(positional)]
    second: PathBuf,
}

impl Compare {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let scenarios = scenario::read(Path::new(SCENARIOS), &[], self.quick)
            .map_err(|error| Failure::Usage(format!("compare: {error}")))?;
        let read = |folder: &Path| {
            Rows::read(&folder.join("results.csv"), &scenarios).map_err(Failure::Failed)
        };
        let compared = compare(&scenarios, [&read(&self.first)?, &read(&self.second)?]);
        io::stdout()
            .write_all(table(&compared).as_bytes())
            .map_err(|error| Failure::Failed(format!("can't write: {error}")))?;
        let agree = compared.iter().filter(|compared| compared.agree()).count();
        let text = format!(
            "{agree} of {} ratios agree within {:.0} %",
            compared.len(),
            (APART - 1.0) * 100.0
        );
        if agree < compared.len() || compared.is_empty() {
            return Err(Failure::Failed(text));
        }
        writeln!(io::stdout(), "{text}")
            .map_err(|error| Failure::Failed(format!("can't write: {error}")))
    }
}

/// A ratio of two records.
#[derive(Debug)]
struct Compared {
    /// Scenario, what it is of, and at which point.
    words: [String; 3],
    ratios: [Option<Spread>; 2],
}

impl Compared {
    /// What the second is of the first.
    fn quotient(&self) -> Option<f64> {
        let [first, second] = self.ratios;
        Some(second?.median / first?.median)
    }

    fn agree(&self) -> bool {
        self.quotient()
            .is_some_and(|quotient| (1.0 / APART..=APART).contains(&quotient))
    }
}

/// Every ratio that a target of the scenarios is about and that one of the records has.
fn compare(scenarios: &[Scenario], records: [&Rows; 2]) -> Vec<Compared> {
    let mut compared = Vec::new();
    for scenario in scenarios {
        let points = points(scenario, records);
        let mut told: Vec<(&Target, &Point)> = Vec::new();
        for target in &scenario.targets {
            for point in points.iter().filter(|point| target.is_for(point)) {
                let same = |other: &Target| {
                    (&other.metric, &other.of, &other.to)
                        == (&target.metric, &target.of, &target.to)
                };
                if target.to.is_none() || told.iter().any(|(t, p)| same(t) && *p == point) {
                    continue;
                }
                told.push((target, point));
                let who = (target.of.as_str(), target.to.as_deref());
                let ratios =
                    records.map(|rows| rows.spread(&scenario.name, who, &target.metric, point));
                if ratios.iter().any(Option::is_some) {
                    compared.push(Compared {
                        words: [
                            scenario.name.clone(),
                            target.what.clone(),
                            point_words(scenario, point),
                        ],
                        ratios,
                    });
                }
            }
        }
    }
    compared
}

/// The points that either record has rows of, as they come.
fn points(scenario: &Scenario, records: [&Rows; 2]) -> Vec<Point> {
    let mut points = Vec::new();
    let rows = records.iter().flat_map(|rows| &rows.0);
    for row in rows.filter(|row| row.scenario == scenario.name) {
        if !points.contains(&row.point) {
            points.push(row.point.clone());
        }
    }
    points
}

fn table(compared: &[Compared]) -> String {
    let mut out =
        "| scenario | ratio | at | first | middle half | second | middle half | quotient | |\n\
                   |---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for one in compared {
        out += &format!("| {} |", one.words.join(" | "));
        for ratios in &one.ratios {
            out += &ratios.map_or_else(
                || " none | |".to_owned(),
                |r| {
                    format!(
                        " {} | {} to {} |",
                        ratio(r.median),
                        ratio(r.lower),
                        ratio(r.upper)
                    )
                },
            );
        }
        let quotient = one.quotient().map(ratio).unwrap_or_default();
        let verdict = if one.agree() { "" } else { "**apart** " };
        out += &format!(" {quotient} | {verdict}|\n");
    }
    out
}

#[cfg(test)]
#[path = "compare/tests.rs"]
mod tests;
