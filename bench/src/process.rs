//! Readings of a process from the kernel: CPU time, memory, descriptors.
//!
//! CPU time of a server per request moves far less from run to run than its throughput on a
//! shared machine, which makes it the figure to compare by. It is read from the process's own
//! clock, which counts nanoseconds: `/proc/PID/stat` has it in ticks of 10 ms as a rule, which
//! is several percent of a round of a fifth of a second.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that may come and go in a server for reasons of its own.
const SPARE_DESCRIPTORS: usize = 4;

/// Between two readings of a server's descriptors.
const PAUSE: Duration = Duration::from_millis(5);

/// Resources of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) descriptors: usize,
    pub(crate) kib: u64,
    pub(crate) cpu_nanos: u64,
}

/// Reads the resources of a process.
pub(crate) fn holding(process: &str) -> Result<Holding, String> {
    Ok(Holding {
        descriptors: descriptors(process)?,
        kib: resident_kib(process)?,
        cpu_nanos: cpu_nanos(process)?,
    })
}

/// CPU time of a process so far, user and system, all its threads, in nanoseconds.
pub(crate) fn cpu_nanos(process: &str) -> Result<u64, String> {
    let read = || {
        let clock = if process == "self" {
            ClockId::CLOCK_PROCESS_CPUTIME_ID
        } else {
            // An id that is no number is of no process.
            let id = process.parse().map_err(|_| nix::errno::Errno::ESRCH)?;
            ClockId::pid_cpu_clock_id(Pid::from_raw(id))?
        };
        clock.now()
    };
    let time = read().map_err(|error| format!("CPU time of process {process}: {error}"))?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
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

/// Number of descriptors that a process has open.
pub(crate) fn descriptors(process: &str) -> Result<usize, String> {
    let path = format!("/proc/{process}/fd");
    let entries = fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(entries.count())
}

/// Waits until a server has closed the connections of a run, so that the next does not pay for
/// them: until it has no more descriptors than `before`.
pub(crate) fn settle(process: &str, before: usize, limit: Duration) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let now = descriptors(process)?;
        if now <= before + SPARE_DESCRIPTORS {
            return Ok(());
        }
        if start.elapsed() > limit {
            return Err(format!(
                "{before} descriptors before, still {now} after {} s",
                limit.as_secs()
            ));
        }
        thread::sleep(PAUSE);
    }
}

/// Raises the soft limit of descriptors to the hard one, and returns the limit that results.
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
    fn this_process_can_be_read() {
        let own = std::process::id().to_string();
        // The same clock by both names, and finer than a tick: time has passed between them.
        let before = cpu_nanos("self").expect("CPU time");
        let after = cpu_nanos(&own).expect("CPU time by id");
        assert!(before > 0 && after > before);
        assert!(resident_kib("self").expect("memory") > 0);
        assert!(descriptors("self").expect("descriptors") > 2);
        assert!(cpu_nanos("no-such-process").is_err());
    }
}
