//! The number of clients that may be connected at a time, in all and of one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::client::rejections::RejectionCause;

/// Number of clients by address.
type Addresses = Mutex<HashMap<IpAddr, usize>>;

/// Counts the connected clients and bounds their number.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimit {
    /// Number of clients that are connected, kept up to date.
    pub(crate) connected: Arc<AtomicUsize>,
    max_clients: Arc<AtomicUsize>,
    /// Maximum number of one address, and their numbers.
    addresses: Option<(usize, Arc<Addresses>)>,
}

impl ConnectionLimit {
    /// Creates a limit of `max_clients` at a time, and of `per_address` of one address.
    pub(crate) fn new(max_clients: usize, per_address: Option<usize>) -> ConnectionLimit {
        ConnectionLimit {
            connected: Arc::default(),
            max_clients: Arc::new(AtomicUsize::new(max_clients)),
            addresses: per_address.map(|limit| (limit, Arc::default())),
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

    /// Admits one more client from that address, unless the server or the address is at capacity.
    pub(crate) fn admit(&self, from: IpAddr) -> Result<Permit, RejectionCause> {
        let max_clients = self.max_clients.load(Ordering::Relaxed);
        let mut permit = Permit {
            connected: Arc::clone(&self.connected),
            address: None,
        };
        // A permit that is dropped takes this back.
        if self.connected.fetch_add(1, Ordering::Relaxed) >= max_clients {
            return Err(RejectionCause::AtCapacity);
        }
        if let Some((limit, addresses)) = &self.addresses {
            let address = network(from);
            let mut numbers = addresses.lock();
            let number = numbers.entry(address).or_default();
            if *number >= *limit {
                return Err(RejectionCause::AddressAtCapacity);
            }
            *number += 1;
            permit.address = Some((address, Arc::clone(addresses)));
        }
        Ok(permit)
    }
}

/// Returns what counts as one address: an IPv4 address, or the network of 64 bits of an IPv6 address,
/// since a single host has a whole one to choose from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// Permission for one client to be connected; dropping it admits another.
#[derive(Debug)]
pub(crate) struct Permit {
    connected: Arc<AtomicUsize>,
    address: Option<(IpAddr, Arc<Addresses>)>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
        if let Some((address, addresses)) = &self.address
            && let Entry::Occupied(mut number) = addresses.lock().entry(*address)
        {
            *number.get_mut() -= 1;
            if *number.get() == 0 {
                number.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_dropped_permit_admits_another_client() {
        let limit = ConnectionLimit::new(2, None);
        let (first, second) = (limit.admit(HOST), limit.admit(HOST));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(limit.admit(HOST).err(), Some(RejectionCause::AtCapacity));
        assert_eq!(limit.connected.load(Ordering::Relaxed), 2);
        drop(first);
        let third = limit.admit(HOST);
        assert!(third.is_ok());
        limit.clone().set_max_clients(1);
        drop(second);
        assert!(limit.admit(HOST).is_err());
        drop(third);
        assert!(limit.admit(HOST).is_ok());
    }

    #[test]
    fn an_address_has_a_limit_of_its_own() {
        let limit = ConnectionLimit::new(5, Some(2));
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let first = limit.admit(parse("192.0.2.1"));
        let second = limit.admit(parse("::ffff:192.0.2.1"));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(
            limit.admit(parse("192.0.2.1")).err(),
            Some(RejectionCause::AddressAtCapacity)
        );
        let others =
            ["192.0.2.2", "2001:db8::1", "2001:db8::ffff:1"].map(|text| limit.admit(parse(text)));
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(
            limit.admit(parse("2001:db8:0:1::1")).err(),
            Some(RejectionCause::AtCapacity)
        );
        drop(others);
        assert!(limit.admit(parse("192.0.2.1")).is_err());
        drop(first);
        assert!(limit.admit(parse("192.0.2.1")).is_ok());
        drop(second);
        let (_, addresses) = limit.addresses.as_ref().expect("a limit");
        assert!(addresses.lock().is_empty());
        assert_eq!(limit.connected.load(Ordering::Relaxed), 0);
    }
}
