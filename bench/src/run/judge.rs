//! `herd-bench compare`, and the program that judges records: `bench/judge.py`.
//!
//! Medians, ratios, targets and the summary are its job. The scenarios are passed to it as they were read here.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use argh::FromArgs;

use super::SCENARIOS;
use super::scenario::{self, Scenario};
use crate::Failure;

/// The program that judges.
const PROGRAM: &str = "bench/judge.py";

/// Compare two records: do their median ratios agree within 10 %?
///
/// Run it in the project's folder, with Python 3.10 or later. Exit code 0 if every ratio of the two
/// records agrees, 1 if one does not, or only one of the records has it.
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
        let records = [self.first, self.second];
        judge("compare", &records, &scenarios).map_err(Failure::Failed)
    }
}

/// Write summary.md of a record again, from its rows and today's targets.
///
/// Run it in the project's folder, with Python 3.10 or later.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "summary",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} bench/runs/today"
)]
pub(crate) struct Summary {
    /// the record is of a quick run
    #[argh(switch)]
    quick: bool,

    /// folder of the record
    #[argh(positional)]
    record: PathBuf,
}

impl Summary {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let scenarios = scenario::read(Path::new(SCENARIOS), &[], self.quick)
            .map_err(|error| Failure::Usage(format!("summary: {error}")))?;
        summarize(&self.record, self.quick, &scenarios).map_err(Failure::Failed)
    }
}

/// Writes a record's `summary.md`. The error says why it can't be.
pub(super) fn summarize(record: &Path, quick: bool, scenarios: &[Scenario]) -> Result<(), String> {
    let mut arguments = vec![record.as_os_str()];
    arguments.extend(quick.then_some(OsStr::new("--quick")));
    judge("summary", &arguments, scenarios)
}

/// Runs a command of the program: `check` only checks the targets. The error is its complaint.
pub(super) fn judge(
    command: &str,
    arguments: &[impl AsRef<OsStr>],
    scenarios: &[Scenario],
) -> Result<(), String> {
    run(Path::new(PROGRAM), command, arguments, scenarios)
}

fn run(
    program: &Path,
    command: &str,
    arguments: &[impl AsRef<OsStr>],
    scenarios: &[Scenario],
) -> Result<(), String> {
    let fault = |error: std::io::Error| {
        format!("python3: {error}; judging a record needs Python 3.10 or later")
    };
    let json = serde_json::to_vec(scenarios).map_err(|error| error.to_string())?;
    let mut python = Command::new("python3")
        .arg("-B")
        .arg(program)
        .arg(command)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fault)?;
    if let Some(mut stdin) = python.stdin.take() {
        // A program that ends without reading has said why.
        let _ = stdin.write_all(&json);
    }
    let output = python.wait_with_output().map_err(fault)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    match complaint.trim() {
        "" => Err(format!("{}: {}", program.display(), output.status)),
        complaint => Err(complaint.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    /// Returns whether a test that needs Python can run; prints the reason if not.
    fn has_python() -> bool {
        let found = Command::new("python3").arg("--version").output().is_ok();
        if !found {
            let line = "skipped: judging of records: python3 is not installed\n";
            let _ = std::io::stdout().write_all(line.as_bytes());
        }
        found
    }

    #[test]
    fn the_tests_of_the_program_pass() {
        if !has_python() {
            return;
        }
        let tests = Command::new("python3")
            .args(["-B", "-m", "unittest", "discover", "--start-directory"])
            .arg(folder(""))
            .output()
            .expect("python3");
        let complaints = String::from_utf8_lossy(&tests.stderr);
        assert!(tests.status.success(), "{complaints}");
        assert!(!complaints.contains("Ran 0 tests"), "{complaints}");
    }

    #[test]
    fn the_targets_of_this_folder_are_understood() {
        if !has_python() {
            return;
        }
        for quick in [false, true] {
            let mut scenarios =
                scenario::read(&folder("scenarios"), &[], quick).expect("scenarios");
            let check =
                |scenarios: &[Scenario]| run(&folder("judge.py"), "check", &[""; 0], scenarios);
            check(&scenarios).expect("targets");
            scenarios[0].targets[0].insert("of".to_owned(), "nobody".into());
            let error = check(&scenarios).expect_err("an unknown variant");
            assert!(error.contains("no variant `nobody`"), "{error}");
        }
    }
}
