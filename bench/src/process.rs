//! What the kernel says about a process: CPU time, memory, descriptors.
//!
//! CPU time of a server per request moves far less from run to run than its throughput on a
//! shared machine, which makes it the figure to compare by. Its unit is a clock tick (10 ms as
//! a rule), so runs take seconds, not milliseconds.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// CPU time of a process so far, user and system, all its threads, in nanoseconds.
pub(crate) fn cpu_nanos(process: &str) -> Result<u64, String> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let ticks = cpu_ticks(&text).ok_or_else(|| format!("{path}: not as proc(5) has it"))?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(ticks * (1_000_000_000 / per_second))
}

/// Fields 14 and 15 of `/proc/PID/stat`, added. The name in field 2 may hold anything, even
/// parentheses, so fields are counted from its end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Memory that a process holds, in KiB: its resident set.
pub(crate) fn resident_kib(process: &str) -> Result<u64, String> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or_else(|| format!("{path}: no VmRSS"))
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(process: &str) -> Result<usize, String> {
    let path = format!("/proc/{process}/fd");
    let entries = fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(entries.count())
}

/// Raises the soft limit of descriptors to the hard one; what it is then.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        cpu_nanos("self").expect("CPU time");
        assert!(resident_kib("self").expect("memory") > 0);
        assert!(descriptors("self").expect("descriptors") > 2);
        assert!(cpu_nanos("no-such-process").is_err());
    }
}
