//! The grid that divides the earth into cells: positions in fixed point, the cell of each, and the cells
//! that cover an area.
//!
//! A cell is a twentieth of a degree high, and as wide at the equator. Towards the poles cells are joined in
//! twos, fours and so on, so that a cell is nowhere less than half as wide as it is high, and an area near
//! a pole has no more cells than one elsewhere. Each pole is surrounded by eight cells.
//!
//! Positions are taken from a client's text by integer arithmetic, since every report passes through here, once
//! to be checked and once to be stored: up to eight digits of a fraction at a time.
//! They are up to [`ERROR_UNITS`] off: covers have a margin for that, and the exact answer comes from
//! the text.

use crate::model::area::{Circle, Rectangle};
use crate::model::decimal::{MAX_FIELD_BYTES, first_eight};
use crate::model::geo::EARTH_RADIUS_KM;

/// Units of fixed point in a degree: one is 1.1 cm on the ground.
pub(crate) const UNITS: u32 = 10_000_000;

/// Maximum difference between a position and its fixed point, on each axis.
pub(crate) const ERROR_UNITS: u32 = 1;

/// Height of a cell in units.
const CELL_UNITS: u32 = UNITS / 20;

/// Units from pole to pole.
const HEIGHT: u32 = 180 * UNITS;

/// Units around the earth.
pub(crate) const AROUND: u32 = 360 * UNITS;

/// Rows from pole to pole.
const ROWS: u32 = HEIGHT / CELL_UNITS;

/// Bits of a cell's number for its column.
const COLUMN_BITS: u32 = 13;

/// Latitudes, in units from the equator, from which rows have half the cells of the row before: where
/// meridians are 1/2, 1/4, … as far apart as at the equator.
const HALVINGS: [u32; 10] = [
    600_000_000,
    755_224_878,
    828_192_442,
    864_166_783,
    882_092_153,
    891_047_170,
    895_523_722,
    897_761_878,
    898_880_941,
    899_440_471,
];

/// Extra meters by which a circle's cover is larger, in radians: more than the error of a position and
/// of the arithmetic.
const MARGIN_RADIANS: f64 = 1e-8;

/// Extra units to both sides of a cover.
const MARGIN_UNITS: f64 = 3.0;

/// A position in fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Units north of the south pole.
    pub(crate) latitude: u32,
    /// Units east of the antimeridian, less than all around.
    pub(crate) longitude: u32,
}

impl Point {
    /// Reads a client's location field, as [`Position::parse`] does, which takes the same texts. Digits
    /// behind the seventh of a fraction are cut off.
    ///
    /// [`Position::parse`]: crate::model::geo::Position::parse
    #[inline]
    pub(crate) fn parse(text: &[u8]) -> Option<Point> {
        if text.len() > MAX_FIELD_BYTES {
            return None;
        }
        let (latitude, end) = units(text, 0, 90)?;
        let (longitude, end) = units(text, end, 180)?;
        (end == text.len()).then_some(Point {
            latitude,
            longitude: if longitude == AROUND { 0 } else { longitude },
        })
    }

    /// Returns the cell in which the point lies.
    #[inline]
    pub(crate) fn cell(self) -> Cell {
        let row = (self.latitude / CELL_UNITS).min(ROWS - 1);
        let column = (self.longitude / CELL_UNITS) >> halvings(row);
        Cell::new(row, column)
    }
}

/// Returns the units from `-limit` degrees to the signed decimal that begins at `begin`, and where it ends.
#[inline]
fn units(text: &[u8], begin: usize, limit: u32) -> Option<(u32, usize)> {
    let sign = *text.get(begin)?;
    if sign != b'+' && sign != b'-' {
        return None;
    }
    let mut end = begin + 1;
    let mut degrees = 0;
    while let Some(digit) = digit_at(text, end) {
        degrees = degrees * 10 + digit;
        if degrees > limit {
            return None;
        }
        end += 1;
    }
    if end == begin + 1 {
        return None;
    }
    let mut fraction = 0;
    if text.get(end) == Some(&b'.') {
        let digits;
        (fraction, digits) = first_eight(text, end + 1);
        end += 1 + digits;
        if digits == 0 {
            return None;
        }
        if digits == 8 {
            while let Some(digit) = digit_at(text, end) {
                // It may show that the number is over its limit, and counts for nothing else.
                fraction |= u32::from(digit > 0);
                end += 1;
            }
        }
    }
    if degrees == limit && fraction > 0 {
        return None;
    }
    let (magnitude, limit) = (degrees * UNITS + fraction / 10, limit * UNITS);
    let units = match sign {
        b'-' => limit - magnitude,
        _ => limit + magnitude,
    };
    Some((units, end))
}

/// Returns the digit at that place of a text, if there is one.
#[inline]
fn digit_at(text: &[u8], at: usize) -> Option<u32> {
    let digit = text.get(at)?.wrapping_sub(b'0');
    (digit <= 9).then_some(u32::from(digit))
}

/// A cell of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Cell(u32);

impl Cell {
    fn new(row: u32, column: u32) -> Cell {
        Cell(row << COLUMN_BITS | column)
    }

    /// Returns the number of the cell.
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Returns the cell of a client's location field; `None` for a text that is no location.
    pub(crate) fn of_location(text: &[u8]) -> Option<Cell> {
        Some(Point::parse(text)?.cell())
    }
}

/// Returns how often the cells of a row are halved in number.
#[inline]
fn halvings(row: u32) -> u32 {
    // Rows between it and the equator.
    let rows = match row.checked_sub(ROWS / 2) {
        Some(rows) => rows,
        None => ROWS / 2 - 1 - row,
    };
    let from_equator = rows * CELL_UNITS;
    let mut halvings = 0;
    while halvings < HALVINGS.len() && from_equator >= HALVINGS[halvings] {
        halvings += 1;
    }
    halvings as u32
}

/// The cells that an area touches, and perhaps some beside it: every point of the area is in one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cover {
    spans: Vec<Span>,
    cells: usize,
}

/// Neighboring cells of one row.
#[derive(Clone, Copy, Debug)]
struct Span {
    row: u32,
    /// The westernmost.
    first: u32,
    cells: u32,
}

impl Cover {
    /// Covers a circle, from its middle to north and south. Returns `None` if that takes over
    /// `max_cells` cells.
    pub(crate) fn of_circle(circle: &Circle, max_cells: usize) -> Option<Cover> {
        use std::f64::consts::PI;
        let angle = (circle.radius_km / EARTH_RADIUS_KM + MARGIN_RADIANS).min(PI);
        let half_chord = (angle / 2.0).sin();
        let center = circle.center.latitude.to_radians();
        let height = angle.to_degrees();
        let south = row_of(circle.center.latitude - height);
        let north = row_of(circle.center.latitude + height);
        let middle = row_of(circle.center.latitude);
        let longitude = (circle.center.longitude + 180.0) * f64::from(UNITS);
        let mut cover = Cover::default();
        for step in 0..=(north - middle).max(middle - south) {
            let above = Some(middle + step).filter(|&row| row <= north);
            let below = middle
                .checked_sub(step)
                .filter(|&row| row >= south && step > 0);
            for row in above.into_iter().chain(below) {
                let [low, high] = [row, row + 1].map(|edge| {
                    (f64::from(edge * CELL_UNITS) / f64::from(UNITS) - 90.0).to_radians()
                });
                // The haversine formula, for the row's nearest parallel and its shortest one: none of
                // its points in the circle is farther from the middle's meridian.
                let nearest = (low - center).max(center - high).max(0.0);
                let shortest = low.cos().min(high.cos()).max(0.0);
                let half_height = (nearest / 2.0).sin();
                let squares = half_chord * half_chord - half_height * half_height;
                let half_width = squares.max(0.0) / (center.cos() * shortest);
                let width = match half_width {
                    width if width < 1.0 => 2.0 * width.sqrt().asin(),
                    _ => PI,
                };
                let width = width.to_degrees() * f64::from(UNITS);
                cover.push(row, longitude - width, longitude + width);
            }
            if cover.cells > max_cells {
                return None;
            }
        }
        Some(cover)
    }

    /// Covers a box. Returns `None` if that takes over `max_cells` cells.
    pub(crate) fn of_rectangle(rectangle: &Rectangle, max_cells: usize) -> Option<Cover> {
        let Rectangle {
            south,
            west,
            north,
            east,
        } = *rectangle;
        let mut cover = Cover::default();
        if south > north {
            return Some(cover);
        }
        let margin = MARGIN_UNITS / f64::from(UNITS);
        let units = |longitude: f64| (longitude + 180.0) * f64::from(UNITS);
        let around = if west <= east { 0.0 } else { f64::from(AROUND) };
        for row in row_of(south - margin)..=row_of(north + margin) {
            let has_pole =
                row == 0 && south <= -90.0 + margin || row == ROWS - 1 && north >= 90.0 - margin;
            match has_pole {
                true => cover.push(row, 0.0, f64::from(AROUND)),
                false => cover.push(row, units(west), units(east) + around),
            }
            if cover.cells > max_cells {
                return None;
            }
        }
        Some(cover)
    }

    /// Returns the number of cells.
    pub(crate) fn len(&self) -> usize {
        self.cells
    }

    /// Returns the cells, each once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Cell> {
        self.spans.iter().flat_map(|span| {
            let columns = columns(span.row);
            (span.first..span.first + span.cells).map(move |column| {
                Cell::new(
                    span.row,
                    if column < columns {
                        column
                    } else {
                        column - columns
                    },
                )
            })
        })
    }

    /// Adds the cells of a row between two meridians, in units from the antimeridian; they may lie
    /// beyond it to either side.
    fn push(&mut self, row: u32, west: f64, east: f64) {
        let (columns, halvings) = (columns(row), halvings(row));
        let around = f64::from(AROUND);
        let (mut west, mut east) = ((west - MARGIN_UNITS).floor(), (east + MARGIN_UNITS).ceil());
        let (first, cells) = if east - west >= around {
            (0, columns)
        } else {
            if west < 0.0 {
                (west, east) = (west + around, east + around);
            } else if west >= around {
                (west, east) = (west - around, east - around);
            }
            // The last cell of a row may be narrower, so those behind it are counted on their own.
            let column = |units: f64| match units {
                units if units < around => (units as u32 / CELL_UNITS) >> halvings,
                units => columns + (((units - around) as u32 / CELL_UNITS) >> halvings),
            };
            let (first, last) = (column(west), column(east));
            (first, (last - first + 1).min(columns))
        };
        self.spans.push(Span { row, first, cells });
        self.cells += cells as usize;
    }
}

/// Returns the row in which a latitude in degrees lies, or the last one on its side.
fn row_of(latitude: f64) -> u32 {
    let units = ((latitude + 90.0) * f64::from(UNITS)).max(0.0);
    (units as u32 / CELL_UNITS).min(ROWS - 1)
}

/// Returns the number of cells of a row.
fn columns(row: u32) -> u32 {
    ((AROUND / CELL_UNITS - 1) >> halvings(row)) + 1
}

#[cfg(test)]
mod tests;
