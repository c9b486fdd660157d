//! When and where a neighbor is dialed, and which failure is logged; without sockets or threads.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, warn};

use crate::config::topology::Address;
use crate::link::handshake::HandshakeError;
use crate::link::neighbor::Neighbor;
use crate::link::refusals::RejectedPeers;
use crate::model::time::Timestamp;

/// Time after the start during which a neighbor that does not answer is no reason for a warning:
/// servers that are started together come up one after the other.
const START_GRACE: Duration = Duration::from_secs(2);

/// Shortest and longest pause before dialing again; it doubles with each failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The state between connections to one neighbor.
#[derive(Debug)]
pub(in crate::link) struct Dialer {
    neighbor: Arc<Neighbor>,
    rejected: Arc<RejectedPeers>,
    address: Address,
    pause: Duration,
    failed_before: bool,
    started: Instant,
}

impl Dialer {
    /// Begins to dial that address.
    pub(in crate::link) fn new(
        neighbor: Arc<Neighbor>,
        rejected: Arc<RejectedPeers>,
        address: Address,
        now: Instant,
    ) -> Dialer {
        Dialer {
            neighbor,
            rejected,
            address,
            pause: BACK_OFF.0,
            failed_before: false,
            started: now,
        }
    }

    /// Returns the address to dial now.
    pub(in crate::link) fn dial(&self) -> &Address {
        self.neighbor.connecting();
        &self.address
    }

    /// Takes the loss of a connection.
    pub(in crate::link) fn lost(&mut self, error: &io::Error, at: Timestamp) {
        self.neighbor.lost(at, error.to_string());
        warn!(
            "connection to neighbor {} lost: {error}",
            self.neighbor.name()
        );
        if error.kind() == io::ErrorKind::InvalidData {
            self.reject(error);
        }
        (self.pause, self.failed_before) = (BACK_OFF.0, false);
    }

    /// Takes the failure to make a connection.
    pub(in crate::link) fn failed(&mut self, error: &HandshakeError, now: Instant, at: Timestamp) {
        self.neighbor.lost(at, error.to_string());
        let starting = now < self.started + START_GRACE;
        let level = match (self.failed_before, starting) {
            (true, _) => Level::Debug,
            (false, true) => Level::Info,
            (false, false) => Level::Warn,
        };
        log::log!(
            level,
            "cannot connect to neighbor {} at {}: {error}",
            self.neighbor.name(),
            self.address
        );
        self.failed_before = !starting;
        if error.is_suspicious() {
            self.reject(error);
        }
    }

    /// Returns the pause before the next attempt: between a half and all of the back-off, by
    /// `jitter` from 0 to 1.
    pub(in crate::link) fn pause(&self, jitter: f64) -> Duration {
        self.pause.mul_f64(0.5 + 0.5 * jitter)
    }

    /// Takes the end of a pause.
    pub(in crate::link) fn paused(&mut self) {
        self.pause = (self.pause * 2).min(BACK_OFF.1);
    }

    /// Dials another address from now on. During a `pause`, the next one is the shortest again.
    pub(in crate::link) fn redial(&mut self, address: Address, during_pause: bool) {
        self.address = address;
        if during_pause {
            (self.pause, self.failed_before) = (BACK_OFF.0, false);
        }
    }

    /// Counts a connection that this side broke off for the data that came over it.
    fn reject(&self, reason: impl fmt::Display) {
        let connection = format!(
            "connection to neighbor {} at {}",
            self.neighbor.name(),
            self.address
        );
        self.rejected.add(connection, reason);
    }
}
