//! The shared pool against every other variant, in every metric that has a better and a worse.

use std::fmt;

use super::words::{point_words, ratio};
use super::{DEDICATED, SHARED};
use crate::run::point::Point;
use crate::run::record::Rows;
use crate::run::scenario::{Kind, Scenario};
use crate::run::statistics::Spread;

/// How far apart two are that are not level.
const NOISE: f64 = 0.03;

/// What is compared, and whether more of it is better.
const METRICS: [(&str, &str, bool); 8] = [
    ("throughput", "throughput", true),
    ("cpu_per_request", "CPU per request", false),
    ("latency_p50", "p50", false),
    ("latency_p99", "p99", false),
    ("memory_per_idle", "memory per idle client", false),
    ("memory_per_client", "memory per stored client", false),
    ("flood_p50", "flood p50", false),
    ("flood_p99", "flood p99", false),
];

/// The shared pool's figures divided by another's, at the points of a scenario where the one that wins is
/// the same.
#[derive(Debug)]
pub(super) struct Compared {
    scenario: String,
    other: String,
    metric: &'static str,
    /// Where, the ratios, and how many times better the shared pool is: below 1 it is worse.
    points: Vec<(String, Spread, f64)>,
}

impl Compared {
    /// How far apart the two are, at the point where they are farthest.
    fn distance(&self) -> f64 {
        let distances = self.points.iter().map(|(_, _, better)| better.ln().abs());
        distances.fold(0.0, f64::max)
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}'s {}: ", self.scenario, self.other, self.metric)?;
        for (index, (at, ratios, _)) in self.points.iter().enumerate() {
            write!(
                f,
                "{}{} at {at} ({} to {})",
                if index > 0 { "; " } else { "" },
                ratio(ratios.median),
                ratio(ratios.lower),
                ratio(ratios.upper)
            )?;
        }
        Ok(())
    }
}

/// All comparisons, sorted out.
#[derive(Debug)]
pub(super) struct Comparison {
    /// The greatest first.
    pub(super) losses: Vec<Compared>,
    pub(super) wins: Vec<Compared>,
    pub(super) level: usize,
}

impl Comparison {
    pub(super) fn of(scenarios: &[Scenario], rows: &Rows) -> Comparison {
        let mut comparison = Comparison {
            losses: Vec::new(),
            wins: Vec::new(),
            level: 0,
        };
        for scenario in scenarios {
            // An echo does none of the work; what it is compared for is a target of its own.
            let others = scenario.variants.iter().filter(|entry| {
                entry.name == entry.variant()
                    && ![SHARED, DEDICATED, "echo"].contains(&&*entry.name)
            });
            for other in others {
                for metric in METRICS {
                    comparison.add(scenario, rows, &other.name, metric);
                }
            }
        }
        for found in [&mut comparison.losses, &mut comparison.wins] {
            found.sort_by(|a, b| b.distance().total_cmp(&a.distance()));
        }
        comparison
    }

    fn add(
        &mut self,
        scenario: &Scenario,
        rows: &Rows,
        other: &str,
        (metric, words, more_is_better): (&str, &'static str, bool),
    ) {
        let compared = || Compared {
            scenario: scenario.name.clone(),
            other: other.to_owned(),
            metric: words,
            points: Vec::new(),
        };
        let (mut worse, mut better) = (compared(), compared());
        for point in scenario.points() {
            if !says_something(scenario, &point, metric) {
                continue;
            }
            let who = (SHARED, Some(other));
            let Some(ratios) = rows.spread(&scenario.name, who, metric, &point) else {
                continue;
            };
            let times = if more_is_better {
                ratios.median
            } else {
                1.0 / ratios.median
            };
            let found = (point_words(scenario, &point), ratios, times);
            match times {
                times if times < 1.0 - NOISE => worse.points.push(found),
                times if times > 1.0 + NOISE => better.points.push(found),
                _ => self.level += 1,
            }
        }
        for (compared, all) in [(worse, &mut self.losses), (better, &mut self.wins)] {
            if !compared.points.is_empty() {
                all.push(compared);
            }
        }
    }
}

/// Whether a metric tells servers apart at a point: an open loop's throughput is what it was told to
/// be, and a closed loop's latency follows from its throughput.
fn says_something(scenario: &Scenario, point: &Point, metric: &str) -> bool {
    let open = point.fraction.is_some();
    match metric {
        "throughput" => !open,
        "latency_p50" | "latency_p99" => open && scenario.kind == Kind::Load,
        _ => true,
    }
}
