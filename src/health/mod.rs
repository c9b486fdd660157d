//! Whether a server is well, and if not, why: the one place that decides it.
//!
//! [`judge`](judge::judge) turns [`Facts`](judge::Facts), which the server gathers from all rooms
//! several times a second, into the states that hold. [`Health`] keeps them with the time since
//! which each holds, and logs each once when it begins and once when it ends. `herd status` and its
//! exit code show what is kept here, and nothing else decides it again.
//!
//! One state has an effect: a server that was removed from its herd refuses reports.

pub mod judge;

use std::fmt;
use std::time::{Duration, Instant};

use log::{Level, log};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::logging::{EVENT, RECOVERY};
use crate::model::time::Timestamp;

/// State of a server: `ok`, or a reason for which it is not well; the worst comes first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
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
    /// The journal can't be written, others changed its files, or the disk does not answer.
    #[serde(rename = "journal failing")]
    JournalFailing,
    /// Not caught up with a neighbor since the start: clients are not served yet.
    #[serde(rename = "starting")]
    Starting,
    /// As many clients are known as may be: reports of new ones are refused.
    #[serde(rename = "full")]
    Full,
    /// No neighbor is linked.
    #[serde(rename = "alone")]
    Alone,
    /// A linked neighbor forgets records at another age, or can't.
    #[serde(rename = "forget-after")]
    ForgetAfter,
    /// Clients are refused for lack of room or of descriptors.
    #[serde(rename = "refusing clients")]
    RefusingClients,
    /// The places provider can't be called, or refuses.
    #[serde(rename = "places failing")]
    PlacesFailing,
    /// The log can't be written, or lines are dropped.
    #[serde(rename = "log failing")]
    LogFailing,
    /// Nothing is wrong.
    #[default]
    #[serde(rename = "ok")]
    Ok,
}

impl State {
    /// All states, the worst first.
    pub const ALL: [State; 12] = [
        State::Removed,
        State::Twin,
        State::Clock,
        State::JournalFailing,
        State::Starting,
        State::Full,
        State::Alone,
        State::ForgetAfter,
        State::RefusingClients,
        State::PlacesFailing,
        State::LogFailing,
        State::Ok,
    ];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            State::Removed => "removed",
            State::Twin => "twin",
            State::Clock => "clock",
            State::JournalFailing => "journal failing",
            State::Starting => "starting",
            State::Full => "full",
            State::Alone => "alone",
            State::ForgetAfter => "forget-after",
            State::RefusingClients => "refusing clients",
            State::PlacesFailing => "places failing",
            State::LogFailing => "log failing",
            State::Ok => "ok",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A state other than `ok` that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The state.
    pub state: State,
    /// Time since which it holds, in nanoseconds since 1970, by the server's clock.
    pub since: Timestamp,
    /// Milliseconds for which it has held, which no clock that is set changes.
    #[serde(default)]
    pub for_ms: u64,
    /// The reason, in words.
    pub reason: String,
}

/// A problem, and when it began.
#[derive(Debug)]
struct Held {
    state: State,
    since: Timestamp,
    begun: Instant,
    reason: String,
}

/// The states of one server that hold now.
#[derive(Debug, Default)]
pub struct Health(Mutex<Vec<Held>>);

impl Health {
    /// Returns the problems, the worst first; none if the server is well.
    pub fn problems(&self, now: Instant) -> Vec<Problem> {
        let held = self.0.lock();
        let problem = |held: &Held| Problem {
            state: held.state,
            since: held.since,
            for_ms: milliseconds(now.saturating_duration_since(held.begun)),
            reason: held.reason.clone(),
        };
        held.iter().map(problem).collect()
    }

    /// Replaces the states that hold by those of [`judge`](judge::judge), and logs each that begins
    /// or ends.
    pub fn replace(&self, found: Vec<(State, String)>, now: Instant, wall: Timestamp) {
        let mut held = self.0.lock();
        let mut old = std::mem::take(&mut *held);
        let mut begun = Vec::new();
        held.extend(found.into_iter().map(|(state, reason)| {
            match old.iter().position(|before| before.state == state) {
                Some(index) => Held {
                    reason,
                    ..old.swap_remove(index)
                },
                None => {
                    begun.push((state, reason.clone()));
                    Held {
                        state,
                        since: wall,
                        begun: now,
                        reason,
                    }
                }
            }
        }));
        drop(held);
        // The log tells by itself that it fails, where it still can.
        let is_told = |state: State| state != State::LogFailing;
        for Held { state, begun, .. } in old.into_iter().filter(|held| is_told(held.state)) {
            let seconds = now.saturating_duration_since(begun).as_secs_f64();
            log!(target: end_target(state), level(state), "no longer {state}, after {seconds:.1} s");
        }
        for (state, reason) in begun.into_iter().filter(|(state, _)| is_told(*state)) {
            log!(target: EVENT, level(state), "state {state}: {reason}");
        }
    }
}

/// Returns the target of the line about the end of a state: that of a problem is shown where the
/// problem was.
fn end_target(state: State) -> &'static str {
    match state {
        State::Starting => EVENT,
        _ => RECOVERY,
    }
}

/// Returns the level at which the begin and the end of a state are logged: every server starts.
fn level(state: State) -> Level {
    match state {
        State::Starting => Level::Info,
        _ => Level::Warn,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_written_alike_in_words_and_in_json() {
        for state in State::ALL {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{state}\""));
        }
        assert!(State::ALL.is_sorted());
        assert_eq!(State::default(), State::Ok);
    }

    #[test]
    fn a_problem_counts_from_its_begin_whatever_its_reason() {
        let (health, start) = (Health::default(), Instant::now());
        let (second, at) = (Duration::from_secs(1), Timestamp::from_nanos);
        let found = |reason: &str| vec![(State::Alone, reason.to_owned())];
        assert!(health.problems(start).is_empty());
        health.replace(found("one"), start, at(5));
        let mut both = found("another");
        both.push((State::LogFailing, "full".to_owned()));
        health.replace(both, start + second, at(6));
        let shown: Vec<_> = health
            .problems(start + 3 * second)
            .into_iter()
            .map(|problem| (problem.state, problem.since, problem.for_ms, problem.reason))
            .collect();
        let expected = [
            (State::Alone, at(5), 3_000, "another".to_owned()),
            (State::LogFailing, at(6), 2_000, "full".to_owned()),
        ];
        assert_eq!(shown, expected);
        health.replace(Vec::new(), start + 4 * second, at(7));
        assert!(health.problems(start).is_empty());
        // It begins again.
        health.replace(found("one"), start + 5 * second, at(8));
        assert_eq!(health.problems(start + 6 * second)[0].for_ms, 1_000);
    }
}
