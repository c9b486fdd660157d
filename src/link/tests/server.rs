//! A server of a script: all of its state but its connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::memory::{Clock, Outgoing, Pipe, peer};
use crate::config::keys::{HerdId, KeyFile};
use crate::link::audit::{Auditor, PeerDigest, PeerDigests};
use crate::link::neighbor::Neighbor;
use crate::link::receiver::pulse::BackChannel;
use crate::link::receiver::registry::Registry;
use crate::link::refusals::RejectedPeers;
use crate::link::sender::dialer::Dialer;
use crate::link::sender::feed::Feed;
use crate::link::sender::orders::Request;
use crate::model::digest::DigestKey;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::thread::{Stopper, stop_pair};

/// Epoch of each server's first start.
pub(super) const FIRST_EPOCH: u64 = 7;

/// Interval of the scripts' audits, within which no connection falls silent.
const AUDIT_INTERVAL: Duration = Duration::from_secs(2);

/// The settings of a server, which a restart keeps.
pub(super) struct Settings {
    pub(super) keys: KeyFile,
    pub(super) herd: HerdId,
    pub(super) versions: Option<u64>,
    pub(super) queue: usize,
}

/// A server of a script.
pub(super) struct Server {
    pub(super) settings: Settings,
    pub(super) replica: Arc<Replica>,
    pub(super) links: BTreeMap<String, Link>,
    pub(super) registry: Registry<Pipe, Arc<BackChannel<Outgoing>>>,
    pub(super) auditor: Auditor,
    pub(super) peer_digests: PeerDigests,
    pub(super) received: Receiver<PeerDigest>,
    /// Epoch by which it identifies itself.
    pub(super) epoch: u64,
    /// Seconds by which its clock is ahead.
    pub(super) ahead: u64,
    _stopper: Stopper,
}

/// A server's link to one neighbor.
pub(super) struct Link {
    pub(super) neighbor: Arc<Neighbor>,
    pub(super) feed: Feed,
    pub(super) requests: Receiver<Request>,
    pub(super) dialer: Dialer,
}

fn digest_key() -> DigestKey {
    DigestKey::new(b"a herd")
}

impl Server {
    /// Starts a server without records and neighbors.
    pub(super) fn new(name: &str, epoch: u64, settings: Settings) -> Server {
        let (stopper, stop) = stop_pair();
        let (peer_digests, received) = PeerDigests::new();
        let replica = Arc::new(Replica::new(name, epoch, 1_000));
        let auditor = Auditor::new(Arc::clone(&replica), digest_key(), AUDIT_INTERVAL, stop);
        Server {
            settings,
            links: BTreeMap::new(),
            registry: Registry::default(),
            auditor,
            peer_digests,
            received,
            replica,
            epoch,
            ahead: 0,
            _stopper: stopper,
        }
    }

    /// Returns the time by its clock.
    pub(super) fn clock(&self, clock: &Clock) -> Timestamp {
        Timestamp::from_nanos(clock.wall().as_nanos() + self.ahead * 1_000_000_000)
    }

    /// Makes another server its neighbor.
    pub(super) fn add_link(&mut self, neighbor: &str, now: Instant) {
        let (id, outbox) = self.replica.add_link_bounded(self.settings.queue);
        let (requests, requested) = bounded(8);
        let state = Arc::new(Neighbor::new(neighbor, id, outbox.gauge(), requests));
        let rejected = Arc::<RejectedPeers>::default();
        let replica = Arc::clone(&self.replica);
        let link = Link {
            feed: Feed::new(replica, digest_key(), Arc::clone(&state), outbox, now),
            dialer: Dialer::new(Arc::clone(&state), rejected, peer(1), now),
            requests: requested,
            neighbor: state,
        };
        self.links.insert(neighbor.to_owned(), link);
    }
}
