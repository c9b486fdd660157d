//! Measures the CPU time that turns cost, by which the shared pool decides how many workers to wake.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Turns of a worker between two readings of its CPU clock.
const TURNS_PER_READING: u32 = 32;

/// Measures the CPU time of one worker's turns, including the waits for events and the wake-ups
/// between them. Time spent waiting for a processor does not count: where processors are short, a
/// second worker makes it worse.
#[derive(Debug)]
pub(super) struct CostMeter {
    turns: u32,
    reading: Duration,
}

impl CostMeter {
    /// Starts a measurement on the calling thread, which is the one that is measured.
    pub(super) fn new() -> CostMeter {
        CostMeter {
            turns: 0,
            reading: cpu_time(),
        }
    }

    /// Counts a turn. Once in [`TURNS_PER_READING`], returns their average cost.
    pub(super) fn count_turn(&mut self) -> Option<Duration> {
        self.turns += 1;
        if self.turns < TURNS_PER_READING {
            return None;
        }
        let before = std::mem::replace(&mut self.reading, cpu_time());
        let turns = std::mem::take(&mut self.turns);
        Some(self.reading.saturating_sub(before) / turns)
    }
}

/// Returns the CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_turns_is_read_once_in_many() {
        const COST: Duration = Duration::from_micros(30);
        let mut meter = CostMeter::new();
        for _ in 1..TURNS_PER_READING {
            assert_eq!(meter.count_turn(), None);
        }
        let before = cpu_time();
        while cpu_time() - before < COST * TURNS_PER_READING {}
        assert!(meter.count_turn().is_some_and(|cost| cost >= COST));
        assert_eq!(meter.count_turn(), None);
    }
}
