//! Owns a herd's journal under the apply lock: how it is appended to, and when a failure is news. Compaction and syncing have threads of their own elsewhere.

use log::{error, warn};

use crate::config::Ack;
use crate::model::record::RecordView;
use crate::store::journal::{Journal, JournalError};

/// The journal, and what of it is still to be done.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) journal: Journal,
    pub(super) ack: Ack,
    /// Whether the last append failed, so that a failure is logged once and not for each report.
    failing: bool,
}

/// What an append came to, to be logged once no lock is held.
#[derive(Debug)]
pub(super) enum Change {
    Failed(JournalError),
    Recovered,
}

impl Durable {
    /// Appends to `journal` from now on; with [`Ack::Memory`], it follows behind.
    pub(super) fn new(mut journal: Journal, ack: Ack) -> Durable {
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

    pub(super) fn append(
        &mut self,
        winners: &[RecordView<'_>],
        own: bool,
    ) -> Result<(), JournalError> {
        if own {
            self.journal.append_own(winners)
        } else {
            self.journal.append_adopted(winners)
        }
    }

    /// Whether this result is news.
    pub(super) fn change(&mut self, result: Result<(), JournalError>) -> Option<Change> {
        let failed = result.is_err();
        let changed = failed != self.failing;
        self.failing = failed;
        match result {
            Err(error) if changed => Some(Change::Failed(error)),
            Ok(()) if changed => Some(Change::Recovered),
            _ => None,
        }
    }
}

impl Change {
    pub(super) fn log(self) {
        match self {
            Change::Failed(error) => {
                error!(
                    "the journal can't be written, and reports that wait for it are refused until it can: {error}"
                );
            }
            Change::Recovered => warn!("the journal can be written again"),
        }
    }
}
