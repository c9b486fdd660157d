//! Whether this server has caught up with its herd since its start; clients are served from then on.
//!
//! A server that comes back lacks what was reported while it was away, and would answer questions
//! for known clients as if nobody knew them. So it waits until one neighbor has sent it everything
//! that it lacks: the first marker over a connection that the neighbor dialed says so. A neighbor
//! that has yet to catch up itself, since both were started at the same time, may lack the same; so
//! its marker counts only once all neighbors have sent theirs. A server that no neighbor sends
//! anything does not wait for long, and a herd of one not at all; until a neighbor that has caught up
//! sends a marker after all, its clients can be told that it may lack what they ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::info;
use parking_lot::Mutex;

use super::receiver::connection::Received;
use crate::logging::EVENT;
use crate::replica::Replica;
use crate::thread::{self, Stop, Stopper};

/// Time without a record from any neighbor, or a new connection, after which it is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Interval at which the number of records received is logged.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How the wait has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// There is no neighbor to wait for.
    HerdOfOne,
    /// Those neighbors have sent everything that this server lacked.
    CaughtUp(Vec<String>),
    /// No neighbor is connected.
    Alone,
    /// Those neighbors are connected, and do not send what they have.
    Silent(Vec<String>),
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = PATIENCE.as_secs();
        match self {
            Readiness::HerdOfOne => f.write_str("a herd of one"),
            Readiness::CaughtUp(names) => write!(f, "caught up with {}", names.join(", ")),
            Readiness::Alone => write!(f, "alone: no neighbor answered within {seconds} s"),
            Readiness::Silent(names) => {
                let names = names.join(", ");
                write!(f, "not caught up: nothing from {names} for {seconds} s")
            }
        }
    }
}

/// The wait for a neighbor's records. Time is an argument.
#[derive(Debug)]
pub(crate) struct CatchUp {
    replica: Arc<Replica>,
    progress: Mutex<Progress>,
    /// The wait is over; read without the lock.
    is_over: AtomicBool,
    /// Signals the end to those that wait for it.
    stopper: Stopper,
    over: Stop,
}

#[derive(Debug)]
struct Progress {
    /// The open connections of neighbors, by number: the neighbor, and the records received over it.
    connections: BTreeMap<u64, (String, u64)>,
    /// Neighbors that have sent what they had, without having caught up themselves.
    sent: BTreeSet<String>,
    /// Number of neighbors.
    neighbors: usize,
    /// When anything was received last, or a connection began or ended.
    last: Instant,
    /// When the progress was logged last.
    logged: Instant,
    outcome: Option<Readiness>,
}

impl CatchUp {
    /// Begins to wait. The replica is told of the end.
    pub(crate) fn new(replica: Arc<Replica>, now: Instant) -> CatchUp {
        let (stopper, over) = thread::stop_pair();
        CatchUp {
            replica,
            progress: Mutex::new(Progress {
                connections: BTreeMap::new(),
                sent: BTreeSet::new(),
                // Until it is known.
                neighbors: usize::MAX,
                last: now,
                logged: now,
                outcome: None,
            }),
            is_over: AtomicBool::new(false),
            stopper,
            over,
        }
    }

    /// Returns the signal that the wait is over.
    pub(crate) fn over(&self) -> &Stop {
        &self.over
    }

    /// Returns how the wait has ended; `None` before.
    pub(crate) fn outcome(&self) -> Option<Readiness> {
        self.progress.lock().outcome.clone()
    }

    /// Notes a new connection of a neighbor.
    pub(super) fn connected(&self, connection: u64, neighbor: &str, now: Instant) {
        let mut progress = self.progress.lock();
        progress.last = now;
        let received = (neighbor.to_owned(), 0);
        progress.connections.insert(connection, received);
    }

    /// Notes that a connection has ended.
    pub(super) fn gone(&self, connection: u64, now: Instant) {
        let mut progress = self.progress.lock();
        if progress.connections.remove(&connection).is_some() {
            progress.last = now;
        }
    }

    /// Notes what has been applied over a connection.
    pub(super) fn received(&self, connection: u64, received: Received, now: Instant) {
        if self.is_over.load(Ordering::Relaxed) {
            // The wait may have been vain.
            if received.is_ready && !self.replica.is_caught_up() {
                self.replica.set_caught_up();
            }
            return;
        }
        let mut progress = self.progress.lock();
        let Some((name, records)) = progress.connections.get_mut(&connection) else {
            return;
        };
        let name = name.clone();
        if std::mem::replace(records, received.records) != received.records {
            progress.last = now;
        }
        if received.is_ready {
            return self.end(&mut progress, Readiness::CaughtUp(vec![name]));
        }
        if received.is_resynced && progress.sent.insert(name) {
            progress.last = now;
            if let Some(outcome) = progress.all_sent() {
                self.end(&mut progress, outcome);
            }
        }
    }

    /// Ends the wait if it is vain, with that number of neighbors. Returns what is awaited otherwise.
    /// To be called several times a second.
    pub(crate) fn look(&self, neighbors: usize, now: Instant) -> Option<String> {
        if self.is_over.load(Ordering::Relaxed) {
            if neighbors == 0 {
                self.replica.set_caught_up();
            }
            return None;
        }
        let mut progress = self.progress.lock();
        if progress.outcome.is_some() {
            return None;
        }
        progress.neighbors = neighbors;
        let outcome = if neighbors == 0 {
            Some(Readiness::HerdOfOne)
        } else if let Some(outcome) = progress.all_sent() {
            Some(outcome)
        } else if now.saturating_duration_since(progress.last) < PATIENCE {
            None
        } else if !progress.sent.is_empty() {
            Some(Readiness::CaughtUp(progress.sent.iter().cloned().collect()))
        } else if progress.connections.is_empty() {
            Some(Readiness::Alone)
        } else {
            let names = progress.connections.values().map(|(name, _)| name.clone());
            Some(Readiness::Silent(names.collect()))
        };
        if let Some(outcome) = outcome {
            self.end(&mut progress, outcome);
            return None;
        }
        let shown = |(name, records): &(String, u64)| format!("{records} from {name}");
        let received: Vec<_> = progress.connections.values().map(shown).collect();
        if received.is_empty() {
            return Some("no neighbor is connected yet".to_owned());
        }
        let text = format!("receiving records: {} so far", received.join(", "));
        if now.saturating_duration_since(progress.logged) >= PROGRESS_INTERVAL {
            progress.logged = now;
            info!("{text}");
        }
        Some(text)
    }

    fn end(&self, progress: &mut Progress, outcome: Readiness) {
        if progress.outcome.is_none() {
            info!(target: EVENT, "serving clients from now on: {outcome}");
            if matches!(outcome, Readiness::HerdOfOne | Readiness::CaughtUp(_)) {
                self.replica.set_caught_up();
            }
            self.replica.set_ready();
            progress.outcome = Some(outcome);
            progress.connections.clear();
            self.is_over.store(true, Ordering::Relaxed);
            self.stopper.stop();
        }
    }
}

impl Progress {
    /// Returns that all neighbors have sent what they had, if so.
    fn all_sent(&self) -> Option<Readiness> {
        let all = || self.sent.iter().cloned().collect();
        (self.sent.len() >= self.neighbors).then(|| Readiness::CaughtUp(all()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catch_up(now: Instant) -> CatchUp {
        CatchUp::new(Arc::new(Replica::new("Alford", 1, 10)), now)
    }

    /// Looks with two neighbors.
    fn look(catch_up: &CatchUp, start: Instant, milliseconds: u64) -> Option<String> {
        catch_up.look(2, start + Duration::from_millis(milliseconds))
    }

    fn outcome(catch_up: &CatchUp) -> String {
        assert!(catch_up.over().is_set());
        catch_up.outcome().unwrap().to_string()
    }

    fn records(records: u64) -> Received {
        Received {
            records,
            ..Received::default()
        }
    }

    /// The end of a resync of a neighbor.
    fn resynced(is_ready: bool) -> Received {
        Received {
            records: 5,
            is_resynced: true,
            is_ready,
        }
    }

    #[test]
    fn a_herd_of_one_waits_for_nobody() {
        let start = Instant::now();
        let catch_up = catch_up(start);
        assert!(!catch_up.over().is_set());
        assert_eq!(catch_up.look(0, start), None);
        assert_eq!(outcome(&catch_up), "a herd of one");
    }

    #[test]
    fn a_server_that_nobody_answers_waits_two_seconds() {
        let start = Instant::now();
        let catch_up = catch_up(start);
        let awaited = "no neighbor is connected yet".to_owned();
        assert_eq!(look(&catch_up, start, 1_999), Some(awaited));
        assert_eq!(look(&catch_up, start, 2_000), None);
        assert_eq!(outcome(&catch_up), "alone: no neighbor answered within 2 s");
    }

    #[test]
    fn the_end_of_a_resync_ends_the_wait_at_once() {
        let start = Instant::now();
        let catch_up = catch_up(start);
        catch_up.connected(7, "Ball", start);
        catch_up.received(7, records(0), start);
        assert!(!catch_up.over().is_set());
        catch_up.received(7, resynced(true), start);
        assert_eq!(outcome(&catch_up), "caught up with Ball");
        // Records that come later change nothing.
        catch_up.gone(7, start);
        assert_eq!(look(&catch_up, start, 9_000), None);
        assert_eq!(outcome(&catch_up), "caught up with Ball");
    }

    #[test]
    fn a_neighbor_that_starts_too_counts_only_with_all_others() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let waiting = || {
            let catch_up = catch_up(start);
            assert!(look(&catch_up, start, 0).is_some());
            catch_up.connected(7, "Ball", start);
            catch_up.received(7, resynced(false), at(100));
            assert!(look(&catch_up, start, 2_000).is_some());
            catch_up
        };
        // The other one has caught up, or starts too.
        for (is_ready, expected) in [
            (true, "caught up with Welsh"),
            (false, "caught up with Ball, Welsh"),
        ] {
            let catch_up = waiting();
            // A connection that is made again is that of the same neighbor.
            catch_up.gone(7, at(150));
            catch_up.connected(8, "Ball", at(150));
            catch_up.received(8, resynced(false), at(150));
            assert!(!catch_up.over().is_set());
            catch_up.connected(9, "Welsh", at(200));
            catch_up.received(9, resynced(is_ready), at(200));
            assert_eq!(outcome(&catch_up), expected);
        }
        // By its next marker it has caught up itself.
        let catch_up = waiting();
        catch_up.received(7, resynced(true), at(1_100));
        assert_eq!(outcome(&catch_up), "caught up with Ball");
        // Or nothing else comes.
        let catch_up = waiting();
        assert_eq!(look(&catch_up, start, 2_100), None);
        assert_eq!(outcome(&catch_up), "caught up with Ball");
    }

    #[test]
    fn a_long_resync_is_waited_for_and_another_neighbor_takes_over() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let catch_up = catch_up(start);
        catch_up.connected(7, "Ball", at(100));
        for step in 1..10 {
            catch_up.received(7, records(1_000 * step), at(1_900 * step));
            let text = format!("receiving records: {} from Ball so far", 1_000 * step);
            assert_eq!(look(&catch_up, start, 1_900 * step + 1_800), Some(text));
        }
        // It dies in the middle; from then on another has its time.
        catch_up.gone(7, at(18_000));
        assert!(look(&catch_up, start, 19_999).is_some());
        catch_up.connected(8, "Welsh", at(19_999));
        catch_up.received(8, records(3), at(20_000));
        assert!(look(&catch_up, start, 21_999).is_some());
        // The same number again is no progress.
        catch_up.received(8, records(3), at(21_999));
        assert_eq!(look(&catch_up, start, 22_000), None);
        assert_eq!(
            outcome(&catch_up),
            "not caught up: nothing from Welsh for 2 s"
        );
    }
}
