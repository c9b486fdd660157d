//! The decision: facts in, states out. No clock, no lock, no I/O.

use std::time::Duration;

use super::State;
use crate::model::age;

/// Time without any link after which a server counts as alone: a link that was lost is dialed again
/// at once.
pub const ALONE_AFTER: Duration = Duration::from_secs(2);

/// Time without an answer of the disk after which it counts as stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Refusal of a connection by a neighbor that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The neighbor has proved its key, and its `servers.txt` does not name this server a neighbor.
    NotANeighbor,
    /// It closed the connection when this server had proved its key, several times in a row: it has
    /// another. Anybody at its address could do that.
    WrongKey,
    /// The clocks differ by too much.
    Skew,
    /// For another reason.
    Other,
}

/// Facts about one neighbor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeighborFacts {
    /// Its name.
    pub name: String,
    /// There is a connection to it.
    pub is_linked: bool,
    /// Why there is none.
    pub error: String,
    /// Its last refusal, since the last connection.
    pub refusal: Option<Refusal>,
    /// Two servers have one name, as this neighbor or its records show it.
    pub twin: Option<String>,
    /// It speaks a version of the link protocol that knows no tombstones, or has never spoken.
    pub is_old: bool,
    /// Age at which it forgets records.
    pub forget_after: Option<Duration>,
}

/// Everything that a server's state depends on, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The neighbors; none in a herd of one.
    pub neighbors: Vec<NeighborFacts>,
    /// With the key in force there has never been a link.
    pub is_new_key: bool,
    /// Time without any link.
    pub unlinked: Duration,
    /// Time for which the disk has not answered.
    pub stalled: Duration,
    /// Age at which this server is to forget records.
    pub forget_after: Option<Duration>,
    /// Why the clock is not certain enough to drop records by it.
    pub clock_doubt: Option<String>,
    /// Why the journal can't be written, or how others changed its files.
    pub journal: Option<String>,
    /// Description of the wait before clients are served; `None` once it is over.
    pub starting: Option<String>,
    /// Number of clients whose location is known.
    pub records: usize,
    /// Number past which reports of new clients are refused.
    pub max_records: usize,
    /// Why clients are refused.
    pub clients: Option<String>,
    /// Why searches for places fail.
    pub places: Option<String>,
    /// Why lines of the log are lost.
    pub log: Option<String>,
}

/// Returns the states that hold with their reasons, the worst first; none for a server that is well.
pub fn judge(facts: &Facts) -> Vec<(State, String)> {
    let removed = removal(facts);
    let alone = match &removed {
        // It says the same, and more.
        Some(_) => None,
        None => alone(facts),
    };
    let full = (facts.records >= facts.max_records).then(|| {
        let (records, limit) = (facts.records, facts.max_records);
        format!("{records} clients are known, --max-records is {limit}: reports of new clients are refused")
    });
    let journal = stall(facts).or_else(|| facts.journal.clone());
    let twin = facts.neighbors.iter().find_map(|one| one.twin.clone());
    let found = [
        (State::Removed, removed),
        (State::Twin, twin),
        (State::Clock, clock(facts)),
        (State::JournalFailing, journal),
        (State::Starting, facts.starting.clone()),
        (State::Full, full),
        (State::Alone, alone),
        (State::ForgetAfter, forget_after(facts)),
        (State::RefusingClients, facts.clients.clone()),
        (State::PlacesFailing, facts.places.clone()),
        (State::LogFailing, facts.log.clone()),
    ];
    let holds = |(state, reason): (State, Option<String>)| Some((state, reason?));
    found.into_iter().filter_map(holds).collect()
}

/// Returns the proof that this server was removed from its herd.
///
/// Since it refuses reports then, it must be proved: by every neighbor that answers, which says over
/// an encrypted connection that this server is no neighbor of it; or, with a key by which this server
/// has never had a link, by every neighbor that answers and turns that key down. A server that had
/// links and is turned down without proof goes on alone: otherwise anybody at the neighbors'
/// addresses could stop it.
fn removal(facts: &Facts) -> Option<String> {
    if facts.neighbors.iter().any(|one| one.is_linked) {
        return None;
    }
    let mut names = Vec::new();
    let mut wrong_keys = false;
    for neighbor in &facts.neighbors {
        match neighbor.refusal {
            None => continue,
            Some(Refusal::NotANeighbor) => {}
            Some(Refusal::WrongKey) if facts.is_new_key => wrong_keys = true,
            Some(_) => return None,
        }
        names.push(&*neighbor.name);
    }
    if names.is_empty() {
        return None;
    }
    let names = names.join(", ");
    Some(if wrong_keys {
        format!("{names}: refused by all that answer, and with this key there was never a link")
    } else {
        format!("{names}: this server is no neighbor there, by their servers.txt")
    })
}

fn alone(facts: &Facts) -> Option<String> {
    let is_linked = facts.neighbors.iter().any(|one| one.is_linked);
    if facts.neighbors.is_empty() || is_linked || facts.unlinked < ALONE_AFTER {
        return None;
    }
    Some(format!("no neighbor is linked ({})", errors(facts)))
}

fn clock(facts: &Facts) -> Option<String> {
    let differs = facts
        .neighbors
        .iter()
        .all(|one| one.refusal == Some(Refusal::Skew));
    if differs && !facts.neighbors.is_empty() {
        let errors = errors(facts);
        return Some(format!(
            "this server's clock differs from that of every neighbor ({errors})"
        ));
    }
    // Where nothing expires, nothing is dropped either.
    facts
        .clock_doubt
        .clone()
        .filter(|_| facts.forget_after.is_some())
}

/// Returns the name of a linked neighbor that knows no tombstones, if there is one: while it is linked,
/// nothing is forgotten.
pub fn old_neighbor(facts: &Facts) -> Option<&str> {
    let is_old = |one: &&NeighborFacts| one.is_linked && one.is_old;
    facts.neighbors.iter().find(is_old).map(|one| &*one.name)
}

/// Returns why the age at which records are to be forgotten is not in force in the whole herd.
fn forget_after(facts: &Facts) -> Option<String> {
    let own = facts.forget_after;
    let shown = age::in_words(own);
    if let Some(old) = old_neighbor(facts) {
        return own.map(|_| {
            format!("forget-after {shown} is not in force: {old} runs an older program, upgrade it")
        });
    }
    let differs = |one: &&NeighborFacts| one.is_linked && one.forget_after != own;
    let differing: Vec<_> = facts.neighbors.iter().filter(differs).collect();
    let first = differing.first()?;
    let each =
        |one: &&NeighborFacts| format!("{} at {}", age::in_words(one.forget_after), one.name);
    let others: Vec<_> = differing.iter().map(each).collect();
    let others = others.join(", ");
    let lost = match age::is_longer(own, first.forget_after) {
        true => "what it has is not taken for complete",
        false => "what this server has is not taken for complete there",
    };
    Some(format!(
        "forget-after is {shown} here and {others}: records are not compared, and {lost}; give all servers one \
         servers.txt"
    ))
}

/// Returns why none of the neighbors is linked, of each.
fn errors(facts: &Facts) -> String {
    let shown = |one: &NeighborFacts| format!("{}: {}", one.name, one.error);
    let errors: Vec<_> = facts.neighbors.iter().map(shown).collect();
    errors.join("; ")
}

fn stall(facts: &Facts) -> Option<String> {
    let seconds = facts.stalled.as_secs();
    (facts.stalled >= STALLED_AFTER).then(|| format!("the disk has not answered for {seconds} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbor(name: &str, refusal: Option<Refusal>) -> NeighborFacts {
        NeighborFacts {
            name: name.to_owned(),
            error: "gone".to_owned(),
            refusal,
            ..NeighborFacts::default()
        }
    }

    fn linked(name: &str) -> NeighborFacts {
        NeighborFacts {
            is_linked: true,
            ..neighbor(name, None)
        }
    }

    /// A server that is well, with two neighbors.
    fn well() -> Facts {
        Facts {
            neighbors: vec![linked("Ball"), linked("Welsh")],
            max_records: 10,
            ..Facts::default()
        }
    }

    fn states(facts: &Facts) -> Vec<State> {
        judge(facts).into_iter().map(|(state, _)| state).collect()
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Facts), expected: &[(State, &str)]) {
        let mut facts = well();
        change(&mut facts);
        let found = judge(&facts);
        let found: Vec<_> = found
            .iter()
            .map(|(state, reason)| (*state, &**reason))
            .collect();
        assert_eq!(found, expected, "{facts:?}");
    }

    #[test]
    fn each_fact_has_its_state() {
        let text = |text: &str| Some(text.to_owned());
        check(|_| {}, &[]);
        let twin = "two servers call themselves Ball";
        check(
            |facts| facts.neighbors[1].twin = text(twin),
            &[(State::Twin, twin)],
        );
        check(
            |facts| facts.stalled = Duration::from_millis(2_900),
            &[(State::JournalFailing, "the disk has not answered for 2 s")],
        );
        check(|facts| facts.stalled = Duration::from_millis(999), &[]);
        check(
            |facts| facts.journal = text("no room"),
            &[(State::JournalFailing, "no room")],
        );
        check(
            |facts| facts.starting = text("receiving"),
            &[(State::Starting, "receiving")],
        );
        check(|facts| facts.records = 9, &[]);
        check(
            |facts| facts.records = 11,
            &[(
                State::Full,
                "11 clients are known, --max-records is 10: reports of new clients are refused",
            )],
        );
        for (state, set) in [
            (
                State::RefusingClients,
                (|facts, reason| facts.clients = reason) as fn(&mut Facts, Option<String>),
            ),
            (State::PlacesFailing, |facts, reason| facts.places = reason),
            (State::LogFailing, |facts, reason| facts.log = reason),
        ] {
            check(|facts| set(facts, text("why")), &[(state, "why")]);
        }
    }

    #[test]
    fn a_server_is_alone_without_any_link_for_two_seconds() {
        let unlinked = |facts: &mut Facts, milliseconds| {
            for neighbor in &mut facts.neighbors {
                neighbor.is_linked = false;
            }
            facts.unlinked = Duration::from_millis(milliseconds);
        };
        check(|facts| unlinked(facts, 1_999), &[]);
        let reason = "no neighbor is linked (Ball: gone; Welsh: gone)";
        check(|facts| unlinked(facts, 2_000), &[(State::Alone, reason)]);
        // One link is enough, and a herd of one has no neighbor to miss.
        let one = |facts: &mut Facts| {
            unlinked(facts, 5_000);
            facts.neighbors[0].is_linked = true;
        };
        check(one, &[]);
        let none = |facts: &mut Facts| {
            unlinked(facts, 5_000);
            facts.neighbors.clear();
        };
        check(none, &[]);
    }

    #[test]
    fn a_removal_and_a_wrong_clock_must_be_proved_by_all() {
        use Refusal::*;
        let unlinked = Duration::from_secs(5);
        let (removed, alone, clock) = (State::Removed, State::Alone, State::Clock);
        for (refusals, is_new_key, expected) in [
            ([None, None], false, vec![alone]),
            ([Some(NotANeighbor), None], false, vec![removed]),
            (
                [Some(NotANeighbor), Some(NotANeighbor)],
                false,
                vec![removed],
            ),
            ([Some(NotANeighbor), Some(Skew)], false, vec![alone]),
            ([Some(NotANeighbor), Some(Other)], false, vec![alone]),
            ([Some(WrongKey), Some(WrongKey)], false, vec![alone]),
            ([Some(NotANeighbor), Some(WrongKey)], false, vec![alone]),
            ([Some(NotANeighbor), Some(WrongKey)], true, vec![removed]),
            ([Some(WrongKey), None], true, vec![removed]),
            ([Some(Skew), None], false, vec![alone]),
            ([Some(Skew), Some(Skew)], false, vec![clock, alone]),
        ] {
            let [first, second] = refusals;
            let facts = Facts {
                neighbors: vec![neighbor("Ball", first), neighbor("Welsh", second)],
                is_new_key,
                unlinked,
                ..well()
            };
            assert_eq!(states(&facts), expected, "{refusals:?}");
        }
        // A server with a link is in the herd.
        check(
            |facts| facts.neighbors[0] = neighbor("Ball", Some(NotANeighbor)),
            &[],
        );
        let reason = |facts: &Facts| judge(facts)[0].1.clone();
        let mut facts = Facts {
            neighbors: vec![neighbor("Ball", Some(NotANeighbor))],
            ..well()
        };
        assert_eq!(
            reason(&facts),
            "Ball: this server is no neighbor there, by their servers.txt"
        );
        facts.neighbors[0].refusal = Some(WrongKey);
        facts.is_new_key = true;
        assert_eq!(
            reason(&facts),
            "Ball: refused by all that answer, and with this key there was never a link"
        );
    }

    #[test]
    fn servers_that_forget_at_another_age_say_so() {
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        let (state, end) = (State::ForgetAfter, "; give all servers one servers.txt");
        let forgets = |facts: &mut Facts, own, ball, welsh| {
            facts.forget_after = own;
            facts.neighbors[0].forget_after = ball;
            facts.neighbors[1].forget_after = welsh;
        };
        check(|facts| forgets(facts, days(1), days(1), days(1)), &[]);
        check(
            |facts| forgets(facts, None, days(1), None),
            &[(
                state,
                &format!(
                    "forget-after is never here and 1 day at Ball: records are not compared, and what it has is not taken for complete{end}"
                ),
            )],
        );
        check(
            |facts| forgets(facts, days(2), days(30), None),
            &[(
                state,
                &format!(
                    "forget-after is 2 days here and 30 days at Ball, never at Welsh: records are not compared, and what this server has is not taken for complete there{end}"
                ),
            )],
        );
        // One that is not linked has only said so before.
        check(
            |facts| {
                forgets(facts, None, days(1), None);
                facts.neighbors[0].is_linked = false;
            },
            &[],
        );
        // An older program is no problem where nothing is to be forgotten.
        check(|facts| facts.neighbors[1].is_old = true, &[]);
        let old = "forget-after 1 day is not in force: Welsh runs an older program, upgrade it";
        check(
            |facts| {
                forgets(facts, days(1), days(1), None);
                facts.neighbors[1].is_old = true;
            },
            &[(state, old)],
        );
    }

    #[test]
    fn an_uncertain_clock_matters_where_records_expire() {
        let doubt = |facts: &mut Facts| facts.clock_doubt = Some("set".to_owned());
        check(doubt, &[]);
        let expires = |facts: &mut Facts| {
            doubt(facts);
            let day = Some(Duration::from_secs(86_400));
            facts.forget_after = day;
            facts
                .neighbors
                .iter_mut()
                .for_each(|one| one.forget_after = day);
        };
        check(expires, &[(State::Clock, "set")]);
    }

    #[test]
    fn the_worst_comes_first_and_all_that_hold_are_named() {
        let text = || Some("why".to_owned());
        let mut facts = Facts {
            neighbors: vec![NeighborFacts {
                twin: text(),
                ..neighbor("Ball", Some(Refusal::Skew))
            }],
            unlinked: ALONE_AFTER,
            journal: text(),
            starting: text(),
            records: 10,
            max_records: 10,
            clients: text(),
            places: text(),
            log: text(),
            ..Facts::default()
        };

        // Only a neighbor that is linked can tell of another age.
        let is_possible = |state: &State| !matches!(state, State::Ok | State::ForgetAfter);
        let all: Vec<_> = State::ALL.into_iter().filter(is_possible).collect();
        assert_eq!(states(&facts), all[1..]);
        // A server that was removed is not called alone besides.
        facts.neighbors[0].refusal = Some(Refusal::NotANeighbor);
        let expected: Vec<_> = all
            .iter()
            .copied()
            .filter(|state| !matches!(state, State::Clock | State::Alone))
            .collect();
        assert_eq!(states(&facts), expected);
    }
}
