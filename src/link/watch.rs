//! Conditions under which a server is not well, as far as its links and its disk show them.
//!
//! They are judged once a second, logged when they begin and when they end, and part of the server's
//! status. One of them has an effect: a server that was removed from its herd refuses reports, since
//! nobody else would get them. It must be proved for that: by every neighbor that answers, which
//! says over an encrypted connection that this server is no neighbor of it; or, with a key by
//! which this server has never had a link, by every neighbor that answers and turns that key down.
//! A server that had links and is turned down without proof goes on alone: otherwise anybody at the
//! neighbors' addresses could stop it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::keyring::Keyring;
use super::linked::LinkedKey;
use super::neighbor::{Neighbor, Neighbors, Refusal};
use crate::logging::{EVENT, RECOVERY};
use crate::model::time::Timestamp;
use crate::replica::Replica;

/// Maximum wait for the apply lock, which under any load is free within a few milliseconds.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Time without any link after which a server counts as alone: a link that was lost is dialed again
/// at once.
const ALONE_AFTER: Duration = Duration::from_secs(2);

/// Condition under which a server is not well; the worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Removed from the herd: reports are refused.
    #[serde(rename = "removed")]
    Removed,
    /// Another server has the same name.
    #[serde(rename = "twin")]
    Twin,
    /// The clock differs from that of every neighbor.
    #[serde(rename = "clock")]
    Clock,
    /// The journal can't be written, or the disk does not answer.
    #[serde(rename = "journal failing")]
    JournalFailing,
    /// No neighbor is linked.
    #[serde(rename = "alone")]
    Alone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Removed => "removed",
            State::Twin => "twin",
            State::Clock => "clock",
            State::JournalFailing => "journal failing",
            State::Alone => "alone",
        })
    }
}

/// A condition that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The condition.
    pub state: State,
    /// Time since which it holds, in nanoseconds since 1970.
    pub since: Timestamp,
    /// The reason, in words.
    pub reason: String,
}

/// The conditions of one server.
#[derive(Debug)]
pub(super) struct Watch {
    replica: Arc<Replica>,
    keys: Arc<Keyring>,
    neighbors: Arc<Neighbors>,
    linked: Arc<LinkedKey>,
    problems: Mutex<Vec<Problem>>,
    since: Mutex<Since>,
}

/// Begin of what is a problem only after a while.
#[derive(Debug, Default)]
struct Since {
    unlinked: Option<Instant>,
    stalled: Option<Instant>,
}

impl Watch {
    /// Begins without any problem. `linked` remembers the key by which there was a link.
    pub(super) fn new(
        replica: Arc<Replica>,
        keys: Arc<Keyring>,
        neighbors: Arc<Neighbors>,
        linked: Arc<LinkedKey>,
    ) -> Watch {
        Watch {
            replica,
            keys,
            neighbors,
            linked,
            problems: Mutex::default(),
            since: Mutex::default(),
        }
    }

    /// Returns the conditions that hold, the worst first.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.problems.lock().clone()
    }

    /// Judges the conditions. To be called once a second; waits for no disk.
    pub(super) fn look(&self, now: Instant, wall: Timestamp) {
        let mut found = Vec::new();
        let neighbors = self.neighbors.all();
        let is_linked = neighbors.iter().any(|neighbor| neighbor.is_connected());
        let unlinked = {
            let mut since = self.since.lock();
            if is_linked || neighbors.is_empty() {
                since.unlinked = None;
            } else {
                since.unlinked.get_or_insert(now);
            }
            since.unlinked
        };
        let removed = (!is_linked).then(|| self.removal(&neighbors)).flatten();
        self.replica.set_removed(removed.is_some());
        if let Some(reason) = removed {
            found.push((State::Removed, reason));
        } else if unlinked.is_some_and(|since| now >= since + ALONE_AFTER) {
            let reasons: Vec<_> = neighbors.iter().map(|one| one.shown_error()).collect();
            let reason = format!("no neighbor is linked ({})", reasons.join("; "));
            found.push((State::Alone, reason));
        }
        if let Some(reason) = neighbors.iter().find_map(|neighbor| neighbor.twin(now)) {
            found.push((State::Twin, reason));
        }
        let differs = |one: &Arc<Neighbor>| one.refusal() == Some(Refusal::Skew);
        if !neighbors.is_empty() && neighbors.iter().all(differs) {
            let reasons: Vec<_> = neighbors.iter().map(|one| one.shown_error()).collect();
            let text = "this server's clock differs from that of every neighbor";
            found.push((State::Clock, format!("{text} ({})", reasons.join("; "))));
        }
        if let Some(reason) = self.stall(now).or_else(|| self.replica.journal_problem()) {
            found.push((State::JournalFailing, reason));
        }
        found.sort_by_key(|(state, _)| *state);
        self.take(found, wall);
    }

    /// Returns the proof that this server was removed from its herd.
    fn removal(&self, neighbors: &[Arc<Neighbor>]) -> Option<String> {
        let mut refusals = neighbors
            .iter()
            .filter_map(|neighbor| Some((neighbor.name(), neighbor.refusal()?)))
            .peekable();
        refusals.peek()?;
        let is_new_key = || !self.linked.is(&self.keys.current());
        let mut names = Vec::new();
        let mut wrong_keys = false;
        for (name, refusal) in refusals {
            match refusal {
                Refusal::NotANeighbor => {}
                Refusal::WrongKey if is_new_key() => wrong_keys = true,
                _ => return None,
            }
            names.push(name);
        }
        let names = names.join(", ");
        Some(if wrong_keys {
            format!("{names}: refused by all that answer, and with this key there was never a link")
        } else {
            format!("{names}: this server is no neighbor there, by their servers.txt")
        })
    }

    /// Returns the sentence on a disk that does not answer.
    fn stall(&self, now: Instant) -> Option<String> {
        let is_responsive = self.replica.is_responsive(LOCK_WAIT);
        let mut since = self.since.lock();
        if is_responsive {
            since.stalled = None;
            return None;
        }
        let began = *since.stalled.get_or_insert(now);
        let seconds = now.saturating_duration_since(began).as_secs();
        (seconds >= 1).then(|| format!("the disk has not answered for {seconds} s"))
    }

    /// Replaces the conditions that hold, and logs those that begin or end.
    fn take(&self, found: Vec<(State, String)>, wall: Timestamp) {
        let mut problems = self.problems.lock();
        for ended in problems.iter() {
            if found.iter().all(|(state, _)| *state != ended.state) {
                info!(target: RECOVERY, "no longer {}", ended.state);
            }
        }
        let old = std::mem::take(&mut *problems);
        problems.extend(found.into_iter().map(|(state, reason)| {
            let before = old.iter().find(|problem| problem.state == state);
            if before.is_none() {
                warn!(target: EVENT, "state {state}: {reason}");
            }
            Problem {
                state,
                since: before.map_or(wall, |problem| problem.since),
                reason,
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_written_alike_in_words_and_in_json() {
        for state in [
            State::Removed,
            State::Twin,
            State::Clock,
            State::JournalFailing,
            State::Alone,
        ] {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{state}\""));
        }
    }
}
