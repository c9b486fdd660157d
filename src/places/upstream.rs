//! The trait of places providers on the network, and the request that they answer.
//!
//! An upstream makes one call and converts the response. Queue, cache, circuit breaker and deadline
//! are those of [`Remote`](super::remote::Remote), which decides whether and when to call it.

use std::fmt;
use std::time::Duration;

use super::failure::Failure;
use crate::model::command::{MAX_BOUND, MAX_RADIUS_KM};
use crate::model::decimal::Decimal;
use crate::model::geo::{self, Position, chord, squared_chord};

/// A places provider on the network.
pub trait Upstream: fmt::Debug + Send + Sync {
    /// Calls the provider once and returns the JSON text for the client: in the shape of Google's
    /// Nearby Search, every place within the radius, no more than the request's bound, no two
    /// newlines in a row.
    ///
    /// Blocks for about `timeout` at most, whatever the provider does: the total for name lookup,
    /// connection, request and response.
    fn fetch(&self, request: &Request, timeout: Duration) -> Result<Vec<u8>, Failure>;

    /// Returns the provider's name, as `--places` takes it.
    fn name(&self) -> &'static str;

    /// Aborts the calls in flight, which fail with [`Failure::Stopped`], as all later calls do.
    ///
    /// A name lookup or a TCP connect in progress continues until its own timeout, 1 s each.
    fn abort(&self);

    /// Returns whether the provider's terms permit caching its answers.
    fn may_cache(&self) -> bool;
}

/// A search for a provider on the network. Equal requests have equal answers, so one call answers
/// all of them that are waiting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Degrees north with the client's own digits, no plus sign.
    pub(super) latitude: Box<str>,
    /// Degrees east with the client's own digits, no plus sign.
    pub(super) longitude: Box<str>,
    /// The radius in meters, exact and without redundant zeros: `10.50` kilometers are `10500`.
    pub(super) meters: Box<str>,
    bound: u8,
}

impl Request {
    /// Creates a request for places within `radius` kilometers of `location`, a client's location
    /// field.
    ///
    /// `None` for a location, radius or bound that is not valid in a command.
    pub(super) fn new(location: &[u8], radius: Decimal<'_>, bound: u8) -> Option<Request> {
        Position::parse(location)?;
        let (latitude, longitude) = geo::split(location)?;
        if !radius.at_most(MAX_RADIUS_KM) || u64::from(bound) > MAX_BOUND {
            return None;
        }
        Some(Request {
            latitude: without_plus(latitude)?,
            longitude: without_plus(longitude)?,
            meters: meters(radius).into(),
            bound,
        })
    }

    /// Returns the maximum number of places.
    pub(super) fn bound(&self) -> usize {
        usize::from(self.bound)
    }

    /// Returns whether the answer is empty without a call: the bound or the radius is 0.
    pub(super) fn is_always_empty(&self) -> bool {
        self.bound == 0 || *self.meters == *"0"
    }

    /// Returns the circle on the ground in which places have to lie.
    pub(super) fn circle(&self) -> Circle {
        let center = Position {
            latitude: float(&self.latitude),
            longitude: float(&self.longitude),
        };
        Circle {
            center: center.unit_vector(),
            squared_chord: chord(float(&self.meters) / 1000.0).powi(2),
        }
    }
}

/// The circle on the ground that a search covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circle {
    center: [f64; 3],
    squared_chord: f64,
}

impl Circle {
    /// Returns a measure of the distance of a place from the center, for comparison only; `None`
    /// outside the circle, or for coordinates that do not exist.
    ///
    /// The measure is the square of the chord through the unit sphere, which increases with the
    /// distance on the great circle.
    pub(super) fn distance(&self, latitude: f64, longitude: f64) -> Option<f64> {
        let on_earth = latitude.abs() <= 90.0 && longitude.abs() <= 180.0;
        let place = Position {
            latitude,
            longitude,
        };
        let distance = squared_chord(self.center, place.unit_vector());
        (on_earth && distance <= self.squared_chord).then_some(distance)
    }
}

/// Returns a number in JSON's format: without the leading zeros that the clients' grammar allows.
pub(super) fn without_leading_zeros(number: &str) -> String {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", number),
    };
    let digits = digits.trim_start_matches('0');
    let zero = if digits.starts_with(|byte: char| byte.is_ascii_digit()) {
        ""
    } else {
        "0"
    };
    format!("{sign}{zero}{digits}")
}

fn without_plus(number: &[u8]) -> Option<Box<str>> {
    let number = std::str::from_utf8(number).ok()?;
    Some(number.strip_prefix('+').unwrap_or(number).into())
}

/// Converts kilometers to meters: the point moves by three digits, and no digit is lost.
fn meters(kilometers: Decimal<'_>) -> String {
    let mut digits = [kilometers.integer, kilometers.fraction].concat();
    let point = kilometers.integer.len() + 3;
    digits.resize(digits.len().max(point), b'0');
    digits.insert(point, b'.');
    let text = String::from_utf8_lossy(&digits);
    without_leading_zeros(text.trim_end_matches('0').trim_end_matches('.'))
}

/// Returns the value of digits that are known to be a number.
fn float(number: &str) -> f64 {
    number.parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Request {
        /// Creates a request from the texts of a command.
        #[track_caller]
        pub(in crate::places) fn of(location: &str, radius_km: &str, bound: u8) -> Request {
            let radius = Decimal::parse(radius_km.as_bytes()).unwrap();
            Request::new(location.as_bytes(), radius, bound).unwrap()
        }
    }

    #[track_caller]
    fn check(location: &str, radius_km: &str, expected: [&str; 3]) {
        let request = Request::of(location, radius_km, 5);
        let got = [&*request.latitude, &request.longitude, &request.meters];
        assert_eq!(got, expected, "{location} {radius_km}");
        let degrees: f64 = expected[0].parse().unwrap();
        assert!(request.circle().distance(degrees, 200.0).is_none());
    }

    #[test]
    fn digits_of_the_client_are_kept() {
        check(
            "+34.068930-118.445127",
            "10",
            ["34.068930", "-118.445127", "10000"],
        );
        check("-0+000", "0.50", ["-0", "000", "500"]);
        check("-90+180", "050.000", ["-90", "180", "50000"]);
        check("+1+2", "0.0005", ["1", "2", "0.5"]);
        check("+1+2", "1.2345", ["1", "2", "1234.5"]);
        check("+1+2", "0.001", ["1", "2", "1"]);
        check("+1+2", "0.12", ["1", "2", "120"]);
        check("+1+2", "00", ["1", "2", "0"]);
        check("+1+2", "0.00000", ["1", "2", "0"]);
        check("+1+2", "30", ["1", "2", "30000"]);
    }

    #[test]
    fn equal_searches_are_equal_requests() {
        let request = Request::of("+1+2", "10", 5);
        assert_eq!(request, Request::of("+1+2", "010.0", 5));
        for other in [
            Request::of("+1+2", "10", 6),
            Request::of("+1+2", "10.001", 5),
            Request::of("+1-2", "10", 5),
            Request::of("+2+2", "10", 5),
        ] {
            assert_ne!(request, other);
        }
    }

    #[test]
    fn invalid_requests_are_rejected() {
        for (location, radius_km, bound) in
            [("1+2", "1", 1), ("+1+2", "50.1", 1), ("+1+2", "1", 21)]
        {
            let radius = Decimal::parse(radius_km.as_bytes()).unwrap();
            assert!(Request::new(location.as_bytes(), radius, bound).is_none());
        }
    }

    #[test]
    fn some_searches_are_always_empty() {
        assert!(Request::of("+1+2", "0", 20).is_always_empty());
        assert!(Request::of("+1+2", "0.0", 20).is_always_empty());
        assert!(Request::of("+1+2", "10", 0).is_always_empty());
        assert!(!Request::of("+1+2", "0.001", 1).is_always_empty());
    }

    #[test]
    fn circles_end_at_their_radius() {
        // A degree of a great circle is 111.195 km.
        for (location, radius_km, latitude, longitude, within) in [
            ("+0+0", "11.12", 0.0, 0.1, true),
            ("+0+0", "11.11", 0.0, 0.1, false),
            ("+0+180", "11.12", 0.0, -179.9, true),
            ("+89.95+0", "11.12", 89.95, 180.0, true),
            ("+89.95+0", "11.11", 89.95, 180.0, false),
            ("+12+34", "0.001", 12.0, 34.0, true),
            ("+0+0", "50", f64::NAN, 0.0, false),
            ("+0+0", "50", 360.0, 0.0, false),
            ("+0+0", "50", 0.0, 360.0, false),
        ] {
            let circle = Request::of(location, radius_km, 1).circle();
            let distance = circle.distance(latitude, longitude);
            assert_eq!(distance.is_some(), within, "{location} {radius_km}");
        }
    }

    #[test]
    fn json_numbers_have_no_leading_zeros() {
        for (number, expected) in [
            ("0", "0"),
            ("-0", "-0"),
            ("000", "0"),
            ("0.5", "0.5"),
            ("-00.5", "-0.5"),
            ("034.06", "34.06"),
            ("-118.445127", "-118.445127"),
        ] {
            assert_eq!(without_leading_zeros(number), expected);
        }
    }
}
