//! Hears the neighbor's side of a connection that records go out over.
//!
//! A thread of its own beside the sender's, which may be blocked in a write: what the neighbor holds
//! and has applied is heard all the same, and its silence is noticed.

use std::convert::Infallible;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use crossbeam_channel::Sender as Channel;
use log::debug;

use crate::link::framing::{Filled, Reader, is_timeout, reset_at_close, wait_until};
use crate::link::liveness::Liveness;
use crate::link::neighbor::Monitor;
use crate::model::decimal::parse_u64;
use crate::model::printable::Printable;
use crate::model::vector::Vector;

/// What a sender hears over one connection.
#[derive(Debug)]
pub(super) enum PeerMessage {
    /// The neighbor says what it holds.
    Vector(Vector),
    /// Nothing more will be heard; `InvalidData` if what came was not by the neighbor, or makes no
    /// sense.
    Lost(io::Error),
}

/// A connection for the reader thread.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) stream: TcpStream,
    pub(super) reader: Reader,
    /// To the sender of this connection, which knows by the channel's end that it is lost.
    pub(super) heard: Channel<PeerMessage>,
}

/// The reader thread's work with one connection: hears the neighbor until it falls silent, then
/// shuts the socket, which also frees a sender that is blocked in a write.
pub(super) fn read(mut reading: Reading, monitor: &Monitor) {
    monitor.count_anew();
    let Err(error) = hear(&mut reading, monitor);
    // Before the socket is shut, so that a sender whose write fails can tell why. Where the channel
    // is full, its end says that there is no more.
    let _ = reading.heard.try_send(PeerMessage::Lost(error));
    let _ = reading.stream.shutdown(Shutdown::Both);
}

/// Takes what the neighbor says until it says no more.
fn hear(reading: &mut Reading, monitor: &Monitor) -> io::Result<Infallible> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "it sent what makes no sense");
    let mut held = Vector::default();
    let mut silence = Liveness::begin(Instant::now());
    loop {
        while let Some(line) = reading.reader.take_line()? {
            if let Some(applied) = line.strip_prefix(b"PONG ") {
                debug!("heard {}", Printable(line));
                let applied = parse_u64(applied).ok_or_else(broken)?;
                if !monitor.acknowledge(applied) {
                    return Err(broken());
                }
            } else if line.starts_with(b"VECTOR") {
                if held.read_line("VECTOR", line).ok_or_else(broken)? {
                    // Where the channel is full, others wait that the sender has yet to answer.
                    let held = PeerMessage::Vector(std::mem::take(&mut held));
                    let _ = reading.heard.try_send(held);
                }
            } else if let Some(reason) = line.strip_prefix(b"BYE ") {
                return Err(io::Error::other(Printable(reason).to_string()));
            } else {
                return Err(broken());
            }
        }
        let filled = wait_until(&reading.stream, silence.deadline())
            .and_then(|()| reading.reader.fill(&reading.stream));
        match filled {
            // Only what has been decrypted is by the neighbor.
            Ok(Filled::Frames) => silence.heard(Instant::now()),
            Ok(Filled::Part) => silence.part(Instant::now()),
            Ok(Filled::End) => return Err(io::Error::other("closed by the neighbor")),
            Err(error) if is_timeout(&error) => {
                reset_at_close(&reading.stream);
                return Err(silence.reason(Instant::now()));
            }
            Err(error) => return Err(error),
        }
    }
}
