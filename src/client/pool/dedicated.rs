//! The dedicated pool: a worker takes a connection and keeps it, blocking in `read`, until it
//! closes.
//!
//! It is simple, and isolates every client from every other. The price is a wake-up for every
//! request and a thread for every client: idle clients hold all workers, and later clients wait in
//! the queue until a worker is free. The worker of a client that watches something waits for its
//! socket and for a wake-up by the publisher at once.

use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::warn;
use parking_lot::Mutex;

use super::{Dispatch, STOP_TIMEOUT};
use crate::client::connection::{Connection, keep_alive, limit_unsent};
use crate::client::services::Services;
use crate::client::session::end::EndReason;
use crate::client::session::output::REPLY_TIMEOUT;
use crate::client::session::pending::Released;
use crate::client::session::pushes::{SessionWaker, WakeSession};
use crate::client::session::{Scratch, Stream, TurnResult};
use crate::model::time::{COARSE_STEP, Tick};
use crate::poller::{Poller, Waker};
use crate::thread;

/// Connections that wait for a worker; past this they are refused.
const QUEUE_CONNECTIONS: usize = 1_024;

/// Shortest limit of a read. The clock of the deadlines is behind by up to its step, so there may be
/// nothing left.
const MIN_READ_TIMEOUT: Duration = Duration::from_millis(10);

/// Longest wait for a client or pushes; the deadline of a session may be further away.
const MAX_POLL: Duration = Duration::from_secs(3_600);

/// Id of a worker's client with its poller.
const CLIENT: u64 = 0;

/// State that the workers share.
#[derive(Debug)]
pub(super) struct Dedicated {
    /// `None` once the pool stops, so that workers that wait for a connection return.
    sender: Mutex<Option<Sender<Box<Connection>>>>,
    queue: Receiver<Box<Connection>>,
    /// The sockets of the workers' clients, by which a stop reaches workers that block in them. A
    /// worker removes its own before it closes the connection.
    sockets: Vec<Mutex<Option<TcpStream>>>,
    /// How each worker whose client watches something is woken.
    wakers: Vec<Mutex<Option<Waker>>>,
    services: Arc<Services>,
    /// Once the pool stops: the time at which clients that have not taken their replies are dropped.
    drop_time: Mutex<Option<Tick>>,
    /// Set once that time has come.
    drops_all: AtomicBool,
}

impl Dedicated {
    /// Prepares a slot for each worker.
    pub(super) fn new(workers: usize, services: &Arc<Services>) -> Dedicated {
        let (sender, queue) = bounded(QUEUE_CONNECTIONS);
        Dedicated {
            sender: Mutex::new(Some(sender)),
            queue,
            sockets: (0..workers).map(|_| Mutex::default()).collect(),
            wakers: (0..workers).map(|_| Mutex::default()).collect(),
            services: Arc::clone(services),
            drop_time: Mutex::new(None),
            drops_all: AtomicBool::new(false),
        }
    }

    fn shut_down(&self, direction: Shutdown) {
        for socket in &self.sockets {
            if let Some(stream) = &*socket.lock() {
                let _ = stream.shutdown(direction);
            }
        }
    }

    fn serve(&self, worker: usize, connection: &mut Connection, scratch: &mut Scratch) {
        let services = &*self.services;
        // A write that this cuts short finds its deadline passed, although the clock of the deadlines is
        // behind by up to a step.
        let prepared = connection.stream.try_clone().and_then(|stream| {
            stream.set_write_timeout(Some(REPLY_TIMEOUT + 2 * COARSE_STEP))?;
            Ok(stream)
        });
        match prepared {
            Ok(stream) => *self.sockets[worker].lock() = Some(stream),
            Err(error) => {
                warn!("client {} dropped: {error}", connection.session.client());
                return connection.note_end(EndReason::Broken, services);
            }
        }
        // A stop that came before the socket was in its place has not reached it.
        if services.stopping.load(Ordering::Relaxed) {
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
        let mut read_timeout = Duration::MAX;
        let mut waiting = None;
        let mut poller = None;
        loop {
            thread::next_piece();
            let left = connection
                .session
                .deadline(services)
                .since(services.clock.now());
            if poller.is_none() && connection.session.is_watching() {
                match self.poller(worker, &connection.stream) {
                    Ok(made) => poller = Some(made),
                    Err(error) => {
                        warn!("client {} dropped: {error}", connection.session.client());
                        connection.note_end(EndReason::Broken, services);
                        break;
                    }
                }
            }
            let has_news = connection.session.has_news();
            let (set, poller) = (&mut read_timeout, poller.as_mut());
            let result = connection.turn_over(
                |stream| BlockingStream {
                    stream,
                    set,
                    left: left.max(MIN_READ_TIMEOUT),
                    poller,
                    has_news,
                    is_stalled: false,
                },
                scratch,
                services,
            );
            match result {
                TurnResult::Ended(_) => break,
                TurnResult::Blocked if !self.wait(connection, &mut waiting) => break,
                TurnResult::Blocked
                | TurnResult::NeedsInput
                | TurnResult::NeedsOutput
                | TurnResult::Again => {}
            }
        }
        self.wakers[worker].lock().take();
        self.sockets[worker].lock().take();
    }

    /// Prepares for a worker to wait for its client and for pushes at once.
    fn poller(&self, worker: usize, stream: &TcpStream) -> io::Result<Poller> {
        let poller = Poller::new()?;
        poller.add(stream, CLIENT)?;
        *self.wakers[worker].lock() = Some(poller.waker());
        Ok(poller)
    }

    /// Waits for the result of the session's wait, for a moment: its deadlines hold meanwhile.
    /// Returns whether the connection continues.
    fn wait(
        &self,
        connection: &mut Connection,
        waiting: &mut Option<Receiver<Box<Released>>>,
    ) -> bool {
        if let Some(pending) = connection.session.take_pending() {
            let (done, released) = bounded(1);
            pending.start(&self.services, move |released| drop(done.send(released)));
            *waiting = Some(released);
        }
        let Some(released) = waiting else {
            return true;
        };
        match thread::waiting(|| released.recv_timeout(COARSE_STEP)) {
            Ok(released) => connection.resume(*released, &self.services),
            Err(RecvTimeoutError::Timeout) if !self.drops_all.load(Ordering::Relaxed) => true,
            Err(_) => {
                connection.note_end(EndReason::Stopping, &self.services);
                false
            }
        }
    }
}

/// A socket whose calls block, but not beyond the deadlines of its session.
struct BlockingStream<'a> {
    stream: &'a TcpStream,
    /// The limit of a read as it is set at the socket.
    set: &'a mut Duration,
    /// Time left until the session's deadline.
    left: Duration,
    /// Waits for the client and for pushes, if the client watches something.
    poller: Option<&'a mut Poller>,
    /// There are pushes to be sent.
    has_news: bool,
    /// A write of this turn was cut short by its limit: the next would only wait once more.
    is_stalled: bool,
}

impl Read for BlockingStream<'_> {
    /// A limit that is too short only costs a turn, so it is not set for every read.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(poller) = &mut self.poller {
            let left = match self.has_news {
                true => Duration::ZERO,
                false => self.left.min(MAX_POLL),
            };
            let mut ready = Vec::new();
            poller.wait(Some(left), iter::once(CLIENT), &mut ready);
            return match ready.is_empty() {
                true => Err(ErrorKind::WouldBlock.into()),
                false => self.read_available(buffer),
            };
        }
        if self.left < *self.set || self.left / 2 > *self.set {
            self.stream.set_read_timeout(Some(self.left))?;
            *self.set = self.left;
        }
        thread::waiting(|| self.stream.read(buffer))
    }
}

impl Write for BlockingStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_stalled {
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = thread::waiting(|| self.stream.write(bytes))?;
        self.is_stalled = written < bytes.len();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for BlockingStream<'_> {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn read_available(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_nonblocking(true)?;
        let read = self.stream.read(buffer);
        self.stream.set_nonblocking(false)?;
        read
    }

    fn limit_unsent(&mut self, time: Duration) -> io::Result<()> {
        limit_unsent(self.stream, time)
    }

    fn keep_alive(&mut self, time: Duration) -> io::Result<()> {
        keep_alive(self.stream, time)
    }
}

impl WakeSession for Dedicated {
    /// The key is the worker's number. A wake-up for an earlier client costs the next one a turn.
    fn wake(&self, key: u64) {
        if let Some(waker) = &*self.wakers[key as usize].lock() {
            waker.wake();
        }
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

    /// Workers keep the deadlines of their clients themselves, but for the end of a stop.
    fn sweep(&self, now: Tick) {
        let stopping = self.services.stopping.load(Ordering::Relaxed);
        if stopping && now >= *self.drop_time.lock().get_or_insert(now.after(STOP_TIMEOUT)) {
            self.drops_all.store(true, Ordering::Relaxed);
            self.shut_down(Shutdown::Both);
        }
    }

    /// A worker is busy from its client's beginning to its end.
    fn busy(&self) -> usize {
        let sockets = self.sockets.iter();
        sockets.filter(|socket| socket.lock().is_some()).count()
    }

    /// Does nothing: a long turn delays only the worker's own client.
    fn watch(&self) {}

    fn stop(&self) {
        self.sender.lock().take();
        // The workers still answer what they have read, and then find the end of their input.
        self.shut_down(Shutdown::Read);
    }

    /// Serves one connection after the other, each until it closes. Those that wait in the queue when
    /// the pool stops are served too, as far as they have sent something.
    fn work(self: Arc<Dedicated>, worker: usize) {
        let pool: Weak<dyn WakeSession> = Arc::<Dedicated>::downgrade(&self);
        let mut scratch = Scratch::new(&self.services.counts, SessionWaker::new(pool));
        scratch.waker.key = worker as u64;
        while let Ok(mut connection) = thread::waiting(|| self.queue.recv()) {
            if self.drops_all.load(Ordering::Relaxed) {
                connection.note_end(EndReason::Stopping, &self.services);
            } else {
                self.serve(worker, &mut connection, &mut scratch);
            }
        }
    }
}
