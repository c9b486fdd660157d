//! A report as the herd keeps it: the client's fields, the server that took it, and when.
//!
//! A client that was forgotten leaves a tombstone: a record without location and time text, whose time
//! is that of its receipt. In all else it is a record like any other.
//!
//! Servers order records by (`time`, `origin`, `epoch`, `sequence`). The order is total, so two
//! servers that took the same time at once end with the same winner wherever the two meet.

use std::cmp::Ordering;

use crate::model::command::{MAX_CLIENT_BYTES, Report};
use crate::model::decimal::{MAX_FIELD_BYTES, parse_u64};
use crate::model::fields::MAX_NAME_BYTES;
use crate::model::fields::{has_white_space, split_exactly};
use crate::model::grid::Point;
use crate::model::time::{Timestamp, write_u64};

/// Maximum seconds by which a client's time may be ahead of the clock that judges it. One poisoned
/// date would shut a client out of its own record forever.
pub(crate) const MAX_AHEAD_SECONDS: u64 = 300;

/// Keyword of a report's line between servers.
const RECORD: &[u8] = b"RECORD";

/// Keyword of a tombstone's line between servers.
const TOMBSTONE: &[u8] = b"TOMBSTONE";

/// Maximum bytes of a record's line, its LF included. A tombstone's is shorter.
pub const MAX_LINE_BYTES: usize =
    b"RECORD".len() + MAX_NAME_BYTES + MAX_CLIENT_BYTES + 2 * MAX_FIELD_BYTES + 3 * 20 + 8;

/// A record whose bytes are borrowed: from the cache, the journal, or a line just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Id of the client that reports.
    pub client: &'a [u8],
    /// Location of the client, as it sent it.
    pub location: &'a [u8],
    /// Time of the report, as the client sent it.
    pub time_text: &'a [u8],
    /// The same time in nanoseconds.
    pub time: Timestamp,
    /// Time at which the origin took the report, by the origin's clock.
    pub received: Timestamp,
    /// The server that took the report from the client.
    pub origin: &'a [u8],
    /// Epoch of the origin: one for each of its starts.
    pub epoch: u64,
    /// Sequence number of the report within the epoch.
    pub sequence: u64,
}

impl<'a> RecordView<'a> {
    /// Returns whether the record says that the client was forgotten: it has neither location nor time
    /// text, and its time is that of its receipt.
    pub fn is_tombstone(&self) -> bool {
        self.location.is_empty()
    }

    /// Compares by the order between servers; equal only for one and the same record.
    pub fn order(&self, other: &RecordView<'_>) -> Ordering {
        (self.time, self.origin, self.epoch, self.sequence).cmp(&(
            other.time,
            other.origin,
            other.epoch,
            other.sequence,
        ))
    }

    /// Appends the reply that acknowledges the report: `AT server difference client location
    /// time` and LF.
    pub fn write_at_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"AT ");
        out.extend_from_slice(self.origin);
        out.push(b' ');
        self.received.difference(self.time).write(out);
        self.write_report(out);
    }

    /// Appends the record as neighbors exchange it: `RECORD origin epoch sequence received
    /// client location time` and LF, or `TOMBSTONE origin epoch sequence time client` and LF.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        let is_tombstone = self.is_tombstone();
        out.extend_from_slice(if is_tombstone { TOMBSTONE } else { RECORD });
        out.push(b' ');
        out.extend_from_slice(self.origin);
        for number in [self.epoch, self.sequence, self.received.as_nanos()] {
            out.push(b' ');
            write_u64(number, out);
        }
        if is_tombstone {
            out.push(b' ');
            out.extend_from_slice(self.client);
            out.push(b'\n');
        } else {
            self.write_report(out);
        }
    }

    /// Returns whether a line that a neighbor sends is meant to be a record.
    pub(crate) fn is_line(line: &[u8]) -> bool {
        line.starts_with(RECORD) || line.starts_with(TOMBSTONE)
    }

    fn write_report(&self, out: &mut Vec<u8>) {
        for field in [self.client, self.location, self.time_text] {
            out.push(b' ');
            out.extend_from_slice(field);
        }
        out.push(b'\n');
    }

    /// Reads what [`write_line`](Self::write_line) wrote, without its LF.
    ///
    /// Returns `None` for anything that no server of the herd would have accepted from a client:
    /// the neighbor that sent it is broken.
    pub fn parse_line(line: &'a [u8]) -> Option<RecordView<'a>> {
        if line.starts_with(TOMBSTONE) {
            return RecordView::parse_tombstone(line);
        }
        let [
            keyword,
            origin,
            epoch,
            sequence,
            received,
            client,
            location,
            time_text,
        ] = split_exactly(line)?;
        let received = Timestamp::from_nanos(parse_u64(received)?);
        let time = Timestamp::parse(time_text)?;
        let valid = keyword == RECORD
            && are_names(origin, client)
            && Point::parse(location).is_some()
            && !time.is_ahead_of(received, MAX_AHEAD_SECONDS);
        if !valid {
            return None;
        }
        Some(RecordView {
            client,
            location,
            time_text,
            time,
            received,
            origin,
            epoch: parse_u64(epoch)?,
            sequence: parse_u64(sequence)?,
        })
    }

    fn parse_tombstone(line: &'a [u8]) -> Option<RecordView<'a>> {
        let [keyword, origin, epoch, sequence, time, client] = split_exactly(line)?;
        if keyword != TOMBSTONE || !are_names(origin, client) {
            return None;
        }
        let time = Timestamp::from_nanos(parse_u64(time)?);
        let (epoch, sequence) = (parse_u64(epoch)?, parse_u64(sequence)?);
        Some(RecordView::tombstone(client, time, origin, epoch, sequence))
    }

    /// Makes the record that says that a client was forgotten.
    pub fn tombstone(
        client: &'a [u8],
        time: Timestamp,
        origin: &'a [u8],
        epoch: u64,
        sequence: u64,
    ) -> RecordView<'a> {
        RecordView {
            client,
            location: b"",
            time_text: b"",
            time,
            received: time,
            origin,
            epoch,
            sequence,
        }
    }

    /// Makes the record of a report that `origin` takes now.
    pub fn of_report(
        report: &Report<'a>,
        received: Timestamp,
        origin: &'a [u8],
        epoch: u64,
        sequence: u64,
    ) -> RecordView<'a> {
        RecordView {
            client: report.client,
            location: report.location,
            time_text: report.time_text,
            time: report.time,
            received,
            origin,
            epoch,
            sequence,
        }
    }
}

/// Returns whether these can be the names of a server and a client.
fn are_names(origin: &[u8], client: &[u8]) -> bool {
    origin.len() <= MAX_NAME_BYTES
        && client.len() <= MAX_CLIENT_BYTES
        && !has_white_space(origin)
        && !has_white_space(client)
}

/// Bytes of the four numbers and the four lengths of a packed record, before its texts.
const PACKED_HEADER_BYTES: usize = 4 * 8 + 4;

/// Maximum bytes of a packed record.
pub(crate) const MAX_PACKED_BYTES: usize =
    PACKED_HEADER_BYTES + MAX_NAME_BYTES + MAX_CLIENT_BYTES + 2 * MAX_FIELD_BYTES;

/// The packed form of a record, in the cache and in the journal's frames. A change to it is a new
/// version of the journal's layout.
///
/// Little-endian: `time`, `received`, `epoch` and `sequence` of 8 bytes each; the lengths of
/// origin, client, location and time text of one byte each; then those texts.
impl<'a> RecordView<'a> {
    /// Returns the number of bytes that the packed record takes.
    pub fn packed_bytes(&self) -> usize {
        PACKED_HEADER_BYTES + self.texts().iter().map(|text| text.len()).sum::<usize>()
    }

    /// Appends the packed record. Its texts must be within their limits, which parsing ensures.
    pub fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.packed_header());
        for text in self.texts() {
            out.extend_from_slice(text);
        }
    }

    /// Writes the packed record to the beginning of `bytes`, which must have room for it. Its texts
    /// must be within their limits, which parsing ensures.
    pub(crate) fn pack_into(&self, bytes: &mut [u8]) {
        let (header, mut rest) = bytes.split_at_mut(PACKED_HEADER_BYTES);
        header.copy_from_slice(&self.packed_header());
        for text in self.texts() {
            let (slot, behind) = rest.split_at_mut(text.len());
            slot.copy_from_slice(text);
            rest = behind;
        }
    }

    /// Takes the first packed record off `bytes`; `None` if they are too short for it.
    pub fn unpack(bytes: &mut &'a [u8]) -> Option<RecordView<'a>> {
        let (header, texts) = bytes.split_first_chunk::<PACKED_HEADER_BYTES>()?;
        let (origin, texts) = texts.split_at_checked(usize::from(header[32]))?;
        let (client, texts) = texts.split_at_checked(usize::from(header[33]))?;
        let (location, texts) = texts.split_at_checked(usize::from(header[34]))?;
        let (time_text, rest) = texts.split_at_checked(usize::from(header[35]))?;
        *bytes = rest;
        Some(RecordView {
            client,
            location,
            time_text,
            time: Timestamp::from_nanos(number(header, 0)),
            received: Timestamp::from_nanos(number(header, 1)),
            origin,
            epoch: number(header, 2),
            sequence: number(header, 3),
        })
    }

    /// Returns the client of the packed record at the beginning of `bytes`: a table is searched by it.
    ///
    /// Panics if there is no packed record.
    pub(crate) fn packed_client(bytes: &'a [u8]) -> &'a [u8] {
        let start = PACKED_HEADER_BYTES + usize::from(bytes[32]);
        &bytes[start..start + usize::from(bytes[33])]
    }

    fn texts(&self) -> [&'a [u8]; 4] {
        [self.origin, self.client, self.location, self.time_text]
    }

    fn packed_header(&self) -> [u8; PACKED_HEADER_BYTES] {
        let mut header = [0; PACKED_HEADER_BYTES];
        for (slot, number) in header.chunks_exact_mut(8).zip([
            self.time.as_nanos(),
            self.received.as_nanos(),
            self.epoch,
            self.sequence,
        ]) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        for (slot, text) in header[4 * 8..].iter_mut().zip(self.texts()) {
            debug_assert!(text.len() <= MAX_CLIENT_BYTES);
            *slot = text.len() as u8;
        }
        header
    }
}

fn number(header: &[u8; PACKED_HEADER_BYTES], index: usize) -> u64 {
    u64::from_le_bytes(header.as_chunks().0[index])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::command::Command;

    const LINE: &[u8] =
        b"RECORD Ball 7 9 1479413884655887836 kiwi.cs.ucla.edu +34.068930-118.445127 1479413884.392014450";

    fn view() -> RecordView<'static> {
        RecordView::parse_line(LINE).expect("a record line")
    }

    #[test]
    fn a_line_keeps_every_field() {
        let mut line = Vec::new();
        view().write_line(&mut line);
        assert_eq!(line, [LINE, b"\n"].concat());
    }

    #[test]
    fn the_longest_and_the_shortest_record_survive_packing() {
        let long = [0xff; 255];
        for (name, client, field) in [(MAX_NAME_BYTES, 255, MAX_FIELD_BYTES), (1, 1, 0)] {
            let record = RecordView {
                origin: &long[..name],
                client: &long[..client],
                location: &long[..field],
                time_text: &long[..field],
                time: Timestamp::from_nanos(u64::MAX),
                received: Timestamp::from_nanos(1),
                epoch: u64::MAX,
                sequence: 5,
            };
            let mut packed = Vec::new();
            record.pack(&mut packed);
            assert_eq!(packed.len(), record.packed_bytes());
            assert!(packed.len() <= MAX_PACKED_BYTES);
            packed.push(9);
            let mut in_place = vec![9; packed.len()];
            record.pack_into(&mut in_place);
            assert_eq!(in_place, packed);
            assert_eq!(RecordView::packed_client(&packed), record.client);
            let mut rest = &packed[..];
            assert_eq!(RecordView::unpack(&mut rest), Some(record));
            assert_eq!(rest, [9]);
            for cut in 0..packed.len() - 1 {
                assert_eq!(RecordView::unpack(&mut &packed[..cut]), None);
            }
        }
    }

    proptest! {
        #[test]
        fn a_tombstone_survives_its_line_and_packing(
            client in "[!-~]{1,255}",
            origin in "[!-~]{1,64}",
            time: u64,
            epoch: u64,
            sequence: u64,
        ) {
            let (client, origin) = (client.as_bytes(), origin.as_bytes());
            let time = Timestamp::from_nanos(time);
            let tombstone = RecordView::tombstone(client, time, origin, epoch, sequence);
            prop_assert!(tombstone.is_tombstone());
            let mut line = Vec::new();
            tombstone.write_line(&mut line);
            prop_assert!(line.len() <= MAX_LINE_BYTES && RecordView::is_line(&line));
            let line = line.strip_suffix(b"\n").unwrap();
            prop_assert_eq!(RecordView::parse_line(line), Some(tombstone));
            let mut packed = Vec::new();
            tombstone.pack(&mut packed);
            prop_assert_eq!(RecordView::unpack(&mut &packed[..]), Some(tombstone));
            // In the one order: later than a record of a nanosecond before, whatever else it has.
            let (text, earlier) = (&b"1"[..], Timestamp::from_nanos(time.as_nanos().wrapping_sub(1)));
            let report = RecordView { location: b"+1+1", time_text: text, time: earlier, ..tombstone };
            prop_assert_eq!(tombstone.order(&report).is_gt(), earlier < time);
        }
    }

    #[test]
    fn a_tombstones_line_is_the_protocols() {
        let line = b"TOMBSTONE Ball 7 9 1479413884655887836 kiwi.cs.ucla.edu";
        let mut written = Vec::new();
        RecordView::parse_line(line)
            .unwrap()
            .write_line(&mut written);
        assert_eq!(written, [&line[..], b"\n"].concat());
        let text = String::from_utf8_lossy(line).into_owned();
        for (from, to) in [
            ("TOMBSTONE", "TOMBSTONES"),
            (" 7 ", " -7 "),
            (" 9 ", " 9.0 "),
            (" 1479413884655887836", ""),
            ("1479413884655887836", "18446744073709551616"),
            ("edu", "edu +1+1"),
            ("kiwi.cs", "kiwi\tcs"),
            ("Ball ", "Ba\x0bll "),
            ("Ball ", "Ball  "),
        ] {
            let broken = text.replace(from, to);
            assert_eq!(RecordView::parse_line(broken.as_bytes()), None, "{broken}");
        }
        // A report without a location is none.
        let report = b"RECORD Ball 7 9 1479413884655887836 kiwi.cs.ucla.edu  ";
        assert_eq!(RecordView::parse_line(report), None);
    }

    #[test]
    fn the_at_line_is_the_protocols() {
        let mut out = Vec::new();
        view().write_at_line(&mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "AT Ball +0.263873386 kiwi.cs.ucla.edu +34.068930-118.445127 1479413884.392014450\n"
        );
    }

    #[test]
    fn the_longest_record_fits_its_limit() {
        let client = [b'c'; MAX_CLIENT_BYTES];
        let line = [
            "IAMAT ".as_bytes(),
            &client,
            format!(" +{:020}-{:018} {:030}.000000000", 0, 0, 1).as_bytes(),
        ]
        .concat();
        let Ok(Command::Iamat(report)) = Command::parse(&line) else {
            panic!("a report")
        };
        let origin = [b'o'; MAX_NAME_BYTES];
        let received = Timestamp::from_nanos(u64::MAX);
        let view = RecordView::of_report(&report, received, &origin, u64::MAX, u64::MAX);
        let mut out = Vec::new();
        view.write_line(&mut out);
        assert!(
            out.len() <= MAX_LINE_BYTES,
            "{} of {MAX_LINE_BYTES}",
            out.len()
        );
        let mut packed = Vec::new();
        view.pack(&mut packed);
        assert_eq!(RecordView::unpack(&mut &packed[..]), Some(view));
    }

    #[test]
    fn order_is_by_time_then_origin_then_epoch_then_sequence() {
        let base = view();
        let later = RecordView {
            time: Timestamp::from_nanos(base.time.as_nanos() + 1),
            origin: b"A",
            ..base
        };
        let origin = RecordView {
            origin: b"Welsh",
            epoch: 0,
            ..base
        };
        let epoch = RecordView {
            epoch: 8,
            sequence: 0,
            ..base
        };
        let sequence = RecordView {
            sequence: 10,
            ..base
        };
        let mut all = [later, origin, epoch, sequence, base];
        all.sort_by(|a, b| a.order(b));
        assert_eq!(all, [base, sequence, epoch, origin, later]);
    }

    #[test]
    fn broken_lines_are_refused() {
        let text = String::from_utf8_lossy(LINE).into_owned();
        for (from, to) in [
            ("RECORD", "RECORDS"),
            (" 7 ", " -7 "),
            (" 9 ", " 9.0 "),
            ("+34", "34"),
            (" 1479413884.392014450", ""),
            (" 1479413884.392014450", " 1479413884.392014450 1"),
            ("kiwi.cs", "kiwi\tcs"),
            ("Ball ", "Ba\x0bll "),
            ("Ball ", "Ball  "),
            // More than 300 s after its own receipt: no origin accepts that.
            (" 1479413884.392014450", " 1479414184.655887837"),
        ] {
            let broken = text.replace(from, to);
            assert_eq!(RecordView::parse_line(broken.as_bytes()), None, "{broken}");
        }
    }
}
