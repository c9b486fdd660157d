//! A connection at the door, and how far its request is.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::http::counts::Outcome;
use crate::http::head::{self, Hosts, MAX_HEAD_BYTES, Method, Parsed};

/// Time within which a head must be complete, from the begin of the connection.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time within which an answer must be there.
pub(super) const WORK_TIMEOUT: Duration = Duration::from_secs(10);

/// Time within which an answer must be taken.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a client to close after its answer; closing first could destroy what is on its way to it.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of bytes behind a request that are read and thrown away.
const MAX_DRAINED_BYTES: usize = 256 << 10;

/// Bytes read at once.
const PART_BYTES: usize = 2 << 10;

/// How far the request of a connection is.
#[derive(Debug)]
pub(super) enum Stage {
    /// The head is not complete; the bytes that have come.
    Head(Vec<u8>),
    /// Somebody works on the answer.
    Working,
    /// The client has not taken all of the answer; the bytes, and the number that were sent.
    Writing(Vec<u8>, usize),
    /// The answer was sent; the number of bytes thrown away since.
    Draining(usize),
}

/// A connection. Its reads and writes do not block.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) stage: Stage,
    /// The method, as far as it is known: an answer to HEAD has no body, refusals included.
    pub(super) method: Method,
    /// Time of its last bytes in or out.
    pub(super) active: Instant,
    /// Time at which the stage ends.
    pub(super) deadline: Instant,
    /// How it counts if it ends now.
    pub(super) outcome: Outcome,
    /// How it counts once its answer is sent.
    after: Outcome,
}

/// State of an answer after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The client has to take more before the rest can be sent.
    Part,
    /// All was sent, and the end too.
    All,
}

impl Connection {
    /// Takes a connection in, whose head is to come.
    pub(super) fn new(stream: TcpStream, now: Instant) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            stage: Stage::Head(Vec::new()),
            method: Method::Get,
            active: now,
            deadline: now + HEAD_TIMEOUT,
            outcome: Outcome::Left,
            after: Outcome::Answered,
        })
    }

    /// Reads more of the head. An error means that the client has gone.
    pub(super) fn read_head(&mut self, hosts: &Hosts, now: Instant) -> io::Result<Parsed> {
        let Stage::Head(head) = &mut self.stage else {
            return Ok(Parsed::Partial);
        };
        let mut parsed = Parsed::Partial;
        // A head is at most a few parts, and whoever sends more is refused.
        while parsed == Parsed::Partial {
            let mut part = [0; PART_BYTES];
            let bytes = match self.stream.read(&mut part) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.active = now;
            let is_first = head.is_empty();
            head.extend_from_slice(&part[..bytes]);
            // One byte at a time must not cost a look at all of them each time.
            if is_first || head.len() >= MAX_HEAD_BYTES || part[..bytes].contains(&b'\n') {
                parsed = head::parse(head, hosts);
            }
        }
        if head.starts_with(b"HEAD ") {
            self.method = Method::Head;
        }
        Ok(parsed)
    }

    /// Begins to wait for the answer.
    pub(super) fn begin_work(&mut self, now: Instant) {
        self.stage = Stage::Working;
        self.deadline = now + WORK_TIMEOUT;
    }

    /// Begins to send an answer, with which the connection counts as `outcome` once it is sent.
    pub(super) fn begin_answer(
        &mut self,
        answer: Vec<u8>,
        outcome: Outcome,
        now: Instant,
    ) -> io::Result<Sent> {
        self.after = outcome;
        self.stage = Stage::Writing(answer, 0);
        self.deadline = now + WRITE_TIMEOUT;
        self.write(now)
    }

    /// Sends what the client takes.
    pub(super) fn write(&mut self, now: Instant) -> io::Result<Sent> {
        let Stage::Writing(answer, sent) = &mut self.stage else {
            return Ok(Sent::All);
        };
        while *sent < answer.len() {
            match self.stream.write(&answer[*sent..]) {
                Ok(bytes) => {
                    *sent += bytes;
                    self.active = now;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sent::Part),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.stream.shutdown(std::net::Shutdown::Write)?;
        self.stage = Stage::Draining(0);
        self.outcome = self.after;
        self.deadline = now + DRAIN_TIMEOUT;
        Ok(Sent::All)
    }

    /// Reads and throws away what comes behind a request. Returns whether more may come.
    pub(super) fn drain(&mut self) -> bool {
        let mut part = [0; PART_BYTES];
        let Stage::Draining(drained) = &mut self.stage else {
            return true;
        };
        match self.stream.read(&mut part) {
            Ok(0) => false,
            Ok(bytes) => {
                *drained += bytes;
                *drained < MAX_DRAINED_BYTES
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// Notes that it is closed for a newcomer. One that was answered stays so.
    pub(super) fn evict(&mut self) {
        if !matches!(self.stage, Stage::Draining(_)) {
            self.outcome = Outcome::Evicted;
        }
    }

    /// Returns the order in which connections are closed for a newcomer, the first one lowest.
    pub(super) fn worth(&self) -> (u8, Instant) {
        let stage = match self.stage {
            Stage::Draining(_) => 0,
            Stage::Head(_) => 1,
            Stage::Writing(..) => 2,
            Stage::Working => 3,
        };
        (stage, self.active)
    }
}
