//! The door: one thread that holds all connections to the port but those of viewers.
//!
//! It reads heads, hands requests to the [pool](super::pool), and sends answers. Sockets are
//! non-blocking, so that a client that sends or takes bytes slowly holds no thread. There are at most
//! [`MAX_CONNECTIONS`]; past that a newcomer, whose bytes are looked at first, closes the one that is
//! worth least: an answered one that the client has not closed, then the unfinished head that has been
//! silent longest, then an answer that is not taken. A request for a stream of events leaves with
//! its socket for the thread that writes it.

mod connection;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use log::debug;

use super::counts::{Counts, Outcome};
use super::head::{Hosts, Method, Parsed, Refusal, Request};
use super::response::Response;
use crate::listener::{Accept, Accepted};
use crate::poller::{Interest, Poller, Waker};
use crate::thread;
use connection::{Connection, Sent, Stage};

/// Maximum number of connections, those of viewers included.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// Paths of streams of events.
const STREAMS: [&str; 2] = [EVENTS_PATH, WATCH_PATH];

/// Path of the stream that the page shows.
pub(super) const EVENTS_PATH: &str = "/events";

/// Path of the streams of watches.
pub(super) const WATCH_PATH: &str = "/v1/watch";

/// Maximum number of viewers of each kind of stream: applications that watch leave the pages theirs.
pub(super) const MAX_VIEWERS: usize = 16;

/// Connections on their way from the listener; past this it waits, and they do in its backlog.
const NEWCOMERS: usize = 16;

/// Number of descriptors that the door and viewers take at most: two are the poller's.
pub(super) const DESCRIPTORS: usize = MAX_CONNECTIONS + NEWCOMERS + 2;

/// Handler of the requests that the door reads. None of its calls waits.
pub(super) trait Handler: Send + 'static {
    /// Takes a request, which is answered through `reply`; or returns the answer.
    fn handle(&mut self, request: Request, reply: Reply) -> Result<(), Response>;

    /// Takes the connection of a viewer, which asks for a stream and gives its seat back when it ends;
    /// or returns it with the answer, as it must if there is no seat.
    fn view(
        &mut self,
        stream: TcpStream,
        request: &Request,
        seat: Option<Seat>,
    ) -> Result<(), (TcpStream, Response)>;
}

/// The way back to the connection that a request came over.
#[derive(Debug)]
pub(super) struct Reply {
    id: u64,
    method: Method,
    answers: Sender<(u64, Vec<u8>)>,
    waker: Waker,
}

impl Reply {
    /// Sends the answer. It is dropped if the connection has ended meanwhile.
    pub(super) fn send(self, response: &Response) {
        if self
            .answers
            .send((self.id, response.to_bytes(self.method)))
            .is_ok()
        {
            self.waker.wake();
        }
    }
}

/// The place of a viewer, free again once this is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// Returns a seat if fewer than [`MAX_VIEWERS`] are taken of those that `taken` counts.
    pub(super) fn take(taken: &Arc<AtomicUsize>) -> Option<Seat> {
        // Only the door's thread takes seats.
        let is_free = taken.load(Ordering::Relaxed) < MAX_VIEWERS;
        is_free.then(|| {
            taken.fetch_add(1, Ordering::Relaxed);
            Seat(Arc::clone(taken))
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The listener's way to the door.
#[derive(Clone, Debug)]
pub(super) struct HttpAcceptor {
    newcomers: Sender<TcpStream>,
    waker: Waker,
}

impl Accept for HttpAcceptor {
    fn accept(&mut self, stream: TcpStream, _: SocketAddr) -> Accepted {
        // Fails only if the door has panicked.
        let _ = self.newcomers.send(stream);
        self.waker.wake();
        Accepted::In
    }

    /// Closes a connection for which there is no descriptor.
    fn refuse(&mut self, _: TcpStream, _: SocketAddr) {}
}

/// The door's thread.
#[derive(Debug)]
pub(super) struct Door {
    acceptor: HttpAcceptor,
    thread: JoinHandle<()>,
}

impl Door {
    /// Starts the thread.
    pub(super) fn start(
        hosts: Hosts,
        counts: Arc<Counts>,
        handler: impl Handler,
    ) -> io::Result<Door> {
        let poller = Poller::new()?;
        let (sender, newcomers) = bounded(NEWCOMERS);
        let acceptor = HttpAcceptor {
            newcomers: sender,
            waker: poller.waker(),
        };
        let (answers, answered) = unbounded();
        let door = DoorThread {
            hosts,
            counts,
            handler,
            waker: poller.waker(),
            poller,
            connections: BTreeMap::new(),
            last_id: 0,
            viewers: Default::default(),
            answers,
        };
        let thread = thread::spawn("http-door", move || {
            super::yield_to_clients();
            door.run(&newcomers, &answered);
        })?;
        Ok(Door { acceptor, thread })
    }

    /// Returns a way to bring connections.
    pub(super) fn acceptor(&self) -> HttpAcceptor {
        self.acceptor.clone()
    }

    /// Closes all connections, and joins the thread. All others' [`HttpAcceptor`]s must be gone.
    pub(super) fn stop(self) {
        let HttpAcceptor { newcomers, waker } = self.acceptor;
        drop(newcomers);
        waker.wake();
        let _ = self.thread.join();
    }
}

/// State of the door's thread.
struct DoorThread<H> {
    hosts: Hosts,
    counts: Arc<Counts>,
    handler: H,
    waker: Waker,
    poller: Poller,
    connections: BTreeMap<u64, Connection>,
    last_id: u64,
    /// Number of viewers of each kind of stream.
    viewers: [Arc<AtomicUsize>; STREAMS.len()],
    /// The end of the channel that replies get a clone of.
    answers: Sender<(u64, Vec<u8>)>,
}

impl<H: Handler> DoorThread<H> {
    fn run(mut self, newcomers: &Receiver<TcpStream>, answered: &Receiver<(u64, Vec<u8>)>) {
        let mut ready = Vec::new();
        loop {
            let timeout = if newcomers.is_empty() && answered.is_empty() {
                let next = self.connections.values().map(|one| one.deadline).min();
                next.map(|deadline| deadline.saturating_duration_since(Instant::now()))
            } else {
                Some(Duration::ZERO)
            };
            let watched = self.connections.keys().copied();
            self.poller.wait(timeout, watched, &mut ready);
            let now = Instant::now();
            for (id, answer) in answered.try_iter() {
                let stage = self.connections.get(&id).map(|one| &one.stage);
                // Otherwise it comes too late.
                if matches!(stage, Some(Stage::Working)) {
                    self.answer(id, answer, Outcome::Answered, now);
                }
            }
            for id in ready.drain(..) {
                self.go_on(id, now);
            }
            for _ in 0..NEWCOMERS {
                match newcomers.try_recv() {
                    Ok(stream) => self.enter(stream, now),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.end_overdue(now);
        }
    }

    /// Takes a connection in. What has come with it is read first: a complete request is answered
    /// before its connection can be closed for the next.
    fn enter(&mut self, stream: TcpStream, now: Instant) {
        let Ok(connection) = Connection::new(stream, now) else {
            return;
        };
        while self.connections.len() + self.viewers() >= MAX_CONNECTIONS {
            let worth = |(id, one): (&u64, &Connection)| (one.worth(), *id);
            let Some((_, id)) = self.connections.iter().map(worth).min() else {
                break;
            };
            // Its bytes may not have been looked at yet.
            let before = self.connections.get(&id).map(Connection::worth);
            self.go_on(id, now);
            if self.connections.get(&id).map(Connection::worth) == before {
                if let Some(evicted) = self.connections.get_mut(&id) {
                    evicted.evict();
                }
                self.close(id);
            }
        }
        self.last_id += 1;
        let id = self.last_id;
        if self.poller.add(&connection.stream, id).is_ok() {
            self.connections.insert(id, connection);
            self.go_on(id, now);
        }
    }

    /// Returns the number of viewers.
    fn viewers(&self) -> usize {
        let viewers = self.viewers.iter();
        viewers.map(|taken| taken.load(Ordering::Relaxed)).sum()
    }

    /// Does what a connection is ready for.
    fn go_on(&mut self, id: u64, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match &connection.stage {
            Stage::Head(_) => match connection.read_head(&self.hosts, now) {
                Ok(Parsed::Partial) => {}
                Ok(Parsed::Request(request)) => self.dispatch(id, request, now),
                Ok(Parsed::Refused(refusal)) => self.refuse(id, refusal, now),
                Err(_) => self.close(id),
            },
            Stage::Working => {}
            Stage::Writing(..) => {
                let sent = connection.write(now);
                self.note_sent(id, sent, true);
            }
            Stage::Draining(_) => {
                if !connection.drain() {
                    self.close(id);
                }
            }
        }
    }

    /// Hands a request on.
    fn dispatch(&mut self, id: u64, request: Request, now: Instant) {
        let stream = STREAMS.iter().position(|path| *path == request.path);
        if let Some(stream) = stream.filter(|_| request.method == Method::Get) {
            return self.seat(id, stream, &request, now);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        // Bytes behind the request are not read while it is worked on.
        self.poller.remove(&connection.stream);
        connection.begin_work(now);
        let method = request.method;
        let reply = Reply {
            id,
            method,
            answers: self.answers.clone(),
            waker: self.waker.clone(),
        };
        if let Err(response) = self.handler.handle(request, reply) {
            self.answer(id, response.to_bytes(method), Outcome::Answered, now);
        }
    }

    /// Gives a viewer a seat, if there is one.
    fn seat(&mut self, id: u64, stream: usize, request: &Request, now: Instant) {
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        self.poller.remove(&connection.stream);
        let seat = Seat::take(&self.viewers[stream]);
        let response = match self.handler.view(connection.stream, request, seat) {
            Ok(()) => return self.counts.count(Outcome::Viewer),
            Err((stream, response)) => {
                connection.stream = stream;
                response
            }
        };
        self.connections.insert(id, connection);
        self.answer(id, response.to_bytes(Method::Get), Outcome::Answered, now);
    }

    /// Refuses a request.
    fn refuse(&mut self, id: u64, refusal: Refusal, now: Instant) {
        debug!("HTTP request refused: {}", refusal.reason());
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        self.poller.remove(&connection.stream);
        let answer = Response::refusal(refusal).to_bytes(connection.method);
        self.answer(id, answer, Outcome::Refused, now);
    }

    /// Begins to send an answer to a connection that is not watched.
    fn answer(&mut self, id: u64, answer: Vec<u8>, outcome: Outcome, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let sent = connection.begin_answer(answer, outcome, now);
        self.note_sent(id, sent, false);
    }

    /// Watches a connection for what it needs after a write.
    fn note_sent(&mut self, id: u64, sent: io::Result<Sent>, is_watched: bool) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (poller, stream) = (&self.poller, &connection.stream);
        let watched = sent.and_then(|sent| {
            if !is_watched {
                poller.add(stream, id)?;
            }
            match sent {
                Sent::Part if is_watched => Ok(()),
                Sent::Part => poller.set_interest(stream, id, Interest::Output),
                Sent::All if is_watched => poller.set_interest(stream, id, Interest::Input),
                Sent::All => Ok(()),
            }
        });
        if watched.is_err() {
            self.close(id);
        }
    }

    /// Ends the connections whose time is over.
    fn end_overdue(&mut self, now: Instant) {
        let is_overdue = |(id, one): (&u64, &Connection)| (one.deadline <= now).then_some(*id);
        let overdue: Vec<u64> = self.connections.iter().filter_map(is_overdue).collect();
        for id in overdue {
            let Some(connection) = self.connections.get(&id) else {
                continue;
            };
            match connection.stage {
                Stage::Head(_) => self.refuse(id, Refusal::Late, now),
                Stage::Working => {
                    let response = Response::unavailable("there was no answer in time");
                    let answer = response.to_bytes(connection.method);
                    self.answer(id, answer, Outcome::Answered, now);
                }
                Stage::Writing(..) | Stage::Draining(_) => self.close(id),
            }
        }
    }

    fn close(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.counts.count(connection.outcome);
        }
    }
}

#[cfg(test)]
mod tests;
