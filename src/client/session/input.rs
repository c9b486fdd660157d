//! The receiving side of a session: bytes not yet answered, and the state of reading.
//!
//! It reads at most once a turn, and knows nothing of the meaning of a line.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::Stream;
use super::lines::{Next, next_line};
use crate::model::time::Tick;

/// Time from a line's first byte to its last; past this the connection is closed.
pub(super) const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// State of the beginning of the stored bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LineState {
    /// No bytes are stored.
    #[default]
    Empty,
    /// There is a whole line, or one that is too long; it can be answered without a read.
    Whole,
    /// There is half a line, whose end must arrive before the deadline.
    Unfinished { deadline: Tick },
}

/// State of reading from the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReadState {
    /// Everything that had arrived has been read; the next event reports more.
    #[default]
    CaughtUp,
    /// More may have arrived than was read, without another event: the last read filled its
    /// buffer, or was interrupted, or lines from it have been answered since.
    Behind,
    /// The end of input was reported, so reads go on until they find it.
    EndReported,
    /// The client will send nothing more.
    Ended,
    /// The server is stopping: nothing more is read, and whole lines are still answered.
    Stopped,
}

/// The receiving side of a session.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Bytes that the last turn left, at most a read buffer's worth; owns no memory when empty.
    pub(super) rest: Vec<u8>,
    line: LineState,
    state: ReadState,
    /// Urgent data was reported, so that a short read does not mean that nothing more has arrived.
    is_urgent: bool,
}

impl Input {
    /// Fills `buffer` with the stored bytes and, unless they hold a whole line, with the result of
    /// one read. Returns the length of both, and the result of the read: `Some(0)` at the end of
    /// input, `None` if nothing was read.
    pub(super) fn fill<S: Stream>(
        &mut self,
        stream: &mut S,
        buffer: &mut [u8],
    ) -> io::Result<(usize, Option<usize>)> {
        let stored = self.rest.len();
        buffer[..stored].copy_from_slice(&self.rest);
        self.rest = Vec::new();
        if self.has_line() {
            // Input that arrives while these lines are answered is reported only once.
            self.update(ReadState::Behind);
            return Ok((stored, None));
        }
        if matches!(self.state, ReadState::Ended | ReadState::Stopped) {
            return Ok((stored, None));
        }
        let (read, caught_up) = match stream.read(&mut buffer[stored..]) {
            Ok(bytes) => (
                Some(bytes),
                stored + bytes < buffer.len() && !self.is_urgent,
            ),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_urgent = false;
                (None, true)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => (None, false),
            Err(error) => return Err(error),
        };
        self.update(if caught_up {
            ReadState::CaughtUp
        } else {
            ReadState::Behind
        });
        Ok((stored + read.unwrap_or(0), read))
    }

    /// Stores the bytes that a turn leaves over, after it has `answered` lines or none.
    pub(super) fn store(&mut self, rest: &[u8], answered: bool, now: Tick) {
        self.line = match next_line(rest, self.has_ended()) {
            _ if rest.is_empty() => LineState::Empty,
            Next::Line { .. } | Next::TooLong(_) => LineState::Whole,
            Next::Unfinished => match self.line {
                LineState::Unfinished { .. } if !answered => self.line,
                _ => LineState::Unfinished {
                    deadline: now.after(LINE_TIMEOUT),
                },
            },
        };
        self.rest = rest.to_vec();
    }

    /// Reads once more behind an unfinished line whose time is up: what would finish it may have
    /// arrived while the session did not read. The line keeps its deadline if it is still unfinished.
    pub(super) fn read_on<S: Stream>(
        &mut self,
        stream: &mut S,
        buffer: &mut [u8],
        now: Tick,
    ) -> io::Result<()> {
        let stored = self.rest.len();
        buffer[..stored].copy_from_slice(&self.rest);
        let read = match stream.read_available(&mut buffer[stored..]) {
            Ok(0) => {
                self.end();
                0
            }
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        self.update(ReadState::Behind);
        self.store(&buffer[..stored + read], false, now);
        Ok(())
    }

    /// Notes that urgent data has arrived: a read stops at it, although more may follow.
    pub(super) fn report_urgent(&mut self) {
        self.is_urgent = true;
    }

    /// Notes that the end of input was reported, by an event.
    pub(super) fn report_end(&mut self) {
        self.update(ReadState::EndReported);
    }

    /// Notes that the client will send nothing more.
    pub(super) fn end(&mut self) {
        self.state = ReadState::Ended;
    }

    /// Ends reading because the server is stopping.
    pub(super) fn stop(&mut self) {
        if self.state != ReadState::Ended {
            self.state = ReadState::Stopped;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == ReadState::Ended
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state == ReadState::Stopped
    }

    /// Returns whether the next turn can answer a line without a read.
    pub(super) fn has_line(&self) -> bool {
        self.line == LineState::Whole
    }

    /// Returns whether another turn can make progress without waiting for an event.
    pub(super) fn has_more(&self) -> bool {
        self.has_line() || matches!(self.state, ReadState::Behind | ReadState::EndReported)
    }

    /// Returns the time by which the unfinished line must be whole.
    pub(super) fn deadline(&self) -> Option<Tick> {
        match self.line {
            LineState::Unfinished { deadline } => Some(deadline),
            LineState::Empty | LineState::Whole => None,
        }
    }

    /// Changes the state, unless the end of reading is reported or reached already.
    fn update(&mut self, state: ReadState) {
        if matches!(self.state, ReadState::CaughtUp | ReadState::Behind) {
            self.state = state;
        }
    }
}
