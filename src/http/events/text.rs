//! The texts that are of events alone: the clients of a frame, and times in milliseconds.

use crate::http::json::{write_id, write_name, write_position, write_string};
use crate::model::record::RecordView;
use crate::model::time::{Timestamp, write_u64};

const NANOS_PER_MILLISECOND: u64 = 1_000_000;

/// Appends a time in whole milliseconds since 1970.
pub(super) fn write_time(time: Timestamp, out: &mut Vec<u8>) {
    write_u64(time.as_nanos() / NANOS_PER_MILLISECOND, out);
}

/// Appends a client of a frame.
pub(super) fn write_client(record: &RecordView<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    write_id(record.client, out);
    write_position(record.location, out);
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

#[cfg(test)]
mod tests {
    use super::*;

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
            r#"{"client":"kiwi.cs.ucla.edu","lat":34.06893,"lon":-118.445127,"time":1479413884392,"server":"Welsh"}"#
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
}
