//! A report as the herd keeps it: what the client said, and which server took it when.
//!
//! Servers order records by (`time`, `origin`, `epoch`, `sequence`). The order is total, so two
//! servers that took the same time at once end with the same winner wherever the two meet.

use std::cmp::Ordering;

use crate::model::command::{MAX_CLIENT_BYTES, Report};
use crate::model::decimal::{MAX_FIELD_BYTES, parse_u64};
use crate::model::fields::MAX_NAME_BYTES;
use crate::model::fields::{has_white_space, split_exactly};
use crate::model::geo::Position;
use crate::model::time::{Timestamp, write_u64};

/// How far ahead of the clock that judges it a client's time may be, in seconds. One poisoned
/// date would shut a client out of its own record for ever.
pub const MAX_AHEAD_SECONDS: u64 = 300;

/// Most bytes that a record's line takes, its LF included.
pub const MAX_LINE_BYTES: usize =
    b"RECORD".len() + MAX_NAME_BYTES + MAX_CLIENT_BYTES + 2 * MAX_FIELD_BYTES + 3 * 20 + 8;

/// A record whose bytes lie elsewhere: in a stored [`Record`] or in a line just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Who reports.
    pub client: &'a [u8],
    /// Where the client is, as it sent it.
    pub location: &'a [u8],
    /// When it was there, as it sent it.
    pub time_text: &'a [u8],
    /// The same as nanoseconds.
    pub time: Timestamp,
    /// When the origin took the report, by the origin's clock.
    pub received: Timestamp,
    /// The server that took the report from the client.
    pub origin: &'a [u8],
    /// Which start of the origin this was.
    pub epoch: u64,
    /// The how-manieth report of that start.
    pub sequence: u64,
}

impl<'a> RecordView<'a> {
    /// The order between servers; equal only for one and the same record.
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
    /// client location time` and LF.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RECORD ");
        out.extend_from_slice(self.origin);
        for number in [self.epoch, self.sequence, self.received.as_nanos()] {
            out.push(b' ');
            write_u64(number, out);
        }
        self.write_report(out);
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
    /// `None` for anything that no server of the herd would have accepted from a client: the
    /// neighbor that sent it is broken.
    pub fn parse_line(line: &'a [u8]) -> Option<RecordView<'a>> {
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
        let valid = keyword == b"RECORD"
            && origin.len() <= MAX_NAME_BYTES
            && client.len() <= MAX_CLIENT_BYTES
            && !has_white_space(origin)
            && !has_white_space(client)
            && Position::is_valid(location)
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

    /// The record of a report that `origin` takes now.
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

/// Bytes that four numbers and the lengths of four texts take, before the texts themselves.
const HEADER_BYTES: usize = 4 * 8 + 4;

/// How records lie in memory, little-endian: `time`, `received`,
/// `epoch` and `sequence` of 8 bytes each; the lengths of origin, client, location and time text
/// of one byte each; then those texts.
impl<'a> RecordView<'a> {
    /// Bytes that the record takes when it is stored.
    pub fn stored_bytes(&self) -> usize {
        HEADER_BYTES + self.texts().iter().map(|text| text.len()).sum::<usize>()
    }

    /// Writes the record to the beginning of `bytes`, which must have room. Its texts must be
    /// within their limits, which parsing ensures.
    pub fn store(&self, bytes: &mut [u8]) {
        let (header, mut rest) = bytes.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&self.header());
        for text in self.texts() {
            let (room, behind) = rest.split_at_mut(text.len());
            room.copy_from_slice(text);
            rest = behind;
        }
    }

    /// The record at the beginning of bytes that [`store`](Self::store) has written.
    ///
    /// Panics where none can be.
    pub fn stored(bytes: &'a [u8]) -> RecordView<'a> {
        let (header, texts) = bytes.split_at(HEADER_BYTES);
        let (origin, texts) = texts.split_at(usize::from(header[32]));
        let (client, texts) = texts.split_at(usize::from(header[33]));
        let (location, texts) = texts.split_at(usize::from(header[34]));
        RecordView {
            client,
            location,
            time_text: &texts[..usize::from(header[35])],
            time: Timestamp::from_nanos(number(header, 0)),
            received: Timestamp::from_nanos(number(header, 1)),
            origin,
            epoch: number(header, 2),
            sequence: number(header, 3),
        }
    }

    /// The client alone of a stored record: a table is searched by it. Panics as
    /// [`stored`](Self::stored) does.
    pub fn stored_client(bytes: &'a [u8]) -> &'a [u8] {
        let start = HEADER_BYTES + usize::from(bytes[32]);
        &bytes[start..start + usize::from(bytes[33])]
    }

    fn texts(&self) -> [&'a [u8]; 4] {
        [self.origin, self.client, self.location, self.time_text]
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        for (room, number) in header.chunks_exact_mut(8).zip([
            self.time.as_nanos(),
            self.received.as_nanos(),
            self.epoch,
            self.sequence,
        ]) {
            room.copy_from_slice(&number.to_le_bytes());
        }
        for (room, text) in header[4 * 8..].iter_mut().zip(self.texts()) {
            debug_assert!(text.len() <= MAX_CLIENT_BYTES);
            *room = text.len() as u8;
        }
        header
    }
}

fn number(header: &[u8], index: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[index * 8..index * 8 + 8]);
    u64::from_le_bytes(bytes)
}

/// A record in one allocation of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record(Box<[u8]>);

impl Record {
    /// Copies what the view shows.
    pub fn new(view: &RecordView<'_>) -> Record {
        let mut bytes = vec![0; view.stored_bytes()];
        view.store(&mut bytes);
        Record(bytes.into_boxed_slice())
    }

    /// All of it.
    pub fn view(&self) -> RecordView<'_> {
        RecordView::stored(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;

    const LINE: &[u8] =
        b"RECORD Ball 7 9 1479413884655887836 kiwi.cs.ucla.edu +34.068930-118.445127 1479413884.392014450";

    fn view() -> RecordView<'static> {
        RecordView::parse_line(LINE).expect("a record line")
    }

    #[test]
    fn lines_and_stored_records_keep_every_field() {
        let stored = Record::new(&view());
        assert_eq!(stored.view(), view());
        assert_eq!(RecordView::stored_client(&stored.0), view().client);
        let mut line = Vec::new();
        stored.view().write_line(&mut line);
        assert_eq!(line, [LINE, b"\n"].concat());
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
        assert_eq!(Record::new(&view).view(), view);
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
