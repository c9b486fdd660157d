//! What is near a point: the providers behind one trait, and the JSON shape of their answers.
//!
//! Every provider answers in the shape of Google's Places Nearby Search: `html_attributions`,
//! `results`, `status`, and `error_message` where something went wrong.

pub mod answer;
pub mod atlas;
pub mod failure;
#[cfg(test)]
mod fake;
pub mod google;
pub mod google_legacy;
pub mod http;
pub mod key;
pub mod overpass;
pub mod upstream;

use crate::geo::Position;

/// What a `WHATSAT` asks of a places provider.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Query {
    /// The center of the search.
    pub position: Position,
    /// How far from it a place may be, 0 to 50 kilometers.
    pub radius_km: f64,
    /// How many places at most, 0 to 20.
    pub bound: u8,
}

/// Where answers come from.
#[derive(Debug)]
pub enum Places {
    /// The offline gazetteer that is part of the program.
    Atlas(atlas::Atlas),
}

impl Places {
    /// Appends the JSON text that answers a query. No newline follows it.
    pub fn nearby(&self, query: &Query, out: &mut Vec<u8>) {
        match self {
            Places::Atlas(atlas) => atlas.nearby(query, out),
        }
    }
}
