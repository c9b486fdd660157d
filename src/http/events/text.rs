//! The texts of which events are made: JSON strings, numbers, clients and the frame of an event.
//!
//! A frame has thousands of clients, so they are written field by field into one buffer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::model::geo::split;
use crate::model::record::RecordView;
use crate::model::time::{Timestamp, write_u64};

const NANOS_PER_MILLISECOND: u64 = 1_000_000;

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

/// Appends a time in whole milliseconds since 1970.
pub(super) fn write_time(time: Timestamp, out: &mut Vec<u8>) {
    write_u64(time.as_nanos() / NANOS_PER_MILLISECOND, out);
}

/// Appends a client of a frame.
pub(super) fn write_client(record: &RecordView<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    write_id(record.client, out);
    // Every record has a valid location.
    if let Some((latitude, longitude)) = split(record.location) {
        out.extend_from_slice(b",\"lat\":");
        write_degrees(latitude, out);
        out.extend_from_slice(b",\"lon\":");
        write_degrees(longitude, out);
    }
    out.extend_from_slice(b",\"time\":");
    write_time(record.time, out);
    out.extend_from_slice(b",\"server\":");
    write_name(record.origin, out);
    out.push(b'}');
}

/// Appends a client that has no record any more.
pub(super) fn write_gone(client: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(client) {
        Ok(id) => write_string(id, out),
        Err(_) => {
            out.push(b'{');
            write_id(client, out);
            out.push(b'}');
        }
    }
}

/// Appends a client's id as a member of an object: as it is, or in base64 if it is not UTF-8.
fn write_id(client: &[u8], out: &mut Vec<u8>) {
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

/// Appends a signed decimal of a location as the JSON number of the same digits, without the zeros
/// before it and the plus that JSON does not allow.
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
    out.extend_from_slice(&digits[zeros..]);
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
            ("+34.068930", "34.068930"),
            ("-118.445127", "-118.445127"),
            ("+0", "0"),
            ("-0", "-0"),
            ("-0.5", "-0.5"),
            ("+000", "0"),
            ("+007.50", "7.50"),
            ("-000.000", "-0.000"),
            ("+00180.0", "180.0"),
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

    fn client(id: &[u8]) -> String {
        let mut out = Vec::new();
        let record = RecordView {
            client: id,
            location: b"+034.068930-118.445127",
            time_text: b"1479413884.392014450",
            time: Timestamp::from_nanos(1_479_413_884_392_014_450),
            received: Timestamp::from_nanos(0),
            origin: b"Welsh",
            epoch: 1,
            sequence: 1,
        };
        write_client(&record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_client_has_its_fields() {
        assert_eq!(
            client(b"kiwi.cs.ucla.edu"),
            r#"{"client":"kiwi.cs.ucla.edu","lat":34.068930,"lon":-118.445127,"time":1479413884392,"server":"Welsh"}"#
        );
    }

    #[test]
    fn any_id_is_carried_on_one_line() {
        for id in [
            "\"\\/".as_bytes(),
            b"\x00\x01\x1b\x7f",
            "東京🥝\u{2028}\u{85}".as_bytes(),
            b"</script>",
            b"data:",
        ] {
            let text = client(id);
            assert!(!text.contains(['\n', '\r', '\0']), "{text}");
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["client"].as_str().unwrap().as_bytes(), id);
            let mut gone = Vec::new();
            write_gone(id, &mut gone);
            let value: serde_json::Value = serde_json::from_slice(&gone).unwrap();
            assert_eq!(value.as_str().unwrap().as_bytes(), id);
        }
    }

    #[test]
    fn an_id_that_is_not_utf_8_is_in_base64() {
        let value: serde_json::Value = serde_json::from_str(&client(b"a\xff\x00")).unwrap();
        assert_eq!(value["client_base64"], "Yf8A");
        assert_eq!(value.get("client"), None);
        let mut gone = Vec::new();
        write_gone(b"\xf0\x9f", &mut gone);
        assert_eq!(gone, br#"{"client_base64":"8J8="}"#);
    }

    #[test]
    fn an_event_ends_with_an_empty_line() {
        let mut out = Vec::new();
        write_event("hello", &mut out, |out| out.extend_from_slice(b"{}"));
        assert_eq!(out, b"event: hello\ndata: {}\n\n");
    }
}
