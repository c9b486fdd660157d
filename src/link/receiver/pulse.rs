//! The way back to the neighbors that are received from, and the thread that keeps it alive.
//!
//! Each neighbor is sent a `PONG` once a second, with the number of its records that have been
//! applied and this server's clock. The receiver's own thread could not do that: it waits for the
//! apply lock, which a disk that does not answer holds for many seconds, and then every neighbor
//! would take this server for dead. So one thread sends the signs of life of all connections, and
//! waits for nothing that a disk can hold up.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::link::framing::Transport;
use crate::link::handshake::CLOCK_VERSION;
use crate::link::liveness::PONG_INTERVAL;
use crate::model::time::Timestamp;
use crate::thread::{self, Stopper};

/// The way back to a neighbor over one connection, for the receiver and the thread of this module.
#[derive(Debug)]
pub(in crate::link) struct BackChannel<T> {
    transport: Mutex<T>,
    /// Records received over this connection that have been applied.
    applied: AtomicU64,
    /// Version of the link protocol that both sides speak.
    version: u64,
}

impl<T: Transport> BackChannel<T> {
    /// Begins with a new connection of that version.
    pub(in crate::link) fn new(transport: T, version: u64) -> BackChannel<T> {
        BackChannel {
            transport: Mutex::new(transport),
            applied: AtomicU64::new(0),
            version,
        }
    }

    /// Sends whole lines.
    pub(in crate::link) fn write(&self, lines: &[u8]) -> io::Result<()> {
        self.transport.lock().write(lines)
    }

    /// Counts records that have been applied.
    pub(in crate::link) fn applied(&self, records: usize) {
        self.applied.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Sends a `PONG`, unless something else is being sent, which is a sign of life too.
    pub(in crate::link) fn pong(&self, clock: Timestamp) -> io::Result<()> {
        let Some(mut transport) = self.transport.try_lock() else {
            return Ok(());
        };
        let applied = self.applied.load(Ordering::Relaxed);
        let line = if self.version >= CLOCK_VERSION {
            format!("PONG {applied} {}\n", clock.as_nanos())
        } else {
            format!("PONG {applied}\n")
        };
        transport.write(line.as_bytes())
    }

    /// Reports to the neighbor that another server has its name, if it would understand.
    pub(in crate::link) fn report_twin(&self, text: &str) -> io::Result<()> {
        if self.version < CLOCK_VERSION {
            return Ok(());
        }
        self.write(format!("TWIN {text}\n").as_bytes())
    }
}

/// The connections that are kept alive.
#[derive(Debug)]
pub(in crate::link) struct KeptAlive<T>(Arc<Mutex<Vec<Weak<BackChannel<T>>>>>);

impl<T> Clone for KeptAlive<T> {
    fn clone(&self) -> KeptAlive<T> {
        KeptAlive(Arc::clone(&self.0))
    }
}

impl<T: Transport> KeptAlive<T> {
    /// Begins without connections.
    pub(in crate::link) fn new() -> KeptAlive<T> {
        KeptAlive(Arc::default())
    }

    /// Sends a first sign of life over a connection, and has further ones sent until it is dropped.
    pub(in crate::link) fn add(&self, channel: &Arc<BackChannel<T>>) -> io::Result<()> {
        channel.pong(Timestamp::now())?;
        self.0.lock().push(Arc::downgrade(channel));
        Ok(())
    }

    /// Sends a sign of life over all connections.
    fn pong(&self) {
        let mut open = Vec::new();
        self.0.lock().retain(|channel| {
            let channel = channel.upgrade();
            let is_open = channel.is_some();
            open.extend(channel);
            is_open
        });
        for channel in open {
            // The receiver learns of the end of a connection by itself.
            let _ = channel.pong(Timestamp::now());
        }
    }
}

/// The thread that sends signs of life.
#[derive(Debug)]
pub(in crate::link) struct Pulse {
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Pulse {
    /// Starts the thread.
    pub(in crate::link) fn start<T: Transport + Send + 'static>(
        connections: KeptAlive<T>,
    ) -> io::Result<Pulse> {
        let (stopper, stop) = thread::stop_pair();
        let thread = thread::spawn("link-pulse", move || {
            while !stop.wait(PONG_INTERVAL) {
                connections.pong();
            }
        })?;
        Ok(Pulse { stopper, thread })
    }

    /// Ends and joins the thread.
    pub(in crate::link) fn stop(self) {
        self.stopper.stop();
        let _ = self.thread.join();
    }
}
