//! The publisher of `/events`: the server's clients, figures and herd as they change, as a stream of
//! events (`text/event-stream`) for every page that is open.
//!
//! One thread renders each event once, for all viewers, and is the only one that writes to their
//! connections. It waits for none of them: see [`viewer`](super::viewer). A viewer that comes gets `hello`, a whole
//! `frame` and the last `herd`, and from then on the same bytes as all others.
//!
//! Changes are found by comparing the cache with what was sent last, at most four times a second,
//! and only if something has changed since. A scan costs the publisher alone; its CPU time is
//! measured, and the pauses between scans grow with it, so that it is bounded with any number of
//! records. A subscription to the flood, as links have it, would cost the workers, under the apply
//! lock, and would need the scan anyway where its queue overflows. Measured on a busy machine with
//! 10,000 clients that send 10,000 reports/s: the publisher takes 0.7 to 0.9 % of a processor for one
//! viewer, and a report takes as long as without; with a subscription it takes 7 to 50 % longer, and
//! the subscriber 0.6 % only to read the lines. A scan of a million records takes 0.2 s and is made
//! every 9 s.
//!
//! Without viewers nothing is scanned, and the thread wakes once a second for the figures.
//!
//! `map` compares, with `clients` or, where there are many, with `grid`; `frame` and `text` render;
//! `figures` has those of the last ten minutes.

mod clients;
mod figures;
mod frame;
mod grid;
mod map;
mod origins;
mod publisher;
mod text;

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::poller::{Poller, Waker};
use crate::replica::Replica;
use crate::thread::{self, Stopper, stop_pair};
pub(crate) use figures::Totals;

/// Number of descriptors of the publisher, but for those of its viewers: its poller's.
pub(super) const DESCRIPTORS: usize = 2;

/// The server and its herd, as `hello` tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Name of this server.
    pub(crate) name: String,
    /// Release of this server.
    pub(crate) release: String,
    /// Epoch of this start.
    pub(crate) epoch: u64,
    /// Name and neighbors of each server of the herd.
    pub(crate) servers: Vec<(String, Vec<String>)>,
}

/// The latest survey of the herd: its number, which differs from that of every other, and its JSON
/// text on one line.
pub(crate) type Herd = (u64, Arc<str>);

/// Where the publisher finds what it shows.
pub(crate) struct Sources {
    /// The records.
    pub(crate) replica: Arc<Replica>,
    /// Returns the servers as of now. Called once a second while there are viewers.
    pub(crate) servers: Box<dyn Fn() -> Servers + Send>,
    /// Returns the totals as of now. Called once a second.
    pub(crate) totals: Box<dyn Fn() -> Totals + Send>,
    /// Returns the latest survey, if there is one. Called four times a second while there are viewers.
    pub(crate) herd: Box<dyn Fn() -> Option<Herd> + Send>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// A connection that becomes a viewer.
struct Newcomer {
    stream: TcpStream,
    /// Bytes to be sent before the first event.
    head: Vec<u8>,
    seat: Box<dyn Send>,
}

/// A way to bring viewers to the publisher.
#[derive(Clone)]
pub(crate) struct Entrance {
    newcomers: Sender<Newcomer>,
    waker: Waker,
}

impl Entrance {
    /// Makes a connection, which must not block, a viewer: it is sent `head` and from then on the events.
    /// `seat` is dropped once the viewer has gone. Has no effect but the close of the connection if
    /// the publisher has stopped.
    pub(crate) fn enter(&self, stream: TcpStream, head: Vec<u8>, seat: Box<dyn Send>) {
        let newcomer = Newcomer { stream, head, seat };
        // One that is refused is dropped, and so closed.
        let _ = self.newcomers.send(newcomer);
        self.waker.wake();
    }
}

impl fmt::Debug for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entrance").finish_non_exhaustive()
    }
}

/// The thread that publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    entrance: Entrance,
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Publisher {
    /// Starts the thread.
    pub(crate) fn start(sources: Sources) -> io::Result<Publisher> {
        Publisher::start_with(sources, publisher::MAX_BEGINNINGS)
    }

    /// The same, with another limit on the bytes of beginnings.
    fn start_with(sources: Sources, max_beginnings: usize) -> io::Result<Publisher> {
        let (newcomers, received): (_, Receiver<Newcomer>) = unbounded();
        let poller = Poller::new()?;
        let waker = poller.waker();
        let (stopper, stop) = stop_pair();
        let thread = thread::spawn("http-events", move || {
            crate::http::yield_to_clients();
            publisher::Run::new(sources, max_beginnings, received, stop, poller).run();
        })?;
        Ok(Publisher {
            entrance: Entrance { newcomers, waker },
            stopper,
            thread,
        })
    }

    /// Returns a way to bring viewers.
    pub(crate) fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// Closes the connections of all viewers and waits for the thread to end.
    pub(crate) fn stop(self) {
        self.stopper.stop();
        self.entrance.waker.wake();
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests;
