//! The addresses that neighbors dial from, as far as `servers.txt` and its names say.
//!
//! Connections from these have places of their own before they have proved anything, so that a
//! flood from elsewhere does not compete with a neighbor. An address is no proof: nothing else
//! depends on it, and a neighbor that dials from another address gets in among the strangers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;

/// The addresses of all neighbors, shared by those that look them up and those that ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownAddresses(Arc<RwLock<HashMap<String, Vec<IpAddr>>>>);

impl KnownAddresses {
    /// Replaces the addresses of that neighbor.
    pub(crate) fn set(&self, neighbor: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses
            .into_iter()
            .map(|address| address.to_canonical())
            .collect();
        self.0.write().insert(neighbor.to_owned(), addresses);
    }

    /// Forgets the addresses of that neighbor.
    pub(crate) fn remove(&self, neighbor: &str) {
        self.0.write().remove(neighbor);
    }

    /// Returns whether it is an address of any neighbor.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let neighbors = self.0.read();
        neighbors.values().any(|known| known.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_while_a_neighbor_has_it() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let known = KnownAddresses::default();
        known.set("Ball", ["127.0.0.1", "::1"].map(address));
        known.set("Welsh", [address("127.0.0.1")]);
        known.clone().set("Ball", [address("10.0.0.1")]);
        assert!(!known.contains(address("::1")));
        assert!(known.contains(address("::ffff:10.0.0.1")));
        known.remove("Ball");
        assert!(!known.contains(address("10.0.0.1")));
        assert!(known.contains(address("127.0.0.1")));
    }
}
