//! Forgetting: tombstones, which a client's wish leaves, and expiry, by which every record dies.
//!
//! A tombstone is a record like any other. A record, tombstones included, dies of its age, everywhere
//! alike; what has been dead for a while is dropped from memory, and from the journal by the next
//! compaction. A clock that is wrong must delete nothing, so both happen only while somebody else
//! trusts this server's clock.

use std::time::Duration;

use super::winners::Winners;
use super::{ForgetOutcome, Replica};
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::Apply;
use crate::replica::cache::Until;
use crate::replica::durable::{Change, Durable};
use crate::store::journal::{JournalError, SyncPosition};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// Time before its death from which a record is not in digests: clocks differ, so servers may not
/// agree yet that it lives.
const DIGEST_EDGE_NANOS: u64 = 360_000_000_000;

/// Time for which a record has been dead when it is dropped. Clocks differ by up to 60 s, so it is dead
/// at every server by then.
const DROP_NANOS: u64 = 120_000_000_000;

/// Compactions after which nothing that was forgotten is in the journal: the first may end in the file of
/// an earlier one that was broken off.
const COMPACTIONS: usize = 2;

/// The moment up to which records are dead; `None` if none ever is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Horizon(Option<u64>);

impl Horizon {
    /// Returns whether a record of that time is dead.
    pub(crate) fn is_dead(self, time: Timestamp) -> bool {
        self.0.is_some_and(|horizon| time.as_nanos() <= horizon)
    }
}

/// The rules of a replica by which it forgets.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    /// Age at which records die, in nanoseconds; 0 if they never do. It follows from `settings`.
    age: AtomicU64,
    settings: Mutex<Settings>,
    /// The time that was certain last, in nanoseconds; 0 before any was.
    certain: AtomicU64,
}

#[derive(Debug, Default)]
struct Settings {
    /// Age at which records are to die.
    age: Option<Duration>,
    /// A linked neighbor that knows no tombstones.
    old_neighbor: Option<Box<str>>,
}

impl Forgetting {
    fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.lock();
        change(&mut settings);
        let age = settings.age.filter(|_| settings.old_neighbor.is_none());
        let nanos = age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        self.age.store(nanos, Ordering::Relaxed);
    }
}

impl Replica {
    /// Sets the age at which records die; `None`: they never do.
    pub fn set_forget_after(&self, age: Option<Duration>) {
        self.forgetting.change(|settings| settings.age = age);
    }

    /// Returns the age at which records die, in force or not.
    pub fn forget_after(&self) -> Option<Duration> {
        self.forgetting.settings.lock().age
    }

    /// Returns the age at which records die now.
    pub fn forget_after_in_force(&self) -> Option<Duration> {
        match self.forgetting.age.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Sets the name of a linked neighbor that runs an older program, which knows no tombstones: while
    /// there is one, no client can be forgotten, and no record dies.
    pub fn set_old_neighbor(&self, name: Option<&str>) {
        let name = name.map(Into::into);
        self.forgetting
            .change(|settings| settings.old_neighbor = name);
    }

    /// Notes that it is certainly that time, or later. Dead records leave memory and journal only by the
    /// time that was certain last, whatever the clock says: one that leaps ahead drops nothing. That
    /// time may be earlier than one before it, of two clocks that were wrong alike.
    pub fn trust_clock(&self, time: Timestamp) {
        self.forgetting
            .certain
            .store(time.as_nanos(), Ordering::Relaxed);
    }

    /// Returns up to when records are dead.
    pub(crate) fn horizon(&self, now: Timestamp) -> Horizon {
        Horizon(match self.forgetting.age.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(now.as_nanos().saturating_sub(nanos)),
        })
    }

    /// Returns up to when records are neither adopted nor sent: those that are dead by the time that was
    /// certain last, once one was. By a clock that leaps ahead, while links are still up, this server
    /// would refuse what lives, and claim it by the next marker, or leave it out of what it sends, and
    /// have the neighbor claim it. What is dead and adopted all the same is not shown.
    pub(super) fn exchange_horizon(&self, now: Timestamp) -> Horizon {
        let certain = self.forgetting.certain.load(Ordering::Relaxed);
        self.horizon(match certain {
            0 => now,
            certain => now.min(Timestamp::from_nanos(certain)),
        })
    }

    /// Returns up to when records are left out of a digest of what was received up to `until`.
    pub(super) fn digest_edge(&self, until: Timestamp) -> Horizon {
        let Horizon(horizon) = self.horizon(until);
        Horizon(horizon.map(|horizon| horizon.saturating_add(DIGEST_EDGE_NANOS)))
    }

    /// Returns up to when records are to be dropped: `None` if none is, or none may be.
    pub(super) fn drop_horizon(&self, now: Timestamp) -> Horizon {
        let certain = self.forgetting.certain.load(Ordering::Relaxed);
        let Horizon(horizon) = self.horizon(now.min(Timestamp::from_nanos(certain)));
        Horizon(horizon.and_then(|horizon| horizon.checked_sub(DROP_NANOS)))
    }

    /// Drops the records that have been dead for a while, by a time that is certain: a small piece at a
    /// time, after each of which `go_on` runs with no lock held, and ends it by returning `false`.
    /// Returns the number of records dropped.
    pub fn drop_dead(&self, now: Timestamp, go_on: impl FnMut() -> bool) -> usize {
        let Horizon(Some(until)) = self.drop_horizon(now) else {
            return 0;
        };
        self.drop_until(Timestamp::from_nanos(until).into(), go_on)
    }

    /// Drops all records of these times or before; of the two, that of reports is not the earlier.
    fn drop_until(&self, until: Until, go_on: impl FnMut() -> bool) -> usize {
        let mut dropped = 0;
        self.locations.sweep(
            until.reports,
            |piece| {
                let mut apply = self.apply.lock();
                let mut first = until.reports;
                let mut is_watched = false;
                let removed = self.locations.remove(piece, until, |record| {
                    first = first.min(record.time);
                    let client = self.locations.key(record.client);
                    let change = self.feed.note(client, Some(record), None);
                    is_watched |= change.is_some();
                    change
                });
                if is_watched {
                    self.feed.wake();
                }
                if removed == 0 {
                    return;
                }
                dropped += removed;
                self.count_commit();
                if let Some(durable) = &mut apply.durable {
                    let age = self.forgetting.age.load(Ordering::Relaxed);
                    let died = first.as_nanos().saturating_add(age);
                    durable.note_forgotten(Timestamp::from_nanos(died));
                }
            },
            go_on,
        );
        dropped
    }

    /// Returns the number of clients that are known and were not forgotten.
    pub fn clients(&self) -> usize {
        // They are counted one after the other.
        self.len().saturating_sub(self.tombstones())
    }

    /// Returns the number of tombstones: of the clients of [`len`](Self::len) that were forgotten.
    pub fn tombstones(&self) -> usize {
        self.locations.tombstones()
    }

    /// Takes back everything that the vector claims, in memory and, on disk before it returns, in the
    /// journal: the neighbors are asked for all of their records. To be called before the first report
    /// of this start, whose numbers would be claimed again by the next one's.
    ///
    /// # Errors
    ///
    /// Returns the error of the journal; then the vector is as it was.
    pub fn void_vector(&self) -> Result<(), JournalError> {
        let syncer = {
            let mut apply = self.apply.lock();
            debug_assert_eq!(apply.sequence, 0);
            let syncer = match &mut apply.durable {
                Some(durable) => Some(durable.void_claims()?),
                None => None,
            };
            apply.vector = Vector::default();
            syncer
        };
        syncer.map_or(Ok(()), |syncer| syncer.sync().map(drop))
    }

    /// Prepares for a longer age than `age`, which was in force in earlier starts, at `now`: takes back
    /// all claims, as [`void_vector`](Self::void_vector) does, since they include what was dropped. With
    /// `drops`, what is dead by that age leaves memory and journal before this returns: a server that was
    /// away may hold a report whose tombstone has expired at all others. Clocks differ, so reports leave
    /// that would have died within two minutes, and of tombstones only what has been dead for as long.
    /// Returns the number of records dropped.
    ///
    /// # Errors
    ///
    /// Returns the error of the journal. To be called again then, in a later start.
    pub fn lose_claims(
        &self,
        age: Duration,
        drops: bool,
        now: Timestamp,
    ) -> Result<usize, JournalError> {
        self.void_vector()?;
        if !drops {
            return Ok(0);
        }
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let edge = now.as_nanos().saturating_sub(age);
        let until = Until {
            reports: Timestamp::from_nanos(edge.saturating_add(DROP_NANOS)),
            tombstones: Timestamp::from_nanos(edge.saturating_sub(DROP_NANOS)),
        };
        let dropped = self.drop_until(until, || true);
        // Records that were dropped in an earlier start may be in the journal still.
        if let Some(durable) = &mut self.apply.lock().durable {
            durable.demand_compaction();
        }
        for _ in 0..COMPACTIONS {
            self.compact_journal(now)?;
        }
        Ok(dropped)
    }

    /// Forgets a client: stores a tombstone, which is later than the client's record, and floods it.
    ///
    /// With [`Ack::Disk`](crate::config::Ack::Disk), also returns the position in the journal that must
    /// be on disk before this is acknowledged.
    pub fn forget(&self, client: &[u8], now: Timestamp) -> (ForgetOutcome, Option<SyncPosition>) {
        self.forget_under(self.apply.lock(), client, now)
    }

    /// The same; `None`, and nothing is forgotten, if the apply lock is not free within `limit`, since
    /// the disk does not answer.
    pub(crate) fn forget_within(
        &self,
        limit: Duration,
        client: &[u8],
        now: Timestamp,
    ) -> Option<(ForgetOutcome, Option<SyncPosition>)> {
        let apply = self.apply.try_lock_for(limit)?;
        Some(self.forget_under(apply, client, now))
    }

    fn forget_under(
        &self,
        mut guard: MutexGuard<'_, Apply>,
        client: &[u8],
        now: Timestamp,
    ) -> (ForgetOutcome, Option<SyncPosition>) {
        if self.is_removed.load(Ordering::Relaxed) {
            return (ForgetOutcome::Removed, None);
        }
        if let Some(name) = &self.forgetting.settings.lock().old_neighbor {
            return (ForgetOutcome::NeighborTooOld(name.clone()), None);
        }
        let key = self.locations.key(client);
        let stored = self
            .locations
            .with(key, client, |stored| stored.map(|stored| stored.time));
        if stored.is_none() && self.locations.len() >= self.max_records {
            return (ForgetOutcome::Full, None);
        }
        let after_stored = stored.map_or(0, |time| time.as_nanos().saturating_add(1));
        let time = Timestamp::from_nanos(now.as_nanos().max(after_stored));
        let apply = &mut *guard;
        let mut winners = Winners::with_capacity(1);
        let (name, sequence) = (self.name.as_bytes(), apply.sequence + 1);
        winners.push(
            key,
            RecordView::tombstone(client, time, name, self.epoch, sequence),
        );
        let (appended, change) = match &mut apply.durable {
            Some(durable) => durable.append_own(&winners.records, &self.journal_state),
            None => (true, Change::Same),
        };
        let outcome = match appended {
            false => ForgetOutcome::Unwritable,
            true => {
                self.commit(apply, &winners, None);
                apply.sequence += 1;
                apply
                    .vector
                    .advance(self.name.as_bytes(), self.epoch, apply.sequence);
                ForgetOutcome::Forgotten(time)
            }
        };
        let position = apply.durable.as_ref().and_then(Durable::sync_position);
        drop(guard);
        change.log();
        (outcome, position)
    }
}
