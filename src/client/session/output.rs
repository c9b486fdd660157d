//! The sending side of a session: replies that the client has not taken yet, and their deadline.
//!
//! A turn's replies are sent by one write. A client that does not read gets no more than a bounded
//! number of replies, since its requests are not read either.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::Stream;
use crate::model::time::Tick;

/// Bytes of replies not taken by the client; past this its requests are not read.
pub(super) const MAX_UNSENT_BYTES: usize = 64 << 10;

/// Time from the writing of a reply until the client's side has taken it; past this the connection
/// is closed.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The sending side of a session. Most clients have taken everything, and then it owns no memory.
#[derive(Debug, Default)]
pub(super) struct Output(Option<Box<Unsent>>);

/// Bytes that the client has not taken.
#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// Lengths of consecutive parts of `bytes` and the time by which each must be taken, one part for
    /// the replies of one moment of the clock.
    parts: VecDeque<(usize, Tick)>,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= MAX_UNSENT_BYTES
    }

    /// Returns the number of bytes that the client has not taken.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |unsent| unsent.bytes.len())
    }

    /// Drops the replies that the client has not taken.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Returns the time by which the oldest unsent bytes must be taken.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let (_, deadline) = self.0.as_ref()?.parts.front()?;
        Some(*deadline)
    }

    /// Stores replies to be written by the next [`flush`](Self::flush).
    pub(super) fn push(&mut self, replies: &[u8], now: Tick) {
        if replies.is_empty() {
            return;
        }
        let deadline = now.after(REPLY_TIMEOUT);
        let unsent = self.0.get_or_insert_default();
        unsent.bytes.extend_from_slice(replies);
        match unsent.parts.back_mut() {
            Some((bytes, last)) if *last == deadline => *bytes += replies.len(),
            _ => unsent.parts.push_back((replies.len(), deadline)),
        }
    }

    /// Writes as many stored bytes as the client takes. Returns whether it has taken any.
    pub(super) fn flush<S: Stream>(&mut self, stream: &mut S) -> io::Result<bool> {
        let Some(unsent) = &mut self.0 else {
            return Ok(false);
        };
        let sent = write_some(stream, &unsent.bytes)?;
        if sent == unsent.bytes.len() {
            self.0 = None;
        } else {
            unsent.bytes.drain(..sent);
            unsent.note_taken(sent);
        }
        Ok(sent > 0)
    }

    /// Writes as many of `replies` as the client takes, behind earlier ones that it has not taken,
    /// and stores the rest. Returns whether it has taken any.
    pub(super) fn send<S: Stream>(
        &mut self,
        stream: &mut S,
        replies: &[u8],
        now: Tick,
    ) -> io::Result<bool> {
        let sent = match self.is_empty() {
            true => write_some(stream, replies)?,
            false => 0,
        };
        self.push(&replies[sent..], now);
        Ok(sent > 0)
    }
}

impl Unsent {
    fn note_taken(&mut self, mut sent: usize) {
        while let Some((bytes, _)) = self.parts.front_mut() {
            if *bytes > sent {
                *bytes -= sent;
                return;
            }
            sent -= *bytes;
            self.parts.pop_front();
        }
    }
}

/// Writes as many bytes as the stream takes, and returns their number.
fn write_some<S: Stream>(stream: &mut S, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => sent += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
