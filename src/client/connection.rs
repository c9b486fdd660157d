//! A client's connection: its socket, its session, and its permit.
//!
//! Runs the session's code on the socket, contains its panics, and logs why it ended. A panic ends
//! one connection and nothing else. The [`pool`](super::pool) decides when a turn runs.

use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};

use log::{debug, error};

use crate::client::limit::Permit;
use crate::client::services::Services;
use crate::client::session::pending::Released;
use crate::client::session::{EndReason, Scratch, Session, TurnResult};
use crate::logging::lines::{self, Peer};
use crate::model::time::Tick;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) session: Session,
    _permit: Permit,
}

impl Connection {
    /// Wraps the socket of a client that was just accepted and admitted.
    pub(crate) fn new(
        stream: TcpStream,
        client: SocketAddr,
        permit: Permit,
        now: Tick,
    ) -> Box<Connection> {
        debug!("client {client} connected");
        lines::note(Peer::Client(client), format_args!("connected"));
        Box::new(Connection {
            stream,
            session: Session::new(client, now),
            _permit: permit,
        })
    }

    /// Runs one turn of the session. A panic in it ends the connection.
    pub(super) fn turn(&mut self, scratch: &mut Scratch, services: &Services) -> TurnResult {
        let (stream, session) = (&self.stream, &mut self.session);
        let turn = || session.turn(&mut &*stream, scratch, services);
        let result =
            catch_unwind(AssertUnwindSafe(turn)).unwrap_or(TurnResult::Ended(EndReason::Panic));
        if let TurnResult::Ended(reason) = result {
            self.log_end(reason);
        }
        result
    }

    /// Returns to the session the replies that its wait has released. Returns `false` after a
    /// panic, which ends the connection.
    pub(super) fn resume(&mut self, released: Released, services: &Services) -> bool {
        let resume = || self.session.resume(released, services.clock.now());
        let resumed = catch_unwind(AssertUnwindSafe(resume)).is_ok();
        if !resumed {
            self.log_end(EndReason::Panic);
        }
        resumed
    }

    fn log_end(&self, reason: EndReason) {
        let client = self.session.client();
        match reason {
            // The panic itself has been logged with its location.
            EndReason::Panic => error!("client {client} gone: {reason}"),
            _ => debug!("client {client} gone: {reason}"),
        }
        lines::note(Peer::Client(client), format_args!("gone: {reason}"));
    }
}
