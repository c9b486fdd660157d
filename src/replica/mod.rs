//! What a command does: the one place where reports are applied.
//!
//! Whether a report comes from a client or from a neighbor, it goes through [`Replica::commit`]:
//! a turn's reports are one group under the apply lock, within which they are compared with
//! the cache, numbered, stored and handed to the neighbors' queues. Time is an argument; there
//! is no socket and no clock here.

pub mod cache;
mod digest;
mod durable;
pub mod flood;
pub mod outbox;
mod prune;
pub mod upkeep;

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::config::Ack;
use crate::model::command::Report;
use crate::model::record::{MAX_AHEAD_SECONDS, RecordView};
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::cache::{ClientHash, Locations};
use crate::replica::flood::Flood;
use crate::replica::outbox::{Batch, LinkId, OutboxReceiver, QUEUE_GROUPS};
use crate::store::journal::{Journal, JournalError, SyncPosition};
use crate::sync::Mutex;
use durable::Durable;

/// What became of a client's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged with its `AT` line: stored, or not newer than what is.
    Acknowledged,
    /// The time is more than 300 s ahead of this server's clock.
    TooFarAhead,
    /// A new client, and the server holds as many as it may.
    Full,
    /// The journal can't be written.
    Unwritable,
}

/// A server's records, and who hears of a change.
#[derive(Debug)]
pub struct Replica {
    name: Box<str>,
    epoch: u64,
    max_records: usize,
    locations: Locations,
    /// The apply lock. The one lock under which more than its own data is touched: shards of
    /// `locations` are locked, and queues offered lines, while it is held. It is held for a
    /// group of reports, not for one.
    apply: Mutex<Apply>,
}

/// What only a group that is being applied may change.
#[derive(Debug)]
struct Apply {
    /// The last sequence number given out in this epoch.
    sequence: u64,
    vector: Vector,
    /// What the last pruning took out of it.
    pruned: Vector,
    flood: Flood,
    /// `None` where nothing is to survive the process, as in tests.
    durable: Option<Durable>,
}

/// Reports of a group that need no memory from the heap: as many as a turn has.
const SMALL_GROUP: usize = 16;

/// The records of a group that are greater than the stored ones.
struct Winners<'a> {
    /// Where each of them is stored.
    keys: SmallVec<[ClientHash; SMALL_GROUP]>,
    records: SmallVec<[RecordView<'a>; SMALL_GROUP]>,
}

impl<'a> Winners<'a> {
    fn with_capacity(records: usize) -> Winners<'a> {
        Winners {
            keys: SmallVec::with_capacity(records),
            records: SmallVec::with_capacity(records),
        }
    }

    fn push(&mut self, key: ClientHash, record: RecordView<'a>) {
        self.keys.push(key);
        self.records.push(record);
    }
}

impl Replica {
    /// An empty herd server of that name. `epoch` must be one that no earlier start of the
    /// server had.
    pub fn new(name: &str, epoch: u64, max_records: usize) -> Replica {
        Replica {
            name: name.into(),
            epoch,
            max_records,
            locations: Locations::new(),
            apply: Mutex::new(Apply {
                sequence: 0,
                vector: Vector::default(),
                pruned: Vector::default(),
                flood: Flood::default(),
                durable: None,
            }),
        }
    }

    /// Begins an epoch, before anything is reported or connected.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// This server's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which start of this server this is.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many clients are known.
    pub fn len(&self) -> usize {
        self.locations.len()
    }

    /// Whether no client is known.
    pub fn is_empty(&self) -> bool {
        self.locations.is_empty()
    }

    /// Takes one turn's reports from a client, all received at the same moment, and appends what
    /// became of each to `outcomes`.
    ///
    /// A report whose time is not later than the stored one's is acknowledged, but neither
    /// stored nor flooded.
    ///
    /// With [`Ack::Disk`], gives the place in the journal that must be on disk before any of them
    /// is acknowledged.
    pub fn report(
        &self,
        reports: &[Report<'_>],
        received: Timestamp,
        outcomes: &mut Vec<Outcome>,
    ) -> Option<SyncPosition> {
        let first_outcome = outcomes.len();
        // Which of the reports hang on this group's being stored: those that would be, and those
        // that lost to one of them.
        let mut hanging: SmallVec<[usize; SMALL_GROUP]> = SmallVec::new();
        let mut apply_guard = self.apply.lock();
        let apply = &*apply_guard;
        let mut winners = Winners::with_capacity(reports.len());
        let mut new_clients = 0;
        for report in reports {
            if report.time.is_ahead_of(received, MAX_AHEAD_SECONDS) {
                outcomes.push(Outcome::TooFarAhead);
                continue;
            }
            // Reports earlier in the group are not in the cache yet. A turn has at most a few
            // reports, so looking through them costs less than a table would.
            let in_group = winners
                .records
                .iter()
                .rev()
                .find(|winner| winner.client == report.client)
                .map(|winner| winner.time);
            let key = self.locations.key(report.client);
            let stored = in_group.or_else(|| {
                self.locations.with(key, report.client, |stored| {
                    stored.map(|stored| stored.time)
                })
            });
            match stored {
                Some(time) if report.time <= time => {
                    if in_group.is_some() {
                        hanging.push(outcomes.len());
                    }
                }
                None if self.locations.len() + new_clients >= self.max_records => {
                    outcomes.push(Outcome::Full);
                    continue;
                }
                stored => {
                    hanging.push(outcomes.len());
                    new_clients += usize::from(stored.is_none());
                    let sequence = apply.sequence + winners.records.len() as u64 + 1;
                    let origin = self.name.as_bytes();
                    winners.push(
                        key,
                        RecordView::of_report(report, received, origin, self.epoch, sequence),
                    );
                }
            }
            outcomes.push(Outcome::Acknowledged);
        }
        let apply = &mut *apply_guard;
        let appended = match &mut apply.durable {
            Some(durable) if !winners.records.is_empty() => durable.append(&winners.records, true),
            _ => Ok(()),
        };
        let stored = appended.is_ok();
        if stored {
            self.commit(apply, &winners, None);
            apply.sequence += winners.records.len() as u64;
            if !winners.records.is_empty() {
                apply
                    .vector
                    .advance(self.name.as_bytes(), self.epoch, apply.sequence);
            }
        } else {
            for index in hanging {
                outcomes[index] = Outcome::Unwritable;
            }
        }
        let durable = apply.durable.as_mut();
        let position = durable
            .as_ref()
            .filter(|durable| durable.ack == Ack::Disk && outcomes.len() > first_outcome)
            .map(|durable| durable.journal.position());
        let change = durable
            .filter(|_| !winners.records.is_empty())
            .and_then(|durable| durable.change(appended));
        drop(apply_guard);
        if let Some(change) = change {
            change.log();
        }
        position
    }

    /// Takes records that a neighbor sent: those greater than the stored ones are adopted and
    /// forwarded to the other neighbors. Says how many were.
    pub fn adopt(&self, records: &[RecordView<'_>], from: LinkId) -> usize {
        let mut apply = self.apply.lock();
        let mut winners = Winners::with_capacity(records.len());
        for record in records {
            let key = self.locations.key(record.client);
            let greater = self.locations.with(key, record.client, |stored| {
                stored.is_none_or(|stored| record.order(&stored) == Ordering::Greater)
            });
            if greater {
                winners.push(key, *record);
            }
        }
        // A journal that can't be written refuses reports, but what other servers have accepted is
        // held all the same: the journal claims none of it until it has been written anew.
        let durable = apply.durable.as_mut();
        let durable = durable.filter(|_| !winners.records.is_empty());
        let change = durable.and_then(|durable| {
            let appended = durable.append(&winners.records, false);
            durable.change(appended)
        });
        self.commit(&mut apply, &winners, Some(from));
        drop(apply);
        if let Some(change) = change {
            change.log();
        }
        winners.records.len()
    }

    /// Stores what has won and queues it for everybody but the link that it came from.
    fn commit(&self, apply: &mut Apply, winners: &Winners<'_>, source: Option<LinkId>) {
        if winners.records.is_empty() {
            return;
        }
        for (key, winner) in winners.keys.iter().zip(&winners.records) {
            self.locations.store(*key, winner);
        }
        if apply.flood.has_subscribers(source) {
            let mut lines = Vec::with_capacity(winners.records.len() * 128);
            for winner in &winners.records {
                winner.write_line(&mut lines);
            }
            apply
                .flood
                .publish(&Batch::new(lines, winners.records.len()), source);
        }
    }

    /// Shows a client's record, or that there is none, to `look`, which must only copy.
    pub fn locate<R>(&self, client: &[u8], look: impl FnOnce(Option<RecordView<'_>>) -> R) -> R {
        self.locations
            .with(self.locations.key(client), client, look)
    }

    /// Takes a record back from an earlier start, before any link is there to hear of it.
    pub fn restore(&self, record: &RecordView<'_>) {
        self.locations
            .store(self.locations.key(record.client), record);
    }

    /// Takes back what an earlier start held, once all its records have been restored.
    pub fn restore_vector(&self, held: &Vector) {
        self.apply.lock().vector.merge(held);
    }

    /// Adds a neighbor, down at first, and hands out its queue.
    pub fn add_link(&self) -> (LinkId, OutboxReceiver) {
        self.add_link_bounded(QUEUE_GROUPS)
    }

    /// Lets go of a neighbor and its queue.
    pub fn remove_link(&self, link: LinkId) {
        self.apply.lock().flood.remove(link);
    }

    /// The same with a queue of at most `groups` groups.
    pub fn add_link_bounded(&self, groups: usize) -> (LinkId, OutboxReceiver) {
        self.apply.lock().flood.add(groups)
    }

    /// Shows every record to `show`; `between` runs now and then with no lock held, and ends the
    /// scan by returning `false`.
    pub fn scan<S>(
        &self,
        state: &mut S,
        show: impl FnMut(&mut S, &RecordView<'_>),
        between: impl FnMut(&mut S) -> bool,
    ) {
        self.locations.scan(state, show, between);
    }

    /// Begins to queue for a link; what was applied before this moment is covered by the vector
    /// that is returned, and must be sent from the cache by [`records_above`](Self::records_above).
    pub fn set_live(&self, link: LinkId) -> Vector {
        let mut apply = self.apply.lock();
        apply.flood.set_live(link);
        apply.vector.clone()
    }

    /// Stops queueing for a link.
    pub fn set_down(&self, link: LinkId) {
        self.apply.lock().flood.set_down(link);
    }

    /// This server's vector as of now.
    pub fn vector(&self) -> Vector {
        self.apply.lock().vector.clone()
    }

    /// Takes a neighbor's marker: every record that it covers has been applied.
    pub fn advance(&self, marker: &Vector) {
        let mut apply = self.apply.lock();
        let mut marker = marker.clone();
        if !apply.pruned.is_empty() {
            marker.split_off(|origin, epoch| apply.pruned.has_epoch(origin, epoch));
        }
        apply.vector.merge(&marker);
        let change = apply.durable.as_mut().and_then(|durable| {
            // That it went well says nothing: a frozen journal leaves markers out.
            let failed = durable.journal.append_marker(&marker).err()?;
            durable.change(Err(failed))
        });
        drop(apply);
        if let Some(change) = change {
            change.log();
        }
    }

    /// Appends to this journal from now on. It must hold what has been restored.
    pub fn keep(&self, journal: Journal, ack: Ack) {
        self.apply.lock().durable = Some(Durable::new(journal, ack));
    }

    /// With [`Ack::Memory`], appends what the journal is behind with; called now and then, and
    /// before the end.
    pub fn catch_up(&self) {
        let mut apply = self.apply.lock();
        let change = apply
            .durable
            .as_mut()
            .filter(|durable| durable.journal.is_behind())
            .and_then(|durable| {
                let result = durable.journal.flush();
                durable.change(result)
            });
        drop(apply);
        if let Some(change) = change {
            change.log();
        }
    }

    /// Writes the journal anew if it has grown to twice what is live, or has failed before.
    /// Reports go on meanwhile. Says whether it was written.
    pub fn compact_journal(&self) -> Result<bool, JournalError> {
        let begun = {
            let Apply {
                vector, durable, ..
            } = &mut *self.apply.lock();
            let clients = self.locations.len();
            match durable {
                Some(durable) if durable.journal.wants_compaction(clients) => {
                    durable.journal.flush()?;
                    durable.journal.begin_compaction(vector, clients)?
                }
                _ => return Ok(false),
            }
        };
        let mut with =
            |act: &mut dyn FnMut(&mut Journal) -> Result<(), JournalError>| match &mut self
                .apply
                .lock()
                .durable
            {
                Some(durable) => act(&mut durable.journal),
                None => Ok(()),
            };
        let mut state = (begun, Ok(()));
        self.locations.scan(
            &mut state,
            |(compaction, _), record| compaction.push(record),
            |(compaction, result)| {
                *result = compaction.write(&mut with);
                result.is_ok()
            },
        );
        let (compaction, result) = state;
        result?;
        compaction.finish(with)?;
        Ok(true)
    }

    /// Queues a marker behind every record that it covers, for all live links.
    pub fn send_markers(&self) {
        let mut apply = self.apply.lock();
        if apply.flood.has_subscribers(None) {
            let mut lines = Vec::new();
            apply.vector.write_lines("MARKER", &mut lines);
            apply.flood.publish(&Batch::new(lines, 0), None);
        }
    }

    /// Whether any neighbor hears of what is applied now.
    pub fn has_live_links(&self) -> bool {
        self.apply.lock().flood.has_subscribers(None)
    }

    /// Queues lines that are no records for all live links, behind the records of before.
    pub fn tell(&self, lines: Vec<u8>) {
        let group = Batch::new(lines, 0);
        self.apply.lock().flood.publish(&group, None);
    }

    /// Shows all records that `vector` does not cover to `show`; `between` runs now and then
    /// with no lock held, and ends the scan by returning `false`.
    pub fn records_above<S>(
        &self,
        vector: &Vector,
        state: &mut S,
        show: impl Fn(&mut S, &RecordView<'_>),
        between: impl FnMut(&mut S) -> bool,
    ) {
        self.locations.scan(
            state,
            |state, record| {
                if !vector.covers(record.origin, record.epoch, record.sequence) {
                    show(state, record);
                }
            },
            between,
        );
    }
}

#[cfg(test)]
mod tests;
