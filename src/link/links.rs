//! A server's links to all its neighbors: the one owner of their threads.
//!
//! Who the neighbors are may change while the herd runs. A new one gets its queue, its sender and
//! its place at the peer port; one that is gone is told so on both connections, and its queue is
//! let go of; one that has moved is dialed at its new address, with the same queue. The others
//! notice nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::config::keys::KeyFile;
use crate::config::topology::{Address, Topology};
use crate::link::audit::Audit;
use crate::link::keyring::{AnotherHerd, Keyring};
use crate::link::neighbor::LinkStatus;
use crate::link::receiver::{Known, PeerAcceptor, Receivers};
use crate::link::refusals::RejectedPeers;
use crate::link::sender::{CloseReason, Neighbor, Sender};
use crate::replica::Replica;
use crate::replica::outbox::LinkId;
use crate::thread::{self, Stopper};

/// All links of one server.
#[derive(Debug)]
pub struct Links {
    replica: Arc<Replica>,
    keys: Arc<Keyring>,
    feeds: BTreeMap<String, Feed>,
    receivers: Receivers,
    refusals: Arc<RejectedPeers>,
    audit: Audit,
    stopper: Stopper,
}

/// What feeds one neighbor.
#[derive(Debug)]
struct Feed {
    link: LinkId,
    sender: Sender,
}

/// What became of the neighbors, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Neighbors from now on.
    pub added: Vec<String>,
    /// Neighbors no longer.
    pub removed: Vec<String>,
    /// Dialed at another address from now on.
    pub moved: Vec<String>,
}

impl Changes {
    /// Whether all is as it was.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("new", &self.added),
            ("gone", &self.removed),
            ("moved", &self.moved),
        ];
        let mut separator = "";
        for (what, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{what}: {}", names.join(", "))?;
            separator = "; ";
        }
        if self.is_empty() {
            f.write_str("the same as before")?;
        }
        Ok(())
    }
}

/// The peer addresses of a server's neighbors, by their names.
pub fn neighbors(topology: &Topology, server: &str) -> BTreeMap<String, Address> {
    let names = topology.server(server).map(|server| &server.neighbors);
    names
        .into_iter()
        .flatten()
        .filter_map(|name| topology.server(name))
        .map(|neighbor| (neighbor.name.clone(), neighbor.peer.clone()))
        .collect()
}

impl Links {
    /// Begins with no neighbor. `clients` is how many clients are connected, for observers. Digests are compared once in each `digest_interval`.
    pub fn start(
        replica: Arc<Replica>,
        keys: Arc<Keyring>,
        clients: Arc<AtomicUsize>,
        digest_interval: Duration,
    ) -> io::Result<Links> {
        let (stopper, stop) = thread::stop_pair();
        let audit = Audit::start(
            Arc::clone(&replica),
            keys.digest_key(),
            digest_interval,
            stop,
        )?;
        let refusals = Arc::<RejectedPeers>::default();
        let receivers = Receivers::start(
            Arc::clone(&replica),
            Arc::clone(&keys),
            audit.claims(),
            clients,
            Arc::clone(&refusals),
        )?;
        Ok(Links {
            replica,
            keys,
            feeds: BTreeMap::new(),
            receivers,
            refusals,
            audit,
            stopper,
        })
    }

    /// Makes these the neighbors, and says what that changed. Waits until who is gone has been
    /// left. On an error, which is that a thread can't be made, some changes may not have been
    /// made; the next call makes them.
    pub fn set_neighbors(&mut self, wanted: &BTreeMap<String, Address>) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let gone = |name: &String, _: &mut Feed| !wanted.contains_key(name);
        let gone: Vec<_> = self.feeds.extract_if(.., gone).collect();
        for (name, feed) in &gone {
            self.receivers.dismiss(name);
            feed.sender.end(CloseReason::Dismissed);
        }
        for (name, feed) in gone {
            feed.sender.join();
            self.replica.remove_link(feed.link);
            changes.removed.push(name);
        }
        for (name, address) in wanted {
            match self.feeds.get_mut(name) {
                Some(feed) if feed.sender.address() == address => {}
                Some(feed) => {
                    feed.sender.redial(address.clone());
                    changes.moved.push(name.clone());
                }
                None => {
                    self.add(name, address)?;
                    changes.added.push(name.clone());
                }
            }
        }
        Ok(changes)
    }

    fn add(&mut self, name: &str, address: &Address) -> io::Result<()> {
        let (link, outlet) = self.replica.add_link();
        let neighbor = Neighbor {
            link,
            name: name.to_owned(),
            address: address.clone(),
        };
        let (replica, keys) = (Arc::clone(&self.replica), Arc::clone(&self.keys));
        let refusals = Arc::clone(&self.refusals);
        let begun = Sender::start(replica, keys, neighbor, outlet, refusals).and_then(|sender| {
            let admitted = self.receivers.admit(name, Known::new(link, &sender));
            if admitted.is_err() {
                sender.end(CloseReason::Stopping);
                sender.join();
                admitted?;
            } else {
                self.feeds.insert(name.to_owned(), Feed { link, sender });
            }
            Ok(())
        });
        if begun.is_err() {
            self.replica.remove_link(link);
        }
        begun
    }

    /// Makes links with these keys from now on; whether they are others than before.
    pub fn replace_keys(&self, keys: KeyFile) -> Result<bool, AnotherHerd> {
        self.keys.replace(keys)
    }

    /// Where the peer listener brings its connections.
    pub fn door(&self) -> PeerAcceptor {
        self.receivers.door()
    }

    /// How they are doing, by the neighbors' names.
    pub fn status(&self) -> BTreeMap<String, LinkStatus> {
        let status =
            |(name, feed): (&String, &Feed)| (name.clone(), feed.sender.monitor().status());
        self.feeds.iter().map(status).collect()
    }

    /// How many connections to the peer port were refused, or links of either direction broken off
    /// for what came over them.
    pub fn refused(&self) -> u64 {
        self.refusals.count()
    }

    /// Sends what is queued for the neighbors, takes leave of them, and joins every thread. The
    /// listener's [`PeerAcceptor`] must be gone.
    pub fn stop(self) {
        for feed in self.feeds.values() {
            feed.sender.end(CloseReason::Stopping);
        }
        for feed in self.feeds.into_values() {
            feed.sender.join();
        }
        self.stopper.stop();
        self.audit.join();
        self.receivers.stop();
    }
}
