//! Points in time as whole nanoseconds, their text in the protocol, and the clock of deadlines.
//!
//! Floats are not used: an `f64` of seconds steps by 238 ns at today's dates, so two different
//! times could compare as equal, and a time would not be echoed as it was sent.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::model::decimal::{MAX_FIELD_BYTES, fixed_digits, parse_u64};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Maximum number of digits of a second's fraction.
const FRACTION_DIGITS: usize = 9;

/// Nanoseconds since the Unix epoch. Holds dates up to the year 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Reads the wall clock. Only the outer layers call this; below them time is an argument.
    pub fn now() -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Returns the time `nanos` nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Timestamp {
        Timestamp(nanos)
    }

    /// Returns the nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Parses POSIX seconds with an optional fraction of up to nine digits.
    ///
    /// A time past the year 2554 does not fit and is refused; it would be refused as too far
    /// ahead of the clock in any case.
    pub fn parse(text: &[u8]) -> Option<Timestamp> {
        if text.len() > MAX_FIELD_BYTES {
            return None;
        }
        let (seconds, nanos) = match text.iter().position(|&byte| byte == b'.') {
            None => (text, 0),
            Some(point) => {
                let digits = &text[point + 1..];
                let missing = FRACTION_DIGITS.checked_sub(digits.len())?;
                (
                    &text[..point],
                    parse_u64(digits)? * 10u64.pow(missing as u32),
                )
            }
        };
        parse_u64(seconds)?
            .checked_mul(NANOS_PER_SECOND)?
            .checked_add(nanos)
            .map(Timestamp)
    }

    /// Returns whether this is more than `seconds` later than `clock`.
    pub const fn is_ahead_of(self, clock: Timestamp, seconds: u64) -> bool {
        self.0 > clock.0.saturating_add(seconds * NANOS_PER_SECOND)
    }

    /// Returns the time since `earlier`, negative if that is later; the protocol's `difference`.
    pub(crate) const fn difference(self, earlier: Timestamp) -> TimeDifference {
        TimeDifference {
            negative: self.0 < earlier.0,
            nanos: self.0.abs_diff(earlier.0),
        }
    }
}

/// A signed span of time, written as `+0.263873386`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeDifference {
    negative: bool,
    nanos: u64,
}

impl TimeDifference {
    /// Appends the sign, the whole seconds, the point and nine decimals.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.push(if self.negative { b'-' } else { b'+' });
        write_u64(self.nanos / NANOS_PER_SECOND, out);
        out.push(b'.');
        let fraction: [u8; FRACTION_DIGITS] = fixed_digits(self.nanos % NANOS_PER_SECOND);
        out.extend_from_slice(&fraction);
    }
}

impl fmt::Display for TimeDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.write(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Milliseconds since the server's start, the unit of deadlines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub(crate) u64);

impl Tick {
    /// Returns the moment `span` later.
    pub(crate) fn after(self, span: Duration) -> Tick {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Tick(self.0.saturating_add(millis))
    }

    /// Returns the time from `earlier` to this moment, zero if that is later.
    pub(crate) fn since(self, earlier: Tick) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A clock for deadlines whose reading costs a memory access; one thread advances it.
///
/// Deadlines are in seconds, so steps of [`COARSE_STEP`] are fine enough, and no request pays for
/// reading a real clock.
#[derive(Clone, Debug, Default)]
pub struct CoarseClock(Arc<AtomicU64>);

/// Interval at which the coarse clock is advanced.
pub(crate) const COARSE_STEP: Duration = Duration::from_millis(100);

impl CoarseClock {
    /// Returns the moment that was set last.
    pub fn now(&self) -> Tick {
        Tick(self.0.load(Ordering::Relaxed))
    }

    /// Advances the clock by the time since it was last advanced, but by at most five steps: for as
    /// long as the process does not run, it can't know what its clients have sent, and what runs before
    /// the clock is advanced must not find that much time gone.
    pub(crate) fn advance(&self, span: Duration) {
        let tick = self.now().after(span.min(5 * COARSE_STEP));
        self.0.store(tick.0, Ordering::Relaxed);
    }

    /// Sets the clock to `since_start`.
    #[cfg(test)]
    pub(crate) fn set(&self, since_start: Duration) {
        let tick = Tick::default().after(since_start);
        self.0.store(tick.0, Ordering::Relaxed);
    }
}

/// Appends `value` in decimal digits; `fmt` takes several times as long, in each reply.
pub(crate) fn write_u64(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_parse(text: &str, expected: Option<u64>) {
        assert_eq!(
            Timestamp::parse(text.as_bytes()).map(Timestamp::as_nanos),
            expected,
            "{text}"
        );
    }

    #[test]
    fn posix_seconds_are_parsed() {
        check_parse("0", Some(0));
        check_parse("1479413884.392014450", Some(1_479_413_884_392_014_450));
        check_parse("1479413884", Some(1_479_413_884_000_000_000));
        check_parse("1.5", Some(1_500_000_000));
        check_parse("00000000000000000000000000000001", Some(1_000_000_000));
        check_parse("18446744073.709551615", Some(u64::MAX));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "-1",
            "+1",
            "1.",
            ".5",
            "1e400",
            "1e3",
            "NaN",
            "inf",
            "0x10",
            "1.0000000001",
            "18446744073.709551616",
            "253402300800",
            "9999999999999999999999999999999999999999",
            "00000000000000000000000000000000000000001",
        ] {
            check_parse(text, None);
        }
    }

    #[track_caller]
    fn check_difference(later: u64, earlier: u64, expected: &str) {
        let difference = Timestamp(later).difference(Timestamp(earlier));
        let mut written = Vec::new();
        difference.write(&mut written);
        assert_eq!(String::from_utf8_lossy(&written), expected);
        assert_eq!(difference.to_string(), expected);
    }

    #[test]
    fn a_difference_has_a_sign_and_nine_decimals() {
        check_difference(
            1_479_413_884_655_887_836,
            1_479_413_884_392_014_450,
            "+0.263873386",
        );
        check_difference(0, 120, "-0.000000120");
        check_difference(7, 7, "+0.000000000");
        check_difference(u64::MAX, 0, "+18446744073.709551615");
    }

    #[test]
    fn times_ahead_are_compared_exactly() {
        let clock = Timestamp(1_000);
        assert!(!Timestamp(300 * NANOS_PER_SECOND + 1_000).is_ahead_of(clock, 300));
        assert!(Timestamp(300 * NANOS_PER_SECOND + 1_001).is_ahead_of(clock, 300));
    }
}
