//! Signs of life of both sides of a connection, and the time at which the other side is given up.
//!
//! Only decrypted frames count as a sign of life, since anybody can send parts of frames. Each
//! side sends something every second; where parts keep coming and no frame ends, the length of a
//! frame, which is not encrypted, has been altered.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::framing::Filled;

/// Interval at which a receiver sends a `PONG`.
pub(super) const PONG_INTERVAL: Duration = Duration::from_secs(1);

/// Silence after which the other side is considered dead: neither keepalive nor
/// `TCP_USER_TIMEOUT` notices a peer whose process is frozen.
///
/// Where packets are lost one way only, the side that still receives learns of it by a reset that
/// the other side sends when it gives up. A plain close would not reach it: that waits in the send
/// queue behind a `PONG` that is never acknowledged. So both sides know within this time, the
/// receiver's watch interval and one packet's way.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(4);

/// Maximum age of the last part of a frame for the connection to count as more than silent: twice
/// the interval at which the other side sends something.
const RECENT_PART: Duration = Duration::from_secs(2);

/// Signs of life of the other side of one connection.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Time of the last whole frame.
    frame: Instant,
    /// Time of the last part of the frame that has yet to end.
    part: Option<Instant>,
}

impl Liveness {
    /// Starts at the end of a handshake.
    pub(super) fn new(now: Instant) -> Liveness {
        Liveness {
            frame: now,
            part: None,
        }
    }

    /// Notes the outcome of a read.
    pub(super) fn note(&mut self, filled: Filled, now: Instant) {
        match filled {
            Filled::Frames => *self = Liveness::new(now),
            Filled::Part => self.part = Some(now),
            Filled::End => {}
        }
    }

    /// Returns when the other side is given up.
    pub(super) fn deadline(&self) -> Instant {
        self.frame + SILENCE_LIMIT
    }

    /// Returns the reason for giving up at `now`: `InvalidData` where data kept coming.
    pub(super) fn reason(&self, now: Instant) -> io::Error {
        let seconds = SILENCE_LIMIT.as_secs();
        if self.part.is_some_and(|part| now < part + RECENT_PART) {
            let text = format!("it sent a frame that did not end within {seconds} s");
            io::Error::new(ErrorKind::InvalidData, text)
        } else {
            let text = format!("no data for {seconds} s");
            io::Error::new(ErrorKind::TimedOut, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the outcome of a connection that began at 0 and got frames (`true`) and parts at
    /// these times.
    #[track_caller]
    fn check(came: &[(u64, bool)], ends: u64, expected: &str) {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut liveness = Liveness::new(start);
        for &(milliseconds, whole) in came {
            let filled = if whole { Filled::Frames } else { Filled::Part };
            liveness.note(filled, at(milliseconds));
        }
        assert_eq!(liveness.deadline(), at(ends));
        assert_eq!(liveness.reason(at(ends)).to_string(), expected);
    }

    #[test]
    fn an_endless_frame_differs_from_a_cut() {
        let (silent, endless) = (
            "no data for 4 s",
            "it sent a frame that did not end within 4 s",
        );
        check(&[], 4_000, silent);
        check(&[(900, true)], 4_900, silent);
        // The connection was cut within a frame.
        check(&[(900, true), (950, false)], 4_900, silent);
        // The frame ends after all.
        check(&[(900, false), (950, true)], 4_950, silent);
        check(
            &[(100, true), (1_000, false), (3_000, false)],
            4_100,
            endless,
        );
    }
}
