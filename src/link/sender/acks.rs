//! The neighbor's side of a connection that records go out over, without sockets or threads: its
//! version vector, and acknowledgements that also show that it is alive.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use log::debug;

use crate::link::framing::{Filled, unexpected_line};
use crate::link::liveness::Liveness;
use crate::link::neighbor::Neighbor;
use crate::model::decimal::parse_u64;
use crate::model::printable::Printable;
use crate::model::vector::Vector;

/// Message of a neighbor to the sender, over one connection.
#[derive(Debug)]
pub(in crate::link) enum PeerMessage {
    /// The neighbor's version vector.
    Vector(Vector),
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
}

impl Acks {
    /// Begins with a new connection, after the last line has been taken from the one before.
    pub(in crate::link) fn new(neighbor: Arc<Neighbor>, now: Instant) -> Acks {
        neighbor.acknowledge(0);
        Acks {
            neighbor,
            vector: Vector::default(),
            liveness: Liveness::new(now),
        }
    }

    /// Takes one line, without its LF. Returns the neighbor's vector with its last line.
    pub(in crate::link) fn take_line(&mut self, line: &[u8]) -> io::Result<Option<Vector>> {
        let unexpected = || unexpected_line(line);
        if let Some(applied) = line.strip_prefix(b"PONG ") {
            debug!(
                "received from neighbor {}: {}",
                self.neighbor.name(),
                Printable(line)
            );
            let applied = parse_u64(applied).ok_or_else(unexpected)?;
            if !self.neighbor.acknowledge(applied) {
                return Err(unexpected());
            }
        } else if line.starts_with(b"VECTOR") {
            let whole = self.vector.read_line("VECTOR", line);
            if whole.ok_or_else(unexpected)? {
                return Ok(Some(std::mem::take(&mut self.vector)));
            }
        } else if let Some(reason) = line.strip_prefix(b"BYE ") {
            return Err(io::Error::other(Printable(reason).to_string()));
        } else {
            return Err(unexpected());
        }
        Ok(None)
    }

    /// Notes the outcome of a read.
    pub(in crate::link) fn note(&mut self, filled: Filled, now: Instant) -> io::Result<()> {
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
