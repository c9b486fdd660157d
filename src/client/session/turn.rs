//! Execution of the lines of one turn: each is parsed, carried out, and answered in order.

use std::net::SocketAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use log::{Level, debug, log_enabled};

use super::TURN_REQUESTS;
use super::errors::Error;
use super::pending::{PlacesCall, end_places};
use super::pushes::{SessionWaker, Watching};
use super::sent_lines::log_replies;
use crate::client::counts::{LateRequest, WorkerCounts};
use crate::client::refused_lines::Refusal;
use crate::client::requests::{CommandName, RequestOutcome};
use crate::client::services::Services;
use crate::logging::lines::{Extent, LineBatch};
use crate::logging::strangers;
use crate::model::command::{Command, Inquiry, Report};
use crate::model::decimal::MAX_FIELD_BYTES;
use crate::model::fields::fields;
use crate::model::printable::Shortened;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::replica::Outcome;
use crate::replica::stall::STALL_LIMIT;
use crate::store::journal::SyncPosition;

/// Time by which the clock of deadlines may be behind a turn's own: a bit more than its step.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// The lines of one turn: reports in a row are applied as one group, and every reply is written in
/// the order of its line. A line is logged when it is answered, before its reply.
pub(super) struct Turn<'a> {
    pub(super) client: SocketAddr,
    /// The lines are of the second dialect.
    pub(super) is_second: bool,
    /// When the turn began.
    pub(super) began: Timestamp,
    /// Set once the lines so far have taken so long that other connections are to be served first.
    pub(super) is_used_up: bool,
    /// The session's watches.
    pub(super) watching: &'a mut Watching,
    /// The way in which they wake the session.
    pub(super) waker: &'a SessionWaker,
    /// The call that answers the last line, if a provider on the network has to.
    pub(super) places_call: Option<Box<PlacesCall>>,
    /// The position up to which the journal must be on disk before replies are sent.
    pub(super) sync_position: Option<SyncPosition>,
    pub(super) services: &'a Services,
    /// Counts of the worker that runs the turn.
    pub(super) counts: &'a WorkerCounts,
    pub(super) received: Timestamp,
    /// Set once records can't be changed since the disk does not answer: the collected reports and
    /// the lines behind them are to be executed in a later turn.
    pub(super) stalled: bool,
    pub(super) reports: ArrayVec<Report<'a>, TURN_REQUESTS>,
    /// The lines of the reports, echoed if a report is rejected.
    pub(super) lines: ArrayVec<&'a [u8], TURN_REQUESTS>,
    pub(super) outcomes: &'a mut Vec<Outcome>,
    pub(super) output: &'a mut Vec<u8>,
    /// Present if lines in and out are logged.
    pub(super) log: Option<LineBatch<'static>>,
}

impl<'a> Turn<'a> {
    /// Carries out the next line.
    pub(super) fn execute(&mut self, line: &'a [u8]) {
        if self.is_second {
            return self.execute_second(line);
        }
        match Command::parse(line) {
            Ok(Command::Iamat(report)) => {
                self.reports.push(report);
                self.lines.push(line);
            }
            Ok(Command::Whatsat(inquiry)) => {
                self.apply();
                if !self.stalled {
                    self.answer(&inquiry, line);
                }
            }
            // A malformed line may be anything, and is logged where it is refused.
            Err(invalid) => self.reject(line, Refusal::Invalid(invalid)),
        }
    }

    /// Returns whether reports were collected that are not applied yet.
    pub(super) fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// Refuses a line that is not a valid command: the first dialect echoes it.
    pub(super) fn reject(&mut self, line: &[u8], reason: Refusal) {
        self.apply();
        if self.stalled {
            return;
        }
        let before = self.output.len();
        let is_shown = self.refuse(line, reason);
        if let (true, Some(log)) = (is_shown, &mut self.log) {
            log.received(loggable(line), Extent::Shortened);
            let reply = &self.output[before..self.output.len() - 1];
            let end = line.len().min(reply.len());
            let shows_token = reply.ends_with(&line[..end]) && loggable(line) != line;
            let reply = if shows_token { b"? AUTH ***" } else { reply };
            log.sent(reply, Extent::Shortened);
        }
    }

    /// Writes the reply to a line that is refused, counts it, and logs the reason. Returns whether the
    /// line itself may be logged: as with reasons, that is limited.
    fn refuse(&mut self, line: &[u8], reason: Refusal) -> bool {
        match self.is_second {
            true => Error::Long.write(self.output),
            false => echo(line, self.output),
        }
        self.note_refusal(line, CommandName::of_refused(line, reason), reason)
    }

    /// Counts a line that is refused, and logs the reason. Returns whether the line itself may be
    /// logged.
    pub(super) fn note_refusal(
        &mut self,
        line: &[u8],
        command: CommandName,
        reason: Refusal,
    ) -> bool {
        self.counts.count(RequestOutcome::Refused(command, reason));
        let (client, has_reasons) = (self.client, log_enabled!(Level::Debug));
        let is_wanted = has_reasons || self.log.is_some() && reason.is_malformed();
        let is_shown = is_wanted && strangers::admit_line(self.received);
        if is_shown && has_reasons {
            let line = Shortened(loggable(line));
            debug!("client {client}: refused, {reason}: {line}");
        }
        is_shown
    }

    /// Applies the collected reports, and writes their replies.
    pub(super) fn apply(&mut self) {
        if self.reports.is_empty() || self.stalled {
            return;
        }
        if self.is_second {
            return self.apply_second();
        }
        if !self.store_reports(|_, _| ()) {
            return;
        }
        let before = self.output.len();
        for at in 0..self.reports.len() {
            let (report, line) = (self.reports[at], self.lines[at]);
            let outcome = self.outcomes[at];
            match Refusal::of_report(&outcome) {
                None => {
                    self.counts.count(match outcome {
                        Outcome::Stored => RequestOutcome::Stored,
                        _ => RequestOutcome::NotNewer,
                    });
                    let origin = self.services.replica.name().as_bytes();
                    RecordView::of_report(&report, self.received, origin, 0, 0)
                        .write_at_line(self.output);
                }
                Some(reason) => {
                    self.refuse(line, reason);
                }
            }
        }
        self.reports.clear();
        self.lines.clear();
        self.log_sent(before);
    }

    /// Has the replica apply the collected reports; their outcomes are in `outcomes` then. Returns
    /// `false` if the turn is stalled. `show_stored` is that of [`Replica::report_within`].
    ///
    /// [`Replica::report_within`]: crate::replica::Replica::report_within
    pub(super) fn store_reports(
        &mut self,
        show_stored: impl FnMut(usize, &RecordView<'_>),
    ) -> bool {
        let Services { replica, stall, .. } = self.services;
        self.outcomes.clear();
        let (reports, outcomes) = (&self.reports, &mut *self.outcomes);
        let applied = match stall.is_stalled() {
            true => None,
            false => {
                replica.report_within(STALL_LIMIT, reports, self.received, outcomes, show_stored)
            }
        };
        let Some(sync_position) = applied else {
            self.stalled = true;
            return false;
        };
        // The last position is the highest.
        self.sync_position = sync_position.or(self.sync_position);
        if let Some(log) = &mut self.log {
            for line in &self.lines {
                log.received(line, Extent::Whole);
            }
        }
        true
    }

    /// Answers which places are near a client.
    pub(super) fn answer(&mut self, inquiry: &Inquiry<'a>, line: &[u8]) {
        if let Some(log) = &mut self.log {
            log.received(line, Extent::Whole);
        }
        let before = self.output.len();
        let mut location = ArrayVec::<u8, MAX_FIELD_BYTES>::new();
        let known = self
            .services
            .replica
            .locate(inquiry.client, self.received, |found| {
                let Some(view) = found else {
                    return false;
                };
                view.write_at_line(self.output);
                location.try_extend_from_slice(view.location).is_ok()
            });
        if !known && self.is_second {
            return self.fail_unknown(line, CommandName::Whatsat, inquiry.client, before);
        }
        if !known {
            self.refuse(line, Refusal::UnknownClient);
            return self.log_sent(before);
        }
        let places = &self.services.places;
        match places.lookup(&location, inquiry.radius, inquiry.bound, self.output) {
            None => {
                self.counts.count(RequestOutcome::Answered);
                end_places(self.output);
                self.log_sent(before);
            }
            // The reply is sent in one write, so its beginning waits for the rest; the replies
            // before it do not.
            Some(search) => {
                self.places_call = Some(Box::new(PlacesCall {
                    reply: self.output.split_off(before),
                    search,
                    request: LateRequest::new(&self.services.counts),
                }));
            }
        }
    }

    /// Logs the replies from `before` on.
    pub(super) fn log_sent(&mut self, before: usize) {
        if let Some(log) = &mut self.log {
            log_replies(log, &self.output[before..]);
        }
    }
}

/// Returns a line as it may be logged: without a token.
pub(super) fn loggable(line: &[u8]) -> &[u8] {
    match fields(line).next() {
        Some(name) if name.eq_ignore_ascii_case(b"AUTH") => b"AUTH ***",
        _ => line,
    }
}

fn echo(line: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"? ");
    output.extend_from_slice(line);
    output.push(b'\n');
}

/// Returns the nanoseconds since a turn began, by the wall clock, which was read then anyway. Where
/// that clock was set meanwhile, the clock of deadlines limits the error.
pub(super) fn turn_nanos(began: Timestamp, by_deadlines: Duration) -> u64 {
    let nanos = Timestamp::now().as_nanos().saturating_sub(began.as_nanos());
    let limit = (by_deadlines + CLOCK_SLACK).as_nanos();
    nanos.min(u64::try_from(limit).unwrap_or(u64::MAX))
}
