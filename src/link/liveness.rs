//! When the other side of a connection was last heard, and what it means if that was long ago.
//!
//! Only what has been decrypted was said by the other side, so parts of frames are no sign of
//! life. But each side says something every second: where parts have gone on coming and no frame
//! has ended, somebody has changed a frame's length, which is not encrypted.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::SILENCE_LIMIT;

/// How young the last part of a frame must be for the connection to be more than silent: twice the
/// time in which the other side says something.
const STILL_COMING: Duration = Duration::from_secs(2);

/// What is known of the other side's being there.
#[derive(Debug)]
pub(super) struct Liveness {
    heard: Instant,
    /// When a part of the frame that has yet to end came last.
    part: Option<Instant>,
}

impl Liveness {
    /// Begins with a handshake that has just ended.
    pub(super) fn begin(now: Instant) -> Liveness {
        Liveness {
            heard: now,
            part: None,
        }
    }

    /// Notes that a frame has come.
    pub(super) fn heard(&mut self, now: Instant) {
        *self = Liveness::begin(now);
    }

    /// Notes that a part of one has.
    pub(super) fn part(&mut self, now: Instant) {
        self.part = Some(now);
    }

    /// When the other side is to be taken for dead.
    pub(super) fn deadline(&self) -> Instant {
        self.heard + SILENCE_LIMIT
    }

    /// Why the connection ends, at that time: `InvalidData` where it was not silent at all.
    pub(super) fn reason(&self, now: Instant) -> io::Error {
        let seconds = SILENCE_LIMIT.as_secs();
        if self.part.is_some_and(|part| now < part + STILL_COMING) {
            let what = format!("it sent a frame that did not end within {seconds} s");
            io::Error::new(ErrorKind::InvalidData, what)
        } else {
            let what = format!("not heard of for {seconds} s");
            io::Error::new(ErrorKind::TimedOut, what)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a silence that began at 0 comes to, after frames (`true`) and parts at these times.
    #[track_caller]
    fn check(came: &[(u64, bool)], ends: u64, expected: &str) {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut silence = Liveness::begin(start);
        for &(milliseconds, whole) in came {
            if whole {
                silence.heard(at(milliseconds));
            } else {
                silence.part(at(milliseconds));
            }
        }
        assert_eq!(silence.deadline(), at(ends));
        assert_eq!(silence.reason(at(ends)).to_string(), expected);
    }

    #[test]
    fn a_frame_whose_end_does_not_come_is_told_from_a_cut() {
        let (silent, endless) = (
            "not heard of for 4 s",
            "it sent a frame that did not end within 4 s",
        );
        check(&[], 4_000, silent);
        check(&[(900, true)], 4_900, silent);
        // Cut within a frame.
        check(&[(900, true), (950, false)], 4_900, silent);
        // A frame that ends is none that does not.
        check(&[(900, false), (950, true)], 4_950, silent);
        check(
            &[(100, true), (1_000, false), (3_000, false)],
            4_100,
            endless,
        );
    }
}
