//! The threads that keep one neighbor fed, and their sockets: a thin shell around the protocol.
//!
//! The sender thread has the neighbor dialed, and then waits for whatever comes first: a batch in the
//! queue, a message of the neighbor, a request, an order. The reader thread takes the neighbor's
//! messages meanwhile, so that its silence is noticed even while the sender is blocked in a write;
//! it then shuts the socket, which ends the write.
//!
//! - [`dialer`] decides when and where to dial, [`attempt`] does it.
//! - [`feed`] is the protocol of the sending side of a connection, [`acks`] that of the reading side.
//! - [`orders`] are the messages to the sender thread.

pub(super) mod acks;
pub(super) mod attempt;
mod block;
pub(super) mod dialer;
pub(super) mod feed;
pub(super) mod orders;

use std::convert::Infallible;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender as Channel, bounded, never, select, tick};

use crate::config::topology::Address;
use crate::link::framing::{Reader, Transport, Writer, is_timeout, reset_at_close, wait_until};
use crate::link::handshake::Hello;
use crate::link::keyring::Keyring;
use crate::link::known::KnownAddresses;
use crate::link::linked::LinkedKey;
use crate::link::neighbor::Neighbor;
use crate::link::refusals::RejectedPeers;
use crate::link::traffic::Counted;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::replica::outbox::{LinkId, OutboxReceiver, Queued};
use crate::thread;
use acks::{Acks, PeerMessage};
use attempt::{DialError, Dialed};
use dialer::Dialer;
use feed::{Feed, KEEPALIVE_INTERVAL};
use orders::{CloseReason, DeadlineWriter, ORDERS, Order, REQUESTS, Request, close_deadline};

/// Maximum wait for a neighbor's last acknowledgement and its close, after this side has closed.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Messages of the neighbor over one connection that the sender has yet to take. A neighbor sends
/// its vector once at first, and once each time that it is asked.
const PEER_MESSAGES: usize = 4;

/// State that the senders share with the other parts of the links.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) replica: Arc<Replica>,
    pub(super) keys: Arc<Keyring>,
    pub(super) rejected: Arc<RejectedPeers>,
    pub(super) known: KnownAddresses,
    pub(super) linked: Arc<LinkedKey>,
}

/// Threads that keep one neighbor fed.
#[derive(Debug)]
pub(super) struct Sender {
    neighbor: Arc<Neighbor>,
    threads: [JoinHandle<()>; 2],
    orders: Channel<Order>,
    address: Address,
}

impl Sender {
    /// Starts to dial and feed the neighbor of that place in the flood.
    pub(super) fn start(
        shared: Shared,
        name: &str,
        address: &Address,
        (link, outbox): (LinkId, OutboxReceiver),
    ) -> io::Result<Sender> {
        let (requests, requested) = bounded(REQUESTS);
        let (orders, ordered) = bounded(ORDERS);
        let (reader, connections) = bounded::<Reading>(0);
        let neighbor = Arc::new(Neighbor::new(name, link, outbox.gauge(), requests));
        let acknowledged = Arc::clone(&neighbor);
        let read = thread::spawn(format!("link-reader-{name}"), move || {
            while let Ok(reading) = thread::waiting(|| connections.recv()) {
                reading.run(&acknowledged);
            }
            // The sender has ended.
            thread::dismissed();
        })?;
        let now = Instant::now();
        let sender = SenderThread {
            feed: Feed::new(
                Arc::clone(&shared.replica),
                shared.keys.digest_key(),
                Arc::clone(&neighbor),
                outbox,
                now,
            ),
            dialer: Dialer::new(
                Arc::clone(&neighbor),
                Arc::clone(&shared.rejected),
                address.clone(),
                now,
            ),
            shared,
            neighbor: Arc::clone(&neighbor),
            requests: requested,
            reader,
            orders: ordered,
        };
        let feed = thread::spawn(format!("link-sender-{name}"), move || {
            sender.run();
            thread::dismissed();
        })?;
        Ok(Sender {
            neighbor,
            threads: [feed, read],
            orders,
            address: address.clone(),
        })
    }

    /// Returns the neighbor that is fed.
    pub(super) fn neighbor(&self) -> &Arc<Neighbor> {
        &self.neighbor
    }

    /// Returns the address that is dialed.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Closes the connection to the neighbor's old address, and dials this one at once.
    pub(super) fn redial(&mut self, address: Address) {
        self.address = address.clone();
        // A sender that is gone has logged why.
        let _ = self.orders.send(Order::Redial(address));
    }

    /// Orders the sender to send what is queued, to close gracefully, and to end.
    pub(super) fn end(&self, reason: CloseReason) {
        let _ = self.orders.send(Order::End(reason));
    }

    /// Waits for both threads to end, after [`end`](Self::end).
    pub(super) fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// A connection for the reader thread.
#[derive(Debug)]
struct Reading {
    stream: TcpStream,
    reader: Reader,
    /// To the sender of this connection, which sees by the channel's end that it is lost.
    messages: Channel<PeerMessage>,
}

impl Reading {
    /// Takes the neighbor's messages until it falls silent or closes, then shuts the socket, which
    /// also frees a sender that is blocked in a write.
    fn run(mut self, neighbor: &Arc<Neighbor>) {
        let mut acks = Acks::new(Arc::clone(neighbor), Instant::now());
        let Err(error) = self.read(neighbor, &mut acks);
        // Before the socket is shut, so that a sender whose write fails can report why. Where the
        // channel is full, its end says that there is no more.
        let _ = self.messages.try_send(PeerMessage::Lost(error));
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn read(&mut self, neighbor: &Neighbor, acks: &mut Acks) -> io::Result<Infallible> {
        loop {
            while let Some(line) = self.reader.take_line()? {
                let message = acks.take_line(line, Instant::now(), Timestamp::now())?;
                if let Some(message) = message {
                    // Where the channel is full, it holds others that the sender has yet to answer.
                    let _ = self.messages.try_send(message);
                }
            }
            let stream = Counted {
                stream: &self.stream,
                traffic: neighbor.traffic(),
            };
            let filled =
                wait_until(&self.stream, acks.deadline()).and_then(|()| self.reader.fill(stream));
            match filled {
                Ok(filled) => acks.note(filled, Instant::now())?,
                Err(error) if is_timeout(&error) => {
                    reset_at_close(&self.stream);
                    return Err(acks.silence(Instant::now()));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A connection that records go out over.
#[derive(Debug)]
struct Connection {
    neighbor: Arc<Neighbor>,
    stream: TcpStream,
    writer: Writer,
    messages: Receiver<PeerMessage>,
    orders: Receiver<Order>,
    /// Deadline for all writes, once there is an order.
    deadline: Option<Instant>,
}

impl Transport for Connection {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let stream = DeadlineWriter {
            stream: &self.stream,
            orders: &self.orders,
            deadline: &mut self.deadline,
        };
        let to = Counted {
            stream,
            traffic: self.neighbor.traffic(),
        };
        self.writer.write(to, lines)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn clock(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl Connection {
    /// Returns why the reader has given the connection up, if it has.
    fn reason(&self) -> Option<io::Error> {
        self.messages.try_iter().find_map(|message| match message {
            PeerMessage::Lost(error) => Some(error),
            PeerMessage::Vector(_) | PeerMessage::Refuse(_) => None,
        })
    }

    /// Closes this side, and waits a moment for the other side to do likewise: until then it may
    /// acknowledge what was sent last. A socket that is closed with something unread would drop
    /// what it has yet to send.
    fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = Instant::now() + FAREWELL_LIMIT;
        while let Ok(message) = thread::waiting(|| self.messages.recv_deadline(deadline)) {
            if matches!(message, PeerMessage::Lost(_)) {
                break;
            }
        }
    }
}

/// Reason for which a connected sender wakes. `None` is the end of a channel.
enum Event {
    Queued(Option<Queued>),
    Message(Option<PeerMessage>),
    Request(Option<Request>),
    ResyncDue,
    KeepaliveDue,
    Order(Option<Order>),
}

/// End of a connection.
enum End {
    Lost(io::Error),
    Ordered(Order),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Lost(error)
    }
}

/// State of the sender thread.
struct SenderThread {
    shared: Shared,
    neighbor: Arc<Neighbor>,
    feed: Feed,
    dialer: Dialer,
    requests: Receiver<Request>,
    reader: Channel<Reading>,
    orders: Receiver<Order>,
}

impl SenderThread {
    /// Dials and feeds until it is ordered to end.
    fn run(mut self) {
        loop {
            match self.dial() {
                Ok(dialed) => {
                    let end = self.serve(dialed);
                    self.feed.disconnected();
                    match end {
                        End::Ordered(Order::End(_)) => return,
                        End::Ordered(Order::Redial(address)) => {
                            self.dialer.redial(address, false);
                            continue;
                        }
                        End::Lost(error) => {
                            self.dialer.lost(&error, Instant::now(), Timestamp::now());
                        }
                    }
                }
                Err(Undialed::Failed(error)) => {
                    self.dialer.failed(&error, Instant::now(), Timestamp::now());
                }
                Err(Undialed::Ordered(Order::End(_))) => return,
                Err(Undialed::Ordered(Order::Redial(address))) => {
                    self.dialer.redial(address, true);
                    continue;
                }
            }
            match self.pause(self.dialer.pause(fastrand::f64())) {
                Some(Order::End(_)) => return,
                Some(Order::Redial(address)) => self.dialer.redial(address, true),
                None => self.dialer.paused(),
            }
        }
    }

    /// Waits before dialing again, or until there is an order.
    fn pause(&self, pause: Duration) -> Option<Order> {
        let until = Instant::now() + pause;
        loop {
            let end = Order::End(CloseReason::Stopping);
            let order = thread::waiting(|| {
                select! {
                    // An owner that is gone needs no sender.
                    recv(self.orders) -> order => Ok(Some(order.unwrap_or(end))),
                    recv(self.requests) -> request => match request {
                        Ok(Request::Wake) => Ok(None),
                        // A link that is down can't repair.
                        Ok(Request::Repair(_) | Request::ResyncAll) => Err(()),
                        Err(_) => Ok(Some(end)),
                    },
                    default(until.saturating_duration_since(Instant::now())) => Ok(None),
                }
            });
            if let Ok(order) = order {
                return order;
            }
        }
    }

    /// Has the neighbor dialed, and waits for the outcome, or until there is an order.
    fn dial(&self) -> Result<Dialed, Undialed> {
        let keys = self.shared.keys.current();
        let (herd, replica) = (keys.herd(), Arc::clone(&self.shared.replica));
        let own = move || {
            let hello = Hello::new(herd, replica.name(), replica.epoch(), Timestamp::now());
            hello.forgetting_after(replica.forget_after_in_force())
        };
        let address = self.dialer.dial();
        let attempt = attempt::start(
            self.neighbor.name(),
            address,
            keys,
            self.shared.known.clone(),
            own,
        );
        let attempt = attempt.map_err(DialError::Before)?;
        thread::waiting(|| {
            select! {
                recv(attempt) -> outcome => match outcome {
                    Ok(outcome) => Ok(outcome?),
                    Err(_) => {
                        Err(DialError::Before(io::Error::other("the attempt has ended")).into())
                    }
                },
                recv(self.orders) -> order => {
                    Err(Undialed::Ordered(order.unwrap_or(Order::End(CloseReason::Stopping))))
                }
            }
        })
    }

    /// Feeds the neighbor over a new connection, to its end.
    fn serve(&mut self, dialed: Dialed) -> End {
        let mut connection = match self.begin(dialed) {
            Ok(connection) => connection,
            Err(error) => return End::Lost(error),
        };
        let end = match self.feed(&mut connection) {
            // A write that fails because the reader has shut the socket does not say why.
            Err(End::Lost(error)) => End::Lost(connection.reason().unwrap_or(error)),
            Ok(end) | Err(end) => end,
        };
        // The reader blocks on the same socket.
        let _ = connection.stream.shutdown(Shutdown::Both);
        end
    }

    /// Gives the reader its half of a connection.
    fn begin(&mut self, dialed: Dialed) -> io::Result<Connection> {
        let Dialed { stream, peer, keys } = dialed;
        self.shared.linked.remember(&keys);
        let now = Instant::now();
        self.dialer.connected(now);
        if let Ok(address) = stream.peer_addr() {
            self.neighbor.dialed(peer.hello.epoch, address.to_string());
        }
        self.feed.connected(&peer, now);
        let (messages, received) = bounded(PEER_MESSAGES);
        let reading = Reading {
            stream: stream.try_clone()?,
            reader: peer.reader,
            messages,
        };
        // The reader is free: the connection before this one has been shut.
        thread::waiting(|| self.reader.send(reading))
            .map_err(|_| io::Error::other("the reader thread has ended"))?;
        Ok(Connection {
            neighbor: Arc::clone(&self.neighbor),
            stream,
            writer: peer.writer,
            messages: received,
            orders: self.orders.clone(),
            deadline: None,
        })
    }

    fn feed(&mut self, connection: &mut Connection) -> Result<End, End> {
        let messages = connection.messages.clone();
        let keepalive_due = tick(KEEPALIVE_INTERVAL);
        loop {
            let resync_due = self
                .feed
                .resync_due()
                .map_or_else(never, crossbeam_channel::at);
            let event = thread::waiting(|| {
                select! {
                    recv(self.feed.outbox().channel()) -> queued => Event::Queued(queued.ok()),
                    recv(messages) -> message => Event::Message(message.ok()),
                    recv(self.requests) -> request => Event::Request(request.ok()),
                    recv(resync_due) -> _ => Event::ResyncDue,
                    recv(keepalive_due) -> _ => Event::KeepaliveDue,
                    recv(self.orders) -> order => Event::Order(order.ok()),
                }
            });
            match event {
                Event::Queued(queued) => match queued {
                    Some(queued) => {
                        let queued = self.feed.outbox().taken(queued);
                        self.feed.send_queued(queued, connection)?;
                    }
                    None => return Ok(End::Ordered(Order::End(CloseReason::Stopping))),
                },
                Event::Message(message) => match message {
                    Some(PeerMessage::Vector(vector)) => self.feed.take_vector(vector),
                    Some(PeerMessage::Refuse(reason)) => {
                        connection.deadline = Some(close_deadline(Instant::now()));
                        // The connection is closed even if the neighbor can't be sent the reason.
                        let _ = self.feed.refuse(&reason, connection);
                        connection.close();
                        return Ok(End::Lost(io::Error::other(reason.to_string())));
                    }
                    Some(PeerMessage::Lost(error)) => return Ok(End::Lost(error)),
                    None => return Ok(End::Lost(io::Error::other("the reader has ended"))),
                },
                Event::Request(request) => match request {
                    Some(request) => self.feed.take_request(&request, connection)?,
                    None => return Ok(End::Ordered(Order::End(CloseReason::Stopping))),
                },
                Event::ResyncDue => self.feed.resync(connection)?,
                Event::KeepaliveDue => self.feed.keep_alive(connection)?,
                Event::Order(order) => {
                    let order = order.unwrap_or(Order::End(CloseReason::Stopping));
                    connection.deadline = Some(close_deadline(Instant::now()));
                    if self.feed.close(&order, connection).is_ok() {
                        connection.close();
                    }
                    return Ok(End::Ordered(order));
                }
            }
        }
    }
}

/// Outcome of dialing without a connection.
enum Undialed {
    Failed(DialError),
    Ordered(Order),
}

impl From<DialError> for Undialed {
    fn from(error: DialError) -> Undialed {
        Undialed::Failed(error)
    }
}
