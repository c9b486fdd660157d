//! The bounded queue of lines to the log thread.

use std::sync::Arc;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::health;

/// Bytes of lines that wait for the log thread; past this, lines are dropped and counted.
pub(super) const BUFFER_BYTES: usize = 8 << 20;

/// Bytes of lines at which the log thread is woken before its interval is over. That much stays in
/// the processor's cache until it is written.
const WAKE_BYTES: usize = 256 << 10;

/// Lines that wait for the log thread.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pub(super) lines: Vec<u8>,
    pub(super) dropped: u64,
}

/// The lines for one destination.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    buffer: Arc<Mutex<Buffer>>,
    wake: Sender<()>,
}

impl Queue {
    /// Creates an empty queue that sends to `wake` when it grows past [`WAKE_BYTES`].
    pub(super) fn new(wake: Sender<()>) -> Queue {
        Queue {
            buffer: Arc::default(),
            wake,
        }
    }

    /// Queues `count` whole lines, or counts them as dropped.
    pub(super) fn push(&self, lines: &[u8], count: u64) {
        let mut buffer = self.buffer.lock();
        if buffer.lines.len() + lines.len() > BUFFER_BYTES {
            buffer.dropped += count;
            health::count_dropped(count);
            return;
        }
        let before = buffer.lines.len();
        buffer.lines.extend_from_slice(lines);
        let wakes = before < WAKE_BYTES && buffer.lines.len() >= WAKE_BYTES;
        drop(buffer);
        if wakes {
            // A wake-up that is queued already is enough.
            let _ = self.wake.try_send(());
        }
    }

    /// Returns whether no lines are queued.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.lock().lines.is_empty()
    }

    /// Returns the number of lines dropped since it was last taken, and leaves the lines.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.buffer.lock().dropped)
    }

    /// Takes the queued lines, and leaves the memory of `lines` in their place.
    pub(super) fn take(&self, mut lines: Vec<u8>) -> Buffer {
        lines.clear();
        let next = Buffer { lines, dropped: 0 };
        std::mem::replace(&mut *self.buffer.lock(), next)
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn a_full_buffer_drops_and_counts_and_wakes_once() {
        let (wake, woken) = bounded(1);
        let queue = Queue::new(wake);
        let lines = vec![b'x'; 1 << 20];
        for _ in 0..10 {
            queue.push(&lines, 3);
        }
        assert_eq!(woken.len(), 1);
        let taken = queue.take(Vec::new());
        assert_eq!((taken.lines.len(), taken.dropped), (BUFFER_BYTES, 6));
        assert_eq!(queue.take(Vec::new()).dropped, 0);
    }
}
