//! The short and the long form of a test, and what it prints besides passing.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// True in the long form.
pub(crate) fn is_long() -> bool {
    std::env::var_os("HERD_FAULTS").is_some_and(|form| form == "long")
}

/// Selects the value for the form that runs.
pub(crate) fn choose<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Time limit for something that must happen: `seconds` in the long form, which runs one test at a time
/// with an optimized program, and five times that in the short form, which shares the machine.
pub(crate) fn limit(seconds: u64) -> Duration {
    Duration::from_secs(choose(5 * seconds, seconds))
}

/// Prints the figures that the long form measured for a fault. `./test.sh` looks for this prefix.
pub(crate) fn figure(fault: &str, measured: impl std::fmt::Display) {
    if is_long() {
        print(&format!("measured: {fault}: {measured}"));
    }
}

/// Prints that a test, or a part of one, did not run. `./test.sh` looks for this prefix.
pub(crate) fn skipped(what: &str, reason: &str) {
    print(&format!("skipped: {what}: {reason}"));
}

/// Prints past the test harness, which hides the output of a test that passes.
fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs a command. Returns whether it succeeds on this machine.
pub(crate) fn can_run(words: &[&str]) -> bool {
    Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Checks that a tool is installed. Prints that the test is skipped if it is not.
pub(crate) fn has_tool(what: &str, tool: &str) -> bool {
    let installed = can_run(&["sh", "-c", &format!("command -v {tool}")]);
    if !installed {
        skipped(what, &format!("{tool} is not installed"));
    }
    installed
}

/// Text with the maximum and the median of some durations.
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
