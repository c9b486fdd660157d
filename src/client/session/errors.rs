//! The error replies of the second dialect: one line each, `ERR CODE text`.
//!
//! Codes are for programs and never change. Texts are for people: they say what is wrong with which
//! field, and show a right one.

use std::fmt;
use std::io::Write;

use super::first_line::DIALECT;
use super::lines::MAX_LINE_BYTES;
use crate::model::area::MAX_CIRCLE_KM;
use crate::model::command::{MAX_BOUND, MAX_CLIENT_BYTES, MAX_RADIUS_KM};
use crate::model::decimal::{Decimal, MAX_FIELD_BYTES};
use crate::model::location::{has_shape, with_signs};
use crate::model::printable::Printable;
use crate::model::record::MAX_AHEAD_SECONDS;
use crate::model::request::{
    Fault, FaultKind, MAX_HITS, MAX_WATCH_NAME_BYTES, MIN_WRONG_UNIT, Verb,
};
use crate::model::time::Timestamp;

/// Bytes of a field that a text shows.
const SHOWN_BYTES: usize = 64;

/// A location and a time as they should be.
const LOCATION: &str = "+34.068930-118.445127";
const TIME: &str = "1479413884.392014450";

/// An error that is not a fault of the line alone.
#[derive(Clone, Copy, Debug)]
pub(super) enum Error<'a> {
    /// The line is longer than the limit.
    Long,
    /// The time of a report is too far ahead of this server's clock, which shows that time.
    Ahead(&'a [u8], Timestamp),
    /// The report is so old that it has expired, by this server's clock.
    Expired(&'a [u8], Timestamp),
    /// The client was forgotten at that time.
    Forgotten(&'a [u8], Timestamp),
    /// No such client is known.
    UnknownClient(&'a [u8]),
    /// No such client is known here, and this server has not caught up.
    Starting(&'a [u8]),
    /// No watch has that name.
    UnknownWatch(&'a [u8]),
    /// The server has that many records, which is its maximum.
    Full(usize),
    /// The journal can't be written.
    Unwritable,
    /// The server was removed from its herd.
    Removed,
    /// The neighbor of that name knows no tombstones.
    NeighborTooOld(&'a str),
    /// The connection has a watch of that name.
    NameInUse(&'a [u8]),
    /// There can be no more watches.
    Busy,
}

impl Error<'_> {
    /// Appends the reply.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Error::Long => reply(
                out,
                "LONG",
                format_args!("a line has at most {MAX_LINE_BYTES} bytes: the connection closes"),
            ),
            Error::Ahead(time, now) => ahead(out, time, now),
            Error::Expired(time, now) => reply(
                out,
                "TIME",
                format_args!(
                    "{} is so long ago that the report has expired: this server's time is {}",
                    Shown(time),
                    Seconds(now)
                ),
            ),
            Error::Forgotten(client, time) => reply(
                out,
                "FORGOTTEN",
                format_args!(
                    "{} was forgotten at {}: only later reports are taken",
                    Shown(client),
                    Seconds(time)
                ),
            ),
            Error::UnknownClient(client) => match with_signs(client) {
                Some(right) => reply(
                    out,
                    "UNKNOWN",
                    format_args!(
                        "no client {}; if it is a location, write {}",
                        Shown(client),
                        Printable(&right)
                    ),
                ),
                None => reply(out, "UNKNOWN", format_args!("no client {}", Shown(client))),
            },
            Error::Starting(client) => reply(
                out,
                "STARTING",
                format_args!(
                    "{} is unknown here, and this server has not caught up with its herd since it started",
                    Shown(client)
                ),
            ),
            Error::UnknownWatch(name) => {
                reply(out, "UNKNOWN", format_args!("no watch {}", Shown(name)));
            }
            Error::Full(records) => reply(
                out,
                "FULL",
                format_args!("this server knows {records} clients and takes no new ones"),
            ),
            Error::Unwritable => reply(
                out,
                "UNWRITABLE",
                format_args!("the journal can't be written: nothing was stored"),
            ),
            Error::Removed => reply(
                out,
                "REMOVED",
                format_args!("this server is no longer part of the herd: use another"),
            ),
            Error::NeighborTooOld(name) => reply(
                out,
                "BUSY",
                format_args!("upgrade {name} first: its program can't forget clients"),
            ),
            Error::NameInUse(name) => {
                let name = Shown(name);
                let text = format_args!("{name} is watched already: UNWATCH {name} first");
                reply(out, "NAME", text);
            }
            Error::Busy => reply(out, "BUSY", format_args!("no more watches can be taken")),
        }
    }
}

/// Appends the reply to a line with a fault; the clock of this server is at `now`.
pub(super) fn write_fault(fault: &Fault<'_>, now: Timestamp, out: &mut Vec<u8>) {
    match fault.kind {
        FaultKind::NoCommand(name) => no_command(name, out),
        FaultKind::FieldCount(count) => {
            let Some(verb) = fault.verb else { return };
            let plural = if count == 1 { "" } else { "s" };
            let (name, form) = (verb.name(), verb.form());
            let text = format_args!("{count} field{plural} after {name}: the form is {form}");
            reply(out, "SYNTAX", text);
        }
        FaultKind::Client(client) => reply(
            out,
            "CLIENT",
            format_args!(
                "an id of {} bytes: at most {MAX_CLIENT_BYTES}, such as kiwi.cs.ucla.edu",
                client.len()
            ),
        ),
        FaultKind::Location(text) => location(text, out),
        FaultKind::Corners(south_west, north_east) => reply(
            out,
            "LOCATION",
            format_args!(
                "the first corner, {}, is north of the second, {}: first the south-western one, such as +33-119 +35-117",
                Shown(south_west),
                Shown(north_east)
            ),
        ),
        FaultKind::Time(text) => time(text, out),
        FaultKind::Ahead(text) => ahead(out, text, now),
        FaultKind::Radius(text) => {
            let text = Shown(text);
            match fault.verb {
                Some(Verb::Whatsat) => reply(
                    out,
                    "RADIUS",
                    format_args!(
                        "{text} is no radius: kilometers from 0 to {MAX_RADIUS_KM}, such as 10"
                    ),
                ),
                _ => reply(
                    out,
                    "RADIUS",
                    format_args!(
                        "{text} is no radius: kilometers over 0, up to {MAX_CIRCLE_KM}, such as 0.5"
                    ),
                ),
            }
        }
        FaultKind::Bound(text) => {
            let (least, most) = match fault.verb {
                Some(Verb::Whatsat) => (0, MAX_BOUND),
                _ => (1, MAX_HITS),
            };
            let text = Shown(text);
            let text = format_args!("{text} is no bound: a whole number from {least} to {most}");
            reply(out, "BOUND", text);
        }
        FaultKind::Name(name) => reply(
            out,
            "NAME",
            format_args!(
                "a name of {} bytes: at most {MAX_WATCH_NAME_BYTES}, such as towers",
                name.len()
            ),
        ),
    }
}

fn no_command(name: &[u8], out: &mut Vec<u8>) {
    let upper = name.to_ascii_uppercase();
    let verb = Verb::ALL
        .into_iter()
        .find(|verb| verb.name().as_bytes() == upper);
    let name = Shown(name);
    match verb {
        Some(verb) => {
            let form = verb.form();
            let text = format_args!("no command {name}: names are in upper case, {form}");
            reply(out, "SYNTAX", text);
        }
        None if upper == b"HELLO" => {
            let text = format_args!("HELLO {DIALECT} is taken only as a connection's first line");
            reply(out, "SYNTAX", text);
        }
        None => {
            let names = Verb::ALL.map(Verb::name).join(", ");
            let text = match upper.is_empty() {
                true => format!("no command: {names}"),
                false => format!("no command {name}: {names}"),
            };
            reply(out, "SYNTAX", format_args!("{text}"));
        }
    }
}

fn location(text: &[u8], out: &mut Vec<u8>) {
    let shown = Shown(text);
    let text = match with_signs(text) {
        Some(right) => format!(
            "each number needs its sign, with nothing between: write {} for {shown}",
            Printable(&right)
        ),
        None if text.len() > MAX_FIELD_BYTES => {
            format!("{shown} is too long: at most {MAX_FIELD_BYTES} bytes, such as {LOCATION}")
        }
        None if has_shape(text) => format!(
            "{shown} is out of range: latitude -90 to +90, longitude -180 to +180, such as {LOCATION}"
        ),
        None => format!(
            "{shown} is no location: latitude and longitude in degrees, each with its sign, such as {LOCATION}"
        ),
    };
    reply(out, "LOCATION", format_args!("{text}"));
}

fn time(text: &[u8], out: &mut Vec<u8>) {
    let shown = Shown(text);
    let text = match in_seconds(text) {
        Some((unit, seconds)) => format!("{shown} is in {unit}: in seconds it is {seconds}"),
        None => format!(
            "{shown} is no time: seconds since 1970 with at most nine decimals, such as {TIME}"
        ),
    };
    reply(out, "TIME", format_args!("{text}"));
}

/// Returns the unit of a time that is too late to be in seconds, and what it is in seconds.
fn in_seconds(text: &[u8]) -> Option<(&'static str, String)> {
    let time = Decimal::parse(text).filter(|_| text.len() <= MAX_FIELD_BYTES)?;
    let integer = time
        .integer_part()
        .filter(|integer| *integer >= MIN_WRONG_UNIT)?;
    let (unit, decimals) = match integer / MIN_WRONG_UNIT {
        ..1_000 => ("milliseconds", 3),
        1_000..1_000_000 => ("microseconds", 6),
        _ => ("nanoseconds", 9),
    };
    let one = 10u64.pow(decimals);
    let (seconds, rest) = (integer / one, integer % one);
    let decimals = decimals as usize;
    Some((unit, format!("{seconds}.{rest:0decimals$}")))
}

fn ahead(out: &mut Vec<u8>, time: &[u8], now: Timestamp) {
    let (time, now) = (Shown(time), Seconds(now));
    let text = format_args!(
        "{time} is over {MAX_AHEAD_SECONDS} s ahead of this server's time, which is {now}"
    );
    reply(out, "AHEAD", text);
}

/// Appends an error reply.
fn reply(out: &mut Vec<u8>, code: &str, text: fmt::Arguments<'_>) {
    // Memory takes any text.
    let _ = writeln!(out, "ERR {code} {text}");
}

/// Displays a field, at most its first bytes, so that it can't begin another line.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.len().min(SHOWN_BYTES);
        let more = if self.0.len() > end { "..." } else { "" };
        write!(f, "{}{more}", Printable(&self.0[..end]))
    }
}

/// Displays a time as clients write it, with nine decimals.
pub(super) struct Seconds(pub(super) Timestamp);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nanos, second) = (self.0.as_nanos(), 1_000_000_000);
        write!(f, "{}.{:09}", nanos / second, nanos % second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::Request;

    const NOW: Timestamp = Timestamp::from_nanos(1_479_413_884_392_014_450);

    #[track_caller]
    fn check(line: &str, expected: &str) {
        let fault = Request::parse(line.as_bytes()).expect_err(line);
        let mut out = Vec::new();
        write_fault(&fault, NOW, &mut out);
        let got = String::from_utf8(out).expect("ASCII");
        assert_eq!(got, format!("ERR {expected}\n"), "{line}");
    }

    #[test]
    fn faults_of_a_line_are_explained() {
        let names = "IAMAT, WHATSAT, WHERE, NEARBY, WITHIN, FORGET, WATCH, UNWATCH, PING, AUTH";
        check("", &format!("SYNTAX no command: {names}"));
        check("A\x1bT", &format!(r"SYNTAX no command A\x1bT: {names}"));
        check(
            "where kiwi",
            "SYNTAX no command where: names are in upper case, WHERE client",
        );
        check(
            "HELLO 2",
            "SYNTAX HELLO 2 is taken only as a connection's first line",
        );
        check(
            "WITHIN +1+1",
            "SYNTAX 1 field after WITHIN: the form is WITHIN south-west north-east bound",
        );
        check(
            "IAMAT kiwi 34.06,-118.44 1",
            "LOCATION each number needs its sign, with nothing between: write +34.06-118.44 for 34.06,-118.44",
        );
        check(
            "IAMAT kiwi +91+0 1",
            "LOCATION +91+0 is out of range: latitude -90 to +90, longitude -180 to +180, such as +34.068930-118.445127",
        );
        check(
            "IAMAT kiwi here 1",
            "LOCATION here is no location: latitude and longitude in degrees, each with its sign, such as +34.068930-118.445127",
        );
        check(
            "WITHIN +2+1 +1+2 1",
            "LOCATION the first corner, +2+1, is north of the second, +1+2: first the south-western one, such as +33-119 +35-117",
        );
        check(
            "IAMAT kiwi +1+1 -1",
            "TIME -1 is no time: seconds since 1970 with at most nine decimals, such as 1479413884.392014450",
        );
        check(
            "IAMAT kiwi +1+1 20000000000",
            "AHEAD 20000000000 is over 300 s ahead of this server's time, which is 1479413884.392014450",
        );
        check(
            "WHATSAT kiwi 50.5 1",
            "RADIUS 50.5 is no radius: kilometers from 0 to 50, such as 10",
        );
        check(
            "NEARBY kiwi 0 1",
            "RADIUS 0 is no radius: kilometers over 0, up to 20016, such as 0.5",
        );
        check(
            "WHATSAT kiwi 5 21",
            "BOUND 21 is no bound: a whole number from 0 to 20",
        );
        check(
            "NEARBY kiwi 5 0",
            "BOUND 0 is no bound: a whole number from 1 to 1000",
        );
        let long = "x".repeat(300);
        check(
            &format!("WHERE {long}"),
            "CLIENT an id of 300 bytes: at most 255, such as kiwi.cs.ucla.edu",
        );
        check(
            &format!("UNWATCH {long}"),
            "NAME a name of 300 bytes: at most 64, such as towers",
        );
        check(
            &format!("IAMAT kiwi {long} 1"),
            &format!(
                "LOCATION {}... is too long: at most 40 bytes, such as +34.068930-118.445127",
                "x".repeat(64)
            ),
        );
    }

    #[test]
    fn a_time_in_another_unit_is_shown_in_seconds() {
        for (text, unit, seconds) in [
            ("1479413884392", "milliseconds", "1479413884.392"),
            ("1479413884392.5", "milliseconds", "1479413884.392"),
            ("1479413884392014", "microseconds", "1479413884.392014"),
            ("1479413884392014450", "nanoseconds", "1479413884.392014450"),
        ] {
            check(
                &format!("IAMAT kiwi +1+1 {text}"),
                &format!("TIME {text} is in {unit}: in seconds it is {seconds}"),
            );
        }
    }
}
