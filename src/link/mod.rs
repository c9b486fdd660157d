//! The links of a server to its neighbors: the one owner of their state and their threads.
//!
//! A server dials each of its neighbors: that connection carries records to the neighbor,
//! and the neighbor's vector and acknowledgements back. So between two neighbors there are two
//! connections, one for each direction of the flood, and neither side has to agree on who dials.
//!
//! The neighbors may change while the herd runs. A new one gets its queue, its sender and its place
//! at the peer port; one that is removed is sent the reason on both connections, and its queue is
//! dropped; one that has moved is dialed at its new address, with the same queue. The others notice
//! nothing.
//!
//! - [`neighbor`] is the one state of a neighbor.
//! - [`sender`] dials a neighbor and feeds it; [`receiver`] takes the records that neighbors flood.
//! - [`door`] holds the connections to the peer port until their peers are identified; [`known`] is
//!   where neighbors dial from.
//! - [`audit`] compares the records of both sides now and then.
//! - [`handshake`] authenticates a peer, by [`noise`] and the keys of [`keyring`]; [`framing`] is
//!   encrypted lines, [`liveness`] the signs of life.
//! - [`refusals`] counts and logs rejected peers; [`status`] answers status requests.
//! - [`catch_up`] is the wait for a neighbor's records at the start; [`facts`] is what the server's
//!   state depends on, [`figures`] what its metrics show, [`traffic`] the bytes on the sockets;
//!   [`linked`] remembers the key by which it had a link.

pub(crate) mod audit;
pub mod catch_up;
pub(crate) mod door;
pub(crate) mod facts;
pub(crate) mod figures;
pub mod framing;
pub mod handshake;
pub(crate) mod keyring;
pub(crate) mod known;
pub(crate) mod linked;
mod liveness;
pub mod neighbor;
mod noise;
pub(crate) mod receiver;
pub(crate) mod refusals;
mod sender;
pub mod status;
#[cfg(test)]
mod tests;
mod traffic;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::keys::KeyFile;
use crate::config::topology::{Address, Topology};
use crate::health::Health;
use crate::metrics::Histogram;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::Replica;
use crate::thread::{self, Stopper};
use audit::Audit;
use catch_up::CatchUp;
use door::PeerAcceptor;
use facts::LinkFacts;
use figures::LinkFigures;
use keyring::{AnotherHerd, Keyring};
use known::KnownAddresses;
use linked::LinkedKey;
use neighbor::{LinkStatus, Neighbors};
use receiver::Receivers;
use refusals::RejectedPeers;
use sender::Sender;
use sender::orders::CloseReason;
use status::{ClientFigures, ServerStatus, StatusSource};

/// Descriptors of each neighbor: its connections to this server, the one to it with the reader's
/// handle on it, and an attempt to dial it that was given up.
const DESCRIPTORS_PER_NEIGHBOR: usize = receiver::CONNECTIONS_PER_NEIGHBOR + 3;

/// Returns the number of descriptors that links take at most: for peers at the door, for observers,
/// and for the neighbors.
pub(crate) fn descriptors(neighbors: usize) -> usize {
    door::descriptors(neighbors) + receiver::OBSERVERS + DESCRIPTORS_PER_NEIGHBOR * neighbors
}

/// All links of one server.
#[derive(Debug)]
pub struct Links {
    shared: sender::Shared,
    neighbors: Arc<Neighbors>,
    senders: BTreeMap<String, Sender>,
    receivers: Receivers,
    status: StatusSource,
    facts: LinkFacts,
    figures: LinkFigures,
    audit: Audit,
    stopper: Stopper,
}

/// Changes of a server's neighbors, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New neighbors.
    pub added: Vec<String>,
    /// Neighbors that were removed.
    pub removed: Vec<String>,
    /// Neighbors that are dialed at another address from now on.
    pub moved: Vec<String>,
}

impl Changes {
    /// Returns whether nothing changed.
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

/// Returns the peer addresses of a server's neighbors by name.
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
    /// Starts without neighbors. `clients` has the figures about clients, and `health`
    /// the state of the server, for status requests. Digests are compared once in each
    /// `digest_interval`.
    pub(crate) fn start(
        replica: Arc<Replica>,
        keys: Arc<Keyring>,
        clients: Arc<dyn ClientFigures>,
        health: Arc<Health>,
        digest_interval: Duration,
        linked: LinkedKey,
    ) -> io::Result<Links> {
        let (stopper, stop) = thread::stop_pair();
        let audit = Audit::start(
            Arc::clone(&replica),
            keys.digest_key(),
            digest_interval,
            stop,
        )?;
        let linked = Arc::new(linked);
        let neighbors: Arc<Neighbors> = Arc::default();
        let rejected: Arc<RejectedPeers> = Arc::default();
        let status = StatusSource {
            replica: Arc::clone(&replica),
            clients,
            neighbors: Arc::clone(&neighbors),
            rejected: Arc::clone(&rejected),
            health,
            keys: Arc::clone(&keys),
            started: Instant::now(),
        };
        let facts = LinkFacts {
            neighbors: Arc::clone(&neighbors),
            keys: Arc::clone(&keys),
            linked: Arc::clone(&linked),
            catch_up: Arc::new(CatchUp::new(Arc::clone(&replica), Instant::now())),
        };
        let figures = LinkFigures {
            neighbors: Arc::clone(&neighbors),
            rejected: Arc::clone(&rejected),
            delays: Arc::<Histogram>::default(),
        };
        let known = KnownAddresses::default();
        let receivers = Receivers::start(
            Arc::clone(&replica),
            Arc::clone(&keys),
            Arc::clone(&neighbors),
            known.clone(),
            audit.peer_digests(),
            status.clone(),
            (Arc::clone(&facts.catch_up), Arc::clone(&figures.delays)),
        )?;
        Ok(Links {
            shared: sender::Shared {
                replica,
                keys,
                rejected,
                known,
                linked,
            },
            neighbors,
            senders: BTreeMap::new(),
            receivers,
            status,
            facts,
            figures,
            audit,
            stopper,
        })
    }

    /// Makes these the neighbors, and returns the changes. Waits until the connections to removed
    /// neighbors are closed. An error means that a thread can't be made; some changes may be
    /// missing then, and the next call makes them.
    pub fn set_neighbors(&mut self, wanted: &BTreeMap<String, Address>) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let is_removed = |name: &String, _: &mut Sender| !wanted.contains_key(name);
        let removed: Vec<_> = self.senders.extract_if(.., is_removed).collect();
        for (name, sender) in &removed {
            self.neighbors.dismiss(name);
            self.shared.known.remove(name);
            self.receivers.wake(name);
            sender.end(CloseReason::Dismissed);
        }
        for (name, sender) in removed {
            let link = sender.neighbor().link();
            sender.join();
            self.shared.replica.remove_link(link);
            changes.removed.push(name);
        }
        for (name, address) in wanted {
            // Of a name, the dialer knows the addresses once it has looked them up.
            if let Ok(ip) = address.host.parse() {
                self.shared.known.set(name, [ip]);
            }
            match self.senders.get_mut(name) {
                Some(sender) if sender.address() == address => {}
                Some(sender) => {
                    sender.redial(address.clone());
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
        self.receivers.make_threads(self.neighbors.len() + 1)?;
        let (link, outbox) = self.shared.replica.add_link();
        let sender = Sender::start(self.shared.clone(), name, address, (link, outbox))
            .inspect_err(|_| self.shared.replica.remove_link(link))?;
        self.neighbors.insert(Arc::clone(sender.neighbor()));
        self.senders.insert(name.to_owned(), sender);
        Ok(())
    }

    /// Checks that keys are of this herd.
    pub fn check_keys(&self, keys: &KeyFile) -> Result<(), AnotherHerd> {
        self.shared.keys.check(keys)
    }

    /// Uses these keys for connections from now on. Returns whether they are different.
    pub fn replace_keys(&self, keys: KeyFile) -> Result<bool, AnotherHerd> {
        self.shared.keys.replace(keys)
    }

    /// Returns the peer listener's way to bring its connections.
    pub fn acceptor(&self) -> PeerAcceptor {
        self.receivers.acceptor()
    }

    /// Returns the view of the links that the server's state depends on.
    pub(crate) fn facts(&self) -> &LinkFacts {
        &self.facts
    }

    /// Returns a handle on the status of the server.
    pub(crate) fn status_source(&self) -> &StatusSource {
        &self.status
    }

    /// Returns the figures of the links, for the metrics.
    pub(crate) fn figures(&self) -> &LinkFigures {
        &self.figures
    }

    /// Returns the status of the server, without the digest of its records.
    pub fn server_status(&self) -> ServerStatus {
        self.status.status()
    }

    /// Returns the state of the links by the neighbors' names.
    pub fn status(&self) -> BTreeMap<String, LinkStatus> {
        self.neighbors.status(Instant::now())
    }

    /// Returns the number of connections to the peer port that were refused, and of links of either
    /// direction that were broken off for the data that came over them.
    pub fn refused(&self) -> u64 {
        self.shared.rejected.count()
    }

    /// Sends what is queued for the neighbors, closes the connections gracefully, and joins every
    /// thread. The listener's [`PeerAcceptor`] must be gone.
    ///
    /// Returns the number of records that no neighbor has confirmed to hold; 0 for a herd of one.
    pub fn stop(self) -> usize {
        for sender in self.senders.values() {
            sender.end(CloseReason::Stopping);
        }
        let mut confirmed = Vector::default();
        let is_alone = self.senders.is_empty();
        for sender in self.senders.into_values() {
            let neighbor = Arc::clone(sender.neighbor());
            sender.join();
            confirmed.merge(&neighbor.confirmed());
        }
        self.stopper.stop();
        self.audit.join();
        for neighbor in self.neighbors.all() {
            neighbor.close(CloseReason::Stopping);
        }
        self.receivers.stop();
        if is_alone {
            0
        } else {
            self.shared
                .replica
                .count_above(&confirmed, Timestamp::now())
        }
    }
}
