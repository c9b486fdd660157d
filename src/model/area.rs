//! Areas of the earth in which clients are searched for and watched: circles, and boxes between
//! parallels and meridians.

use crate::model::geo::{Position, distance_km};

/// Maximum radius of a circle in kilometers: just over half of the earth's circumference.
pub(crate) const MAX_CIRCLE_KM: u64 = 20_016;

/// The points at most `radius_km` from `center`, by great circle on the sphere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Circle {
    /// The middle.
    pub center: Position,
    /// Radius in kilometers, up to 20,016.
    pub radius_km: f64,
}

/// The points between two parallels and two meridians, edges included. With `west` greater than
/// `east` it crosses the antimeridian.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rectangle {
    /// Least latitude in degrees.
    pub south: f64,
    /// Longitude in degrees at which the box begins, going east.
    pub west: f64,
    /// Greatest latitude in degrees.
    pub north: f64,
    /// Longitude in degrees at which it ends.
    pub east: f64,
}

impl Circle {
    /// Returns whether a point lies in the circle.
    pub fn contains(&self, point: &Position) -> bool {
        distance_km(&self.center, point) <= self.radius_km
    }
}

impl Rectangle {
    /// Returns whether a point lies in the box. The meridians 180° west and 180° east are the same, and
    /// a pole lies on all meridians.
    pub fn contains(&self, point: &Position) -> bool {
        let Position {
            latitude,
            longitude,
        } = *point;
        let is_between = |longitude: f64| match self.west <= self.east {
            true => self.west <= longitude && longitude <= self.east,
            false => longitude >= self.west || longitude <= self.east,
        };
        let is_antimeridian = longitude.abs() == 180.0;
        let in_meridians = latitude.abs() == 90.0
            || is_between(longitude)
            || is_antimeridian && is_between(-longitude);
        self.south <= latitude && latitude <= self.north && in_meridians
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(latitude: f64, longitude: f64) -> Position {
        Position {
            latitude,
            longitude,
        }
    }

    #[test]
    fn a_box_may_cross_the_antimeridian_and_has_its_edges() {
        let crossing = Rectangle {
            south: -10.0,
            west: 170.0,
            north: 10.0,
            east: -170.0,
        };
        for (point, inside) in [
            (at(0.0, 175.0), true),
            (at(0.0, -175.0), true),
            (at(0.0, 180.0), true),
            (at(0.0, -180.0), true),
            (at(0.0, 0.0), false),
            (at(10.0, 170.0), true),
            (at(10.1, 170.0), false),
        ] {
            assert_eq!(crossing.contains(&point), inside, "{point:?}");
        }
    }

    #[test]
    fn the_antimeridian_and_the_poles_are_one_place_whatever_their_longitude() {
        let east = Rectangle {
            south: 80.0,
            west: 170.0,
            north: 90.0,
            east: 180.0,
        };
        assert!(east.contains(&at(85.0, -180.0)));
        assert!(east.contains(&at(90.0, 12.0)));
        assert!(!east.contains(&at(85.0, -179.0)));
    }

    #[test]
    fn a_circle_reaches_over_pole_and_antimeridian() {
        let circle = |latitude, longitude, radius_km| Circle {
            center: at(latitude, longitude),
            radius_km,
        };
        assert!(circle(89.9, 0.0, 23.0).contains(&at(89.9, 180.0)));
        assert!(circle(0.0, 179.9, 23.0).contains(&at(0.0, -179.9)));
        assert!(!circle(0.0, 179.9, 22.0).contains(&at(0.0, -179.9)));
        assert!(circle(10.0, 20.0, 20_016.0).contains(&at(-10.0, -160.0)));
    }
}
