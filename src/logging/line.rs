//! The writer that `simplelog` formats into.

use std::io::{self, Write};
use std::time::SystemTime;

use super::queue::Queue;
use super::time_prefix::TimePrefix;

/// Assembles whole lines from the pieces that `simplelog` writes, and queues them in groups.
#[derive(Debug)]
pub(super) struct LineWriter {
    queue: Queue,
    /// Bytes of whole lines past which they are queued; with 0, each is queued at once.
    group_bytes: usize,
    buffer: Vec<u8>,
    /// Whole lines in the buffer.
    lines: u64,
    /// Set while the buffer ends in the middle of a line.
    unfinished: bool,
    /// Present where lines begin with the time.
    time: Option<TimePrefix>,
}

impl LineWriter {
    pub(super) fn new(queue: &Queue, group_bytes: usize, time: Option<TimePrefix>) -> LineWriter {
        LineWriter {
            queue: queue.clone(),
            group_bytes,
            buffer: Vec::new(),
            lines: 0,
            unfinished: false,
            time,
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
            && let Some(time) = &mut self.time
        {
            time.write(SystemTime::now(), &mut self.buffer);
        }
        self.buffer.extend_from_slice(piece);
        self.unfinished = piece.last() != Some(&b'\n');
        if !self.unfinished {
            self.lines += 1;
            if self.buffer.len() > self.group_bytes {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Queues the lines in the buffer.
    fn flush(&mut self) -> io::Result<()> {
        if self.lines > 0 && !self.unfinished {
            self.queue.push(&self.buffer, self.lines);
            self.buffer.clear();
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
    fn check(group_bytes: usize, flushed: bool, expected: &str) {
        let queue = Queue::new(bounded(1).0);
        let mut writer = LineWriter::new(&queue, group_bytes, None);
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
    fn lines_are_buffered_until_they_are_many_or_flushed() {
        check(100, false, "");
        check(100, true, "a line\nanother\nhalf\n");
    }
}
