//! Lines over a link's socket, in blocks.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::SEND_BUFFER_BYTES;
use crate::{record, vector};

/// Bytes read at once. A block's records are applied as one group, so this also bounds how long
/// a neighbor's flood holds the apply lock.
const BLOCK_BYTES: usize = 64 << 10;

/// The longest line that any message takes; a longer one is no neighbor's.
const MAX_LINE_BYTES: usize = if record::MAX_LINE_BYTES > vector::MAX_LINE_BYTES {
    record::MAX_LINE_BYTES
} else {
    vector::MAX_LINE_BYTES
};

/// Blocks of whole lines out of a stream.
#[derive(Debug)]
pub struct Lines {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines {
            buffer: vec![0; BLOCK_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }
}

impl Lines {
    /// Lets go of what is there, for the next stream.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Reads once, behind what is there. The bytes read; 0 at the end of the stream.
    pub fn fill(&mut self, mut stream: impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let bytes = stream.read(&mut self.buffer[self.end..])?;
        self.end += bytes;
        Ok(bytes)
    }

    /// Takes all whole lines that are there, each with its LF; an error if what is there is
    /// longer than any line.
    pub fn take_block(&mut self) -> io::Result<&[u8]> {
        let unread = &self.buffer[self.start..self.end];
        match memchr::memrchr(b'\n', unread) {
            Some(last) => {
                let block = self.start..self.start + last + 1;
                self.start = block.end;
                Ok(&self.buffer[block])
            }
            None if unread.len() > MAX_LINE_BYTES => Err(ErrorKind::InvalidData.into()),
            None => Ok(&[]),
        }
    }

    /// Takes the first line, without its LF, once it is whole.
    pub fn take_line(&mut self) -> io::Result<Option<&[u8]>> {
        let unread = &self.buffer[self.start..self.end];
        match memchr::memchr(b'\n', unread) {
            Some(end) => {
                let line = self.start..self.start + end;
                self.start = line.end + 1;
                Ok(Some(&self.buffer[line]))
            }
            None if unread.len() > MAX_LINE_BYTES => Err(ErrorKind::InvalidData.into()),
            None => Ok(None),
        }
    }

    /// Reads until there is a line, or until `deadline`.
    pub fn read_line(&mut self, stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
        loop {
            if let Some(line) = self.take_line()? {
                return Ok(line.to_vec());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            if self.fill(stream)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Sets a link's socket up: replies at once, a short send buffer, and no write that blocks for
/// longer than `write_timeout`.
pub fn prepare(stream: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(write_timeout))?;
    SockRef::from(stream).set_send_buffer_size(SEND_BUFFER_BYTES)
}

/// Whether a read or write only ran out of its time.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_with_a_line_however_the_stream_is_cut() {
        let text = b"one\ntwo\nthree\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.fill(part).expect("a read from memory");
                let block = lines.take_block().expect("short lines");
                assert!(block.is_empty() || block.ends_with(b"\n"));
                got.extend_from_slice(block);
            }
            assert_eq!(got, text);
        }
    }

    #[test]
    fn a_line_longer_than_any_message_is_an_error() {
        let mut lines = Lines::default();
        lines.fill(&[b'x'; MAX_LINE_BYTES + 1][..]).expect("a read");
        assert!(lines.take_block().is_err());
        assert!(lines.take_line().is_err());
    }
}
