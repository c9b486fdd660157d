//! The replies that clients have not taken, in all: a bound on their memory.
//!
//! One client's are bounded by its session and by its deadline, but clients are many. Past the
//! bound the client goes whose replies have waited longest.

use std::collections::BTreeMap;

use crate::client::connection::SEND_BUFFER_BYTES;
use crate::model::time::Tick;

/// Replies not taken, by connection.
#[derive(Debug, Default)]
pub(super) struct UnsentReplies {
    /// Bytes of each connection that has any, by their deadline and the connection's slot.
    connections: BTreeMap<(Tick, usize), usize>,
    bytes: usize,
    max_bytes: usize,
}

impl UnsentReplies {
    /// Creates an empty collection of at most `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> UnsentReplies {
        UnsentReplies {
            max_bytes,
            ..UnsentReplies::default()
        }
    }

    /// Adds the connection in slot `key`, of whose replies `bytes` are with its session, and more
    /// with the system.
    pub(super) fn add(&mut self, key: usize, deadline: Tick, bytes: usize) {
        let bytes = bytes + SEND_BUFFER_BYTES;
        self.bytes += bytes;
        self.connections.insert((deadline, key), bytes);
    }

    /// Removes the connection, if it was added with that deadline.
    pub(super) fn remove(&mut self, key: usize, deadline: Tick) {
        if let Some(bytes) = self.connections.remove(&(deadline, key)) {
            self.bytes -= bytes;
        }
    }

    /// Past the bound, removes the connection with the earliest deadline and returns its slot.
    pub(super) fn remove_excess(&mut self) -> Option<usize> {
        if self.bytes <= self.max_bytes {
            return None;
        }
        let ((_, key), bytes) = self.connections.pop_first()?;
        self.bytes -= bytes;
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_once_there_are_too_many() {
        let mut unsent = UnsentReplies::new(3 * (SEND_BUFFER_BYTES + 10));
        for (key, deadline) in [(0, 30), (1, 10), (2, 20)] {
            unsent.add(key, Tick(deadline), 10);
        }
        assert_eq!(unsent.remove_excess(), None);
        unsent.add(3, Tick(40), 9);
        assert_eq!(unsent.remove_excess(), Some(1));
        assert_eq!(unsent.remove_excess(), None);
        unsent.remove(0, Tick(30));
        unsent.remove(0, Tick(30));
        unsent.add(0, Tick(50), 20);
        unsent.add(1, Tick(60), 0);
        assert_eq!(unsent.remove_excess(), Some(2));
        for (key, deadline) in [(0, 50), (1, 60), (3, 40)] {
            unsent.remove(key, Tick(deadline));
        }
        assert_eq!((unsent.bytes, unsent.connections.len()), (0, 0));
    }
}
