//! Clients that behave badly beside the load: they drip, or they never read.
//!
//! Half of those that drip finish a line of eight bytes every eight seconds, and its reply is
//! checked. The others never finish one: the server must close them once the line has taken ten
//! seconds, not earlier and without a word, and they come back at once. Those that never read
//! send whatever the server takes, a little at a time so that the load has its turns. Their replies can't be checked,
//! and they connect again when the server closes them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::net::sockopt;

use crate::net;

/// Added to a member's number in the events of its socket.
pub(crate) const FIRST: u64 = 1 << 32;

/// Between two bytes of one member.
const DRIP_NANOS: u64 = 1_000_000_000;

/// Shortest time after which the server may close on an unfinished line; its limit is ten seconds, and its
/// clock and this one are read at different moments.
const MIN_PATIENCE_NANOS: u64 = 9_500_000_000;

/// Line of those that finish their lines, sent a byte at a time.
const LINE: &[u8; 8] = b"dripdro\n";

/// Reply that they must get.
const REPLY: &[u8] = b"? dripdro\n";

/// Bytes of a line of those that never read: long, so that the buffers between are full after few
/// requests, and those requests are not the load that is measured.
const NOISE_LINE_BYTES: usize = 1_000;

/// Lines of one of their writes.
const NOISE_LINES: usize = 4;

/// Buffers of theirs, each way: small, so that the server soon meets a full one.
const DEAF_BUFFER_BYTES: usize = 4 << 10;

/// Drips that are sent before the load has its turn again.
const BATCH: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Finishing,
    Endless,
    Deaf,
}

#[derive(Debug)]
struct Member {
    stream: TcpStream,
    kind: Kind,
    /// Bytes of its line, and when the first of them left.
    sent: usize,
    began: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct BackgroundClients {
    addresses: Vec<SocketAddr>,
    members: Vec<Member>,
    drippers: u64,
    dripped: u64,
    /// Nanoseconds between turns, in which no drip was due.
    paused: u64,
    /// Number of times that the server has closed one.
    dropped: u64,
    noise: Vec<u8>,
}

impl BackgroundClients {
    /// No clients yet.
    pub(crate) fn new(addresses: &[SocketAddr]) -> BackgroundClients {
        BackgroundClients {
            addresses: addresses.to_vec(),
            members: Vec::new(),
            drippers: 0,
            dripped: 0,
            paused: 0,
            dropped: 0,
            noise: [&[b'x'; NOISE_LINE_BYTES][..], b"\n"]
                .concat()
                .repeat(NOISE_LINES),
        }
    }

    /// Returns the number of times that the server has closed one.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Connects one that drips, or one that never reads. All of the former come before the latter.
    pub(crate) fn add(&mut self, epoll: &OwnedFd, drips: bool) -> io::Result<()> {
        let kind = if !drips {
            Kind::Deaf
        } else if self.members.len().is_multiple_of(2) {
            Kind::Finishing
        } else {
            Kind::Endless
        };
        self.drippers += u64::from(drips);
        let stream = self.connect(epoll, self.members.len(), kind)?;
        self.members.push(Member {
            stream,
            kind,
            sent: 0,
            began: 0,
        });
        Ok(())
    }

    fn connect(&self, epoll: &OwnedFd, index: usize, kind: Kind) -> io::Result<TcpStream> {
        let stream = net::connect(&self.addresses)?;
        let flags = match kind {
            Kind::Deaf => {
                sockopt::set_socket_recv_buffer_size(&stream, DEAF_BUFFER_BYTES)?;
                sockopt::set_socket_send_buffer_size(&stream, DEAF_BUFFER_BYTES)?;
                EventFlags::OUT | EventFlags::RDHUP
            }
            Kind::Finishing | Kind::Endless => EventFlags::IN,
        };
        net::watch(epoll, &stream, FIRST + index as u64, flags)?;
        Ok(stream)
    }

    /// Postpones all drips by the nanoseconds of a pause between turns; otherwise the missed ones would
    /// be sent at once.
    pub(crate) fn pause(&mut self, nanos: u64) {
        self.paused += nanos;
    }

    /// Sends the bytes that are due by `now`. Returns the nanoseconds until the next is due.
    pub(crate) fn drip(&mut self, now: u64) -> Result<u64, String> {
        if self.drippers == 0 {
            return Ok(u64::MAX);
        }
        for _ in 0..BATCH {
            let due = self.paused + self.dripped * DRIP_NANOS / self.drippers;
            if due > now {
                return Ok(due - now);
            }
            let member = &mut self.members[(self.dripped % self.drippers) as usize];
            self.dripped += 1;
            if member.sent == 0 {
                member.began = now;
            }
            let byte = match member.kind {
                Kind::Finishing => LINE[member.sent % LINE.len()],
                Kind::Endless | Kind::Deaf => b'x',
            };
            // If the server has closed this one, an event reports it.
            if member.stream.write(&[byte]).is_ok() {
                member.sent += 1;
            }
        }
        Ok(0)
    }

    /// Handles an event of a member's socket.
    pub(crate) fn ready(
        &mut self,
        epoll: &OwnedFd,
        number: u64,
        flags: EventFlags,
        now: u64,
    ) -> Result<(), String> {
        let index = (number - FIRST) as usize;
        let member = &mut self.members[index];
        let gone = match member.kind {
            Kind::Finishing => {
                let mut buffer = [0; 64];
                let bytes = member.stream.read(&mut buffer);
                if bytes.as_ref().map(|&bytes| &buffer[..bytes]).ok() != Some(REPLY) {
                    return Err(format!(
                        "a slow client was answered {bytes:?}: {}",
                        buffer.escape_ascii()
                    ));
                }
                false
            }
            Kind::Endless => {
                let bytes = member.stream.read(&mut [0; 64]);
                let took = now.saturating_sub(member.began);
                if !matches!(bytes, Ok(0)) {
                    return Err(format!("an unfinished line was answered: {bytes:?}"));
                }
                if member.sent == 0 || took < MIN_PATIENCE_NANOS {
                    return Err(format!(
                        "the server closed on an unfinished line after {} bytes and {:.1} s",
                        member.sent,
                        took as f64 / 1e9
                    ));
                }
                true
            }
            Kind::Deaf => {
                let lost = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
                flags.intersects(lost) || send_noise(&member.stream, &self.noise)
            }
        };
        if gone {
            self.dropped += 1;
            let kind = member.kind;
            let stream = self
                .connect(epoll, index, kind)
                .map_err(|error| format!("a bad client can't come back: {error}"))?;
            let member = &mut self.members[index];
            // The old socket closes here, and leaves the epoll by that.
            (member.stream, member.sent) = (stream, 0);
        }
        Ok(())
    }
}

/// Sends once. Returns whether the connection is lost.
fn send_noise(mut stream: &TcpStream, noise: &[u8]) -> bool {
    let lost =
        |error: io::Error| !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
    stream.write(noise).err().is_some_and(lost)
}
