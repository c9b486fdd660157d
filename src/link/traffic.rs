//! Counts the bytes that links send and receive on their sockets, after the handshake.

use std::io::{self, Read, Write};

use crate::metrics::{Cell, Counter};

/// Bytes on the sockets of one neighbor's connections, in both directions of the flood.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Bytes that the system has taken.
    pub(super) sent: Counter,
    /// Bytes that were read.
    pub(super) received: Counter,
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub(super) struct Counted<'a, S> {
    pub(super) stream: S,
    pub(super) traffic: &'a Traffic,
}

impl<S: Read> Read for Counted<'_, S> {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        let bytes = self.stream.read(part)?;
        self.traffic.received.add(bytes as u64);
        Ok(bytes)
    }
}

impl<S: Write> Write for Counted<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(bytes)?;
        self.traffic.sent.add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bytes_that_pass_are_counted() {
        let traffic = Traffic::default();
        let mut room = [0; 3];
        let mut out = Counted {
            stream: &mut room[..],
            traffic: &traffic,
        };
        assert!(out.write_all(b"four").is_err());
        let mut input = Counted {
            stream: &b"five."[..],
            traffic: &traffic,
        };
        let mut part = [0; 4];
        while input.read(&mut part).unwrap() > 0 {}
        assert_eq!((traffic.sent.get(), traffic.received.get()), (3, 5));
    }
}
