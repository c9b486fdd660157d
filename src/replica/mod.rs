//! A server's replica: the one place where reports are applied, from clients and from neighbors.
//!
//! Every record that wins goes through `Replica::commit`: consecutive reports of a turn are one group
//! under the apply lock, within which they are compared with the cache, numbered, appended to the journal
//! and queued for the neighbors. Time is an argument; there is no socket and no clock here, but for
//! `open` and `upkeep`.
//!
//! `cache` has the records, `flood` and `outbox` the neighbors' queues, `durable` the journal under
//! the apply lock, `forget` tombstones and expiry. `open` restores a replica from its journal, `upkeep`
//! and `stall` have its threads, and `prune` forgets old epochs.

pub(crate) mod cache;
mod digest;
mod durable;
pub(crate) mod feed;
pub(crate) mod flood;
pub(crate) mod forget;
mod open;
pub mod outbox;
mod outcome;
mod prune;
pub mod search;
pub(crate) mod stall;
pub(crate) mod upkeep;
mod winners;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::Duration;

use smallvec::SmallVec;

use crate::model::command::Report;
use crate::model::record::{MAX_AHEAD_SECONDS, RecordView};
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::cache::Locations;
use crate::replica::feed::Feed;
use crate::replica::flood::Flood;
use crate::replica::outbox::{Batch, LinkId, NeighborStart, OutboxReceiver, QUEUE_BATCHES};
use crate::store::journal::SyncPosition;
use crate::sync::{self as atomic, AtomicBool, AtomicUsize, Mutex, MutexGuard};
use durable::{Change, Durable, JournalState};
use forget::Forgetting;
pub use outcome::{ForgetOutcome, Outcome};
use winners::{SMALL_GROUP, Winners};

/// A server's records, and the queues to its neighbors.
#[derive(Debug)]
pub struct Replica {
    name: Box<str>,
    epoch: u64,
    max_records: usize,
    /// Reports are refused, since the server was removed from the herd.
    is_removed: AtomicBool,
    /// The server has caught up with its herd since its start, or does not wait for it any more.
    is_ready: AtomicBool,
    /// The server has caught up with its herd since its start.
    is_caught_up: AtomicBool,
    locations: Locations,
    /// Number of groups of records applied. It changes only under the apply lock, behind the records
    /// that it counts.
    commits: AtomicUsize,
    /// The apply lock, the only lock under which more than its own data is touched: shards of
    /// `locations` are locked, lines are queued and the journal is appended to while it is held. It
    /// is held for a group of reports, not for each.
    apply: Mutex<Apply>,
    /// Changes only under the apply lock, but is read without it.
    journal_state: Mutex<JournalState>,
    forgetting: Forgetting,
    /// The changes that somebody watches.
    feed: Feed,
}

/// The state that changes only under the apply lock.
#[derive(Debug)]
struct Apply {
    /// Last sequence number assigned in this epoch.
    sequence: u64,
    vector: Vector,
    /// Entries that the last pruning took out of `vector`.
    pruned: Vector,
    flood: Flood,
    /// `None` if nothing is to survive the process.
    durable: Option<Durable>,
}

impl Replica {
    /// Creates an empty replica for the server of that name. No earlier start of the server may have
    /// had that `epoch`.
    pub fn new(name: &str, epoch: u64, max_records: usize) -> Replica {
        Replica {
            name: name.into(),
            epoch,
            max_records,
            is_removed: AtomicBool::new(false),
            is_ready: AtomicBool::new(false),
            is_caught_up: AtomicBool::new(false),
            locations: Locations::new(),
            commits: AtomicUsize::new(0),
            apply: Mutex::new(Apply {
                sequence: 0,
                vector: Vector::default(),
                pruned: Vector::default(),
                flood: Flood::default(),
                durable: None,
            }),
            journal_state: Mutex::new(JournalState::default()),
            forgetting: Forgetting::default(),
            feed: Feed::default(),
        }
    }

    /// Returns this server's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the epoch of this start.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the number of records: of clients known, and of clients that were forgotten.
    pub fn len(&self) -> usize {
        self.locations.len()
    }

    /// Returns the number of records past which reports of new clients are refused.
    pub fn max_records(&self) -> usize {
        self.max_records
    }

    /// Returns whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.locations.is_empty()
    }

    /// Applies consecutive reports of one turn of a client, all received at the same moment, and appends the
    /// outcome of each to `outcomes`.
    ///
    /// A report whose time is not later than the stored one's is acknowledged, but neither stored
    /// nor flooded.
    ///
    /// With [`Ack::Disk`](crate::config::Ack::Disk), returns the position in the journal that must
    /// be on disk before any of them is acknowledged.
    pub fn report(
        &self,
        reports: &[Report<'_>],
        received: Timestamp,
        outcomes: &mut Vec<Outcome>,
    ) -> Option<SyncPosition> {
        let lock = || Some(self.apply.lock());
        self.report_under(lock, reports, received, outcomes, |_, _| ())
            .flatten()
    }

    /// The same; `None`, and nothing is applied, if the apply lock is not free within `limit`, since
    /// the disk does not answer. The result is that of [`report`](Self::report).
    ///
    /// `show_stored` is shown, in their order, the index of each report that is not newer and the record
    /// that it is not newer than. It runs under locks and must only copy.
    pub(crate) fn report_within(
        &self,
        limit: Duration,
        reports: &[Report<'_>],
        received: Timestamp,
        outcomes: &mut Vec<Outcome>,
        show_stored: impl FnMut(usize, &RecordView<'_>),
    ) -> Option<Option<SyncPosition>> {
        let lock = || self.apply.try_lock_for(limit);
        self.report_under(lock, reports, received, outcomes, show_stored)
    }

    /// Applies reports under the apply lock that `lock` takes, if they need it.
    fn report_under<'a>(
        &'a self,
        lock: impl FnOnce() -> Option<MutexGuard<'a, Apply>>,
        reports: &[Report<'_>],
        received: Timestamp,
        outcomes: &mut Vec<Outcome>,
        mut show_stored: impl FnMut(usize, &RecordView<'_>),
    ) -> Option<Option<SyncPosition>> {
        if self.is_removed.load(atomic::Ordering::Relaxed) {
            outcomes.extend(reports.iter().map(|_| Outcome::Removed));
            return Some(None);
        }
        let mut apply_guard = lock()?;
        let first_outcome = outcomes.len();
        // Indexes of the outcomes that depend on the append: those of the winners, and of reports
        // that lost to a winner of this group.
        let mut depend_on_append: SmallVec<[usize; SMALL_GROUP]> = SmallVec::new();
        let apply = &*apply_guard;
        let mut winners = Winners::with_capacity(reports.len());
        let horizon = self.horizon(received);
        let mut new_clients = 0;
        for (index, report) in reports.iter().enumerate() {
            let mut show = |stored: &RecordView<'_>| {
                if report.time <= stored.time && !stored.is_tombstone() {
                    show_stored(index, stored);
                }
            };
            if report.time.is_ahead_of(received, MAX_AHEAD_SECONDS) {
                outcomes.push(Outcome::TooFarAhead);
                continue;
            }
            // Reports earlier in the group are not in the cache yet. A turn has at most a few
            // reports, so a linear search costs less than a table would.
            let in_group = winners
                .records
                .iter()
                .rev()
                .find(|winner| winner.client == report.client)
                .map(|winner| {
                    show(winner);
                    (winner.time, false)
                });
            let key = self.locations.key(report.client);
            let stored = in_group.or_else(|| {
                self.locations.with(key, report.client, |stored| {
                    stored.map(|stored| {
                        show(&stored);
                        (stored.time, stored.is_tombstone())
                    })
                })
            });
            match stored {
                _ if horizon.is_dead(report.time) => outcomes.push(Outcome::Expired),
                Some((time, is_tombstone)) if report.time <= time => {
                    if in_group.is_some() {
                        depend_on_append.push(outcomes.len());
                    }
                    outcomes.push(match is_tombstone {
                        true => Outcome::Forgotten(time),
                        false => Outcome::NotNewer,
                    });
                }
                None if self.locations.len() + new_clients >= self.max_records => {
                    outcomes.push(Outcome::Full);
                }
                stored => {
                    depend_on_append.push(outcomes.len());
                    new_clients += usize::from(stored.is_none());
                    let sequence = apply.sequence + winners.records.len() as u64 + 1;
                    let origin = self.name.as_bytes();
                    winners.push(
                        key,
                        RecordView::of_report(report, received, origin, self.epoch, sequence),
                    );
                    outcomes.push(Outcome::Stored);
                }
            }
        }
        let apply = &mut *apply_guard;
        let (appended, change) = match &mut apply.durable {
            Some(durable) if !winners.records.is_empty() => {
                durable.append_own(&winners.records, &self.journal_state)
            }
            _ => (true, Change::Same),
        };
        if !appended {
            for index in depend_on_append {
                outcomes[index] = Outcome::Unwritable;
            }
        } else if !winners.records.is_empty() {
            self.commit(apply, &winners, None);
            apply.sequence += winners.records.len() as u64;
            apply
                .vector
                .advance(self.name.as_bytes(), self.epoch, apply.sequence);
        }
        let position = apply
            .durable
            .as_ref()
            .filter(|_| outcomes.len() > first_outcome)
            .and_then(Durable::sync_position);
        drop(apply_guard);
        change.log();
        Some(position)
    }

    /// Applies records that a start of a neighbor sent: those that are alive and greater than the stored ones
    /// are adopted and forwarded to all others. Returns the number adopted.
    pub fn adopt(&self, records: &[RecordView<'_>], from: NeighborStart, now: Timestamp) -> usize {
        self.adopt_with(records, from, now, |_| {})
    }

    /// The same; shows each record that is adopted to `show`, once no lock is held.
    pub(crate) fn adopt_with(
        &self,
        records: &[RecordView<'_>],
        from: NeighborStart,
        now: Timestamp,
        show: impl FnMut(&RecordView<'_>),
    ) -> usize {
        let mut apply = self.apply.lock();
        let mut winners = Winners::with_capacity(records.len());
        let horizon = self.exchange_horizon(now);
        for record in records
            .iter()
            .filter(|record| !horizon.is_dead(record.time))
        {
            let key = self.locations.key(record.client);
            let greater = self.locations.with(key, record.client, |stored| {
                stored.is_none_or(|stored| record.order(&stored) == Ordering::Greater)
            });
            if greater {
                winners.push(key, *record);
            }
        }
        if winners.records.is_empty() {
            return 0;
        }
        let durable = apply.durable.as_mut();
        let change = durable.map_or(Change::Same, |durable| {
            durable.append_adopted(&winners.records, &self.journal_state)
        });
        self.commit(&mut apply, &winners, Some(from));
        drop(apply);
        change.log();
        winners.records.iter().for_each(show);
        winners.records.len()
    }

    /// Stores the winners and queues them for every start of a neighbor but the one that they came
    /// from.
    fn commit(&self, apply: &mut Apply, winners: &Winners<'_>, source: Option<NeighborStart>) {
        let mut is_watched = false;
        for (key, winner) in winners.keys.iter().zip(&winners.records) {
            let stored = self.locations.store_noting(*key, winner, |before| {
                let change = self.feed.note(*key, before, Some(winner));
                is_watched |= change.is_some();
                change
            });
            if stored.forgets(winner)
                && let Some(durable) = &mut apply.durable
            {
                durable.note_forgotten(winner.received);
            }
        }
        if is_watched {
            self.feed.wake();
        }
        self.count_commit();
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

    /// Counts a change of the cache, under the apply lock.
    fn count_commit(&self) {
        // The lock orders the writers, so no locked instruction is needed.
        let commits = self.commits.load(atomic::Ordering::Relaxed);
        self.commits
            .store(commits.wrapping_add(1), atomic::Ordering::Release);
    }

    /// Shows where a client is, or that this is not known, to `look`, which runs under a lock and must
    /// only copy. Nothing is known of a client that was forgotten, or whose record has expired.
    pub fn locate<R>(
        &self,
        client: &[u8],
        now: Timestamp,
        look: impl FnOnce(Option<RecordView<'_>>) -> R,
    ) -> R {
        let horizon = self.horizon(now);
        let key = self.locations.key(client);
        self.locations.with(key, client, |stored| {
            look(stored.filter(|stored| !stored.is_tombstone() && !horizon.is_dead(stored.time)))
        })
    }

    /// Adds a neighbor, down at first, and returns its queue.
    pub fn add_link(&self) -> (LinkId, OutboxReceiver) {
        self.add_link_bounded(QUEUE_BATCHES)
    }

    /// Adds a neighbor whose queue holds at most `batches` batches.
    pub fn add_link_bounded(&self, batches: usize) -> (LinkId, OutboxReceiver) {
        self.apply.lock().flood.add(batches)
    }

    /// Removes a neighbor and its queue.
    pub fn remove_link(&self, link: LinkId) {
        self.apply.lock().flood.remove(link);
    }

    /// Returns a number that differs from an earlier one if a record has changed since. Between two
    /// equal ones, a scan shows the same records.
    pub(crate) fn commits(&self) -> usize {
        self.commits.load(atomic::Ordering::Acquire)
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

    /// Begins to queue for a start of a neighbor. Records applied before are covered by the vector that is
    /// returned, and must be sent from the cache by [`records_above`](Self::records_above).
    pub fn set_live(&self, to: NeighborStart) -> Vector {
        let mut apply = self.apply.lock();
        apply.flood.set_live(to);
        self.marker(&apply.vector)
    }

    /// The same; `None` if the apply lock is not free within `limit`, since the disk does not answer.
    pub fn set_live_within(&self, to: NeighborStart, limit: Duration) -> Option<Vector> {
        let mut apply = self.apply.try_lock_for(limit)?;
        apply.flood.set_live(to);
        Some(self.marker(&apply.vector))
    }

    /// Returns once records can be changed: at once, unless the disk does not answer.
    pub(crate) fn wait_until_responsive(&self) {
        drop(self.apply.lock());
    }

    /// Returns whether records can be changed within `limit`; if not, the disk does not answer.
    pub fn is_responsive(&self, limit: Duration) -> bool {
        self.apply.try_lock_for(limit).is_some()
    }

    /// Refuses all reports from now on, or takes them again.
    pub fn set_removed(&self, is_removed: bool) {
        self.is_removed.store(is_removed, atomic::Ordering::Relaxed);
    }

    /// Has markers name this start from now on, by which neighbors that start see that they have
    /// caught up: this server lacks nothing that it had to wait for.
    pub fn set_ready(&self) {
        self.is_ready.store(true, atomic::Ordering::Relaxed);
    }

    /// Notes that this server has caught up: it lacks nothing that its herd knew at its start.
    pub fn set_caught_up(&self) {
        self.is_caught_up.store(true, atomic::Ordering::Relaxed);
    }

    /// Returns whether this server has caught up. Before, a client that is unknown here may be known
    /// elsewhere.
    pub fn is_caught_up(&self) -> bool {
        self.is_caught_up.load(atomic::Ordering::Relaxed)
    }

    /// Returns the vector for a marker.
    fn marker(&self, vector: &Vector) -> Vector {
        let mut marker = vector.clone();
        if self.is_ready.load(atomic::Ordering::Relaxed) {
            // It claims nothing.
            marker.advance(self.name.as_bytes(), self.epoch, 0);
        }
        marker
    }

    /// Returns the number of living records that the vector does not cover.
    pub fn count_above(&self, vector: &Vector, now: Timestamp) -> usize {
        let mut records = 0;
        let count = |records: &mut usize, _: &RecordView<'_>| *records += 1;
        self.records_above(vector, now, &mut records, count, |_| true);
        records
    }

    /// Stops queueing for a link.
    pub fn set_down(&self, link: LinkId) {
        self.apply.lock().flood.set_down(link);
    }

    /// Returns this server's vector as of now.
    pub fn vector(&self) -> Vector {
        self.apply.lock().vector.clone()
    }

    /// The same; `None` if the apply lock is not free within `limit`, since the disk does not answer.
    pub(crate) fn vector_within(&self, limit: Duration) -> Option<Vector> {
        Some(self.apply.try_lock_for(limit)?.vector.clone())
    }

    /// Applies a neighbor's marker: every record that it covers has been applied.
    pub fn advance(&self, marker: &Vector) {
        let mut apply = self.apply.lock();
        let mut marker = Cow::Borrowed(marker);
        if !apply.pruned.is_empty() {
            let pruned = &apply.pruned;
            marker
                .to_mut()
                .split_off(|origin, epoch| pruned.has_epoch(origin, epoch));
        }
        apply.vector.merge(&marker);
        let durable = apply.durable.as_mut();
        let change = durable.map_or(Change::Same, |durable| {
            durable.append_marker(&marker, &self.journal_state)
        });
        drop(apply);
        change.log();
    }

    /// Queues a marker behind every record that it covers, for all live links.
    pub fn send_markers(&self) {
        let mut apply = self.apply.lock();
        if apply.flood.has_subscribers(None) {
            let marker = Batch::marker(self.marker(&apply.vector));
            apply.flood.publish(&marker, None);
        }
    }

    /// Returns whether any neighbor would be sent a record applied now.
    pub fn has_live_links(&self) -> bool {
        self.apply.lock().flood.has_subscribers(None)
    }

    /// Queues lines other than records for all live links, behind the records applied before.
    pub fn publish(&self, lines: Vec<u8>) {
        let batch = Batch::new(lines, 0);
        self.apply.lock().flood.publish(&batch, None);
    }

    /// Shows all records that `vector` does not cover to `show`, but for those that are certainly dead;
    /// `between` runs now and then with no lock held, and ends the scan by returning `false`.
    pub fn records_above<S>(
        &self,
        vector: &Vector,
        now: Timestamp,
        state: &mut S,
        show: impl Fn(&mut S, &RecordView<'_>),
        between: impl FnMut(&mut S) -> bool,
    ) {
        let horizon = self.exchange_horizon(now);
        self.locations.scan(
            state,
            |state, record| {
                let is_covered = vector.covers(record.origin, record.epoch, record.sequence);
                if !is_covered && !horizon.is_dead(record.time) {
                    show(state, record);
                }
            },
            between,
        );
    }
}

#[cfg(test)]
mod tests;
