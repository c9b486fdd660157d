//! Whether clients are being rejected, for the server's state.
//!
//! At capacity every client that comes next is rejected, however rarely one comes: so the state holds
//! from the first rejection until there is room again. Other rejections hold for a moment each.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::metrics::Label;

/// Time for which a rejection counts.
const HOLDS: Duration = Duration::from_millis(1_500);

/// Why a client was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectionCause {
    /// As many clients are connected as may be.
    AtCapacity,
    /// As many clients of the address are connected as may be.
    AddressAtCapacity,
    /// As many clients wait for a worker as may.
    NoWorker,
    /// The process or the system has no descriptor left.
    NoDescriptor,
}

impl RejectionCause {
    /// All causes.
    pub(crate) const ALL: [RejectionCause; 4] = [
        RejectionCause::AtCapacity,
        RejectionCause::AddressAtCapacity,
        RejectionCause::NoWorker,
        RejectionCause::NoDescriptor,
    ];
}

impl fmt::Display for RejectionCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejectionCause::AtCapacity => "the server is full",
            RejectionCause::AddressAtCapacity => {
                "the address has as many clients as it may (--max-clients-per-address)"
            }
            RejectionCause::NoWorker => "too many wait for a worker",
            RejectionCause::NoDescriptor => "no descriptor is left",
        })
    }
}

/// Outcome of a client's attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Handed to the pool.
    Accepted,
    /// Disconnected before it could be.
    Disconnected,
    /// Rejected.
    Rejected(RejectionCause),
}

impl Label for Admission {
    const ALL: &'static [Admission] = &[
        Admission::Accepted,
        Admission::Disconnected,
        Admission::Rejected(RejectionCause::AtCapacity),
        Admission::Rejected(RejectionCause::AddressAtCapacity),
        Admission::Rejected(RejectionCause::NoWorker),
        Admission::Rejected(RejectionCause::NoDescriptor),
    ];

    fn index(self) -> usize {
        match self {
            Admission::Accepted => 0,
            Admission::Disconnected => 1,
            Admission::Rejected(cause) => 2 + cause as usize,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Admission::Accepted => "accepted",
            Admission::Disconnected => "disconnected",
            Admission::Rejected(RejectionCause::AtCapacity) => "at_capacity",
            Admission::Rejected(RejectionCause::AddressAtCapacity) => "address_at_capacity",
            Admission::Rejected(RejectionCause::NoWorker) => "no_worker",
            Admission::Rejected(RejectionCause::NoDescriptor) => "no_descriptor",
        }
    }
}

/// The rejections of late.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientRejections(Arc<Mutex<Rejections>>);

#[derive(Debug, Default)]
struct Rejections {
    last: Option<(Instant, RejectionCause)>,
    /// Rejections since there was no problem.
    count: u64,
    /// Clients have been rejected at capacity, and there has been no room since.
    is_at_capacity: bool,
}

impl ClientRejections {
    /// Notes a rejection.
    pub(crate) fn note(&self, cause: RejectionCause, now: Instant) {
        // One address at its limit says nothing of the server.
        if cause == RejectionCause::AddressAtCapacity {
            return;
        }
        let mut rejections = self.0.lock();
        rejections.count += 1;
        rejections.last = Some((now, cause));
        rejections.is_at_capacity |= cause == RejectionCause::AtCapacity;
    }

    /// Returns why clients are being refused, with that number of clients connected of at most
    /// `max_clients`.
    pub(crate) fn problem(
        &self,
        now: Instant,
        connected: usize,
        max_clients: usize,
    ) -> Option<String> {
        let mut rejections = self.0.lock();
        rejections.is_at_capacity &= connected >= max_clients;
        let (at, cause) = rejections.last?;
        if !rejections.is_at_capacity && now >= at + HOLDS {
            *rejections = Rejections::default();
            return None;
        }
        let count = rejections.count;
        let why = match cause {
            _ if rejections.is_at_capacity => {
                format!("{connected} are connected, and {max_clients} may be")
            }
            RejectionCause::AtCapacity => format!("{max_clients} may be connected"),
            other => other.to_string(),
        };
        Some(format!("clients are refused, {count} so far: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_at_capacity_counts_until_there_is_room() {
        let (rejections, start) = (ClientRejections::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(rejections.problem(at(0), 2, 2), None, "none was refused");
        rejections.note(RejectionCause::AtCapacity, at(0));
        rejections.note(RejectionCause::AtCapacity, at(100));
        let full = "clients are refused, 2 so far: 2 are connected, and 2 may be";
        assert_eq!(rejections.problem(at(9_000), 2, 2).as_deref(), Some(full));
        assert_eq!(rejections.problem(at(9_001), 1, 2), None);
        assert_eq!(rejections.problem(at(9_002), 2, 2), None, "none since then");
        // Where clients come and go, it does not end with each that goes.
        rejections.note(RejectionCause::AtCapacity, at(10_000));
        let of_late = "clients are refused, 1 so far: 2 may be connected";
        assert_eq!(
            rejections.problem(at(11_499), 1, 2).as_deref(),
            Some(of_late)
        );
        assert_eq!(rejections.problem(at(11_500), 1, 2), None);
    }

    #[test]
    fn other_rejections_count_for_a_moment() {
        let (rejections, start) = (ClientRejections::default(), Instant::now());
        for (cause, text) in [
            (RejectionCause::NoWorker, "too many wait for a worker"),
            (RejectionCause::NoDescriptor, "no descriptor is left"),
        ] {
            rejections.note(cause, start);
            let shown = format!("clients are refused, 1 so far: {text}");
            assert_eq!(rejections.problem(start, 5, 2), Some(shown));
            assert_eq!(rejections.problem(start + HOLDS, 5, 2), None);
        }
    }
}
