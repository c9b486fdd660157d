//! Binds, wires and stops one server. Every thread belongs to an owner here, and is joined by it.
//!
//! `figures` has what the status says of clients, `error` the errors of starting and reloading;
//! `reload` adopts a new configuration, `forgetting` the age at which records are forgotten, `timer` runs
//! the periodic jobs, `watch` gathers what the server's state depends on, `clock` judges whether the
//! clock is to be believed, `http` binds the HTTP port, `descriptors` divides the open files between
//! links and clients.
//! Nothing of a protocol or of a record is decided here.

mod clock;
mod descriptors;
mod error;
mod figures;
mod forgetting;
mod http;
mod reload;
#[cfg(test)]
mod tests;
mod timer;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use log::{info, warn};
use parking_lot::Mutex;

use crate::client::accept::{self, Clients, RejectedClients};
use crate::client::counts::ClientCounts;
use crate::client::limit::ConnectionLimit;
use crate::client::pool::Pool;
use crate::client::rejections::ClientRejections;
use crate::client::services::Services;
use crate::config::Config;
use crate::config::limits::check_threads;
use crate::config::topology::{Address, ServerEntry};
use crate::health::Health;
use crate::http::{CurrentTopology, HttpPort, metrics};
use crate::link::catch_up::Readiness;
use crate::link::keyring::Keyring;
use crate::link::linked::LinkedKey;
use crate::link::neighbor::LinkStatus;
use crate::link::{self, Links};
use crate::listener::{Bound, Listener};
use crate::logging::EVENT;
use crate::model::time::{COARSE_STEP, CoarseClock, Timestamp};
use crate::places::Places;
use crate::replica::Replica;
use crate::replica::upkeep::Upkeep;
use crate::thread::{Group, Liveness, Stop};
use crate::watch::Watches;
use crate::watch::publisher::Publisher;

pub use error::{ReloadError, StartError, TooFewDescriptors};
pub use forgetting::ForgetAfterError;

use descriptors::Descriptors;
use error::bind_reason;
use figures::Figures;
use forgetting::ForgetAfter;
use timer::{Job, Timer};
use watch::{Sources, Watch};

/// Threads whose number does not depend on the settings, rounded up: five for peers that are not
/// neighbors, a listener for each address, four for the replica, that of watches, three for links and the server's
/// state, the timer, the watch of the workers, the log, and those for signals, the start and the last
/// words.
const OTHER_THREADS: usize = 32;

/// Threads of each neighbor: a sender, a reader, two receivers, and an attempt to dial.
const THREADS_PER_NEIGHBOR: usize = 5;

/// A server's two ports, bound.
#[derive(Debug)]
pub struct Sockets {
    /// For clients.
    pub clients: Bound,
    /// For neighbors.
    pub peers: Bound,
}

impl Sockets {
    /// Binds a server's own two addresses, or their ports on another local address. A host name is
    /// looked up, which can take half a minute, and stands for all of its addresses.
    pub fn bind(entry: &ServerEntry, on: Option<IpAddr>) -> Result<Sockets, StartError> {
        let bind = |audience, address: &Address| {
            let resolved = match on {
                Some(ip) => vec![SocketAddr::new(ip, address.port)],
                None => resolve(address)?,
            };
            Bound::bind(&resolved)
                .map_err(|(address, error)| StartError::Bind(audience, address, error))
        };
        Ok(Sockets {
            clients: bind("clients", &entry.client)?,
            peers: bind("peers", &entry.peer)?,
        })
    }
}

fn resolve(address: &Address) -> Result<Vec<SocketAddr>, StartError> {
    let resolved = (address.host.as_str(), address.port).to_socket_addrs();
    let resolved = resolved.map(Iterator::collect::<Vec<_>>);
    match resolved {
        Ok(addresses) if addresses.is_empty() => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the host has no address",
        )),
        resolved => resolved,
    }
    .map_err(|error| StartError::Resolve(address.clone(), error))
}

/// Warns of the addresses that a port was to have and has not.
fn warn_of_left_out(audience: &str, bound: &Bound) {
    for (address, error) in &bound.left_out {
        let reason = bind_reason(error);
        warn!("not listening for {audience} on {address}: {reason}");
    }
}

/// The part of a server whose end a stop waits for.
#[derive(Clone, Debug)]
pub struct StopStage(Arc<Mutex<&'static str>>);

impl StopStage {
    fn set(&self, part: &'static str) {
        *self.0.lock() = part;
    }

    /// Returns the part, in words.
    pub fn part(&self) -> &'static str {
        *self.0.lock()
    }
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
    publisher: Publisher,
    timer: Timer,
    watch: Watch,
    descriptors: Descriptors,
    limit: ConnectionLimit,
    group: Group,
    topology: CurrentTopology,
    forget_after: ForgetAfter,
    http: Option<HttpPort>,
    stage: StopStage,
}

impl Server {
    /// Starts all threads. Clients that connect wait with the kernel until the server
    /// [has caught up](Server::ready) with its herd, and are served from then on.
    pub fn start(config: &Config, sockets: Sockets, places: Places) -> Result<Server, StartError> {
        warn_of_left_out("clients", &sockets.clients);
        warn_of_left_out("peers", &sockets.peers);
        let mut bound = http::bind(config.http.as_ref())?;
        let is_optional = config.http.as_ref().is_some_and(|http| http.is_optional);
        let (descriptors, max_clients) = match shares(config, &sockets, bound.as_ref(), &places) {
            Err(error) if is_optional && bound.is_some() => {
                warn!("{error}; starting without HTTP");
                bound = None;
                shares(config, &sockets, None, &places)?
            }
            shares => shares?,
        };
        let group = Group::default();
        let _entered = group.enter();
        // Before the journal is read, which can take long: the port says meanwhile that the server is
        // starting.
        let mut port = http::start(config.http.as_ref(), bound, group.liveness())?;
        let shares = (descriptors, max_clients, group);
        match Server::start_behind(config, sockets, places, shares, port.as_mut()) {
            Ok(mut server) => {
                server.http = port;
                Ok(server)
            }
            Err(error) => {
                if let Some(port) = port {
                    port.stop();
                }
                Err(error)
            }
        }
    }

    /// Starts everything but the HTTP port, and gives the port the server's parts.
    fn start_behind(
        config: &Config,
        sockets: Sockets,
        places: Places,
        (descriptors, max_clients, group): (Descriptors, usize, Group),
        port: Option<&mut HttpPort>,
    ) -> Result<Server, StartError> {
        let neighbors = link::neighbors(&config.topology, &config.server.name);
        let name = &config.server.name;
        let folder = config.data_dir.as_ref().map(|folder| folder.join(name));
        let age = config.topology.forget_after();
        let may_lengthen = config.may_lengthen_forget_after;
        let age = ForgetAfter::judge_start(folder.as_deref(), age, may_lengthen);
        let age = age.map_err(StartError::ForgetAfter)?;
        let (replica, syncer) = Replica::open(config).map_err(StartError::Journal)?;
        // Before anything can be asked of the replica.
        let forget_after = age.adopt(&replica, !neighbors.is_empty(), Timestamp::now());
        let forget_after = forget_after.map_err(StartError::ForgetAfter)?;
        let (restored, journal) = (replica.len() as u64, syncer.clone());
        let upkeep = Upkeep::start(&replica, syncer)?;
        let clock = CoarseClock::default();
        let keys = Arc::new(Keyring::new(config.keys.clone()));
        let limit = ConnectionLimit::new(max_clients, config.max_clients_per_address);
        let counts = Arc::<ClientCounts>::default();
        let figures = Figures {
            limit: limit.clone(),
            counts: Arc::clone(&counts),
        };
        let interval = config.digest_interval;
        let linked = LinkedKey::open(folder.as_deref());
        let health = Arc::<Health>::default();
        let mut links = Links::start(
            Arc::clone(&replica),
            Arc::clone(&keys),
            Arc::new(figures),
            Arc::clone(&health),
            interval,
            linked,
        )?;
        links.set_neighbors(&neighbors)?;

        let watches = Arc::new(Watches::new(&replica));
        let publisher = Publisher::start(&watches)?;
        let services = Arc::new(Services {
            watches,
            replica: Arc::clone(&replica),
            places,
            durability: upkeep.durability(),
            stall: upkeep.stall(),
            idle_timeout: config.idle_timeout,
            max_unsent_bytes: config.max_unsent_bytes,
            clock: clock.clone(),
            stopping: AtomicBool::new(false),
            counts,
        });
        let pool = Pool::start(config.pool, config.workers, &services)?;
        let rejected = RejectedClients::default();
        let timer = Timer::start(jobs(&pool, &rejected, &clock, group.liveness()))?;
        let peers = Listener::start("peer-listener", sockets.peers, links.acceptor())?;
        let rejections = ClientRejections::default();
        let watch = Watch::start(Sources {
            links: links.facts().clone(),
            services: Arc::clone(&services),
            limit: limit.clone(),
            rejections: rejections.clone(),
            health: Arc::clone(&health),
            liveness: group.liveness(),
        })?;
        let topology = CurrentTopology::new(config.topology.clone());
        if let Some(port) = port {
            let metrics = metrics::Sources {
                services: Arc::clone(&services),
                limit: limit.clone(),
                dispatcher: pool.dispatcher(),
                links: links.figures().clone(),
                health,
                journal,
                restored,
            };
            port.open(crate::http::Sources {
                metrics: Arc::new(metrics),
                status: links.status_source().clone(),
                topology: topology.clone(),
                keys,
            })?;
        }
        let clients = Clients {
            dispatcher: pool.dispatcher(),
            limit: limit.clone(),
            rejected,
            rejections,
            services: Arc::clone(&services),
        };
        accept::bound_replies(sockets.clients.listeners())?;
        let clients = Listener::start_behind(
            "client-listener",
            sockets.clients,
            clients,
            Some(links.facts().catch_up().over()),
        )?;
        info!(
            target: EVENT,
            "{name} listens for clients on {} and for peers on {}, {} workers, {:?}, at most {max_clients} clients",
            clients.addresses(),
            peers.addresses(),
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
            publisher,
            timer,
            watch,
            descriptors,
            limit,
            group,
            topology,
            forget_after,
            http: None,
            stage: StopStage(Arc::new(Mutex::new("no part"))),
        })
    }

    /// Returns the signal that clients are served: given at once in a herd of one, and otherwise when
    /// a neighbor has sent everything that this server lacked, or none does within 2 s. The server's state
    /// is no longer starting by then.
    pub fn ready(&self) -> Stop {
        self.watch.ready().clone()
    }

    /// Returns how that came about; `None` before.
    pub fn readiness(&self) -> Option<Readiness> {
        self.links.facts().catch_up().outcome()
    }

    /// Returns the first address for clients.
    pub fn client_address(&self) -> SocketAddr {
        self.clients.address()
    }

    /// Returns the first address for neighbors.
    pub fn peer_address(&self) -> SocketAddr {
        self.peers.address()
    }

    /// Returns the first address of the HTTP port, if there is one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpPort::address)
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

    /// Returns the handle that tells whether all of the server's threads are alive.
    pub fn liveness(&self) -> Liveness {
        self.group.liveness()
    }

    /// Returns which part [`finish`](Self::finish) waits for, from then on.
    pub fn stop_stage(&self) -> StopStage {
        self.stage.clone()
    }

    /// [`finish`](Self::finish), for callers that need no count.
    pub fn stop(self) {
        self.finish();
    }

    /// Stops accepting, finishes the requests that were read, sends the queues to the neighbors,
    /// brings the journal to disk, and joins every thread. Returns the number of acknowledged reports that are
    /// lost, since the journal can't be written.
    pub fn finish(self) -> u64 {
        info!(target: EVENT, "stopping");
        self.group.stop();
        if let Some(port) = &self.http {
            port.set_leaving();
        }
        self.stage.set("the listeners");
        self.clients.stop();
        self.peers.stop();
        self.stage.set("the places provider");
        self.pool.begin_stop();
        // Connections that wait for a places provider are answered at once, and the workers end.
        self.services.places.stop();
        self.stage.set("the workers and their clients");
        self.pool.join();
        self.publisher.stop();
        // No report is applied from here on, but for those of neighbors.
        self.stage.set("the links to the neighbors");
        self.services.replica.send_markers();
        // It reads the links' state, which must not be taken for a failure from here on.
        self.watch.stop();
        let unconfirmed = self.links.stop();
        if unconfirmed > 0 {
            warn!(target: EVENT, "{unconfirmed} records were confirmed by no neighbor since this start");
        }
        self.stage.set("the journal");
        let lost = self.upkeep.stop();
        self.stage.set("the timer");
        self.timer.stop();
        self.stage.set("the HTTP port");
        if let Some(port) = self.http {
            port.stop();
        }
        info!(target: EVENT, "stopped");
        lost
    }
}

/// Lists the periodic jobs of the timer. The clock comes first: others read it. None of them takes
/// the apply lock, so that deadlines hold while the disk stalls.
fn jobs(
    pool: &Pool,
    rejected: &RejectedClients,
    clock: &CoarseClock,
    liveness: Liveness,
) -> Vec<Job> {
    let (rejected, deadlines) = (rejected.clone(), pool.dispatcher());
    let mut advanced = Duration::ZERO;
    let (clock, for_rejected, for_deadlines) = (clock.clone(), clock.clone(), clock.clone());
    vec![
        Job::new("coarse clock", COARSE_STEP, move |elapsed| {
            clock.advance(elapsed.saturating_sub(advanced));
            advanced = elapsed;
        }),
        Job::new("rejected clients", COARSE_STEP, move |_| {
            rejected.sweep(for_rejected.now());
        }),
        Job::new("client deadlines", COARSE_STEP, move |_| {
            deadlines.sweep(for_deadlines.now());
        }),
        // The thread that judges the state looks too: either notices that the other hangs.
        Job::new("liveness of threads", 5 * COARSE_STEP, move |_| {
            let _ = liveness.problem();
        }),
    ]
}

/// Returns what the server has of open files, and how many clients that allows; fails if it is too
/// little, or if there may be too few threads.
fn shares(
    config: &Config,
    sockets: &Sockets,
    http: Option<&Bound>,
    places: &Places,
) -> Result<(Descriptors, usize), StartError> {
    let descriptors = Descriptors::new(config, sockets, http, places);
    let neighbors = link::neighbors(&config.topology, &config.server.name).len();
    let max_clients = descriptors
        .clients(neighbors, config.topology.servers().len())
        .map_err(StartError::Descriptors)?;
    check_threads(threads(config, http.is_some())).map_err(StartError::Threads)?;
    Ok((descriptors, max_clients))
}

/// Returns the number of threads that a server needs: the pool's, each neighbor's, and the others.
fn threads(config: &Config, has_http: bool) -> usize {
    // Asking the herd takes a thread for each server.
    let http = match has_http {
        true => crate::http::THREADS + config.topology.servers().len(),
        false => 0,
    };
    config.workers + THREADS_PER_NEIGHBOR * config.server.neighbors.len() + OTHER_THREADS + http
}
