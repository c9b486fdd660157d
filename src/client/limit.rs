//! The number of clients that may be connected at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the connected clients and bounds their number.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimit {
    /// Number of clients that are connected, kept up to date.
    pub(crate) connected: Arc<AtomicUsize>,
    max_clients: Arc<AtomicUsize>,
}

impl ConnectionLimit {
    /// Creates a limit of `max_clients` at a time.
    pub(crate) fn new(max_clients: usize) -> ConnectionLimit {
        ConnectionLimit {
            connected: Arc::default(),
            max_clients: Arc::new(AtomicUsize::new(max_clients)),
        }
    }

    /// Changes the maximum number of clients. Those that are connected stay.
    pub(crate) fn set_max_clients(&self, max_clients: usize) {
        self.max_clients.store(max_clients, Ordering::Relaxed);
    }

    /// Returns the number of clients that are connected, and the maximum.
    pub(crate) fn fill(&self) -> (usize, usize) {
        let max_clients = self.max_clients.load(Ordering::Relaxed);
        (self.connected.load(Ordering::Relaxed), max_clients)
    }

    /// Admits one more client, or returns `None` at capacity.
    pub(crate) fn admit(&self) -> Option<Permit> {
        let max_clients = self.max_clients.load(Ordering::Relaxed);
        if self.connected.fetch_add(1, Ordering::Relaxed) < max_clients {
            Some(Permit(Arc::clone(&self.connected)))
        } else {
            self.connected.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }
}

/// Permission for one client to be connected; dropping it admits another.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_admits_another_client() {
        let limit = ConnectionLimit::new(2);
        let (first, second) = (limit.admit(), limit.admit());
        assert!(first.is_some() && second.is_some() && limit.admit().is_none());
        assert_eq!(limit.connected.load(Ordering::Relaxed), 2);
        drop(first);
        let third = limit.admit();
        assert!(third.is_some());
        limit.clone().set_max_clients(1);
        drop(second);
        assert!(limit.admit().is_none());
        drop(third);
        assert!(limit.admit().is_some());
    }
}
