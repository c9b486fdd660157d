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

use super::SILENCE_LIMIT;
use super::monitor::Monitor;
use super::wire::{Filled, Reader, is_timeout, wait_until};
use crate::decimal::parse_u64;
use crate::printable::Printable;
use crate::vector::Vector;

/// What a sender is told from outside its queue.
#[derive(Debug)]
pub(super) enum Control {
    /// The neighbor has just connected to us: it is worth dialing at once.
    Wake,
    /// The neighbor says what it holds.
    Vector { connection: u64, held: Vector },
    /// The neighbor lacks records of these buckets that its vector covers.
    Repair(Box<[usize]>),
    /// Nothing more will be heard over that connection.
    Lost { connection: u64, reason: String },
}

/// A connection for the reader thread.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) connection: u64,
    pub(super) stream: TcpStream,
    pub(super) reader: Reader,
}

/// The reader thread's work with one connection: hears the neighbor until it falls silent, then
/// shuts the socket, which also frees a sender that is blocked in a write.
pub(super) fn read(mut reading: Reading, monitor: &Monitor, control: &Channel<Control>) {
    let connection = reading.connection;
    monitor.count_anew();
    let Err(error) = hear(&mut reading, monitor, control);
    let reason = if is_timeout(&error) {
        format!("not heard of for {} s", SILENCE_LIMIT.as_secs())
    } else {
        error.to_string()
    };
    let _ = reading.stream.shutdown(Shutdown::Both);
    // The sender may be busy with a full control queue, and will find the socket shut.
    let _ = control.try_send(Control::Lost { connection, reason });
}

/// Takes what the neighbor says until it says no more.
fn hear(
    reading: &mut Reading,
    monitor: &Monitor,
    control: &Channel<Control>,
) -> io::Result<Infallible> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "it sent what makes no sense");
    let mut held = Vector::default();
    let mut heard = Instant::now();
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
                    let held = std::mem::take(&mut held);
                    let connection = reading.connection;
                    let _ = control.try_send(Control::Vector { connection, held });
                }
            } else if let Some(reason) = line.strip_prefix(b"BYE ") {
                return Err(io::Error::other(Printable(reason).to_string()));
            } else {
                return Err(broken());
            }
        }
        wait_until(&reading.stream, heard + SILENCE_LIMIT)?;
        match reading.reader.fill(&reading.stream)? {
            // Only what has been decrypted is by the neighbor.
            Filled::Frames => heard = Instant::now(),
            Filled::Part => {}
            Filled::End => return Err(io::Error::other("closed by the neighbor")),
        }
    }
}
