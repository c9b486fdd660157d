//! Time and connections of a script, in memory.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::topology::Address;
use crate::link::framing::{Stream, Transport, Writer};
use crate::link::receiver::registry::Shut;
use crate::model::time::Timestamp;

/// Wall clock of a script at its start, in seconds.
pub(super) const EPOCH: u64 = 1_479_413_884;

/// The time of a script.
#[derive(Clone)]
pub(super) struct Clock(Arc<Mutex<(Instant, Duration)>>);

impl Clock {
    pub(super) fn new() -> Clock {
        Clock(Arc::new(Mutex::new((Instant::now(), Duration::ZERO))))
    }

    pub(super) fn pass(&self, time: Duration) {
        self.0.lock().1 += time;
    }

    pub(super) fn now(&self) -> Instant {
        let (start, passed) = *self.0.lock();
        start + passed
    }

    pub(super) fn wall(&self) -> Timestamp {
        let passed = self.0.lock().1;
        Timestamp::from_nanos(EPOCH * 1_000_000_000 + passed.as_nanos() as u64)
    }
}

/// One direction of a connection in memory.
#[derive(Default)]
struct Half {
    bytes: VecDeque<u8>,
    closed: bool,
    cut: bool,
}

#[derive(Default)]
struct Wire {
    halves: Mutex<[Half; 2]>,
    changed: Condvar,
}

/// One end of a connection in memory. A read never waits.
#[derive(Clone)]
pub(super) struct Pipe(Arc<Wire>, usize);

impl Pipe {
    pub(super) fn pair() -> [Pipe; 2] {
        let wire = Arc::new(Wire::default());
        [Pipe(Arc::clone(&wire), 0), Pipe(wire, 1)]
    }

    pub(super) fn cut(&self) {
        for half in self.0.halves.lock().iter_mut() {
            (half.cut, half.bytes) = (true, VecDeque::new());
        }
    }
}

impl Shut for Pipe {
    fn shut(&self, how: Shutdown) {
        let mut halves = self.0.halves.lock();
        for (index, half) in halves.iter_mut().enumerate() {
            // The incoming half is the one that the other end writes.
            if how == Shutdown::Both || index != self.1 {
                half.closed = true;
            }
        }
        self.0.changed.notify_all();
    }
}

impl Read for &Pipe {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        let half = &mut self.0.halves.lock()[1 - self.1];
        match half.bytes.read(part)? {
            0 if half.cut || !half.closed => Err(ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes),
        }
    }
}

impl Write for &Pipe {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let half = &mut self.0.halves.lock()[self.1];
        if half.closed && !half.cut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if !half.cut {
            half.bytes.extend(part);
        }
        self.0.changed.notify_all();
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for &Pipe {
    fn wait_until(self, deadline: Instant) -> io::Result<()> {
        let mut halves = self.0.halves.lock();
        while halves[1 - self.1].bytes.is_empty() && !halves[1 - self.1].closed {
            if self.0.changed.wait_until(&mut halves, deadline).timed_out() {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

/// Returns the address of a peer in a script, which differs by its port alone.
pub(super) fn peer(port: u16) -> Address {
    let host = "peer".to_owned();
    Address { host, port }
}

/// The sending half of a connection.
pub(super) struct Outgoing {
    pub(super) writer: Writer,
    pub(super) pipe: Pipe,
    pub(super) clock: Clock,
}

impl Transport for Outgoing {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.writer.write(&self.pipe, lines)
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn clock(&self) -> Timestamp {
        self.clock.wall()
    }
}
