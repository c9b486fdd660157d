//! The neighbor's side of a connection that records go out over, without sockets or threads: its
//! version vector, and acknowledgements that also show that it is alive.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use log::{debug, warn};

use crate::link::framing::{Filled, unexpected_line};
use crate::link::handshake::{self, HandshakeError};
use crate::link::liveness::Liveness;
use crate::link::neighbor::{Neighbor, TwinEvidence};
use crate::model::decimal::parse_u64;
use crate::model::printable::Printable;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;

/// Beginning of the report that two servers have one name.
pub(in crate::link) const TWINS: &str = "two servers call themselves";

/// Message of a neighbor to the sender, over one connection.
#[derive(Debug)]
pub(in crate::link) enum PeerMessage {
    /// The neighbor's version vector.
    Vector(Vector),
    /// The neighbor must be sent this reason, and the connection closed.
    Refuse(HandshakeError),
    /// The connection has ended; `InvalidData` if something came over it that no neighbor sends.
    Lost(io::Error),
}

/// The reading side of one connection.
#[derive(Debug)]
pub(in crate::link) struct Acks {
    neighbor: Arc<Neighbor>,
    /// The lines of a vector that have come so far.
    vector: Vector,
    liveness: Liveness,
    /// The neighbor is refused: the connection only waits for its end.
    is_refused: bool,
    /// This process did not run for a while, so what it reads now is old: no clock is judged by it.
    is_late: bool,
}

/// Message in a line, if the sender is to be given one.
type Taken = Option<PeerMessage>;

impl Acks {
    /// Begins with a new connection, after the last line has been taken from the one before.
    pub(in crate::link) fn new(neighbor: Arc<Neighbor>, now: Instant) -> Acks {
        neighbor.acknowledge(0);
        Acks {
            neighbor,
            vector: Vector::default(),
            liveness: Liveness::new(now),
            is_refused: false,
            is_late: false,
        }
    }

    /// Takes one line, without its LF, at the time `now` and `clock`.
    pub(in crate::link) fn take_line(
        &mut self,
        line: &[u8],
        now: Instant,
        clock: Timestamp,
    ) -> io::Result<Taken> {
        let unexpected = || unexpected_line(line);
        if let Some(pong) = line.strip_prefix(b"PONG ") {
            debug!("neighbor {}: {}", self.neighbor.name(), Printable(line));
            let mut numbers = pong.split(|&byte| byte == b' ').map(parse_u64);
            let mut number = || numbers.next().map(|number| number.ok_or_else(unexpected));
            let applied = number().ok_or_else(unexpected)??;
            let peer_clock = number().transpose()?.map(Timestamp::from_nanos);
            if number().is_some() || !self.neighbor.acknowledge(applied) {
                return Err(unexpected());
            }
            let skew = peer_clock.and_then(|peer_clock| handshake::skew(peer_clock, clock));
            if peer_clock.is_some() && skew.is_none() && !self.is_late {
                self.neighbor.clock_agrees(now, clock);
            }
            if let Some(skew) = skew
                && !self.is_refused
                && !self.is_late
            {
                self.is_refused = true;
                return Ok(Some(PeerMessage::Refuse(HandshakeError::Skew(skew))));
            }
        } else if let Some(text) = line.strip_prefix(b"TWIN ") {
            self.report_twin(text, now);
        } else if line.starts_with(b"VECTOR") {
            let whole = self.vector.read_line("VECTOR", line);
            if whole.ok_or_else(unexpected)? {
                let vector = std::mem::take(&mut self.vector);
                return Ok(Some(PeerMessage::Vector(vector)));
            }
        } else if let Some(reason) = line.strip_prefix(b"BYE ") {
            if reason.starts_with(TWINS.as_bytes()) {
                self.report_twin(reason, now);
            }
            return Err(io::Error::other(Printable(reason).to_string()));
        } else {
            return Err(unexpected());
        }
        Ok(None)
    }

    fn report_twin(&self, text: &[u8], now: Instant) {
        let text = Printable(text).to_string();
        if self.neighbor.report_twin(now, TwinEvidence::Refused, &text) {
            warn!("neighbor {} reports: {text}", self.neighbor.name());
        }
    }

    /// Notes the outcome of a read.
    pub(in crate::link) fn note(&mut self, filled: Filled, now: Instant) -> io::Result<()> {
        self.is_late = now >= self.liveness.deadline();
        self.liveness.note(filled, now);
        match filled {
            Filled::End => Err(io::Error::other("closed by the neighbor")),
            Filled::Frames | Filled::Part => Ok(()),
        }
    }

    /// Returns when the neighbor is given up.
    pub(in crate::link) fn deadline(&self) -> Instant {
        self.liveness.deadline()
    }

    /// Returns the reason for giving the neighbor up at `now`.
    pub(in crate::link) fn silence(&self, now: Instant) -> io::Error {
        self.liveness.reason(now)
    }
}
