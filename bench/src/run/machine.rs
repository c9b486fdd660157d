//! What a run was made on, and of what.

use std::fs;
use std::process::Command;

/// The machine and the commit, as names and values.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(unknown, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism();
    vec![
        ("CPU", field(&read("/proc/cpuinfo"), "model name")),
        (
            "cores",
            cores.map_or_else(|_| unknown(), |cores| cores.to_string()),
        ),
        ("memory", field(&read("/proc/meminfo"), "MemTotal")),
        (
            "kernel",
            read("/proc/sys/kernel/osrelease").trim().to_owned(),
        ),
        ("load average at the start", load_average()),
        ("commit", commit()),
    ]
}

/// Processes that ran or wanted to, on average over the last minutes.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    match (
        git(&["rev-parse", "HEAD"]),
        git(&["status", "--porcelain", "-uno"]),
    ) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit} with changes"),
        _ => unknown(),
    }
}
