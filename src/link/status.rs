//! The status of a server, and its answer to an observer: a peer that has the herd's key and is no
//! server, as `herd status` is.
//!
//! An observer shakes hands under a name that no server can have, and asks `STATUS until`. The
//! answer is one line of JSON, the lines of the digest of the records that were received up to
//! `until`, and `END`. It is given within two seconds, by threads that serve nobody else, so an
//! observer never stands in a neighbor's way.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::framing::prepare;
use super::handshake::{self, HandshakeError, Hello, OBSERVER, Opening, Peer, failed};
use super::keyring::Keyring;
use super::neighbor::{LinkStatus, Neighbors};
use super::refusals::RejectedPeers;
use crate::config::keys::KeyFile;
use crate::config::topology::Address;
use crate::health::{Health, Problem, State};
use crate::model::decimal::parse_u64;
use crate::model::digest::{Digest, DigestKey, DigestReader};
use crate::model::fields::MAX_NAME_BYTES;
use crate::model::printable::Printable;
use crate::model::time::Timestamp;
use crate::replica::Replica;

/// Attempts to ask a server that closes the connection unanswered. With a wrong key all of them end
/// like this.
const ATTEMPTS: usize = 3;

/// Pause between two of them.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Time in a request for a status without a digest: no record was received by then, and servers of
/// before answer with an empty one.
pub(crate) const NO_DIGEST: Timestamp = Timestamp::from_nanos(0);

/// Part of the time for an answer that is kept for sending it.
const SENDING: Duration = Duration::from_millis(300);

/// Maximum number of links in an answer; one with more is refused.
const MAX_LINKS: usize = 4_096;

/// Maximum length of an error's text; the rest is cut off.
const MAX_ERROR_BYTES: usize = 200;

/// Maximum number of problems in an answer, and the maximum length of the reason of one.
const MAX_PROBLEMS: usize = 16;
const MAX_PROBLEM_BYTES: usize = 400;

/// Maximum length of the release, of a fingerprint, and the maximum number of fingerprints.
const MAX_WORD_BYTES: usize = 32;
const MAX_KEYS: usize = 4;

/// Maximum number of counts by reason, and the maximum length of a reason.
const MAX_COUNTS: usize = 64;
const MAX_REASON_BYTES: usize = 100;

/// Maximum length of one link, of one problem, and of all else, in JSON: a name and an error's text,
/// in which a backslash takes two bytes, fourteen numbers of 20 digits, and the names of the fields.
const MAX_JSON_BYTES: usize = 1 << 10;

/// Maximum length of the line of JSON; past this the connection ends.
const MAX_STATUS_BYTES: usize = (1 + MAX_PROBLEMS + MAX_COUNTS + MAX_LINKS) * MAX_JSON_BYTES;

/// Status of a server. Its JSON is one server's part of that of `herd status --json`; fields that a
/// server of before does not send have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// `ok`, or the worst of the problems.
    #[serde(default)]
    pub state: State,
    /// The states other than `ok` that hold, the worst first.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Version of its program.
    #[serde(default)]
    pub release: String,
    /// Fingerprints of the herd's keys in force: of the one that it dials with, and of another that it
    /// accepts too during a rotation.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Age in seconds at which it forgets records; `None` for never, as for a server of before.
    #[serde(default)]
    pub forget_after_s: Option<u64>,
    /// Number of clients whose location it knows.
    pub records: u64,
    /// Number of clients that were forgotten.
    #[serde(default)]
    pub tombstones: u64,
    /// Epoch of its start.
    pub epoch: u64,
    /// Milliseconds since it was started.
    pub uptime_ms: u64,
    /// Number of clients that are connected.
    pub clients: u64,
    /// Numbers of clients' connections that have ended since the start, by the reason in words.
    #[serde(default)]
    pub connections_ended: BTreeMap<String, u64>,
    /// Numbers of clients' lines that were refused since the start, by the reason in words.
    #[serde(default)]
    pub lines_refused: BTreeMap<String, u64>,
    /// Number of connections to its peer port that were refused, and of links of either direction
    /// that were broken off for the data that came over them, since the start.
    pub refused: u64,
    /// Its links by the neighbors' names.
    pub links: BTreeMap<String, LinkStatus>,
    /// Digest of its records; `None` if it was not asked for, or took too long.
    #[serde(skip)]
    pub digest: Option<Digest>,
}

impl ServerStatus {
    /// Appends the line of JSON.
    fn write_line(&self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        serde_json::to_writer(&mut *out, self).map_err(std::io::Error::from)?;
        out.push(b'\n');
        Ok(())
    }

    /// Reads the line of JSON, without its LF.
    fn parse_line(line: &[u8]) -> Result<ServerStatus, HandshakeError> {
        let mut status: ServerStatus = serde_json::from_slice(line)
            .map_err(|error| HandshakeError::Answer(error.to_string()))?;
        let is_text = |text: &str, limit| text.len() <= limit && !text.contains(char::is_control);
        let is_valid = |(name, link): (&String, &LinkStatus)| {
            let error = link.error.as_ref();
            is_text(name, MAX_NAME_BYTES)
                && error.is_none_or(|error| is_text(&error.reason, MAX_ERROR_BYTES))
        };
        let problems = &status.problems;
        let is_short = |problem: &Problem| is_text(&problem.reason, MAX_PROBLEM_BYTES);
        let counts = [&status.connections_ended, &status.lines_refused].into_iter();
        let counts = counts.flat_map(BTreeMap::keys);
        let is_reason = |reason: &String| is_text(reason, MAX_REASON_BYTES);
        let is_word = |word: &String| is_text(word, MAX_WORD_BYTES);
        if status.links.len() > MAX_LINKS
            || !status.links.iter().all(is_valid)
            || problems.len() > MAX_PROBLEMS
            || !problems.iter().all(is_short)
            || status.keys.len() > MAX_KEYS
            || !status.keys.iter().chain([&status.release]).all(is_word)
            || counts.clone().count() > MAX_COUNTS
            || !counts.into_iter().all(is_reason)
        {
            let text = "it has too many links, problems or keys, or a text that is too long";
            return Err(HandshakeError::Answer(text.to_owned()));
        }
        // A server of before sends its problems alone.
        status.state = worst(&status.problems);
        Ok(status)
    }
}

/// The part of a status that is about clients: who counts them lies above the links.
pub(crate) trait ClientFigures: std::fmt::Debug + Send + Sync {
    /// Fills in the numbers of clients, of their connections and of their lines.
    fn fill(&self, status: &mut ServerStatus);
}

/// Sources of a server's status.
#[derive(Clone, Debug)]
pub(crate) struct StatusSource {
    /// The records.
    pub(super) replica: Arc<Replica>,
    /// The figures about clients.
    pub(super) clients: Arc<dyn ClientFigures>,
    /// The links.
    pub(super) neighbors: Arc<Neighbors>,
    /// Number of refused connections.
    pub(super) rejected: Arc<RejectedPeers>,
    /// The states that hold.
    pub(super) health: Arc<Health>,
    /// The keys in force.
    pub(super) keys: Arc<Keyring>,
    /// Time of the start.
    pub(super) started: Instant,
}

impl StatusSource {
    /// Returns the status as of about now, without the digest.
    pub(crate) fn status(&self) -> ServerStatus {
        let now = Instant::now();
        let mut links = self.neighbors.status(now);
        for error in links.values_mut().filter_map(|link| link.error.as_mut()) {
            error.reason = bounded(&error.reason, MAX_ERROR_BYTES);
        }
        let mut problems = self.health.problems(now);
        for problem in &mut problems {
            problem.reason = bounded(&problem.reason, MAX_PROBLEM_BYTES);
        }
        let mut status = ServerStatus {
            state: worst(&problems),
            problems,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            keys: self.keys.fingerprints(),
            forget_after_s: self
                .replica
                .forget_after_in_force()
                .map(|age| age.as_secs()),
            records: self.replica.clients() as u64,
            tombstones: self.replica.tombstones() as u64,
            epoch: self.replica.epoch(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            refused: self.rejected.count(),
            links,
            ..ServerStatus::default()
        };
        self.clients.fill(&mut status);
        status
    }
}

/// Returns the state that the first of the problems stands for.
fn worst(problems: &[Problem]) -> State {
    problems.first().map_or(State::Ok, |problem| problem.state)
}

/// Returns an error's text without control characters, cut to its maximum length.
fn bounded(text: &str, limit: usize) -> String {
    let mut shown = Printable(text.as_bytes()).to_string();
    // It is ASCII.
    shown.truncate(limit);
    shown
}

/// Answers an observer after its handshake.
pub(super) fn answer(
    mut peer: Peer,
    stream: &TcpStream,
    source: &StatusSource,
    key: &DigestKey,
    deadline: Instant,
) -> Result<(), HandshakeError> {
    let status = source.status();
    let question = peer.reader.read_line(stream, deadline).map_err(failed)?;
    let until = question
        .strip_prefix(b"STATUS ")
        .and_then(parse_u64)
        .ok_or(HandshakeError::NotAPeer)?;
    let in_time = || Instant::now() + SENDING < deadline;
    let until = Timestamp::from_nanos(until);
    let digest = match until {
        NO_DIGEST => None,
        until => source.replica.digest(key, until, in_time),
    };
    let mut lines = Vec::new();
    status.write_line(&mut lines)?;
    if let Some(digest) = digest {
        digest.write_lines(&mut lines);
    }
    lines.extend_from_slice(b"END\n");
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
    peer.writer.write(stream, &lines).map_err(failed)
}

/// Asks the server of that name for its status, and for the digest of the records that it had
/// received up to `until`. Tries again where the connection is closed before the server has
/// answered anything: it closes those that have waited longest when strangers flood it.
pub fn ask(
    name: &str,
    address: &Address,
    keys: &KeyFile,
    until: Timestamp,
    deadline: Instant,
) -> Result<ServerStatus, HandshakeError> {
    let once = || {
        let opening = Opening::new(keys)?;
        let stream = connect(address, deadline)?;
        ask_with(opening, &stream, name, keys, until, deadline)
    };
    let mut result = once();
    for _ in 1..ATTEMPTS {
        if !matches!(
            result,
            Err(HandshakeError::KeyRefused | HandshakeError::Reset)
        ) {
            break;
        }
        std::thread::sleep(RETRY_PAUSE);
        result = once();
    }
    result
}

/// Does the same over an existing connection.
pub fn ask_over(
    stream: &TcpStream,
    name: &str,
    keys: &KeyFile,
    until: Timestamp,
    deadline: Instant,
) -> Result<ServerStatus, HandshakeError> {
    let opening = Opening::new(keys)?;
    ask_with(opening, stream, name, keys, until, deadline)
}

fn ask_with(
    opening: Opening,
    stream: &TcpStream,
    name: &str,
    keys: &KeyFile,
    until: Timestamp,
    deadline: Instant,
) -> Result<ServerStatus, HandshakeError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(HandshakeError::TimedOut);
    }
    prepare(stream, left)?;
    let own = Hello::new(keys.herd(), OBSERVER, 0, Timestamp::now());
    let mut peer = handshake::dial_with(opening, stream, &own, name, deadline)?;
    let question = format!("STATUS {}\n", until.as_nanos());
    peer.writer
        .write(stream, question.as_bytes())
        .map_err(failed)?;
    let reader = &mut peer.reader;
    let line = reader.read_long_line(stream, deadline, MAX_STATUS_BYTES);
    let mut status = ServerStatus::parse_line(&line.map_err(failed)?)?;
    let mut digest = DigestReader::default();
    loop {
        let line = reader.read_line(stream, deadline).map_err(failed)?;
        if line == b"END" {
            return Ok(status);
        }
        let whole = digest.read_line(&line).map_err(|_| {
            let shown = Printable(&line[..line.len().min(MAX_ERROR_BYTES)]);
            HandshakeError::Answer(format!("unexpected line: {shown}"))
        })?;
        status.digest = whole.or(status.digest);
    }
}

fn connect(address: &Address, deadline: Instant) -> Result<TcpStream, HandshakeError> {
    let mut reason = HandshakeError::TimedOut;
    for address in (address.host.as_str(), address.port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => reason = failed(error),
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::neighbor::{LinkError, LinkPhase};
    use crate::replica::outbox::Depth;

    fn status(links: Vec<(String, LinkStatus)>) -> ServerStatus {
        ServerStatus {
            state: State::Ok,
            problems: Vec::new(),
            release: "0.1.0".to_owned(),
            keys: vec!["0badcafe".to_owned()],
            forget_after_s: Some(86_400),
            records: 1,
            tombstones: 8,
            epoch: 2,
            uptime_ms: 3,
            clients: 4,
            connections_ended: [("idle for too long".to_owned(), 6)].into(),
            lines_refused: [("bad time".to_owned(), 7)].into(),
            refused: 5,
            links: links.into_iter().collect(),
            digest: None,
        }
    }

    fn down(reason: &str) -> LinkStatus {
        let (at, reason) = (Timestamp::from_nanos(7), reason.to_owned());
        LinkStatus {
            error: Some(LinkError {
                at,
                ago_ms: 9,
                reason,
            }),
            ..LinkStatus::default()
        }
    }

    fn line(status: &ServerStatus) -> String {
        let mut line = Vec::new();
        status.write_line(&mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_status_survives_its_line() {
        let live = LinkStatus {
            phase: LinkPhase::Live,
            written: 10,
            acknowledged: 9,
            lag_ms: Some(30),
            queue: Depth {
                batches: 1,
                bytes: 200,
                records: 2,
                overflowed: true,
            },
            resyncs: 3,
            diverged: 4,
            error: None,
        };
        let (ball, welsh) = ("Ball".to_owned(), "Welsh".to_owned());
        let mut status = status(vec![(ball, down("gone")), (welsh, live)]);
        status.state = State::JournalFailing;
        status.problems.push(Problem {
            state: State::JournalFailing,
            since: Timestamp::from_nanos(8),
            for_ms: 6,
            reason: "the disk".to_owned(),
        });
        let line = line(&status);
        assert_eq!(
            line,
            r#"{"state":"journal failing","problems":[{"state":"journal failing","since":8,"for_ms":6,"reason":"the disk"}],"release":"0.1.0","keys":["0badcafe"],"forget_after_s":86400,"records":1,"tombstones":8,"epoch":2,"uptime_ms":3,"clients":4,"connections_ended":{"idle for too long":6},"lines_refused":{"bad time":7},"refused":5,"links":{"Ball":{"phase":"down","written":0,"acknowledged":0,"lag_ms":null,"queue":{"batches":0,"bytes":0,"records":0,"overflowed":false},"resyncs":0,"diverged":0,"error":{"at":7,"ago_ms":9,"reason":"gone"}},"Welsh":{"phase":"live","written":10,"acknowledged":9,"lag_ms":30,"queue":{"batches":1,"bytes":200,"records":2,"overflowed":true},"resyncs":3,"diverged":4,"error":null}}}"#
                .to_owned()
                + "\n"
        );
        let read = ServerStatus::parse_line(line.trim_end().as_bytes()).unwrap();
        assert_eq!(read, status);
    }

    #[test]
    fn a_status_of_a_server_of_before_is_read() {
        let line = br#"{"records":1,"epoch":2,"uptime_ms":3,"clients":4,"refused":5,"links":{"Ball":{"phase":"down","written":0,"acknowledged":0,"queue":{"batches":0,"bytes":0,"records":0,"overflowed":false},"resyncs":0,"diverged":0,"error":{"at":7,"reason":"gone"}}},"problems":[{"state":"alone","since":8,"reason":"x"}],"later":1}"#;
        let read = ServerStatus::parse_line(line).unwrap();
        assert_eq!((read.state, read.records), (State::Alone, 1));
        assert_eq!((read.release.as_str(), read.keys.len()), ("", 0));
        assert_eq!(read.forget_after_s, None);
        let link = &read.links["Ball"];
        assert_eq!(
            (link.lag_ms, link.error.as_ref().unwrap().ago_ms),
            (None, 0)
        );
    }

    #[test]
    fn the_largest_status_fits_its_line() {
        assert_eq!(
            bounded("it is \nnot there", MAX_ERROR_BYTES),
            "it is \\nnot there"
        );
        let largest = LinkStatus {
            phase: LinkPhase::Connecting,
            written: u64::MAX,
            acknowledged: u64::MAX,
            lag_ms: Some(u64::MAX),
            queue: Depth {
                batches: usize::MAX,
                bytes: usize::MAX,
                records: usize::MAX,
                overflowed: false,
            },
            resyncs: u64::MAX,
            diverged: u64::MAX,
            error: Some(LinkError {
                at: Timestamp::from_nanos(u64::MAX),
                ago_ms: u64::MAX,
                reason: bounded(&"\\".repeat(300), MAX_ERROR_BYTES),
            }),
        };
        let links = (0..MAX_LINKS).map(|index| (format!("{index:064}"), largest.clone()));
        let mut status = status(links.collect());
        status.problems = vec![
            Problem {
                state: State::JournalFailing,
                since: Timestamp::from_nanos(u64::MAX),
                for_ms: u64::MAX,
                reason: bounded(&"\\".repeat(900), MAX_PROBLEM_BYTES),
            };
            MAX_PROBLEMS
        ];
        status.state = State::JournalFailing;
        status.release = "x".repeat(MAX_WORD_BYTES);
        status.keys = vec!["x".repeat(MAX_WORD_BYTES); MAX_KEYS];
        let reasons = 0..MAX_COUNTS;
        status.lines_refused = reasons
            .map(|number| (format!("{number:0MAX_REASON_BYTES$}"), u64::MAX))
            .collect();
        status.connections_ended.clear();
        let line = line(&status);
        assert!(line.len() <= MAX_STATUS_BYTES, "{}", line.len());
        let read = ServerStatus::parse_line(line.trim_end().as_bytes()).unwrap();
        assert_eq!(read, status);
    }

    #[test]
    fn an_answer_beyond_its_bounds_is_refused() {
        let long_name = vec![("x".repeat(MAX_NAME_BYTES + 1), LinkStatus::default())];
        let long_error = vec![("Ball".to_owned(), down(&"x".repeat(MAX_ERROR_BYTES + 1)))];
        let escape = vec![("Ball".to_owned(), down("\x1b[2J"))];
        let many = (0..=MAX_LINKS).map(|index| (index.to_string(), LinkStatus::default()));
        for links in [long_name, long_error, escape, many.collect()] {
            let line = line(&status(links));
            let error = ServerStatus::parse_line(line.trim_end().as_bytes()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "its answer can't be read, perhaps it is of another version: it has too many links, problems or keys, or a text that is too long"
            );
        }
        for line in ["", "SERVER 1 2 3 4 5", "{}", r#"{"records":-1}"#] {
            let error = ServerStatus::parse_line(line.as_bytes()).unwrap_err();
            assert!(matches!(error, HandshakeError::Answer(_)), "{line}");
        }
    }
}
