//! Searches for the clients that are near a point or within a box.
//!
//! A search goes through the shards of the cache one by one, and in each through the cells of the grid that
//! may have a client it wants, or through all clients if the cells are more than those. It looks at a client's
//! position in fixed point first, which is cheap and a centimeter off; only a client that may belong to
//! the answer is judged by its text. [`Nearby`] narrows its circle to the farthest of the nearest clients so
//! far, so of most shards it sees the innermost cells alone.

use std::f64::consts::{FRAC_PI_2, PI};
use std::rc::Rc;

use super::Replica;
use crate::model::area::{Circle, Rectangle};
use crate::model::geo::{EARTH_RADIUS_KM, Position, arc_km};
use crate::model::grid::{AROUND, Cover, ERROR_UNITS, Point, UNITS};
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::replica::cache::Search;
use crate::replica::forget::Horizon;

/// Records that a search has found, in its order.
#[derive(Debug, Default)]
pub struct Hits(Vec<Hit>);

/// A record that was found.
#[derive(Debug)]
struct Hit {
    /// Its distance in kilometers; 0 for a box.
    km: f64,
    packed: Vec<u8>,
}

impl Hit {
    fn client(&self) -> &[u8] {
        RecordView::packed_client(&self.packed)
    }
}

impl Hits {
    /// Returns the number of records found.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether none was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the records, each with its distance in kilometers from the middle of the circle.
    pub fn iter(&self) -> impl Iterator<Item = (f64, RecordView<'_>)> {
        self.0.iter().map(|hit| {
            let record = RecordView::unpack(&mut &hit.packed[..]).expect("a packed record");
            (hit.km, record)
        })
    }

    /// Leaves one record of each client: a search may have seen a client twice that was stored again
    /// meanwhile.
    fn remove_repeated(&mut self) {
        let mut by_client: Vec<usize> = (0..self.0.len()).collect();
        by_client.sort_by_key(|&hit| self.0[hit].client());
        let is_repeated = |pair: &&[usize]| self.0[pair[0]].client() == self.0[pair[1]].client();
        let mut repeated: Vec<usize> = by_client
            .windows(2)
            .filter(is_repeated)
            .map(|pair| pair[1])
            .collect();
        repeated.sort_unstable();
        for hit in repeated.into_iter().rev() {
            self.0.remove(hit);
        }
    }
}

impl Replica {
    /// Finds up to `bound` clients in a circle, nearest first, those of equal distance by their ids;
    /// `left_out` is not among them.
    pub fn nearby(
        &self,
        circle: &Circle,
        bound: usize,
        left_out: Option<&[u8]>,
        now: Timestamp,
    ) -> Hits {
        let mut search = Nearby::new(circle, bound, left_out, self.horizon(now));
        if self.locations.search(&mut search) {
            search.hits.remove_repeated();
        }
        search.hits
    }

    /// Finds up to `bound` clients in a box, in no order.
    pub fn within(&self, rectangle: &Rectangle, bound: usize, now: Timestamp) -> Hits {
        let mut search = Within::new(rectangle, bound, self.horizon(now));
        if self.locations.search(&mut search) {
            search.hits.remove_repeated();
        }
        search.hits
    }
}

/// Search for the nearest clients.
struct Nearby<'a> {
    center: Position,
    vector: [f64; 3],
    bound: usize,
    left_out: Option<&'a [u8]>,
    horizon: Horizon,
    /// The nearest so far, in order; up to `bound`.
    hits: Hits,
    /// Distance past which clients are not wanted: the circle's radius, or that of the last of `bound`
    /// hits.
    limit_km: f64,
    disk: Disk,
    /// The cover of a circle of the second, if it is not too large.
    cover: (Option<Rc<Cover>>, f64),
    /// Location and distance of the last record taken.
    last: (Vec<u8>, f64),
}

impl<'a> Nearby<'a> {
    fn new(
        circle: &Circle,
        bound: usize,
        left_out: Option<&'a [u8]>,
        horizon: Horizon,
    ) -> Nearby<'a> {
        Nearby {
            center: circle.center,
            vector: circle.center.unit_vector(),
            bound,
            left_out,
            horizon,
            hits: Hits::default(),
            limit_km: circle.radius_km,
            disk: Disk::new(circle),
            cover: (None, f64::INFINITY),
            last: (Vec::new(), 0.0),
        }
    }

    /// Returns the distance of a location, which is often that of the record before.
    fn distance(&mut self, location: &[u8]) -> Option<f64> {
        if self.last.0 != location {
            let position = Position::parse(location)?;
            self.last.0.clear();
            self.last.0.extend_from_slice(location);
            self.last.1 = arc_km(self.vector, position.unit_vector());
        }
        Some(self.last.1)
    }
}

impl Search for Nearby<'_> {
    fn cover(&mut self, max_cells: usize) -> Option<Rc<Cover>> {
        // A cover that is somewhat too large costs less than another one for each shard.
        if self.limit_km < 0.9 * self.cover.1 {
            let circle = Circle {
                center: self.center,
                radius_km: self.limit_km,
            };
            let cover = Cover::of_circle(&circle, max_cells);
            self.cover = (cover.map(Rc::new), self.limit_km);
        }
        let cover = self.cover.0.as_ref()?;
        (cover.len() <= max_cells).then(|| Rc::clone(cover))
    }

    fn wants(&self, point: Point) -> bool {
        self.disk.may_contain(point)
    }

    fn take(&mut self, record: &RecordView<'_>) {
        if self.horizon.is_dead(record.time) || Some(record.client) == self.left_out {
            return;
        }
        let Some(km) = self
            .distance(record.location)
            .filter(|&km| km <= self.limit_km)
        else {
            return;
        };
        let hits = &mut self.hits.0;
        let is_before = |hit: &Hit| match hit.km == km {
            true => hit.client() < record.client,
            false => hit.km < km,
        };
        let mut packed = Vec::new();
        if hits.len() == self.bound {
            // A million clients at one point are told apart by this alone.
            if hits.last().is_some_and(is_before) {
                return;
            }
            packed = hits.pop().map_or(packed, |hit| hit.packed);
            packed.clear();
        }
        let place = hits.partition_point(is_before);
        record.pack(&mut packed);
        hits.insert(place, Hit { km, packed });
        if let Some(last) = hits.get(self.bound - 1)
            && last.km < self.limit_km
        {
            self.limit_km = last.km;
            self.disk.set_radius(last.km);
        }
    }

    fn is_done(&self) -> bool {
        self.bound == 0
    }
}

/// A circle in which fixed points are looked for, somewhat larger than the real one.
struct Disk {
    latitude: f64,
    longitude: f64,
    cos_latitude: f64,
    /// Greatest difference of latitudes, in units.
    height: f64,
    /// Greatest haversine of an angle.
    haversine: f64,
}

/// Radians in a unit of fixed point.
const RADIANS: f64 = PI / 180.0 / UNITS as f64;

impl Disk {
    fn new(circle: &Circle) -> Disk {
        let units = |degrees: f64| degrees * f64::from(UNITS);
        let mut disk = Disk {
            latitude: units(circle.center.latitude + 90.0),
            longitude: units(circle.center.longitude + 180.0),
            cos_latitude: circle.center.latitude.to_radians().cos(),
            height: 0.0,
            haversine: 0.0,
        };
        disk.set_radius(circle.radius_km);
        disk
    }

    fn set_radius(&mut self, km: f64) {
        // A point is an error off on both axes, and the arithmetic of `may_contain` exact to 11 digits.
        let angle = (km / EARTH_RADIUS_KM + 2.0 * f64::from(ERROR_UNITS) * RADIANS).min(PI);
        self.height = angle / RADIANS + 1.0;
        self.haversine = (angle / 2.0).sin().powi(2) * (1.0 + 1e-9);
    }

    /// Returns whether the circle may have the position that `point` stands for.
    fn may_contain(&self, point: Point) -> bool {
        let latitude = f64::from(point.latitude);
        let height = (latitude - self.latitude).abs();
        if height > self.height {
            return false;
        }
        let width = (f64::from(point.longitude) - self.longitude).abs();
        let width = width.min(f64::from(AROUND) - width).abs();
        let from_pole = latitude.min(f64::from(180 * UNITS) - latitude);
        let cos_latitude = sine(from_pole * RADIANS);
        let (half_height, half_width) = (sine(height * RADIANS / 2.0), sine(width * RADIANS / 2.0));
        let haversine =
            half_height * half_height + self.cos_latitude * cos_latitude * half_width * half_width;
        haversine <= self.haversine
    }
}

/// Returns the sine of an angle from 0 to π/2, exact to 11 digits: a quarter of the time of the library's,
/// which is exact to 16 and takes any angle.
fn sine(angle: f64) -> f64 {
    debug_assert!((0.0..=FRAC_PI_2 + 1e-6).contains(&angle));
    // The Taylor series up to the 15th power, from its end.
    const TERMS: [f64; 7] = [
        -1.0 / (14.0 * 15.0),
        -1.0 / (12.0 * 13.0),
        -1.0 / (10.0 * 11.0),
        -1.0 / (8.0 * 9.0),
        -1.0 / (6.0 * 7.0),
        -1.0 / (4.0 * 5.0),
        -1.0 / (2.0 * 3.0),
    ];
    let square = angle * angle;
    let series = TERMS
        .iter()
        .fold(1.0, |sum, term| 1.0 + sum * (square * term));
    angle * series
}

/// Search for any clients in a box.
struct Within {
    rectangle: Rectangle,
    bound: usize,
    horizon: Horizon,
    hits: Hits,
    /// The cover, if it is known and not too large.
    cover: Option<Option<Rc<Cover>>>,
    /// Least and greatest latitude of a point, in units.
    latitudes: [f64; 2],
    /// The longitude in units at which it begins, and the way east from there on which it ends.
    west: f64,
    width: f64,
}

impl Within {
    fn new(rectangle: &Rectangle, bound: usize, horizon: Horizon) -> Within {
        let Rectangle {
            south,
            west,
            north,
            east,
        } = *rectangle;
        // The error of a point, and those of the conversion.
        let margin = f64::from(ERROR_UNITS) + 1.0;
        let units = |degrees: f64| degrees * f64::from(UNITS);
        let around = if west <= east { 0.0 } else { 360.0 };
        Within {
            rectangle: *rectangle,
            bound,
            horizon,
            hits: Hits::default(),
            cover: None,
            latitudes: [units(south + 90.0) - margin, units(north + 90.0) + margin],
            west: units(west + 180.0) - margin,
            width: units(east + around - west) + 2.0 * margin,
        }
    }
}

impl Search for Within {
    fn cover(&mut self, max_cells: usize) -> Option<Rc<Cover>> {
        let cover = match &self.cover {
            Some(cover) => cover.as_ref(),
            None => {
                let cover = Cover::of_rectangle(&self.rectangle, max_cells);
                self.cover.insert(cover.map(Rc::new)).as_ref()
            }
        }?;
        (cover.len() <= max_cells).then(|| Rc::clone(cover))
    }

    fn wants(&self, point: Point) -> bool {
        let (latitude, longitude) = (f64::from(point.latitude), f64::from(point.longitude));
        let way = longitude - self.west;
        let around = f64::from(AROUND);
        // The whole way around is none, and a pole is on all ways.
        let is_on_way = way >= 0.0 && way <= self.width
            || way + around <= self.width
            || latitude <= 1.0
            || latitude >= f64::from(180 * UNITS) - 1.0;
        latitude >= self.latitudes[0] && latitude <= self.latitudes[1] && is_on_way
    }

    fn take(&mut self, record: &RecordView<'_>) {
        if self.horizon.is_dead(record.time) || self.is_done() {
            return;
        }
        let position = Position::parse(record.location);
        if position.is_some_and(|position| self.rectangle.contains(&position)) {
            let mut packed = Vec::with_capacity(record.packed_bytes());
            record.pack(&mut packed);
            self.hits.0.push(Hit { km: 0.0, packed });
        }
    }

    fn is_done(&self) -> bool {
        self.hits.len() >= self.bound
    }
}

#[cfg(test)]
mod tests;
