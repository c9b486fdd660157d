//! When and where a neighbor is dialed, and which failure is logged; without sockets or threads.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, debug, info};

use crate::config::topology::Address;
use crate::health::judge::Refusal;
use crate::link::handshake::is_skew;
use crate::link::neighbor::Neighbor;
use crate::link::refusals::RejectedPeers;
use crate::link::sender::attempt::DialError;
use crate::link::sender::orders::CloseReason;
use crate::logging::{EVENT, RECOVERY};
use crate::model::time::Timestamp;

/// Time after the start during which a neighbor that does not answer is no reason for a warning:
/// servers that are started together come up one after the other.
const START_GRACE: Duration = Duration::from_secs(2);

/// Shortest and longest pause before dialing again; it doubles with each failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Life of a link after which the next pause is the shortest again: one that ends earlier would end
/// again and again, as those of two servers of one name do.
const LONG_LIFE: Duration = Duration::from_secs(5);

/// Failures in a row of handshakes that end when this server has proved its key, before the neighbor
/// is said to have another: it may have been stopped, or its peer port be under a flood.
const WRONG_KEYS: u32 = 5;

/// The state between connections to one neighbor.
#[derive(Debug)]
pub(in crate::link) struct Dialer {
    neighbor: Arc<Neighbor>,
    rejected: Arc<RejectedPeers>,
    address: Address,
    pause: Duration,
    failed_before: bool,
    started: Instant,
    /// Time of the last connection.
    connected: Instant,
    /// Reason for which the last connection was lost.
    lost: String,
    /// Failures in a row for a wrong key.
    wrong_keys: u32,
    /// The most urgent level at which the loss of the last connection, or failures since, were
    /// logged: the next connection is logged alike.
    outage: Level,
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
            connected: now,
            lost: String::new(),
            wrong_keys: 0,
            outage: Level::Info,
        }
    }

    /// Returns the address to dial now.
    pub(in crate::link) fn dial(&self) -> &Address {
        self.neighbor.connecting();
        &self.address
    }

    /// Takes a new connection.
    pub(in crate::link) fn connected(&mut self, now: Instant) {
        (self.connected, self.failed_before, self.wrong_keys) = (now, false, 0);
        let name = self.neighbor.name();
        match std::mem::replace(&mut self.outage, Level::Debug) {
            Level::Error | Level::Warn => {
                info!(target: RECOVERY, "connected to neighbor {name} again");
            }
            Level::Info => info!(target: EVENT, "connected to neighbor {name}"),
            Level::Debug | Level::Trace => debug!("connected to neighbor {name}"),
        }
    }

    /// Logs the loss of a connection, or the failure to make one: at every `--log-level` unless it
    /// is a detail.
    fn log_outage(&mut self, level: Level, text: fmt::Arguments<'_>) {
        self.outage = self.outage.min(level);
        match level {
            Level::Debug => debug!("{text}"),
            level => log::log!(target: EVENT, level, "{text}"),
        }
    }

    /// Takes the loss of a connection. One that was short-lived and ends for the same reason as the
    /// one before is not worth a second warning.
    pub(in crate::link) fn lost(&mut self, error: &io::Error, now: Instant, at: Timestamp) {
        let reason = error.to_string();
        let was_long = now >= self.connected + LONG_LIFE;
        let level = if reason == CloseReason::Stopping.to_string() {
            // The neighbor is being stopped or restarted, which somebody meant to do.
            Level::Info
        } else if was_long || reason != self.lost {
            Level::Warn
        } else {
            Level::Debug
        };
        let neighbor = Arc::clone(&self.neighbor);
        let name = neighbor.name();
        self.log_outage(
            level,
            format_args!("connection to neighbor {name} lost: {reason}"),
        );
        if error.kind() == io::ErrorKind::InvalidData {
            self.reject(error);
        }
        if was_long {
            self.pause = BACK_OFF.0;
        }
        let refusal = is_skew(&reason).then_some(Refusal::Skew);
        self.neighbor.lost(now, at, reason.clone(), refusal);
        self.lost = reason;
    }

    /// Takes the failure to make a connection.
    pub(in crate::link) fn failed(&mut self, error: &DialError, now: Instant, at: Timestamp) {
        let refusal = self.judge(error.refusal());
        self.neighbor.lost(now, at, error.to_string(), refusal);
        let starting = now < self.started + START_GRACE;
        let level = match (self.failed_before, starting) {
            (true, _) => Level::Debug,
            (false, true) => Level::Info,
            (false, false) => Level::Warn,
        };
        let (name, address) = (self.neighbor.name().to_owned(), self.address.clone());
        self.log_outage(
            level,
            format_args!("cannot connect to neighbor {name} at {address}: {error}"),
        );
        self.failed_before = !starting;
        if error.is_suspicious() {
            self.reject(error);
        }
    }

    /// Returns a refusal, once it has occurred often enough.
    fn judge(&mut self, refusal: Option<Refusal>) -> Option<Refusal> {
        if refusal != Some(Refusal::WrongKey) {
            if refusal.is_some() {
                self.wrong_keys = 0;
            }
            return refusal;
        }
        self.wrong_keys = self.wrong_keys.saturating_add(1);
        refusal.filter(|_| self.wrong_keys >= WRONG_KEYS)
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
        self.outage = self.outage.min(Level::Info);
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
