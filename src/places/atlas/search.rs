//! Finds the places of the highest score within a radius, without an allocation.
//!
//! The search is depth first, the nearer half first, and skips a subtree that lies beyond the radius,
//! or whose most prominent place would not be among the best even at the nearest point of the
//! subtree's box. Distances are chords between unit vectors, so the
//! poles and the date line need no special case. The vector of a node is rounded to 3 mm: precise
//! enough to compare distances, and to decide whether a place lies within the radius unless it is
//! that close to the edge; there its coordinates decide.

use super::format::{NODE_BYTES, Node, PLACE_BYTES, Place, UNITS_PER_RADIUS, middle, position};
use super::hits::{Hit, Hits};
use crate::model::geo::{Position, chord, squared_chord};

/// Upper bound, in units, on how far rounding a node's vector changes a distance: √3⁄2 and a margin.
const SLACK: f64 = 2.0;

/// The arrays that `build.rs` laid out; see [`super::format`].
#[derive(Clone, Copy)]
pub(super) struct Index<'a> {
    nodes: &'a [[u8; NODE_BYTES]],
    places: &'a [[u8; PLACE_BYTES]],
    text: &'a [u8],
}

impl<'a> Index<'a> {
    /// Creates an index over nodes and places of the same number.
    pub(super) const fn new(nodes: &'a [u8], places: &'a [u8], text: &'a [u8]) -> Index<'a> {
        let (nodes, places) = (nodes.as_chunks().0, places.as_chunks().0);
        assert!(nodes.len() == places.len());
        Index {
            nodes,
            places,
            text,
        }
    }

    /// Returns the string at an offset, escaped for JSON.
    pub(super) fn text(&self, offset: u32) -> &'a [u8] {
        let start = offset as usize + 1;
        &self.text[start..start + usize::from(self.text[start - 1])]
    }

    /// Returns the node at `index`.
    #[inline]
    pub(super) fn node(&self, index: usize) -> Node {
        Node::from_bytes(&self.nodes[index])
    }

    /// Returns the data of the place at `index`.
    pub(super) fn place(&self, index: usize) -> Place {
        Place::from_bytes(&self.places[index])
    }

    /// Returns at most `bound` places within `radius_km`, those of the highest score first.
    pub(super) fn search(&self, center: &Position, radius_km: f64, bound: usize) -> Hits {
        let center = center.unit_vector();
        let reach = chord(radius_km);
        let mut search = Search {
            index: self,
            center,
            squared_reach: reach * reach,
            scaled_center: center.map(|axis| axis * UNITS_PER_RADIUS),
            surely_within: (reach * UNITS_PER_RADIUS - SLACK).max(0.0).powi(2),
            maybe_within: (reach * UNITS_PER_RADIUS + SLACK).powi(2),
            hits: Hits::new(bound),
        };
        if bound > 0 && radius_km > 0.0 {
            search.descend(0, self.nodes.len(), [0.0; 3], 0.0);
        }
        search.hits
    }
}

/// State of one search.
struct Search<'a> {
    index: &'a Index<'a>,
    center: [f64; 3],
    squared_reach: f64,
    /// The center in the units of a node's vector; the next two are squares of such units.
    scaled_center: [f64; 3],
    surely_within: f64,
    maybe_within: f64,
    hits: Hits,
}

impl Search<'_> {
    /// Searches the subtree `low..high`, whose box has the distance `beyond` from the center on each
    /// axis, and `squared_beyond` in all.
    fn descend(&mut self, low: usize, high: usize, beyond: [f64; 3], squared_beyond: f64) {
        if low == high {
            return;
        }
        let middle = middle(low, high);
        let node = self.index.node(middle);
        if !self.hits.may_rank(node.max_prominence, squared_beyond) {
            return;
        }
        let offsets = [0, 1, 2].map(|axis| self.scaled_center[axis] - f64::from(node.vector[axis]));
        let squared_distance = squared(offsets);
        if self.hits.may_rank(node.prominence, squared_distance)
            && self.is_within(middle, squared_distance)
        {
            let hit = Hit::new(middle, node.prominence, squared_distance);
            self.hits.insert(hit);
        }
        let axis = usize::from(node.axis);
        let mut across = beyond;
        across[axis] = offsets[axis];
        let (left, right) = ((low, middle), (middle + 1, high));
        let (near, far) = if offsets[axis] < 0.0 {
            (left, right)
        } else {
            (right, left)
        };
        self.descend(near.0, near.1, beyond, squared_beyond);
        let squared_across = squared(across);
        if squared_across <= self.maybe_within {
            self.descend(far.0, far.1, across, squared_across);
        }
    }

    /// Returns whether a place lies within the radius, by its coordinates if rounding could matter.
    fn is_within(&self, index: usize, squared_distance: f64) -> bool {
        if squared_distance < self.surely_within {
            return true;
        }
        if squared_distance > self.maybe_within {
            return false;
        }
        let place = self.index.place(index);
        let vector = position(place.latitude, place.longitude).unit_vector();
        squared_chord(self.center, vector) <= self.squared_reach
    }
}

fn squared(vector: [f64; 3]) -> f64 {
    vector.iter().map(|axis| axis * axis).sum()
}

#[cfg(test)]
mod tests {
    use super::super::hits::MAX_HITS;
    use super::super::{INDEX, layout};
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Ordering;

    impl Index<'_> {
        /// Returns the number of places.
        pub(in crate::places::atlas) fn len(&self) -> usize {
            self.nodes.len()
        }
    }

    /// Returns the distance on the ground by the haversine formula, which the search does not use.
    fn haversine_km(one: &Position, other: &Position) -> f64 {
        let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
        let cosines = one.latitude.to_radians().cos() * other.latitude.to_radians().cos();
        let squared =
            half(one.latitude, other.latitude) + cosines * half(one.longitude, other.longitude);
        2.0 * crate::model::geo::EARTH_RADIUS_KM * squared.sqrt().min(1.0).asin()
    }

    /// Returns every place within the radius, best first, from a scan of all places.
    fn scan(index: &Index<'_>, center: &Position, radius_km: f64) -> Vec<Hit> {
        let scaled = center.unit_vector().map(|axis| axis * UNITS_PER_RADIUS);
        let mut hits = Vec::new();
        for (number, place) in index.places.iter().enumerate() {
            let place = Place::from_bytes(place);
            let place = position(place.latitude, place.longitude);
            // A degree of latitude is 111 km: this check only avoids the formula for most places.
            let is_near = (place.latitude - center.latitude).abs() * 111.0 <= radius_km;
            if is_near && haversine_km(center, &place) <= radius_km {
                let node = index.node(number);
                let offsets = [0, 1, 2].map(|axis| scaled[axis] - f64::from(node.vector[axis]));
                hits.push(Hit::new(number, node.prominence, squared(offsets)));
            }
        }
        hits.sort_by(|one, other| match one.outranks(other) {
            true => Ordering::Less,
            false if one == other => Ordering::Equal,
            false => Ordering::Greater,
        });
        hits
    }

    #[track_caller]
    fn check(index: &Index<'_>, center: Position, radius_km: f64, bound: usize) {
        let mut expected = scan(index, &center, radius_km);
        expected.truncate(if radius_km > 0.0 { bound } else { 0 });
        let got = index.search(&center, radius_km, bound);
        assert_eq!(
            got.as_slice(),
            expected,
            "{center:?} {radius_km} km {bound}"
        );
    }

    /// Positions anywhere, with the poles and the date line over-represented.
    fn anywhere() -> impl Strategy<Value = Position> {
        let latitude = prop_oneof![
            4 => -90.0..=90.0,
            1 => 89.5..=90.0,
            1 => -90.0..=-89.5,
            1 => Just(90.0),
            1 => Just(-90.0),
        ];
        let longitude = prop_oneof![
            4 => -180.0..=180.0,
            1 => 179.5..=180.0,
            1 => -180.0..=-179.5,
            1 => Just(180.0),
            1 => Just(-180.0),
        ];
        (latitude, longitude).prop_map(|(latitude, longitude)| Position {
            latitude,
            longitude,
        })
    }

    /// Positions near a place of the atlas, since most of the earth is empty.
    fn near_a_place() -> impl Strategy<Value = Position> {
        let number = 0..INDEX.len();
        (number, -0.3..=0.3_f64, -0.3..=0.3_f64).prop_map(|(number, north, east)| {
            let place = INDEX.place(number);
            let place = position(place.latitude, place.longitude);
            Position {
                latitude: (place.latitude + north).clamp(-90.0, 90.0),
                longitude: (place.longitude + east).clamp(-180.0, 180.0),
            }
        })
    }

    proptest! {
        #[test]
        fn a_search_finds_the_same_as_a_scan(
            center in prop_oneof![1 => anywhere(), 2 => near_a_place()],
            radius_km in prop_oneof![3 => 0.0..=50.0, 1 => Just(50.0), 1 => Just(0.0)],
            bound in 0..=MAX_HITS,
        ) {
            check(&INDEX, center, radius_km, bound);
        }

        /// The atlas has few places at the poles and the date line; these data have many.
        #[test]
        fn a_search_at_poles_and_date_line_finds_the_same_as_a_scan(
            center in anywhere(),
            steps in prop::collection::vec((-400_000..400_000, -400_000..400_000, 0u8..4), 0..80),
            radius_km in 0.0..=60.0,
            bound in 0..=MAX_HITS,
        ) {
            let near = |degrees: f64, step: i32, limit: i32| {
                (degrees * 1e6) as i32 + step.clamp(-limit, limit)
            };
            let mut data = String::new();
            for (id, (north, east, size)) in steps.into_iter().enumerate() {
                let latitude = near(center.latitude, north, 400_000).clamp(-90_000_000, 90_000_000);
                // Steps east are shorter near a pole: spread the places all around it.
                let east = if latitude.abs() > 89_000_000 { east * 400 } else { east };
                let longitude = i64::from(near(center.longitude, 0, 0)) + i64::from(east);
                let longitude = (longitude + 540_000_000).rem_euclid(360_000_000) - 180_000_000;
                let population = 10_u32.pow(u32::from(size));
                data += &format!("P\t{id}\t{latitude}\t{longitude}\t{population}\tn{id}\tv\n");
            }
            let layout = layout::lay_out(&data).unwrap();
            let index = Index::new(&layout.nodes, &layout.places, &layout.text);
            check(&index, center, radius_km, bound);
        }
    }

    #[test]
    fn the_edge_is_exact() {
        let data = "P\t1\t0\t100000\t500\tEdge\tSea\n";
        let layout = layout::lay_out(data).unwrap();
        let index = Index::new(&layout.nodes, &layout.places, &layout.text);
        let center = Position {
            latitude: 0.0,
            longitude: 0.0,
        };
        let distance_km = 0.1_f64.to_radians() * crate::model::geo::EARTH_RADIUS_KM;
        for (radius_km, found) in [
            (distance_km * (1.0 + 1e-12), 1),
            (distance_km * (1.0 - 1e-12), 0),
            (0.0, 0),
            (-1.0, 0),
            (f64::NAN, 0),
            (f64::INFINITY, 1),
        ] {
            let hits = index.search(&center, radius_km, 20);
            assert_eq!(hits.as_slice().len(), found, "{radius_km}");
        }
    }

    #[test]
    fn a_bound_beyond_the_limit_is_reduced() {
        let tokyo = position(35_689_500, 139_691_710);
        let hits = INDEX.search(&tokyo, 10.0, usize::from(u8::MAX));
        assert_eq!(hits.as_slice().len(), MAX_HITS);
    }

    /// The sources contain 100, 102, 613 and 5 places here, duplicates included.
    #[test]
    fn contains_the_places_of_the_sources() {
        for (place, at_least, at_most) in [
            (position(34_068_930, -118_445_127), 95, 100),
            (position(51_507_400, -127_800), 97, 102),
            (position(35_681_200, 139_767_100), 590, 613),
            (position(-1_283_330, 36_816_670), 5, 5),
        ] {
            let count = scan(&INDEX, &place, 10.0).len();
            assert!((at_least..=at_most).contains(&count), "{place:?}: {count}");
        }
        assert!(INDEX.len() > 298_000);
    }

    #[test]
    fn a_node_has_the_greatest_prominence_of_its_subtree() {
        fn greatest(low: usize, high: usize) -> u8 {
            if low == high {
                return 0;
            }
            let middle = middle(low, high);
            let node = INDEX.node(middle);
            let below = greatest(low, middle).max(greatest(middle + 1, high));
            assert_eq!(node.max_prominence, node.prominence.max(below));
            node.max_prominence
        }
        // Shanghai.
        assert_eq!(greatest(0, INDEX.len()), 246);
    }
}
