//! The time at the beginning of a line.

use time::OffsetDateTime;
use time::macros::format_description;

use crate::model::decimal::fixed_digits;
use crate::model::time::Timestamp;

/// Writes the time in UTC with microseconds. All but the fraction is formatted once a second.
#[derive(Debug, Default)]
pub(super) struct TimePrefix {
    second: u64,
    /// `2026-11-22T21:41:07.`, the text of that second.
    text: Vec<u8>,
}

impl TimePrefix {
    /// Appends `time` and a space to `out`.
    pub(super) fn write(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        let micros = time.as_nanos() / 1_000;
        let (second, micros) = (micros / 1_000_000, micros % 1_000_000);
        if self.second != second || self.text.is_empty() {
            self.second = second;
            let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].");
            self.text = i64::try_from(self.second)
                .ok()
                .and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok())
                .and_then(|time| time.format(format).ok())
                .unwrap_or_default()
                .into_bytes();
        }
        let micros: [u8; 6] = fixed_digits(micros);
        out.extend_from_slice(&self.text);
        out.extend_from_slice(&micros);
        out.extend_from_slice(b"Z ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_utc_with_microseconds() {
        let mut prefix = TimePrefix::default();
        let mut check = |micros: u64, expected: &str| {
            let mut out = Vec::new();
            prefix.write(Timestamp::from_nanos(micros * 1_000), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        };
        check(0, "1970-01-01T00:00:00.000000Z ");
        check(1_479_413_884_392_014, "2016-11-17T20:18:04.392014Z ");
        check(1_479_413_884_999_999, "2016-11-17T20:18:04.999999Z ");
        check(1_479_413_885_000_001, "2016-11-17T20:18:05.000001Z ");
        check(951_782_400_000_000, "2000-02-29T00:00:00.000000Z ");
    }
}
