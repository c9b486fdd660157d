//! Lays out a survey in columns.

use std::fmt::{self, Write};
use std::time::Duration;

use super::Answer;
use crate::link::neighbor::{LinkError, LinkStatus};
use crate::model::time::Timestamp;

/// The cells of one line. The last is free text, whatever the column it is in.
type Row = Vec<String>;

/// Writes a line for each server: its records and its clients.
pub(super) fn servers(f: &mut fmt::Formatter<'_>, answers: &[Answer]) -> fmt::Result {
    let heads = [
        "SERVER", "RECORDS", "DIGEST", "CLIENTS", "REFUSED", "UP FOR",
    ];
    let row = |answer: &Answer| match &answer.result {
        Ok(status) => {
            let digest = match &status.digest {
                Some(digest) => format!("{:016x}", digest.total()),
                None => "-".to_owned(),
            };
            vec![
                answer.name.clone(),
                grouped(status.records),
                digest,
                grouped(status.clients),
                grouped(status.refused),
                span(Duration::from_millis(status.uptime_ms)),
            ]
        }
        Err(reason) => vec![answer.name.clone(), reason.clone()],
    };
    write_table(f, &heads, answers.iter().map(row).collect())
}

/// Writes a line for each link: its phase and the records that its neighbor has yet to apply.
pub(super) fn links(f: &mut fmt::Formatter<'_>, answers: &[Answer], now: Timestamp) -> fmt::Result {
    let heads = [
        "LINK",
        "STATE",
        "LAG",
        "QUEUED",
        "BYTES",
        "RESYNCS",
        "DIVERGED",
        "LAST ERROR",
    ];
    let mut rows = Vec::new();
    for answer in answers {
        for (neighbor, link) in answer.result.iter().flat_map(|status| &status.links) {
            rows.push(link_row(&answer.name, neighbor, link, now));
        }
    }
    write_table(f, &heads, rows)
}

fn link_row(name: &str, neighbor: &str, link: &LinkStatus, now: Timestamp) -> Row {
    let lag = link.lag().map_or_else(|| "-".to_owned(), grouped);
    let error = match &link.error {
        Some(LinkError { at, reason }) => {
            let ago = Duration::from_nanos(now.as_nanos().saturating_sub(at.as_nanos()));
            format!("{reason} ({} ago)", span(ago))
        }
        None => "-".to_owned(),
    };
    vec![
        format!("{name} > {neighbor}"),
        link.phase.to_string(),
        lag,
        grouped(link.queue.records as u64),
        grouped(link.queue.bytes as u64),
        grouped(link.resyncs),
        grouped(link.diverged),
        error,
    ]
}

/// Writes rows under their heads; text is aligned to the left of its column, numbers to the right.
fn write_table(f: &mut fmt::Formatter<'_>, heads: &[&str], rows: Vec<Row>) -> fmt::Result {
    let cells = |column: usize| {
        let aligned = rows
            .iter()
            .filter_map(move |row| row[..row.len() - 1].get(column));
        aligned.map(String::as_str)
    };
    let width = |column: usize| match cells(column).map(|cell| cell.chars().count()).max() {
        Some(widest) => widest.max(heads[column].len()),
        None => 0,
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let is_digit = |byte: u8| byte.is_ascii_digit() || byte == b',';
    let is_number = |cell: &str| cell == "-" || cell.bytes().all(is_digit);
    let heads: Row = heads.iter().map(|&head| head.to_owned()).collect();
    for row in std::iter::once(&heads).chain(&rows) {
        let mut line = String::new();
        for (column, cell) in row[..row.len() - 1].iter().enumerate() {
            let width = widths[column];
            if cells(column).all(is_number) {
                write!(line, "{cell:>width$}  ")?;
            } else {
                write!(line, "{cell:<width$}  ")?;
            }
        }
        line.extend(row.last().map(String::as_str));
        writeln!(f, "{line}")?;
    }
    Ok(())
}

/// Returns a number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a span of time in its two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::neighbor::LinkPhase;
    use crate::link::status::ServerStatus;
    use crate::model::digest::Digest;
    use crate::replica::outbox::Depth;

    struct Shown<F>(F);

    impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Shown<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (self.0)(f)
        }
    }

    #[test]
    fn columns_are_aligned_and_numbers_grouped() {
        let second = 1_000_000_000;
        let live = LinkStatus {
            phase: LinkPhase::Live,
            written: 5_000,
            acknowledged: 3_000,
            queue: Depth {
                batches: 1,
                bytes: 12_345,
                records: 100,
                overflowed: false,
            },
            resyncs: 1,
            diverged: 0,
            error: None,
        };
        let down = LinkStatus {
            error: Some(LinkError {
                at: Timestamp::from_nanos(10 * second),
                reason: "gone".to_owned(),
            }),
            ..LinkStatus::default()
        };
        let status = ServerStatus {
            records: 1_234_567,
            uptime_ms: 3_700_000,
            clients: 12,
            links: [("Ball".to_owned(), down), ("Welsh".to_owned(), live)].into(),
            digest: Some(Digest::new(Timestamp::from_nanos(0))),
            ..ServerStatus::default()
        };
        let total = Digest::new(Timestamp::from_nanos(0)).total();
        let answers = [
            Answer {
                name: "Alford".to_owned(),
                result: Ok(status),
            },
            Answer {
                name: "Ball".to_owned(),
                result: Err("no answer within 2 s".to_owned()),
            },
        ];
        let now = Timestamp::from_nanos(75 * second);
        assert_eq!(
            Shown(|f: &mut fmt::Formatter<'_>| servers(f, &answers)).to_string(),
            format!(
                "SERVER    RECORDS  DIGEST            CLIENTS  REFUSED  UP FOR\n\
                 Alford  1,234,567  {total:016x}       12        0  1 h 1 min\n\
                 Ball    no answer within 2 s\n"
            )
        );
        assert_eq!(
            Shown(|f: &mut fmt::Formatter<'_>| links(f, &answers, now)).to_string(),
            "LINK            STATE    LAG  QUEUED   BYTES  RESYNCS  DIVERGED  LAST ERROR\n\
             Alford > Ball   down       -       0       0        0         0  gone (1 min 5 s ago)\n\
             Alford > Welsh  live   2,100     100  12,345        1         0  -\n"
        );
    }

    #[test]
    fn spans_have_two_units_and_numbers_commas() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3_600, "1 h 0 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }
}
