//! The format of the index, which `build.rs` writes and the atlas reads.
//!
//! Three arrays of little-endian values: **nodes**, the search tree, 16 bytes each; **places**, the
//! data of a result, 20 bytes each, in the order of the nodes; and **text**, each string once,
//! escaped for JSON, after a byte with its length. A node is a place and the root of a subtree: a
//! range of the array is the subtree of its [`middle`], whose left and right subtrees are the
//! halves before and after it. So no pointers are stored, and a server reads the arrays where the
//! kernel has mapped them.

use crate::model::geo::Position;

/// Bytes of a node.
pub(super) const NODE_BYTES: usize = 16;
/// Bytes of a place.
pub(super) const PLACE_BYTES: usize = 20;

/// Units of a node's vector per radius of the earth: a unit is 3 mm, whereas the steps of an f32,
/// which takes four bytes too, are up to 38 cm.
pub(super) const UNITS_PER_RADIUS: f64 = i32::MAX as f64;

/// Prominences in which the weight doubles.
pub(super) const STEPS: usize = 10;

/// Weight of each prominence, in people: the population of a locality, and for other places that of
/// a locality that ranks like them. A step is a tenth of a doubling, 7 %.
#[allow(dead_code, reason = "build.rs writes, the server reads")]
pub(super) const WEIGHTS: [f64; 256] = {
    // The powers of two from 0 to 0.9, which a constant can't compute.
    let mut weights = [0.0; 256];
    let first: [f64; STEPS] = [
        1.0,
        1.071_773_462_536_293_1,
        1.148_698_354_997_035,
        1.231_144_413_344_916_3,
        1.319_507_910_772_894_2,
        std::f64::consts::SQRT_2,
        1.515_716_566_510_398,
        1.624_504_792_712_471,
        1.741_101_126_592_248_2,
        1.866_065_983_073_614_8,
    ];
    let mut prominence = 0;
    while prominence < weights.len() {
        weights[prominence] = match prominence.checked_sub(STEPS) {
            None => first[prominence],
            Some(lower) => 2.0 * weights[lower],
        };
        prominence += 1;
    }
    weights
};

/// Returns the root of the subtree `low..high`.
pub(super) fn middle(low: usize, high: usize) -> usize {
    low + (high - low) / 2
}

/// Converts microdegrees, as in the data file and in [`Place`], to a position.
pub(super) fn position(latitude: i32, longitude: i32) -> Position {
    Position {
        latitude: f64::from(latitude) / 1e6,
        longitude: f64::from(longitude) / 1e6,
    }
}

/// The kind of a place, which determines its types in Google's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// An airport or a seaplane base.
    Airport = 0,
    /// A heliport or a balloonport.
    Helipad = 1,
    /// A city, town or village.
    Locality = 2,
}

/// One place in the search tree, and the root of a subtree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Node {
    /// Unit vector in [`UNITS_PER_RADIUS`], each axis rounded to the nearest.
    pub(super) vector: [i32; 3],
    /// Weight of the place in a ranking, as an index of [`WEIGHTS`].
    pub(super) prominence: u8,
    /// Greatest prominence in the subtree, its root included.
    pub(super) max_prominence: u8,
    /// Axis that splits the subtree: the left is at most the root, the right at least.
    pub(super) axis: u8,
    /// Class of the place.
    pub(super) class: Class,
}

impl Node {
    #[allow(dead_code, reason = "build.rs writes, the server reads")]
    pub(super) fn to_bytes(self) -> [u8; NODE_BYTES] {
        let mut bytes = [0; NODE_BYTES];
        for (field, value) in bytes.chunks_exact_mut(4).zip(self.vector) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        bytes[12..].copy_from_slice(&[
            self.prominence,
            self.max_prominence,
            self.axis,
            self.class as u8,
        ]);
        bytes
    }

    #[allow(dead_code, reason = "build.rs writes, the server reads")]
    #[inline]
    pub(super) fn from_bytes(bytes: &[u8; NODE_BYTES]) -> Node {
        Node {
            vector: [field(bytes, 0), field(bytes, 4), field(bytes, 8)].map(u32::cast_signed),
            prominence: bytes[12],
            max_prominence: bytes[13],
            axis: bytes[14],
            class: match bytes[15] {
                0 => Class::Airport,
                1 => Class::Helipad,
                _ => Class::Locality,
            },
        }
    }
}

/// The data of a place in a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Microdegrees north.
    pub(super) latitude: i32,
    /// Microdegrees east.
    pub(super) longitude: i32,
    /// Number in its source: GeoNames for a locality, OurAirports for all others.
    pub(super) id: u32,
    /// Offset of the name in the text.
    pub(super) name: u32,
    /// Offset of the vicinity in the text.
    pub(super) vicinity: u32,
}

impl Place {
    #[allow(dead_code, reason = "build.rs writes, the server reads")]
    pub(super) fn to_bytes(self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        let position = [self.latitude, self.longitude].map(i32::cast_unsigned);
        let values = [position[0], position[1], self.id, self.name, self.vicinity];
        for (field, value) in bytes.chunks_exact_mut(4).zip(values) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[allow(dead_code, reason = "build.rs writes, the server reads")]
    pub(super) fn from_bytes(bytes: &[u8; PLACE_BYTES]) -> Place {
        Place {
            latitude: field(bytes, 0).cast_signed(),
            longitude: field(bytes, 4).cast_signed(),
            id: field(bytes, 8),
            name: field(bytes, 12),
            vicinity: field(bytes, 16),
        }
    }
}

/// Returns the four bytes at `at`.
#[inline]
fn field<const BYTES: usize>(bytes: &[u8; BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_powers_of_two() {
        for (prominence, &weight) in WEIGHTS.iter().enumerate() {
            let expected = (prominence as f64 / STEPS as f64).exp2();
            assert!(
                (weight / expected - 1.0).abs() < 1e-14,
                "{prominence}: {weight}"
            );
        }
    }

    #[test]
    fn written_values_are_read_back() {
        for class in [Class::Airport, Class::Helipad, Class::Locality] {
            let node = Node {
                vector: [i32::MAX, -i32::MAX, -2],
                prominence: 250,
                max_prominence: 255,
                axis: 2,
                class,
            };
            assert_eq!(Node::from_bytes(&node.to_bytes()), node);
        }
        let place = Place {
            latitude: -90_000_000,
            longitude: 180_000_000,
            id: 14_000_000,
            name: 5,
            vicinity: u32::MAX,
        };
        assert_eq!(Place::from_bytes(&place.to_bytes()), place);
    }
}
