//! Lays out places as the static index that the atlas searches; runs in `build.rs` and in tests.
//!
//! This module determines the prominence of places, drops duplicates and builds the search tree.
//! All of it happens at build time, so a server needs no work at its start, and five servers on a
//! machine share one copy in the page cache. The kind letters are defined in `make.py`.

use super::format::{Class, Node, Place, STEPS, UNITS_PER_RADIUS, middle, position};
use crate::model::geo::{chord, squared_chord};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;

/// Maximum distance in kilometers between two places of one name that count as duplicates.
const DUPLICATE_KM: f64 = 1.0;

/// Maximum bytes of an escaped string, whose length has to fit one byte; a longer one fails the
/// build.
const MAX_TEXT_BYTES: usize = u8::MAX as usize;

/// The index as bytes, in the format of [`super::format`].
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) nodes: Vec<u8>,
    pub(super) places: Vec<u8>,
    pub(super) text: Vec<u8>,
}

/// Number of a line of the data file that is not a valid place, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine(usize);

impl fmt::Display for BadLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {} is not a valid place", self.0)
    }
}

impl std::error::Error for BadLine {}

/// One line of the data file.
#[derive(Debug)]
struct Entry {
    /// Number of its line, counted from 0.
    line: usize,
    /// The node, whose axis and greatest prominence are those of the place until it is in the tree.
    node: Node,
    latitude: i32,
    longitude: i32,
    population: u32,
    name: String,
    vicinity: String,
    id: u32,
}

/// Parses the data file and lays it out without duplicates.
pub(super) fn lay_out(data: &str) -> Result<Layout, BadLine> {
    let mut entries = without_duplicates(parse(data)?);
    sort_into_tree(&mut entries);

    let mut layout = Layout::default();
    let mut text = StringTable::default();
    for entry in &entries {
        let place = Place {
            latitude: entry.latitude,
            longitude: entry.longitude,
            id: entry.id,
            name: text.offset(&entry.name),
            vicinity: text.offset(&entry.vicinity),
        };
        layout.nodes.extend_from_slice(&entry.node.to_bytes());
        layout.places.extend_from_slice(&place.to_bytes());
    }
    layout.text = text.bytes;
    Ok(layout)
}

fn parse(data: &str) -> Result<Vec<Entry>, BadLine> {
    data.lines()
        .enumerate()
        .map(|(index, line)| parse_entry(index, line).ok_or(BadLine(index + 1)))
        .collect()
}

fn parse_entry(line: usize, text: &str) -> Option<Entry> {
    let mut fields = text.split('\t');
    let kind = fields.next()?;
    let id = fields.next()?.parse().ok()?;
    let latitude: i32 = fields.next()?.parse().ok()?;
    let longitude: i32 = fields.next()?.parse().ok()?;
    let population = fields.next()?.parse().ok()?;
    let name = escaped(fields.next()?);
    let vicinity = escaped(fields.next()?);
    let fits = |text: &str| !text.is_empty() && text.len() <= MAX_TEXT_BYTES;
    if fields.next().is_some()
        || !fits(&name)
        || !fits(&vicinity)
        || latitude.unsigned_abs() > 90_000_000
        || longitude.unsigned_abs() > 180_000_000
    {
        return None;
    }
    let (class, prominence) = rank(kind, population)?;
    let vector = position(latitude, longitude).unit_vector();
    Some(Entry {
        line,
        node: Node {
            vector: vector.map(|axis| (axis * UNITS_PER_RADIUS).round() as i32),
            prominence,
            max_prominence: prominence,
            axis: 0,
            class,
        },
        latitude,
        longitude,
        population,
        name,
        vicinity,
        id,
    })
}

/// Weight of a locality whose population is not known: that of a hamlet.
const UNKNOWN_POPULATION: u32 = 100;

/// Returns the class and prominence of a place. A locality weighs its population. Standing beside a
/// large airport, one names the airport and not the city 20 km away; a medium one is named where no
/// city is as near; heliports are named where there is nothing else.
fn rank(kind: &str, population: u32) -> Option<(Class, u8)> {
    let (class, weight) = match kind {
        "L" => (Class::Airport, 1_000_000),
        "M" => (Class::Airport, 25_000),
        "S" | "W" => (Class::Airport, 300),
        "C" => (Class::Helipad, 30),
        "H" | "B" => (Class::Helipad, 10),
        "P" if population == 0 => (Class::Locality, UNKNOWN_POPULATION),
        "P" => (Class::Locality, population),
        _ => return None,
    };
    let prominence = STEPS as f64 * f64::from(weight).log2();
    Some((class, prominence.round().min(f64::from(u8::MAX)) as u8))
}

/// Returns the text as the contents of a JSON string.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            '\0'..' ' => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Drops every place within [`DUPLICATE_KM`] of a more prominent one of its name.
fn without_duplicates(entries: Vec<Entry>) -> Vec<Entry> {
    let mut namesakes: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let name = entry.name.to_lowercase();
        namesakes.entry(name).or_default().push(index);
    }
    let reach = chord(DUPLICATE_KM).powi(2);
    let mut keep = vec![true; entries.len()];
    for group in namesakes.values_mut().filter(|group| group.len() > 1) {
        group.sort_by_key(|&index| {
            let entry = &entries[index];
            (Reverse((entry.node.prominence, entry.population)), index)
        });
        let mut kept: Vec<[f64; 3]> = Vec::new();
        for &index in group.iter() {
            let vector = position(entries[index].latitude, entries[index].longitude).unit_vector();
            let is_apart = |&other: &[f64; 3]| squared_chord(vector, other) > reach;
            keep[index] = kept.iter().all(is_apart);
            if keep[index] {
                kept.push(vector);
            }
        }
    }
    let mut keep = keep.into_iter();
    let mut entries = entries;
    entries.retain(|_| keep.next() == Some(true));
    entries
}

/// Sorts entries into a k-d tree: each range is split at its middle along its widest axis. Stores
/// that axis and the greatest prominence of each subtree at its root, and returns the greatest of
/// all.
///
/// The widest axis keeps subtrees compact: places lie on a surface, so a split along each axis in
/// turn would often be along the thin side of a subtree.
fn sort_into_tree(entries: &mut [Entry]) -> u8 {
    if entries.is_empty() {
        return 0;
    }
    let width = |&axis: &usize| {
        let values = entries
            .iter()
            .map(|point| i64::from(point.node.vector[axis]));
        let (low, high) = values.fold((i64::MAX, i64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        high - low
    };
    let axis = (0..3).max_by_key(width).unwrap_or(0);
    let middle = middle(0, entries.len());
    let (left, root, right) =
        entries.select_nth_unstable_by_key(middle, |entry| (entry.node.vector[axis], entry.line));
    let subtrees = sort_into_tree(left).max(sort_into_tree(right));
    root.node.axis = axis as u8;
    root.node.max_prominence = root.node.prominence.max(subtrees);
    root.node.max_prominence
}

/// A table of strings, each stored once.
#[derive(Default)]
struct StringTable<'a> {
    bytes: Vec<u8>,
    offsets: HashMap<&'a str, u32>,
}

impl<'a> StringTable<'a> {
    /// Returns the offset of a string of at most [`MAX_TEXT_BYTES`], which is appended on first use.
    fn offset(&mut self, string: &'a str) -> u32 {
        *self.offsets.entry(string).or_insert_with(|| {
            let offset = self.bytes.len() as u32;
            self.bytes.push(string.len() as u8);
            self.bytes.extend_from_slice(string.as_bytes());
            offset
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the places that remain of lines of `kind latitude population name`, most prominent
    /// first.
    #[track_caller]
    fn check(lines: &[(&str, i32, u32, &str)], expected: &[&str]) {
        let data: String = lines
            .iter()
            .enumerate()
            .map(|(id, (kind, latitude, population, name))| {
                format!("{kind}\t{id}\t{latitude}\t0\t{population}\t{name}\tV\n")
            })
            .collect();
        let mut entries = without_duplicates(parse(&data).unwrap());
        entries.sort_by_key(|entry| Reverse(entry.node.prominence));
        let got: Vec<String> = entries
            .iter()
            .map(|entry| format!("{} {}", entry.id, entry.name))
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn airports_weigh_as_much_as_towns() {
        check(
            &[
                ("H", 1, 0, "pad"),
                ("C", 2, 0, "hospital"),
                ("P", 3, 0, "unknown"),
                ("W", 4, 0, "seaplanes"),
                ("P", 5, 500, "village"),
                ("M", 6, 0, "medium"),
                ("P", 7, 90_000, "town"),
                ("L", 8, 0, "large"),
                ("P", 9, 24_874_500, "Shanghai"),
                ("P", 10, u32::MAX, "more than there can be"),
            ],
            &[
                "9 more than there can be",
                "8 Shanghai",
                "7 large",
                "6 town",
                "5 medium",
                "4 village",
                "3 seaplanes",
                "2 unknown",
                "1 hospital",
                "0 pad",
            ],
        );
    }

    #[test]
    fn namesakes_within_a_kilometer_are_duplicates() {
        // A kilometer is 8,993 microdegrees of latitude.
        check(
            &[("P", 0, 500, "Ham"), ("P", 8_990, 900, "HAM")],
            &["1 HAM"],
        );
        check(
            &[("P", 0, 500, "Ham"), ("P", 9_000, 900, "Ham")],
            &["1 Ham", "0 Ham"],
        );
        check(
            &[("P", 0, 500, "Ham"), ("P", 10, 900, "Hame")],
            &["1 Hame", "0 Ham"],
        );
        check(
            &[("H", 0, 0, "Ham"), ("H", 10, 0, "Ham"), ("M", 20, 0, "Ham")],
            &["2 Ham"],
        );
        // The middle one is dropped; the outer two are too far apart to be duplicates.
        check(
            &[
                ("P", 0, 900, "Ham"),
                ("P", 6_000, 500, "Ham"),
                ("P", 12_000, 700, "Ham"),
            ],
            &["0 Ham", "2 Ham"],
        );
    }

    #[test]
    fn an_invalid_line_fails_the_build() {
        let good = "P\t1\t0\t0\t500\tHam\tKent\n";
        assert!(lay_out(good).is_ok());
        let long = "x".repeat(256);
        for bad in [
            "",
            "P\t1\t0\t0\t500\tHam",
            "P\t1\t0\t0\t500\tHam\tKent\tmore",
            "X\t1\t0\t0\t500\tHam\tKent",
            "P\t-1\t0\t0\t500\tHam\tKent",
            "P\t1\t90000001\t0\t500\tHam\tKent",
            "P\t1\t0\t-180000001\t500\tHam\tKent",
            "P\t1\t0.5\t0\t500\tHam\tKent",
            "P\t1\t0\t0\t500\t\tKent",
            &format!("P\t1\t0\t0\t500\t{long}\tKent"),
        ] {
            let error = lay_out(&format!("{good}{bad}\n")).unwrap_err();
            assert_eq!(error, BadLine(2), "{bad}");
        }
    }

    #[test]
    fn strings_are_stored_once_and_escaped() {
        let data = "P\t1\t0\t0\t1\tA \"b\" \\\u{1}\tV\nP\t2\t9\t9\t1\tÅ\tV\n";
        let text = String::from_utf8(lay_out(data).unwrap().text).unwrap();
        assert!(text.contains(r#"A \"b\" \\\u0001"#), "{text}");
        assert!(text.contains('Å'));
        assert_eq!(text.matches('V').count(), 1);
    }
}
