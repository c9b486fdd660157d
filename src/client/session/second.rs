//! Execution of the lines of one turn in the second dialect. It shares with the first how reports are
//! collected and applied, how places are asked for, and how lines are counted and logged.

use std::io::Write;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::TURN_REQUESTS;
use super::errors::{Error, Seconds, write_fault};
use super::first_line::DIALECT;
use super::turn::{Turn, loggable};
use crate::client::refused_lines::Refusal;
use crate::client::requests::{CommandName, RequestOutcome};
use crate::logging::lines::Extent;
use crate::model::area::Circle;
use crate::model::decimal::{MAX_FIELD_BYTES, fixed_digits};
use crate::model::geo::Position;
use crate::model::record::RecordView;
use crate::model::request::{Center, Request, WatchTarget, rectangle};
use crate::model::time::{Timestamp, write_u64};
use crate::replica::search::Hits;
use crate::replica::stall::STALL_LIMIT;
use crate::replica::{ForgetOutcome, Outcome};
use crate::watch::{Target, WatchError};

/// Time of a turn past which a search ends it: other connections are served before the next line.
const SEARCH_TIME: Duration = Duration::from_micros(500);

/// Bytes of replies past which a search ends the turn.
const SEARCH_BYTES: usize = 32 << 10;

/// Lines of a reply that are logged; of further ones the number.
const LOGGED_LINES: usize = 4;

impl<'a> Turn<'a> {
    /// Answers the line that asks for the second dialect, which the lines behind it speak.
    pub(super) fn greet(&mut self, line: &[u8]) {
        self.is_second = true;
        self.log_received(line);
        let before = self.output.len();
        let (name, version) = (self.services.replica.name(), env!("CARGO_PKG_VERSION"));
        // Memory takes any text.
        let _ = writeln!(self.output, "HELLO {DIALECT} {name} {version}");
        self.done(CommandName::Hello, before);
    }

    /// Carries out the next line.
    pub(super) fn execute_second(&mut self, line: &'a [u8]) {
        let request = Request::parse(line);
        if let Ok(Request::Iamat(report)) = request {
            self.reports.push(report);
            self.lines.push(line);
            return;
        }
        self.apply();
        if self.stalled {
            return;
        }
        match request {
            Ok(request) => self.answer_second(&request, line),
            Err(fault) => {
                let command = CommandName::of_verb(fault.verb);
                let reason = Refusal::of_fault(&fault.kind);
                let before = self.output.len();
                write_fault(&fault, self.received, self.output);
                if self.note_refusal(line, command, reason)
                    && let Some(log) = &mut self.log
                {
                    log.received(loggable(line), Extent::Shortened);
                    let end = self.output.len() - 1;
                    log.sent(&self.output[before..end], Extent::Whole);
                }
            }
        }
    }

    /// Applies the collected reports, and writes their replies.
    pub(super) fn apply_second(&mut self) {
        let mut stored = StoredLines::default();
        if !self.store_reports(|index, record| stored.push(index, record)) {
            return;
        }
        let before = self.output.len();
        for at in 0..self.reports.len() {
            let (report, line) = (self.reports[at], self.lines[at]);
            let error = match self.outcomes[at] {
                Outcome::Stored => {
                    self.counts.count(RequestOutcome::Stored);
                    let origin = self.services.replica.name().as_bytes();
                    RecordView::of_report(&report, self.received, origin, 0, 0)
                        .write_at_line(self.output);
                    continue;
                }
                Outcome::NotNewer => {
                    self.counts.count(RequestOutcome::NotNewer);
                    self.output.extend_from_slice(stored.of(at));
                    continue;
                }
                Outcome::Forgotten(time) => Error::Forgotten(report.client, time),
                Outcome::Expired => Error::Expired(report.time_text, self.received),
                Outcome::TooFarAhead => Error::Ahead(report.time_text, self.received),
                Outcome::Full => Error::Full(self.services.replica.len()),
                Outcome::Unwritable => Error::Unwritable,
                Outcome::Removed => Error::Removed,
            };
            self.fail(line, CommandName::Iamat, error);
        }
        self.reports.clear();
        self.lines.clear();
        self.log_sent(before);
    }

    fn answer_second(&mut self, request: &Request<'a>, line: &'a [u8]) {
        if let Request::Whatsat(inquiry) = request {
            return self.answer(inquiry, line);
        }
        if let Request::Forget(client) = request {
            return self.forget(client, line);
        }
        self.log_received(loggable(line));
        let before = self.output.len();
        match *request {
            Request::Iamat(_) | Request::Whatsat(_) | Request::Forget(_) => {}
            Request::Where(client) => self.locate(client, line),
            Request::Nearby {
                center,
                radius,
                bound,
            } => self.nearby(&center, radius.to_f64(), usize::from(bound), line),
            Request::Within {
                south_west,
                north_east,
                bound,
            } => {
                let area = rectangle(&south_west.position, &north_east.position);
                let replica = &self.services.replica;
                let hits = replica.within(&area, usize::from(bound), self.received);
                self.list(CommandName::Within, &hits, before);
            }
            Request::Watch { name, target } => self.watch(name, &target, line),
            Request::Unwatch(name) => self.unwatch(name, line),
            Request::Ping(word) => {
                self.output.extend_from_slice(b"PONG");
                if let Some(word) = word {
                    self.output.push(b' ');
                    self.output.extend_from_slice(word);
                }
                self.output.push(b'\n');
                self.done(CommandName::Ping, before);
            }
            // Without tokens anybody may do everything.
            Request::Auth(_) => {
                self.output.extend_from_slice(b"WELCOME anyone\n");
                self.done(CommandName::Auth, before);
            }
        }
    }

    /// Answers where a client is.
    fn locate(&mut self, client: &[u8], line: &[u8]) {
        let before = self.output.len();
        let replica = &self.services.replica;
        let known = replica.locate(client, self.received, |found| {
            found.map(|record| record.write_at_line(self.output))
        });
        match known {
            Some(()) => self.done(CommandName::Where, before),
            None => self.fail_unknown(line, CommandName::Where, client, before),
        }
    }

    /// Answers which clients are near a point or a client.
    fn nearby(&mut self, center: &Center<'_>, radius_km: f64, bound: usize, line: &[u8]) {
        let before = self.output.len();
        let replica = &self.services.replica;
        let (center, left_out) = match center {
            Center::Place(place) => (place.position, None),
            Center::Client(client) => {
                let found = replica.locate(client, self.received, |found| {
                    let mut location = ArrayVec::<u8, MAX_FIELD_BYTES>::new();
                    location.try_extend_from_slice(found?.location).ok()?;
                    Some(location)
                });
                match found.and_then(|location| Position::parse(&location)) {
                    Some(position) => (position, Some(*client)),
                    None => return self.fail_unknown(line, CommandName::Nearby, client, before),
                }
            }
        };
        let circle = Circle { center, radius_km };
        let hits = replica.nearby(&circle, bound, left_out, self.received);
        self.list(CommandName::Nearby, &hits, before);
    }

    /// Writes the lines of clients that a search has found, and the empty line behind them.
    fn list(&mut self, command: CommandName, hits: &Hits, before: usize) {
        for (km, record) in hits.iter() {
            if command == CommandName::Nearby {
                self.output.extend_from_slice(b"NEAR ");
                write_km(km, self.output);
                self.output.push(b' ');
            }
            record.write_at_line(self.output);
        }
        self.output.push(b'\n');
        let elapsed = Timestamp::now()
            .as_nanos()
            .saturating_sub(self.began.as_nanos());
        self.is_used_up =
            u128::from(elapsed) > SEARCH_TIME.as_nanos() || self.output.len() > SEARCH_BYTES;
        self.counts.count(RequestOutcome::Done(command));
        self.log_list(before, hits.len());
    }

    /// Logs the first lines of a list that begins at `before`, and how many it has.
    fn log_list(&mut self, before: usize, lines: usize) {
        let Some(log) = &mut self.log else { return };
        let shown = self.output[before..].split(|&byte| byte == b'\n');
        for line in shown.take(lines.min(LOGGED_LINES)) {
            log.sent(line, Extent::Whole);
        }
        if lines == 0 || lines > LOGGED_LINES {
            let text = format!("... ({lines} lines)");
            log.sent(text.as_bytes(), Extent::Whole);
        }
    }

    /// Has a client forgotten, unless records can't be changed since the disk does not answer.
    fn forget(&mut self, client: &[u8], line: &[u8]) {
        let (replica, stall) = (&self.services.replica, &self.services.stall);
        let forgotten = match stall.is_stalled() {
            true => None,
            false => replica.forget_within(STALL_LIMIT, client, self.received),
        };
        let Some((outcome, position)) = forgotten else {
            self.stalled = true;
            return;
        };
        // The last position is the highest.
        self.sync_position = position.or(self.sync_position);
        self.log_received(line);
        let before = self.output.len();
        let error = match &outcome {
            ForgetOutcome::Forgotten(time) => {
                let output = &mut *self.output;
                output.extend_from_slice(b"FORGOT ");
                output.extend_from_slice(replica.name().as_bytes());
                output.push(b' ');
                output.extend_from_slice(client);
                // Memory takes any text.
                let _ = writeln!(output, " {}", Seconds(*time));
                return self.done(CommandName::Forget, before);
            }
            ForgetOutcome::Full => Error::Full(replica.len()),
            ForgetOutcome::Unwritable => Error::Unwritable,
            ForgetOutcome::Removed => Error::Removed,
            ForgetOutcome::NeighborTooOld(name) => Error::NeighborTooOld(name),
        };
        self.fail(line, CommandName::Forget, error);
        self.log_sent(before);
    }

    /// Begins a watch.
    fn watch(&mut self, name: &[u8], target: &WatchTarget<'_>, line: &[u8]) {
        let before = self.output.len();
        let target = match target {
            WatchTarget::Client(client) => Target::Client((*client).into()),
            WatchTarget::Area { center, radius } => Target::Area(Circle {
                center: center.position,
                radius_km: radius.to_f64(),
            }),
        };
        let began = self.watching.watch(name, target, self.services, self.waker);
        let error = match began {
            Ok(()) => {
                self.write_name(b"WATCHING ", name);
                return self.done(CommandName::Watch, before);
            }
            Err(WatchError::NameInUse) => Error::NameInUse(name),
            Err(WatchError::Busy) => Error::Busy,
        };
        self.fail(line, CommandName::Watch, error);
        self.log_sent(before);
    }

    /// Ends a watch.
    fn unwatch(&mut self, name: &[u8], line: &[u8]) {
        let before = self.output.len();
        if self.watching.unwatch(name) {
            self.write_name(b"UNWATCHED ", name);
            return self.done(CommandName::Unwatch, before);
        }
        self.fail(line, CommandName::Unwatch, Error::UnknownWatch(name));
        self.log_sent(before);
    }

    fn write_name(&mut self, word: &[u8], name: &[u8]) {
        self.output.extend_from_slice(word);
        self.output.extend_from_slice(name);
        self.output.push(b'\n');
    }

    /// Counts and logs the reply to a line that was carried out, which begins at `before`.
    fn done(&mut self, command: CommandName, before: usize) {
        self.counts.count(RequestOutcome::Done(command));
        self.log_sent(before);
    }

    /// Writes, counts and logs that a client is not known.
    pub(super) fn fail_unknown(
        &mut self,
        line: &[u8],
        command: CommandName,
        client: &[u8],
        before: usize,
    ) {
        let error = match self.services.replica.is_caught_up() {
            true => Error::UnknownClient(client),
            false => Error::Starting(client),
        };
        self.fail(line, command, error);
        self.log_sent(before);
    }

    /// Writes an error reply, counts it, and logs the reason.
    fn fail(&mut self, line: &[u8], command: CommandName, error: Error<'_>) {
        error.write(self.output);
        let reason = match error {
            Error::Long => Refusal::TooLong,
            Error::Ahead(..) => Refusal::TooFarAhead,
            Error::Expired(..) => Refusal::Expired,
            Error::Forgotten(..) => Refusal::Forgotten,
            Error::UnknownClient(_) => Refusal::UnknownClient,
            Error::Starting(_) => Refusal::Starting,
            Error::UnknownWatch(_) => Refusal::UnknownWatch,
            Error::Full(_) => Refusal::Full,
            Error::Unwritable => Refusal::Unwritable,
            Error::Removed => Refusal::Removed,
            Error::NeighborTooOld(_) => Refusal::NeighborTooOld,
            Error::NameInUse(_) => Refusal::Name,
            Error::Busy => Refusal::Busy,
        };
        self.note_refusal(line, command, reason);
    }

    fn log_received(&mut self, line: &[u8]) {
        if let Some(log) = &mut self.log {
            log.received(line, Extent::Whole);
        }
    }
}

/// Appends kilometers with three decimals.
fn write_km(km: f64, out: &mut Vec<u8>) {
    // Not negative, and at most half of the earth's circumference.
    let meters = (km * 1_000.0).round() as u64;
    write_u64(meters / 1_000, out);
    out.push(b'.');
    out.extend_from_slice(&fixed_digits::<3>(meters % 1_000));
}

/// Lines of the records that reports of a group are not newer than.
#[derive(Debug, Default)]
struct StoredLines {
    text: Vec<u8>,
    /// Index of each report, and the end of its line.
    ends: ArrayVec<(usize, usize), TURN_REQUESTS>,
}

impl StoredLines {
    fn push(&mut self, index: usize, record: &RecordView<'_>) {
        let start = self.text.len();
        record.write_at_line(&mut self.text);
        // It is the AT line under another name.
        self.text.splice(start..start + b"AT".len(), *b"OLD");
        self.ends.push((index, self.text.len()));
    }

    fn of(&self, index: usize) -> &[u8] {
        let at = self.ends.iter().position(|(of, _)| *of == index);
        let Some(at) = at else { return b"" };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
        &self.text[start..self.ends[at].1]
    }
}
