//! Execution of the lines of one turn: each is parsed, carried out, and answered in order.

use std::net::SocketAddr;

use arrayvec::ArrayVec;
use log::{Level, debug, log_enabled};

use super::TURN_REQUESTS;
use super::pending::{PlacesCall, end_places};
use crate::client::counts::{LateRequest, WorkerCounts};
use crate::client::refused_lines::Refusal;
use crate::client::requests::{CommandName, RequestOutcome};
use crate::client::services::Services;
use crate::logging::lines::{Extent, LineBatch, Peer};
use crate::logging::strangers;
use crate::model::command::{Command, Inquiry, Report};
use crate::model::decimal::MAX_FIELD_BYTES;
use crate::model::printable::Shortened;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::replica::Outcome;
use crate::replica::stall::STALL_LIMIT;
use crate::store::journal::SyncPosition;

/// The lines of one turn: reports in a row are applied as one group, and every reply is written in
/// the order of its line. A line is logged when it is answered, before its reply.
pub(super) struct Turn<'a> {
    pub(super) client: SocketAddr,
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

    /// Echoes a line that is not a valid command.
    pub(super) fn reject(&mut self, line: &[u8], reason: Refusal) {
        self.apply();
        if self.stalled {
            return;
        }
        let before = self.output.len();
        let is_shown = self.refuse(line, reason);
        if let (true, Some(log)) = (is_shown, &mut self.log) {
            log.received(line, Extent::Shortened);
            log.sent(
                &self.output[before..self.output.len() - 1],
                Extent::Shortened,
            );
        }
    }

    /// Writes the reply to a line that is refused, counts it, and logs the reason. Returns whether the
    /// line itself may be logged: as with reasons, that is limited.
    fn refuse(&mut self, line: &[u8], reason: Refusal) -> bool {
        echo(line, self.output);
        let command = CommandName::of_refused(line, reason);
        self.counts.count(RequestOutcome::Refused(command, reason));
        let (client, has_reasons) = (self.client, log_enabled!(Level::Debug));
        let is_wanted = has_reasons || self.log.is_some() && reason.is_malformed();
        let is_shown = is_wanted && strangers::admit_line(self.received);
        if is_shown && has_reasons {
            debug!("client {client}: refused, {reason}: {}", Shortened(line));
        }
        is_shown
    }

    /// Applies the collected reports, and writes their replies.
    pub(super) fn apply(&mut self) {
        if self.reports.is_empty() || self.stalled {
            return;
        }
        let Services { replica, stall, .. } = self.services;
        self.outcomes.clear();
        let applied = match stall.is_stalled() {
            true => None,
            false => {
                replica.report_within(STALL_LIMIT, &self.reports, self.received, self.outcomes)
            }
        };
        let Some(sync_position) = applied else {
            self.stalled = true;
            return;
        };
        // The last position is the highest.
        self.sync_position = sync_position.or(self.sync_position);
        if let Some(log) = &mut self.log {
            for line in &self.lines {
                log.received(line, Extent::Whole);
            }
        }
        let before = self.output.len();
        for at in 0..self.reports.len() {
            let (report, line) = (self.reports[at], self.lines[at]);
            let outcome = self.outcomes[at];
            match Refusal::of_report(&outcome) {
                None => {
                    self.counts.count(match outcome {
                        Outcome::NotNewer => RequestOutcome::NotNewer,
                        _ => RequestOutcome::Stored,
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

    fn answer(&mut self, inquiry: &Inquiry<'a>, line: &[u8]) {
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

    fn log_sent(&mut self, before: usize) {
        if let Some(log) = &mut self.log {
            log_replies(log, &self.output[before..]);
        }
    }
}

/// Logs replies that are sent outside of a turn.
pub(super) fn log_sent(client: SocketAddr, replies: &[u8]) {
    if let Some(mut log) = LineBatch::begin(Peer::Client(client), Timestamp::now()) {
        log_replies(&mut log, replies);
    }
}

fn log_replies(log: &mut LineBatch<'_>, replies: &[u8]) {
    let mut start = 0;
    // Each ends with an LF.
    for end in memchr::memchr_iter(b'\n', replies) {
        if end > start {
            log.sent(&replies[start..end], Extent::Whole);
        }
        start = end + 1;
    }
}

fn echo(line: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"? ");
    output.extend_from_slice(line);
    output.push(b'\n');
}
