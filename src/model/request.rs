//! The grammar of the second dialect: parses a line to a request, or to the fault that its reply names.
//!
//! Parsing borrows from the line and allocates nothing. Of several faults the leftmost counts. Checks
//! that depend on a clock or on stored data are made where requests are executed.

use crate::model::area::{MAX_CIRCLE_KM, Rectangle};
use crate::model::command::{
    Inquiry, MAX_BOUND, MAX_CLIENT_BYTES, MAX_RADIUS_KM, Report, number, whole_number,
};
use crate::model::decimal::{Decimal, MAX_FIELD_BYTES};
use crate::model::fields::fields;
use crate::model::geo::Position;
use crate::model::grid::Point;
use crate::model::location::has_shape;
use crate::model::time::Timestamp;

/// Maximum number of clients that a `NEARBY` or a `WITHIN` can ask for; the least is 1.
pub(crate) const MAX_HITS: u64 = 1_000;

/// Maximum length of the name of a watch in bytes.
pub(crate) const MAX_WATCH_NAME_BYTES: usize = 64;

/// Seconds from which on a time can't be meant in seconds, but in a smaller unit: the year 5138.
pub(crate) const MIN_WRONG_UNIT: u64 = 100_000_000_000;

/// Maximum number of fields behind the name of a command.
const MAX_FIELDS: usize = 3;

/// Maximum number of digits of a second's fraction.
const FRACTION_DIGITS: usize = 9;

/// A command of the second dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Report of a client's location.
    Iamat,
    /// Question for the places near a client.
    Whatsat,
    /// Question for a client's location.
    Where,
    /// Question for the clients near a point.
    Nearby,
    /// Question for the clients in a box.
    Within,
    /// Wish that a client be forgotten.
    Forget,
    /// Begin of a watch.
    Watch,
    /// End of a watch.
    Unwatch,
    /// Sign of life.
    Ping,
    /// Proof of a right.
    Auth,
}

/// A request of the second dialect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Request<'a> {
    /// Reports a client's location.
    Iamat(Report<'a>),
    /// Asks for the places near a client.
    Whatsat(Inquiry<'a>),
    /// Asks where that client is.
    Where(&'a [u8]),
    /// Asks for the clients near a point.
    Nearby {
        /// The middle of the circle.
        center: Center<'a>,
        /// Its radius in kilometers, over 0, up to 20,016.
        radius: Decimal<'a>,
        /// Maximum number of clients, 1 to 1,000.
        bound: u16,
    },
    /// Asks for the clients in a box.
    Within {
        /// The south-western corner.
        south_west: Place<'a>,
        /// The north-eastern corner, not south of the other.
        north_east: Place<'a>,
        /// Maximum number of clients, 1 to 1,000.
        bound: u16,
    },
    /// Has that client forgotten.
    Forget(&'a [u8]),
    /// Begins a watch.
    Watch {
        /// Name of the watch, 1 to 64 bytes.
        name: &'a [u8],
        /// The area or the client that is watched.
        target: WatchTarget<'a>,
    },
    /// Ends the watch of that name.
    Unwatch(&'a [u8]),
    /// Asks for a sign of life, with that word in it.
    Ping(Option<&'a [u8]>),
    /// Proves a right by that token.
    Auth(&'a [u8]),
}

/// A location as it was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place<'a> {
    /// The field.
    pub text: &'a [u8],
    /// The point that it stands for.
    pub position: Position,
}

/// The middle of a circle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Center<'a> {
    /// A point.
    Place(Place<'a>),
    /// The location of that client.
    Client(&'a [u8]),
}

/// Object of a watch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WatchTarget<'a> {
    /// All clients in a circle.
    Area {
        /// The middle of the circle.
        center: Place<'a>,
        /// Its radius in kilometers, over 0, up to 20,016.
        radius: Decimal<'a>,
    },
    /// That client.
    Client(&'a [u8]),
}

/// Reason for which a line is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// The command of the line; `None` if it has none.
    pub verb: Option<Verb>,
    /// The kind of the fault.
    pub kind: FaultKind<'a>,
}

/// Fault of a line, with the field where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind<'a> {
    /// The first field, which may be empty, is not the name of a command.
    NoCommand(&'a [u8]),
    /// The command does not have that number of fields.
    FieldCount(usize),
    /// The client id is longer than 255 bytes.
    Client(&'a [u8]),
    /// The location is not in the form of ISO 6709, or out of range.
    Location(&'a [u8]),
    /// The south-western corner, which is this, lies north of the other, which is that.
    Corners(&'a [u8], &'a [u8]),
    /// The time is not a POSIX time with at most nine decimals, or not in seconds.
    Time(&'a [u8]),
    /// The time is ahead of any clock.
    Ahead(&'a [u8]),
    /// The radius is not a number in the range of the command.
    Radius(&'a [u8]),
    /// The bound is not an integer in the range of the command.
    Bound(&'a [u8]),
    /// The name of a watch is longer than 64 bytes.
    Name(&'a [u8]),
}

impl Verb {
    /// All commands.
    pub const ALL: [Verb; 10] = [
        Verb::Iamat,
        Verb::Whatsat,
        Verb::Where,
        Verb::Nearby,
        Verb::Within,
        Verb::Forget,
        Verb::Watch,
        Verb::Unwatch,
        Verb::Ping,
        Verb::Auth,
    ];

    /// Returns the command of that name.
    fn of(name: &[u8]) -> Option<Verb> {
        Verb::ALL
            .into_iter()
            .find(|verb| verb.name().as_bytes() == name)
    }

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Iamat => "IAMAT",
            Verb::Whatsat => "WHATSAT",
            Verb::Where => "WHERE",
            Verb::Nearby => "NEARBY",
            Verb::Within => "WITHIN",
            Verb::Forget => "FORGET",
            Verb::Watch => "WATCH",
            Verb::Unwatch => "UNWATCH",
            Verb::Ping => "PING",
            Verb::Auth => "AUTH",
        }
    }

    /// Returns the form of the command's lines.
    pub(crate) fn form(self) -> &'static str {
        match self {
            Verb::Iamat => "IAMAT client location time",
            Verb::Whatsat => "WHATSAT client radius bound",
            Verb::Where => "WHERE client",
            Verb::Nearby => "NEARBY location|client radius bound",
            Verb::Within => "WITHIN south-west north-east bound",
            Verb::Forget => "FORGET client",
            Verb::Watch => "WATCH name location radius, or WATCH name client",
            Verb::Unwatch => "UNWATCH name",
            Verb::Ping => "PING, or PING word",
            Verb::Auth => "AUTH token",
        }
    }

    fn takes(self, fields: usize) -> bool {
        match self {
            Verb::Iamat | Verb::Whatsat | Verb::Nearby | Verb::Within => fields == 3,
            Verb::Where | Verb::Forget | Verb::Unwatch | Verb::Auth => fields == 1,
            Verb::Watch => fields == 2 || fields == 3,
            Verb::Ping => fields <= 1,
        }
    }
}

impl<'a> Request<'a> {
    /// Parses a line without its ending.
    pub fn parse(line: &'a [u8]) -> Result<Request<'a>, Fault<'a>> {
        let mut rest = fields(line);
        let name = rest.next().unwrap_or_default();
        let Some(verb) = Verb::of(name) else {
            let kind = FaultKind::NoCommand(name);
            return Err(Fault { verb: None, kind });
        };
        let (mut values, mut count) = ([&line[..0]; MAX_FIELDS], 0);
        for field in rest {
            if let Some(value) = values.get_mut(count) {
                *value = field;
            }
            count += 1;
        }
        let parsed = match verb.takes(count) {
            true => Request::of_fields(verb, count, values),
            false => Err(FaultKind::FieldCount(count)),
        };
        parsed.map_err(|kind| Fault {
            verb: Some(verb),
            kind,
        })
    }

    /// Parses the fields of a command, which are as many as it can have.
    fn of_fields(
        verb: Verb,
        count: usize,
        [first, second, third]: [&'a [u8]; MAX_FIELDS],
    ) -> Result<Request<'a>, FaultKind<'a>> {
        Ok(match verb {
            Verb::Iamat => {
                let client = client(first)?;
                if Point::parse(second).is_none() {
                    return Err(FaultKind::Location(second));
                }
                Request::Iamat(Report {
                    client,
                    location: second,
                    time_text: third,
                    time: Timestamp::parse(third).ok_or_else(|| time_fault(third))?,
                })
            }
            Verb::Whatsat => Request::Whatsat(Inquiry {
                client: client(first)?,
                radius: number(second, MAX_RADIUS_KM).ok_or(FaultKind::Radius(second))?,
                bound: whole_number(third, MAX_BOUND)
                    .and_then(|bound| u8::try_from(bound).ok())
                    .ok_or(FaultKind::Bound(third))?,
            }),
            Verb::Where => Request::Where(client(first)?),
            Verb::Nearby => Request::Nearby {
                center: match has_shape(first) {
                    true => Center::Place(place(first)?),
                    false => Center::Client(client(first)?),
                },
                radius: radius(second)?,
                bound: hits(third)?,
            },
            Verb::Within => {
                let (south_west, north_east) = (place(first)?, place(second)?);
                if south_west.position.latitude > north_east.position.latitude {
                    return Err(FaultKind::Corners(first, second));
                }
                Request::Within {
                    south_west,
                    north_east,
                    bound: hits(third)?,
                }
            }
            Verb::Forget => Request::Forget(client(first)?),
            Verb::Watch => Request::Watch {
                name: watch_name(first)?,
                target: match count {
                    2 => WatchTarget::Client(client(second)?),
                    _ => WatchTarget::Area {
                        center: place(second)?,
                        radius: radius(third)?,
                    },
                },
            },
            Verb::Unwatch => Request::Unwatch(watch_name(first)?),
            Verb::Ping => Request::Ping((count > 0).then_some(first)),
            Verb::Auth => Request::Auth(first),
        })
    }
}

/// Returns the box between two corners.
pub(crate) fn rectangle(south_west: &Position, north_east: &Position) -> Rectangle {
    Rectangle {
        south: south_west.latitude,
        west: south_west.longitude,
        north: north_east.latitude,
        east: north_east.longitude,
    }
}

fn client(text: &[u8]) -> Result<&[u8], FaultKind<'_>> {
    match text.len() <= MAX_CLIENT_BYTES {
        true => Ok(text),
        false => Err(FaultKind::Client(text)),
    }
}

fn watch_name(text: &[u8]) -> Result<&[u8], FaultKind<'_>> {
    match text.len() <= MAX_WATCH_NAME_BYTES {
        true => Ok(text),
        false => Err(FaultKind::Name(text)),
    }
}

fn place(text: &[u8]) -> Result<Place<'_>, FaultKind<'_>> {
    let position = Position::parse(text).ok_or(FaultKind::Location(text))?;
    Ok(Place { text, position })
}

/// Parses a radius of a circle on the earth.
fn radius(text: &[u8]) -> Result<Decimal<'_>, FaultKind<'_>> {
    let is_positive = |radius: &Decimal<'_>| {
        let mut digits = radius.integer.iter().chain(radius.fraction);
        digits.any(|&digit| digit != b'0')
    };
    number(text, MAX_CIRCLE_KM)
        .filter(is_positive)
        .ok_or(FaultKind::Radius(text))
}

/// Parses a number of clients to be found.
fn hits(text: &[u8]) -> Result<u16, FaultKind<'_>> {
    whole_number(text, MAX_HITS)
        .filter(|bound| *bound > 0)
        .and_then(|bound| u16::try_from(bound).ok())
        .ok_or(FaultKind::Bound(text))
}

/// Returns the fault of a time that can't be stored.
fn time_fault(text: &[u8]) -> FaultKind<'_> {
    let in_form = |time: &Decimal<'_>| {
        text.len() <= MAX_FIELD_BYTES && time.fraction.len() <= FRACTION_DIGITS
    };
    match Decimal::parse(text).filter(in_form) {
        // Nanoseconds do not hold it, so it is centuries ahead.
        Some(time) if time.integer_part().is_some_and(|s| s < MIN_WRONG_UNIT) => {
            FaultKind::Ahead(text)
        }
        _ => FaultKind::Time(text),
    }
}

#[cfg(test)]
#[path = "../../tests/support/inverse_request.rs"]
mod inverse;

#[cfg(test)]
mod tests;
