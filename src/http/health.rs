//! The texts of `/livez` and `/readyz`.

use super::response::Response;
use crate::health::{Problem, State};

/// The reason before the server's parts are there.
pub(super) const STARTING: &str = "the journal is being read";

/// Returns the answer of `/livez`: whether each of the server's own threads goes on with its work.
pub(super) fn live(problem: Option<String>) -> Response {
    match problem {
        None => Response::text(200, "ok"),
        Some(problem) => Response::unavailable(problem),
    }
}

/// Readiness of a server.
#[derive(Clone, Debug)]
pub(super) struct Readiness {
    /// The states other than `ok` that hold.
    pub(super) problems: Vec<Problem>,
    /// The server is stopping.
    pub(super) is_leaving: bool,
}

impl Readiness {
    /// Returns the answer of `/readyz`: whether clients should be sent here rather than elsewhere.
    ///
    /// States that all servers can share, or that leave a server able to answer, do not count:
    /// otherwise a balancer would have no server left.
    pub(super) fn response(&self, is_verbose: bool) -> Response {
        let blocking = self.problems.iter().find(|one| blocks(one.state));
        let is_ready = blocking.is_none() && !self.is_leaving;
        let text = match blocking {
            _ if is_verbose => self.checks(is_ready),
            _ if self.is_leaving => "leaving: the server is stopping".to_owned(),
            Some(problem) => format!("{}: {}", problem.state, problem.reason),
            None => "ok".to_owned(),
        };
        match is_ready {
            true => Response::text(200, text),
            false => Response::unavailable(text),
        }
    }

    fn is_removed(&self) -> bool {
        let mut states = self.problems.iter().map(|one| one.state);
        states.any(|state| state == State::Removed)
    }

    /// Returns a line for each check, and one for the result.
    fn checks(&self, is_ready: bool) -> String {
        let mut text = String::new();
        for state in State::ALL {
            let Some(check) = check(state) else {
                continue;
            };
            match self.problems.iter().find(|one| one.state == state) {
                // It is not told as alone too, but is.
                None if state == State::Alone && self.is_removed() => {
                    text += &format!("[-]{check} removed: no neighbor takes this server\n");
                }
                None => text += &format!("[+]{check} ok\n"),
                Some(problem) => {
                    let reason = &problem.reason;
                    text += &format!("[-]{check} {state}: {reason}\n");
                }
            }
        }
        text += match self.is_leaving {
            false => "[+]process ok\n",
            true => "[-]process leaving: the server is stopping\n",
        };
        text + if is_ready { "ready" } else { "not ready" }
    }
}

/// Returns whether a server in that state should get no clients.
fn blocks(state: State) -> bool {
    matches!(
        state,
        State::Removed | State::JournalFailing | State::Starting
    )
}

/// Returns the name of the check that a state fails.
fn check(state: State) -> Option<&'static str> {
    Some(match state {
        State::Removed => "membership",
        State::Twin => "name",
        State::Clock => "clock",
        State::JournalFailing => "journal",
        State::Starting => "catch-up",
        State::Full => "records",
        State::Alone => "links",
        State::ForgetAfter => "forget-after",
        State::RefusingClients => "clients",
        State::PlacesFailing => "places",
        State::LogFailing => "log",
        State::Ok => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::Body;
    use crate::model::time::Timestamp;

    fn readiness(states: &[State]) -> Readiness {
        let problem = |&state: &State| Problem {
            state,
            since: Timestamp::from_nanos(1),
            for_ms: 12_000,
            reason: format!("since it is {state}"),
        };
        Readiness {
            problems: states.iter().map(problem).collect(),
            is_leaving: false,
        }
    }

    fn text(response: &Response) -> &str {
        match &response.body {
            Body::Owned(text) => std::str::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_server_that_cannot_serve_is_not_ready() {
        let not_ready = [State::Removed, State::JournalFailing, State::Starting];
        for state in State::ALL.into_iter().filter(|state| *state != State::Ok) {
            let one = readiness(&[state]);
            let expected = if not_ready.contains(&state) { 503 } else { 200 };
            for verbose in [false, true] {
                assert_eq!(one.response(verbose).status, expected, "{state}");
            }
        }
        let mut well = readiness(&[]);
        assert_eq!(text(&well.response(false)), "ok\n");
        well.is_leaving = true;
        let leaving = well.response(false);
        assert_eq!(
            (leaving.status, text(&leaving)),
            (503, "leaving: the server is stopping\n")
        );
    }

    #[test]
    fn each_check_has_a_line() {
        let shown = readiness(&[State::Starting, State::Alone]).response(true);
        assert_eq!(
            text(&shown),
            "[+]membership ok\n[+]name ok\n[+]clock ok\n[+]journal ok\n\
             [-]catch-up starting: since it is starting\n[+]records ok\n\
             [-]links alone: since it is alone\n[+]forget-after ok\n[+]clients ok\n[+]places ok\n[+]log ok\n\
             [+]process ok\nnot ready\n"
        );
        let removed = readiness(&[State::Removed]).response(true);
        assert!(text(&removed).contains("\n[-]links removed: no neighbor takes this server\n"));
        let short = readiness(&[State::Alone, State::Starting]).response(false);
        assert_eq!(text(&short), "starting: since it is starting\n");
        let ready = readiness(&[State::Alone]).response(true);
        assert!(text(&ready).ends_with("[+]process ok\nready\n"));
    }
}
