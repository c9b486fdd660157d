//! The open connections to the peer port, so that a neighbor's newer connection replaces its older
//! one, and a stop ends all of them.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};

/// A connection that another thread can shut.
pub(in crate::link) trait Shut {
    /// Ends the given halves of the connection.
    fn shut(&self, how: Shutdown);
}

impl Shut for TcpStream {
    fn shut(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
}

/// Connections by number, in the order in which they were made.
#[derive(Debug)]
pub(in crate::link) struct Registry<S> {
    stopping: bool,
    last: u64,
    streams: HashMap<u64, S>,
    /// The number of each neighbor's connection that counts.
    by_neighbor: HashMap<String, u64>,
}

impl<S> Default for Registry<S> {
    fn default() -> Registry<S> {
        Registry {
            stopping: false,
            last: 0,
            streams: HashMap::new(),
            by_neighbor: HashMap::new(),
        }
    }
}

impl<S: Shut> Registry<S> {
    /// Adds a connection. Returns its number; `None` once all have been stopped.
    pub(in crate::link) fn add(&mut self, stream: S) -> Option<u64> {
        if self.stopping {
            return None;
        }
        self.last += 1;
        self.streams.insert(self.last, stream);
        Some(self.last)
    }

    /// Makes this the neighbor's connection, and shuts an older one.
    pub(in crate::link) fn replace(&mut self, connection: u64, name: &str) {
        if let Some(old) = self.by_neighbor.insert(name.to_owned(), connection)
            && let Some(stream) = self.streams.get(&old)
        {
            stream.shut(Shutdown::Both);
        }
    }

    /// Wakes the thread of a neighbor's connection, which can still write.
    pub(in crate::link) fn wake(&self, name: &str) {
        let connection = self.by_neighbor.get(name);
        if let Some(stream) = connection.and_then(|number| self.streams.get(number)) {
            stream.shut(Shutdown::Read);
        }
    }

    /// Removes a connection that has ended.
    pub(in crate::link) fn remove(&mut self, connection: u64) {
        self.streams.remove(&connection);
        self.by_neighbor
            .retain(|_, &mut current| current != connection);
    }

    /// Shuts all connections, and refuses any others.
    pub(in crate::link) fn stop(&mut self) {
        self.stopping = true;
        for stream in self.streams.values() {
            stream.shut(Shutdown::Both);
        }
    }
}
