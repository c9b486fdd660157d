//! Positions on the earth: latitude and longitude, their ISO 6709 text, and distances.
//!
//! Distances are compared as chords through the unit sphere. The build script compiles this module
//! too.

use crate::model::decimal::{Decimal, MAX_FIELD_BYTES};
use std::f64::consts::FRAC_PI_2;

/// Mean radius of the earth in kilometers (IUGG R1).
pub(crate) const EARTH_RADIUS_KM: f64 = 6371.0088;

/// A point on the earth in decimal degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Degrees north of the equator, −90 to +90.
    pub latitude: f64,
    /// Degrees east of Greenwich, −180 to +180.
    pub longitude: f64,
}

impl Position {
    /// Parses a client's location field: two signed decimals with nothing between them
    /// (ISO 6709, decimal degrees), `+34.068930-118.445127`.
    pub fn parse(text: &[u8]) -> Option<Position> {
        let (latitude, longitude) = split(text)?;
        Some(Position {
            latitude: degrees(latitude, 90)?,
            longitude: degrees(longitude, 180)?,
        })
    }

    /// Returns the point as a vector on the unit sphere: x to 0°E, y to 90°E, z to the north pole.
    ///
    /// Distances between such vectors need no special case at the poles or at ±180°: all texts of a pole,
    /// and both of a point on the antimeridian, have the same vector to the last bit, so that their
    /// distance is zero.
    pub(crate) fn unit_vector(&self) -> [f64; 3] {
        let (sin_latitude, mut cos_latitude) = self.latitude.to_radians().sin_cos();
        if self.latitude.abs() == 90.0 {
            // The float next to half of pi has a cosine of 6e-17.
            cos_latitude = 0.0;
        }
        let (mut sin_longitude, cos_longitude) = self.longitude.to_radians().sin_cos();
        if self.longitude.abs() == 180.0 {
            sin_longitude = 0.0;
        }
        [
            cos_latitude * cos_longitude,
            cos_latitude * sin_longitude,
            sin_latitude,
        ]
    }
}

/// Returns the length of the chord through the unit sphere between two points that are `kilometers`
/// apart on the ground; at most that of half the circumference.
pub(crate) fn chord(kilometers: f64) -> f64 {
    2.0 * (kilometers / (2.0 * EARTH_RADIUS_KM)).min(FRAC_PI_2).sin()
}

/// Returns the square of the chord between two points.
pub(crate) fn squared_chord(one: [f64; 3], other: [f64; 3]) -> f64 {
    one.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Returns the great-circle distance between two points in kilometers, on a sphere of the earth's mean
/// radius.
pub(crate) fn distance_km(one: &Position, other: &Position) -> f64 {
    arc_km(one.unit_vector(), other.unit_vector())
}

/// Returns the same of two vectors on the unit sphere: the angle between them by its tangent, which is exact
/// for near points and for opposite ones alike (W. Kahan, "How futile are mindless assessments of
/// roundoff", 2006, §12).
pub(crate) fn arc_km(one: [f64; 3], other: [f64; 3]) -> f64 {
    let length = |pairs: [(f64, f64); 3], sign: f64| {
        let squares = pairs.map(|(a, b)| (a + sign * b) * (a + sign * b));
        squares.iter().sum::<f64>().sqrt()
    };
    let pairs = [0, 1, 2].map(|axis| (one[axis], other[axis]));
    2.0 * EARTH_RADIUS_KM * length(pairs, -1.0).atan2(length(pairs, 1.0))
}

/// Splits a location into its latitude and longitude texts, each with its sign.
pub(crate) fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.len() > MAX_FIELD_BYTES {
        return None;
    }
    let second = 1 + text
        .get(1..)?
        .iter()
        .position(|&byte| byte == b'+' || byte == b'-')?;
    Some(text.split_at(second))
}

/// Parses a signed decimal from `-limit` to `limit` degrees.
fn degrees(text: &[u8], limit: u64) -> Option<f64> {
    let (negative, magnitude) = magnitude(text, limit)?;
    let degrees = magnitude.to_f64();
    Some(if negative { -degrees } else { degrees })
}

/// Parses the sign, `true` if negative, and the magnitude of at most `limit`.
fn magnitude(text: &[u8], limit: u64) -> Option<(bool, Decimal<'_>)> {
    let (sign, digits) = text.split_first()?;
    let magnitude = Decimal::parse(digits)?;
    match sign {
        b'+' | b'-' if magnitude.at_most(limit) => Some((*sign == b'-', magnitude)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(f64, f64)>) {
        let got = Position::parse(text.as_bytes()).map(|p| (p.latitude, p.longitude));
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn iso_6709_locations_are_parsed() {
        check("+34.068930-118.445127", Some((34.068930, -118.445127)));
        check("+34-118", Some((34.0, -118.0)));
        check("-90-180", Some((-90.0, -180.0)));
        check("+90.000+180.000", Some((90.0, 180.0)));
        check("-0+0", Some((0.0, 0.0)));
    }

    #[test]
    fn the_texts_of_one_point_have_no_distance() {
        for (one, other) in [
            ("+0+180", "-0-180"),
            ("+51.5+180", "+51.5-180"),
            ("+90+0", "+90-77.3"),
            ("-90+12", "-90-180"),
        ] {
            let [a, b] = [one, other].map(|text| Position::parse(text.as_bytes()).unwrap());
            assert_eq!(distance_km(&a, &b), 0.0, "{one} {other}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "+",
            "+34",
            "34-118",
            "+34118",
            "+34.-118",
            "+.5-118",
            "+34-118-",
            "+34--118",
            "+90.00000000000000000001+0",
            "+91+0",
            "+0+181",
            "+0-180.0001",
            "+1e1+1",
            "+NaN+0",
            "+34.068930, -118",
            "+34-118/",
            "+34.00000000000000000000-118.000000000000000000",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn chords_match_distances_on_the_ground() {
        let place = |latitude, longitude| Position {
            latitude,
            longitude,
        };
        let degree = EARTH_RADIUS_KM.to_radians();
        for (one, other, kilometers) in [
            (place(0.0, 0.0), place(0.0, 1.0), degree),
            (place(0.0, 179.5), place(0.0, -179.5), degree),
            (place(89.5, 12.0), place(89.5, -168.0), degree),
            (place(-90.0, 0.0), place(90.0, 77.0), 180.0 * degree),
            (place(-90.0, 0.0), place(90.0, 77.0), 200.0 * degree),
        ] {
            let squared = squared_chord(one.unit_vector(), other.unit_vector());
            assert!((squared.sqrt() - chord(kilometers)).abs() < 1e-12);
        }
    }

    #[test]
    fn unit_vectors_meet_at_the_date_line() {
        let east = Position {
            latitude: 12.0,
            longitude: 180.0,
        }
        .unit_vector();
        let west = Position {
            latitude: 12.0,
            longitude: -180.0,
        }
        .unit_vector();
        for axis in 0..3 {
            assert!((east[axis] - west[axis]).abs() < 1e-12);
        }
    }
}
