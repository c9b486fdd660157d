//! The two forms of each test, and what it tells besides passing.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Whether the long form runs.
pub(crate) fn is_long() -> bool {
    std::env::var_os("HERD_FAULTS").is_some_and(|form| form == "long")
}

/// The short form's, or the long form's.
pub(crate) fn choose<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// The time in which something must have happened. The long form runs one test at a time, with an
/// optimized program; in the short form others run beside it.
pub(crate) fn limit(seconds: u64) -> Duration {
    Duration::from_secs(choose(5 * seconds, seconds))
}

/// Tells what the long form measured for a row of the table of faults.
pub(crate) fn figure(row: &str, measured: impl std::fmt::Display) {
    if is_long() {
        tell(&format!("row {row}: {measured}"));
    }
}

/// Tells that a test, or a part of one, has not run.
pub(crate) fn skipped(what: &str, why: &str) {
    tell(&format!("skipped: {what}: {why}"));
}

/// Past the test harness, which shows nothing of a test that passes.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether a command can be run here, and succeeds.
pub(crate) fn can_run(words: &[&str]) -> bool {
    Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether a tool is there; says that the test is skipped if it is not.
pub(crate) fn has_tool(what: &str, tool: &str) -> bool {
    let there = can_run(&["sh", "-c", &format!("command -v {tool}")]);
    if !there {
        skipped(what, &format!("{tool} is not installed"));
    }
    there
}

/// The greatest and the median of some durations, as text.
pub(crate) fn spread(durations: &mut [Duration]) -> String {
    durations.sort();
    let (Some(longest), median) = (durations.last(), durations[durations.len() / 2]) else {
        return "none".to_owned();
    };
    format!(
        "at most {:.2} s (median {:.2})",
        longest.as_secs_f64(),
        median.as_secs_f64()
    )
}
