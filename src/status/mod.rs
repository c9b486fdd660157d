//! The state of the whole herd, as seen from outside: asks every server for its status, and compares
//! the answers.
//!
//! All servers are asked at the same time for a digest of the same moment. While reports come in,
//! even servers that agree differ in the records that are just being replaced; so where digests
//! differ they are asked once more, and only a bucket that differs in the same way again is wrong
//! ([`DigestDifference`](crate::model::digest::DigestDifference)).
//!
//! Whether a server is well is its own decision ([`health`](crate::health)); what only shows from
//! outside is added here: servers that do not answer, differ, or run with other files.

mod json;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select};

use crate::config::keys::KeyFile;
use crate::config::topology::{ServerEntry, Topology};
use crate::link::audit::settled;
use crate::link::handshake::HandshakeError;
use crate::link::neighbor::LinkPhase;
use crate::link::status::{self, NO_DIGEST, ServerStatus};
use crate::model::age;
use crate::model::digest::{BUCKETS, Digest};
use crate::model::time::Timestamp;
use crate::thread::{self, Stop};

/// Maximum time for a server's answer; past this it counts as down.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Time from one comparison of digests to the next, so that records in motion have arrived.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Outcome of asking one server.
#[derive(Debug)]
struct Answer {
    name: String,
    result: Result<ServerStatus, String>,
}

/// State of a herd at one moment.
#[derive(Debug)]
pub struct Survey {
    now: Timestamp,
    answers: Vec<Answer>,
    /// Problems besides the states that the servers report of themselves.
    problems: Vec<String>,
    /// Those of them that comparing digests has found.
    differing: Vec<String>,
    /// Buckets that could not be compared, since their records change all the time.
    moving: usize,
}

impl Survey {
    /// Asks all servers. Takes as long as the slowest answer, but at most 2 s; where
    /// digests differ, up to 3 s more.
    pub fn take(topology: &Topology, keys: &KeyFile) -> Survey {
        let (stopper, stop) = thread::stop_pair();
        let survey = Survey::take_until(topology, keys, &stop);
        drop(stopper);
        survey
    }

    /// The same; the signal breaks it off, and servers that have not answered count as down then.
    pub(crate) fn take_until(topology: &Topology, keys: &KeyFile, stop: &Stop) -> Survey {
        let keys = Arc::new(keys.clone());
        let servers: Vec<_> = topology.servers().iter().collect();
        let answers = ask_all(&servers, &keys, settled(Timestamp::now()), stop);
        let first = digests(&answers);
        let (mut differing, mut moving) = (Vec::new(), 0);
        if any_differs(&first) && !stop.wait(SECOND_LOOK) {
            let with_digest =
                |server: &&ServerEntry| first.iter().any(|(name, _)| *name == server.name);
            let again: Vec<_> = servers.iter().copied().filter(with_digest).collect();
            let second = ask_all(&again, &keys, settled(Timestamp::now()), stop);
            (differing, moving) = lasting(&first, &digests(&second));
        }
        let mut problems = problems(topology, &answers);
        problems.extend(missing_digests(&answers));
        problems.extend(differing.iter().cloned());
        Survey {
            now: Timestamp::now(),
            answers,
            problems,
            differing,
            moving,
        }
    }

    /// Asks all servers again, but for no digests, which cost them a look at every record: those of
    /// this survey stay, and what comparing them has found.
    pub(crate) fn refresh(&self, topology: &Topology, keys: &KeyFile, stop: &Stop) -> Survey {
        let servers: Vec<_> = topology.servers().iter().collect();
        let keys = Arc::new(keys.clone());
        let mut answers = ask_all(&servers, &keys, NO_DIGEST, stop);
        for answer in &mut answers {
            let before = self.answers.iter().find(|one| one.name == answer.name);
            if let (Ok(status), Some(Ok(before))) =
                (&mut answer.result, before.map(|one| &one.result))
                && before.epoch == status.epoch
            {
                status.digest.clone_from(&before.digest);
            }
        }
        let mut problems = problems(topology, &answers);
        problems.extend(self.differing.iter().cloned());
        Survey {
            now: Timestamp::now(),
            answers,
            problems,
            differing: self.differing.clone(),
            moving: self.moving,
        }
    }

    /// Returns whether all servers are up and well, all links live, and all records and keys equal.
    pub fn is_whole(&self) -> bool {
        self.count_problems() == 0
    }

    fn count_problems(&self) -> usize {
        let reported = self
            .answers
            .iter()
            .filter_map(|one| one.result.as_ref().ok());
        let reported: usize = reported.map(|status| status.problems.len()).sum();
        self.problems.len() + reported
    }

    /// Returns the survey as one JSON text, on one line. `docs/operations.md` describes it.
    pub fn to_json(&self) -> String {
        json::write(self)
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table::servers(f, &self.answers)?;
        if self.answers.iter().any(Answer::has_links) {
            writeln!(f)?;
            table::links(f, &self.answers)?;
        }
        writeln!(f)?;
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.moving > 0 {
            writeln!(
                f,
                "reports come in too fast to compare {} of {BUCKETS} parts of the records",
                self.moving
            )?;
        }
        let up = self.answers.iter().filter(|one| one.result.is_ok()).count();
        let all = self.answers.len();
        let (whole, verdict) = match self.count_problems() {
            0 if self.moving > 0 => ("whole", "equal as far as can be judged".to_owned()),
            0 => ("whole", "equal".to_owned()),
            problems => ("not whole", format!("problems: {problems}")),
        };
        writeln!(
            f,
            "the herd is {whole}: {up} of {all} servers up, {verdict}"
        )
    }
}

impl Answer {
    fn has_links(&self) -> bool {
        matches!(&self.result, Ok(status) if !status.links.is_empty())
    }
}

/// Asks servers, all at once, with digests of what they had received up to `until`. Returns their
/// answers in the servers' order.
fn ask_all(
    servers: &[&ServerEntry],
    keys: &Arc<KeyFile>,
    until: Timestamp,
    stop: &Stop,
) -> Vec<Answer> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    let (answered, answers) = bounded(servers.len());
    for (index, server) in servers.iter().enumerate() {
        let (name, address) = (server.name.clone(), server.peer.clone());
        let (keys, answered) = (Arc::clone(keys), answered.clone());
        let ask = move || {
            let result = status::ask(&name, &address, &keys, until, deadline);
            // A late answer is not waited for.
            let _ = answered.send((index, result.map_err(reason)));
        };
        // Not joined: to resolve a name can take longer than the limit, and can't be interrupted. The
        // process ends with the answers that came in time.
        drop(thread::spawn_helper(format!("ask-{}", server.name), ask));
    }
    drop(answered);
    let late = reason(HandshakeError::TimedOut);
    let mut results: Vec<_> = servers.iter().map(|_| Err(late.clone())).collect();
    loop {
        select! {
            recv(answers) -> answer => match answer {
                Ok((index, result)) => results[index] = result,
                Err(_) => break,
            },
            recv(stop.channel()) -> _ => break,
            default(deadline.saturating_duration_since(Instant::now())) => break,
        }
    }
    let answer = |(server, result): (&&ServerEntry, _)| Answer {
        name: server.name.clone(),
        result,
    };
    servers.iter().zip(results).map(answer).collect()
}

fn reason(error: HandshakeError) -> String {
    match error {
        HandshakeError::TimedOut => format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
        HandshakeError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            "no answer: connection refused".to_owned()
        }
        HandshakeError::Io(error) => format!("no answer: {error}"),
        error => format!("no status: {error}"),
    }
}

/// Returns the digest of each server that has sent one.
fn digests(answers: &[Answer]) -> Vec<(&str, &Digest)> {
    let answered = answers.iter().filter_map(|answer| {
        let status = answer.result.as_ref().ok()?;
        Some((answer.name.as_str(), status.digest.as_ref()?))
    });
    answered.collect()
}

/// Returns the digest that most servers have; of several, the first server's.
fn usual<'a>(digests: &[(&'a str, &'a Digest)]) -> Option<(&'a str, &'a Digest)> {
    let alike = |one: &Digest| digests.iter().filter(|(_, other)| one == *other).count();
    // The last of several maxima is taken, so in reverse order the first.
    digests
        .iter()
        .rev()
        .max_by_key(|(_, one)| alike(one))
        .copied()
}

/// Returns whether the digest of any server differs from the usual one.
fn any_differs(digests: &[(&str, &Digest)]) -> bool {
    let differs = |usual: &Digest| {
        digests
            .iter()
            .any(|(_, one)| one.difference(usual).buckets() > 0)
    };
    usual(digests).is_some_and(|(_, usual)| differs(usual))
}

/// Compares two comparisons. Returns the problems of the servers that differ as before, and the
/// largest number of buckets in which a server differs in another way than before.
fn lasting(first: &[(&str, &Digest)], second: &[(&str, &Digest)]) -> (Vec<String>, usize) {
    let (mut wrong, mut moving) = (Vec::new(), 0);
    let before = |wanted: &str| first.iter().find(|(name, _)| *name == wanted);
    // Both compare with the same server, whatever digest is usual at the second time.
    let Some((usual_name, usual_now)) = usual(second) else {
        return (wrong, moving);
    };
    let Some((_, usual_before)) = before(usual_name) else {
        return (wrong, moving);
    };
    for (name, digest) in second {
        let Some((_, before)) = before(name) else {
            continue;
        };
        let now = digest.difference(usual_now);
        let lasting = now.lasting_since(&before.difference(usual_before));
        moving = moving.max(now.buckets() - lasting.len());
        if !lasting.is_empty() {
            wrong.push(format!(
                "digests differ: {name} holds other records than {usual_name} in {} of {BUCKETS} parts",
                lasting.len()
            ));
        }
    }
    (wrong, moving)
}

/// Returns the problems, apart from different digests.
fn problems(topology: &Topology, answers: &[Answer]) -> Vec<String> {
    let mut problems = Vec::new();
    let up: BTreeSet<_> = answers
        .iter()
        .filter(|answer| answer.result.is_ok())
        .map(|answer| answer.name.as_str())
        .collect();
    for Answer { name, result } in answers {
        let status = match result {
            Ok(status) => status,
            Err(reason) => {
                problems.push(format!("{name}: {reason}"));
                continue;
            }
        };
        let linked: BTreeSet<_> = status.links.keys().map(String::as_str).collect();
        let listed = topology.server(name).map(|server| &server.neighbors);
        let listed: BTreeSet<_> = listed.into_iter().flatten().map(String::as_str).collect();
        for neighbor in listed.symmetric_difference(&linked) {
            let what = if listed.contains(neighbor) {
                "has no link to"
            } else {
                "has a link to"
            };
            problems.push(format!(
                "{name}: it {what} {neighbor}: it runs with another servers.txt"
            ));
        }
        for (neighbor, link) in &status.links {
            // The links to a server that is down are not problems of their own.
            if link.phase != LinkPhase::Live && up.contains(neighbor.as_str()) {
                let why = match &link.error {
                    Some(error) if !link.phase.is_connected() => format!(": {}", error.reason),
                    _ => String::new(),
                };
                problems.push(format!(
                    "{name}: its link to {neighbor} is {}{why}",
                    link.phase
                ));
            }
        }
    }
    problems.extend(differing_keys(answers));
    problems.extend(differing_ages(answers));
    problems
}

/// Returns which servers forget records at another age than others, if any do.
fn differing_ages(answers: &[Answer]) -> Option<String> {
    let mut servers = BTreeMap::<Option<u64>, Vec<&str>>::new();
    for Answer { name, result } in answers {
        if let Ok(status) = result {
            servers.entry(status.forget_after_s).or_default().push(name);
        }
    }
    let shown = |(age, names): (&Option<u64>, &Vec<&str>)| {
        format!("{} at {}", shown_age(*age), names.join(", "))
    };
    let parts: Vec<_> = servers.iter().map(shown).collect();
    (parts.len() > 1).then(|| format!("forget-after differs: {}", parts.join("; ")))
}

/// Returns the age in seconds at which a server forgets records, in words.
fn shown_age(seconds: Option<u64>) -> String {
    age::in_words(seconds.map(Duration::from_secs))
}

/// Returns which servers have sent no digest, although they were asked for one.
fn missing_digests(answers: &[Answer]) -> Vec<String> {
    let lacks = |answer: &&Answer| matches!(&answer.result, Ok(status) if status.digest.is_none());
    let (lacking, seconds) = (answers.iter().filter(lacks), ANSWER_LIMIT.as_secs());
    lacking
        .map(|Answer { name, .. }| {
            format!("{name}: it holds more records than it can compare within {seconds} s")
        })
        .collect()
}

/// Returns which servers run with other keys than others, if any do.
fn differing_keys(answers: &[Answer]) -> Option<String> {
    let mut servers = BTreeMap::<String, Vec<&str>>::new();
    for Answer { name, result } in answers {
        // A server of before does not say which it has.
        if let Ok(status) = result
            && !status.keys.is_empty()
        {
            servers.entry(shown_keys(status)).or_default().push(name);
        }
    }
    let shown = |(keys, names): (&String, &Vec<&str>)| format!("{keys} at {}", names.join(", "));
    let parts: Vec<_> = servers.iter().map(shown).collect();
    (parts.len() > 1).then(|| {
        let parts = parts.join("; ");
        format!("keys differ: {parts}: give all servers one key file, and send them SIGHUP")
    })
}

/// Returns the fingerprints of a server's keys: of the one that it dials with, and of another that it
/// accepts too.
fn shown_keys(status: &ServerStatus) -> String {
    status.keys.join("+")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Problem, State};
    use crate::link::neighbor::{LinkError, LinkStatus};
    use crate::model::digest::DigestKey;
    use crate::model::record::RecordView;

    fn digest(records: &[(&str, u64)]) -> Digest {
        let mut digest = Digest::new(Timestamp::from_nanos(u64::MAX));
        for (client, time) in records {
            let line = format!("RECORD Ball 1 {time} 1000000000 {client} +1+1 1");
            let record = RecordView::parse_line(line.as_bytes()).unwrap();
            digest.add(&DigestKey::new(b"a herd"), &record);
        }
        digest
    }

    #[test]
    fn a_bucket_that_differs_twice_alike_is_wrong_and_another_is_in_motion() {
        let (most, less) = (digest(&[("a", 1), ("b", 1)]), digest(&[("b", 1)]));
        let first = [("Alford", &less), ("Ball", &most), ("Welsh", &most)];
        assert!(any_differs(&first) && !any_differs(&first[1..]));
        let (later_most, later_less) = (digest(&[("a", 1), ("b", 2)]), digest(&[("b", 3)]));
        let second = [
            ("Alford", &later_less),
            ("Ball", &later_most),
            ("Welsh", &later_most),
        ];
        let wrong = "digests differ: Alford holds other records than Ball in 1 of 256 parts";
        assert_eq!(lasting(&first, &second), (vec![wrong.to_owned()], 1));
        let healed = [
            ("Alford", &later_most),
            ("Ball", &later_most),
            ("Welsh", &later_most),
        ];
        assert_eq!(lasting(&first, &healed), (vec![], 0));
        // A server that did not answer again is not judged.
        assert_eq!(lasting(&first, &second[1..]), (vec![], 0));
        assert_eq!(lasting(&first, &[]), (vec![], 0));
        assert!(!any_differs(&[]));
    }

    #[test]
    fn servers_with_other_keys_are_named() {
        let with = |name: &str, keys: &[&str]| Answer {
            name: name.to_owned(),
            result: Ok(ServerStatus {
                keys: keys.iter().map(|&key| key.to_owned()).collect(),
                ..ServerStatus::default()
            }),
        };
        let (old, step) = (&["0badcafe"][..], &["0badcafe", "12345678"][..]);
        assert_eq!(differing_keys(&[with("A", old), with("B", old)]), None);
        assert_eq!(differing_keys(&[with("A", step), with("B", &[])]), None);
        assert_eq!(
            differing_keys(&[with("A", old), with("B", step), with("C", old)]).as_deref(),
            Some(
                "keys differ: 0badcafe at A, C; 0badcafe+12345678 at B: give all servers one key file, and send them SIGHUP"
            )
        );
    }

    #[test]
    fn servers_that_forget_at_another_age_are_named() {
        let with = |name: &str, seconds| Answer {
            name: name.to_owned(),
            result: Ok(ServerStatus {
                forget_after_s: seconds,
                ..ServerStatus::default()
            }),
        };
        let day = Some(86_400);
        assert_eq!(differing_ages(&[with("A", day), with("B", day)]), None);
        let differing = differing_ages(&[with("A", day), with("B", None), with("C", day)]);
        assert_eq!(
            differing.as_deref(),
            Some("forget-after differs: never at B; 1 day at A, C")
        );
    }

    #[test]
    fn a_herd_with_a_server_that_is_not_well_is_not_whole() {
        let survey = |problems| Survey {
            now: Timestamp::from_nanos(1),
            answers: vec![Answer {
                name: "A".to_owned(),
                result: Ok(ServerStatus {
                    state: State::Full,
                    problems,
                    ..ServerStatus::default()
                }),
            }],
            problems: Vec::new(),
            differing: Vec::new(),
            moving: 0,
        };
        assert!(survey(Vec::new()).is_whole());
        let full = survey(vec![Problem {
            state: State::Full,
            since: Timestamp::from_nanos(1),
            for_ms: 61_000,
            reason: "10 clients are known".to_owned(),
        }]);
        assert!(!full.is_whole());
        let shown = full.to_string();
        assert!(
            shown.contains("\n    full for 1 min 1 s: 10 clients are known\n"),
            "{shown}"
        );
        let end = "the herd is not whole: 1 of 1 servers up, problems: 1\n";
        assert!(shown.ends_with(end), "{shown}");
    }

    #[test]
    fn every_problem_is_named_once() {
        let text = b"A h:1 h:2 B C\nB h:3 h:4 A C\nC h:5 h:6 A B\n";
        let topology = Topology::parse(text).unwrap();
        let link = |name: &str, phase, error: Option<&str>| {
            let error = error.map(|text| LinkError {
                at: Timestamp::from_nanos(1),
                ago_ms: 1,
                reason: text.to_owned(),
            });
            let link = LinkStatus {
                phase,
                error,
                ..LinkStatus::default()
            };
            (name.to_owned(), link)
        };
        let up = |name: &str, links: Vec<_>, digest| Answer {
            name: name.to_owned(),
            result: Ok(ServerStatus {
                links: links.into_iter().collect(),
                digest,
                ..ServerStatus::default()
            }),
        };
        let a = vec![
            link("B", LinkPhase::Down, Some("refused: another herd")),
            link("C", LinkPhase::Down, Some("gone")),
        ];
        let b = vec![
            link("A", LinkPhase::Dirty, Some("of before")),
            link("X", LinkPhase::Live, None),
        ];
        let answers = [
            up("A", a, Some(digest(&[]))),
            up("B", b, None),
            Answer {
                name: "C".to_owned(),
                result: Err("no answer within 2 s".to_owned()),
            },
        ];
        assert_eq!(
            problems(&topology, &answers),
            [
                "A: its link to B is down: refused: another herd",
                "B: it has no link to C: it runs with another servers.txt",
                "B: it has a link to X: it runs with another servers.txt",
                "B: its link to A is dirty",
                "C: no answer within 2 s",
            ]
        );
        assert_eq!(
            missing_digests(&answers),
            ["B: it holds more records than it can compare within 2 s"]
        );
    }
}
