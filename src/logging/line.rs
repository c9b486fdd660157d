//! What a logger writes to.

use std::io::{self, Write};
use std::time::SystemTime;

use super::clock::ClockFace;
use super::queue::Queue;

/// Gathers the pieces that lines come in, and queues whole lines: at once, or some together.
#[derive(Debug)]
pub(super) struct LineWriter {
    queue: Queue,
    /// Bytes of whole lines that may gather here before they are queued.
    patience: usize,
    gathered: Vec<u8>,
    /// Whole lines among them.
    lines: u64,
    /// Whether the last of them has its end still to come.
    unfinished: bool,
    /// Where lines begin with the time.
    clock: Option<ClockFace>,
}

impl LineWriter {
    pub(super) fn new(queue: &Queue, patience: usize, clock: Option<ClockFace>) -> LineWriter {
        LineWriter {
            queue: queue.clone(),
            patience,
            gathered: Vec::new(),
            lines: 0,
            unfinished: false,
            clock,
        }
    }
}

impl Write for LineWriter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.write_all(piece)?;
        Ok(piece.len())
    }

    fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        if !self.unfinished
            && let Some(clock) = &mut self.clock
        {
            clock.write(SystemTime::now(), &mut self.gathered);
        }
        self.gathered.extend_from_slice(piece);
        self.unfinished = piece.last() != Some(&b'\n');
        if !self.unfinished {
            self.lines += 1;
            if self.gathered.len() > self.patience {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Queues the lines that have gathered.
    fn flush(&mut self) -> io::Result<()> {
        if self.lines > 0 && !self.unfinished {
            self.queue.push(&self.gathered, self.lines);
            self.gathered.clear();
            self.lines = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[track_caller]
    fn check(patience: usize, flushed: bool, expected: &str) {
        let queue = Queue::new(bounded(1).0);
        let mut writer = LineWriter::new(&queue, patience, None);
        for piece in ["a ", "line", "\n", "another", "\n", "half"] {
            writer.write_all(piece.as_bytes()).expect("memory");
        }
        if flushed {
            writer.write_all(b"\n").expect("memory");
            writer.flush().expect("memory");
        }
        let taken = queue.take(Vec::new());
        assert_eq!(String::from_utf8_lossy(&taken.lines), expected);
    }

    #[test]
    fn lines_are_queued_whole() {
        check(0, false, "a line\nanother\n");
        check(7, false, "a line\nanother\n");
    }

    #[test]
    fn lines_gather_until_they_are_many_or_flushed() {
        check(100, false, "");
        check(100, true, "a line\nanother\nhalf\n");
    }
}
