//! The writer that `simplelog` formats into.

use std::io::{self, Write};

use super::queue::Queue;
use super::time_prefix::TimePrefix;
use crate::model::time::Timestamp;

/// Text at the beginning of each line.
#[derive(Debug)]
pub(super) enum Prefix {
    /// The time.
    Time(TimePrefix),
    /// A name: several servers share a terminal.
    Name(String),
}

/// Assembles whole lines from the pieces that `simplelog` writes, and queues them.
#[derive(Debug)]
pub(super) struct LineWriter {
    queue: Queue,
    prefix: Prefix,
    /// The line so far.
    line: Vec<u8>,
}

impl LineWriter {
    pub(super) fn new(queue: &Queue, prefix: Prefix) -> LineWriter {
        LineWriter {
            queue: queue.clone(),
            prefix,
            line: Vec::new(),
        }
    }
}

impl Write for LineWriter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.line.is_empty() {
            match &mut self.prefix {
                Prefix::Time(time) => time.write(Timestamp::now(), &mut self.line),
                Prefix::Name(name) => self.line.extend_from_slice(name.as_bytes()),
            }
        }
        self.line.extend_from_slice(piece);
        if piece.last() == Some(&b'\n') {
            self.queue.push(&self.line, 1);
            self.line.clear();
        }
        Ok(piece.len())
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
    fn lines_are_queued_whole_behind_their_prefix() {
        let queue = Queue::new(bounded(1).0);
        let mut writer = LineWriter::new(&queue, Prefix::Name("Ball: ".to_owned()));
        let mut check = |pieces: &[&str], expected: &str| {
            for piece in pieces {
                writer.write_all(piece.as_bytes()).expect("memory");
            }
            let taken = queue.take(Vec::new());
            assert_eq!(String::from_utf8_lossy(&taken.lines), expected);
        };
        check(
            &["a ", "line", "\n", "another", "\n", "half"],
            "Ball: a line\nBall: another\n",
        );
        check(&[" of it"], "");
        check(&["\n"], "Ball: half of it\n");
    }
}
