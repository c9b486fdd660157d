//! What a logger writes to.

use std::io::{self, Write};
use std::time::SystemTime;

use super::clock::ClockFace;
use super::queue::Queue;

/// Gathers the pieces that a line comes in, and queues it whole.
#[derive(Debug)]
pub(super) struct LineWriter {
    queue: Queue,
    line: Vec<u8>,
    /// Where lines begin with the time.
    clock: Option<ClockFace>,
}

impl LineWriter {
    pub(super) fn new(queue: &Queue, clock: Option<ClockFace>) -> LineWriter {
        LineWriter {
            queue: queue.clone(),
            line: Vec::new(),
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
        if self.line.is_empty()
            && let Some(clock) = &mut self.clock
        {
            clock.write(SystemTime::now(), &mut self.line);
        }
        self.line.extend_from_slice(piece);
        if piece.last() == Some(&b'\n') {
            self.queue.push(&self.line);
            self.line.clear();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn lines_are_queued_whole() {
        let queue = Queue::new(bounded(1).0);
        let mut writer = LineWriter::new(&queue, None);
        for piece in ["a ", "line", "\n", "half"] {
            writer.write_all(piece.as_bytes()).expect("memory");
        }
        assert_eq!(queue.take(Vec::new()).lines, b"a line\n");
    }
}
