//! Lines that clients are sent, in the log.

use std::net::SocketAddr;

use crate::logging::lines::{Extent, LineBatch, Peer};
use crate::model::time::Timestamp;

/// Logs lines that are sent outside of a turn.
pub(super) fn log_sent(client: SocketAddr, replies: &[u8]) {
    if let Some(mut log) = LineBatch::begin(Peer::Client(client), Timestamp::now()) {
        log_replies(&mut log, replies);
    }
}

/// Logs lines that each end with an LF; empty ones are left out.
pub(super) fn log_replies(log: &mut LineBatch<'_>, replies: &[u8]) {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', replies) {
        if end > start {
            log.sent(&replies[start..end], Extent::Whole);
        }
        start = end + 1;
    }
}
