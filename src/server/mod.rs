//! Binds, wires and stops one server. Every thread has its owner here, and is joined here.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{error, info, warn};

use crate::client::accept::{self, Clients, RejectedClients};
use crate::client::limit::ConnectionLimit;
use crate::client::pool::{Dispatcher, Pool};
use crate::client::services::Services;
use crate::config::Config;
use crate::config::keys::KeyFile;
use crate::config::limits::{TooManyThreads, check_threads, raise_descriptor_limit};
use crate::config::topology::{Address, ServerEntry, Topology};
use crate::link::keyring::{AnotherHerd, Keyring};
use crate::link::links::{self, Links};
use crate::link::neighbor::LinkStatus;
use crate::listener::{self, Listener};
use crate::model::time::{COARSE_STEP, CoarseClock, Timestamp};
use crate::places::Places;
use crate::replica::Replica;
use crate::replica::upkeep::Durability;
use crate::store::journal::{Journal, JournalError, Syncer};
use crate::thread::{self, Stop, Stopper};

/// How often connections are looked through for deadlines that have passed.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How often neighbors are told up to where they hold everything. It also tells them that this
/// server is alive.
const MARKER_INTERVAL: Duration = Duration::from_secs(1);

/// Descriptors that are not for clients: links, listeners, files.
const RESERVED_DESCRIPTORS: usize = 256;

/// Threads whose number does not depend on the settings, rounded up: 16 for handshakes, two
/// listeners, two behind the journal, the timer, the audit, the log, and those for signals.
const OTHER_THREADS: usize = 32;

/// Why a server can't start.
#[derive(Debug)]
pub enum StartError {
    /// An address of its own has no meaning here.
    Resolve(Address, io::Error),
    /// It can't listen there.
    Bind(&'static str, SocketAddr, io::Error),
    /// The machine gives too few descriptors.
    Descriptors(usize),
    /// The durable copy can't be opened.
    Journal(JournalError),
    /// The machine gives too few threads.
    Threads(TooManyThreads),
    /// A thread can't be made, or another resource is not to be had.
    Resources(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Resolve(address, error) => write!(f, "cannot resolve {address}: {error}"),
            StartError::Bind(whom, address, error) => {
                write!(f, "cannot listen for {whom} on {address}: ")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => f.write_str("another program has that port"),
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("this machine has no such address (see --bind)")
                    }
                    _ => write!(f, "{error}"),
                }
            }
            StartError::Descriptors(limit) => write!(
                f,
                "the limit of {limit} open files leaves none for clients; raise it (ulimit -n) above {RESERVED_DESCRIPTORS}"
            ),
            StartError::Journal(error) => write!(f, "{error}"),
            StartError::Threads(error) => write!(f, "{error}"),
            StartError::Resources(error) => write!(f, "the machine gives too little: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Resolve(_, error)
            | StartError::Bind(_, _, error)
            | StartError::Resources(error) => Some(error),
            StartError::Journal(error) => Some(error),
            StartError::Threads(error) => Some(error),
            StartError::Descriptors(_) => None,
        }
    }
}

/// Why what was read anew is not taken over. But for the last one, nothing has been changed.
#[derive(Debug)]
pub enum ReloadError {
    /// This server is not in it.
    NotNamed(String),
    /// It gives this server other addresses than those that it listens on: the old ones and the
    /// new, for clients and for peers.
    OwnAddress(Box<[[Address; 2]; 2]>),
    /// The key is another herd's.
    AnotherHerd(AnotherHerd),
    /// The machine gives no thread for a new neighbor. What could be changed has been; reading
    /// it once more tries the rest again.
    Threads(io::Error),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::NotNamed(name) => write!(f, "it no longer names this server, {name}"),
            ReloadError::OwnAddress(addresses) => {
                let [old, new] = addresses
                    .each_ref()
                    .map(|[one, two]| format!("{one} {two}"));
                write!(
                    f,
                    "this server's own addresses are {old} now and would be {new}, which takes a restart"
                )
            }
            ReloadError::AnotherHerd(error) => write!(f, "{error}"),
            ReloadError::Threads(error) => {
                write!(f, "there is no thread for a new neighbor: {error}")
            }
        }
    }
}

impl std::error::Error for ReloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReloadError::Threads(error) => Some(error),
            ReloadError::AnotherHerd(error) => Some(error),
            _ => None,
        }
    }
}

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
        let bind = |whom, address: &Address| {
            let resolved = match on {
                Some(ip) => SocketAddr::new(ip, address.port),
                None => resolve(address)?,
            };
            listener::bind(resolved).map_err(|error| StartError::Bind(whom, resolved, error))
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
    replica: Arc<Replica>,
    clients: Listener,
    peers: Listener,
    pool: Pool,
    links: Links,
    listeners: Stopper,
    timer: Timer,
}

impl Server {
    /// Starts everything; when it returns, clients are served.
    pub fn start(config: &Config, sockets: Sockets, places: Places) -> Result<Server, StartError> {
        let max_clients = max_clients(config.max_clients)?;
        check_threads(threads(config)).map_err(StartError::Threads)?;
        let (replica, syncer) = open_herd(config)?;
        Server::wire(config, sockets, places, replica, syncer, max_clients)
            .map_err(StartError::Resources)
    }

    fn wire(
        config: &Config,
        sockets: Sockets,
        places: Places,
        replica: Arc<Replica>,
        syncer: Option<Syncer>,
        max_clients: usize,
    ) -> io::Result<Server> {
        let name = &config.server.name;
        let durability = match syncer {
            Some(syncer) => Some(Durability::start(Arc::clone(&replica), syncer)?),
            None => None,
        };
        let clock = CoarseClock::default();
        let (listeners, stop) = thread::stop_pair();
        let keys = Arc::new(Keyring::new(config.keys.clone()));
        let limit = ConnectionLimit::new(max_clients);
        let connected = limit.connected();
        let interval = config.digest_interval;
        let mut links = Links::start(Arc::clone(&replica), keys, connected, interval)?;
        links.set_neighbors(&links::neighbors(&config.topology, name))?;

        let services = Arc::new(Services {
            replica: Arc::clone(&replica),
            places,
            durability,
            idle_timeout: config.idle_timeout,
            clock: clock.clone(),
            stopping: AtomicBool::new(false),
        });
        let pool = Pool::start(config.pool, config.workers, &services)?;
        let refusals = RejectedClients::default();
        let timer = Timer::start(
            Arc::clone(&replica),
            pool.dispatcher(),
            refusals.clone(),
            clock.clone(),
        )?;
        let peers = Listener::start("peer-listener", sockets.peers, stop.clone(), links.door())?;
        let clients = Clients {
            dispatcher: pool.dispatcher(),
            limit,
            refusals,
            clock,
        };
        accept::bound_replies(&sockets.clients)?;
        let clients = Listener::start("client-listener", sockets.clients, stop, clients)?;
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
            replica,
            clients,
            peers,
            pool,
            links,
            listeners,
            timer,
        })
    }

    /// Where clients connect.
    pub fn client_address(&self) -> SocketAddr {
        self.clients.address()
    }

    /// Where neighbors connect.
    pub fn peer_address(&self) -> SocketAddr {
        self.peers.address()
    }

    /// The records, for who must look at them past the protocol.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// How its links are doing, by the neighbors' names.
    pub fn links(&self) -> BTreeMap<String, LinkStatus> {
        self.links.status()
    }

    /// How many clients' locations are known.
    pub fn records(&self) -> usize {
        self.replica.len()
    }

    /// How many connections to the peer port were refused, or links of either direction broken off
    /// for what came over them.
    pub fn peers_refused(&self) -> u64 {
        self.links.refused()
    }

    /// Takes over a `servers.txt` and a key file that were read anew: neighbors come, go and move,
    /// and the next handshakes use the new keys. Links that stay are not touched. Says what it
    /// changed.
    ///
    /// Waits until neighbors that are gone have been left, which takes seconds where one of them
    /// is frozen.
    pub fn reload(&mut self, topology: &Topology, keys: KeyFile) -> Result<String, ReloadError> {
        let name = &self.entry.name;
        let Some(entry) = topology.server(name) else {
            return Err(ReloadError::NotNamed(name.clone()));
        };
        let addresses = |entry: &ServerEntry| [entry.client.clone(), entry.peer.clone()];
        let (old, new) = (addresses(&self.entry), addresses(entry));
        if old != new {
            return Err(ReloadError::OwnAddress(Box::new([old, new])));
        }
        let changed = self.links.replace_keys(keys);
        let keys = if changed.map_err(ReloadError::AnotherHerd)? {
            "changed"
        } else {
            "the same as before"
        };
        let neighbors = links::neighbors(topology, name);
        let changes = self.links.set_neighbors(&neighbors);
        let changes = changes.map_err(ReloadError::Threads)?;
        Ok(format!("neighbors: {changes}; keys: {keys}"))
    }

    /// Stops accepting, finishes requests in hand, sends what is queued for neighbors, and joins
    /// every thread.
    pub fn stop(self) {
        info!("stopping");
        self.clients.stop();
        self.peers.stop();
        self.pool.stop();
        self.replica.send_markers();
        self.listeners.stop();
        self.links.stop();
        if let Some(durability) = &self.services.durability {
            durability.stop();
        }
        self.timer.stop();
        info!("stopped");
    }
}

/// Takes back what an earlier start has left, and begins an epoch that none of them had.
fn open_herd(config: &Config) -> Result<(Arc<Replica>, Option<Syncer>), StartError> {
    let name = &config.server.name;
    let now = Timestamp::now().as_nanos();
    let mut replica = Replica::new(name, now, config.max_records);
    let Some(data) = &config.data_dir else {
        return Ok((Arc::new(replica), None));
    };
    let folder = data.join(name);
    let start = Instant::now();
    let (mut journal, recovered) =
        Journal::open(&folder, |record| replica.restore(record)).map_err(StartError::Journal)?;
    for damage in &recovered.damage {
        error!(
            "journal: {damage}; what could be read is kept, and the neighbors are asked for the rest"
        );
    }
    if recovered.torn_bytes > 0 {
        warn!(
            "journal: the last append, {} bytes, was under way when the server ended, and is dropped",
            recovered.torn_bytes
        );
    }
    replica.restore_vector(&recovered.vector);
    // A folder that was deleted or rolled back must not make an epoch come twice.
    let epoch = now.max(recovered.epoch.saturating_add(1));
    replica.set_epoch(epoch);
    journal.start_epoch(epoch).map_err(StartError::Journal)?;
    info!(
        "{} clients from {} in {:.3} s",
        replica.len(),
        folder.display(),
        start.elapsed().as_secs_f64()
    );
    let syncer = journal.syncer();
    replica.keep(journal, config.ack);
    Ok((Arc::new(replica), Some(syncer)))
}

/// How many threads a server makes: the pool's, a sender, a reader and a receiver for each
/// neighbor, and the others.
fn threads(config: &Config) -> usize {
    config.workers + 3 * config.server.neighbors.len() + OTHER_THREADS
}

/// Raises the descriptor limit as far as it goes, and says how many clients that allows.
fn max_clients(asked: Option<usize>) -> Result<usize, StartError> {
    let descriptors = raise_descriptor_limit();
    let allowed = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
    match asked {
        _ if allowed == 0 => Err(StartError::Descriptors(descriptors)),
        Some(asked) if asked > allowed => {
            warn!(
                "--max-clients {asked} is more than {descriptors} open files allow; {allowed} it is"
            );
            Ok(allowed)
        }
        Some(asked) => Ok(asked),
        None => Ok(allowed),
    }
}

/// The thread that moves the coarse clock, sweeps the pool, and sends markers.
#[derive(Debug)]
struct Timer {
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Timer {
    fn start(
        replica: Arc<Replica>,
        dispatcher: Dispatcher,
        refusals: RejectedClients,
        clock: CoarseClock,
    ) -> io::Result<Timer> {
        let (stopper, stop) = thread::stop_pair();
        let thread = std::thread::Builder::new()
            .name("timer".to_owned())
            .stack_size(crate::thread::STACK_BYTES)
            .spawn(move || Timer::run(&replica, &dispatcher, &refusals, &clock, &stop))?;
        Ok(Timer { stopper, thread })
    }

    fn run(
        replica: &Replica,
        dispatcher: &Dispatcher,
        refusals: &RejectedClients,
        clock: &CoarseClock,
        stop: &Stop,
    ) {
        let start = Instant::now();
        let (mut sweep_due, mut markers_due) = (SWEEP_INTERVAL, MARKER_INTERVAL);
        while !stop.wait(COARSE_STEP) {
            let elapsed = start.elapsed();
            clock.set(elapsed);
            dispatcher.wake_if_stalled();
            refusals.sweep(clock.now());
            if elapsed >= sweep_due {
                dispatcher.sweep(clock.now());
                sweep_due = elapsed + SWEEP_INTERVAL;
            }
            if elapsed >= markers_due {
                replica.send_markers();
                markers_due = elapsed + MARKER_INTERVAL;
            }
        }
    }

    fn stop(self) {
        self.stopper.stop();
        let _ = self.thread.join();
    }
}
