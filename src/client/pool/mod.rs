//! A fixed pool of workers that serve clients' connections, under one of two disciplines.
//!
//! [`Dedicated`](seats) is the textbook pool: a worker keeps a connection until it closes.
//! [`Shared`](lobby) lets a connection that has nothing to say hold no worker. Both run the same
//! session code, both have all their threads from the start, and under both a panic in a
//! session costs that one connection.

pub mod dedicated;
#[cfg(target_os = "linux")]
pub mod shared;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use log::{error, info};

use crate::client::session::{Reason, Scratch, Services, Session, TurnResult};
use crate::config::PoolKind;
use crate::model::time::Tick;

/// How long a stopping pool waits for clients to take their replies.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Counts the clients that are connected.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    connected: Arc<AtomicUsize>,
    max_clients: usize,
}

impl ConnectionLimit {
    /// Room for `max_clients` at a time.
    pub fn new(max_clients: usize) -> ConnectionLimit {
        ConnectionLimit {
            connected: Arc::new(AtomicUsize::new(0)),
            max_clients,
        }
    }

    /// How many places are taken, now and later.
    pub fn connected(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.connected)
    }

    /// Takes a place, or `None` if there is none left.
    pub fn admit(&self) -> Option<Permit> {
        if self.connected.fetch_add(1, Ordering::Relaxed) < self.max_clients {
            Some(Permit(Arc::clone(&self.connected)))
        } else {
            self.connected.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }
}

/// One client's place; dropping it frees the place.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's connection: its socket and its session.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    session: Session,
    _admitted: Permit,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(
        stream: TcpStream,
        client: SocketAddr,
        admitted: Permit,
        now: Tick,
    ) -> Box<Connection> {
        info!("client {client} connected");
        Box::new(Connection {
            stream,
            session: Session::new(client, now),
            _admitted: admitted,
        })
    }

    /// The client's socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket alone; the client's place is free again.
    pub fn into_stream(self: Box<Connection>) -> TcpStream {
        self.stream
    }

    /// One turn. A panic in it ends this connection and nothing else.
    fn turn(&mut self, scratch: &mut Scratch, services: &Services) -> TurnResult {
        let (stream, session) = (&self.stream, &mut self.session);
        let turn = || session.turn(&mut &*stream, scratch, services);
        let after =
            catch_unwind(AssertUnwindSafe(turn)).unwrap_or(TurnResult::Closed(Reason::Fault));
        if let TurnResult::Closed(reason) = after {
            self.log_close(reason);
        }
        after
    }

    /// Gives the session what came of its errand. A panic in that ends this connection and
    /// nothing else; then this is `false`.
    fn resume(&mut self, outcome: &[u8], services: &Services) -> bool {
        let resume = || self.session.resume(outcome, services);
        let resumed = catch_unwind(AssertUnwindSafe(resume)).is_ok();
        if !resumed {
            self.log_close(Reason::Fault);
        }
        resumed
    }

    fn log_close(&self, reason: Reason) {
        let client = self.session.client();
        match reason {
            // The panic itself has been logged with its place.
            Reason::Fault => error!("client {client} gone: {reason}"),
            _ => info!("client {client} gone: {reason}"),
        }
    }
}

/// What the workers of a pool share; the listener brings connections in here.
#[derive(Clone, Debug)]
pub enum Dispatcher {
    /// Of the seats discipline.
    Dedicated(Arc<dedicated::Dedicated>),
    /// Of the lobby discipline.
    #[cfg(target_os = "linux")]
    Shared(Arc<shared::Shared>),
}

impl Dispatcher {
    /// Takes a connection in, or hands it back if there is no room.
    pub fn enter(&self, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        match self {
            Dispatcher::Dedicated(dedicated) => dedicated.enter(connection),
            #[cfg(target_os = "linux")]
            Dispatcher::Shared(shared) => shared.enter(connection),
        }
    }

    /// Lets every connection whose deadline has passed have a turn to notice. Called now and
    /// then by one thread.
    pub fn sweep(&self, now: Tick) {
        match self {
            Dispatcher::Dedicated(dedicated) => dedicated.sweep(now),
            #[cfg(target_os = "linux")]
            Dispatcher::Shared(shared) => shared.sweep(now),
        }
    }

    /// Sees to it that a worker whose turn takes long does not hold up those who wait behind it.
    /// Called several times a second by one thread.
    pub fn wake_if_stalled(&self) {
        match self {
            // A worker there holds up nobody but its own client.
            Dispatcher::Dedicated(_) => {}
            #[cfg(target_os = "linux")]
            Dispatcher::Shared(shared) => shared.wake_if_stalled(),
        }
    }

    /// Tells the workers to finish what they have in hand, and to end.
    fn stop(&self, services: &Services) {
        services.stopping.store(true, Ordering::Relaxed);
        match self {
            Dispatcher::Dedicated(dedicated) => dedicated.stop(),
            #[cfg(target_os = "linux")]
            Dispatcher::Shared(shared) => shared.stop(),
        }
    }
}

/// The workers.
#[derive(Debug)]
pub struct Pool {
    dispatcher: Dispatcher,
    services: Arc<Services>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Makes all the workers.
    pub fn start(
        discipline: PoolKind,
        workers: usize,
        services: &Arc<Services>,
    ) -> io::Result<Pool> {
        let dispatcher = match discipline {
            PoolKind::Dedicated => {
                Dispatcher::Dedicated(Arc::new(dedicated::Dedicated::new(workers, services)))
            }
            #[cfg(target_os = "linux")]
            PoolKind::Shared => Dispatcher::Shared(Arc::new(shared::Shared::new(services)?)),
            #[cfg(not(target_os = "linux"))]
            PoolKind::Shared => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the lobby needs Linux; use --pool dedicated",
                ));
            }
        };
        let mut pool = Pool {
            dispatcher,
            services: Arc::clone(services),
            workers: Vec::with_capacity(workers),
        };
        for worker in 0..workers {
            let dispatcher = pool.dispatcher.clone();
            let work = move || match dispatcher {
                Dispatcher::Dedicated(dedicated) => dedicated.work(worker),
                #[cfg(target_os = "linux")]
                Dispatcher::Shared(shared) => shared.work(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{worker}"))
                .stack_size(crate::thread::STACK_BYTES)
                .spawn(work);
            match thread {
                Ok(thread) => pool.workers.push(thread),
                Err(error) => {
                    pool.begin_stop();
                    pool.join();
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    /// What the listener and the sweep need.
    pub fn dispatcher(&self) -> Dispatcher {
        self.dispatcher.clone()
    }

    /// Begins to finish requests in hand and to close every connection.
    pub fn begin_stop(&self) {
        self.dispatcher.stop(&self.services);
    }

    /// Joins the workers, after [`begin_stop`](Self::begin_stop). They end once every connection is
    /// closed, so those that wait for something must be answered.
    pub fn join(self) {
        for worker in self.workers {
            if worker.join().is_err() {
                error!("a worker ended in a panic");
            }
        }
    }
}
