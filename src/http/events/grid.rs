//! Number of clients in each cell of one degree, while there are many clients.

use super::frame::{Frame, Lists, Mode};
use crate::http::json::write_name;
use crate::model::geo::split;
use crate::model::record::RecordView;
use crate::model::time::{Timestamp, write_u64};
use crate::model::vector::Vector;

/// Cells from pole to pole.
const ROWS: i32 = 180;

/// Cells around the earth.
const COLUMNS: i32 = 360;

/// The cells as they were sent last.
///
/// Reports are told from the version vector, which costs next to nothing, so they are sent more often
/// than the cells, which take a scan of all records.
#[derive(Debug)]
pub(super) struct Grid {
    sent: Box<[u32]>,
    counts: Box<[u32]>,
    records: usize,
    /// The vector of the last frame; `None` before the first.
    vector: Option<Vector>,
    /// A scan has ended, so that there are counts.
    is_known: bool,
}

impl Grid {
    /// An empty grid, which no viewer has.
    pub(super) fn new() -> Grid {
        let cells = || vec![0; (ROWS * COLUMNS) as usize].into_boxed_slice();
        Grid {
            sent: cells(),
            counts: cells(),
            records: 0,
            vector: None,
            is_known: false,
        }
    }

    /// Begins a scan.
    pub(super) fn begin(&mut self) {
        self.counts.fill(0);
        self.records = 0;
    }

    /// Takes a record of the scan, each client's once. It runs under a lock of the cache.
    pub(super) fn see(&mut self, record: &RecordView<'_>) {
        self.records += 1;
        if let Some(cell) = cell(record.location) {
            self.counts[cell] += 1;
        }
    }

    /// Ends the scan. Returns the frame of the changes, if there are any; all of it for the first. The
    /// reports are those up to `vector`, if it is known.
    pub(super) fn end(&mut self, at: Timestamp, vector: Option<Vector>) -> Option<Vec<u8>> {
        let mut cells = Vec::new();
        for (cell, (count, sent)) in self.counts.iter().zip(&mut self.sent).enumerate() {
            if count != sent {
                write_cell(cell, *count, &mut cells);
                *sent = *count;
            }
        }
        let is_first = !std::mem::replace(&mut self.is_known, true);
        self.render(at, is_first, &cells, vector)
    }

    /// Returns the frame of the reports since the last, if there are any.
    pub(super) fn reports(&mut self, at: Timestamp, vector: Option<Vector>) -> Option<Vec<u8>> {
        if !self.is_known {
            return None;
        }
        self.render(at, false, &[], vector)
    }

    fn render(
        &mut self,
        at: Timestamp,
        is_reset: bool,
        cells: &[u8],
        vector: Option<Vector>,
    ) -> Option<Vec<u8>> {
        let mut reports = Vec::new();
        if let Some(vector) = vector {
            if let Some(before) = &self.vector {
                write_reports(&vector, before, &mut reports);
            }
            self.vector = Some(vector);
        }
        let lists = Lists {
            cells,
            reports: &reports,
            ..Lists::default()
        };
        (is_reset || !lists.is_empty()).then(|| self.frame(at).render(is_reset, lists))
    }

    /// Returns the whole frame as of the last scan, if there was one.
    pub(super) fn whole(&self, at: Timestamp) -> Option<Vec<u8>> {
        if !self.is_known {
            return None;
        }
        let mut cells = Vec::new();
        for (cell, &count) in self.sent.iter().enumerate() {
            if count > 0 {
                write_cell(cell, count, &mut cells);
            }
        }
        let lists = Lists {
            cells: &cells,
            ..Lists::default()
        };
        Some(self.frame(at).render(true, lists))
    }

    fn frame(&self, at: Timestamp) -> Frame {
        Frame {
            at,
            mode: Mode::Grid,
            records: self.records,
        }
    }
}

/// Appends the number of reports of each server that `vector` covers and `before` does not, as members
/// of an object, each behind a comma.
fn write_reports(vector: &Vector, before: &Vector, out: &mut Vec<u8>) {
    // The entries of a server follow each other.
    let mut origins: Vec<(&[u8], u64)> = Vec::new();
    for (origin, epoch, sequence) in vector.entries() {
        let reports = sequence - before.sequence(origin, epoch).min(sequence);
        match origins.last_mut() {
            Some((last, sum)) if *last == origin => *sum += reports,
            _ => origins.push((origin, reports)),
        }
    }
    for (origin, reports) in origins.into_iter().filter(|&(_, reports)| reports > 0) {
        out.push(b',');
        write_name(origin, out);
        out.push(b':');
        write_u64(reports, out);
    }
}

/// Appends a cell by its south-west corner.
fn write_cell(cell: usize, count: u32, out: &mut Vec<u8>) {
    let (row, column) = (cell as i32 / COLUMNS, cell as i32 % COLUMNS);
    out.extend_from_slice(b",[");
    for degrees in [row - ROWS / 2, column - COLUMNS / 2] {
        out.extend_from_slice(itoa::Buffer::new().format(degrees).as_bytes());
        out.push(b',');
    }
    write_u64(count.into(), out);
    out.push(b']');
}

/// Returns the cell of a location. The north pole is in the northernmost row, and 180° east in the
/// easternmost column.
fn cell(location: &[u8]) -> Option<usize> {
    let (latitude, longitude) = split(location)?;
    let row = (floor(latitude)? + ROWS / 2).clamp(0, ROWS - 1);
    let column = (floor(longitude)? + COLUMNS / 2).clamp(0, COLUMNS - 1);
    Some((row * COLUMNS + column) as usize)
}

/// Returns the greatest whole number that is not above a signed decimal of a location.
fn floor(text: &[u8]) -> Option<i32> {
    let (sign, digits) = text.split_first()?;
    let mut digits = digits.iter();
    let mut degrees = 0;
    for digit in digits.by_ref().take_while(|&&digit| digit != b'.') {
        degrees = (degrees * 10 + i32::from(digit.wrapping_sub(b'0'))).min(COLUMNS);
    }
    if *sign == b'+' {
        return Some(degrees);
    }
    let is_whole = digits.all(|&digit| digit == b'0');
    Some(-degrees - i32::from(!is_whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_in_the_cell_north_east_of_its_corner() {
        for (location, expected) in [
            ("+34.068930-118.445127", ",[34,-119,1]"),
            ("+34-118", ",[34,-118,1]"),
            ("+0+0", ",[0,0,1]"),
            ("-0-0.000", ",[0,0,1]"),
            ("-0.5-0.0000001", ",[-1,-1,1]"),
            ("-90-180", ",[-90,-180,1]"),
            ("+90+180", ",[89,179,1]"),
            ("+0089.999+00179.999", ",[89,179,1]"),
            ("-89.5-179.5", ",[-90,-180,1]"),
        ] {
            let mut out = Vec::new();
            write_cell(cell(location.as_bytes()).unwrap(), 1, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{location}");
        }
    }
}
