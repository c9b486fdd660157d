//! The slots at the door, and which connection is evicted for a newcomer; a plain data structure.
//!
//! Connections from neighbors' addresses and from others have slots of their own, and so have
//! those that have proved a key and those that have not. Where the slots of a class are taken, the
//! connection of the newcomer's own address that has waited longest is evicted; if that address has
//! none, the one of all that has waited longest. So an address without a connection always gets in,
//! and one that floods the door takes slots from itself.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

/// Class of a connection, which has slots of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class {
    /// It comes from a neighbor's address.
    pub(super) is_known: bool,
    /// Its first message was made with a key of the herd, now or once.
    pub(super) is_proved: bool,
}

/// Slots for connections that have proved nothing, for each class. Measured at 15,000 connections a
/// second from the dialer's own address: with 4 slots, 1 dialer of 90 lost its slot before its first
/// message was there; with 16, none of 855.
const UNPROVED_SLOTS: usize = 64;

/// Least number of slots for connections that have proved a key, for each class.
const PROVED_SLOTS: usize = 16;

/// Slots of those classes for each neighbor. After a power failure all of them dial at once, and each
/// keeps its slot for a round trip of up to two seconds.
const PROVED_SLOTS_PER_NEIGHBOR: usize = 2;

impl Class {
    /// Returns the number of slots in a server with that many neighbors.
    fn capacity(self, neighbors: usize) -> usize {
        if self.is_proved {
            PROVED_SLOTS.max(PROVED_SLOTS_PER_NEIGHBOR * neighbors)
        } else {
            UNPROVED_SLOTS
        }
    }
}

/// Returns the number of slots of all classes in a server with that many neighbors.
pub(super) fn capacity(neighbors: usize) -> usize {
    let class = |is_known, is_proved| Class {
        is_known,
        is_proved,
    };
    [
        class(false, false),
        class(false, true),
        class(true, false),
        class(true, true),
    ]
    .map(|class| class.capacity(neighbors))
    .iter()
    .sum()
}

/// A connection at the door.
#[derive(Debug)]
pub(super) struct Slot<T> {
    id: u64,
    address: IpAddr,
    /// Class.
    pub(super) class: Class,
    /// Time at which it is closed.
    pub(super) deadline: Instant,
    /// The connection itself.
    pub(super) connection: T,
}

/// All slots that are taken, in the order of arrival.
#[derive(Debug)]
pub(super) struct Slots<T> {
    taken: VecDeque<Slot<T>>,
    last_id: u64,
}

impl<T> Slots<T> {
    /// No connection.
    pub(super) fn new() -> Slots<T> {
        Slots {
            taken: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Returns the connection to evict for another of that address and class, in a server
    /// with that many neighbors; `None` if there is a slot.
    pub(super) fn to_evict(&self, address: IpAddr, class: Class, neighbors: usize) -> Option<u64> {
        let alike = || self.taken.iter().filter(|slot| slot.class == class);
        if alike().count() < class.capacity(neighbors) {
            return None;
        }
        let address = group(address);
        alike()
            .find(|slot| slot.address == address)
            .or_else(|| alike().next())
            .map(|slot| slot.id)
    }

    /// Returns the id of the next connection.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// Adds a connection, under the next id.
    pub(super) fn insert(
        &mut self,
        address: IpAddr,
        class: Class,
        deadline: Instant,
        connection: T,
    ) {
        self.last_id += 1;
        self.taken.push_back(Slot {
            id: self.last_id,
            address: group(address),
            class,
            deadline,
            connection,
        });
    }

    /// Returns all ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.taken.iter().map(|slot| slot.id)
    }

    fn index(&self, id: u64) -> Option<usize> {
        self.taken.binary_search_by_key(&id, |slot| slot.id).ok()
    }

    /// Returns a connection; `None` if it has left.
    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Slot<T>> {
        let index = self.index(id)?;
        self.taken.get_mut(index)
    }

    /// Removes a connection.
    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        let index = self.index(id)?;
        self.taken.remove(index).map(|slot| slot.connection)
    }

    /// Returns the earliest deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.taken.iter().map(|slot| slot.deadline).min()
    }

    /// Returns a connection whose deadline has passed.
    pub(super) fn overdue(&self, now: Instant) -> Option<u64> {
        let mut slots = self.taken.iter();
        slots.find(|slot| slot.deadline <= now).map(|slot| slot.id)
    }

    #[cfg(test)]
    fn count(&self, class: Class) -> usize {
        self.taken.iter().filter(|slot| slot.class == class).count()
    }
}

/// Returns the address that a connection counts for: of an IPv6 address the first half, since
/// whoever has one address of a network has all of them.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(network.into())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const STRANGER: Class = Class {
        is_known: false,
        is_proved: false,
    };
    const KNOWN: Class = Class {
        is_known: true,
        is_proved: false,
    };

    /// Slots, and the time in milliseconds.
    struct Door {
        slots: Slots<&'static str>,
        start: Instant,
    }

    impl Door {
        fn new() -> Door {
            Door {
                slots: Slots::new(),
                start: Instant::now(),
            }
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        /// A newcomer. Returns the id that it has, and the connection that it pushes out.
        fn enter(
            &mut self,
            label: &'static str,
            address: &str,
            class: Class,
        ) -> (u64, Option<&str>) {
            let address = address.parse().unwrap();
            let out = self.slots.to_evict(address, class, 2);
            let out = out.map(|id| self.slots.remove(id).unwrap());
            let id = self.slots.next_id();
            let deadline = self.at(2_000);
            self.slots.insert(address, class, deadline, label);
            (id, out)
        }
    }

    #[test]
    fn a_flood_from_one_address_takes_places_from_itself_alone() {
        let mut door = Door::new();
        let (first, _) = door.enter("first", "10.0.0.9", STRANGER);
        let (neighbor, _) = door.enter("neighbor", "10.0.0.1", STRANGER);
        for _ in 0..STRANGER.capacity(2) - 2 {
            assert_eq!(door.enter("flood", "10.0.0.9", STRANGER).1, None);
        }
        assert_eq!(door.enter("flood", "10.0.0.9", STRANGER).1, Some("first"));
        for _ in 0..1_000 {
            assert_eq!(door.enter("flood", "10.0.0.9", STRANGER).1, Some("flood"));
        }
        assert!(door.slots.get_mut(first).is_none());
        assert!(door.slots.get_mut(neighbor).is_some());
        assert_eq!(door.slots.count(STRANGER), STRANGER.capacity(2));
        // An address without a slot gets that of the longest wait.
        let (other, out) = door.enter("other", "10.0.0.2", STRANGER);
        assert_eq!(out, Some("neighbor"));
        for _ in 0..1_000 {
            door.enter("flood", "10.0.0.9", STRANGER);
        }
        assert!(door.slots.get_mut(other).is_some());
    }

    #[test]
    fn each_kind_has_places_of_its_own() {
        let mut door = Door::new();
        for index in 0..1_000 {
            let from = format!("10.0.{}.{}", index / 256, index % 256);
            door.enter("stranger", &from, STRANGER);
        }
        for _ in 0..KNOWN.capacity(2) {
            assert_eq!(door.enter("known", "10.1.0.1", KNOWN).1, None);
        }
        assert_eq!(door.slots.count(STRANGER), STRANGER.capacity(2));
        assert_eq!(door.slots.count(KNOWN), KNOWN.capacity(2));
        // One that has proved its key leaves its slot to others.
        let proved = Class {
            is_proved: true,
            ..KNOWN
        };
        let (id, _) = door.enter("proved", "10.1.0.2", KNOWN);
        door.slots.get_mut(id).unwrap().class = proved;
        assert_eq!(door.enter("known", "10.1.0.3", KNOWN).1, None);
        let to_evict = |neighbors| {
            let address = "10.1.0.2".parse().unwrap();
            door.slots.to_evict(address, proved, neighbors)
        };
        assert_eq!(to_evict(2), None);
    }

    #[test]
    fn all_neighbors_may_prove_themselves_at_once() {
        let proved = Class {
            is_known: true,
            is_proved: true,
        };
        assert_eq!(proved.capacity(2), PROVED_SLOTS);
        let mut door = Door::new();
        for index in 0..150 {
            let address = format!("10.1.0.{index}").parse().unwrap();
            assert_eq!(door.slots.to_evict(address, proved, 75), None, "{index}");
            door.enter("neighbor", &address.to_string(), KNOWN);
            let id = door.slots.next_id() - 1;
            door.slots.get_mut(id).unwrap().class = proved;
        }
        let other = "10.1.0.200".parse().unwrap();
        assert_eq!(door.slots.to_evict(other, proved, 75), Some(1));
    }

    #[test]
    fn a_network_counts_as_one_address() {
        let mut door = Door::new();
        let (neighbor, _) = door.enter("neighbor", "2001:db8:0:1::1", STRANGER);
        for index in 0..1_000 {
            door.enter("flood", &format!("2001:db8:0:2::{index:x}"), STRANGER);
        }
        assert!(door.slots.get_mut(neighbor).is_some());
        assert_eq!(
            group("::ffff:10.0.0.1".parse().unwrap()).to_string(),
            "10.0.0.1"
        );
    }

    #[test]
    fn deadlines_pass_in_any_order() {
        let mut door = Door::new();
        assert_eq!(door.slots.deadline(), None);
        let (slow, _) = door.enter("slow", "10.0.0.1", KNOWN);
        let (next, _) = door.enter("next", "10.0.0.1", KNOWN);
        door.slots.get_mut(slow).unwrap().deadline = door.at(5_000);
        assert_eq!(door.slots.deadline(), Some(door.at(2_000)));
        assert_eq!(door.slots.overdue(door.at(1_999)), None);
        assert_eq!(door.slots.overdue(door.at(2_000)), Some(next));
        door.slots.remove(next);
        assert_eq!(door.slots.overdue(door.at(2_000)), None);
        assert_eq!(door.slots.overdue(door.at(5_001)), Some(slow));
    }
}
