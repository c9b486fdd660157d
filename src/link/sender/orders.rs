//! Messages to a sender thread: orders from its owner, requests from other threads.
//!
//! An order also limits the time of a write that is under way, so that a neighbor that reads slowly
//! delays neither a stop nor a change of `servers.txt` for long.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::config::topology::Address;
use crate::link::framing::is_timeout;

/// Requests that a sender holds; past this they are dropped: a sender with requests waiting is
/// awake, and a difference is found again.
pub(super) const REQUESTS: usize = 8;

/// Orders that a sender holds while it writes or dials; past this the owner waits.
pub(super) const ORDERS: usize = 4;

/// Time for what is queued, and for the write under way, when a connection is closed. The neighbor
/// gets the rest from others, or from the cache when it is dialed again; without a limit, a server
/// with a neighbor that crawls could not stop in time to bring its journal to disk.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Maximum wait of one write before orders are looked at again. A write that makes no progress goes on
/// as long as the neighbor shows that it is alive: its disk may not answer for half a minute.
pub(super) const ORDER_POLL: Duration = Duration::from_millis(250);

/// Order of a sender's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::link) enum Order {
    /// Dial the neighbor at another address.
    Redial(Address),
    /// Send what is queued, close gracefully, and end.
    End(CloseReason),
}

impl Order {
    /// Returns the reason that the neighbor is sent.
    pub(super) fn reason(&self) -> CloseReason {
        match self {
            Order::End(reason) => *reason,
            Order::Redial(_) => CloseReason::Moved,
        }
    }
}

/// Reason for closing a connection, sent to the neighbor in a `BYE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) enum CloseReason {
    /// The server stops.
    Stopping,
    /// The neighbor was removed from `servers.txt`.
    Dismissed,
    /// The neighbor has another address in `servers.txt`.
    Moved,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::Stopping => "stopping",
            CloseReason::Dismissed => "servers.txt there no longer names this server a neighbor",
            CloseReason::Moved => "servers.txt there has another address for this server",
        })
    }
}

/// Request of a receiver or of the audit.
#[derive(Debug)]
pub(in crate::link) enum Request {
    /// Dial at once: the neighbor has just connected to this server.
    Wake,
    /// Send all records, whatever the neighbor's vector covers.
    ResyncAll,
    /// Send all records of these buckets of the digest, whatever the neighbor's vector covers.
    Repair(Box<[usize]>),
}

/// A socket whose writes end soon after an order has been given.
#[derive(Debug)]
pub(super) struct DeadlineWriter<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) orders: &'a Receiver<Order>,
    /// Set by the first write that finds an order, or by [`close_deadline`].
    pub(super) deadline: &'a mut Option<Instant>,
}

/// Returns the deadline for all writes after an order of `now`.
pub(super) fn close_deadline(now: Instant) -> Instant {
    now + CLOSE_LIMIT
}

impl io::Write for DeadlineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The socket's own time limit for a write is ORDER_POLL.
        loop {
            if self.deadline.is_none() && !self.orders.is_empty() {
                *self.deadline = Some(close_deadline(Instant::now()));
            }
            if self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                let text = "closed with records unsent, since the neighbor reads too slowly";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            let mut stream = self.stream;
            match stream.write(bytes) {
                Err(error) if is_timeout(&error) => {}
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
