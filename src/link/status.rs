//! What a server says of itself to an observer: who has the herd's key and is no server, as
//! `herd status` is.
//!
//! An observer shakes hands under a name that no server can have, asks `STATUS until`, and gets
//! lines: one of the server, one of each link, the digest of what was received up to `until`,
//! and `END`. All of it takes place within the time that a handshake may take, in one of the
//! slots for handshakes, so an observer never stands in a neighbor's way.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::audit::digest_of;
use super::framing::prepare;
use super::handshake::{self, HandshakeError, Hello, Peer, failed};
use super::neighbor::{LinkStatus, Phase};
use crate::config::keys::KeyFile;
use crate::config::topology::Address;
use crate::model::decimal::parse_u64;
use crate::model::digest::{Digest, DigestKey, DigestReader};
use crate::model::fields::MAX_NAME_BYTES;
use crate::model::fields::fields;
use crate::model::printable::Printable;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::replica::outbox::Depth;

/// What an observer calls itself. No server can: a name begins with a letter or a digit.
pub const OBSERVER: &str = "-";

/// Time kept back from the digest's for the answer to be sent.
const SENDING: Duration = Duration::from_millis(300);

/// Links that an observer takes word of; a server that tells of more is broken.
const MAX_LINKS: usize = 4_096;

/// Most bytes of an error's text that are told.
const MAX_ERROR_BYTES: usize = 200;

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// Clients whose location it knows.
    pub records: u64,
    /// Which start of it this is.
    pub epoch: u64,
    /// For how long it has run.
    pub uptime: Duration,
    /// Clients that are connected.
    pub clients: u64,
    /// Connections to its peer port that were refused, and links of either direction that were broken
    /// off for what came over them.
    pub refused: u64,
    /// Its links, each with the neighbor's name, in the names' order.
    pub links: Vec<(String, LinkStatus)>,
    /// What it holds; `None` if that could not be summed up in time.
    pub digest: Option<Digest>,
}

impl ServerStatus {
    fn write_lines(&self, out: &mut String) {
        use std::fmt::Write;
        let uptime = self.uptime.as_millis();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "SERVER {} {} {uptime} {} {}",
            self.records, self.epoch, self.clients, self.refused
        );
        for (name, link) in &self.links {
            let Depth {
                groups,
                bytes,
                records,
                overflowed,
            } = link.queue;
            let (at, text) = match &link.error {
                Some((at, text)) => (at.as_nanos(), text.as_bytes()),
                None => (0, &b""[..]),
            };
            let _ = writeln!(
                out,
                "LINK {name} {} {} {} {groups} {bytes} {records} {} {} {} {at} {}",
                link.phase,
                link.written,
                link.acknowledged,
                u8::from(overflowed),
                link.resyncs,
                link.diverged,
                Printable(&text[..text.len().min(MAX_ERROR_BYTES)]),
            );
        }
    }

    /// Takes one line of an answer; whether it was the last, or `None` if it makes no sense.
    fn read_line(&mut self, digest: &mut DigestReader, line: &[u8]) -> Option<bool> {
        let mut fields = fields(line);
        match fields.next()? {
            b"SERVER" => {
                let mut number = || parse_u64(fields.next()?);
                self.records = number()?;
                self.epoch = number()?;
                self.uptime = Duration::from_millis(number()?);
                self.clients = number()?;
                self.refused = number()?;
            }
            b"LINK" if self.links.len() < MAX_LINKS => {
                let name = std::str::from_utf8(fields.next()?).ok()?;
                let phase = Phase::parse(fields.next()?)?;
                let mut number = || parse_u64(fields.next()?);
                let mut count = || usize::try_from(number()?).ok();
                let mut link = LinkStatus {
                    phase,
                    written: count()? as u64,
                    acknowledged: count()? as u64,
                    queue: Depth {
                        groups: count()?,
                        bytes: count()?,
                        records: count()?,
                        overflowed: count()? != 0,
                    },
                    resyncs: count()? as u64,
                    diverged: count()? as u64,
                    error: None,
                };
                let at = number()?;
                if at > 0 {
                    // The text is the rest of the line, with its spaces.
                    let words: Vec<_> = fields.map(String::from_utf8_lossy).collect();
                    link.error = Some((Timestamp::from_nanos(at), words.join(" ")));
                }
                if name.len() > MAX_NAME_BYTES {
                    return None;
                }
                self.links.push((name.to_owned(), link));
            }
            b"DIGEST" => {
                if let Some(digest) = digest.read_line(line).ok()? {
                    self.digest = Some(digest);
                }
            }
            b"END" => return Some(true),
            _ => return None,
        }
        Some(false)
    }
}

/// Answers an observer that has shaken hands. `status` is all but the digest.
pub(super) fn answer(
    mut peer: Peer,
    stream: &TcpStream,
    replica: &Replica,
    key: &DigestKey,
    status: &ServerStatus,
    deadline: Instant,
) -> Result<(), HandshakeError> {
    let question = peer.reader.read_line(stream, deadline).map_err(failed)?;
    let until = question
        .strip_prefix(b"STATUS ")
        .and_then(parse_u64)
        .ok_or(HandshakeError::NotAPeer)?;
    let in_time = || Instant::now() + SENDING < deadline;
    let digest = digest_of(replica, key, Timestamp::from_nanos(until), in_time);
    let mut text = String::new();
    status.write_lines(&mut text);
    let mut lines = text.into_bytes();
    if let Some(digest) = digest {
        digest.write_lines(&mut lines);
    }
    lines.extend_from_slice(b"END\n");
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
    peer.writer.write(stream, &lines).map_err(failed)
}

/// Asks a server of that name how it is, and what it holds of what was received up to `until`.
pub fn ask(
    name: &str,
    address: &Address,
    keys: &KeyFile,
    until: Timestamp,
    deadline: Instant,
) -> Result<ServerStatus, HandshakeError> {
    ask_over(&connect(address, deadline)?, name, keys, until, deadline)
}

/// The same over a connection that has been made.
pub fn ask_over(
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
    let mut peer = handshake::dial(stream, keys, &own, name, deadline)?;
    let question = format!("STATUS {}\n", until.as_nanos());
    peer.writer
        .write(stream, question.as_bytes())
        .map_err(failed)?;
    let mut status = ServerStatus::default();
    let mut digest = DigestReader::default();
    loop {
        let line = peer.reader.read_line(stream, deadline);
        match status.read_line(&mut digest, &line.map_err(failed)?) {
            Some(true) => return Ok(status),
            Some(false) => {}
            None => return Err(HandshakeError::NotAPeer),
        }
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

    fn read(text: &str) -> Option<ServerStatus> {
        let (mut status, mut digest) = (ServerStatus::default(), DigestReader::default());
        for line in text.lines() {
            status.read_line(&mut digest, line.as_bytes())?;
        }
        Some(status)
    }

    #[test]
    fn a_status_survives_its_lines() {
        let down = LinkStatus {
            error: Some((Timestamp::from_nanos(7), "it is \nnot there".to_owned())),
            ..LinkStatus::default()
        };
        let live = LinkStatus {
            phase: Phase::Live,
            written: 10,
            acknowledged: 9,
            queue: Depth {
                groups: 1,
                bytes: 200,
                records: 2,
                overflowed: true,
            },
            resyncs: 3,
            diverged: 4,
            error: None,
        };
        let mut status = ServerStatus {
            records: 1,
            epoch: 2,
            uptime: Duration::from_millis(3),
            clients: 4,
            refused: 5,
            links: vec![("Ball".to_owned(), down), ("Welsh".to_owned(), live)],
            digest: None,
        };
        let mut text = String::new();
        status.write_lines(&mut text);
        // What comes from afar can't forge a line.
        assert_eq!(text.lines().count(), 3, "{text}");
        status.links[0].1.error = Some((Timestamp::from_nanos(7), "it is \\nnot there".to_owned()));
        assert_eq!(read(&text), Some(status));
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        let good = "LINK Ball live 1 2 3 4 5 0 7 8 0 ";
        read(good).unwrap();
        let long = format!("LINK {} live 1 2 3 4 5 0 7 8 0", "x".repeat(65));
        let many = format!("{good}\n").repeat(MAX_LINKS + 1);
        for text in [
            " ",
            "SERVER 1 2 3 4",
            "SERVER 1 2 3 4 x",
            "LINK Ball lively 1 2 3 4 5 0 7 8 0",
            "LINK Ball live 1 2 3 4 5 0 7 8",
            "DIGEST 1 64 5",
            "RECORD",
            &long,
            &many,
        ] {
            assert_eq!(read(text), None, "{:.60}", text);
        }
    }
}
