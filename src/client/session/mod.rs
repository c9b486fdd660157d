//! One client's side of the protocol: bounded lines in, replies out.
//!
//! A session does not know how its worker waits. It runs one *turn* at a time: it reads what the
//! client has sent, answers at most 16 whole lines, and writes the replies. Anything that a turn leaves
//! over (further lines, half a line, replies that the client does not take yet) stays with the
//! session, so a worker is free after every turn, and an idle session owns no buffer.
//!
//! Both kinds of pool run this code: the dedicated pool over a blocking socket, the shared pool
//! over one that returns "would block".

mod input;
mod lines;
mod output;
pub(crate) mod pending;
mod turn;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::client::refusals::Refusal;
use crate::client::services::Services;
use crate::logging::lines::{LineBatch, Peer};
use crate::model::time::{Tick, Timestamp};
use crate::replica::Outcome;
use input::Input;
use lines::{Next, next_line};
use output::Output;
use pending::{Pending, Released};
use turn::{Turn, log_sent};

/// Bytes read at once. A connection that has sent more goes to the back when others wait.
const READ_BYTES: usize = 16 << 10;

/// Requests answered in a row; past this a connection goes to the back when others wait.
const TURN_REQUESTS: usize = 16;

/// Time for which a closing connection reads and drops what the client still sends. A plain close
/// over unread input would reset the connection, and the client would lose its last reply.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The stream that a session reads from and writes to.
pub(crate) trait Stream: Read + Write {
    /// Closes the sending direction: nothing more will be written.
    fn shutdown_write(&mut self) -> io::Result<()>;
}

impl Stream for &TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Buffers of one worker, lent to the session whose turn it runs.
#[derive(Debug)]
pub(crate) struct Scratch {
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

/// Next step of a session after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnResult {
    /// Another turn once the client has sent something or has hung up.
    NeedsInput,
    /// Another turn once the socket takes more output, or as for `NeedsInput`.
    NeedsOutput,
    /// Another turn after those of the connections that wait: there is more to do.
    Again,
    /// No turn before [`Session::take_pending`] was started and [`Session::resume`] was called with
    /// its result.
    Blocked,
    /// Nothing: the connection can be dropped.
    Ended(EndReason),
}

/// Reason for the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The client closed, and has all its replies.
    Client,
    /// The connection broke.
    Broken,
    /// A line was longer than the limit.
    LineTooLong,
    /// A line was not finished in time.
    LineTimeout,
    /// A reply was not taken in time.
    ReplyTimeout,
    /// The client sent nothing for too long.
    Idle,
    /// The server is stopping.
    Stopping,
    /// A panic: a bug of the server.
    Panic,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndReason::Client => "closed by the client",
            EndReason::Broken => "connection broken",
            EndReason::LineTooLong => "line too long",
            EndReason::LineTimeout => "line not finished in time",
            EndReason::ReplyTimeout => "reply not taken in time",
            EndReason::Idle => "idle for too long",
            EndReason::Stopping => "server stopping",
            EndReason::Panic => "internal error (session panicked)",
        })
    }
}

/// Progress of a session toward its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Requests are answered.
    Open,
    /// No more requests are taken; replies may still have to be sent.
    Closing(EndReason),
    /// Everything is sent; what the client still sends is read and dropped.
    Draining(EndReason),
}

/// One client's side of the protocol.
#[derive(Debug)]
pub(crate) struct Session {
    client: SocketAddr,
    progress: Progress,
    input: Input,
    output: Output,
    /// The wait to be started before the next line is answered.
    pending: Option<Pending>,
    /// Time at which the client was last active, or at which the drain began.
    last_active: Tick,
}

impl Session {
    /// Creates a session with a client that has just connected.
    pub(crate) fn new(client: SocketAddr, now: Tick) -> Session {
        Session {
            client,
            progress: Progress::Open,
            input: Input::default(),
            output: Output::default(),
            pending: None,
            last_active: now,
        }
    }

    /// Returns the client's address.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }

    /// Notes that the end of the client's input was reported: reading on will find it.
    pub(crate) fn report_end(&mut self) {
        self.input.report_end();
    }

    /// Takes the wait to be started after [`TurnResult::Blocked`].
    pub(crate) fn take_pending(&mut self) -> Option<Pending> {
        self.pending.take()
    }

    /// Takes the replies that a wait has released; the next turn sends them.
    pub(crate) fn resume(&mut self, released: Released, now: Tick) {
        if released.unlogged {
            log_sent(self.client, &released.replies);
        }
        self.output.push(&released.replies, now);
        self.pending = released.next.map(Pending::Places);
        self.last_active = now;
    }

    fn close(&mut self, reason: EndReason) {
        if self.progress == Progress::Open {
            self.progress = Progress::Closing(reason);
        }
    }

    /// Returns the time by which the session must have a turn even if nothing happens on its socket.
    pub(crate) fn deadline(&self, services: &Services) -> Tick {
        self.earliest_deadline(services).0
    }

    fn overdue(&self, services: &Services) -> Option<EndReason> {
        let (deadline, reason) = self.earliest_deadline(services);
        (services.clock.now() >= deadline).then_some(reason)
    }

    fn earliest_deadline(&self, services: &Services) -> (Tick, EndReason) {
        if let Progress::Draining(reason) = self.progress {
            return (self.last_active.after(DRAIN_TIMEOUT), reason);
        }
        let idle = self.last_active.after(services.idle_timeout);
        let line = self.input.deadline().map(|at| (at, EndReason::LineTimeout));
        let reply = self.output.deadline();
        let reply = reply.map(|at| (at, EndReason::ReplyTimeout));
        let mut earliest = (idle, EndReason::Idle);
        for other in [line, reply].into_iter().flatten() {
            if other.0 < earliest.0 {
                earliest = other;
            }
        }
        earliest
    }

    /// Reads once, answers at most [`TURN_REQUESTS`] lines, and writes the replies.
    ///
    /// With [`TurnResult::NeedsInput`], everything that had arrived has been read, as an
    /// edge-triggered readiness queue requires.
    pub(crate) fn turn<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> TurnResult {
        match self.try_turn(stream, scratch, services) {
            Ok(result) => result,
            Err(_) => TurnResult::Ended(match self.progress {
                Progress::Open => EndReason::Broken,
                Progress::Closing(reason) | Progress::Draining(reason) => reason,
            }),
        }
    }

    fn try_turn<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> io::Result<TurnResult> {
        if let Progress::Draining(reason) = self.progress {
            return self.drain(stream, scratch, reason, services);
        }
        if !self.output.is_empty() {
            let now = services.clock.now();
            if self.output.flush(stream, now)? {
                self.last_active = now;
            }
        }
        if self.pending.is_some() {
            return Ok(TurnResult::Blocked);
        }
        if self.progress == Progress::Open && !self.output.is_full() {
            let more = self.serve(stream, scratch, services)?;
            if self.pending.is_some() {
                return Ok(TurnResult::Blocked);
            }
            if more && self.output.is_empty() {
                return Ok(TurnResult::Again);
            }
        }
        if let Some(reason) = self.overdue(services) {
            if reason == EndReason::ReplyTimeout {
                return Ok(TurnResult::Ended(reason));
            }
            self.close(reason);
        }
        match self.progress {
            _ if !self.output.is_empty() => Ok(TurnResult::NeedsOutput),
            Progress::Closing(reason) => {
                stream.shutdown_write()?;
                if self.input.has_ended() {
                    return Ok(TurnResult::Ended(reason));
                }
                self.progress = Progress::Draining(reason);
                self.last_active = services.clock.now();
                self.drain(stream, scratch, reason, services)
            }
            Progress::Open | Progress::Draining(_) => Ok(TurnResult::NeedsInput),
        }
    }

    /// Reads and answers. Returns whether there is more to do without waiting.
    fn serve<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> io::Result<bool> {
        let Scratch {
            input: buffer,
            output,
            outcomes,
        } = scratch;
        let (end, read) = self.input.fill(stream, buffer)?;
        match read {
            Some(0) => self.end_of_input(services),
            Some(_) => self.last_active = services.clock.now(),
            None => {}
        }
        if services.stopping.load(Ordering::Relaxed) {
            self.input.stop();
        }
        // A read may have blocked for long.
        let now = services.clock.now();
        let ended = self.input.has_ended();
        output.clear();
        let (mut start, mut answered) = (0, 0);
        let (places_call, sync_position) = {
            let received = Timestamp::now();
            let mut turn = Turn {
                client: self.client,
                places_call: None,
                sync_position: None,
                services,
                received,
                reports: ArrayVec::new(),
                lines: ArrayVec::new(),
                outcomes,
                output,
                log: LineBatch::begin(Peer::Client(self.client), received),
            };
            while answered < TURN_REQUESTS && turn.places_call.is_none() {
                match next_line(&buffer[start..end], ended) {
                    Next::Line { line, taken } => {
                        turn.execute(line);
                        start += taken;
                        answered += 1;
                    }
                    Next::TooLong(line) => {
                        turn.reject(line, Refusal::TooLong);
                        self.progress = Progress::Closing(EndReason::LineTooLong);
                        start = end;
                        break;
                    }
                    Next::Unfinished => break,
                }
            }
            turn.apply();
            (turn.places_call.take(), turn.sync_position)
        };
        self.input.store(&buffer[start..end], answered > 0, now);
        if start == end && ended {
            self.close(EndReason::Client);
        }
        if self.input.is_stopped() && !self.input.has_line() {
            self.close(EndReason::Stopping);
        }
        if let Some(position) = sync_position {
            let released = Released {
                replies: output.clone(),
                unlogged: false,
                next: places_call,
            };
            self.pending = Some(Pending::Sync(position, released));
        } else {
            self.pending = places_call.map(Pending::Places);
            if !output.is_empty() && self.output.send(stream, output, now)? {
                self.last_active = now;
            }
        }
        Ok(self.progress == Progress::Open && self.input.has_more())
    }

    /// Handles the end of input: the client has closed, unless this server has cut a blocked read
    /// short. What is left of the input is then half a line, not a last line without an ending.
    fn end_of_input(&mut self, services: &Services) {
        if let Some(reason) = self.overdue(services) {
            self.close(reason);
        } else if !services.stopping.load(Ordering::Relaxed) {
            self.input.end();
        }
    }

    fn drain<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        reason: EndReason,
        services: &Services,
    ) -> io::Result<TurnResult> {
        if services.clock.now() >= self.last_active.after(DRAIN_TIMEOUT) {
            return Ok(TurnResult::Ended(reason));
        }
        match stream.read(&mut scratch.input) {
            Ok(0) => Ok(TurnResult::Ended(reason)),
            Ok(_) => Ok(TurnResult::Again),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(TurnResult::NeedsInput),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(TurnResult::Again),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
