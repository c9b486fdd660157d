//! The log of the lines in and out, for every client and every neighbor.
//!
//! There may be hundreds of thousands in a second, so they do not pass through the logger: one turn's
//! lines are written into a buffer of the thread, with the turn's time, and handed to the log thread
//! as one.

use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::OnceLock;

use super::queue::Queue;
use super::time_prefix::TimePrefix;
use crate::model::printable::{escape, escape_shortened, push_address};
use crate::model::time::Timestamp;

/// Bytes of lines past which a batch is handed over before its end.
const BATCH_BYTES: usize = 64 << 10;

/// The queue of the log of lines; not set without one.
static LINES: OnceLock<Queue> = OnceLock::new();

thread_local! {
    /// Memory of the last batch of this thread.
    static SPARE: Cell<Spare> = Cell::default();
}

#[derive(Debug, Default)]
struct Spare {
    buffer: Vec<u8>,
    time: TimePrefix,
    received: Vec<u8>,
    sent: Vec<u8>,
}

/// The other side of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer<'a> {
    /// A client, by its address.
    Client(SocketAddr),
    /// A neighbor, by its name.
    Neighbor(&'a str),
}

/// Part of a line that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// The first bytes and its length.
    Shortened,
}

/// Lines to and from one peer, logged together when dropped.
#[derive(Debug)]
pub(crate) struct LineBatch<'a> {
    queue: &'a Queue,
    lines: u64,
    /// Whole lines so far.
    buffer: Vec<u8>,
    time: TimePrefix,
    /// Beginning of each received line:
    /// `2026-11-22T21:41:07.000000Z received from client 127.0.0.1:5000: `.
    received: Vec<u8>,
    /// The same of each sent line.
    sent: Vec<u8>,
    /// Length of the time at the beginning of these.
    time_bytes: usize,
}

const RECEIVED: &[u8] = b"received from ";
const SENT: &[u8] = b"sent to ";
const END_OF_HEAD: &[u8] = b": ";

/// Logs lines to that queue from now on.
pub(super) fn enable(queue: Queue) {
    let _ = LINES.set(queue);
}

/// Returns whether lines are logged.
pub(crate) fn is_on() -> bool {
    LINES.get().is_some()
}

/// Logs what happened to a peer, such as `connected`, beside its lines.
pub(crate) fn note(peer: Peer<'_>, event: fmt::Arguments<'_>) {
    if let Some(mut batch) = LineBatch::begin(peer, Timestamp::now()) {
        batch.note(event);
    }
}

/// Logs a text that belongs to no peer.
pub(super) fn text(text: fmt::Arguments<'_>) {
    if let Some(queue) = LINES.get() {
        let mut line = Vec::new();
        TimePrefix::default().write(Timestamp::now(), &mut line);
        // Memory takes any text.
        let _ = writeln!(line, "{text}");
        queue.push(&line, 1);
    }
}

impl LineBatch<'static> {
    /// Begins to log lines to and from a peer at that time; `None` if lines are not logged.
    pub(crate) fn begin(peer: Peer<'_>, now: Timestamp) -> Option<LineBatch<'static>> {
        LINES.get().map(|queue| LineBatch::new(queue, peer, now))
    }
}

impl<'a> LineBatch<'a> {
    fn new(queue: &'a Queue, peer: Peer<'_>, now: Timestamp) -> LineBatch<'a> {
        let Spare {
            buffer,
            mut time,
            mut received,
            mut sent,
        } = SPARE.take();
        received.clear();
        time.write(now, &mut received);
        let time_bytes = received.len();
        received.extend_from_slice(RECEIVED);
        match peer {
            Peer::Client(address) => {
                received.extend_from_slice(b"client ");
                push_address(address, &mut received);
            }
            Peer::Neighbor(name) => {
                received.extend_from_slice(b"neighbor ");
                received.extend_from_slice(name.as_bytes());
            }
        }
        received.extend_from_slice(END_OF_HEAD);
        sent.clear();
        sent.extend_from_slice(&received[..time_bytes]);
        sent.extend_from_slice(SENT);
        sent.extend_from_slice(&received[time_bytes + RECEIVED.len()..]);
        LineBatch {
            queue,
            lines: 0,
            buffer,
            time,
            received,
            sent,
            time_bytes,
        }
    }

    /// Logs a line that the peer has sent.
    pub(crate) fn received(&mut self, line: &[u8], extent: Extent) {
        self.buffer.extend_from_slice(&self.received);
        self.push(line, extent);
    }

    /// Logs a line that is sent to the peer.
    pub(crate) fn sent(&mut self, line: &[u8], extent: Extent) {
        self.buffer.extend_from_slice(&self.sent);
        self.push(line, extent);
    }

    fn push(&mut self, line: &[u8], extent: Extent) {
        match extent {
            Extent::Whole => escape(line, &mut self.buffer),
            Extent::Shortened => escape_shortened(line, &mut self.buffer),
        }
        self.end_line();
    }

    fn note(&mut self, event: fmt::Arguments<'_>) {
        let (time, rest) = self.sent.split_at(self.time_bytes);
        let peer = &rest[SENT.len()..rest.len() - END_OF_HEAD.len()];
        self.buffer.extend_from_slice(time);
        self.buffer.extend_from_slice(peer);
        // Memory takes any text.
        let _ = write!(self.buffer, " {event}");
        self.end_line();
    }

    fn end_line(&mut self) {
        self.buffer.push(b'\n');
        self.lines += 1;
        if self.buffer.len() >= BATCH_BYTES {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if self.lines > 0 {
            self.queue.push(&self.buffer, self.lines);
        }
        self.buffer.clear();
        self.lines = 0;
    }
}

impl Drop for LineBatch<'_> {
    fn drop(&mut self) {
        self.hand_over();
        SPARE.set(Spare {
            buffer: std::mem::take(&mut self.buffer),
            time: std::mem::take(&mut self.time),
            received: std::mem::take(&mut self.received),
            sent: std::mem::take(&mut self.sent),
        });
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn the_lines_of_a_batch_are_queued_as_one() {
        let queue = Queue::new(bounded(1).0);
        let client = Peer::Client("127.0.0.1:5000".parse().expect("an address"));
        let now = Timestamp::from_nanos(1_479_413_884_392_014_000);
        let long = [b'x'; 300];
        for round in 0..2 {
            let mut batch = LineBatch::new(&queue, client, now);
            batch.received(b"a\0", Extent::Whole);
            batch.sent(&long, Extent::Whole);
            batch.sent(&long, Extent::Shortened);
            batch.note(format_args!("gone: {round}"));
            assert!(queue.take(Vec::new()).lines.is_empty());
            drop(batch);
            let (whole, part) = ("x".repeat(300), "x".repeat(256));
            let expected = [
                r"received from client 127.0.0.1:5000: a\x00",
                &format!("sent to client 127.0.0.1:5000: {whole}"),
                &format!("sent to client 127.0.0.1:5000: {part}... (300 bytes)"),
                &format!("client 127.0.0.1:5000 gone: {round}"),
            ];
            let expected = expected.map(|line| format!("2016-11-17T20:18:04.392014Z {line}\n"));
            let taken = queue.take(Vec::new());
            assert_eq!(String::from_utf8_lossy(&taken.lines), expected.concat());
        }
        drop(LineBatch::new(&queue, Peer::Neighbor("Ball"), now));
        assert!(queue.take(Vec::new()).lines.is_empty());
    }
}
