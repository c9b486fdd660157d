//! Whether the log can be written, for the server's status.
//!
//! The log thread says what it meets; any thread may ask. A log that can't be written could not tell
//! about it itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::model::time::Timestamp;

/// Time that one write may take before the log counts as failing.
const STALL: Duration = Duration::from_secs(1);

/// Why log lines don't reach their file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Time at which it began.
    pub since: Timestamp,
    /// The reason, in words, with the path.
    pub reason: String,
}

/// Destinations of lines that can fail by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// The log of events.
    Events = 0,
    /// The log of lines in and out.
    Lines = 1,
}

/// State of this process's log.
static HEALTH: Mutex<Health> = Mutex::new(Health {
    problems: [None, None],
    writing: None,
});

/// Lines dropped since the start of the process.
static DROPPED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
struct Health {
    /// By [`Destination`].
    problems: [Option<Problem>; 2],
    /// Begin of the write that is under way, and where it goes.
    writing: Option<(Instant, Timestamp, String)>,
}

/// Returns what keeps log lines from being written, if anything does. Lines wait in memory
/// meanwhile, and are dropped once there are too many. Waits for nothing; cheap enough for a call a
/// second.
pub fn problem() -> Option<Problem> {
    HEALTH.lock().problem(Instant::now())
}

/// Returns the number of log lines dropped since the start of the process, since they came faster
/// than they could be written or could not be written at all.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

impl Health {
    fn problem(&self, now: Instant) -> Option<Problem> {
        if let Some((began, since, path)) = &self.writing {
            let seconds = now.saturating_duration_since(*began).as_secs();
            if seconds >= STALL.as_secs() {
                return Some(Problem {
                    since: *since,
                    reason: format!("{path}: a write has taken {seconds} s so far"),
                });
            }
        }
        self.problems.iter().flatten().next().cloned()
    }
}

/// Notes that a write begins.
pub(super) fn begin_write(path: &str) {
    let began = (Instant::now(), Timestamp::now(), path.to_owned());
    HEALTH.lock().writing = Some(began);
}

/// Notes that the write has ended.
pub(super) fn end_write() {
    HEALTH.lock().writing = None;
}

/// Notes whether a destination can be written, with the reason if not. Returns whether that has
/// changed: a problem began or ended.
pub(super) fn set(destination: Destination, reason: Option<String>) -> bool {
    let problem = &mut HEALTH.lock().problems[destination as usize];
    let changed = problem.is_some() != reason.is_some();
    match (reason, &mut *problem) {
        (Some(reason), Some(problem)) => problem.reason = reason,
        (reason, _) => {
            *problem = reason.map(|reason| Problem {
                since: Timestamp::now(),
                reason,
            });
        }
    }
    changed
}

/// Counts dropped lines.
pub(super) fn count_dropped(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_either_file_and_a_write_that_hangs_are_told() {
        let now = Instant::now();
        let problem = |reason: &str, at| Problem {
            since: Timestamp::from_nanos(at),
            reason: reason.to_owned(),
        };
        let mut health = Health {
            problems: [None, Some(problem("lines: full", 5))],
            writing: None,
        };
        assert_eq!(health.problem(now), Some(problem("lines: full", 5)));
        health.problems[0] = Some(problem("events: full", 7));
        assert_eq!(health.problem(now), Some(problem("events: full", 7)));
        health.problems = [None, None];
        health.writing = Some((now, Timestamp::from_nanos(9), "path".to_owned()));
        assert_eq!(health.problem(now + STALL / 2), None);
        let hangs = problem("path: a write has taken 3 s so far", 9);
        assert_eq!(health.problem(now + 3 * STALL), Some(hangs));
    }
}
