//! A client's connection: its socket, its session, and its permit.
//!
//! Runs the session's code on the socket, contains its panics, and logs why it ended. A panic ends
//! one connection and nothing else. The [`pool`](super::pool) decides when a turn runs.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use log::{Level, debug, error, log_enabled};

use crate::client::limit::Permit;
use crate::client::services::Services;
use crate::client::session::end::EndReason;
use crate::client::session::pending::Released;
use crate::client::session::{Scratch, Session, Stream, TurnResult};
use crate::logging::lines::{self, Peer};
use crate::logging::strangers;
use crate::model::time::{Tick, Timestamp};

/// Bytes of replies that the kernel holds for a client that does not read, before its session
/// carries the rest and it gets no more turns. The kernel doubles it for its own bookkeeping.
pub(crate) const SEND_BUFFER_BYTES: usize = 64 << 10;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) session: Session,
    _permit: Permit,
    /// Its begin was logged, so its end is too.
    is_logged: bool,
}

impl Connection {
    /// Wraps the socket of a client that was just accepted and admitted.
    pub(crate) fn new(
        stream: TcpStream,
        client: SocketAddr,
        permit: Permit,
        now: Tick,
    ) -> Box<Connection> {
        let is_wanted = lines::is_on() || log_enabled!(Level::Debug);
        let is_logged = is_wanted && strangers::admit_connection(Timestamp::now());
        if is_logged {
            debug!("client {client} connected");
            lines::note(Peer::Client(client), format_args!("connected"));
        }
        Box::new(Connection {
            stream,
            session: Session::new(client, now),
            _permit: permit,
            is_logged,
        })
    }

    /// Runs one turn of the session, over a socket that does not block. A panic in it ends the
    /// connection.
    #[cfg(target_os = "linux")]
    pub(super) fn turn(&mut self, scratch: &mut Scratch, services: &Services) -> TurnResult {
        self.turn_over(|stream| stream, scratch, services)
    }

    /// Runs one turn of the session over the stream that `wrap` makes of the socket. A panic in it
    /// ends the connection.
    pub(super) fn turn_over<'a, S: Stream>(
        &'a mut self,
        wrap: impl FnOnce(&'a TcpStream) -> S,
        scratch: &mut Scratch,
        services: &Services,
    ) -> TurnResult {
        let (client, is_logged) = (self.session.client(), self.is_logged);
        let session = &mut self.session;
        let mut stream = wrap(&self.stream);
        let turn = || session.turn(&mut stream, scratch, services);
        let result =
            catch_unwind(AssertUnwindSafe(turn)).unwrap_or(TurnResult::Ended(EndReason::Panic));
        if let TurnResult::Ended(reason) = result {
            note_end(client, reason, is_logged, services);
        }
        result
    }

    /// Ends the session although the client has not taken its replies, to make room for others.
    #[cfg(target_os = "linux")]
    pub(super) fn abandon(&mut self, services: &Services) -> TurnResult {
        let reason = EndReason::UnsentReplies;
        let ended = TurnResult::Ended(reason);
        let stream = &mut &self.stream;
        let result = self.session.abandon(stream, reason, services);
        let result = result.unwrap_or(ended);
        if result == ended {
            self.note_end(reason, services);
        }
        result
    }

    /// Returns to the session the replies that its wait has released. Returns `false` after a
    /// panic, which ends the connection.
    pub(super) fn resume(&mut self, released: Released, services: &Services) -> bool {
        let resume = || self.session.resume(released, services.clock.now());
        let resumed = catch_unwind(AssertUnwindSafe(resume)).is_ok();
        if !resumed {
            self.note_end(EndReason::Panic, services);
        }
        resumed
    }

    /// Logs and counts the end of the connection.
    pub(super) fn note_end(&self, reason: EndReason, services: &Services) {
        note_end(self.session.client(), reason, self.is_logged, services);
    }
}

fn note_end(client: SocketAddr, reason: EndReason, is_logged: bool, services: &Services) {
    services.counts.ends.count(reason);
    if reason == EndReason::Panic {
        // The panic itself has been logged with its location.
        error!("client {client} gone: {reason}");
    } else if is_logged {
        debug!("client {client} gone: {reason}");
    }
    if is_logged {
        lines::note(Peer::Client(client), format_args!("gone: {reason}"));
    }
}

/// A socket that does not block.
#[cfg(target_os = "linux")]
impl Stream for &TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn read_available(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    fn limit_unsent(&mut self, time: Duration) -> io::Result<()> {
        limit_unsent(self, time)
    }

    fn keep_alive(&mut self, time: Duration) -> io::Result<()> {
        keep_alive(self, time)
    }
}

/// Makes the system ask a client that is silent whether it is still there, after each such time.
pub(super) fn keep_alive(stream: &TcpStream, time: Duration) -> io::Result<()> {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(time)
        .with_interval(time / 4);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Makes the system drop the connection if the client takes nothing of what it is sent for `time`,
/// where the system can do that.
pub(super) fn limit_unsent(stream: &TcpStream, time: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(time))?;
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, time);
    Ok(())
}
