//! The journal under the apply lock: appends, compaction, and when a failure is logged.
//!
//! Everything that must be atomic with the cache and the numbering is here. The threads that bring the journal
//! to disk, flush it, watch it and start compactions are in `upkeep`; opening it is in `open`.

use std::time::Duration;

use log::{error, info, warn};

use super::{Apply, Replica};
use crate::config::Ack;
use crate::logging::RECOVERY;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::store::journal::{
    Act, Compaction, Journal, JournalError, SyncPosition, Syncer, Tampering, retire_superfluous,
};
use crate::sync::Mutex;

/// The journal, and whether it can be written.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) journal: Journal,
    ack: Ack,
    /// True if the last append failed, so that a failure is logged once and not for each report.
    failing: bool,
    /// Time within which what was forgotten is to be gone from the journal.
    compact_within: Duration,
    /// Since when the journal's files may hold what is to be forgotten.
    forgotten: Option<Timestamp>,
    /// A compaction is due now.
    is_demanded: bool,
}

/// The journal's problems, as an operator should see them.
#[derive(Debug, Default)]
pub(super) struct JournalState {
    /// Why reports are refused.
    failing: Option<String>,
    /// The change that others made to its files, until all records have been written again.
    tampered: Option<String>,
}

/// A change of whether the journal can be written, to be logged once no lock is held.
#[derive(Debug)]
#[must_use]
pub(super) enum Change {
    /// Nothing has changed.
    Same,
    /// An append failed; the one before it had not.
    Failed(JournalError),
    /// An append succeeded; the one before it had failed.
    Recovered,
}

impl Durable {
    /// Sets how appends to `journal` are made; with [`Ack::Memory`] they gather until a flush.
    fn new(mut journal: Journal, ack: Ack, failing: bool, compact_within: Duration) -> Durable {
        match ack {
            Ack::Memory => {
                journal.set_lazy();
                journal.set_windowed();
            }
            Ack::Journal => journal.set_windowed(),
            Ack::Disk => {}
        }
        Durable {
            journal,
            ack,
            failing,
            compact_within,
            forgotten: None,
            is_demanded: false,
        }
    }

    /// Notes that since then the journal's files may hold what is to be forgotten: a compaction is due
    /// in time.
    pub(super) fn note_forgotten(&mut self, since: Timestamp) {
        self.forgotten = Some(self.forgotten.map_or(since, |earlier| earlier.min(since)));
    }

    /// Returns whether a compaction is due when `clients` records are live.
    fn wants_compaction(&mut self, clients: usize, now: Timestamp) -> bool {
        // A tombstone follows a device's clock, which may lead, and this server's may be set back.
        self.forgotten = self.forgotten.map(|since| since.min(now));
        let is_late = |since: Timestamp| {
            let age = now.as_nanos().checked_sub(since.as_nanos());
            age.is_some_and(|age| u128::from(age) >= self.compact_within.as_nanos())
        };
        self.journal.wants_compaction(clients)
            || self.is_demanded
            || self.forgotten.is_some_and(is_late)
    }

    /// Has the journal compacted at the next opportunity, whatever it holds.
    pub(super) fn demand_compaction(&mut self) {
        self.is_demanded = true;
    }

    /// Takes back all claims of the journal; they are gone once the handle that is returned has synced.
    pub(super) fn void_claims(&mut self) -> Result<Syncer, JournalError> {
        self.journal.void_claims()?;
        Ok(self.journal.syncer())
    }

    /// Appends reports that this server has just numbered; returns whether that succeeded.
    ///
    /// After a failure they are not gathered, even with [`Ack::Memory`], until a compaction has shown
    /// that there is room again: each group is written at once, or refused.
    pub(super) fn append_own(
        &mut self,
        records: &[RecordView<'_>],
        state: &Mutex<JournalState>,
    ) -> (bool, Change) {
        let mut result = self.journal.append_own(records);
        let gathers = self.ack == Ack::Memory && !self.failing && !self.journal.is_frozen();
        if self.ack == Ack::Memory && !gathers && result.is_ok() {
            result = self.journal.flush_or_refuse(records.len());
        }
        (result.is_ok(), self.change(result, state))
    }

    /// Appends records that a neighbor sent.
    ///
    /// A journal that can't be written refuses reports, but records that other servers have
    /// accepted are kept in the cache all the same: the journal claims none of them until it has
    /// been compacted.
    pub(super) fn append_adopted(
        &mut self,
        records: &[RecordView<'_>],
        state: &Mutex<JournalState>,
    ) -> Change {
        match self.journal.append_adopted(records) {
            // It proves nothing: it may only have been gathered.
            Ok(()) if self.ack == Ack::Memory => Change::Same,
            result => self.change(result, state),
        }
    }

    /// Appends a neighbor's marker.
    pub(super) fn append_marker(&mut self, marker: &Vector, state: &Mutex<JournalState>) -> Change {
        match self.journal.append_marker(marker) {
            Err(error) => self.change(Err(error), state),
            // That proves nothing: a frozen journal leaves markers out.
            Ok(()) => Change::Same,
        }
    }

    /// With [`Ack::Disk`], the position that must be on disk before what has been appended is
    /// acknowledged.
    pub(super) fn sync_position(&self) -> Option<SyncPosition> {
        (self.ack == Ack::Disk).then(|| self.journal.position())
    }

    fn change(&mut self, result: Result<(), JournalError>, state: &Mutex<JournalState>) -> Change {
        let failed = result.is_err();
        let changed = failed != self.failing;
        self.failing = failed;
        // A failure may follow another one after which there seemed to be room.
        if failed || changed {
            state.lock().failing = result.as_ref().err().map(ToString::to_string);
        }
        match result {
            Err(error) if changed => Change::Failed(error),
            Ok(()) if changed => Change::Recovered,
            _ => Change::Same,
        }
    }
}

impl Change {
    /// Logs the change, if there is one. Not to be called under a lock.
    pub(super) fn log(self) {
        match self {
            Change::Same => {}
            Change::Failed(error) => error!(
                "the journal can't be written, and reports are refused until it can: {error}"
            ),
            Change::Recovered => info!(target: RECOVERY, "the journal can be written again"),
        }
    }
}

impl Replica {
    /// Appends to this journal from now on. It must hold all records that have been restored.
    /// `failure` says why it can't be written yet. What was forgotten is to be gone from it within
    /// `compact_within`; since `forgotten`, it may hold some of that.
    pub(super) fn attach(
        &self,
        journal: Journal,
        ack: Ack,
        failure: Option<String>,
        compact_within: Duration,
        forgotten: Option<Timestamp>,
    ) {
        let mut apply = self.apply.lock();
        let durable = Durable::new(journal, ack, failure.is_some(), compact_within);
        let durable = apply.durable.insert(durable);
        durable.forgotten = forgotten;
        self.journal_state.lock().failing = failure;
    }

    /// Returns what is wrong with the journal, for `herd status`; `None` if nothing is. Waits for no
    /// disk.
    pub fn journal_problem(&self) -> Option<String> {
        let state = self.journal_state.lock();
        let failing = state
            .failing
            .as_ref()
            .map(|error| format!("the journal can't be written, and reports are refused: {error}"));
        failing.or_else(|| {
            let text = state.tampered.as_ref()?;
            Some(format!("{text}; all records are written to a new journal"))
        })
    }

    /// With [`Ack::Memory`], writes the appends that have gathered; called several times a second,
    /// and before the end.
    pub(super) fn flush_journal(&self) {
        let mut apply = self.apply.lock();
        let change = match &mut apply.durable {
            Some(durable) if durable.journal.is_behind() => {
                let result = durable.journal.flush();
                durable.change(result, &self.journal_state)
            }
            _ => Change::Same,
        };
        drop(apply);
        change.log();
    }

    /// Checks that the journal's files are still those in the folder, and goes on in a new one if
    /// not: the next compaction brings all live records there. Returns whether it did.
    ///
    /// `logged` is the problem that was logged last; each is logged once.
    pub(super) fn check_journal(&self, logged: &mut Option<String>) -> bool {
        let Some(watched) = self
            .apply
            .lock()
            .durable
            .as_ref()
            .map(|durable| durable.journal.watched())
        else {
            return false;
        };
        // Looking at files waits for the disk, so it is done without the lock.
        let tampering = watched.check();
        drop(watched);
        let (text, result, is_records) = match tampering {
            None => {
                *logged = None;
                return false;
            }
            Some(Tampering::Records(text)) => {
                let mut apply = self.apply.lock();
                let Some(durable) = &mut apply.durable else {
                    return false;
                };
                let is_new = durable.journal.has_file();
                let result = durable.journal.begin_anew();
                if is_new {
                    let text = format!("{text} while the server ran");
                    self.journal_state.lock().tampered = Some(text);
                }
                (text, result, true)
            }
            Some(Tampering::Lock(text)) => {
                let mut apply = self.apply.lock();
                let Some(durable) = &mut apply.durable else {
                    return false;
                };
                (text, durable.journal.restore_lock(), false)
            }
        };
        let begun = is_records && result.is_ok();
        let problem = match &result {
            Ok(()) => text.clone(),
            Err(error) => format!("{text}: {error}"),
        };
        if logged.as_ref() != Some(&problem) {
            match result {
                Ok(()) if begun => {
                    error!("{text}; all records are written from memory to a new journal");
                }
                Ok(()) => warn!("{text}; it has been made again"),
                Err(error) => error!("{text}; it can't be made again: {error}"),
            }
        }
        *logged = Some(problem);
        begun
    }

    /// Notes that there seems to be room for reports again, though not for a compaction. The next
    /// append shows whether that is so; without reports nothing else would.
    pub(super) fn note_room(&self) {
        self.journal_state.lock().failing = None;
    }

    /// Forgets what was done to the journal's files, once all records have been written again.
    pub(super) fn forget_tampering(&self) {
        if self.journal_state.lock().tampered.take().is_some() {
            info!(target: RECOVERY, "the journal has been whole since");
        }
    }

    /// Returns the number of acknowledged reports that the journal lacks, since it could not be
    /// written: they are lost when the process ends. Only with [`Ack::Memory`] are there any.
    pub(super) fn missing_reports(&self) -> u64 {
        let apply = self.apply.lock();
        let durable = apply.durable.as_ref();
        durable.map_or(0, |durable| durable.journal.missing_own())
    }

    /// Compacts the journal if it has grown to twice the size of the live records and over 64 MiB, has
    /// failed before, or has held for too long what is to be forgotten. Reports go on meanwhile. Returns
    /// whether it was compacted.
    pub(super) fn compact_journal(&self, now: Timestamp) -> Result<bool, JournalError> {
        let mut with_journal = |act: Act<'_>| match &mut self.apply.lock().durable {
            Some(durable) => act(&mut durable.journal),
            None => Ok(()),
        };
        let begun = self.begin_compaction(now)?;
        let is_begun = begun.is_some();
        if let Some((compaction, forgotten)) = begun {
            let result = self.write_compaction(compaction, now, &mut with_journal);
            if let (Err(_), Some(since)) = (&result, forgotten)
                && let Some(durable) = &mut self.apply.lock().durable
            {
                durable.note_forgotten(since);
            }
            result?;
        }
        retire_superfluous(&mut with_journal)?;
        Ok(is_begun)
    }

    /// Begins a compaction if one is due; also returns since when the journal has held what it will
    /// leave out.
    fn begin_compaction(
        &self,
        now: Timestamp,
    ) -> Result<Option<(Compaction, Option<Timestamp>)>, JournalError> {
        let Apply {
            vector, durable, ..
        } = &mut *self.apply.lock();
        let clients = self.locations.len();
        let Some(durable) = durable else {
            return Ok(None);
        };
        if !durable.wants_compaction(clients, now) {
            return Ok(None);
        }
        durable.journal.flush()?;
        let compaction = durable.journal.begin_compaction(vector, clients)?;
        // The file of a compaction that did not finish may hold what is to be forgotten;
        // the next compaction is in a new one.
        let is_clean = compaction.is_clean();
        let forgotten = durable.forgotten.take_if(|_| is_clean);
        durable.is_demanded &= !is_clean;
        Ok(Some((compaction, forgotten)))
    }

    fn write_compaction(
        &self,
        compaction: Compaction,
        now: Timestamp,
        with_journal: &mut impl FnMut(Act<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let horizon = self.drop_horizon(now);
        let mut state = (compaction, Ok(()));
        self.locations.scan(
            &mut state,
            |(compaction, _), record| {
                if !horizon.is_dead(record.time) {
                    compaction.push(record);
                }
            },
            |(compaction, result)| {
                *result = compaction.write(with_journal);
                result.is_ok()
            },
        );
        let (compaction, result) = state;
        result?;
        compaction.finish(with_journal)?;
        // It has written more than any report needs.
        let change = match &mut self.apply.lock().durable {
            Some(durable) => durable.change(Ok(()), &self.journal_state),
            None => Change::Same,
        };
        change.log();
        Ok(())
    }
}
