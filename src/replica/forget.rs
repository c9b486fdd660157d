//! Forgetting: tombstones, which a client's wish leaves, and expiry, by which every record dies.

use std::time::Duration;

use super::{ForgetOutcome, Replica, Winners};
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::replica::Apply;
use crate::replica::durable::{Change, Durable};
use crate::store::journal::SyncPosition;
use crate::sync::{MutexGuard, Ordering};

/// Time before its death from which a record is not in digests: clocks differ, so servers may not
/// agree yet that it lives.
const DIGEST_EDGE_NANOS: u64 = 360_000_000_000;

/// The moment up to which records are dead; `None` if none ever is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Horizon(Option<u64>);

impl Horizon {
    /// Returns whether a record of that time is dead.
    pub(crate) fn is_dead(self, time: Timestamp) -> bool {
        self.0.is_some_and(|horizon| time.as_nanos() <= horizon)
    }
}

impl Replica {
    /// Sets the age at which records die; `None`: they never do.
    pub fn set_forget_after(&self, age: Option<Duration>) {
        let nanos = age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        self.forget_after.store(nanos, Ordering::Relaxed);
    }

    /// Returns the age at which records die.
    pub fn forget_after(&self) -> Option<Duration> {
        match self.forget_after.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Returns up to when records are dead.
    pub(crate) fn horizon(&self, now: Timestamp) -> Horizon {
        Horizon(match self.forget_after.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(now.as_nanos().saturating_sub(nanos)),
        })
    }

    /// Returns up to when records are left out of digests.
    pub(super) fn digest_edge(&self, now: Timestamp) -> Horizon {
        let Horizon(horizon) = self.horizon(now);
        Horizon(horizon.map(|horizon| horizon.saturating_add(DIGEST_EDGE_NANOS)))
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
        winners.push(
            key,
            RecordView {
                client,
                location: b"",
                time_text: b"",
                time,
                received: time,
                origin: self.name.as_bytes(),
                epoch: self.epoch,
                sequence: apply.sequence + 1,
            },
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
