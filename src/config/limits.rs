//! What this machine gives one process: descriptors and threads.
//!
//! A thread that can't be made would end a server at its start with an error of the system, and
//! one whose mappings can't be made ends the process at once, without a word. So what the
//! threads will need is counted first, and compared with every limit that can be read.

use std::fmt;

/// Mappings of memory that one thread takes: its stack and its signal stack, each with a guard.
const MAPPINGS_PER_THREAD: u64 = 4;

/// Mappings left for everything else: what the allocator, the journal and places map while the
/// server runs.
const SPARE_MAPPINGS: u64 = 1_024;

/// Threads of the whole machine, or of this user, that are left for others.
const SPARE_THREADS: u64 = 64;

/// Bytes of address space that one thread takes beside its stack, guards included.
const BYTES_PER_THREAD: u64 = 64 << 10;

/// Bytes of address space left for everything else, above all for the allocator, which sets
/// aside far more than it uses.
const SPARE_BYTES: u64 = 512 << 20;

/// A limit, and how much of it is free for more threads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    name: &'static str,
    limit: u64,
    /// Threads that it leaves room for.
    room: u64,
}

/// More threads than the machine gives.
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
            "{threads} threads are needed, and {} of {} leaves room for {}; lower --workers, or raise that limit",
            limit.name, limit.limit, limit.room
        )
    }
}

impl std::error::Error for TooManyThreads {}

/// Whether so many more threads can be made; where not, the limit that is in the way.
///
/// A limit that can't be read here does not object: making the threads will tell.
pub fn check_threads(threads: usize) -> Result<(), TooManyThreads> {
    fits(threads as u64, &limits())
}

fn fits(threads: u64, limits: &[Limit]) -> Result<(), TooManyThreads> {
    match limits.iter().min_by_key(|limit| limit.room) {
        Some(limit) if limit.room < threads => Err(TooManyThreads {
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
            let room = limit.saturating_sub(used) / each;
            limits.push(Limit { name, limit, room });
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
    // The limit of a user's processes binds everybody but root. How many the user has can't be
    // read cheaply, so only what is hopeless is refused here.
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

/// Raises the descriptor limit as far as it goes, and says where it is then.
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

/// What is counted on where there is no such limit to read.
#[cfg(not(unix))]
pub fn raise_descriptor_limit() -> usize {
    16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &'static str, limit: u64, room: u64) -> Limit {
        Limit { name, limit, room }
    }

    #[test]
    fn the_narrowest_limit_speaks() {
        let limits = [limit("wide", 65_530, 16_000), limit("narrow", 120, 100)];
        assert_eq!(fits(100, &limits), Ok(()));
        let refused = fits(101, &limits).expect_err("too many");
        assert_eq!(
            refused.to_string(),
            "101 threads are needed, and narrow of 120 leaves room for 100; \
             lower --workers, or raise that limit"
        );
        assert_eq!(fits(1_000_000, &[]), Ok(()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_room_for_some_and_not_for_any_number() {
        assert_eq!(check_threads(10), Ok(()));
        assert!(check_threads(100_000_000).is_err());
    }
}
