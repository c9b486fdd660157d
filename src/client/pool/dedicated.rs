//! The dedicated pool: a worker takes a connection and keeps it, blocking in `read`, until it
//! closes.
//!
//! It is simple, and isolates every client from every other. The price is a wake-up for every
//! request and a thread for every client: idle clients hold all workers, and later clients wait in
//! the queue until a worker is free.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::warn;
use parking_lot::Mutex;

use super::{Dispatch, STOP_TIMEOUT};
use crate::client::connection::Connection;
use crate::client::services::Services;
use crate::client::session::{Scratch, TurnResult};
use crate::model::time::Tick;

/// Connections that wait for a worker; past this they are refused.
const QUEUE_CONNECTIONS: usize = 1_024;

/// One worker's connection, as seen by the sweep: its socket, and its deadline.
#[derive(Debug, Default)]
struct WorkerSlot {
    stream: Mutex<Option<TcpStream>>,
    deadline: AtomicU64,
}

/// State that the workers share.
#[derive(Debug)]
pub(super) struct Dedicated {
    /// `None` once the pool stops, so that workers that wait for a connection return.
    sender: Mutex<Option<Sender<Box<Connection>>>>,
    queue: Receiver<Box<Connection>>,
    slots: Vec<WorkerSlot>,
    services: Arc<Services>,
    /// Once the pool stops: the time at which clients that have not taken their replies are dropped.
    drop_time: Mutex<Option<Tick>>,
}

impl Dedicated {
    /// Prepares a slot for each worker.
    pub(super) fn new(workers: usize, services: &Arc<Services>) -> Dedicated {
        let (sender, queue) = bounded(QUEUE_CONNECTIONS);
        Dedicated {
            sender: Mutex::new(Some(sender)),
            queue,
            slots: (0..workers).map(|_| WorkerSlot::default()).collect(),
            services: Arc::clone(services),
            drop_time: Mutex::new(None),
        }
    }

    fn serve(&self, slot: &WorkerSlot, connection: &mut Connection, scratch: &mut Scratch) {
        // The sweep's handle on the socket, which interrupts a blocked worker.
        let stream = match connection.stream.try_clone() {
            Ok(stream) => stream,
            Err(error) => {
                warn!("client {} dropped: {error}", connection.session.client());
                return;
            }
        };
        slot.set_deadline(connection.session.deadline(&self.services));
        *slot.stream.lock() = Some(stream);
        loop {
            match connection.turn(scratch, &self.services) {
                TurnResult::Ended(_) => break,
                TurnResult::Blocked if !self.wait(connection) => break,
                TurnResult::Blocked => {}
                TurnResult::NeedsInput | TurnResult::NeedsOutput | TurnResult::Again => {}
            }
            slot.set_deadline(connection.session.deadline(&self.services));
        }
        slot.stream.lock().take();
    }

    /// Runs the session's wait to its end: no other client needs this worker. Returns whether the
    /// connection continues.
    fn wait(&self, connection: &mut Connection) -> bool {
        let Some(pending) = connection.session.take_pending() else {
            return true;
        };
        let (done, released) = bounded(1);
        pending.start(&self.services, move |released| drop(done.send(released)));
        // The result always comes, and comes in bounded time.
        let Ok(released) = released.recv() else {
            warn!("client {} dropped: no result", connection.session.client());
            return false;
        };
        connection.resume(released, &self.services)
    }
}

impl Dispatch for Dedicated {
    fn enter(&self, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        match &*self.sender.lock() {
            Some(sender) => sender
                .try_send(connection)
                .map_err(|error| error.into_inner()),
            None => Err(connection),
        }
    }

    fn sweep(&self, now: Tick) {
        let drop_all = self.services.stopping.load(Ordering::Relaxed)
            && now >= *self.drop_time.lock().get_or_insert(now.after(STOP_TIMEOUT));
        for slot in &self.slots {
            let deadline = Tick(slot.deadline.load(Ordering::Relaxed));
            if now >= deadline || drop_all {
                slot.interrupt();
            }
        }
    }

    /// Does nothing: a long turn delays only the worker's own client.
    fn wake_if_stalled(&self) {}

    fn stop(&self) {
        self.sender.lock().take();
        for slot in &self.slots {
            // The worker still answers what it has read, and then finds the end of its input.
            if let Some(stream) = &*slot.stream.lock() {
                let _ = stream.shutdown(Shutdown::Read);
            }
        }
    }

    /// Serves one connection after the other, each until it closes.
    fn work(self: Arc<Dedicated>, worker: usize) {
        let mut scratch = Scratch::default();
        for mut connection in &self.queue {
            if !self.services.stopping.load(Ordering::Relaxed) {
                self.serve(&self.slots[worker], &mut connection, &mut scratch);
            }
        }
    }
}

impl WorkerSlot {
    fn set_deadline(&self, deadline: Tick) {
        self.deadline.store(deadline.0, Ordering::Relaxed);
    }

    /// Makes any call that the worker blocks in return; its session then checks its deadlines.
    fn interrupt(&self) {
        if let Some(stream) = &*self.stream.lock() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
