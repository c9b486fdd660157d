//! Watches: what an application is told of the clients in an area, or of one client, as it changes.
//!
//! A worker that applies a report only notes the change in the replica's feed. The publisher's
//! thread ([`publisher`]) matches it with the watches of its cells ([`registry`]) and leaves a mark
//! with each connection that it concerns ([`marks`]); the owner of the connection is woken, and takes
//! what there is to tell ([`connection`]) when its client has taken what it was sent before. So a
//! watcher that reads slowly is told of the newest of each client, and one that does not read costs
//! a bounded amount of memory and no time of anybody else's.
//!
//! A watch begins with a filling ([`filling`]): all clients that are there, read from the cache piece by
//! piece as the watcher takes them. A connection with too many marks is filled again, and all are
//! after the feed has overflowed.

mod area;
mod connection;
mod filling;
mod marks;
pub(crate) mod publisher;
mod push;
mod registry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::metrics::{Cell, Counter};
use crate::model::area::Circle;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use area::{Area, Scope};
use connection::{Connection, Taking};
use registry::Registry;

pub(crate) use push::Push;

/// Watches of one connection.
const MAX_OF_CONNECTION: usize = 64;

/// Marks of one connection.
const MAX_MARKS: usize = 10_000;

/// The clients that are watched.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Those in a circle.
    Area(Circle),
    /// One client, which need not be known yet.
    Client(Box<[u8]>),
}

/// Reason for which a watch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchError {
    /// The connection has 64 watches, or the server too many, or too many wide ones.
    Busy,
    /// The connection has a watch of that name.
    NameInUse,
}

/// Numbers of what has happened to watches.
#[derive(Debug, Default)]
pub(crate) struct WatchCounts {
    /// Pushes that were taken.
    pub(crate) pushes: Counter,
    /// Connections whose watches were all filled again.
    pub(crate) resets: Counter,
    /// Marks that were dropped for that.
    pub(crate) dropped: Counter,
}

/// The watches of a server.
#[derive(Debug)]
pub(crate) struct Watches {
    replica: Arc<Replica>,
    registry: RwLock<Registry>,
    /// All changes up to this number have been looked at.
    published: AtomicU64,
    counts: WatchCounts,
    /// Marks of one connection; past this all its watches are filled again.
    max_marks: usize,
}

impl Watches {
    /// Creates an empty set of watches.
    pub(crate) fn new(replica: &Arc<Replica>) -> Watches {
        Watches::with_max_marks(replica, MAX_MARKS)
    }

    /// The same; connections are filled again at more than that many marks.
    fn with_max_marks(replica: &Arc<Replica>, max_marks: usize) -> Watches {
        Watches {
            max_marks,
            replica: Arc::clone(replica),
            registry: RwLock::default(),
            published: AtomicU64::new(0),
            counts: WatchCounts::default(),
        }
    }

    /// Returns the number of watches.
    pub(crate) fn len(&self) -> usize {
        self.registry.read().len()
    }

    /// Returns what has happened since the start.
    pub(crate) fn counts(&self) -> &WatchCounts {
        &self.counts
    }

    /// Adds a connection, without a watch. `wake` is called by the publisher's thread when there is
    /// something new to take, and not again before that was taken; it must not block. The filling
    /// of a new watch can be taken without it.
    pub(crate) fn subscribe(self: &Arc<Self>, wake: Box<dyn Fn() + Send + Sync>) -> Subscription {
        Subscription {
            watches: Arc::clone(self),
            connection: Arc::new(Connection::new(wake)),
        }
    }
}

/// One connection's watches. Dropping it ends them.
pub(crate) struct Subscription {
    watches: Arc<Watches>,
    connection: Arc<Connection>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

impl Subscription {
    /// Adds a watch, whose name must be new to the connection.
    pub(crate) fn watch(&mut self, name: &[u8], target: Target) -> Result<(), WatchError> {
        {
            let state = self.connection.state.lock();
            if state.has(name) {
                return Err(WatchError::NameInUse);
            }
            if state.len() >= MAX_OF_CONNECTION {
                return Err(WatchError::Busy);
            }
        }
        let scope = match target {
            Target::Area(circle) => Scope::Area(Box::new(Area::new(circle))),
            Target::Client(client) => Scope::Client(client),
        };
        let watches = &*self.watches;
        let (number, is_wide) = watches
            .registry
            .write()
            .add(&self.connection, &scope, &watches.replica)
            .ok_or(WatchError::Busy)?;
        let mut state = self.connection.state.lock();
        state.add(number, name, scope);
        state.is_wide |= is_wide;
        Ok(())
    }

    /// Ends the watch of that name. Returns whether there was one.
    pub(crate) fn unwatch(&mut self, name: &[u8]) -> bool {
        // The lock of the registry comes first, and with it held nobody marks anything.
        let mut registry = self.watches.registry.write();
        let removed = self.connection.state.lock().remove(name);
        removed
            .map(|(number, scope)| registry.remove(number, &scope, &self.watches.replica))
            .is_some()
    }

    /// Returns whether there is no watch.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.connection.state.lock().len() == 0
    }

    /// Returns whether there is something to take.
    pub(crate) fn has_news(&self) -> bool {
        let mut state = self.connection.state.lock();
        let has_news = state.has_news();
        // A wake-up for nothing is over.
        state.is_awake &= has_news;
        has_news
    }

    /// Shows pushes in their order until their lines take about `max_bytes`, and never more. Returns
    /// whether there are more. Fillings that hide what is dead do so as of `now`.
    pub(crate) fn take(
        &mut self,
        now: Timestamp,
        max_bytes: usize,
        show: &mut dyn FnMut(Push<'_>),
    ) -> bool {
        let watches = &*self.watches;
        let mut pushes = 0;
        let mut taking = Taking {
            replica: &watches.replica,
            published: watches.published.load(Ordering::Acquire),
            now,
            show: &mut |push| {
                pushes += 1;
                show(push);
            },
        };
        let has_more = self.connection.state.lock().take(&mut taking, max_bytes);
        watches.counts.pushes.add(pushes);
        has_more
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut registry = self.watches.registry.write();
        for (number, scope) in self.connection.state.lock().clear() {
            registry.remove(number, &scope, &self.watches.replica);
        }
    }
}
