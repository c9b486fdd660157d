//! A fixed pool of workers that serve clients' connections, of one of two kinds.
//!
//! [`dedicated`] is the textbook pool: a worker keeps a connection until it closes. In the [`shared`]
//! pool an idle connection holds no worker. Both run the same session code, both start all their
//! threads at once, and in both a panic in a session costs that one connection.

#[cfg(target_os = "linux")]
mod cost;
mod dedicated;
#[cfg(target_os = "linux")]
mod shared;
#[cfg(target_os = "linux")]
mod unsent;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::connection::Connection;
use crate::client::services::Services;
use crate::config::PoolKind;
use crate::model::time::Tick;
use crate::thread;

/// Time that a stopping pool gives clients to take their replies.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Distribution of a pool's connections to its workers.
///
/// Calls from outside are rare (`work` is one call in a worker's life), so dynamic dispatch costs
/// nothing.
pub(crate) trait Dispatch: fmt::Debug + Send + Sync {
    /// Takes a connection in, or returns it if there is no room.
    fn enter(&self, connection: Box<Connection>) -> Result<(), Box<Connection>>;

    /// Gives every connection whose deadline has passed a turn. Called periodically by one thread.
    fn sweep(&self, now: Tick);

    /// Returns the number of workers that serve a client at the moment.
    fn busy(&self) -> usize;

    /// Wakes another worker while a long turn keeps connections waiting, until the pool stops.
    fn watch(&self);

    /// Makes the workers finish the requests they have read, and return.
    fn stop(&self);

    /// Runs one worker until the pool stops.
    fn work(self: Arc<Self>, worker: usize);
}

/// A handle on a pool for the threads that are not its workers.
pub(crate) type Dispatcher = Arc<dyn Dispatch>;

/// The workers.
#[derive(Debug)]
pub(crate) struct Pool {
    dispatcher: Dispatcher,
    services: Arc<Services>,
    /// The workers, and the thread that watches them.
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts all workers. Fails if one can't be started, or on a system without this kind of pool.
    pub(crate) fn start(
        kind: PoolKind,
        workers: usize,
        services: &Arc<Services>,
    ) -> io::Result<Pool> {
        let dispatcher: Dispatcher = match kind {
            PoolKind::Dedicated => Arc::new(dedicated::Dedicated::new(workers, services)),
            #[cfg(target_os = "linux")]
            PoolKind::Shared => Arc::new(shared::Shared::new(services)?),
            #[cfg(not(target_os = "linux"))]
            PoolKind::Shared => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the shared pool needs Linux; use --pool dedicated",
                ));
            }
        };
        let mut pool = Pool {
            dispatcher,
            services: Arc::clone(services),
            threads: Vec::with_capacity(workers + 1),
        };
        for worker in 0..workers {
            let dispatcher = pool.dispatcher();
            pool.spawn(format!("worker-{worker}"), move || dispatcher.work(worker))?;
        }
        if kind == PoolKind::Shared {
            let dispatcher = pool.dispatcher();
            pool.spawn("worker-watch".to_owned(), move || dispatcher.watch())?;
        }
        Ok(pool)
    }

    /// Starts a thread, or ends those that were started.
    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        match thread::spawn(name, run) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                self.begin_stop();
                self.threads
                    .drain(..)
                    .for_each(|thread| drop(thread.join()));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns a handle for the listener and the timer.
    pub(crate) fn dispatcher(&self) -> Dispatcher {
        Arc::clone(&self.dispatcher)
    }

    /// Begins to finish the requests that were read, and to close every connection.
    pub(crate) fn begin_stop(&self) {
        self.services.stopping.store(true, Ordering::Relaxed);
        self.dispatcher.stop();
    }

    /// Joins the workers, after [`begin_stop`](Self::begin_stop). They end once every connection is
    /// closed, so those that wait for something must be answered.
    pub(crate) fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
