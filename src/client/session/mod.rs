//! One client's connection: bounded lines in, replies out.
//!
//! A session knows nothing of how its worker waits. It does one *turn* at a time: read what the
//! client has sent, answer every whole line of it, write the answers. What a turn leaves over
//! (half a line, replies that the client does not take yet) stays with the session, so a worker
//! is free again after every turn, and an idle session owns no buffer at all.
//!
//! Both disciplines of the pool run this code: seats over a blocking socket, the lobby over one
//! that answers "would block".

mod lines;
mod turn;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use log::{Level, log_enabled};

use crate::model::time::{CoarseClock, Tick, Timestamp};
use crate::places::Places;
use crate::places::remote::Answered;
use crate::places::upstream::Request;
use crate::replica::upkeep::Durability;
use crate::replica::{Outcome, Replica};
use crate::store::journal::SyncPosition;
use lines::{Next, next_line};
use turn::{Turn, end_places, log_sent};

/// Bytes read at once. A connection that has sent more goes to the back when others wait.
const READ_BYTES: usize = 16 << 10;

/// Requests answered in a row; past this a connection goes to the back when others wait.
const TURN_REQUESTS: usize = 16;

/// Bytes of replies not taken by the client; past this its requests are not read.
const MAX_UNSENT_BYTES: usize = 64 << 10;

/// From a line's first byte to its last; past this the connection is closed.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// From a reply's writing until the client's side has taken it; past this it is closed.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a closing connection reads and drops what the client still sends. A plain close
/// over unread input would reset the connection, and the client would lose its last reply.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What a client without room is told before its connection closes.
pub const FULL: &[u8] = b"? server full\n";

/// What a session reads from and writes to.
pub trait Stream: Read + Write {
    /// Says that nothing more will be written.
    fn shutdown_write(&mut self) -> io::Result<()>;
}

impl Stream for &TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// What all sessions share.
#[derive(Debug)]
pub struct Services {
    /// The records.
    pub replica: Arc<Replica>,
    /// Who is asked what is near.
    pub places: Places,
    /// Who brings the journal to disk; `None` without a journal.
    pub durability: Option<Durability>,
    /// How long a client may say nothing.
    pub idle_timeout: Duration,
    /// The time that deadlines are counted in.
    pub clock: CoarseClock,
    /// Set once the server stops: sessions read once more, answer that, and close.
    pub stopping: AtomicBool,
}

/// Buffers of one worker, lent to whichever session has its turn.
#[derive(Debug)]
pub struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
    outcomes: Vec<Outcome>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            input: vec![0; READ_BYTES].into_boxed_slice(),
            output: Vec::with_capacity(READ_BYTES),
            outcomes: Vec::with_capacity(TURN_REQUESTS),
        }
    }
}

/// What a session needs after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnResult {
    /// To be called when the client has sent something, or has hung up.
    Input,
    /// To be called when the socket takes more output, or as for `Input`.
    Output,
    /// Another turn, after the others who wait: there is more to do.
    Again,
    /// Its [`errand`](Session::take_pending) to be run, and [`Session::resume`] to be called with
    /// what came of it. No turn until then.
    Blocked,
    /// Nothing more; the connection can be dropped.
    Closed(Reason),
}

/// What a session waits for that is not its client.
#[derive(Debug)]
pub enum Pending {
    /// The journal up to there on disk.
    Sync(SyncPosition),
    /// What is near, from a provider over the network.
    Places(Request),
}

impl Services {
    /// Runs an errand without waiting for it; `done` is called with what came of it, at once or
    /// later, on any thread.
    pub fn run(&self, errand: Pending, done: Answered) {
        match (errand, &self.durability) {
            (Pending::Places(request), _) => self.places.ask(request, done),
            (Pending::Sync(position), Some(durability)) => {
                durability.wait(position, Box::new(move || done(&[])));
            }
            // There is nothing to wait for.
            (Pending::Sync(_), None) => done(&[]),
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client closed, and has all its answers.
    Client,
    /// The connection broke.
    Broken,
    /// A line longer than the limit.
    LineTooLong,
    /// A line not finished in time.
    LineTimeout,
    /// A reply not taken in time.
    ReplyTimeout,
    /// Nothing said for too long.
    Idle,
    /// The server stops.
    Stopping,
    /// A panic: a fault of the server's own.
    Fault,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Reason::Client => "closed by the client",
            Reason::Broken => "connection broken",
            Reason::LineTooLong => "line too long",
            Reason::LineTimeout => "line not finished in time",
            Reason::ReplyTimeout => "reply not taken in time",
            Reason::Idle => "idle for too long",
            Reason::Stopping => "server stopping",
            Reason::Fault => "its session ended in a panic",
        })
    }
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Taking requests.
    Open,
    /// Taking no more requests; replies may still have to be sent.
    Closing(Reason),
    /// Everything sent; reading and dropping what the client still sends.
    Draining(Reason),
}

/// Replies that the client has not taken.
#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// How many of them were there when `deadline` was set; once those are gone it moves on.
    overdue: usize,
    deadline: Tick,
}

/// An inquiry whose places come from elsewhere.
#[derive(Debug)]
struct PendingPlaces {
    /// The beginning of the reply: the `AT` line.
    reply: Vec<u8>,
    /// What is asked, until somebody has taken it there.
    request: Option<Request>,
}

/// One client's side of the protocol.
#[derive(Debug)]
pub struct Session {
    client: SocketAddr,
    phase: Phase,
    /// What the last turn left: at most a buffer's worth.
    input: Vec<u8>,
    /// Whether `input` holds a whole line.
    has_line: bool,
    /// Whether more may have arrived than has been read: the last read filled its buffer, or
    /// lines from it have been answered since.
    unread: bool,
    /// Whether the client will send nothing more.
    ended: bool,
    /// Whether nothing more is read; whole lines that have been are still answered.
    finishing: bool,
    /// Whether the end of input has been announced, so that it is there to be read.
    end_announced: bool,
    unsent: Unsent,
    /// Replies that wait for their reports to be on disk, and up to where that must be.
    held_replies: Vec<u8>,
    sync_position: Option<SyncPosition>,
    /// The inquiry that waits for its places.
    pending_places: Option<PendingPlaces>,
    /// When the unfinished line in `input` must be whole.
    line_deadline: Option<Tick>,
    /// When the client was last heard of, or the drain began.
    active: Tick,
}

impl Session {
    /// A session with a client that has just connected.
    pub fn new(client: SocketAddr, now: Tick) -> Session {
        Session {
            client,
            phase: Phase::Open,
            input: Vec::new(),
            has_line: false,
            unread: false,
            ended: false,
            finishing: false,
            end_announced: false,
            unsent: Unsent::default(),
            held_replies: Vec::new(),
            sync_position: None,
            pending_places: None,
            line_deadline: None,
            active: now,
        }
    }

    /// Who is served.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Says that the client's end of input is on its way: reading on will find it.
    pub fn announce_end(&mut self) {
        self.end_announced = true;
    }

    /// What is to be done after [`TurnResult::Blocked`].
    pub fn take_pending(&mut self) -> Option<Pending> {
        if let Some(position) = self.sync_position.take() {
            return Some(Pending::Sync(position));
        }
        let request = self
            .pending_places
            .as_mut()
            .and_then(|pending_places| pending_places.request.take());
        request.map(Pending::Places)
    }

    /// Takes what came of an errand; the next turn goes on from there.
    pub fn resume(&mut self, json: &[u8], services: &Services) {
        let reply = if !self.held_replies.is_empty() {
            std::mem::take(&mut self.held_replies)
        } else if let Some(PendingPlaces { mut reply, .. }) = self.pending_places.take() {
            reply.extend_from_slice(json);
            end_places(&mut reply);
            if log_enabled!(Level::Info) {
                log_sent(self.client, &reply);
            }
            reply
        } else {
            return;
        };
        let now = services.clock.now();
        if self.unsent.bytes.is_empty() {
            self.unsent.overdue = reply.len();
            self.unsent.deadline = now.after(REPLY_TIMEOUT);
        }
        self.unsent.bytes.extend_from_slice(&reply);
        self.active = now;
    }

    fn close(&mut self, reason: Reason) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing(reason);
        }
    }

    /// When the session must have a turn even if nothing happens on its socket.
    pub fn deadline(&self, services: &Services) -> Tick {
        self.earliest_deadline(services).0
    }

    fn overdue(&self, services: &Services) -> Option<Reason> {
        let (deadline, reason) = self.earliest_deadline(services);
        (services.clock.now() >= deadline).then_some(reason)
    }

    fn earliest_deadline(&self, services: &Services) -> (Tick, Reason) {
        if let Phase::Draining(reason) = self.phase {
            return (self.active.after(DRAIN_TIMEOUT), reason);
        }
        let mut earliest = (self.active.after(services.idle_timeout), Reason::Idle);
        if let Some(line) = self.line_deadline {
            earliest = earliest.min_by_tick((line, Reason::LineTimeout));
        }
        if !self.unsent.bytes.is_empty() {
            earliest = earliest.min_by_tick((self.unsent.deadline, Reason::ReplyTimeout));
        }
        earliest
    }

    /// Reads once, answers at most [`TURN_REQUESTS`] lines, writes the answers.
    ///
    /// TurnResult [`TurnResult::Input`] everything that had arrived has been read, as an edge-triggered
    /// readiness queue asks for.
    pub fn turn<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> TurnResult {
        match self.try_turn(stream, scratch, services) {
            Ok(after) => after,
            Err(_) => TurnResult::Closed(match self.phase {
                Phase::Open => Reason::Broken,
                Phase::Closing(reason) | Phase::Draining(reason) => reason,
            }),
        }
    }

    fn try_turn<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> io::Result<TurnResult> {
        if let Phase::Draining(reason) = self.phase {
            return self.drain(stream, scratch, reason, services);
        }
        if !self.unsent.bytes.is_empty() {
            let unsent = std::mem::take(&mut self.unsent.bytes);
            self.send(stream, &unsent, services.clock.now())?;
        }
        if self.pending_places.is_some() {
            return Ok(TurnResult::Blocked);
        }
        if self.phase == Phase::Open && self.unsent.bytes.len() < MAX_UNSENT_BYTES {
            let more = self.serve(stream, scratch, services)?;
            if self.sync_position.is_some() || self.pending_places.is_some() {
                return Ok(TurnResult::Blocked);
            }
            if more && self.unsent.bytes.is_empty() {
                return Ok(TurnResult::Again);
            }
        }
        if let Some(reason) = self.overdue(services) {
            if reason == Reason::ReplyTimeout {
                return Ok(TurnResult::Closed(reason));
            }
            self.close(reason);
        }
        match self.phase {
            _ if !self.unsent.bytes.is_empty() => Ok(TurnResult::Output),
            Phase::Closing(reason) => {
                stream.shutdown_write()?;
                if self.ended {
                    return Ok(TurnResult::Closed(reason));
                }
                self.phase = Phase::Draining(reason);
                self.active = services.clock.now();
                self.drain(stream, scratch, reason, services)
            }
            Phase::Open | Phase::Draining(_) => Ok(TurnResult::Input),
        }
    }

    /// Reads and answers. Says whether there is more to do without waiting.
    fn serve<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> io::Result<bool> {
        let Scratch {
            input,
            output,
            outcomes,
        } = scratch;
        let mut end = self.input.len();
        input[..end].copy_from_slice(&self.input);
        self.input = Vec::new();
        if self.has_line {
            // What arrives while these lines are answered is announced only once.
            self.unread = true;
        } else if !self.ended && !self.finishing {
            match stream.read(&mut input[end..]) {
                Ok(0) => self.end_of_input(services),
                Ok(bytes) => {
                    end += bytes;
                    self.unread = end == input.len();
                    self.active = services.clock.now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.unread = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => self.unread = true,
                Err(error) => return Err(error),
            }
        }
        self.finishing |= services.stopping.load(Ordering::Relaxed);
        // A read may have blocked for long.
        let now = services.clock.now();
        output.clear();
        let (mut start, mut answered) = (0, 0);
        {
            let mut turn = Turn {
                client: self.client,
                pending_places: None,
                sync_position: None,
                services,
                received: Timestamp::now(),
                reports: ArrayVec::new(),
                lines: ArrayVec::new(),
                outcomes,
                output,
                logged: log_enabled!(Level::Info),
            };
            while answered < TURN_REQUESTS && turn.pending_places.is_none() {
                match next_line(&input[start..end], self.ended) {
                    Next::Line { line, taken } => {
                        turn.take(line);
                        start += taken;
                        answered += 1;
                    }
                    Next::TooLong(line) => {
                        turn.refuse(line);
                        self.phase = Phase::Closing(Reason::LineTooLong);
                        start = end;
                        break;
                    }
                    Next::Unfinished => break,
                }
            }
            turn.apply();
            self.pending_places = turn.pending_places.take();
            self.sync_position = turn.sync_position;
        }
        let rest = &input[start..end];
        self.has_line = !matches!(next_line(rest, self.ended), Next::Unfinished);
        if rest.is_empty() || self.has_line {
            self.line_deadline = None;
        } else if self.line_deadline.is_none() || answered > 0 {
            self.line_deadline = Some(now.after(LINE_TIMEOUT));
        }
        if !rest.is_empty() {
            self.input = rest.to_vec();
        } else if self.ended {
            self.close(Reason::Client);
        }
        if self.finishing && !self.has_line {
            self.close(Reason::Stopping);
        }
        if self.sync_position.is_some() {
            self.held_replies.extend_from_slice(output);
        } else if !output.is_empty() {
            self.send(stream, output, now)?;
        }
        let end_unread = self.end_announced && !self.ended;
        Ok(self.phase == Phase::Open && (self.has_line || self.unread || end_unread))
    }

    /// Nothing more can be read: the client has closed, unless it was our own side that cut a
    /// blocked read short. Then what is left is no last line but half a line.
    fn end_of_input(&mut self, services: &Services) {
        if let Some(reason) = self.overdue(services) {
            self.close(reason);
        } else if !services.stopping.load(Ordering::Relaxed) {
            self.ended = true;
        }
    }

    /// Writes what the client takes, behind what it has not taken yet, and keeps the rest.
    fn send<S: Stream>(&mut self, stream: &mut S, bytes: &[u8], now: Tick) -> io::Result<()> {
        let mut sent = 0;
        while self.unsent.bytes.is_empty() && sent < bytes.len() {
            match stream.write(&bytes[sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.overdue = self.unsent.overdue.saturating_sub(sent);
        if sent > 0 {
            self.active = now;
        }
        self.unsent.bytes.extend_from_slice(&bytes[sent..]);
        if self.unsent.overdue == 0 {
            self.unsent.overdue = self.unsent.bytes.len();
            self.unsent.deadline = now.after(REPLY_TIMEOUT);
        }
        Ok(())
    }

    fn drain<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        reason: Reason,
        services: &Services,
    ) -> io::Result<TurnResult> {
        if services.clock.now() >= self.active.after(DRAIN_TIMEOUT) {
            return Ok(TurnResult::Closed(reason));
        }
        match stream.read(&mut scratch.input) {
            Ok(0) => Ok(TurnResult::Closed(reason)),
            Ok(_) => Ok(TurnResult::Again),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(TurnResult::Input),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(TurnResult::Again),
            Err(error) => Err(error),
        }
    }
}

trait MinByTick {
    fn min_by_tick(self, other: Self) -> Self;
}

impl MinByTick for (Tick, Reason) {
    fn min_by_tick(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}

#[cfg(test)]
mod tests;
