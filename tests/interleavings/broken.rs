//! A small replica, made of the real cache, queues and vector, that works correctly or has one of
//! several faults that the tests must notice.

use crate::model::command::Report;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::cache::Locations;
use crate::replica::flood::Flood;
use crate::replica::outbox::{Batch, LinkId, NeighborStart, OutboxReceiver};
use crate::sync::Mutex;

use super::{ORIGIN, Server};

/// The faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The vector covers a report before the cache holds it.
    ClaimedBeforeStored,
    /// A report is queued after the lock was released.
    QueuedAfterRelease,
    /// The number is assigned, and the lock released before it is used.
    NumberedBeforehand,
    /// The time of a tombstone is chosen, and the lock released before it is stored.
    ForgotBeforehand,
}

pub struct Broken {
    fault: Option<Fault>,
    locations: Locations,
    apply: Mutex<Apply>,
}

struct Apply {
    sequence: u64,
    vector: Vector,
    flood: Flood,
}

impl Broken {
    pub fn new(fault: Option<Fault>) -> Broken {
        Broken {
            fault,
            locations: Locations::new(),
            apply: Mutex::new(Apply {
                sequence: 0,
                vector: Vector::default(),
                flood: Flood::default(),
            }),
        }
    }
}

impl Server for Broken {
    fn report(&self, report: &Report<'_>, received: Timestamp) {
        let key = self.locations.key(report.client);
        let mut apply = self.apply.lock();
        let is_stale = self.locations.with(key, report.client, |stored| {
            stored.is_some_and(|stored| report.time <= stored.time)
        });
        if is_stale {
            return;
        }
        apply.sequence += 1;
        let sequence = apply.sequence;
        if self.fault == Some(Fault::NumberedBeforehand) {
            drop(apply);
            apply = self.apply.lock();
        }
        if self.fault == Some(Fault::ClaimedBeforeStored) {
            apply.vector.advance(ORIGIN, 1, sequence);
            drop(apply);
            apply = self.apply.lock();
        }
        let record = RecordView::of_report(report, received, ORIGIN, 1, sequence);
        self.locations.store(key, &record);
        apply.vector.advance(ORIGIN, 1, sequence);
        if self.fault == Some(Fault::QueuedAfterRelease) {
            drop(apply);
            apply = self.apply.lock();
        }
        let mut line = Vec::new();
        record.write_line(&mut line);
        apply.flood.publish(&Batch::new(line, 1), None);
    }

    fn forget(&self, client: &[u8], now: Timestamp) {
        let key = self.locations.key(client);
        let mut apply = self.apply.lock();
        let stored = self.locations.with(key, client, |stored| {
            stored.map_or(0, |stored| stored.time.as_nanos() + 1)
        });
        let time = Timestamp::from_nanos(stored.max(now.as_nanos()));
        if self.fault == Some(Fault::ForgotBeforehand) {
            drop(apply);
            apply = self.apply.lock();
        }
        apply.sequence += 1;
        let tombstone = RecordView::tombstone(client, time, ORIGIN, 1, apply.sequence);
        self.locations.store(key, &tombstone);
        let sequence = apply.sequence;
        apply.vector.advance(ORIGIN, 1, sequence);
        let mut line = Vec::new();
        tombstone.write_line(&mut line);
        apply.flood.publish(&Batch::new(line, 1), None);
    }

    fn add_link(&self, groups: usize) -> (LinkId, OutboxReceiver) {
        self.apply.lock().flood.add(groups)
    }

    fn set_live(&self, to: NeighborStart) -> Vector {
        let mut apply = self.apply.lock();
        apply.flood.set_live(to);
        apply.vector.clone()
    }

    fn set_down(&self, link: LinkId) {
        self.apply.lock().flood.set_down(link);
    }

    fn vector(&self) -> Vector {
        self.apply.lock().vector.clone()
    }

    fn send_markers(&self) {
        let mut apply = self.apply.lock();
        let mut lines = Vec::new();
        apply.vector.write_lines("MARKER", &mut lines);
        apply.flood.publish(&Batch::new(lines, 0), None);
    }

    fn all_above(&self, vector: &Vector, show: &mut dyn FnMut(&RecordView<'_>)) {
        self.locations.scan(
            &mut (),
            |(), view| {
                if !vector.covers(view.origin, view.epoch, view.sequence) {
                    show(view);
                }
            },
            |()| true,
        );
    }
}
