//! Limits how many refused lines and how many connections are logged: strangers decide how many there
//! are.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::time::Timestamp;

/// Number of refused lines, and number of connections, that are logged in a second, of all clients
/// together. With the bytes that are shown of each line, and where their echo is logged too, that is
/// less than half a megabyte.
const PER_SECOND: u64 = 200;

/// Bits of [`Limit::used`] that count; those above are the second.
const COUNT_BITS: u32 = 16;

/// The limits of this process.
static LINES: Limit = Limit::new();
static CONNECTIONS: Limit = Limit::new();

#[derive(Debug)]
struct Limit {
    /// The current second, and the number of lines that were logged in it.
    used: AtomicU64,
    left_out: AtomicU64,
}

/// Returns whether a line that was refused at that time is to be logged. One that is not is counted.
pub(crate) fn admit_line(now: Timestamp) -> bool {
    LINES.admit(now)
}

/// Returns whether a connection that was made at that time is to be logged, with its end. One that is
/// not is counted.
pub(crate) fn admit_connection(now: Timestamp) -> bool {
    CONNECTIONS.admit(now)
}

/// Returns the numbers of refused lines and of connections that were not logged since the last call.
pub(super) fn take_left_out() -> [(u64, &'static str); 2] {
    [
        (LINES.take_left_out(), "refused lines"),
        (CONNECTIONS.take_left_out(), "connections"),
    ]
}

impl Limit {
    const fn new() -> Limit {
        Limit {
            used: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    fn admit(&self, now: Timestamp) -> bool {
        let second = (now.as_nanos() / 1_000_000_000) << COUNT_BITS;
        let count = |used: u64| match used & ((1 << COUNT_BITS) - 1) {
            _ if used >> COUNT_BITS != second >> COUNT_BITS => Some(second + 1),
            lines if lines < PER_SECOND => Some(used + 1),
            _ => None,
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let admitted = self.used.fetch_update(set, fetch, count).is_ok();
        if !admitted {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    fn take_left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_a_number_of_lines_and_the_others_are_counted() {
        let limit = Limit::new();
        let mut total = 0;
        for second in [5, 6, 100, 99] {
            let at = |line: u64| Timestamp::from_nanos(second * 1_000_000_000 + line);
            let admitted = (0..1_000).filter(|&line| limit.admit(at(line))).count();
            assert_eq!(admitted as u64, PER_SECOND);
            total += 1_000 - PER_SECOND;
        }
        assert_eq!(limit.take_left_out(), total);
        assert_eq!(limit.take_left_out(), 0);
    }
}
