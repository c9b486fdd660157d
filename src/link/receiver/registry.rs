//! The open connections to the peer port, so that a neighbor's newer connection replaces its older
//! one, and a stop ends all of them.
//!
//! A start of a server has a greater epoch than every start of it before. So while a connection of a
//! later start is open, one of an earlier start can only come from a second server of that name: it
//! is refused, and both are sent the reason. Otherwise each would throw the other out for ever.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;

use crate::link::sender::acks::TWINS;

/// A connection that another thread can shut.
pub(in crate::link) trait Shut {
    /// Ends the given halves of the connection.
    fn shut(&self, how: Shutdown);
}

impl Shut for Arc<TcpStream> {
    fn shut(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
}

/// Connections by number, in the order in which they were made. `S` is a connection, `B` its way back
/// to the neighbor.
#[derive(Debug)]
pub(in crate::link) struct Registry<S, B> {
    stopping: bool,
    last: u64,
    streams: HashMap<u64, S>,
    /// Each neighbor's connection that counts.
    by_neighbor: HashMap<String, Current<B>>,
}

/// A neighbor's connection that counts.
#[derive(Debug)]
struct Current<B> {
    connection: u64,
    /// The neighbor's start.
    epoch: u64,
    from: Option<IpAddr>,
    back: B,
}

/// Two servers have one name.
#[derive(Debug)]
pub(in crate::link) struct Twins<B> {
    /// Their addresses and starts, in words.
    pub(in crate::link) text: String,
    /// The way back to the one that is connected.
    pub(in crate::link) connected: B,
}

impl<S, B> Default for Registry<S, B> {
    fn default() -> Registry<S, B> {
        Registry {
            stopping: false,
            last: 0,
            streams: HashMap::new(),
            by_neighbor: HashMap::new(),
        }
    }
}

impl<S: Shut, B: Clone> Registry<S, B> {
    /// Adds a connection. Returns its number; `None` once all have been stopped.
    pub(in crate::link) fn add(&mut self, stream: S) -> Option<u64> {
        if self.stopping {
            return None;
        }
        self.last += 1;
        self.streams.insert(self.last, stream);
        Some(self.last)
    }

    /// Makes this the connection of the neighbor's start of that epoch, and shuts an older one;
    /// refuses it while one of a later start is open. `dialed_at` is the address at which this server
    /// last dialed the start of an epoch.
    pub(in crate::link) fn replace(
        &mut self,
        connection: u64,
        name: &str,
        (epoch, from): (u64, Option<IpAddr>),
        dialed_at: impl Fn(u64) -> Option<String>,
        back: B,
    ) -> Result<(), Twins<B>> {
        if let Some(current) = self.by_neighbor.get(name) {
            if current.epoch > epoch {
                // The port that a connection comes from is another each time, and says nothing.
                let shown = |from: Option<IpAddr>, epoch| match dialed_at(epoch)
                    .or_else(|| from.map(|from| from.to_string()))
                {
                    Some(at) => format!("one at {at}, epoch {epoch}"),
                    None => format!("one of epoch {epoch}"),
                };
                let (one, other) = (shown(from, epoch), shown(current.from, current.epoch));
                return Err(Twins {
                    text: format!("{TWINS} {name}: {one}, and {other}"),
                    connected: current.back.clone(),
                });
            }
            if let Some(stream) = self.streams.get(&current.connection) {
                stream.shut(Shutdown::Both);
            }
        }
        let current = Current {
            connection,
            epoch,
            from,
            back,
        };
        self.by_neighbor.insert(name.to_owned(), current);
        Ok(())
    }

    /// Wakes the thread of a neighbor's connection, which can still write.
    pub(in crate::link) fn wake(&self, name: &str) {
        let current = self.by_neighbor.get(name);
        if let Some(stream) = current.and_then(|current| self.streams.get(&current.connection)) {
            stream.shut(Shutdown::Read);
        }
    }

    /// Removes a connection that has ended.
    pub(in crate::link) fn remove(&mut self, connection: u64) {
        self.streams.remove(&connection);
        self.by_neighbor
            .retain(|_, current| current.connection != connection);
    }

    /// Wakes the threads of the neighbors' connections, which can still write; shuts all others, and
    /// refuses new ones.
    pub(in crate::link) fn stop(&mut self) {
        self.stopping = true;
        let current = |number| {
            self.by_neighbor
                .values()
                .any(|one| one.connection == number)
        };
        for (number, stream) in &self.streams {
            stream.shut(if current(*number) {
                Shutdown::Read
            } else {
                Shutdown::Both
            });
        }
    }
}
