//! The herd on tokio's multi-thread runtime: a task for each connection.
//!
//! Grammar, records, cache and atlas are the herd's own, so that what differs from `herd serve`
//! is how clients and neighbors are waited for. Like the other variants it keeps no journal, and
//! servers speak to each other in plain lines.

mod peers;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use herd::config::DEFAULT_MAX_RECORDS;
use herd::config::topology::{Address, Topology};
use herd::model::time::Timestamp;
use herd::places::Places;
use herd::places::atlas::Atlas;
use herd::replica::Replica;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use peers::Link;

/// Before accepting is tried again when it has failed, as it does without descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serve one server of a herd.
#[derive(Parser)]
#[command(name = "serve")]
struct Arguments {
    /// This server's name in the servers file
    name: String,

    /// The servers of the herd
    #[arg(long, value_name = "FILE")]
    servers: PathBuf,

    /// Log every line received and sent to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// State shared by all tasks.
struct Shared {
    herd: Replica,
    places: Places,
    links: Vec<Link>,
}

impl Shared {
    /// Wakes the links, as there is something to send.
    fn wake_links(&self) {
        for link in &self.links {
            link.queued.notify_one();
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    herd::config::limits::raise_descriptor_limit();
    // Lines are written by a thread of its own, which drops what it can't keep up with.
    let _writer = arguments.log.as_ref().map(log_to).transpose()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(&arguments))
}

fn log_to(path: &PathBuf) -> Result<tracing_appender::non_blocking::WorkerGuard> {
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("cannot log to {}", path.display()))?;
    let (writer, guard) = tracing_appender::non_blocking(file);
    tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(false)
        .with_target(false)
        .init();
    Ok(guard)
}

async fn run(arguments: &Arguments) -> Result<()> {
    let topology = Topology::load(&arguments.servers)?;
    let file = arguments.servers.display();
    let own = topology
        .server(&arguments.name)
        .with_context(|| format!("{file} names no server `{}`", arguments.name))?;
    let clients = bind(&own.client).await?;
    let neighbors = bind(&own.peer).await?;
    // Each start is an epoch of its own: its records are none that the start before sent.
    let herd = Replica::new(&own.name, Timestamp::now().as_nanos(), DEFAULT_MAX_RECORDS);
    let mut links = Vec::new();
    let mut feeds = Vec::new();
    for name in &own.neighbors {
        let neighbor = topology.server(name);
        let address = &neighbor.context("a neighbor without a line")?.peer;
        let (id, outlet) = herd.add_link();
        links.push(Link::new(name, id));
        feeds.push((outlet, address.clone()));
    }
    let shared = Arc::new(Shared {
        herd,
        places: Places::Atlas(Atlas),
        links,
    });
    for (index, (outlet, address)) in feeds.into_iter().enumerate() {
        tokio::spawn(peers::feed(Arc::clone(&shared), index, outlet, address));
    }
    println!(
        "{} is ready: clients {}, peers {}",
        own.name,
        clients.local_addr()?,
        neighbors.local_addr()?
    );
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = accept_clients(&clients, &shared) => {}
        () = accept_neighbors(&neighbors, &shared) => {}
        _ = terminate.recv() => info!("terminated"),
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}

async fn bind(address: &Address) -> Result<TcpListener> {
    TcpListener::bind((address.host.as_str(), address.port))
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

async fn accept_clients(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let (stream, client) = accept(listener).await;
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            info!("client {client} connected");
            let ended = session::serve(stream, client, &shared).await;
            match ended {
                Ok(reason) => info!("client {client} gone: {reason}"),
                Err(error) => info!("client {client} gone: {error}"),
            }
        });
    }
}

async fn accept_neighbors(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let (stream, address) = accept(listener).await;
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            if let Err(error) = peers::receive(stream, &shared).await {
                warn!("neighbor at {address} gone: {error}");
            }
        });
    }
}

/// Accepts until it works; a failure is over once descriptors are free again.
async fn accept(listener: &TcpListener) -> (TcpStream, std::net::SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // A reply must not wait for an acknowledgement. A socket that is broken says so
                // when it is used.
                let _ = stream.set_nodelay(true);
                return (stream, address);
            }
            Err(error) => {
                warn!("cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
