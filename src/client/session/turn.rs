//! Execution of the lines of one turn: each is parsed, carried out, and answered in order.

use std::net::SocketAddr;

use arrayvec::ArrayVec;
use log::info;

use super::TURN_REQUESTS;
use super::pending::{PlacesCall, end_places};
use crate::client::services::Services;
use crate::model::command::{Command, Inquiry, Report};
use crate::model::decimal::MAX_FIELD_BYTES;
use crate::model::printable::LoggedLine;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::replica::Outcome;
use crate::replica::stall::STALL_LIMIT;
use crate::store::journal::SyncPosition;

/// The lines of one turn: reports in a row are applied as one group, and every reply is written in
/// the order of its line.
pub(super) struct Turn<'a> {
    pub(super) client: SocketAddr,
    /// The call that answers the last line, if a provider on the network has to.
    pub(super) places_call: Option<Box<PlacesCall>>,
    /// The position up to which the journal must be on disk before replies are sent.
    pub(super) sync_position: Option<SyncPosition>,
    pub(super) services: &'a Services,
    pub(super) received: Timestamp,
    /// Set once records can't be changed since the disk does not answer: the collected reports and
    /// the lines behind them are to be executed in a later turn.
    pub(super) stalled: bool,
    pub(super) reports: ArrayVec<Report<'a>, TURN_REQUESTS>,
    /// The lines of the reports, echoed if a report is rejected.
    pub(super) lines: ArrayVec<&'a [u8], TURN_REQUESTS>,
    pub(super) outcomes: &'a mut Vec<Outcome>,
    pub(super) output: &'a mut Vec<u8>,
    pub(super) logged: bool,
}

impl<'a> Turn<'a> {
    /// Carries out the next line.
    pub(super) fn execute(&mut self, line: &'a [u8]) {
        if self.logged {
            log_line("received from client", self.client, line);
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
            Err(_) => self.reject(line),
        }
    }

    /// Returns whether reports were collected that are not applied yet.
    pub(super) fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// Echoes a line that is not a valid command.
    pub(super) fn reject(&mut self, line: &[u8]) {
        self.apply();
        if self.stalled {
            return;
        }
        let before = self.output.len();
        echo(line, self.output);
        self.log_sent(before);
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
        let before = self.output.len();
        for ((report, line), outcome) in self.reports.iter().zip(&self.lines).zip(&*self.outcomes) {
            match outcome {
                Outcome::Acknowledged => {
                    let origin = replica.name().as_bytes();
                    RecordView::of_report(report, self.received, origin, 0, 0)
                        .write_at_line(self.output);
                }
                Outcome::TooFarAhead | Outcome::Full | Outcome::Unwritable | Outcome::Removed => {
                    echo(line, self.output);
                }
            }
        }
        self.reports.clear();
        self.lines.clear();
        self.log_sent(before);
    }

    fn answer(&mut self, inquiry: &Inquiry<'a>, line: &[u8]) {
        let before = self.output.len();
        let mut location = ArrayVec::<u8, MAX_FIELD_BYTES>::new();
        let known = self.services.replica.locate(inquiry.client, |found| {
            let Some(view) = found else {
                return false;
            };
            view.write_at_line(self.output);
            location.try_extend_from_slice(view.location).is_ok()
        });
        if !known {
            echo(line, self.output);
            return self.log_sent(before);
        }
        let places = &self.services.places;
        match places.lookup(&location, inquiry.radius, inquiry.bound, self.output) {
            None => {
                end_places(self.output);
                self.log_sent(before);
            }
            // The reply is sent in one write, so its beginning waits for the rest; the replies
            // before it do not.
            Some(search) => {
                self.places_call = Some(Box::new(PlacesCall {
                    reply: self.output.split_off(before),
                    search,
                }));
            }
        }
    }

    fn log_sent(&self, before: usize) {
        if self.logged {
            log_sent(self.client, &self.output[before..]);
        }
    }
}

pub(super) fn log_sent(client: SocketAddr, sent: &[u8]) {
    for line in sent
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        log_line("sent to client", client, line);
    }
}

fn log_line(direction: &'static str, client: SocketAddr, line: &[u8]) {
    let logged = LoggedLine {
        direction,
        client,
        line,
    };
    info!("{logged}");
}

fn echo(line: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"? ");
    output.extend_from_slice(line);
    output.push(b'\n');
}
