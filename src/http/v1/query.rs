//! The parts of a request that say what it asks for: percent-encoded texts, and the parameters of a query. Pure.

use super::fault::{Code, Fault};
use crate::model::area::{Circle, MAX_CIRCLE_KM, Rectangle};
use crate::model::command::MAX_CLIENT_BYTES;
use crate::model::decimal::{Decimal, MAX_FIELD_BYTES};
use crate::model::fields::has_white_space;
use crate::model::geo::Position;
use crate::model::request::{MAX_HITS, MAX_WATCH_NAME_BYTES};

/// Number of clients of a list that asks for none.
const DEFAULT_LIMIT: usize = 20;

/// Name of a watch that is given none.
const UNNAMED: &str = "watch";

/// Greatest latitude in degrees.
const MAX_LATITUDE: u64 = 90;

/// Greatest longitude in degrees.
const MAX_LONGITUDE: u64 = 180;

/// The middle of a circle.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Center {
    /// A point.
    Position(Position),
    /// The location of that client.
    Client(Vec<u8>),
}

/// Question for the clients near a point.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Nearby {
    pub(super) center: Center,
    pub(super) radius_km: f64,
    pub(super) limit: usize,
}

/// Question for the clients in a box.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Within {
    pub(super) rectangle: Rectangle,
    pub(super) limit: usize,
}

/// Object of a watch.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// All clients in a circle.
    Area(Circle),
    /// That client.
    Client(Vec<u8>),
}

/// A watch, with its name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Watch {
    pub(super) name: String,
    pub(super) target: Target,
}

impl Nearby {
    const FORM: &str = "/v1/nearby?lat=LAT&lon=LON&radius=KM or /v1/nearby?client=ID&radius=KM, with limit=N if wanted";

    /// Reads a query.
    pub(super) fn parse(query: &str) -> Result<Nearby, Fault> {
        let known = ["lat", "lon", "client", "radius", "limit"];
        let values = Values::parse(query, &known, Self::FORM)?;
        Ok(Nearby {
            center: values.center(&["radius"])?,
            radius_km: values.radius()?,
            limit: values.limit()?,
        })
    }
}

impl Within {
    const FORM: &str = "/v1/within?south=LAT&west=LON&north=LAT&east=LON, with limit=N if wanted";

    /// Reads a query.
    pub(super) fn parse(query: &str) -> Result<Within, Fault> {
        let known = ["south", "west", "north", "east", "limit"];
        let values = Values::parse(query, &known, Self::FORM)?;
        values.require(&known[..4])?;
        let rectangle = Rectangle {
            south: values.degrees("south", MAX_LATITUDE)?,
            west: values.degrees("west", MAX_LONGITUDE)?,
            north: values.degrees("north", MAX_LATITUDE)?,
            east: values.degrees("east", MAX_LONGITUDE)?,
        };
        if rectangle.south > rectangle.north {
            return Err(Fault::new(
                Code::Location,
                format!(
                    "south={} is north of north={}; only west may be greater than east, across the antimeridian",
                    rectangle.south, rectangle.north
                ),
            ));
        }
        Ok(Within {
            rectangle,
            limit: values.limit()?,
        })
    }
}

impl Watch {
    const FORM: &str = "/v1/watch?lat=LAT&lon=LON&radius=KM or /v1/watch?client=ID, with name=NAME if wanted; of several watches each begins with its name";

    /// Reads the watches of a query: one, or several of which each begins with its name.
    pub(super) fn parse_all(query: &str) -> Result<Vec<Watch>, Fault> {
        let known = ["name", "lat", "lon", "client", "radius"];
        let mut watches: Vec<Watch> = Vec::new();
        for values in Values::parse_groups(query, &known, "name", Self::FORM)? {
            let name = match values.get("name") {
                Some(name) => watch_name(name)?,
                None => UNNAMED.to_owned(),
            };
            if watches.iter().any(|watch| watch.name == name) {
                let text = format!("two watches have the name {name}");
                return Err(Fault::new(Code::Name, text));
            }
            let is_client = values.get("client").is_some();
            if is_client && values.get("radius").is_some() {
                return Err(values.syntax("a watch of a client has no radius"));
            }
            let others: &[&str] = if is_client { &[] } else { &["radius"] };
            let target = match values.center(others)? {
                Center::Client(client) => Target::Client(client),
                Center::Position(center) => Target::Area(Circle {
                    center,
                    radius_km: values.radius()?,
                }),
            };
            watches.push(Watch { name, target });
        }
        Ok(watches)
    }
}

/// The parameters of a query: each known, and none twice.
struct Values {
    values: Vec<(&'static str, Vec<u8>)>,
    /// The form of such a query, for those that are not of it.
    form: &'static str,
}

impl Values {
    fn parse(query: &str, known: &[&'static str], form: &'static str) -> Result<Values, Fault> {
        let mut groups = Values::parse_groups(query, known, "", form)?;
        // There is one group, since no parameter has that name.
        Ok(groups.swap_remove(0))
    }

    /// Reads a query with groups of parameters: each but the first begins with the parameter `first`.
    fn parse_groups(
        query: &str,
        known: &[&'static str],
        first: &str,
        form: &'static str,
    ) -> Result<Vec<Values>, Fault> {
        let empty = || Values {
            values: Vec::new(),
            form,
        };
        let mut groups = Vec::new();
        let mut group = empty();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(&name) = known.iter().find(|known| **known == name) else {
                let shown: String = name.chars().take(40).collect();
                return Err(group.syntax(&format!("there is no parameter {shown}")));
            };
            let Some(value) = decode(value) else {
                return Err(group.syntax(&format!("{name} is not percent-encoded as it must be")));
            };
            if group.get(name).is_some() {
                if name != first {
                    return Err(group.syntax(&format!("{name} is given twice")));
                }
                groups.push(std::mem::replace(&mut group, empty()));
            }
            group.values.push((name, value));
        }
        groups.push(group);
        Ok(groups)
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.values.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    fn syntax(&self, reason: &str) -> Fault {
        Fault::new(Code::Syntax, format!("{reason}; ask {}", self.form))
    }

    fn require(&self, names: &[&str]) -> Result<(), Fault> {
        match names.iter().find(|name| self.get(name).is_none()) {
            Some(name) => Err(self.syntax(&format!("{name} is missing"))),
            None => Ok(()),
        }
    }

    /// Returns the middle of a circle, once `others` are there too.
    fn center(&self, others: &[&str]) -> Result<Center, Fault> {
        let has_position = self.get("lat").is_some() || self.get("lon").is_some();
        match self.get("client") {
            Some(_) if has_position => Err(self.syntax("it is either lat and lon, or client")),
            Some(client) => {
                self.require(others)?;
                Ok(Center::Client(client_id(client)?))
            }
            None => {
                self.require(&["lat", "lon"])?;
                self.require(others)?;
                Ok(Center::Position(Position {
                    latitude: self.degrees("lat", MAX_LATITUDE)?,
                    longitude: self.degrees("lon", MAX_LONGITUDE)?,
                }))
            }
        }
    }

    /// Returns an angle from minus to plus `limit` degrees.
    fn degrees(&self, name: &str, limit: u64) -> Result<f64, Fault> {
        let text = self.get(name).unwrap_or_default();
        let (is_negative, digits) = match text.split_first() {
            Some((b'-', digits)) => (true, digits),
            Some((b'+', digits)) => (false, digits),
            _ => (false, text),
        };
        let magnitude = decimal(digits).filter(|magnitude| magnitude.at_most(limit));
        let Some(magnitude) = magnitude else {
            return Err(Fault::new(
                Code::Location,
                format!("{name} must be decimal degrees from -{limit} to {limit}, like -12.345678"),
            ));
        };
        let magnitude = magnitude.to_f64();
        Ok(if is_negative { -magnitude } else { magnitude })
    }

    /// Returns the radius in kilometers.
    fn radius(&self) -> Result<f64, Fault> {
        let radius = decimal(self.get("radius").unwrap_or_default());
        let radius = radius.filter(|radius| radius.at_most(MAX_CIRCLE_KM));
        match radius.map(Decimal::to_f64) {
            Some(radius) if radius > 0.0 => Ok(radius),
            _ => Err(Fault::new(
                Code::Radius,
                format!("radius must be kilometers over 0, up to {MAX_CIRCLE_KM}, like 10 or 0.5"),
            )),
        }
    }

    /// Returns the maximum number of clients of a list.
    fn limit(&self) -> Result<usize, Fault> {
        let Some(text) = self.get("limit") else {
            return Ok(DEFAULT_LIMIT);
        };
        let limit = decimal(text).filter(|limit| !text.contains(&b'.') && limit.at_most(MAX_HITS));
        match limit.and_then(|limit| limit.integer_part()) {
            Some(limit) if limit > 0 => Ok(limit as usize),
            _ => Err(Fault::new(
                Code::Bound,
                format!("limit must be a whole number from 1 to {MAX_HITS}"),
            )),
        }
    }
}

fn decimal(text: &[u8]) -> Option<Decimal<'_>> {
    Decimal::parse(text).filter(|_| text.len() <= MAX_FIELD_BYTES)
}

/// Returns a client's id, which any that has reported is.
fn client_id(id: &[u8]) -> Result<Vec<u8>, Fault> {
    if id.is_empty() || id.len() > MAX_CLIENT_BYTES || has_white_space(id) {
        return Err(Fault::new(
            Code::Client,
            format!(
                "the id of a client has 1 to {MAX_CLIENT_BYTES} bytes, none of them white space"
            ),
        ));
    }
    Ok(id.to_vec())
}

/// Returns the id in the rest of a path: percent-encoded, and without a slash, which begins a further
/// part of a path.
pub(super) fn path_id(rest: &str) -> Result<Vec<u8>, Fault> {
    if rest.contains('/') {
        let text = "a slash in an id must be percent-encoded: %2F";
        return Err(Fault::new(Code::Client, text));
    }
    match decode(rest) {
        Some(id) => client_id(&id),
        None => Err(Fault::new(
            Code::Client,
            "the id is not percent-encoded as it must be: each % is followed by two hexadecimal digits",
        )),
    }
}

/// Refuses any parameter.
pub(super) fn require_none(query: &str, form: &'static str) -> Result<(), Fault> {
    Values::parse(query, &[], form).map(drop)
}

fn watch_name(name: &[u8]) -> Result<String, Fault> {
    let is_name = !name.is_empty() && name.len() <= MAX_WATCH_NAME_BYTES && !has_white_space(name);
    match std::str::from_utf8(name) {
        Ok(name) if is_name => Ok(name.to_owned()),
        _ => Err(Fault::new(
            Code::Name,
            format!(
                "the name of a watch is UTF-8 of 1 to {MAX_WATCH_NAME_BYTES} bytes, none of them white space"
            ),
        )),
    }
}

/// Returns the bytes that a percent-encoded text stands for; `None` if it is none. A `+` stands for
/// itself: an id may have one, and no value has a blank.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        decoded.push((digit(0)? * 16 + digit(1)?) as u8);
        rest = behind;
    }
    Some(decoded)
}

#[cfg(test)]
#[path = "query/tests.rs"]
mod tests;
