//! The JSON that several answers share: strings, ids, positions, times, and the frame of an event.
//!
//! An answer can have thousands of clients, so they are written field by field into one buffer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::model::geo::split;
use crate::model::time::Timestamp;

/// Appends an event whose data is written by `write`, as one line of JSON.
pub(super) fn write_event(name: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    write(out);
    out.extend_from_slice(b"\n\n");
}

/// Appends a JSON string.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    // A write to a vector does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends bytes as a JSON string, with a replacement for those that are not UTF-8.
pub(super) fn write_name(name: &[u8], out: &mut Vec<u8>) {
    write_string(&String::from_utf8_lossy(name), out);
}

/// Appends a client's id as a member of an object: as it is, or in base64 if it is not UTF-8.
pub(super) fn write_id(client: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(client) {
        Ok(id) => {
            out.extend_from_slice(b"\"client\":");
            write_string(id, out);
        }
        Err(_) => {
            out.extend_from_slice(b"\"client_base64\":\"");
            out.extend_from_slice(STANDARD.encode(client).as_bytes());
            out.push(b'"');
        }
    }
}

/// Appends a location as two members of an object, each behind a comma.
pub(super) fn write_position(location: &[u8], out: &mut Vec<u8>) {
    // Every record but a tombstone has a valid location.
    if let Some((latitude, longitude)) = split(location) {
        out.extend_from_slice(b",\"lat\":");
        write_degrees(latitude, out);
        out.extend_from_slice(b",\"lon\":");
        write_degrees(longitude, out);
    }
}

/// Appends a time as RFC 3339 has it, in UTC with nine decimals, as a JSON string.
pub(super) fn write_rfc3339(time: Timestamp, out: &mut Vec<u8>) {
    const FORM: &[BorrowedFormatItem<'_>] = format_description!(
        "\"[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z\""
    );
    let nanos = i128::from(time.as_nanos());
    // A timestamp ends in the year 2554, and the form has nothing that a date can lack.
    let date =
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let _ = date.format_into(out, FORM);
}

/// Appends a signed decimal of a location as the JSON number of the same digits, without zeros before
/// and behind them and the plus that JSON does not allow.
fn write_degrees(text: &[u8], out: &mut Vec<u8>) {
    let Some((sign, digits)) = text.split_first() else {
        return;
    };
    if *sign == b'-' {
        out.push(b'-');
    }
    let integer = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let integer = integer.count();
    let zeros = digits.iter().take_while(|&&byte| byte == b'0').count();
    // The last digit before the point stays, whatever it is.
    let zeros = zeros.min(integer.saturating_sub(1));
    let mut digits = &digits[zeros..];
    if digits.contains(&b'.') {
        let significant = digits.iter().rposition(|&byte| byte != b'0');
        digits = &digits[..significant.map_or(0, |last| last + 1)];
        digits = digits.strip_suffix(b".").unwrap_or(digits);
    }
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn degrees(text: &str) -> String {
        let mut out = Vec::new();
        write_degrees(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn degrees_are_json_numbers_of_the_same_digits() {
        for (text, expected) in [
            ("+34", "34"),
            ("+34.068930", "34.06893"),
            ("-118.445127", "-118.445127"),
            ("+0", "0"),
            ("-0", "-0"),
            ("-0.5", "-0.5"),
            ("+000", "0"),
            ("+007.50", "7.5"),
            ("-000.000", "-0"),
            ("+00180.0", "180"),
            ("+10.0", "10"),
            ("+100", "100"),
            (
                "+1.00000000000000000000000000000000001",
                "1.00000000000000000000000000000000001",
            ),
        ] {
            assert_eq!(degrees(text), expected);
            let number: serde_json::Value = serde_json::from_str(expected).unwrap();
            let value: f64 = text.parse().unwrap();
            assert_eq!(number.as_f64(), Some(value), "{text}");
        }
    }

    #[test]
    fn a_time_has_nine_decimals() {
        for (nanos, expected) in [
            (1_479_413_884_392_014_450, "2016-11-17T20:18:04.392014450Z"),
            (0, "1970-01-01T00:00:00.000000000Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            let mut out = Vec::new();
            write_rfc3339(Timestamp::from_nanos(nanos), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{expected}\""));
        }
    }

    #[test]
    fn an_event_ends_with_an_empty_line() {
        let mut out = Vec::new();
        write_event("hello", &mut out, |out| out.extend_from_slice(b"{}"));
        assert_eq!(out, b"event: hello\ndata: {}\n\n");
    }
}
