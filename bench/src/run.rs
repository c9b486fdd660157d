//! `herd-bench run`: the comparison, from the files of `bench/scenarios` to a record.
//!
//! A run goes through all scenarios several times, and makes a part of each one's rounds each time.
//! In them variants take turns: at each point of a scenario A, B, C, then C, B, A, and so on. A cell
//! whose check fails is void, with the reason in its note, and is not tried again. Servers are started
//! by this program and stopped by their process ids. Rows go to `results.csv`; `bench/judge.py` makes
//! the summary of them.

mod at_capacity;
mod catch_up;
mod check;
mod cores;
mod fleet;
mod judge;
mod measure;
mod propagation;
mod record;
mod rounds;
mod runner;
mod scenario;
mod turns;
mod variant;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use argh::FromArgs;

use crate::Failure;
use crate::progress::Progress;
use cores::Cores;
use fleet::Workplace;
pub(crate) use judge::{Compare, Summary};
use record::Record;
use runner::Runner;
use scenario::{Entry, Scenario};

/// Number of times that a run, full or quick, goes through all scenarios. The load of a shared machine
/// changes every minute or so, which moves ratios, too: the rounds of a point must meet several loads.
const PASSES: usize = 4;
const QUICK_PASSES: usize = 3;

/// Folder of the scenarios.
const SCENARIOS: &str = "bench/scenarios";

/// Measure the herd and its variants against each other, and write a record.
///
/// Run it in the project's folder, with the herd and the variants built; `bench/run.sh` does all
/// of that. Every variant must first pass the transcripts. The record is a folder: results.csv,
/// commands.txt, versions.txt and summary.md.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "run",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --out bench/runs/today",
    example = "{command_name} --quick --only capacity --variants herd,tokio --out /tmp/record"
)]
pub(crate) struct Run {
    /// folder of the record; it is made if it is missing
    #[argh(option, arg_name = "dir")]
    out: PathBuf,

    /// a short run of a few minutes: fewer points, shorter rounds
    #[argh(switch)]
    quick: bool,

    /// only this scenario; may be given several times
    #[argh(option, arg_name = "scenario")]
    only: Vec<String>,

    /// rounds of every scenario, instead of its own number
    #[argh(option, arg_name = "n")]
    rounds: Option<usize>,

    /// only these variants, separated by commas
    #[argh(option, arg_name = "list")]
    variants: Option<String>,

    /// a variant that takes no part, and why; may be given several times
    #[argh(option, arg_name = "name=reason", from_str_fn(left_out))]
    leave_out: Vec<(String, String)>,
}

fn left_out(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, reason)) if !name.is_empty() && !reason.is_empty() => {
            Ok((name.to_owned(), reason.to_owned()))
        }
        _ => Err("it is NAME=REASON".to_owned()),
    }
}

impl Run {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let usage = |error: String| Failure::Usage(format!("run: {error}"));
        let mut scenarios =
            scenario::read(Path::new(SCENARIOS), &self.only, self.quick).map_err(usage)?;
        if let Some(rounds) = self.rounds {
            if rounds == 0 {
                return Err(usage("--rounds must be at least 1".to_owned()));
            }
            for scenario in &mut scenarios {
                scenario.rounds = rounds;
            }
        }
        judge::judge("check", &[""; 0], &scenarios).map_err(usage)?;
        let mut left_out: BTreeMap<String, String> = self.leave_out.iter().cloned().collect();
        let usable = self.usable(&scenarios, &mut left_out).map_err(usage)?;
        let cores = Cores::find().map_err(Failure::Failed)?;
        let workplace = Workplace::new(cores).map_err(Failure::Failed)?;
        let result = self.measure(&workplace, &scenarios, usable, left_out);
        workplace.clear();
        result.map_err(Failure::Failed)
    }

    /// Returns the variants of the scenarios that may take part; adds the others to `left_out`, with the
    /// reasons.
    fn usable(
        &self,
        scenarios: &[Scenario],
        left_out: &mut BTreeMap<String, String>,
    ) -> Result<BTreeSet<String>, String> {
        let entries = scenarios.iter().flat_map(|scenario| &scenario.variants);
        let known: BTreeSet<&str> = entries.map(Entry::variant).collect();
        let wanted = self.variants.as_deref().map(|list| list.split(','));
        let wanted: Option<BTreeSet<&str>> = wanted.map(Iterator::collect);
        if let Some(name) = wanted.iter().flatten().find(|name| !known.contains(*name)) {
            let known: Vec<&str> = known.into_iter().collect();
            return Err(format!(
                "--variants: there is no `{name}`; there are {}",
                known.join(", ")
            ));
        }
        for &name in &known {
            let reason = match &wanted {
                Some(wanted) if !wanted.contains(name) => Some("not selected".to_owned()),
                _ => variant::program(name).err(),
            };
            if let Some(reason) = reason {
                left_out.entry(name.to_owned()).or_insert(reason);
            }
        }
        let usable = known.iter().filter(|name| !left_out.contains_key(**name));
        Ok(usable.map(|name| (*name).to_owned()).collect())
    }

    fn measure(
        &self,
        workplace: &Workplace,
        scenarios: &[Scenario],
        mut usable: BTreeSet<String>,
        mut left_out: BTreeMap<String, String>,
    ) -> Result<(), String> {
        // Read before the check of the variants, which adds to it.
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        fs::create_dir_all(&self.out).map_err(|e| format!("{}: {e}", self.out.display()))?;
        say("checking every variant against the transcripts")?;
        let names: Vec<&str> = usable.iter().map(String::as_str).collect();
        for (name, error) in check::failing(workplace, &names)? {
            say(&format!("{name} is left out: {error}"))?;
            usable.remove(&name);
            left_out.insert(name, error);
        }
        // The servers of the transcripts are not part of the record.
        workplace.take_commands();
        self.describe(&load, workplace.cores(), &usable, &left_out)?;
        let record = Record::create(&self.out.join("results.csv"))?;
        let passes = if self.quick { QUICK_PASSES } else { PASSES };
        let mut runner = Runner::new(
            workplace,
            record,
            &usable,
            (scenarios, passes),
            Progress::new(),
        );
        for pass in 0..passes {
            for scenario in scenarios {
                runner.run(scenario, scenario.rounds_of(pass, passes))?;
                let commands = runner.commands();
                self.write("commands.txt", &format!("{}\n", commands.join("\n")))?;
            }
        }
        judge::summarize(&self.out, self.quick, scenarios)?;
        say(&format!("the record is in {}", self.out.display()))
    }

    /// Writes `versions.txt`: the machine, the versions of the variants, and those that are left out.
    fn describe(
        &self,
        load: &str,
        cores: &Cores,
        usable: &BTreeSet<String>,
        left_out: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let mut arguments = vec![
            self.out.display().to_string(),
            format!("--load={load}"),
            format!("--cores={}", cores.describe()),
        ];
        arguments.extend(usable.iter().map(|name| format!("--variant={name}")));
        let left_out = left_out.iter();
        arguments.extend(left_out.map(|(name, reason)| format!("--left-out={name}={reason}")));
        judge::judge("versions", &arguments, &[])
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.out.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn say(line: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{line}").map_err(|error| format!("can't write: {error}"))
}
