//! Binds, wires and stops one server. Every thread belongs to an owner here, and is joined by it.
//!
//! `error` has the errors of starting and reloading, `reload` adopts a new configuration, `timer`
//! runs the periodic jobs. Nothing of a protocol or of a record is decided here.

mod error;
mod reload;
#[cfg(test)]
mod tests;
mod timer;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use log::{info, warn};

use crate::client::accept::{self, Clients, RejectedClients};
use crate::client::limit::ConnectionLimit;
use crate::client::pool::Pool;
use crate::client::services::Services;
use crate::config::Config;
use crate::config::limits::{check_threads, raise_descriptor_limit};
use crate::config::topology::{Address, ServerEntry};
use crate::link::keyring::Keyring;
use crate::link::neighbor::LinkStatus;
use crate::link::{self, Links};
use crate::listener::{self, Listener};
use crate::model::time::{COARSE_STEP, CoarseClock};
use crate::places::Places;
use crate::replica::Replica;
use crate::replica::upkeep::{MARKER_INTERVAL, Upkeep};

pub use error::{ReloadError, StartError};

use timer::{Job, Timer};

/// Interval at which all connections are checked for deadlines that have passed.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Descriptors that are not for clients: links, listeners, files.
const RESERVED_DESCRIPTORS: usize = 256;

/// Threads whose number does not depend on the settings, rounded up: 16 for handshakes, two
/// listeners, two for the upkeep of the replica, the timer, the audit, the log, and those for
/// signals.
const OTHER_THREADS: usize = 32;

/// A server's two sockets, bound.
#[derive(Debug)]
pub struct Sockets {
    /// For clients.
    pub clients: TcpListener,
    /// For neighbors.
    pub peers: TcpListener,
}

impl Sockets {
    /// Binds a server's own two addresses, or their ports on another local address.
    pub fn bind(entry: &ServerEntry, on: Option<IpAddr>) -> Result<Sockets, StartError> {
        let bind = |audience, address: &Address| {
            let resolved = match on {
                Some(ip) => SocketAddr::new(ip, address.port),
                None => resolve(address)?,
            };
            listener::bind(resolved).map_err(|error| StartError::Bind(audience, resolved, error))
        };
        Ok(Sockets {
            clients: bind("clients", &entry.client)?,
            peers: bind("peers", &entry.peer)?,
        })
    }
}

fn resolve(address: &Address) -> Result<SocketAddr, StartError> {
    (address.host.as_str(), address.port)
        .to_socket_addrs()
        .and_then(|mut addresses| {
            addresses
                .next()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))
        })
        .map_err(|error| StartError::Resolve(address.clone(), error))
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Its own line of `servers.txt`, as it was at the start.
    entry: ServerEntry,
    services: Arc<Services>,
    clients: Listener,
    peers: Listener,
    pool: Pool,
    links: Links,
    upkeep: Upkeep,
    timer: Timer,
}

impl Server {
    /// Starts all threads; when it returns, clients are served.
    pub fn start(config: &Config, sockets: Sockets, places: Places) -> Result<Server, StartError> {
        let max_clients = max_clients(config.max_clients)?;
        check_threads(threads(config)).map_err(StartError::Threads)?;
        let (replica, syncer) = Replica::open(config).map_err(StartError::Journal)?;
        let name = &config.server.name;
        let upkeep = Upkeep::start(&replica, syncer)?;
        let clock = CoarseClock::default();
        let keys = Arc::new(Keyring::new(config.keys.clone()));
        let limit = ConnectionLimit::new(max_clients);
        let connected = Arc::clone(&limit.connected);
        let interval = config.digest_interval;
        let mut links = Links::start(Arc::clone(&replica), keys, connected, interval)?;
        links.set_neighbors(&link::neighbors(&config.topology, name))?;

        let services = Arc::new(Services {
            replica: Arc::clone(&replica),
            places,
            durability: upkeep.durability(),
            idle_timeout: config.idle_timeout,
            clock: clock.clone(),
            stopping: AtomicBool::new(false),
        });
        let pool = Pool::start(config.pool, config.workers, &services)?;
        let rejected = RejectedClients::default();
        let timer = Timer::start(jobs(&replica, &pool, &rejected, &clock))?;
        let peers = Listener::start("peer-listener", sockets.peers, links.acceptor())?;
        let clients = Clients {
            dispatcher: pool.dispatcher(),
            limit,
            rejected,
            clock,
        };
        accept::bound_replies(&sockets.clients)?;
        let clients = Listener::start("client-listener", sockets.clients, clients)?;
        info!(
            "{name} serves clients on {} and peers on {}, {} workers, {:?}, at most {max_clients} clients",
            clients.address(),
            peers.address(),
            config.workers,
            config.pool,
        );
        Ok(Server {
            entry: config.server.clone(),
            services,
            clients,
            peers,
            pool,
            links,
            upkeep,
            timer,
        })
    }

    /// Returns the address for clients.
    pub fn client_address(&self) -> SocketAddr {
        self.clients.address()
    }

    /// Returns the address for neighbors.
    pub fn peer_address(&self) -> SocketAddr {
        self.peers.address()
    }

    /// Returns the replica, for callers that inspect records without the protocol.
    pub fn replica(&self) -> &Replica {
        &self.services.replica
    }

    /// Returns the status of its links, by the neighbors' names.
    pub fn links(&self) -> BTreeMap<String, LinkStatus> {
        self.links.status()
    }

    /// Returns the number of connections to the peer port that were rejected, and of links of
    /// either direction that were closed for a protocol error.
    pub fn peers_refused(&self) -> u64 {
        self.links.refused()
    }

    /// [`finish`](Self::finish), for callers that need no count.
    pub fn stop(self) {
        self.finish();
    }

    /// Stops accepting, finishes the requests that were read, sends the queues to the neighbors,
    /// brings the journal to disk, and joins every thread. Returns the number of acknowledged reports that are
    /// lost, since the journal can't be written.
    pub fn finish(self) -> u64 {
        info!("stopping");
        self.clients.stop();
        self.peers.stop();
        self.pool.begin_stop();
        // Connections that wait for a places provider are answered at once, and the workers end.
        self.services.places.stop();
        self.pool.join();
        // No report is applied from here on, but for those of neighbors.
        self.services.replica.send_markers();
        self.links.stop();
        let lost = self.upkeep.stop();
        self.timer.stop();
        info!("stopped");
        lost
    }
}

/// Lists the periodic jobs of the timer. The clock comes first: others read it.
fn jobs(
    replica: &Arc<Replica>,
    pool: &Pool,
    rejected: &RejectedClients,
    clock: &CoarseClock,
) -> Vec<Job> {
    let (replica, rejected) = (Arc::clone(replica), rejected.clone());
    let (stalled, deadlines) = (pool.dispatcher(), pool.dispatcher());
    let (set, now, sweep) = (clock.clone(), clock.clone(), clock.clone());
    vec![
        Job::new("coarse clock", COARSE_STEP, move |elapsed| set.set(elapsed)),
        Job::new("stalled workers", COARSE_STEP, move |_| {
            stalled.wake_if_stalled();
        }),
        Job::new("rejected clients", COARSE_STEP, move |_| {
            rejected.sweep(now.now());
        }),
        Job::new("client deadlines", SWEEP_INTERVAL, move |_| {
            deadlines.sweep(sweep.now());
        }),
        Job::new("markers", MARKER_INTERVAL, move |_| replica.send_markers()),
    ]
}

/// Returns the number of threads that a server needs: the pool's, a sender, a reader and a receiver
/// for each neighbor, and the others.
fn threads(config: &Config) -> usize {
    config.workers + 3 * config.server.neighbors.len() + OTHER_THREADS
}

/// Raises the descriptor limit as far as possible, and returns the number of clients that it allows.
fn max_clients(requested: Option<usize>) -> Result<usize, StartError> {
    let limit = raise_descriptor_limit();
    let allowed = limit.saturating_sub(RESERVED_DESCRIPTORS);
    match requested {
        _ if allowed == 0 => Err(StartError::Descriptors {
            limit,
            reserved: RESERVED_DESCRIPTORS,
        }),
        Some(requested) if requested > allowed => {
            warn!(
                "--max-clients {requested} is more than {limit} open files allow; using {allowed}"
            );
            Ok(allowed)
        }
        Some(requested) => Ok(requested),
        None => Ok(allowed),
    }
}
