//! Whether clients are being refused, for the server's state.
//!
//! At capacity every client that comes next is refused, however rarely one comes: so the state holds
//! from the first refusal until there is room again. Other refusals hold for a moment each.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time for which a refusal counts.
const HOLDS: Duration = Duration::from_millis(1_500);

/// Why a client was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalCause {
    /// As many clients are connected as may be.
    AtCapacity,
    /// As many clients of the address are connected as may be.
    AddressAtCapacity,
    /// As many clients wait for a worker as may.
    NoWorker,
    /// The process or the system has no descriptor left.
    NoDescriptor,
}

impl RefusalCause {
    /// All causes.
    pub(crate) const ALL: [RefusalCause; 4] = [
        RefusalCause::AtCapacity,
        RefusalCause::AddressAtCapacity,
        RefusalCause::NoWorker,
        RefusalCause::NoDescriptor,
    ];
}

impl fmt::Display for RefusalCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusalCause::AtCapacity => "the server is full",
            RefusalCause::AddressAtCapacity => {
                "the address has as many clients as it may (--max-clients-per-address)"
            }
            RefusalCause::NoWorker => "too many wait for a worker",
            RefusalCause::NoDescriptor => "no descriptor is left",
        })
    }
}

/// The refusals of late.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientRefusals(Arc<Mutex<Refusals>>);

#[derive(Debug, Default)]
struct Refusals {
    last: Option<(Instant, RefusalCause)>,
    /// Refusals since none was.
    count: u64,
    /// Clients have been refused at capacity, and there has been no room since.
    is_at_capacity: bool,
}

impl ClientRefusals {
    /// Notes a refusal.
    pub(crate) fn note(&self, cause: RefusalCause, now: Instant) {
        // One address at its limit says nothing of the server.
        if cause == RefusalCause::AddressAtCapacity {
            return;
        }
        let mut refusals = self.0.lock();
        refusals.count += 1;
        refusals.last = Some((now, cause));
        refusals.is_at_capacity |= cause == RefusalCause::AtCapacity;
    }

    /// Returns why clients are being refused, with that number of clients connected of at most
    /// `max_clients`.
    pub(crate) fn problem(
        &self,
        now: Instant,
        connected: usize,
        max_clients: usize,
    ) -> Option<String> {
        let mut refusals = self.0.lock();
        refusals.is_at_capacity &= connected >= max_clients;
        let (at, cause) = refusals.last?;
        if !refusals.is_at_capacity && now >= at + HOLDS {
            *refusals = Refusals::default();
            return None;
        }
        let count = refusals.count;
        let why = match cause {
            _ if refusals.is_at_capacity => {
                format!("{connected} are connected, and {max_clients} may be")
            }
            RefusalCause::AtCapacity => format!("{max_clients} may be connected"),
            other => other.to_string(),
        };
        Some(format!("clients are refused, {count} so far: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_at_capacity_counts_until_there_is_room() {
        let (refusals, start) = (ClientRefusals::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(refusals.problem(at(0), 2, 2), None, "none was refused");
        refusals.note(RefusalCause::AtCapacity, at(0));
        refusals.note(RefusalCause::AtCapacity, at(100));
        let full = "clients are refused, 2 so far: 2 are connected, and 2 may be";
        assert_eq!(refusals.problem(at(9_000), 2, 2).as_deref(), Some(full));
        assert_eq!(refusals.problem(at(9_001), 1, 2), None);
        assert_eq!(refusals.problem(at(9_002), 2, 2), None, "none since then");
        // Where clients come and go, it does not end with each that goes.
        refusals.note(RefusalCause::AtCapacity, at(10_000));
        let of_late = "clients are refused, 1 so far: 2 may be connected";
        assert_eq!(refusals.problem(at(11_499), 1, 2).as_deref(), Some(of_late));
        assert_eq!(refusals.problem(at(11_500), 1, 2), None);
    }

    #[test]
    fn other_refusals_count_for_a_moment() {
        let (refusals, start) = (ClientRefusals::default(), Instant::now());
        for (cause, text) in [
            (RefusalCause::NoWorker, "too many wait for a worker"),
            (RefusalCause::NoDescriptor, "no descriptor is left"),
        ] {
            refusals.note(cause, start);
            let shown = format!("clients are refused, 1 so far: {text}");
            assert_eq!(refusals.problem(start, 5, 2), Some(shown));
            assert_eq!(refusals.problem(start + HOLDS, 5, 2), None);
        }
    }
}
