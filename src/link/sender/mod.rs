//! The owner's side of the thread that keeps one neighbor fed: what it is told, and by whom.
//!
//! Its owner orders it to dial elsewhere or to end, receivers and the audit tell it of the
//! neighbor; what the thread does is in `feeder`.

mod acks;
mod feed;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Sender as Channel, bounded};

use crate::config::topology::Address;
use crate::link::keyring::Keyring;
use crate::link::neighbor::Monitor;
use crate::link::refusals::RejectedPeers;
use crate::replica::Replica;
use crate::replica::outbox::{LinkId, OutboxReceiver};
use acks::{Reading, read};
use feed::SenderThread;

/// Messages from receivers and from the audit that a sender holds; past this they are dropped: a
/// sender with messages waiting is awake, and a difference is found again.
const CONTROL_MESSAGES: usize = 8;

/// Orders that a sender holds while it is in a write or dials; past this who orders waits, for
/// as long as that takes.
const ORDERS: usize = 4;

/// The neighbor that a sender feeds.
#[derive(Clone, Debug)]
pub struct Neighbor {
    /// Its place in the flood.
    pub link: LinkId,
    /// Its name.
    pub name: String,
    /// Where it listens for peers.
    pub address: Address,
}

/// What a sender's owner orders.
#[derive(Debug)]
pub(super) enum Order {
    /// The neighbor is somewhere else.
    Redial(Address),
    /// Send what is queued, take leave, and end.
    End(CloseReason),
}

/// Why a sender takes leave; the neighbor is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The server stops.
    Stopping,
    /// The neighbor is one no longer.
    Dismissed,
    /// The neighbor is looked for at another address from now on.
    Moved,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::Stopping => "stopping",
            CloseReason::Dismissed => crate::link::DISMISSED,
            CloseReason::Moved => "servers.txt there has another address for this server",
        })
    }
}

/// What others than its owner and its reader tell a sender.
#[derive(Debug)]
pub(super) enum Control {
    /// The neighbor has just connected to us: it is worth dialing at once.
    Wake,
    /// The neighbor lacks records of these buckets that its vector covers.
    Repair(Box<[usize]>),
}

/// The other end of that.
#[derive(Clone, Debug)]
pub struct SenderHandle(Channel<Control>);

impl SenderHandle {
    /// Says that the neighbor is there.
    pub fn wake(&self) {
        // A sender with messages waiting is awake.
        let _ = self.0.try_send(Control::Wake);
    }

    /// Has all records of these buckets of the digest sent, whatever the neighbor says it holds.
    pub fn repair(&self, buckets: &[usize]) {
        // What can't be told now is found again at the next comparisons.
        let _ = self.0.try_send(Control::Repair(buckets.into()));
    }
}

/// The two threads that keep one neighbor fed.
#[derive(Debug)]
pub struct Sender {
    threads: [JoinHandle<()>; 2],
    handle: SenderHandle,
    monitor: Arc<Monitor>,
    orders: Channel<Order>,
    address: Address,
}

impl Sender {
    /// Starts to dial, and to feed whoever answers.
    pub fn start(
        replica: Arc<Replica>,
        keys: Arc<Keyring>,
        neighbor: Neighbor,
        outlet: OutboxReceiver,
        refusals: Arc<RejectedPeers>,
    ) -> io::Result<Sender> {
        let (control, told) = bounded(CONTROL_MESSAGES);
        let (orders, ordered) = bounded(ORDERS);
        let address = neighbor.address.clone();
        let (reader, connections) = bounded::<Reading>(0);
        let handle = SenderHandle(control);
        let thread = |role: &str| {
            std::thread::Builder::new()
                .name(format!("{role}-{}", neighbor.name))
                .stack_size(crate::thread::STACK_BYTES)
        };
        let monitor = Arc::new(Monitor::new(outlet.gauge()));
        let acknowledged = Arc::clone(&monitor);
        let hear = thread("link-reader").spawn(move || {
            for reading in connections {
                read(reading, &acknowledged);
            }
        })?;
        let feeder = SenderThread {
            replica,
            keys,
            neighbor: neighbor.clone(),
            outlet,
            monitor: Arc::clone(&monitor),
            told,
            reader,
            ordered,
            refusals,
            is_live: false,
            resync_allowed: Instant::now(),
        };
        let feed = thread("link-sender").spawn(move || feeder.run())?;
        Ok(Sender {
            threads: [feed, hear],
            handle,
            monitor,
            orders,
            address,
        })
    }

    /// What others may tell it.
    pub fn handle(&self) -> SenderHandle {
        self.handle.clone()
    }

    /// How the link is doing.
    pub fn monitor(&self) -> Arc<Monitor> {
        Arc::clone(&self.monitor)
    }

    /// Where it dials.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Leaves the neighbor's old address, and dials this one at once.
    pub fn redial(&mut self, address: Address) {
        self.address = address.clone();
        // A sender that is gone has said why.
        let _ = self.orders.send(Order::Redial(address));
    }

    /// Tells it to send what is queued, to take leave of the neighbor, and to end.
    pub fn end(&self, farewell: CloseReason) {
        let _ = self.orders.send(Order::End(farewell));
    }

    /// Waits for both threads to end, after they have been told to.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
