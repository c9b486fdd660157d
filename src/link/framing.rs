//! Encrypted lines over a link's connection.
//!
//! Whole lines travel in frames: two bytes, most significant first, with the number of bytes that
//! follow, and as many bytes of ciphertext with its tag. The frames of one direction are numbered
//! from 0, and the number is part of the encryption: a frame that is changed, left out, repeated or
//! moved is an error, after which nothing more is taken. A frame may end within a line; a line is
//! looked at only when it is whole.
//!
//! All memory is taken after a successful handshake; a frame that would not fit is refused by its
//! length alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::noise::Ciphers;
use crate::model::printable::Printable;
use crate::model::time::Timestamp;
use crate::model::{digest, record, vector};
use crate::thread::waiting;

/// Maximum length of a line of any message between servers; past this the connection ends.
pub(super) const MAX_LINE_BYTES: usize = if record::MAX_LINE_BYTES > vector::MAX_LINE_BYTES {
    record::MAX_LINE_BYTES
} else {
    vector::MAX_LINE_BYTES
};

const _: () = assert!(digest::MAX_LINE_BYTES <= MAX_LINE_BYTES);

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 2;

/// Bytes that the cipher adds to each frame.
const TAG_BYTES: usize = 16;

/// Maximum text of one frame. A neighbor applies a frame only when it has all of it, and is
/// considered dead if that takes longer than the silence limit; above this size the encryption
/// costs the same for each byte.
const FRAME_TEXT_BYTES: usize = 16 << 10;

/// Maximum length of a frame after its length field; past this the connection ends.
const MAX_FRAME_BYTES: usize = FRAME_TEXT_BYTES + TAG_BYTES;

/// Bytes that are read and decrypted at once: several frames, where they come in a row.
const READ_BYTES: usize = 64 << 10;

/// Frames that are encrypted for one write; a longer block takes several.
const WRITE_FRAMES: usize = 4;

/// Maximum number of frames of one connection each way; past this it ends, and the next has new
/// keys. AES-GCM stays within 2^-40 of ideal up to here, and the counter far from its end.
const MAX_FRAMES: u64 = 1 << 32;

/// Send buffer of a link's socket. A larger one would only hide how far behind a neighbor is.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Bytes of a connection, as a handshake reads and writes them: a socket, or memory in tests.
pub trait Stream: Read + Write + Copy {
    /// Lets the next read wait until `deadline` and no longer; an error if that has passed.
    fn wait_until(self, deadline: Instant) -> io::Result<()>;
}

impl Stream for &TcpStream {
    fn wait_until(self, deadline: Instant) -> io::Result<()> {
        wait_until(self, deadline)
    }
}

/// Output of a link's protocol: a sink for its lines, and the time.
pub(super) trait Transport {
    /// Sends whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Returns the time.
    fn now(&self) -> Instant;

    /// Returns the time by this server's clock.
    fn clock(&self) -> Timestamp;
}

/// Decrypted text, taken in whole lines.
#[derive(Debug)]
struct Lines {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Lines {
    fn new() -> Lines {
        Lines {
            // The beginning of a line, and all frames behind it that are read at once.
            buffer: vec![0; MAX_LINE_BYTES + READ_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Returns the room behind the text.
    fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Takes all whole lines, each with its LF; an error if the line at the front is too long.
    fn take_block(&mut self) -> io::Result<&[u8]> {
        let unread = &self.buffer[self.start..self.end];
        match memchr::memrchr(b'\n', unread) {
            Some(last) => {
                let block = self.start..self.start + last + 1;
                self.start = block.end;
                Ok(&self.buffer[block])
            }
            None if unread.len() > MAX_LINE_BYTES => Err(too_long()),
            None => Ok(&[]),
        }
    }

    /// Takes the first line, without its LF, once it is whole.
    fn take_line(&mut self) -> io::Result<Option<&[u8]>> {
        let unread = &self.buffer[self.start..self.end];
        match memchr::memchr(b'\n', unread) {
            Some(end) => {
                let line = self.start..self.start + end;
                self.start = line.end + 1;
                Ok(Some(&self.buffer[line]))
            }
            None if unread.len() > MAX_LINE_BYTES => Err(too_long()),
            None => Ok(None),
        }
    }

    /// Moves text up to the end of the first line, without its LF, behind `line`. Returns whether
    /// that end was there.
    fn take_part(&mut self, line: &mut Vec<u8>) -> bool {
        let unread = &self.buffer[self.start..self.end];
        let end = memchr::memchr(b'\n', unread);
        let part = &unread[..end.unwrap_or(unread.len())];
        line.extend_from_slice(part);
        self.start += part.len() + usize::from(end.is_some());
        end.is_some()
    }
}

/// Outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// A frame has come, or several.
    Frames,
    /// A part of a frame has come. It is not known yet whether the neighbor sent it.
    Part,
    /// The stream has ended.
    End,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Reader {
    ciphers: Ciphers,
    frames: u64,
    raw: Box<[u8]>,
    start: usize,
    end: usize,
    lines: Lines,
}

impl Reader {
    /// Begins after the handshake.
    pub fn new(ciphers: Ciphers) -> Reader {
        Reader {
            ciphers,
            frames: 0,
            raw: vec![0; READ_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            lines: Lines::new(),
        }
    }

    /// Reads once, and decrypts the frames that are whole: at most about 64 KiB of text, so that a
    /// batch of records is bounded. Only when all whole lines have been taken.
    pub fn fill(&mut self, mut stream: impl Read) -> io::Result<Filled> {
        if self.decrypt()? {
            return Ok(Filled::Frames);
        }
        self.raw.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let bytes = waiting(|| read(&mut stream, &mut self.raw[self.end..]))?;
        self.end += bytes;
        match bytes {
            0 => Ok(Filled::End),
            _ if self.decrypt()? => Ok(Filled::Frames),
            _ => Ok(Filled::Part),
        }
    }

    /// Decrypts the frames that are whole, as far as there is room for their text. Returns whether
    /// there was one.
    fn decrypt(&mut self) -> io::Result<bool> {
        let mut any = false;
        while let Some(length) = self.raw[self.start..self.end].first_chunk::<LENGTH_BYTES>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length <= TAG_BYTES {
                return Err(broken("it sent an empty frame"));
            }
            if length > MAX_FRAME_BYTES {
                return Err(broken("it announced a frame that is too large"));
            }
            let frame = self.start + LENGTH_BYTES..self.start + LENGTH_BYTES + length;
            let room = self.lines.room();
            if frame.end > self.end || (any && room.len() < length) {
                break;
            }
            if self.frames >= MAX_FRAMES {
                return Err(exhausted());
            }
            let text = self
                .ciphers
                .read_message(self.frames, &self.raw[frame.clone()], room)
                .map_err(|_| broken("it sent a frame that was altered, or recorded elsewhere"))?;
            self.lines.end += text;
            self.frames += 1;
            self.start = frame.end;
            any = true;
        }
        Ok(any)
    }

    /// Takes all whole lines, each with its LF.
    pub fn take_block(&mut self) -> io::Result<&[u8]> {
        self.lines.take_block()
    }

    /// Takes the first line, without its LF, once it is whole.
    pub fn take_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.lines.take_line()
    }

    /// Reads until there is a line, or until `deadline`.
    pub fn read_line(&mut self, stream: impl Stream, deadline: Instant) -> io::Result<Vec<u8>> {
        self.read_long_line(stream, deadline, MAX_LINE_BYTES)
    }

    /// Reads until there is a line of at most `limit` bytes, or until `deadline`. Memory beyond
    /// that of any reader is taken only as the line arrives.
    pub(super) fn read_long_line(
        &mut self,
        stream: impl Stream,
        deadline: Instant,
        limit: usize,
    ) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let is_whole = self.lines.take_part(&mut line);
            if line.len() > limit {
                return Err(too_long());
            }
            if is_whole {
                return Ok(line);
            }
            stream.wait_until(deadline)?;
            if self.fill(stream)? == Filled::End {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct Writer {
    ciphers: Ciphers,
    frames: u64,
    /// Ciphertext to be written; as large as the largest write so far.
    out: Vec<u8>,
}

impl Writer {
    /// Begins after the handshake.
    pub fn new(ciphers: Ciphers) -> Writer {
        Writer {
            ciphers,
            frames: 0,
            out: Vec::new(),
        }
    }

    /// Encrypts lines and writes them.
    pub fn write(&mut self, mut stream: impl Write, lines: &[u8]) -> io::Result<()> {
        for block in lines.chunks(WRITE_FRAMES * FRAME_TEXT_BYTES) {
            self.out.clear();
            for text in block.chunks(FRAME_TEXT_BYTES) {
                self.encrypt(text)?;
            }
            waiting(|| stream.write_all(&self.out))?;
        }
        Ok(())
    }

    fn encrypt(&mut self, text: &[u8]) -> io::Result<()> {
        if self.frames >= MAX_FRAMES {
            return Err(exhausted());
        }
        let length = text.len() + TAG_BYTES;
        let announced = u16::try_from(length).map_err(io::Error::other)?;
        self.out.extend_from_slice(&announced.to_be_bytes());
        let begin = self.out.len();
        self.out.resize(begin + length, 0);
        self.ciphers
            .write_message(self.frames, text, &mut self.out[begin..])
            .map_err(io::Error::other)?;
        self.frames += 1;
        Ok(())
    }
}

/// Returns the error of a line that the protocol has no place for.
pub(super) fn unexpected_line(line: &[u8]) -> io::Error {
    let shown = Printable(&line[..line.len().min(200)]);
    let text = format!("protocol error: unexpected line: {shown}");
    io::Error::new(ErrorKind::InvalidData, text)
}

fn broken(text: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

fn too_long() -> io::Error {
    broken("it sent a line that is too long")
}

fn exhausted() -> io::Error {
    io::Error::other("the connection has carried as many frames as one may")
}

/// Reads once. When a process is stopped and continued, by a debugger or a shell, every read that
/// waits with a time-out fails with `EINTR`, whether the process handles signals or not; that is no
/// reason to give a connection up.
pub fn read(mut stream: impl Read, part: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(part) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Lets the next read wait until `deadline` and no longer; an error if that has passed.
pub fn wait_until(stream: &TcpStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))
}

/// Sets up a link's socket: no delay, a short send buffer, and no write that blocks for longer
/// than `write_timeout`.
pub fn prepare(stream: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(write_timeout))?;
    SockRef::from(stream).set_send_buffer_size(SEND_BUFFER_BYTES)
}

/// Makes the connection end with a reset when it is closed: the other side learns of it at once,
/// where an orderly end would wait behind data that is never acknowledged.
pub fn reset_at_close(stream: &TcpStream) {
    // Otherwise the other side's own silence limit ends it.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Returns whether a read or write failed only because its time ran out.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KeyFile;
    use crate::link::noise::{Initiator, respond};

    /// Both ends of one connection.
    fn connection() -> (Writer, Reader) {
        let keys = KeyFile::generate().unwrap();
        let (initiator, message) = Initiator::start(keys.dialed()).unwrap();
        let (answer, other) = respond(&keys, &message).unwrap().unwrap();
        (
            Writer::new(initiator.finish(&answer).unwrap()),
            Reader::new(other),
        )
    }

    fn sent(writer: &mut Writer, text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        writer.write(&mut bytes, text).unwrap();
        bytes
    }

    /// Reads a stream to its end. Returns the lines, and the error if it ends with one.
    fn received(reader: &mut Reader, mut stream: impl Read) -> (Vec<u8>, Option<String>) {
        let mut got = Vec::new();
        let mut step = || {
            let filled = reader.fill(&mut stream)?;
            while let block @ [_, ..] = reader.take_block()? {
                got.extend_from_slice(block);
            }
            Ok(filled)
        };
        let error: Option<io::Error> = loop {
            match step() {
                Ok(Filled::End) => break None,
                Ok(_) => {}
                Err(error) => break Some(error),
            }
        };
        (got, error.map(|error| error.to_string()))
    }

    /// Checks that the text read from `stream`, if any, is a beginning of `text`, and that the error
    /// is this.
    #[track_caller]
    fn check(mut reader: Reader, stream: &[u8], text: &[u8], expected: &str) {
        let (got, error) = received(&mut reader, stream);
        assert!(text.starts_with(&got), "{}", got.escape_ascii());
        assert_eq!(error.as_deref(), Some(expected));
        // The reader stays broken.
        assert!(received(&mut reader, stream).0.is_empty());
    }

    const ALTERED: &str = "it sent a frame that was altered, or recorded elsewhere";

    #[test]
    fn lines_arrive_whole_however_the_stream_is_cut() {
        let text = b"one\ntwo\nthree\n";
        let (mut writer, _) = connection();
        let length = sent(&mut writer, text).len();
        for cut in 0..length {
            let (mut writer, mut reader) = connection();
            let stream = sent(&mut writer, text);
            assert!(!stream.windows(3).any(|bytes| bytes == b"two"));
            let (got, error) = received(&mut reader, stream[..cut].chain(&stream[cut..]));
            assert_eq!((&got[..], error), (&text[..], None));
        }
    }

    #[test]
    fn blocks_of_any_size_pass() {
        for lines in [1, 100, 1_000, 5_000, 50_000] {
            let (mut writer, mut reader) = connection();
            let text = b"a line of 23 bytes ....\n".repeat(lines);
            let mut stream = sent(&mut writer, &text);
            stream.extend(sent(&mut writer, b"last\n"));
            let (got, error) = received(&mut reader, &stream[..]);
            assert_eq!(error, None);
            assert!(got.strip_suffix(b"last\n") == Some(&text[..]), "{lines}");
        }
    }

    #[test]
    fn a_stream_that_was_changed_anywhere_ends() {
        let text = b"one\ntwo\n";
        let (mut writer, _) = connection();
        let length = sent(&mut writer, text).len();
        for bit in LENGTH_BYTES * 8..length * 8 {
            let (mut writer, reader) = connection();
            let mut stream = sent(&mut writer, text);
            stream[bit / 8] ^= 1 << (bit % 8);
            check(reader, &stream, b"", ALTERED);
        }
    }

    #[test]
    fn frames_that_are_repeated_left_out_swapped_or_of_another_connection_end_the_stream() {
        let lines = [&b"one\n"[..], b"two\n", b"three\n"];
        for order in [&[0, 0][..], &[1], &[0, 2], &[1, 0]] {
            let (mut writer, reader) = connection();
            let frames = lines.map(|line| sent(&mut writer, line));
            let stream: Vec<_> = order
                .iter()
                .flat_map(|&index| frames[index].clone())
                .collect();
            check(reader, &stream, b"one\n", ALTERED);
        }
        let (mut writer, _) = connection();
        let (_, reader) = connection();
        check(reader, &sent(&mut writer, b"one\n"), b"", ALTERED);
    }

    #[test]
    fn sizes_are_checked_before_anything_else() {
        for length in 0..=TAG_BYTES as u8 {
            let (_, reader) = connection();
            check(reader, &[0, length], b"", "it sent an empty frame");
        }
        let announce = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
        for length in [MAX_FRAME_BYTES + 1, usize::from(u16::MAX)] {
            let (_, reader) = connection();
            check(
                reader,
                &announce(length),
                b"",
                "it announced a frame that is too large",
            );
        }
        // The largest frame that is not refused fits the buffer.
        let (_, mut reader) = connection();
        let mut largest = vec![0xff; LENGTH_BYTES + MAX_FRAME_BYTES];
        largest[..LENGTH_BYTES].copy_from_slice(&announce(MAX_FRAME_BYTES));
        let (last, rest) = largest.split_last().unwrap();
        assert_eq!(received(&mut reader, rest), (Vec::new(), None));
        check(reader, &[*last], b"", ALTERED);
    }

    #[test]
    fn a_line_longer_than_any_message_is_an_error() {
        let (mut writer, reader) = connection();
        let stream = sent(&mut writer, &[b'x'; 2 * MAX_LINE_BYTES]);
        check(reader, &stream, b"", "it sent a line that is too long");
    }

    #[test]
    fn a_connection_ends_before_its_numbers_do() {
        let (mut writer, mut reader) = connection();
        (writer.frames, reader.frames) = (MAX_FRAMES - 1, MAX_FRAMES - 1);
        let last = sent(&mut writer, b"last\n");
        assert_eq!(received(&mut reader, &last[..]), (b"last\n".to_vec(), None));
        let error = writer.write(&mut Vec::new(), b"more\n").unwrap_err();
        assert_eq!(error.to_string(), exhausted().to_string());
        check(reader, &last, b"", &exhausted().to_string());
    }
}
