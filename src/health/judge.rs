//! The decision: facts in, states out. No clock, no lock, no I/O.

use std::time::Duration;

use super::State;

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
    (differs && !facts.neighbors.is_empty()).then(|| {
        let errors = errors(facts);
        format!("this server's clock differs from that of every neighbor ({errors})")
    })
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
        let all = &State::ALL[..State::ALL.len() - 1];
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
