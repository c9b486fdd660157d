//! One client's side of the protocol: bounded lines in, replies out.
//!
//! A session does not know how its worker waits. It runs one *turn* at a time: it reads what the
//! client has sent, answers at most 16 whole lines, and writes the replies. Anything that a turn leaves
//! over (further lines, half a line, replies that the client does not take yet) stays with the
//! session, so a worker is free after every turn, and an idle session owns no buffer.
//!
//! Both kinds of pool run this code: the dedicated pool over a blocking socket, the shared pool
//! over one that returns "would block".

pub(crate) mod end;
mod errors;
mod first_line;
mod input;
mod lines;
pub(crate) mod output;
pub(crate) mod pending;
pub(crate) mod pushes;
mod second;
mod sent_lines;
mod turn;

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::client::counts::{ClientCounts, WorkerCounts};
use crate::client::refused_lines::Refusal;
use crate::client::services::Services;
use crate::logging::lines::{LineBatch, Peer};
use crate::model::time::{Tick, Timestamp};
use crate::replica::Outcome;
use end::EndReason;
use first_line::{Dialect, is_hello, is_http, is_tls};
use input::Input;
use lines::{Next, next_line};
use output::Output;
use pending::{Pending, Released};
use pushes::{SessionWaker, Watching};
use sent_lines::log_sent;
use turn::{Turn, turn_nanos};

/// Bytes read at once. A connection that has sent more goes to the back when others wait.
const READ_BYTES: usize = 16 << 10;

/// Memory for replies that a worker keeps from one turn to the next.
const SCRATCH_BYTES: usize = 128 << 10;

/// Requests answered in a row; past this a connection goes to the back when others wait.
const TURN_REQUESTS: usize = 16;

/// Time for which a closing connection reads and drops what the client still sends. A plain close
/// over unread input would reset the connection, and the client would lose its last reply.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The same for a client that has not taken its replies in time and sends nothing.
const UNREAD_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Time for which the system keeps trying to send what such a client has not taken, counted from when
/// it last took something.
const UNSENT_LIMIT: Duration = Duration::from_secs(5);

/// Time for which a client may wait for the server at least, however short the idle time-out is.
const MIN_WAIT: Duration = Duration::from_secs(10);

/// The stream that a session reads from and writes to.
pub(crate) trait Stream: Read + Write {
    /// Closes the sending direction: nothing more will be written.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Reads what has arrived, without waiting.
    fn read_available(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Bounds the time for which the system keeps bytes that were written and that the client does
    /// not take, also after the connection is closed.
    fn limit_unsent(&mut self, time: Duration) -> io::Result<()>;

    /// Has the system find out whether the client is still there, after each such time of silence.
    fn keep_alive(&mut self, time: Duration) -> io::Result<()>;
}

/// Buffers and counts of one worker, lent to the session whose turn it runs.
#[derive(Debug)]
pub(crate) struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
    outcomes: Vec<Outcome>,
    counts: Arc<WorkerCounts>,
    /// The way to wake the session of the turn; the pool sets its key.
    pub(crate) waker: SessionWaker,
}

impl Scratch {
    /// Creates the buffers and the counts of another worker, of a pool whose sessions are woken by
    /// `waker`.
    pub(crate) fn new(counts: &ClientCounts, waker: SessionWaker) -> Scratch {
        Scratch {
            waker,
            counts: counts.add_worker(),
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
    /// [`Session::take_pending`] is to be started, if it is `Some`. Another turn once
    /// [`Session::resume`] was called with its result, and at the deadline.
    Blocked,
    /// Nothing: the connection can be dropped.
    Ended(EndReason),
}

/// Progress of a session toward its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Requests are answered.
    Open,
    /// No more requests are taken; replies may still have to be sent.
    Closing(EndReason),
    /// Everything is sent; what the client still sends is read and dropped, until that time at most.
    Draining(EndReason, Tick),
}

/// One client's side of the protocol.
#[derive(Debug)]
pub(crate) struct Session {
    client: SocketAddr,
    progress: Progress,
    input: Input,
    output: Output,
    wait: Wait,
    watching: Watching,
    dialect: Dialect,
    /// Time at which the client was last active, or at which the drain began.
    last_active: Tick,
}

/// The wait that must be over before the next line is answered.
#[derive(Debug)]
enum Wait {
    /// Nothing.
    Nothing,
    /// This, once it is started.
    Due(Pending),
    /// A wait that was started.
    Started,
    /// Nothing more: the stored lines, received at that time, had to wait and can be executed.
    Over(Timestamp),
}

impl Session {
    /// Creates a session with a client that has just connected.
    pub(crate) fn new(client: SocketAddr, now: Tick) -> Session {
        Session {
            client,
            progress: Progress::Open,
            input: Input::default(),
            output: Output::default(),
            wait: Wait::Nothing,
            watching: Watching::default(),
            dialect: Dialect::Undecided,
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

    /// Notes that urgent data was reported: reading on will pass it over.
    pub(crate) fn report_urgent(&mut self) {
        self.input.report_urgent();
    }

    /// Returns the number of bytes that the client has not taken, without those that the system
    /// holds.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.output.len()
    }

    /// Takes the wait to be started after [`TurnResult::Blocked`]; `None` if it was started before.
    pub(crate) fn take_pending(&mut self) -> Option<Pending> {
        if !matches!(self.wait, Wait::Due(_)) {
            return None;
        }
        match std::mem::replace(&mut self.wait, Wait::Started) {
            Wait::Due(pending) => Some(pending),
            _ => None,
        }
    }

    /// Takes the replies that a wait has released; the next turn sends them. Does nothing once the
    /// session has given up the wait.
    pub(crate) fn resume(&mut self, released: Released, now: Tick) {
        if !matches!(self.wait, Wait::Started) {
            return;
        }
        if released.unlogged {
            log_sent(self.client, &released.replies);
        }
        self.output.push(&released.replies, now);
        self.wait = match (released.next, released.received) {
            (Some(call), _) => Wait::Due(Pending::Places(call)),
            (None, Some(received)) => Wait::Over(received),
            (None, None) => Wait::Nothing,
        };
        self.last_active = now;
    }

    fn close(&mut self, reason: EndReason) {
        if self.progress == Progress::Open {
            self.progress = Progress::Closing(reason);
            self.watching = Watching::default();
        }
    }

    /// Returns the time by which the session must have a turn even if nothing happens on its socket.
    pub(crate) fn deadline(&self, services: &Services) -> Tick {
        self.earliest_deadline(services).0
    }

    /// Returns the reason for which the session has to end. If several deadlines have passed, that for
    /// replies comes first: the client is to be sent no more of them.
    fn overdue(&self, services: &Services) -> Option<EndReason> {
        let now = services.clock.now();
        let is_draining = matches!(self.progress, Progress::Draining(..));
        if !is_draining && self.output.deadline().is_some_and(|at| now >= at) {
            return Some(EndReason::ReplyTimeout);
        }
        let (deadline, reason) = self.earliest_deadline(services);
        (now >= deadline).then_some(reason)
    }

    /// Every deadline of an open session holds whatever else it waits for. A closing one has only
    /// replies to send, and whatever it was closed for must not hide that they are overdue.
    fn earliest_deadline(&self, services: &Services) -> (Tick, EndReason) {
        if let Progress::Draining(reason, until) = self.progress {
            let silent = self.last_active.after(silence_timeout(reason));
            return (until.min(silent), reason);
        }
        let is_waiting = self.is_waiting();
        let is_open = self.progress == Progress::Open;
        let mut earliest = match is_waiting {
            true => self.last_active.after(services.idle_timeout.max(MIN_WAIT)),
            false if self.watching.is_active() => Tick(u64::MAX),
            false if is_open => self.last_active.after(services.idle_timeout),
            false => Tick(u64::MAX),
        };
        let mut reason = EndReason::Idle;
        if is_open && let Some(line) = self.input.deadline().filter(|at| *at < earliest) {
            (earliest, reason) = (line, EndReason::LineTimeout);
        }
        if let Some(reply) = self.output.deadline().filter(|at| *at <= earliest) {
            (earliest, reason) = (reply, EndReason::ReplyTimeout);
        }
        (earliest, reason)
    }

    fn is_waiting(&self) -> bool {
        matches!(self.wait, Wait::Due(_) | Wait::Started)
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
                Progress::Closing(reason) | Progress::Draining(reason, _) => reason,
            }),
        }
    }

    fn try_turn<S: Stream>(
        &mut self,
        stream: &mut S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> io::Result<TurnResult> {
        if let Progress::Draining(reason, _) = self.progress {
            return self.drain(stream, scratch, reason, services);
        }
        if self.output.flush(stream)? {
            self.last_active = services.clock.now();
        }
        let reads = !self.is_waiting() && !self.output.is_full();
        if reads && self.progress == Progress::Open {
            let more = self.serve(stream, scratch, services)?;
            let more = self.deliver(stream, scratch, services)? || more;
            if more && !self.is_waiting() && self.output.is_empty() {
                return Ok(TurnResult::Again);
            }
        }
        if let Some(mut reason) = self.overdue(services) {
            if reason == EndReason::LineTimeout && !reads {
                let now = services.clock.now();
                self.input.read_on(stream, &mut scratch.input, now)?;
                reason = match self.overdue(services) {
                    Some(reason) => reason,
                    None => return Ok(self.result()),
                };
            }
            if reason == EndReason::ReplyTimeout || self.is_waiting() {
                return self.abandon(stream, reason, services);
            }
            self.close(reason);
        }
        match self.progress {
            Progress::Closing(reason) if self.result() == TurnResult::NeedsInput => {
                let result = self.begin_drain(stream, reason, services)?;
                if self.input.has_ended() {
                    return Ok(TurnResult::Ended(reason));
                }
                Ok(result)
            }
            _ => Ok(self.result()),
        }
    }

    /// Returns what the session waits for.
    fn result(&self) -> TurnResult {
        if self.is_waiting() {
            TurnResult::Blocked
        } else if self.output.is_empty() {
            TurnResult::NeedsInput
        } else {
            TurnResult::NeedsOutput
        }
    }

    /// Ends the session although the client has not taken its replies, or waits for some.
    pub(crate) fn abandon<S: Stream>(
        &mut self,
        stream: &mut S,
        reason: EndReason,
        services: &Services,
    ) -> io::Result<TurnResult> {
        self.output.clear();
        self.wait = Wait::Nothing;
        self.begin_drain(stream, reason, services)
    }

    /// Stops sending. The draining begins with the next turn: a stream that blocks does so up to the
    /// deadline that the session had when its turn began.
    fn begin_drain<S: Stream>(
        &mut self,
        stream: &mut S,
        reason: EndReason,
        services: &Services,
    ) -> io::Result<TurnResult> {
        let now = services.clock.now();
        self.progress = Progress::Draining(reason, now.after(DRAIN_TIMEOUT));
        self.watching = Watching::default();
        self.last_active = now;
        stream.shutdown_write()?;
        Ok(TurnResult::Again)
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
            counts,
            waker,
        } = scratch;
        let counts: &WorkerCounts = counts;
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
        let is_new = self.dialect == Dialect::Undecided;
        if is_new && is_tls(&buffer[..end]) {
            self.close(EndReason::Tls);
            return Ok(false);
        }
        let ended = self.input.has_ended();
        output.clear();
        // A long list is rare, and no worker keeps the memory of one.
        output.shrink_to(SCRATCH_BYTES);
        let (mut start, mut answered) = (0, 0);
        // Beginning of the reports that are not applied yet.
        let mut unapplied = 0;
        let began = Timestamp::now();
        let (places_call, sync_position, stalled) = {
            let received = match std::mem::replace(&mut self.wait, Wait::Nothing) {
                Wait::Over(received) => received,
                _ => began,
            };
            let mut turn = Turn {
                client: self.client,
                is_second: self.dialect == Dialect::Second,
                began,
                is_used_up: false,
                watching: &mut self.watching,
                waker,
                places_call: None,
                sync_position: None,
                services,
                counts,
                received,
                stalled: false,
                reports: ArrayVec::new(),
                lines: ArrayVec::new(),
                outcomes,
                output,
                log: LineBatch::begin(Peer::Client(self.client), received),
            };
            while answered < TURN_REQUESTS && turn.places_call.is_none() && !turn.is_used_up {
                let is_new = self.dialect == Dialect::Undecided;
                if !turn.has_reports() {
                    unapplied = start;
                }
                let (closes, taken) = match next_line(&buffer[start..end], ended) {
                    Next::Line { line, taken } if is_new && is_http(line) => {
                        turn.reject(line, Refusal::Http);
                        (Some(EndReason::Http), taken)
                    }
                    Next::Line { line, taken } if is_new && is_hello(line) => {
                        turn.greet(line);
                        self.dialect = Dialect::Second;
                        (None, taken)
                    }
                    Next::Line { line, taken } => {
                        turn.execute(line);
                        (None, taken)
                    }
                    Next::TooLong(line) => {
                        turn.reject(line, Refusal::TooLong);
                        (Some(EndReason::LineTooLong), end - start)
                    }
                    Next::Unfinished => break,
                };
                if turn.stalled {
                    // Reports before the line are answered, if it is the line that could not be
                    // carried out.
                    if !turn.has_reports() {
                        unapplied = start;
                    }
                    break;
                }
                if self.dialect == Dialect::Undecided {
                    self.dialect = Dialect::First;
                }
                start += taken;
                answered += 1;
                if let Some(reason) = closes {
                    self.progress = Progress::Closing(reason);
                    start = end;
                    break;
                }
            }
            turn.apply();
            if turn.stalled {
                start = unapplied;
            }
            let stalled = turn.stalled.then_some(turn.received);
            (turn.places_call.take(), turn.sync_position, stalled)
        };
        self.input.store(&buffer[start..end], answered > 0, now);
        if start == end && ended {
            self.close(EndReason::Client);
        }
        if self.input.is_stopped() && !self.input.has_line() {
            self.close(EndReason::Stopping);
        }
        if let Some(position) = sync_position {
            let released = Box::new(Released {
                replies: output.clone(),
                unlogged: false,
                next: places_call,
                received: stalled,
            });
            self.wait = Wait::Due(Pending::Sync(position, released));
        } else {
            let pending = stalled.map(Pending::Stall);
            let pending = pending.or(places_call.map(Pending::Places));
            self.wait = pending.map_or(Wait::Nothing, Wait::Due);
            if !output.is_empty() && self.output.send(stream, output, now)? {
                self.last_active = now;
            }
        }
        if answered > 0 {
            let by_deadlines = services.clock.now().since(now);
            counts.turns.observe(turn_nanos(began, by_deadlines));
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
        if self.overdue(services).is_some() {
            // Earlier it would end at once the connection of a client that begins to read only now.
            if reason.leaves_replies() {
                stream.limit_unsent(UNSENT_LIMIT)?;
            }
            return Ok(TurnResult::Ended(reason));
        }
        match stream.read(&mut scratch.input) {
            Ok(0) => Ok(TurnResult::Ended(reason)),
            Ok(_) => {
                self.last_active = services.clock.now();
                Ok(TurnResult::Again)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(TurnResult::NeedsInput),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(TurnResult::Again),
            Err(error) => Err(error),
        }
    }
}

/// Returns the time without input after which a session that ends for that reason is closed.
fn silence_timeout(reason: EndReason) -> Duration {
    match reason.leaves_replies() {
        true => UNREAD_DRAIN_TIMEOUT,
        false => DRAIN_TIMEOUT,
    }
}

#[cfg(test)]
mod tests;
