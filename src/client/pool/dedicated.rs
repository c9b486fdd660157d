//! Dedicated: a worker takes a connection and keeps it, blocking in `read`, until it closes.
//!
//! Nothing to explain, and every client is isolated from every other. The price is a wake-up
//! for every request and a thread for every client: idle clients hold all workers, and those
//! who come later wait in the queue for a seat.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::warn;
use parking_lot::Mutex;

use super::{Connection, STOP_PATIENCE};
use crate::client::session::{Scratch, Services, TurnResult};
use crate::model::time::Tick;

/// Connections that wait for a seat; past this they are refused.
const QUEUE_CONNECTIONS: usize = 1_024;

/// One worker's place: whom it serves, and until when at the latest.
#[derive(Debug, Default)]
struct Seat {
    stream: Mutex<Option<std::net::TcpStream>>,
    deadline: AtomicU64,
}

/// What the workers share.
#[derive(Debug)]
pub struct Dedicated {
    /// Gone once the pool stops, so that workers who wait for a connection end.
    entrance: Mutex<Option<Sender<Box<Connection>>>>,
    queue: Receiver<Box<Connection>>,
    seats: Vec<Seat>,
    services: Arc<Services>,
    /// Once the pool stops: when those who have not taken their replies are dropped.
    patience_ends: Mutex<Option<Tick>>,
}

impl Dedicated {
    /// A seat for each worker.
    pub(super) fn new(workers: usize, services: &Arc<Services>) -> Dedicated {
        let (entrance, queue) = bounded(QUEUE_CONNECTIONS);
        Dedicated {
            entrance: Mutex::new(Some(entrance)),
            queue,
            seats: (0..workers).map(|_| Seat::default()).collect(),
            services: Arc::clone(services),
            patience_ends: Mutex::new(None),
        }
    }

    pub(super) fn enter(&self, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        match &*self.entrance.lock() {
            Some(entrance) => entrance
                .try_send(connection)
                .map_err(|error| error.into_inner()),
            None => Err(connection),
        }
    }

    /// A worker's life: take the next connection, keep it until it closes.
    pub(super) fn work(&self, worker: usize) {
        let mut scratch = Scratch::default();
        for mut connection in &self.queue {
            if !self.services.stopping.load(Ordering::Relaxed) {
                self.serve(&self.seats[worker], &mut connection, &mut scratch);
            }
        }
    }

    fn serve(&self, seat: &Seat, connection: &mut Connection, scratch: &mut Scratch) {
        // The sweep's handle on the socket, by which a blocked worker is freed.
        let stream = match connection.stream.try_clone() {
            Ok(stream) => stream,
            Err(error) => {
                warn!("client {} dropped: {error}", connection.session.client());
                return;
            }
        };
        seat.publish(connection.session.deadline(&self.services));
        *seat.stream.lock() = Some(stream);
        loop {
            match connection.turn(scratch, &self.services) {
                TurnResult::Closed(_) => break,
                TurnResult::Blocked if !self.await_errand(connection) => break,
                TurnResult::Blocked => {}
                TurnResult::Input | TurnResult::Output | TurnResult::Again => {}
            }
            seat.publish(connection.session.deadline(&self.services));
        }
        seat.stream.lock().take();
    }

    /// The worker is the client's own, so it may as well wait here. The answer always comes.
    /// Whether the connection goes on.
    fn await_errand(&self, connection: &mut Connection) -> bool {
        let (done, outcome) = bounded(1);
        if let Some(errand) = connection.session.take_pending() {
            let done = move |outcome: &[u8]| drop(done.send(outcome.to_vec()));
            self.services.run(errand, Box::new(done));
        }
        let outcome = outcome.recv().unwrap_or_default();
        connection.resume(&outcome, &self.services)
    }

    pub(super) fn sweep(&self, now: Tick) {
        let out_of_patience = self.services.stopping.load(Ordering::Relaxed)
            && now
                >= *self
                    .patience_ends
                    .lock()
                    .get_or_insert(now.after(STOP_PATIENCE));
        for seat in &self.seats {
            let deadline = Tick::from(seat.deadline.load(Ordering::Relaxed));
            if now >= deadline || out_of_patience {
                seat.free();
            }
        }
    }

    pub(super) fn stop(&self) {
        self.entrance.lock().take();
        for seat in &self.seats {
            // The worker still answers what it has read, and finds its input at an end.
            if let Some(stream) = &*seat.stream.lock() {
                let _ = stream.shutdown(Shutdown::Read);
            }
        }
    }
}

impl Seat {
    fn publish(&self, deadline: Tick) {
        self.deadline.store(deadline.into(), Ordering::Relaxed);
    }

    /// Makes whatever call the worker blocks in return; its session then sees what time it is.
    fn free(&self) {
        if let Some(stream) = &*self.stream.lock() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
