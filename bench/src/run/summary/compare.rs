//! The lobby against every other variant, in every metric that has a better and a worse.

use std::fmt;

use super::words::{point_words, ratio};
use super::{LOBBY, SEATS};
use crate::run::record::Record;
use crate::run::scenario::{Kind, Point, Scenario};
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

/// The lobby's figure divided by another's.
#[derive(Debug)]
pub(super) struct Compared {
    scenario: String,
    other: String,
    metric: &'static str,
    at: String,
    ratios: Spread,
    /// How many times better the lobby is: below 1 it is worse.
    better: f64,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}: {} of {}'s {} ({} to {})",
            self.scenario,
            self.at,
            ratio(self.ratios.median),
            self.other,
            self.metric,
            ratio(self.ratios.least),
            ratio(self.ratios.most)
        )
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
    pub(super) fn of(scenarios: &[Scenario], record: &Record) -> Comparison {
        let mut comparison = Comparison {
            losses: Vec::new(),
            wins: Vec::new(),
            level: 0,
        };
        for scenario in scenarios {
            // An echo does none of the work; what it is compared for is a target of its own.
            let others = scenario.variants.iter().filter(|entry| {
                entry.name == entry.variant() && ![LOBBY, SEATS, "echo"].contains(&&*entry.name)
            });
            for other in others {
                for point in scenario.points() {
                    for metric in METRICS {
                        comparison.add(scenario, record, &other.name, &point, metric);
                    }
                }
            }
        }
        comparison
            .losses
            .sort_by(|a, b| a.better.total_cmp(&b.better));
        comparison
            .wins
            .sort_by(|a, b| b.better.total_cmp(&a.better));
        comparison
    }

    fn add(
        &mut self,
        scenario: &Scenario,
        record: &Record,
        other: &str,
        point: &Point,
        (metric, words, more_is_better): (&str, &'static str, bool),
    ) {
        // An open loop's throughput is what it was told to be.
        let told = scenario.kind == Kind::Load && point.fraction.is_some();
        let void = |name: &str| record.void(&scenario.name, name, point).is_some();
        if told && metric == "throughput" || void(LOBBY) || void(other) {
            return;
        }
        let values = |name: &str| record.values(&scenario.name, name, point, metric);
        let Some(ratios) = Spread::of_ratios(&values(LOBBY), &values(other)) else {
            return;
        };
        let better = if more_is_better {
            ratios.median
        } else {
            1.0 / ratios.median
        };
        let compared = Compared {
            scenario: scenario.name.clone(),
            other: other.to_owned(),
            metric: words,
            at: point_words(scenario, point),
            ratios,
            better,
        };
        match better {
            better if better < 1.0 - NOISE => self.losses.push(compared),
            better if better > 1.0 + NOISE => self.wins.push(compared),
            _ => self.level += 1,
        }
    }
}
