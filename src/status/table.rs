//! Lays out a survey in columns.

use std::fmt::{self, Write};
use std::time::Duration;

use super::{Answer, shown_age, shown_keys};
use crate::health::Problem;
use crate::link::neighbor::{LinkError, LinkStatus};

/// Columns past which the text beneath a line is wrapped.
const WIDTH: usize = 100;

/// Spaces before the text beneath a line.
const INDENT: usize = 4;

/// A line and the text beneath it.
#[derive(Default)]
struct Row {
    /// The cells. The last is free text, whatever the column it is in.
    cells: Vec<String>,
    beneath: Vec<String>,
}

/// Writes a line for each server: its state, its records and its clients. Beneath it is why it is not
/// well.
pub(super) fn servers(f: &mut fmt::Formatter<'_>, answers: &[Answer]) -> fmt::Result {
    let mut heads = vec![
        "SERVER",
        "STATE",
        "RECORDS",
        "DIGEST",
        "CLIENTS",
        "REFUSED LINKS",
        "VERSION",
        "KEYS",
        "UP FOR",
    ];
    let forgets =
        |answer: &Answer| matches!(&answer.result, Ok(status) if status.forget_after_s.is_some());
    let any_forgets = answers.iter().any(forgets);
    if any_forgets {
        heads.insert(heads.len() - 1, "FORGET AFTER");
    }
    // Where nobody was ever forgotten, there is no column for it.
    let is_forgotten = |answer: &Answer| matches!(&answer.result, Ok(s) if s.tombstones > 0);
    let forgotten = answers.iter().any(is_forgotten).then_some(3);
    if let Some(column) = forgotten {
        heads.insert(column, "FORGOTTEN");
    }
    let row = |answer: &Answer| match &answer.result {
        Ok(status) => {
            let digest = match &status.digest {
                Some(digest) => format!("{:016x}", digest.total()),
                None => "-".to_owned(),
            };
            let known = |text: String| if text.is_empty() { "-".into() } else { text };
            let mut cells = vec![
                answer.name.clone(),
                status.state.to_string(),
                grouped(status.records),
                digest,
                grouped(status.clients),
                grouped(status.refused),
                known(status.release.clone()),
                known(shown_keys(status)),
                span(Duration::from_millis(status.uptime_ms)),
            ];
            if any_forgets {
                cells.insert(cells.len() - 1, shown_age(status.forget_after_s));
            }
            if let Some(column) = forgotten {
                cells.insert(column, grouped(status.tombstones));
            }
            let beneath = status.problems.iter().map(shown_problem).collect();
            Row { cells, beneath }
        }
        Err(reason) => Row {
            cells: vec![answer.name.clone(), reason.clone()],
            ..Row::default()
        },
    };
    write_table(f, &heads, answers.iter().map(row).collect())
}

fn shown_problem(problem: &Problem) -> String {
    let time = span(Duration::from_millis(problem.for_ms));
    format!("{} for {time}: {}", problem.state, problem.reason)
}

/// Writes a line for each link: its phase and what its neighbor has yet to apply.
pub(super) fn links(f: &mut fmt::Formatter<'_>, answers: &[Answer]) -> fmt::Result {
    let heads = [
        "LINK",
        "PHASE",
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
            rows.push(link_row(&answer.name, neighbor, link));
        }
    }
    write_table(f, &heads, rows)
}

fn link_row(name: &str, neighbor: &str, link: &LinkStatus) -> Row {
    let lag = link.lag_ms.map(|lag| format!("{} ms", grouped(lag)));
    let error = match &link.error {
        Some(LinkError { ago_ms, reason, .. }) => {
            format!("{reason} ({} ago)", span(Duration::from_millis(*ago_ms)))
        }
        None => "-".to_owned(),
    };
    let cells = vec![
        format!("{name} > {neighbor}"),
        link.phase.to_string(),
        lag.unwrap_or_else(|| "-".to_owned()),
        grouped(link.queue.records as u64),
        grouped(link.queue.bytes as u64),
        grouped(link.resyncs),
        grouped(link.diverged),
        error,
    ];
    Row {
        cells,
        ..Row::default()
    }
}

/// Writes rows under their heads; text is aligned to the left of its column, numbers to the right.
fn write_table(f: &mut fmt::Formatter<'_>, heads: &[&str], rows: Vec<Row>) -> fmt::Result {
    let cells = |column: usize| {
        let aligned = rows
            .iter()
            .filter_map(move |row| row.cells[..row.cells.len() - 1].get(column));
        aligned.map(String::as_str)
    };
    let width = |column: usize| match cells(column).map(|cell| cell.chars().count()).max() {
        Some(widest) => widest.max(heads[column].len()),
        None => 0,
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let is_digit = |byte: u8| byte.is_ascii_digit() || byte == b',';
    let is_number = |cell: &str| {
        let number = cell.strip_suffix(" ms").unwrap_or(cell);
        cell == "-" || number.bytes().all(is_digit)
    };
    let heads = Row {
        cells: heads.iter().map(|&head| head.to_owned()).collect(),
        ..Row::default()
    };
    for Row {
        cells: row,
        beneath,
    } in std::iter::once(&heads).chain(&rows)
    {
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
        for text in beneath {
            for line in wrapped(text) {
                writeln!(f, "{:INDENT$}{line}", "")?;
            }
        }
    }
    Ok(())
}

/// Breaks a text at its spaces into lines that fit beneath a line.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| {
            line.is_empty() || INDENT + line.chars().count() + 1 + word.chars().count() <= WIDTH
        });
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines
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
    use crate::health::State;
    use crate::link::neighbor::LinkPhase;
    use crate::link::status::ServerStatus;
    use crate::model::digest::Digest;
    use crate::model::time::Timestamp;
    use crate::replica::outbox::Depth;

    struct Shown<F>(F);

    impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Shown<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (self.0)(f)
        }
    }

    #[test]
    fn columns_are_aligned_and_numbers_grouped() {
        let live = LinkStatus {
            phase: LinkPhase::Live,
            written: 5_000,
            acknowledged: 3_000,
            lag_ms: Some(1_020),
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
                at: Timestamp::from_nanos(10),
                ago_ms: 65_000,
                reason: "gone".to_owned(),
            }),
            ..LinkStatus::default()
        };
        let reason = "no neighbor is linked (".to_owned() + &"Ball: gone; ".repeat(8) + "x)";
        let problem = Problem {
            state: State::Alone,
            since: Timestamp::from_nanos(1),
            for_ms: 2_000,
            reason,
        };
        let status = ServerStatus {
            state: State::Alone,
            problems: vec![problem],
            release: "0.1.0".to_owned(),
            keys: vec!["0badcafe".to_owned(), "12345678".to_owned()],
            records: 1_234_567,
            uptime_ms: 3_700_000,
            clients: 12,
            links: [("Ball".to_owned(), down), ("Welsh".to_owned(), live)].into(),
            digest: Some(Digest::new(Timestamp::from_nanos(0))),
            ..ServerStatus::default()
        };
        let total = Digest::new(Timestamp::from_nanos(0)).total();
        let mut answers = [
            Answer {
                name: "Alford".to_owned(),
                result: Ok(status),
            },
            Answer {
                name: "Ball".to_owned(),
                result: Err("no answer within 2 s".to_owned()),
            },
            Answer {
                name: "Welsh".to_owned(),
                result: Ok(ServerStatus::default()),
            },
        ];
        let gone = "Ball: gone; ".repeat(4);
        assert_eq!(
            Shown(|f: &mut fmt::Formatter<'_>| servers(f, &answers)).to_string(),
            format!(
                "SERVER  STATE    RECORDS  DIGEST            CLIENTS  REFUSED LINKS  VERSION  KEYS               UP FOR\n\
                 Alford  alone  1,234,567  {total:016x}       12              0  0.1.0    0badcafe+12345678  1 h 1 min\n    \
                 alone for 2 s: no neighbor is linked ({gone}Ball:\n    \
                 gone; Ball: gone; Ball: gone; Ball: gone; x)\n\
                 Ball    no answer within 2 s\n\
                 Welsh   ok             0  -                       0              0  -        -                  0 s\n"
            )
        );
        assert_eq!(
            Shown(|f: &mut fmt::Formatter<'_>| links(f, &answers)).to_string(),
            "LINK            PHASE       LAG  QUEUED   BYTES  RESYNCS  DIVERGED  LAST ERROR\n\
             Alford > Ball   down          -       0       0        0         0  gone (1 min 5 s ago)\n\
             Alford > Welsh  live   1,020 ms     100  12,345        1         0  -\n"
        );
        answers[2].result.as_mut().unwrap().tombstones = 1_000;
        assert_eq!(
            Shown(|f: &mut fmt::Formatter<'_>| servers(f, &answers[1..])).to_string(),
            "SERVER  STATE  RECORDS  FORGOTTEN  DIGEST  CLIENTS  REFUSED LINKS  VERSION  KEYS  UP FOR\n\
             Ball    no answer within 2 s\n\
             Welsh   ok           0      1,000       -        0              0        -     -  0 s\n"
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
