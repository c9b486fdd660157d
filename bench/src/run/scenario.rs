//! The scenarios: a file of `bench/scenarios` for each.
//!
//! A file holds the values of a full run; its table `[quick]` replaces some of them for a short
//! one. Lists of connections, depths and so on are multiplied: each combination is a point at
//! which all variants take turns. `bench/judge.py` checks that the values of a scenario fit each other.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One combination of the values that a scenario lists: the parameters of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Point {
    /// Connections that make requests.
    pub(crate) connections: usize,
    /// Requests in flight on each, in a closed loop.
    pub(crate) depth: usize,
    /// Rate of an open loop, as a part of the capacity of the slowest of `slowest_of`.
    pub(crate) fraction: Option<f64>,
    /// Workers of the herd's pool; `None` for its default.
    pub(crate) workers: Option<usize>,
    /// Silent connections beside them.
    pub(crate) idle: usize,
}

/// Kind of load that a scenario puts on the servers.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Load on one server.
    Load,
    /// A report of every client, for the memory that each takes.
    Fill,
    /// Delay of a report through a ring of five servers.
    Flood,
    /// A neighbor that starts without records, and a server that restarts with all of its own.
    CatchUp,
    /// Connections that come and go.
    Churn,
    /// A server that is full: the cost of refusing clients, and its recovery.
    Full,
}

/// A server that takes part, its flags and its background clients.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Name in the results.
    pub(crate) name: String,
    /// The variant that is started, where that has another name.
    runs: Option<String>,
    /// Flags of `herd serve`; other variants have none.
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    /// `true` if lines in and out are logged.
    #[serde(default)]
    pub(crate) log: bool,
    /// Clients beside the load: silent, dripping, and never reading.
    #[serde(default)]
    pub(crate) idle: usize,
    #[serde(default)]
    pub(crate) drip: usize,
    #[serde(default)]
    pub(crate) deaf: usize,
    /// Seconds that these have before the measurement.
    #[serde(default)]
    pub(crate) wait: f64,
}

impl Entry {
    /// A variant as it is.
    pub(crate) fn plain(name: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            ..Entry::default()
        }
    }

    /// The variant that is started.
    pub(crate) fn variant(&self) -> &str {
        self.runs.as_deref().unwrap_or(&self.name)
    }
}

/// A scenario, as its file has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Scenario {
    /// The file's name without its ending.
    #[serde(skip_deserializing)]
    pub(crate) name: String,
    /// The subject of the scenario, in a sentence.
    pub(crate) about: String,
    pub(crate) kind: Kind,
    /// Turns of each variant at each point, in all passes together; 0 leaves the scenario out.
    pub(crate) rounds: usize,
    pub(crate) variants: Vec<Entry>,
    /// `true` if servers and the load generator share all cores; otherwise it has one to itself.
    #[serde(default)]
    pub(crate) shared_cores: bool,
    #[serde(default = "one")]
    connections: Vec<usize>,
    #[serde(default = "one")]
    depth: Vec<usize>,
    #[serde(default)]
    fraction: Vec<f64>,
    /// Variants whose lowest capacity the fractions refer to.
    #[serde(default)]
    pub(crate) slowest_of: Vec<String>,
    #[serde(default)]
    workers: Vec<usize>,
    #[serde(default = "none")]
    idle: Vec<usize>,
    /// Seconds that are measured in a turn, and that come before. A turn is short, so that rounds can
    /// be many.
    #[serde(default = "turn")]
    pub(crate) seconds: f64,
    #[serde(default = "warmup")]
    pub(crate) warmup: f64,
    /// Different client ids.
    #[serde(default = "clients")]
    pub(crate) clients: usize,
    /// Percent of requests that are a WHATSAT, and its bound.
    #[serde(default)]
    pub(crate) whatsat: f64,
    #[serde(default)]
    pub(crate) bound: u8,
    /// Reports of a flood, connections of a churn.
    #[serde(default)]
    pub(crate) count: u64,
    /// Wanted figures, for the program that judges.
    #[serde(default)]
    pub(crate) targets: Vec<toml::Table>,
}

fn one() -> Vec<usize> {
    vec![1]
}

fn none() -> Vec<usize> {
    vec![0]
}

fn turn() -> f64 {
    0.2
}

fn warmup() -> f64 {
    0.05
}

fn clients() -> usize {
    10_000
}

impl Scenario {
    /// Reads a scenario's text.
    fn parse(name: &str, text: &str, quick: bool) -> Result<Scenario, String> {
        let mut table: toml::Table = text.parse().map_err(|error| format!("{name}: {error}"))?;
        let changes = match table.remove("quick") {
            None => toml::Table::new(),
            Some(toml::Value::Table(changes)) => changes,
            Some(_) => return Err(format!("{name}: `quick` must be a table")),
        };
        if quick {
            table.extend(changes);
        }
        let mut scenario: Scenario = table.try_into().map_err(|e| format!("{name}: {e}"))?;
        scenario.name = name.to_owned();
        Ok(scenario)
    }

    /// Returns whether background clients stay connected from round to round.
    pub(crate) fn has_background_clients(&self) -> bool {
        let beside = |entry: &Entry| entry.idle + entry.drip + entry.deaf > 0;
        self.variants.iter().any(beside)
    }

    /// The numbers, from 1 on, of the rounds of one of `passes` passes.
    pub(crate) fn rounds_of(&self, pass: usize, passes: usize) -> Range<usize> {
        // The first pass makes the first round, and so everything that is done once.
        let before = |pass: usize| 1 + (pass * self.rounds).div_ceil(passes);
        before(pass)..before(pass + 1)
    }

    /// Every combination of the lists, in their order.
    pub(crate) fn points(&self) -> Vec<Point> {
        // Nothing is the fraction of an unloaded server.
        let fractions = self
            .fraction
            .iter()
            .map(|&part| Some(part).filter(|part| *part > 0.0));
        let fractions: Vec<Option<f64>> = fractions.collect();
        let workers: Vec<Option<usize>> = self.workers.iter().copied().map(Some).collect();
        let mut points = vec![Point::default()];
        multiply(&mut points, &self.connections, |point, value| {
            point.connections = value
        });
        multiply(&mut points, &self.depth, |point, value| point.depth = value);
        multiply(&mut points, &fractions, |point, value| {
            point.fraction = value
        });
        multiply(&mut points, &workers, |point, value| point.workers = value);
        multiply(&mut points, &self.idle, |point, value| point.idle = value);
        points
    }
}

/// Puts a point for each value in the place of each point. Without values the points stay.
fn multiply<T: Copy>(points: &mut Vec<Point>, values: &[T], set: impl Fn(&mut Point, T)) {
    if values.is_empty() {
        return;
    }
    let before = std::mem::take(points);
    for (mut point, &value) in before
        .into_iter()
        .flat_map(|point| values.iter().map(move |value| (point, value)))
    {
        set(&mut point, value);
        points.push(point);
    }
}

/// Reads all scenarios of a folder in the order of their names, or only those named.
pub(crate) fn read(folder: &Path, only: &[String], quick: bool) -> Result<Vec<Scenario>, String> {
    let fault = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let mut scenarios = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| fault(folder, error))? {
        let path = entry.map_err(|error| fault(folder, error))?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(&path).map_err(|error| fault(&path, error))?;
        scenarios.push(Scenario::parse(&name, &text, quick)?);
    }
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    for name in only {
        if !scenarios.iter().any(|scenario| &scenario.name == name) {
            let names: Vec<&str> = scenarios.iter().map(|s| s.name.as_str()).collect();
            return Err(format!(
                "there is no scenario `{name}`; there are {}",
                names.join(", ")
            ));
        }
    }
    if !only.is_empty() {
        scenarios.retain(|scenario| only.contains(&scenario.name));
    }
    if scenarios.is_empty() {
        return Err(format!("{}: no scenario (*.toml)", folder.display()));
    }
    Ok(scenarios)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        about = "a test"
        kind = "load"
        rounds = 5
        variants = [{ name = "herd" }, { name = "other", runs = "herd", flags = ["--ack", "disk"] }]
        connections = [1, 8]
        depth = [1, 16]
        [[targets]]
        what = "other against herd"
        metric = "throughput"
        of = "other"
        to = "herd"
        at-least = 0.9
        [quick]
        rounds = 2
        connections = [8]
    "#;

    #[test]
    fn a_quick_run_changes_what_it_says() {
        let full = Scenario::parse("test", TEXT, false).expect("a scenario");
        assert_eq!((full.rounds, full.points().len()), (5, 4));
        assert_eq!(full.points()[1].depth, 16);
        assert_eq!(full.variants[1].variant(), "herd");
        let quick = Scenario::parse("test", TEXT, true).expect("a scenario");
        assert_eq!((quick.rounds, quick.points().len()), (2, 2));
        assert_eq!(quick.points()[0].connections, 8);
    }

    #[test]
    fn rounds_are_divided_among_passes() {
        let mut scenario = Scenario::parse("test", TEXT, false).expect("a scenario");
        let mut check = |rounds, expected: &[Range<usize>]| {
            scenario.rounds = rounds;
            let parts: Vec<_> = (0..3).map(|pass| scenario.rounds_of(pass, 3)).collect();
            assert_eq!(parts, expected);
        };
        check(7, &[1..4, 4..6, 6..8]);
        check(3, &[1..2, 2..3, 3..4]);
        check(2, &[1..2, 2..3, 3..3]);
        check(1, &[1..2, 2..2, 2..2]);
        check(0, &[1..1, 1..1, 1..1]);
    }

    #[track_caller]
    fn check_refused(from: &str, to: &str, expected: &str) {
        let text = TEXT.replace(from, to);
        assert_ne!(text, TEXT);
        let error = Scenario::parse("test", &text, false).expect_err(expected);
        assert!(
            error.starts_with("test: ") && error.contains(expected),
            "{error}"
        );
    }

    #[test]
    fn faults_are_reported() {
        check_refused("rounds = 5", "", "missing field `rounds`");
        check_refused("depth = [1, 16]", "depht = [1]", "unknown field `depht`");
        check_refused("kind = \"load\"", "kind = \"lode\"", "unknown variant");
    }

    #[test]
    fn the_scenarios_of_this_folder_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        for quick in [false, true] {
            assert!(!read(&folder, &[], quick).expect("scenarios").is_empty());
        }
        let error = read(&folder, &["no-such".to_owned()], false).expect_err("no such scenario");
        assert!(error.contains("capacity"), "{error}");
    }
}
