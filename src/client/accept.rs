//! Hands accepted clients to the pool, and rejects clients at capacity.
//!
//! The accept loop itself is in [`listener`](crate::listener). A rejected client is sent one line
//! and is no client any more: it holds no permit and no worker, and only a bounded number of them
//! hold a descriptor until they close.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};
use parking_lot::{Mutex, MutexGuard};
use socket2::SockRef;

use crate::client::connection::{Connection, SEND_BUFFER_BYTES};
use crate::client::limit::ConnectionLimit;
use crate::client::pool::Dispatcher;
use crate::client::rejections::{Admission, ClientRejections, RejectionCause};
use crate::client::services::Services;
use crate::client::session::end::EndReason;
use crate::listener::{Accept, Accepted};
use crate::logging::throttle::LogThrottle;
use crate::model::time::Tick;

/// Sent to a client at capacity before its connection is closed.
const SERVER_FULL: &[u8] = b"? server full\n";

/// Time that a rejected client has to close its side. A plain close over input that it has sent
/// meanwhile would reset the connection, and the rejection could be lost.
const REJECTED_LINGER: Duration = Duration::from_secs(1);

/// Rejected clients whose connections are still open; past this the oldest is closed at once.
pub(crate) const MAX_LINGERING: usize = 64;

/// Time between two warnings that clients are rejected; rejections between are counted.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Bounds the replies that wait in the kernel for each client of a listener. By itself the kernel
/// lets them grow to megabytes, and a thousand clients that send and never read are then a load of
/// gigabytes before the last of them has to wait.
pub(crate) fn bound_replies(listeners: &[TcpListener]) -> io::Result<()> {
    listeners
        .iter()
        .try_for_each(|listener| SockRef::from(listener).set_send_buffer_size(SEND_BUFFER_BYTES))
}

/// Admits clients and hands them to the pool. Clones admit as many together as one does.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// The pool.
    pub dispatcher: Dispatcher,
    /// The maximum number of clients.
    pub limit: ConnectionLimit,
    /// The rejected clients.
    pub rejected: RejectedClients,
    /// Their part in the server's state.
    pub rejections: ClientRejections,
    /// The parts of the server that sessions share.
    pub services: Arc<Services>,
}

impl Accept for Clients {
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) -> Accepted {
        let permit = match self.limit.admit(from.ip()) {
            Ok(permit) => permit,
            Err(reason) => {
                self.reject(stream, from, reason);
                return Accepted::Refused;
            }
        };
        // Replies are sent as they are written.
        if let Err(error) = stream.set_nodelay(true) {
            debug!("client {from} disconnected at once: {error}");
            self.count(Admission::Disconnected);
            return Accepted::In;
        }
        let connection = Connection::new(stream, from, permit, self.services.clock.now());
        match self.dispatcher.enter(connection) {
            Ok(()) => {
                self.count(Admission::Accepted);
                Accepted::In
            }
            Err(connection) => {
                connection.note_end(EndReason::Full, &self.services);
                self.reject(connection.stream, from, RejectionCause::NoWorker);
                Accepted::Refused
            }
        }
    }

    fn refuse(&mut self, stream: TcpStream, from: SocketAddr) {
        self.reject(stream, from, RejectionCause::NoDescriptor);
    }

    fn free_descriptor(&mut self) {
        self.rejections
            .note(RejectionCause::NoDescriptor, Instant::now());
        self.rejected.close_oldest();
    }
}

impl Clients {
    fn count(&self, admission: Admission) {
        self.services.counts.connections.count(admission);
    }

    fn reject(&self, stream: TcpStream, from: SocketAddr, cause: RejectionCause) {
        self.count(Admission::Rejected(cause));
        self.rejections.note(cause, Instant::now());
        let now = self.services.clock.now();
        self.rejected.add(stream, from, cause, now);
    }
}

/// Rejected clients, each until it closes or its time is up.
#[derive(Clone, Debug, Default)]
pub(crate) struct RejectedClients(Arc<Mutex<Lingering>>);

#[derive(Debug, Default)]
struct Lingering {
    /// Open connections with the time at which they are closed, the earliest in front.
    clients: VecDeque<(TcpStream, Tick)>,
    /// Warnings for each cause.
    warnings: [LogThrottle; RejectionCause::ALL.len()],
}

impl RejectedClients {
    /// Sends a client the rejection, without waiting for it.
    fn add(&self, mut stream: TcpStream, from: SocketAddr, cause: RejectionCause, now: Tick) {
        debug!("client {from} refused: {cause}");
        let sent = stream
            .set_nonblocking(true)
            .and_then(|()| stream.write_all(SERVER_FULL))
            .and_then(|()| stream.shutdown(Shutdown::Write));
        let mut lingering = self.0.lock();
        let mut closing = None;
        if sent.is_ok() {
            let until = now.after(REJECTED_LINGER);
            lingering.clients.push_back((stream, until));
            if lingering.clients.len() > MAX_LINGERING {
                closing = lingering.clients.pop_front();
            }
        }
        warn_if_due(lingering, Some(cause));
        if let Some((stream, _)) = closing {
            has_closed(&stream);
        }
    }

    /// Drops the connections that the client has closed or whose time is up.
    pub(crate) fn sweep(&self, now: Tick) {
        let mut lingering = self.0.lock();
        lingering
            .clients
            .retain(|(stream, until)| now < *until && !has_closed(stream));
        warn_if_due(lingering, None);
    }

    fn close_oldest(&self) {
        let oldest = self.0.lock().clients.pop_front();
        if let Some((stream, _)) = oldest {
            has_closed(&stream);
        }
    }
}

/// Counts a new rejection, and releases the lock before it logs any.
fn warn_if_due(mut lingering: MutexGuard<'_, Lingering>, new: Option<RejectionCause>) {
    let now = Instant::now();
    let mut counts = [0; RejectionCause::ALL.len()];
    for ((cause, warnings), count) in RejectionCause::ALL
        .into_iter()
        .zip(&mut lingering.warnings)
        .zip(&mut counts)
    {
        let new = u64::from(new == Some(cause));
        if warnings.record(new, now, WARNING_INTERVAL) {
            *count = warnings.take_count();
        }
    }
    drop(lingering);
    for (cause, count) in RejectionCause::ALL.into_iter().zip(counts) {
        if count > 0 {
            warn!("clients refused, {count}: {cause}");
        }
    }
}

/// Reads and drops what a rejected client has sent. Returns whether nothing more can arrive.
fn has_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 4_096]) {
        Ok(bytes) => bytes == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
