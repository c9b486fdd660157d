//! What is near a point: the providers behind one trait, and the JSON shape of their answers.
//!
//! Every provider answers in the shape of Google's Places Nearby Search: `html_attributions`,
//! `results`, `status`, and `error_message` where something went wrong.

pub mod answer;
pub mod atlas;
pub mod breaker;
pub mod cache;
pub mod failure;
pub mod google;
pub mod google_legacy;
pub mod http;
pub mod key;
pub mod overpass;
pub mod remote;
pub mod upstream;

use std::sync::Arc;

use answer::write_zero_results;
use atlas::Atlas;
use remote::{Answered, Remote};
use upstream::Request;

use crate::model::decimal::Decimal;
use crate::model::geo::Position;

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

/// A search that a provider over the network has still to answer.
#[derive(Debug)]
pub struct RemoteSearch {
    remote: Arc<Remote>,
    request: Request,
}

impl RemoteSearch {
    /// Starts the search. `answered` is called with the JSON text, at once or within seconds, on
    /// any thread.
    pub fn start(self, answered: Answered) {
        self.remote.ask(self.request, answered);
    }
}

/// Where answers come from.
#[derive(Debug)]
pub enum Places {
    /// The offline gazetteer that is part of the program.
    Atlas(Atlas),
    /// A provider over the network, with threads of its own.
    Remote(Arc<Remote>),
}

impl Places {
    /// Appends the JSON text that says what is near `location`, if that is known at once. No
    /// newline follows it. Otherwise returns the search to be started.
    ///
    /// `location` is a client's location field, and `radius` and `bound` are within the limits
    /// of a `WHATSAT`.
    pub fn lookup(
        &self,
        location: &[u8],
        radius: Decimal<'_>,
        bound: u8,
        out: &mut Vec<u8>,
    ) -> Option<RemoteSearch> {
        match self {
            Places::Atlas(atlas) => {
                let query = Query {
                    position: Position::parse(location)?,
                    radius_km: radius.to_f64(),
                    bound,
                };
                atlas.nearby(&query, out);
                None
            }
            Places::Remote(remote) => {
                let request = Request::new(location, radius, bound)?;
                if request.is_void() {
                    write_zero_results(out);
                    return None;
                }
                Some(RemoteSearch {
                    remote: Arc::clone(remote),
                    request,
                })
            }
        }
    }

    /// Cuts calls in flight; who waits is answered.
    pub fn stop(&self) {
        if let Places::Remote(remote) = self {
            remote.stop();
        }
    }
}
