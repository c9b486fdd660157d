//! `summary.md`: what was wanted and found, where the thread pool loses, and where it wins.

mod compare;
mod words;

use std::collections::BTreeMap;

use super::point::Point;
use super::record::{Rows, VOID, unit};
use super::scenario::Scenario;
use super::statistics::Spread;
use super::target::Target;
use compare::Comparison;
use words::shown;
pub(crate) use words::{point_words, ratio};

/// The pool's two disciplines in the results.
const SHARED: &str = "herd";
const DEDICATED: &str = "herd-dedicated";

/// Metrics that the tables of figures leave out: they serve to judge a run, not a server.
const UNTOLD: [&str; 3] = ["generator_cores", "late_p99", "flood_reports"];

/// All that a summary is made from.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) title: &'a str,
    pub(crate) quick: bool,
    pub(crate) machine: &'a [(&'static str, String)],
    pub(crate) scenarios: &'a [Scenario],
    pub(crate) rows: &'a Rows,
    pub(crate) left_out: &'a BTreeMap<String, String>,
}

impl Summary<'_> {
    /// The whole page.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("# {}\n\n", self.title);
        out += if self.quick {
            "A quick run: short rounds and few of them, so only what is far apart is told apart.\n\n"
        } else {
            "A full run.\n\n"
        };
        for (name, value) in self.machine {
            out += &format!("- {name}: {value}\n");
        }
        out += "\nServers and load generator share the machine, over loopback. Variants take turns; every \
                reply is checked, and a cell with a wrong one is void. A ratio is the median of the \
                ratios of each round; beside it are the middle half of these ratios and their range.\n";
        self.left_out(&mut out);
        self.targets(&mut out);
        self.comparison(&mut out);
        self.voids(&mut out);
        self.figures(&mut out);
        out
    }

    fn left_out(&self, out: &mut String) {
        if self.left_out.is_empty() {
            return;
        }
        *out += "\n## Left out\n\n";
        for (name, reason) in self.left_out {
            *out += &format!("- {name}: {}\n", one_line(reason));
        }
    }

    fn targets(&self, out: &mut String) {
        *out += "\n## Targets\n\n\
                 | scenario | target | at | wanted | measured | middle half | range | dedicated | |\n\
                 |---|---|---|---|---|---|---|---|---|\n";
        for scenario in self.scenarios {
            for target in &scenario.targets {
                let points = scenario.points();
                let points: Vec<&Point> = points.iter().filter(|p| target.is_for(p)).collect();
                let start = format!("| {} | {} |", scenario.name, target.what);
                let absent = if points.is_empty() || scenario.rounds == 0 {
                    Some("not in this run".to_owned())
                } else {
                    self.absent(scenario, target)
                };
                if let Some(reason) = absent {
                    *out += &format!("{start} | | | | | | {reason} |\n");
                    continue;
                }
                for point in points {
                    let row = self.target(scenario, target, point);
                    *out += &format!("{start} {} |{row}\n", point_words(scenario, point));
                }
            }
        }
    }

    /// Which of a target's variants took no part, and why.
    fn absent(&self, scenario: &Scenario, target: &Target) -> Option<String> {
        target.variants().find_map(|name| {
            let entry = scenario.variants.iter().find(|entry| entry.name == name)?;
            let reason = self.left_out.get(entry.variant())?;
            Some(format!("{name} left out: {}", one_line(reason)))
        })
    }

    /// The cells of a target from `wanted` on.
    fn target(&self, scenario: &Scenario, target: &Target, point: &Point) -> String {
        let unit = unit(&target.metric);
        let show = |value: f64| match target.to {
            Some(_) => ratio(value),
            None => shown(value, unit),
        };
        let wanted = target.wanted(show);
        let Some(measured) = self.spread(scenario, &target.of, target, point) else {
            let reason = target
                .variants()
                .find_map(|name| self.missing(scenario, name, point))
                .unwrap_or_else(|| "not measured".to_owned());
            return format!(" {wanted} | | | | | {reason} |");
        };
        let dedicated = if target.of == SHARED {
            self.spread(scenario, DEDICATED, target, point)
        } else {
            None
        };
        format!(
            " {wanted} | {} | {} to {} | {} to {} ({}) | {} | {} |",
            show(measured.median),
            show(measured.lower),
            show(measured.upper),
            show(measured.least),
            show(measured.most),
            measured.count,
            dedicated
                .map(|dedicated| show(dedicated.median))
                .unwrap_or_default(),
            target.judge(&measured)
        )
    }

    fn spread(
        &self,
        scenario: &Scenario,
        of: &str,
        target: &Target,
        point: &Point,
    ) -> Option<Spread> {
        let who = (of, target.to.as_deref());
        self.rows.spread(&scenario.name, who, &target.metric, point)
    }

    /// Why there is no figure of a variant at a point.
    fn missing(&self, scenario: &Scenario, name: &str, point: &Point) -> Option<String> {
        let reason = self.rows.void(&scenario.name, name, point)?;
        Some(format!("void: {name}: {}", one_line(reason)))
    }

    fn comparison(&self, out: &mut String) {
        let comparison = Comparison::of(self.scenarios, self.rows);
        let lines = |found: &[compare::Compared]| -> String {
            if found.is_empty() {
                return "Nowhere in what was measured.\n".to_owned();
            }
            found
                .iter()
                .map(|compared| format!("- {compared}\n"))
                .collect()
        };
        *out += &format!(
            "\n## Where the thread pool loses\n\n\
             The shared pool's figure as a part of another variant's, where it is worse by more than 3 %; the \
             greatest losses first, in brackets the middle half of the rounds.\n\n{}",
            lines(&comparison.losses)
        );
        *out += &format!(
            "\n## Where it wins\n\n{}\n{} comparisons are level, within 3 %.\n",
            lines(&comparison.wins),
            comparison.level
        );
    }

    fn voids(&self, out: &mut String) {
        *out += "\n## Void cells\n\n";
        let mut none = true;
        for scenario in self.scenarios {
            for point in scenario.points() {
                for entry in &scenario.variants {
                    let void = self.rows.void(&scenario.name, &entry.name, &point);
                    if let Some(reason) = void {
                        none = false;
                        *out += &format!(
                            "- {}, {}, {}: {}\n",
                            scenario.name,
                            entry.name,
                            point_words(scenario, &point),
                            one_line(reason)
                        );
                    }
                }
            }
        }
        if none {
            *out += "None.\n";
        }
    }

    /// Medians of everything: a table for each metric of each scenario.
    fn figures(&self, out: &mut String) {
        *out += "\n## Figures\n\nMedians of the rounds.\n";
        for scenario in self.scenarios.iter().filter(|scenario| scenario.rounds > 0) {
            *out += &format!("\n### {}\n\n{}\n", scenario.name, scenario.about.trim());
            let mut metrics: Vec<&str> = Vec::new();
            for row in &self.rows.0 {
                let metric = row.metric.as_str();
                let told =
                    row.scenario == scenario.name && metric != VOID && !UNTOLD.contains(&metric);
                if told && !metrics.contains(&metric) {
                    metrics.push(metric);
                }
            }
            for metric in metrics {
                self.table(scenario, metric, out);
            }
        }
    }

    fn table(&self, scenario: &Scenario, metric: &str, out: &mut String) {
        let unit = unit(metric);
        let names: Vec<&str> = scenario.variants.iter().map(|entry| &*entry.name).collect();
        *out += &format!("\n| {metric} | {} |\n", names.join(" | "));
        *out += &format!("|---|{}\n", "---|".repeat(names.len()));
        for point in scenario.points() {
            let cells: Vec<String> = names
                .iter()
                .map(|name| {
                    if self.rows.void(&scenario.name, name, &point).is_some() {
                        return "void".to_owned();
                    }
                    let values = self.rows.values(&scenario.name, name, &point, metric);
                    let values: Vec<f64> = values.into_values().collect();
                    Spread::of(&values).map_or_else(String::new, |s| shown(s.median, unit))
                })
                .collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                *out += &format!(
                    "| {} | {} |\n",
                    point_words(scenario, &point),
                    cells.join(" | ")
                );
            }
        }
    }
}

/// A text that fits into a cell of a table.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|")
}

#[cfg(test)]
#[path = "summary/tests.rs"]
mod tests;
