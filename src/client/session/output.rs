//! The sending side of a session: replies that the client has not taken yet, and their deadline.
//!
//! A turn's replies are sent by one write. A client that does not read gets no more than a bounded
//! number of replies, since its requests are not read either.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::Stream;
use crate::model::time::Tick;

/// Bytes of replies not taken by the client; past this its requests are not read.
pub(super) const MAX_UNSENT_BYTES: usize = 64 << 10;

/// Time from the writing of a reply until the client's side has taken it; past this the connection
/// is closed.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The sending side of a session.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Bytes that the client has not taken; owns no memory when empty.
    pub(super) unsent: Vec<u8>,
    /// Number of bytes at the front that `deadline` applies to. Once they are sent it moves on.
    due: usize,
    deadline: Tick,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.unsent.len() >= MAX_UNSENT_BYTES
    }

    /// Returns the time by which the oldest unsent bytes must be taken.
    pub(super) fn deadline(&self) -> Option<Tick> {
        (!self.is_empty()).then_some(self.deadline)
    }

    /// Stores replies to be written by the next [`flush`](Self::flush).
    pub(super) fn push(&mut self, replies: &[u8], now: Tick) {
        if self.is_empty() {
            self.due = replies.len();
            self.deadline = now.after(REPLY_TIMEOUT);
        }
        self.unsent.extend_from_slice(replies);
    }

    /// Writes as many stored bytes as the client takes. Returns whether it has taken any.
    pub(super) fn flush<S: Stream>(&mut self, stream: &mut S, now: Tick) -> io::Result<bool> {
        let unsent = std::mem::take(&mut self.unsent);
        self.send(stream, &unsent, now)
    }

    /// Writes as many of `replies` as the client takes, behind earlier ones that it has not taken,
    /// and stores the rest. Returns whether it has taken any.
    pub(super) fn send<S: Stream>(
        &mut self,
        stream: &mut S,
        replies: &[u8],
        now: Tick,
    ) -> io::Result<bool> {
        let mut sent = 0;
        while self.is_empty() && sent < replies.len() {
            match stream.write(&replies[sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.due = self.due.saturating_sub(sent);
        self.unsent.extend_from_slice(&replies[sent..]);
        if self.due == 0 {
            self.due = self.unsent.len();
            self.deadline = now.after(REPLY_TIMEOUT);
        }
        Ok(sent > 0)
    }
}
