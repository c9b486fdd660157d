//! The journal under the apply lock: appends, compaction, and when a failure is logged.
//!
//! What must be atomic with the cache and the numbering is here. The threads that bring the journal
//! to disk, flush it and start compactions are in `upkeep`; opening it is in `open`.

use log::{error, warn};

use super::{Apply, Replica};
use crate::config::Ack;
use crate::model::record::RecordView;
use crate::model::vector::Vector;
use crate::store::journal::{Journal, JournalError, SyncPosition};

/// The journal, and whether it can be written.
#[derive(Debug)]
pub(super) struct Durable {
    journal: Journal,
    ack: Ack,
    /// Whether the last append failed, so that a failure is logged once and not for each report.
    failing: bool,
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
    fn new(mut journal: Journal, ack: Ack) -> Durable {
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
            failing: false,
        }
    }

    /// Appends reports that this server has just numbered; returns whether that succeeded.
    pub(super) fn append_own(&mut self, records: &[RecordView<'_>]) -> (bool, Change) {
        let result = self.journal.append_own(records);
        (result.is_ok(), self.change(result))
    }

    /// Appends records that a neighbor sent.
    ///
    /// A journal that can't be written refuses reports, but records that other servers have
    /// accepted are kept in the cache all the same: the journal claims none of them until it has
    /// been compacted.
    pub(super) fn append_adopted(&mut self, records: &[RecordView<'_>]) -> Change {
        let result = self.journal.append_adopted(records);
        self.change(result)
    }

    /// Appends a neighbor's marker.
    pub(super) fn append_marker(&mut self, marker: &Vector) -> Change {
        match self.journal.append_marker(marker) {
            Err(error) => self.change(Err(error)),
            // That proves nothing: a frozen journal leaves markers out.
            Ok(()) => Change::Same,
        }
    }

    /// With [`Ack::Disk`], the position that must be on disk before what has been appended is
    /// acknowledged.
    pub(super) fn sync_position(&self) -> Option<SyncPosition> {
        (self.ack == Ack::Disk).then(|| self.journal.position())
    }

    fn change(&mut self, result: Result<(), JournalError>) -> Change {
        let failed = result.is_err();
        let changed = failed != self.failing;
        self.failing = failed;
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
            Change::Recovered => warn!("the journal can be written again"),
        }
    }
}

impl Replica {
    /// Appends to this journal from now on. It must hold all records that have been restored.
    pub(super) fn attach(&self, journal: Journal, ack: Ack) {
        self.apply.lock().durable = Some(Durable::new(journal, ack));
    }

    /// With [`Ack::Memory`], writes the appends that have gathered; called several times a second,
    /// and before the end.
    pub(super) fn flush_journal(&self) {
        let mut apply = self.apply.lock();
        let change = match &mut apply.durable {
            Some(durable) if durable.journal.is_behind() => {
                let result = durable.journal.flush();
                durable.change(result)
            }
            _ => Change::Same,
        };
        drop(apply);
        change.log();
    }

    /// Compacts the journal if it has grown to twice the size of the live records, or has failed
    /// before. Reports go on meanwhile. Returns whether it was compacted.
    pub(super) fn compact_journal(&self) -> Result<bool, JournalError> {
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
        let mut with_journal =
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
                *result = compaction.write(&mut with_journal);
                result.is_ok()
            },
        );
        let (compaction, result) = state;
        result?;
        compaction.finish(with_journal)?;
        Ok(true)
    }
}
