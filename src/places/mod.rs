//! Places near a point: an offline atlas, and providers on the network.
//!
//! Every provider answers in the shape of Google's Places Nearby Search: `html_attributions`,
//! `results`, `status`, and `error_message` for a failure. The atlas answers at once. The others
//! implement [`upstream::Upstream`], one call at a time; [`remote`] adds threads, a queue, a
//! deadline, a cache and a circuit breaker. The two newlines that end a reply are the session's.

mod answer;
pub mod atlas;
mod breaker;
mod cache;
mod calls;
pub mod failure;
pub mod google;
mod google_common;
pub mod google_legacy;
pub mod http;
pub mod key;
mod outcomes;
pub mod overpass;
pub mod remote;
pub mod upstream;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use calls::CallOutcome;

use answer::write_zero_results;
use atlas::Atlas;
use remote::{AnswerCallback, Remote};
use upstream::Request;

use crate::metrics::CounterFamily;
use crate::model::decimal::Decimal;
use crate::model::geo::Position;

/// A search that a provider on the network has to answer.
#[derive(Debug)]
pub struct RemoteSearch {
    remote: Arc<Remote>,
    request: Request,
}

impl RemoteSearch {
    /// Starts the search. `on_answer` is called with the answer, at once or within seconds, on any
    /// thread.
    pub(crate) fn start(self, on_answer: AnswerCallback) {
        self.remote.search(self.request, on_answer);
    }
}

/// The provider that a server uses.
#[derive(Debug)]
pub enum Places {
    /// The offline gazetteer that is part of the program.
    Atlas(Atlas),
    /// A provider on the network, with threads of its own.
    Remote(Arc<Remote>),
}

impl Places {
    /// Appends the JSON text of the places near `location`, without a newline at the end, if it is
    /// available at once. Otherwise returns the search that has to be started.
    ///
    /// `location` is a client's location field; `radius`, in kilometers, and `bound` are within the
    /// limits of a `WHATSAT`.
    pub fn lookup(
        &self,
        location: &[u8],
        radius: Decimal<'_>,
        bound: u8,
        out: &mut Vec<u8>,
    ) -> Option<RemoteSearch> {
        match self {
            Places::Atlas(atlas) => {
                atlas.nearby(&Position::parse(location)?, radius.to_f64(), bound, out);
                None
            }
            Places::Remote(remote) => {
                let request = Request::new(location, radius, bound)?;
                if request.is_always_empty() {
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

    /// Returns why searches fail, if they do. The atlas never fails.
    pub(crate) fn problem(&self, now: Instant) -> Option<String> {
        match self {
            Places::Atlas(_) => None,
            Places::Remote(remote) => remote.problem(now),
        }
    }

    /// Returns the provider's name, and the outcomes of its searches; `None` for those of the atlas,
    /// which answers each.
    pub(crate) fn calls(&self) -> (&'static str, Option<&CounterFamily<CallOutcome>>) {
        match self {
            Places::Atlas(_) => ("atlas", None),
            Places::Remote(remote) => {
                let (name, calls) = remote.calls();
                (name, Some(calls))
            }
        }
    }

    /// Returns the number of descriptors that the provider takes at most.
    pub(crate) fn descriptors(&self) -> usize {
        match self {
            Places::Atlas(_) => 0,
            Places::Remote(remote) => remote.descriptors(),
        }
    }

    /// Aborts the calls in flight, and answers all waiting requests. Waits for no name that is being
    /// looked up.
    pub(crate) fn stop(&self) {
        if let Places::Remote(remote) = self {
            remote.stop();
        }
    }
}
