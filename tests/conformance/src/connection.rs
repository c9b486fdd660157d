//! One client connection of a transcript, every wait with a deadline.
//!
//! A thread of its own reads, so that a burst can be written while its replies come in: a
//! server stops reading a client that does not read. Reads are kept apart, for `once`.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Default limit of every wait in a transcript.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// Between two pieces of a line that is sent in pieces: long enough for a server to read each
/// by itself, most of the time.
const PIECE_PAUSE: Duration = Duration::from_millis(1);

/// Bytes of one read; more than the longest reply that a transcript wants to see with a single read.
const READ_BYTES: usize = 256 * 1024;

/// Number of consumed bytes in the buffer past which they are removed.
const STALE_BYTES: usize = 64 * 1024;

/// Reason why expected data did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The deadline is over.
    Late,
    /// The server closed, orderly.
    Ended,
    /// The connection broke.
    Broken(String),
    /// It did not come with the first read.
    NotOnce,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Late => f.write_str("nothing more until the deadline"),
            Trouble::Ended => f.write_str("the end of the stream"),
            Trouble::Broken(error) => write!(f, "no orderly end: {error}"),
            Trouble::NotOnce => f.write_str("a reply that needs more than one read"),
        }
    }
}

#[derive(Debug)]
enum Event {
    Bytes(Vec<u8>),
    Over(Trouble),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    reader: Option<JoinHandle<()>>,
    /// Without a bound: a transcript has an end, and a bound would stop the reader amid a burst.
    events: Receiver<Event>,
    buffer: Vec<u8>,
    /// Offset in `buffer` of the first byte that no step has consumed.
    start: usize,
    /// Set once the connection has ended; nothing arrives after that.
    over: Option<Trouble>,
    /// Number of reads still allowed; set by `once`.
    reads_left: Option<usize>,
}

impl Connection {
    /// Connects to `HOST:PORT`.
    pub(crate) fn open(address: &str) -> io::Result<Connection> {
        let mut failure = io::Error::other("the name has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, DEADLINE) {
                Ok(stream) => return Connection::new(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn new(stream: TcpStream) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let (sender, events) = channel();
        let reading = stream.try_clone()?;
        let reader = thread::Builder::new()
            .name("transcript reader".to_owned())
            .spawn(move || read_all(reading, &sender))?;
        Ok(Connection {
            stream,
            reader: Some(reader),
            events,
            buffer: Vec::new(),
            start: 0,
            over: None,
            reads_left: None,
        })
    }

    /// Sends bytes: in one write, or in pieces with a moment between them.
    pub(crate) fn send(&mut self, bytes: &[u8], piece: Option<usize>) -> io::Result<()> {
        self.reads_left = None;
        let Some(piece) = piece else {
            return self.stream.write_all(bytes);
        };
        for piece in bytes.chunks(piece) {
            self.stream.write_all(piece)?;
            self.receive_until(Instant::now() + PIECE_PAUSE);
        }
        Ok(())
    }

    /// Half-closes: the server reads the end of the stream, and replies still come.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Requires all replies up to the next `send` to arrive in a single read.
    pub(crate) fn once(&mut self) {
        self.reads_left = Some(1);
    }

    /// The next line, without its LF.
    pub(crate) fn line(&mut self) -> Result<Vec<u8>, Trouble> {
        let end = self.find(b"\n")?;
        Ok(self.take(end, 1))
    }

    /// Returns everything up to the next two consecutive LFs, without them.
    pub(crate) fn paragraph(&mut self) -> Result<Vec<u8>, Trouble> {
        let end = self.find(b"\n\n")?;
        Ok(self.take(end, 2))
    }

    /// Waits for the end of the stream; data before it stays unread.
    pub(crate) fn end(&mut self, within: Duration) -> Trouble {
        let deadline = Instant::now() + within;
        loop {
            if let Err(trouble) = self.receive(deadline) {
                return trouble;
            }
        }
    }

    /// Receives until the deadline; received data stays unread.
    pub(crate) fn receive_until(&mut self, deadline: Instant) {
        while self.receive(deadline).is_ok() {}
    }

    /// Data that was received and not consumed.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reason why the connection ended, if that is known without waiting.
    pub(crate) fn over(&self) -> Option<&Trouble> {
        self.over.as_ref()
    }

    fn find(&mut self, end: &[u8]) -> Result<usize, Trouble> {
        let deadline = Instant::now() + DEADLINE;
        let mut searched = 0;
        loop {
            let found = self.unread()[searched..]
                .windows(end.len())
                .position(|window| window == end);
            if let Some(at) = found {
                return Ok(searched + at);
            }
            searched = (self.unread().len() + 1).saturating_sub(end.len());
            match &mut self.reads_left {
                Some(0) => return Err(Trouble::NotOnce),
                Some(left) => *left -= 1,
                None => {}
            }
            self.receive(deadline)?;
        }
    }

    fn take(&mut self, bytes: usize, ending: usize) -> Vec<u8> {
        let taken = self.unread()[..bytes].to_vec();
        self.start += bytes + ending;
        if self.start > STALE_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        taken
    }

    /// Waits for one read of the reader.
    fn receive(&mut self, deadline: Instant) -> Result<(), Trouble> {
        if let Some(trouble) = &self.over {
            return Err(trouble.clone());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(Event::Bytes(bytes)) => {
                self.buffer.extend_from_slice(&bytes);
                Ok(())
            }
            Ok(Event::Over(trouble)) => {
                self.over = Some(trouble.clone());
                Err(trouble)
            }
            Err(RecvTimeoutError::Timeout) => Err(Trouble::Late),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Trouble::Broken("the reading thread died".to_owned()))
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A failure means that the connection is already closed, which ends the reader too.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read_all(mut stream: TcpStream, events: &Sender<Event>) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let event = match stream.read(&mut buffer) {
            Ok(0) => Event::Over(Trouble::Ended),
            Ok(bytes) => Event::Bytes(buffer[..bytes].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Event::Over(Trouble::Broken(error.to_string())),
        };
        let last = matches!(event, Event::Over(_));
        if events.send(event).is_err() || last {
            return;
        }
    }
}
