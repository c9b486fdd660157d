//! The receiving side of one connection of a neighbor, without sockets or threads.
//!
//! The neighbor is sent this server's version vector at first and whenever it asks, and a `PONG`
//! every second. Its records are applied in batches, as they arrive.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use log::{Level, debug, info, log_enabled};

use crate::link::audit::{PeerDigest, PeerDigests};
use crate::link::framing::{Filled, Transport, unexpected_line};
use crate::link::liveness::{Liveness, PONG_INTERVAL};
use crate::link::neighbor::Neighbor;
use crate::link::sender::orders::CloseReason;
use crate::model::digest::DigestReader;
use crate::model::printable::Printable;
use crate::model::record::RecordView;
use crate::model::vector::Vector;
use crate::replica::Replica;

/// End of a connection.
#[derive(Debug)]
pub(in crate::link) enum End {
    /// Closed by either side, with the reason.
    Closed(String),
    /// Given up since the neighbor is silent: to be ended with a reset.
    Silent(io::Error),
    /// Broken, or given up for the data that came over it.
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Failed(error)
    }
}

impl End {
    /// Returns the reason in words.
    pub(in crate::link) fn reason(&self) -> String {
        match self {
            End::Closed(reason) => reason.clone(),
            End::Silent(error) | End::Failed(error) => error.to_string(),
        }
    }
}

/// A connection of a neighbor to this server.
#[derive(Debug)]
pub(in crate::link) struct Connection {
    neighbor: Arc<Neighbor>,
    replica: Arc<Replica>,
    peer_digests: PeerDigests,
    /// The lines of a marker that have come so far.
    marker: Vector,
    /// The lines of a digest that have come so far.
    digest: DigestReader,
    /// Records received over this connection.
    records: u64,
    liveness: Liveness,
    pong_due: Instant,
}

/// Returns the lines of a block, each of which ends with an LF.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', block).map(move |end| {
        let line = &block[start..end];
        start = end + 1;
        line
    })
}

impl Connection {
    /// Begins after the handshake: sends the neighbor this server's vector.
    pub(in crate::link) fn start(
        neighbor: Arc<Neighbor>,
        replica: Arc<Replica>,
        peer_digests: PeerDigests,
        to: &mut impl Transport,
    ) -> Result<Connection, End> {
        let now = to.now();
        let connection = Connection {
            neighbor,
            replica,
            peer_digests,
            marker: Vector::default(),
            digest: DigestReader::default(),
            records: 0,
            liveness: Liveness::new(now),
            pong_due: now,
        };
        connection.send_vector(to)?;
        Ok(connection)
    }

    /// Does what is due: to be called before each block of lines, and several times a second.
    pub(in crate::link) fn tick(&mut self, to: &mut impl Transport) -> Result<(), End> {
        if self.neighbor.is_dismissed() {
            to.write(format!("BYE {}\n", CloseReason::Dismissed).as_bytes())?;
            return Err(End::Closed("no longer a neighbor".to_owned()));
        }
        let now = to.now();
        if now >= self.pong_due {
            to.write(format!("PONG {}\n", self.records).as_bytes())?;
            self.pong_due = now + PONG_INTERVAL;
        }
        if now >= self.liveness.deadline() {
            return Err(End::Silent(self.liveness.reason(now)));
        }
        Ok(())
    }

    /// Notes the outcome of a read.
    pub(in crate::link) fn note(&mut self, filled: Filled, now: Instant) -> Result<(), End> {
        self.liveness.note(filled, now);
        match filled {
            // The owner ends the reading side, so that the neighbor is sent the reason now.
            Filled::End if self.neighbor.is_dismissed() => Ok(()),
            Filled::End => Err(End::Closed("closed by the neighbor".to_owned())),
            Filled::Frames | Filled::Part => Ok(()),
        }
    }

    /// Applies one block of lines, of which records in a row are one batch.
    pub(in crate::link) fn apply(
        &mut self,
        block: &[u8],
        to: &mut impl Transport,
    ) -> Result<(), End> {
        // Room for the usual number: growing would copy them again and again.
        let mut records: Vec<RecordView<'_>> = Vec::with_capacity(1 + block.len() / 96);
        for line in lines(block) {
            let unexpected = || unexpected_line(line);
            if line.starts_with(b"RECORD") {
                if log_enabled!(Level::Info) {
                    let name = self.neighbor.name();
                    info!("received from neighbor {name}: {}", Printable(line));
                }
                records.push(RecordView::parse_line(line).ok_or_else(unexpected)?);
                continue;
            }
            self.adopt(&mut records);
            if line.starts_with(b"MARKER") {
                let whole = self.marker.read_line("MARKER", line);
                if whole.ok_or_else(unexpected)? {
                    self.replica.advance(&std::mem::take(&mut self.marker));
                }
            } else if line.starts_with(b"DIGEST") {
                let whole = self.digest.read_line(line);
                if let Some(digest) = whole.map_err(|_| unexpected())? {
                    let neighbor = Arc::clone(&self.neighbor);
                    self.peer_digests.offer(PeerDigest { neighbor, digest });
                }
            } else if line == b"RESYNC" {
                self.send_vector(to)?;
            } else if let Some(reason) = line.strip_prefix(b"BYE ") {
                return Err(End::Closed(Printable(reason).to_string()));
            } else {
                return Err(unexpected().into());
            }
        }
        self.adopt(&mut records);
        Ok(())
    }

    fn send_vector(&self, to: &mut impl Transport) -> io::Result<()> {
        let mut vector = Vec::new();
        self.replica.vector().write_lines("VECTOR", &mut vector);
        to.write(&vector)
    }

    fn adopt(&mut self, records: &mut Vec<RecordView<'_>>) {
        if !records.is_empty() {
            self.records += records.len() as u64;
            let adopted = self.replica.adopt(records, self.neighbor.link());
            debug!(
                "{adopted} of {} records from {} were new",
                records.len(),
                self.neighbor.name()
            );
            records.clear();
        }
    }
}
