//! Why a session ended, in words and in numbers.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reason for the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The client closed, and has all its replies.
    Client,
    /// The connection broke.
    Broken,
    /// A line was longer than the limit.
    LineTooLong,
    /// A line was not finished in time.
    LineTimeout,
    /// A reply was not taken in time.
    ReplyTimeout,
    /// All clients together had too many replies to take, and this one's had waited longest.
    UnsentReplies,
    /// The client sent nothing for too long.
    Idle,
    /// The client speaks HTTP.
    Http,
    /// The client speaks TLS.
    Tls,
    /// Neither a worker nor a place in the queue was free.
    Full,
    /// The server is stopping.
    Stopping,
    /// A panic: a bug of the server.
    Panic,
}

/// All reasons, in the order of their discriminants.
const REASONS: [EndReason; 12] = [
    EndReason::Client,
    EndReason::Broken,
    EndReason::LineTooLong,
    EndReason::LineTimeout,
    EndReason::ReplyTimeout,
    EndReason::UnsentReplies,
    EndReason::Idle,
    EndReason::Http,
    EndReason::Tls,
    EndReason::Full,
    EndReason::Stopping,
    EndReason::Panic,
];

impl EndReason {
    /// Returns whether the client has not taken replies that it was sent.
    pub(super) fn leaves_replies(self) -> bool {
        matches!(self, EndReason::ReplyTimeout | EndReason::UnsentReplies)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndReason::Client => "closed by the client",
            EndReason::Broken => "connection broken",
            EndReason::LineTooLong => "line too long",
            EndReason::LineTimeout => "line not finished in time",
            EndReason::ReplyTimeout => "reply not taken in time",
            EndReason::UnsentReplies => "too many replies not taken in all clients",
            EndReason::Idle => "idle for too long",
            EndReason::Http => "an HTTP request",
            EndReason::Tls => "a TLS handshake",
            EndReason::Full => "no worker and no place in the queue",
            EndReason::Stopping => "server stopping",
            EndReason::Panic => "internal error (session panicked)",
        })
    }
}

/// Numbers of the connections that have ended, by reason.
#[derive(Debug, Default)]
pub(crate) struct EndCounts([AtomicU64; REASONS.len()]);

impl EndCounts {
    /// Counts one.
    pub(crate) fn count(&self, reason: EndReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number for each reason.
    pub(crate) fn all(&self) -> impl Iterator<Item = (EndReason, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        REASONS.into_iter().zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_by_itself() {
        let counts = EndCounts::default();
        for (index, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            (0..index).for_each(|_| counts.count(reason));
        }
        let counted: Vec<_> = counts.all().collect();
        let expected: Vec<_> = REASONS.into_iter().zip(0..).collect();
        assert_eq!(counted, expected);
    }
}
