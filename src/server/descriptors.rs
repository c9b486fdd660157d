//! The share of the open files that clients may take, so that links and files never lack one.

use log::warn;

use super::Sockets;
use super::error::TooFewDescriptors;
use crate::client::accept::MAX_LINGERING;
use crate::config::limits::raise_descriptor_limit;
use crate::config::{Config, PoolKind};
use crate::http;
use crate::link;
use crate::listener::Bound;
use crate::places::Places;

/// Descriptors of the files of the journal and the log, of the pool, of standard streams and signals,
/// and of what libraries open for a moment, rounded up.
const FILES: usize = 48;

/// Descriptors of a socket that listens: itself, the handle that stops it, and one in reserve.
const PER_LISTENER: usize = 3;

/// Number of clients below which the limit of open files is reported as short.
const FEW_CLIENTS: usize = 1_000;

/// The limit of open files, and what a server needs of it.
#[derive(Debug)]
pub(super) struct Descriptors {
    limit: usize,
    /// Descriptors that do not depend on the neighbors.
    fixed: usize,
    has_http: bool,
    /// Maximum number of clients by the configuration.
    requested: Option<usize>,
}

impl Descriptors {
    /// Raises the limit as far as possible, and counts what this server needs.
    pub(super) fn new(
        config: &Config,
        sockets: &Sockets,
        http: Option<&Bound>,
        places: &Places,
    ) -> Descriptors {
        let listeners = [&sockets.clients, &sockets.peers];
        let listeners = listeners.into_iter().chain(http);
        let listeners: usize = listeners.map(|bound| bound.listeners().len()).sum();
        // A dedicated worker has a second handle on its client's socket, and two descriptors to wait
        // for pushes.
        let workers = match config.pool {
            PoolKind::Dedicated => 3 * config.workers,
            PoolKind::Shared => 0,
        };
        Descriptors {
            limit: raise_descriptor_limit(),
            fixed: FILES
                + PER_LISTENER * listeners
                + MAX_LINGERING
                + workers
                + places.descriptors(),
            has_http: http.is_some(),
            requested: config.max_clients,
        }
    }

    /// Returns the maximum number of clients beside that number of neighbors, and warns if it is
    /// low, or lower than requested.
    /// The HTTP port asks all `servers` at once.
    pub(super) fn clients(
        &self,
        neighbors: usize,
        servers: usize,
    ) -> Result<usize, TooFewDescriptors> {
        let limit = self.limit;
        let http = match self.has_http {
            true => http::DESCRIPTORS + servers,
            false => 0,
        };
        let reserved = self.fixed + link::descriptors(neighbors) + http;
        let allowed = limit.saturating_sub(reserved);
        if allowed == 0 {
            return Err(TooFewDescriptors {
                limit,
                reserved,
                neighbors,
            });
        }
        let own = format!("the server needs {reserved} itself beside {neighbors} neighbors");
        match self.requested {
            Some(requested) if requested > allowed => {
                warn!(
                    "--max-clients {requested} is more than {limit} open files allow; using {allowed} ({own})"
                );
            }
            Some(requested) => return Ok(requested),
            None if allowed < FEW_CLIENTS => {
                warn!(
                    "the limit of {limit} open files leaves {allowed} for clients ({own}); raise it (ulimit -n)"
                );
            }
            None => {}
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_neighbor_takes_its_share_from_the_clients() {
        let descriptors = |requested| Descriptors {
            limit: 3_000,
            fixed: 400,
            has_http: false,
            requested,
        };
        let left = |neighbors| 2_600 - link::descriptors(neighbors);
        assert!(left(0) > left(75) + 75);
        assert_eq!(descriptors(None).clients(0, 1), Ok(left(0)));
        assert_eq!(descriptors(None).clients(75, 99), Ok(left(75)));
        assert_eq!(descriptors(Some(7)).clients(75, 99), Ok(7));
        assert_eq!(descriptors(Some(2_600)).clients(75, 99), Ok(left(75)));
        let with_http = Descriptors {
            has_http: true,
            ..descriptors(None)
        };
        let expected = left(75) - http::DESCRIPTORS - 99;
        assert_eq!(with_http.clients(75, 99), Ok(expected));
        let short = descriptors(Some(7)).clients(600, 601).unwrap_err();
        assert_eq!(
            short.to_string(),
            format!(
                "the limit of 3000 open files leaves none for clients: the server needs {} itself \
                 beside 600 neighbors; raise it (ulimit -n) above that",
                400 + link::descriptors(600)
            )
        );
    }
}
