//! Brings accepted clients to the pool, and tells those for whom there is no room.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};
use parking_lot::Mutex;
use socket2::SockRef;

use crate::client::pool::{Connection, ConnectionLimit, Dispatcher};
use crate::client::session::FULL;
use crate::listener::{Accept, Accepted};
use crate::model::time::{CoarseClock, Tick};

/// How long a refused client has to close its side. A plain close over input that it has sent
/// meanwhile would reset the connection, and the refusal could be lost.
const REFUSED_LINGER: Duration = Duration::from_secs(1);

/// Refused clients whose connections are still open; past this the one that was refused first
/// is closed at once.
const MAX_LINGERING: usize = 64;

/// Between two notices that clients are refused; refusals between are counted.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes of replies that the kernel holds for a client that does not read, before its session
/// carries the rest and it gets no more turns. The kernel doubles it for its own bookkeeping.
const REPLY_BYTES: usize = 64 << 10;

/// Bounds the replies that wait in the kernel for each client of a listener. By itself the kernel
/// lets them grow to megabytes, and a thousand clients that send and never read are then a load of
/// gigabytes before the last of them has to wait.
pub fn bound_replies(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).set_send_buffer_size(REPLY_BYTES)
}

/// Brings clients to the pool.
#[derive(Debug)]
pub struct Clients {
    /// The pool.
    pub dispatcher: Dispatcher,
    /// Who counts them.
    pub limit: ConnectionLimit,
    /// Where those go for whom there is no room.
    pub refusals: RejectedClients,
    /// The time that deadlines are counted in.
    pub clock: CoarseClock,
}

impl Accept for Clients {
    fn accept(&mut self, stream: TcpStream, from: SocketAddr) -> Accepted {
        let Some(admitted) = self.limit.admit() else {
            self.refuse(stream, from);
            return Accepted::Refused;
        };
        // Replies leave as they are written.
        if let Err(error) = stream.set_nodelay(true) {
            debug!("client {from} was gone at once: {error}");
            return Accepted::In;
        }
        let connection = Connection::new(stream, from, admitted, self.clock.now());
        match self.dispatcher.enter(connection) {
            Ok(()) => Accepted::In,
            Err(connection) => {
                self.refuse(connection.into_stream(), from);
                Accepted::Refused
            }
        }
    }

    fn refuse(&mut self, stream: TcpStream, from: SocketAddr) {
        self.refusals.refuse(stream, from, self.clock.now());
    }

    fn make_room(&mut self) {
        self.refusals.let_one_go();
    }
}

/// Clients that have been told that there is no room, until they close or their time is up.
///
/// They are no clients any more: they hold no place and no worker, and a bounded number of
/// descriptors.
#[derive(Clone, Debug, Default)]
pub struct RejectedClients(Arc<Mutex<Lingering>>);

#[derive(Debug, Default)]
struct Lingering {
    /// Who was told, and until when they may stay; the first to go is in front.
    clients: VecDeque<(TcpStream, Tick)>,
    /// RejectedClients that no notice has told of.
    unreported: u64,
    next_notice: Tick,
}

impl RejectedClients {
    /// Tells a client that there is no room, without waiting for it.
    fn refuse(&self, mut stream: TcpStream, from: SocketAddr, now: Tick) {
        debug!("client {from} refused: server full");
        let told = stream
            .set_nonblocking(true)
            .and_then(|()| stream.write_all(FULL))
            .and_then(|()| stream.shutdown(Shutdown::Write));
        let mut lingering = self.0.lock();
        let mut leaving = None;
        if told.is_ok() {
            let until = now.after(REFUSED_LINGER);
            lingering.clients.push_back((stream, until));
            if lingering.clients.len() > MAX_LINGERING {
                leaving = lingering.clients.pop_front();
            }
        }
        lingering.unreported += 1;
        let count = lingering.notice(now);
        drop(lingering);
        notify(count);
        if let Some((stream, _)) = leaving {
            has_closed(&stream);
        }
    }

    /// Lets those go who have closed, or have had their time.
    pub fn sweep(&self, now: Tick) {
        let mut lingering = self.0.lock();
        lingering
            .clients
            .retain(|(stream, until)| now < *until && !has_closed(stream));
        let count = lingering.notice(now);
        drop(lingering);
        notify(count);
    }

    fn let_one_go(&self) {
        let oldest = self.0.lock().clients.pop_front();
        if let Some((stream, _)) = oldest {
            has_closed(&stream);
        }
    }
}

impl Lingering {
    /// How many refusals are to be told of now.
    fn notice(&mut self, now: Tick) -> u64 {
        if self.unreported == 0 || now < self.next_notice {
            return 0;
        }
        self.next_notice = now.after(NOTICE_INTERVAL);
        std::mem::take(&mut self.unreported)
    }
}

fn notify(count: u64) {
    if count > 0 {
        warn!("clients refused because the server is full: {count}");
    }
}

/// Takes what a refused client has sent; whether there is nothing more to come.
fn has_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 4_096]) {
        Ok(bytes) => bytes == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
