//! One client's connection: lines in, replies out, all deadlines in one timer.
//!
//! A task reads what there is, answers every whole line of it with no `await` in between, and
//! writes the replies in one go. Nothing is read while a reply is not taken.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use bytes::{Buf, BytesMut};
use herd::config::DEFAULT_IDLE_TIMEOUT;
use herd::model::command::{Command, Inquiry, Report};
use herd::model::decimal::MAX_FIELD_BYTES;
use herd::model::printable::Printable;
use herd::model::record::RecordView;
use herd::model::time::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Level, enabled, info};

use crate::Shared;

/// Bytes a line may have, its ending not counted.
const MAX_LINE_BYTES: usize = 4096;

/// Bytes that a connection can hold: a line of full length and as much again.
const READ_BYTES: usize = 8 << 10;

/// Bytes of replies past which they are written before more requests are answered.
const MAX_UNSENT_BYTES: usize = 64 << 10;

/// First bytes of a TLS handshake.
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// Reports applied as one group.
const GROUP_REPORTS: usize = 16;

/// From a line's first byte to its last.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// From a reply's writing until the client has taken it.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which a closing connection reads and drops: closing over unread input would reset it, and
/// the last reply would be lost.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a session ended in order.
#[derive(Clone, Copy)]
pub(crate) enum Reason {
    /// The client closed, and has all its answers.
    Client,
    /// The first line is an HTTP request's.
    Http,
    /// The first bytes are a TLS handshake's.
    Tls,
    /// A line longer than the limit.
    LineTooLong,
    /// A line not finished in time.
    LineTimeout,
    /// A reply not taken in time.
    ReplyTimeout,
    /// Nothing said for too long.
    Idle,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Client => "closed by the client",
            Reason::Http => "it speaks HTTP",
            Reason::Tls => "it speaks TLS",
            Reason::LineTooLong => "line too long",
            Reason::LineTimeout => "line not finished in time",
            Reason::ReplyTimeout => "reply not taken in time",
            Reason::Idle => "idle for too long",
        })
    }
}

/// Start of the unread input.
enum Next<'a> {
    /// A whole line without its ending; `taken` bytes of input are it and its ending.
    Line { line: &'a [u8], taken: usize },
    /// The beginning of a line that is longer than it may be.
    TooLong(&'a [u8]),
    /// No whole line yet.
    Unfinished,
}

/// The next step once the replies of a turn are written.
enum Then {
    Read,
    Answer,
    Close(Reason),
}

/// Serves a client until one of both closes.
pub(crate) async fn serve(
    mut stream: TcpStream,
    client: SocketAddr,
    shared: &Shared,
) -> io::Result<Reason> {
    let reason = converse(&mut stream, client, shared).await?;
    if !matches!(reason, Reason::Client | Reason::ReplyTimeout) {
        stream.shutdown().await?;
        let drain = async {
            let mut dropped = [0; 4096];
            while matches!(stream.read(&mut dropped).await, Ok(1..)) {}
        };
        // A client that still sends after that is cut off.
        let _ = timeout(DRAIN_TIMEOUT, drain).await;
    }
    Ok(reason)
}

async fn converse(
    stream: &mut TcpStream,
    client: SocketAddr,
    shared: &Shared,
) -> io::Result<Reason> {
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut output = Vec::new();
    let mut line_deadline = None;
    // No line has been answered yet.
    let mut is_new = true;
    let timer = sleep_until(Instant::now() + DEFAULT_IDLE_TIMEOUT);
    tokio::pin!(timer);
    loop {
        if input.capacity() - input.len() < READ_BYTES / 2 {
            input.reserve(READ_BYTES);
        }
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut input) => read?,
            () = &mut timer => return Ok(match line_deadline {
                Some(_) => Reason::LineTimeout,
                None => Reason::Idle,
            }),
        };
        let ended = read == 0;
        loop {
            if is_new && input.starts_with(TLS_HANDSHAKE) {
                return Ok(Reason::Tls);
            }
            let (taken, then) =
                Turn::new(shared, client, &mut output).answer(&input, ended, is_new);
            if !output.is_empty() {
                match timeout(REPLY_TIMEOUT, stream.write_all(&output)).await {
                    Ok(written) => written?,
                    Err(_) => return Ok(Reason::ReplyTimeout),
                }
                output.clear();
            }
            input.advance(taken);
            if taken > 0 {
                is_new = false;
                line_deadline = None;
            }
            match then {
                Then::Read => break,
                Then::Answer => {}
                Then::Close(reason) => return Ok(reason),
            }
        }
        if ended {
            return Ok(Reason::Client);
        }
        // Moving a deadline further away costs a timer nothing; so it is one for all.
        let now = Instant::now();
        if !input.is_empty() {
            line_deadline.get_or_insert(now + LINE_TIMEOUT);
        }
        timer
            .as_mut()
            .reset(line_deadline.unwrap_or(now + DEFAULT_IDLE_TIMEOUT));
    }
}

/// A line ends in LF; a CR right before it belongs to the ending. Once the client has `ended`,
/// what is left is a line without an ending.
fn next_line(input: &[u8], ended: bool) -> Next<'_> {
    let end = memchr::memchr(b'\n', input);
    let line = match end {
        Some(end) => input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]),
        None if ended => input,
        // A CR at the very end may yet turn out to be the ending's.
        None => input.strip_suffix(b"\r").unwrap_or(input),
    };
    if line.len() > MAX_LINE_BYTES {
        return Next::TooLong(&input[..MAX_LINE_BYTES]);
    }
    match end {
        Some(end) => Next::Line {
            line,
            taken: end + 1,
        },
        None if ended && !input.is_empty() => Next::Line {
            line,
            taken: input.len(),
        },
        None => Next::Unfinished,
    }
}

/// Whether a line is the first of an HTTP request.
fn is_http(line: &[u8]) -> bool {
    line.ends_with(b" HTTP/1.0") || line.ends_with(b" HTTP/1.1")
}

/// The lines that are answered at one moment.
struct Turn<'a> {
    shared: &'a Shared,
    client: SocketAddr,
    received: Timestamp,
    /// Reports in a row, and the lines that they came in.
    reports: ArrayVec<(Report<'a>, &'a [u8]), GROUP_REPORTS>,
    output: &'a mut Vec<u8>,
    logged: bool,
}

impl<'a> Turn<'a> {
    fn new(shared: &'a Shared, client: SocketAddr, output: &'a mut Vec<u8>) -> Turn<'a> {
        Turn {
            shared,
            client,
            received: Timestamp::now(),
            reports: ArrayVec::new(),
            output,
            logged: enabled!(Level::INFO),
        }
    }

    /// Answers the whole lines of `input` until there are none, or enough to be written. Says how
    /// many bytes of it are done with. The first line of a client that `is_new` may be one of HTTP.
    fn answer(mut self, input: &'a [u8], ended: bool, is_new: bool) -> (usize, Then) {
        let mut start = 0;
        let then = loop {
            if self.output.len() >= MAX_UNSENT_BYTES {
                break Then::Answer;
            }
            match next_line(&input[start..], ended) {
                Next::Line { line, taken } => {
                    start += taken;
                    self.take(line);
                    if is_new && start == taken && is_http(line) {
                        break Then::Close(Reason::Http);
                    }
                }
                Next::TooLong(line) => {
                    self.log("received from", line);
                    self.refuse(line);
                    break Then::Close(Reason::LineTooLong);
                }
                Next::Unfinished => break Then::Read,
            }
        };
        self.apply();
        self.log("sent to", self.output);
        (start, then)
    }

    fn take(&mut self, line: &'a [u8]) {
        self.log("received from", line);
        match Command::parse(line) {
            Ok(Command::Iamat(report)) => {
                self.reports.push((report, line));
                if self.reports.is_full() {
                    self.apply();
                }
            }
            Ok(Command::Whatsat(inquiry)) => {
                self.apply();
                self.inquire(&inquiry, line);
            }
            Err(_) => self.refuse(line),
        }
    }

    /// Applies the reports that have gathered, and writes their replies.
    fn apply(&mut self) {
        if self.reports.is_empty() {
            return;
        }
        let herd = &self.shared.herd;
        let reports: ArrayVec<Report<'_>, GROUP_REPORTS> =
            self.reports.iter().map(|(report, _)| *report).collect();
        let mut outcomes = Vec::with_capacity(GROUP_REPORTS);
        herd.report(&reports, self.received, &mut outcomes);
        self.shared.wake_links();
        for ((report, line), outcome) in self.reports.drain(..).zip(outcomes) {
            if outcome.is_acknowledged() {
                RecordView::of_report(&report, self.received, herd.name().as_bytes(), 0, 0)
                    .write_at_line(self.output);
            } else {
                echo(line, self.output);
            }
        }
    }

    fn inquire(&mut self, inquiry: &Inquiry<'_>, line: &[u8]) {
        let mut location = ArrayVec::<u8, MAX_FIELD_BYTES>::new();
        let known = self.shared.herd.locate(inquiry.client, self.received, |found| {
            let Some(view) = found else {
                return false;
            };
            view.write_at_line(self.output);
            location.try_extend_from_slice(view.location).is_ok()
        });
        if !known {
            return echo(line, self.output);
        }
        // The atlas knows at once: there is no request to wait for.
        self.shared
            .places
            .lookup(&location, inquiry.radius, inquiry.bound, self.output);
        self.output.extend_from_slice(b"\n\n");
    }

    fn refuse(&mut self, line: &[u8]) {
        self.apply();
        echo(line, self.output);
    }

    fn log(&self, what: &str, lines: &[u8]) {
        if self.logged {
            for line in lines
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                info!("{what} client {}: {}", self.client, Printable(line));
            }
        }
    }
}

fn echo(line: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"? ");
    output.extend_from_slice(line);
    output.push(b'\n');
}
