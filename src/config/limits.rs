//! Limits of the system on one process: descriptors and threads.
//!
//! If a thread cannot be created, a server fails at its start with an error of the system; if the
//! memory mappings of a thread cannot be created, the process is aborted without a message. So
//! the needs of all threads are counted first, and compared with every limit that can be read.

use std::fmt;

/// Memory mappings of one thread: its stack and its signal stack, each with a guard.
const MAPPINGS_PER_THREAD: u64 = 4;

/// Memory mappings left for everything else: those that the allocator, the journal and places
/// create while the server runs.
const SPARE_MAPPINGS: u64 = 1_024;

/// Threads of the whole machine that are left for other processes.
const SPARE_THREADS: u64 = 64;

/// Bytes of address space that one thread takes in addition to its stack, guards included.
const BYTES_PER_THREAD: u64 = 64 << 10;

/// Bytes of address space left for everything else, above all for the allocator, which reserves
/// far more than it uses.
const SPARE_BYTES: u64 = 512 << 20;

/// A limit, and the number of further threads that it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    name: &'static str,
    limit: u64,
    /// Number of further threads that it allows.
    threads: u64,
}

/// The error of needing more threads than a limit of the system allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyThreads {
    threads: u64,
    limit: Limit,
}

impl fmt::Display for TooManyThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooManyThreads { threads, limit } = self;
        write!(
            f,
            "{threads} threads are needed, and {} of {} allows {} more; lower --workers, or raise that limit",
            limit.name, limit.limit, limit.threads
        )
    }
}

impl std::error::Error for TooManyThreads {}

/// Checks that the limits of the system allow `threads` more threads.
///
/// Limits that cannot be read are not checked: creating the threads then fails.
///
/// # Errors
///
/// Returns the limit that allows the fewest.
pub(crate) fn check_threads(threads: usize) -> Result<(), TooManyThreads> {
    fits(threads as u64, &limits())
}

fn fits(threads: u64, limits: &[Limit]) -> Result<(), TooManyThreads> {
    match limits.iter().min_by_key(|limit| limit.threads) {
        Some(limit) if limit.threads < threads => Err(TooManyThreads {
            threads,
            limit: limit.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(target_os = "linux")]
fn limits() -> Vec<Limit> {
    use rustix::process::{Resource, geteuid, getrlimit};
    use std::fs::read_to_string;

    let number = |path: &str| read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut limits = Vec::new();
    let mut limit = |name, limit: Option<u64>, used: u64, each: u64| {
        if let Some(limit) = limit {
            let threads = limit.saturating_sub(used) / each;
            limits.push(Limit {
                name,
                limit,
                threads,
            });
        }
    };
    let maps = read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count() as u64);
    limit(
        "vm.max_map_count",
        number("/proc/sys/vm/max_map_count"),
        maps + SPARE_MAPPINGS,
        MAPPINGS_PER_THREAD,
    );
    // "0.42 0.40 0.38 2/317 4711": the second number of the fourth field is all threads.
    let running = read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(['/', ' ']).nth(4)?.parse().ok())
        .unwrap_or(0);
    limit(
        "kernel.threads-max",
        number("/proc/sys/kernel/threads-max"),
        running + SPARE_THREADS,
        1,
    );
    // The limit of a user's processes applies to all users except root. The number that the user
    // has is costly to read, so only a limit below the need itself is refused here.
    if !geteuid().is_root() {
        let processes = getrlimit(Resource::Nproc).current;
        limit("the limit of user processes (ulimit -u)", processes, 1, 1);
    }
    let mapped = read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * rustix::param::page_size() as u64;
    limit(
        "the limit of address space (ulimit -v), in bytes,",
        getrlimit(Resource::As).current,
        mapped + SPARE_BYTES,
        crate::thread::STACK_BYTES as u64 + BYTES_PER_THREAD,
    );
    limits
}

#[cfg(not(target_os = "linux"))]
fn limits() -> Vec<Limit> {
    Vec::new()
}

/// Raises the limit of open descriptors to its maximum, and returns the limit in force.
#[cfg(unix)]
pub fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Returns the assumed limit of open descriptors where none can be read.
#[cfg(not(unix))]
pub fn raise_descriptor_limit() -> usize {
    16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &'static str, limit: u64, threads: u64) -> Limit {
        Limit {
            name,
            limit,
            threads,
        }
    }

    #[test]
    fn the_lowest_limit_is_reported() {
        let limits = [limit("wide", 65_530, 16_000), limit("narrow", 120, 100)];
        assert_eq!(fits(100, &limits), Ok(()));
        let refused = fits(101, &limits).expect_err("too many");
        assert_eq!(
            refused.to_string(),
            "101 threads are needed, and narrow of 120 allows 100 more; \
             lower --workers, or raise that limit"
        );
        assert_eq!(fits(1_000_000, &[]), Ok(()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_allows_ten_threads_and_not_a_hundred_million() {
        assert_eq!(check_threads(10), Ok(()));
        assert!(check_threads(100_000_000).is_err());
    }
}
