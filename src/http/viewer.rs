//! The connection of a viewer, of any stream of events: what it has still to be sent, and when it is
//! closed.
//!
//! Viewers can share the bytes of an event. No write waits: a viewer that does not take its bytes
//! keeps its own place in them, and is closed once it is too far behind. Its browser connects again
//! and then has the newest state at once.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::poller::{Interest, Poller};

/// Bytes besides those of its beginning that a viewer may have still to take when more are to come.
const MAX_UNSENT: usize = 4 << 20;

/// The same for the beginning, which is many times as large as what follows it.
const BEGINNING_LIMIT: Duration = Duration::from_secs(30);

/// Bytes that a viewer may send. A browser sends none: its request has been read.
const MAX_RECEIVED: usize = 16 << 10;

/// Kept for a viewer, and dropped once its connection is closed.
type Seat = Box<dyn Send>;

/// Reason for which a viewer is closed.
#[derive(Debug)]
pub(super) enum Closed {
    /// It has ended the connection.
    Ended,
    /// The connection is broken.
    Failed(io::Error),
    /// It has sent more than a request.
    Talkative,
    /// It does not take its bytes.
    TooSlow,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Ended => f.write_str("it has closed the connection"),
            Closed::Failed(error) => error.fmt(f),
            Closed::Talkative => f.write_str("it sends data"),
            Closed::TooSlow => f.write_str("it does not read fast enough"),
        }
    }
}

#[derive(Debug)]
struct Unsent {
    bytes: Arc<[u8]>,
    /// Moment by which all of it must have been taken.
    deadline: Instant,
    is_beginning: bool,
}

/// One viewer.
pub(super) struct Viewer {
    // The connection is closed before the seat is free.
    stream: TcpStream,
    unsent: VecDeque<Unsent>,
    /// Bytes of the first unsent entry that have been taken.
    taken: usize,
    /// Bytes of all unsent entries but those of the beginning.
    behind: usize,
    received: usize,
    /// Its connection is watched for room for bytes too.
    waits_for_room: bool,
    /// Time within which the bytes of an event must have been taken.
    limit: Duration,
    _seat: Seat,
}

impl Viewer {
    /// Makes a viewer of a connection that does not block. It must take the bytes of an event within
    /// `limit`.
    pub(super) fn new(stream: TcpStream, limit: Duration, seat: Seat) -> Viewer {
        // It only delays the ends of events.
        let _ = stream.set_nodelay(true);
        Viewer {
            stream,
            unsent: VecDeque::new(),
            taken: 0,
            behind: 0,
            received: 0,
            waits_for_room: false,
            limit,
            _seat: seat,
        }
    }

    /// Returns the connection.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Has the connection, which `poller` knows by `id`, watched for what the viewer needs: for room only
    /// while there are bytes for it.
    pub(super) fn wait_in(&mut self, poller: &Poller, id: u64) -> io::Result<()> {
        let has_unsent = self.has_unsent();
        if has_unsent == self.waits_for_room {
            return Ok(());
        }
        self.waits_for_room = has_unsent;
        let interest = match has_unsent {
            true => Interest::Both,
            false => Interest::Input,
        };
        poller.set_interest(&self.stream, id, interest)
    }

    /// Returns whether there are bytes for it.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends bytes of the beginning, behind those before.
    pub(super) fn begin(&mut self, bytes: Arc<[u8]>, now: Instant) -> Result<(), Closed> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.unsent.push_back(Unsent {
            bytes,
            deadline: now + BEGINNING_LIMIT,
            is_beginning: true,
        });
        self.write(now)
    }

    /// Returns the bytes of the beginning, if not all of it has been taken.
    pub(super) fn beginning(&self) -> usize {
        let beginnings = self.unsent.iter().filter(|unsent| unsent.is_beginning);
        beginnings.map(|unsent| unsent.bytes.len()).sum()
    }

    /// Sends an event, behind those before.
    pub(super) fn send(&mut self, bytes: Arc<[u8]>, now: Instant) -> Result<(), Closed> {
        if self.behind > MAX_UNSENT {
            return Err(Closed::TooSlow);
        }
        self.behind += bytes.len();
        self.unsent.push_back(Unsent {
            bytes,
            deadline: now + self.limit,
            is_beginning: false,
        });
        self.write(now)
    }

    /// Writes as much as the connection takes.
    pub(super) fn write(&mut self, now: Instant) -> Result<(), Closed> {
        while let Some(first) = self.unsent.front() {
            match self.stream.write(&first.bytes[self.taken..]) {
                Ok(0) => return Err(Closed::Failed(ErrorKind::WriteZero.into())),
                Ok(written) => self.taken += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Closed::Failed(error)),
            }
            if self.taken == first.bytes.len() {
                self.take_first(now);
            }
        }
        Ok(())
    }

    /// Removes the first entry, of which all has been taken.
    fn take_first(&mut self, now: Instant) {
        self.taken = 0;
        let Some(first) = self.unsent.pop_front() else {
            return;
        };
        if !first.is_beginning {
            self.behind -= first.bytes.len();
            return;
        }
        // Events that have had to wait for the beginning have a time of their own from now on.
        for unsent in self.unsent.iter_mut().filter(|next| !next.is_beginning) {
            unsent.deadline = now + self.limit;
        }
    }

    /// Reads and drops what the viewer has sent.
    pub(super) fn read(&mut self) -> Result<(), Closed> {
        let mut buffer = [0; 1_024];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(Closed::Ended),
            Ok(received) => self.received += received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Closed::Failed(error)),
        }
        if self.received > MAX_RECEIVED {
            return Err(Closed::Talkative);
        }
        Ok(())
    }

    /// Returns whether the viewer has had its time for what is first.
    pub(super) fn check(&self, now: Instant) -> Result<(), Closed> {
        match self.deadline() {
            Some(deadline) if deadline <= now => Err(Closed::TooSlow),
            _ => Ok(()),
        }
    }

    /// Returns the moment by which the viewer must have taken what is first.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.unsent.front().map(|unsent| unsent.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::Weak;

    fn viewer(seat: Seat) -> (Viewer, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let other_end = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        (Viewer::new(stream, LIMIT, seat), other_end)
    }

    const LIMIT: Duration = Duration::from_secs(5);

    /// More than the kernel takes for a connection that is not read.
    const LARGE: usize = 32 << 20;

    #[test]
    fn the_beginning_has_its_own_time_and_does_not_count_as_unsent() {
        let (mut viewer, mut other_end) = viewer(Box::new(()));
        let begin = Instant::now();
        viewer.begin(Vec::new().into(), begin).unwrap();
        assert_eq!(viewer.deadline(), None);
        viewer.begin(vec![b'b'; LARGE].into(), begin).unwrap();
        assert_eq!(viewer.deadline(), Some(begin + BEGINNING_LIMIT));
        assert!(viewer.has_unsent());
        let frame: Arc<[u8]> = vec![b'f'; MAX_UNSENT / 2].into();
        // Up to the limit, and the one that passes it.
        for _ in 0..3 {
            viewer.send(Arc::clone(&frame), begin).unwrap();
        }
        assert!(matches!(
            viewer.send(Arc::clone(&frame), begin),
            Err(Closed::TooSlow)
        ));
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; LARGE];
            other_end.read_exact(&mut received).unwrap();
            assert!(received.iter().all(|&byte| byte == b'b'));
            other_end
        });
        // Later than the frame's own time.
        let later = begin + 2 * LIMIT;
        viewer.check(later).unwrap();
        let end = begin + BEGINNING_LIMIT;
        assert!(matches!(viewer.check(end), Err(Closed::TooSlow)));
        while viewer.deadline() == Some(begin + BEGINNING_LIMIT) {
            viewer.write(later).unwrap();
            std::thread::yield_now();
        }
        let mut other_end = reader.join().unwrap();
        // Unless the kernel has all of it already.
        if let Some(deadline) = viewer.deadline() {
            assert_eq!(deadline, later + LIMIT);
            assert!(matches!(viewer.check(deadline), Err(Closed::TooSlow)));
        }
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; 3 * MAX_UNSENT / 2];
            other_end.read_exact(&mut received).unwrap();
            assert!(received.iter().all(|&byte| byte == b'f'));
        });
        while viewer.has_unsent() {
            viewer.write(later).unwrap();
            std::thread::yield_now();
        }
        reader.join().unwrap();
        assert_eq!((viewer.behind, viewer.deadline()), (0, None));
    }

    #[test]
    fn a_viewer_may_send_little_and_its_end_is_seen() {
        let (mut quiet, other_end) = viewer(Box::new(()));
        drop(other_end);
        let ended = (0..1_000_000).find_map(|_| quiet.read().err());
        assert!(matches!(ended, Some(Closed::Ended)));
        let (mut talkative, mut other_end) = viewer(Box::new(()));
        other_end.write_all(&[0; 2 * MAX_RECEIVED]).unwrap();
        let ended = (0..1_000_000).find_map(|_| talkative.read().err());
        assert!(matches!(ended, Some(Closed::Talkative)));
    }

    #[test]
    fn the_seat_is_free_once_the_viewer_has_gone() {
        let seat = Arc::new(());
        let kept: Weak<()> = Arc::downgrade(&seat);
        let (viewer, _other_end) = viewer(Box::new(seat));
        assert_eq!(kept.strong_count(), 1);
        drop(viewer);
        assert_eq!(kept.strong_count(), 0);
    }
}
