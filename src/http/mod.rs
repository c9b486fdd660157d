//! The HTTP port: health, metrics, status, and the live page.
//!
//! Everything here is beside the clients' and the neighbors' ports: own listener, own threads, bounded
//! connections, and a lower priority of the threads, so that whatever a client of this port does, the
//! line protocol goes on. Only GET and HEAD are served, and nothing that is asked here changes anything.
//!
//! - [`head`] reads a request, [`response`] is an answer, [`routes`] leads from one to the other.
//! - [`door`] holds the connections; [`pool`] computes answers.
//! - [`health`] has the texts of `/livez` and `/readyz`, [`herd`] asks all servers, [`places`] the atlas.
//! - [`events`] publishes what the page shows.
//! - [`v1`] answers where clients are, for applications.
//! - [`page`] is the page, with its files in the program.
//! - [`metrics`] writes what is counted, [`counts`] has the port's connections.

mod counts;
mod door;
mod events;
pub mod head;
mod health;
mod herd;
mod json;
pub(crate) mod metrics;
mod page;
mod places;
mod pool;
mod response;
mod routes;
mod v1;
mod viewer;

#[cfg(test)]
pub(crate) use events::Totals;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::config::keys::KeyFile;
use crate::config::topology::Topology;
use crate::link::keyring::Keyring;
use crate::link::status::StatusSource;
use crate::listener::{Bound, Listener};
use crate::thread::Liveness;
use counts::Counts;
use door::{Door, Handler, Reply, Seat};
use events::{Entrance, Publisher, Servers};
use head::{Hosts, Request};
use herd::{Desk, HerdAsker};
use pool::{Jobs, Pool};
use response::Response;
use v1::watch::{self, Streams};

/// Threads of the port: listeners, the door, the pool, those that ask the herd, publish, and write the
/// streams of watches.
pub(crate) const THREADS: usize = 4 + pool::THREADS + 3;

/// Descriptors of the port, but for those of its listener and of asking the servers.
pub(crate) const DESCRIPTORS: usize = door::DESCRIPTORS + events::DESCRIPTORS + watch::DESCRIPTORS;

/// Added to the nice value of the port's threads: the clients' workers come first.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lowers the priority of the calling thread below that of the workers.
fn yield_to_clients() {
    // On Linux the id of a process means the calling thread alone. It fails for no thread that may
    // be niced further, and else nothing is lost.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// The topology in force, which a reload replaces.
#[derive(Clone, Debug)]
pub(crate) struct CurrentTopology(Arc<RwLock<Arc<Topology>>>);

impl CurrentTopology {
    /// Begins with this one.
    pub(crate) fn new(topology: Topology) -> CurrentTopology {
        CurrentTopology(Arc::new(RwLock::new(Arc::new(topology))))
    }

    /// Replaces it.
    pub(crate) fn replace(&self, topology: Topology) {
        *self.0.write() = Arc::new(topology);
    }

    /// Returns it.
    pub(crate) fn get(&self) -> Arc<Topology> {
        Arc::clone(&self.0.read())
    }
}

/// The parts of the server that answers come from.
#[derive(Debug)]
pub(crate) struct Sources {
    /// All that is counted.
    pub(crate) metrics: Arc<metrics::Sources>,
    /// The server's status.
    pub(crate) status: StatusSource,
    /// All servers.
    pub(crate) topology: CurrentTopology,
    /// The keys by which they are asked.
    pub(crate) keys: Arc<Keyring>,
}

/// State that the port's threads share.
#[derive(Debug)]
struct Port {
    /// Empty until the server's parts are there.
    app: OnceLock<App>,
    is_leaving: AtomicBool,
    liveness: Liveness,
    counts: Arc<Counts>,
}

/// The server's parts, and the ways to the threads that look at them.
#[derive(Debug)]
struct App {
    sources: Sources,
    desk: Desk,
    entrance: Entrance,
    streams: watch::Entrance,
}

impl Port {
    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    fn liveness(&self) -> Option<String> {
        self.liveness.problem()
    }
}

/// The door's handler.
struct ToPool {
    port: Arc<Port>,
    jobs: Jobs,
}

impl Handler for ToPool {
    fn handle(&mut self, request: Request, reply: Reply) -> Result<(), Response> {
        self.jobs.push(request, reply)
    }

    fn view(
        &mut self,
        stream: TcpStream,
        request: &Request,
        seat: Option<Seat>,
    ) -> Result<(), (TcpStream, Response)> {
        let Some(app) = self.port.app.get() else {
            return Err((stream, routes::starting(request)));
        };
        if request.path == door::WATCH_PATH {
            let query = request.query.as_deref().unwrap_or_default();
            return app.streams.open(stream, query, seat);
        }
        match seat {
            Some(seat) => {
                let head = response::stream_head();
                app.entrance.enter(stream, head, Box::new(seat));
                Ok(())
            }
            None => {
                let text = format!("{} pages are open already", door::MAX_VIEWERS);
                Err((stream, Response::unavailable(text)))
            }
        }
    }
}

/// Returns where the publisher finds what it shows.
fn feed(sources: &Sources, desk: Desk) -> events::Sources {
    let metrics = Arc::clone(&sources.metrics);
    let replica = Arc::clone(&metrics.services.replica);
    let (topology, name, epoch) = (
        sources.topology.clone(),
        replica.name().to_owned(),
        replica.epoch(),
    );
    let servers = move || Servers {
        name: name.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        epoch,
        servers: topology
            .get()
            .servers()
            .iter()
            .map(|server| (server.name.clone(), server.neighbors.clone()))
            .collect(),
    };
    events::Sources {
        replica,
        servers: Box::new(servers),
        totals: Box::new(move || metrics.totals()),
        herd: Box::new(move || desk.latest()),
    }
}

/// The port of one server.
#[derive(Debug)]
pub(crate) struct HttpPort {
    port: Arc<Port>,
    listener: Listener,
    door: Door,
    pool: Pool,
    opened: Option<Opened>,
}

/// The threads that look at the server's parts.
#[derive(Debug)]
struct Opened {
    asker: HerdAsker,
    publisher: Publisher,
    streams: Streams,
}

impl HttpPort {
    /// Starts to answer: at first that the server is starting.
    pub(crate) fn start(bound: Bound, hosts: Hosts, liveness: Liveness) -> io::Result<HttpPort> {
        let counts = Arc::<Counts>::default();
        let port = Arc::new(Port {
            app: OnceLock::new(),
            is_leaving: AtomicBool::new(false),
            liveness,
            counts: Arc::clone(&counts),
        });
        let for_pool = Arc::clone(&port);
        let pool = Pool::start(move |request, reply| routes::answer(&for_pool, request, reply))?;
        let handler = ToPool {
            port: Arc::clone(&port),
            jobs: pool.jobs(),
        };
        let door = Door::start(hosts, counts, handler)?;
        let listener = Listener::start("http-listener", bound, door.acceptor())?;
        Ok(HttpPort {
            port,
            listener,
            door,
            pool,
            opened: None,
        })
    }

    /// Answers from the server's parts from now on.
    pub(crate) fn open(&mut self, sources: Sources) -> io::Result<()> {
        let (topology, keys) = (sources.topology.clone(), Arc::clone(&sources.keys));
        let in_force =
            move || -> (Arc<Topology>, Arc<KeyFile>) { (topology.get(), keys.current()) };
        let asker = HerdAsker::start(Box::new(in_force))?;
        let publisher = Publisher::start(feed(&sources, asker.desk()))?;
        let streams = Streams::start(&sources.metrics.services.watches)?;
        let app = App {
            desk: asker.desk(),
            entrance: publisher.entrance(),
            streams: streams.entrance(),
            sources,
        };
        self.opened = Some(Opened {
            asker,
            publisher,
            streams,
        });
        // It is opened once.
        let _ = self.port.app.set(app);
        Ok(())
    }

    /// Returns the first address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Returns the totals that the page shows the differences of.
    #[cfg(test)]
    pub(crate) fn totals(&self) -> Totals {
        let app = self.port.app.get().expect("it is open");
        app.sources.metrics.totals()
    }

    /// Answers that this server is leaving from now on.
    pub(crate) fn set_leaving(&self) {
        self.port.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Closes all connections, and joins every thread.
    pub(crate) fn stop(self) {
        self.listener.stop();
        if let Some(opened) = self.opened {
            opened.publisher.stop();
            opened.streams.stop();
            opened.asker.stop();
        }
        self.door.stop();
        self.pool.stop();
    }
}
