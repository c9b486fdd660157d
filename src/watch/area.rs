//! The targets of watches, and which of their clients a change concerns.

use std::f64::consts::PI;

use crate::model::area::Circle;
use crate::model::geo::{EARTH_RADIUS_KM, Position, chord, squared_chord};
use crate::model::grid::Cover;
use crate::replica::feed::Change;
use crate::replica::forget::Horizon;

/// Difference of two chords up to which the exact distance decides: far more than their rounding.
const CHORD_MARGIN: f64 = 1e-12;

/// Degrees by which a circle's parallels are moved apart, for the same reason.
const DEGREES_MARGIN: f64 = 1e-9;

/// Kilometers by which a circle must be larger than half round the earth to be taken for all of it.
const KM_MARGIN: f64 = 1e-6;

/// Cells of a watch; past this it is a wide one.
pub(super) const MAX_CELLS: usize = 1_024;

/// A circle, with all that tells cheaply for most points whether they lie in it.
#[derive(Clone, Debug)]
pub(super) struct Area {
    circle: Circle,
    /// The cells that it touches; `None` if it is a wide one.
    pub(super) cover: Option<Cover>,
    center: [f64; 3],
    south: f64,
    north: f64,
    /// Every point lies inside.
    holds_all: bool,
    /// Squared chord up to which a point lies inside for sure.
    near: f64,
    /// Squared chord from which a point lies outside for sure.
    far: f64,
}

impl Area {
    pub(super) fn new(circle: Circle) -> Area {
        let angle = (circle.radius_km / EARTH_RADIUS_KM).to_degrees() + DEGREES_MARGIN;
        let chord = chord(circle.radius_km);
        Area {
            circle,
            cover: Cover::of_circle(&circle, MAX_CELLS),
            center: circle.center.unit_vector(),
            south: circle.center.latitude - angle,
            north: circle.center.latitude + angle,
            holds_all: circle.radius_km > PI * EARTH_RADIUS_KM + KM_MARGIN,
            near: (chord - CHORD_MARGIN).max(0.0).powi(2),
            far: (chord + CHORD_MARGIN).powi(2),
        }
    }

    /// Returns whether a point lies in the circle: the answer of [`Circle::contains`].
    pub(super) fn contains(&self, point: &Position) -> bool {
        if self.holds_all {
            return true;
        }
        if point.latitude < self.south || point.latitude > self.north {
            return false;
        }
        let squared = squared_chord(self.center, point.unit_vector());
        squared < self.near || squared <= self.far && self.circle.contains(point)
    }
}

/// The clients that a watch is about.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// Those in a circle.
    Area(Box<Area>),
    /// One client, wherever it is.
    Client(Box<[u8]>),
}

impl Scope {
    pub(super) fn is_area(&self) -> bool {
        matches!(self, Scope::Area(_))
    }

    /// Returns whether a client at that point is one of them. The client must be the watched one.
    pub(super) fn holds(&self, point: &Position) -> bool {
        match self {
            Scope::Area(area) => area.contains(point),
            Scope::Client(_) => true,
        }
    }

    /// Returns whether the client was one of them before a change, and is after it. Records that
    /// are dead by `hidden` do not count.
    pub(super) fn judge(&self, change: &Change, hidden: Horizon) -> (bool, bool) {
        if let Scope::Client(client) = self
            && change.record().client != &**client
        {
            return (false, false);
        }
        let before = change.before.filter(|(_, time)| !hidden.is_dead(*time));
        let after = change
            .after
            .filter(|_| !hidden.is_dead(change.record().time));
        let was = before.is_some_and(|(point, _)| self.holds(&point));
        let is = match (before, after) {
            (Some((from, _)), Some(to)) if from == to => was,
            _ => after.is_some_and(|point| self.holds(&point)),
        };
        (was, is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheap_test_agrees_with_the_distance() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut inside = 0;
        for _ in 0..3_000 {
            let center = Position {
                latitude: [-90.0, -89.99, 0.0, 34.1, 90.0][random.usize(..5)],
                longitude: [-180.0, 12.5, 179.99, 180.0][random.usize(..4)],
            };
            let other = Position {
                latitude: random.f64() * 180.0 - 90.0,
                longitude: random.f64() * 360.0 - 180.0,
            };
            let distance = crate::model::geo::distance_km(&center, &other);
            for radius_km in [distance, distance * (1.0 - 1e-15), 5.0, 20_015.0, 20_016.0] {
                let circle = Circle { center, radius_km };
                let area = Area::new(circle);
                assert_eq!(area.contains(&other), circle.contains(&other), "{circle:?}");
                inside += usize::from(area.contains(&other));
            }
        }
        assert!(inside > 6_000, "{inside} were inside");
    }
}
