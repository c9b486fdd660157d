//! Owns a herd's journal under the apply lock: what is appended at once, what `--ack memory` appends
//! later, and when a failure is news. Compaction and syncing have threads of their own elsewhere.

use log::{error, warn};

use crate::config::Ack;
use crate::journal::{Journal, JournalError};
use crate::record::{Record, RecordView};
use crate::vector::Vector;

/// The journal, and what of it is still to be done.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) journal: Journal,
    pub(super) ack: Ack,
    /// With [`Ack::Memory`]: what has been stored and not yet appended, in its order.
    behind: Vec<Behind>,
    /// Whether the last append failed, so that a failure is logged once and not for each report.
    failing: bool,
}

/// What the journal is behind with.
#[derive(Debug)]
enum Behind {
    Own(Record),
    Adopted(Record),
    Marker(Vector),
}

/// Entries that the journal may be behind with; past this a report waits for them to be appended.
const MAX_BEHIND: usize = 65_536;

/// What an append came to, to be logged once no lock is held.
#[derive(Debug)]
pub(super) enum Change {
    Failed(JournalError),
    Recovered,
}

impl Durable {
    /// Appends to `journal` from now on.
    pub(super) fn new(journal: Journal, ack: Ack) -> Durable {
        Durable {
            journal,
            ack,
            behind: Vec::new(),
            failing: false,
        }
    }

    /// Whether the journal lacks what has been stored.
    pub(super) fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    pub(super) fn append(
        &mut self,
        winners: &[RecordView<'_>],
        own: bool,
    ) -> Result<(), JournalError> {
        if self.ack == Ack::Memory {
            let entry = if own { Behind::Own } else { Behind::Adopted };
            self.behind
                .extend(winners.iter().map(|winner| entry(Record::new(winner))));
            return if self.behind.len() > MAX_BEHIND {
                self.catch_up()
            } else {
                Ok(())
            };
        }
        if own {
            self.journal.append_own(winners)
        } else {
            self.journal.append_adopted(winners)
        }
    }

    pub(super) fn append_marker(&mut self, marker: &Vector) -> Result<(), JournalError> {
        if self.ack == Ack::Memory {
            self.behind.push(Behind::Marker(marker.clone()));
            return Ok(());
        }
        self.journal.append_marker(marker)
    }

    /// Appends what the journal is behind with. What fails is not tried again: it is in the
    /// cache, and the compaction that a failure calls for writes all of that.
    pub(super) fn catch_up(&mut self) -> Result<(), JournalError> {
        let behind = std::mem::take(&mut self.behind);
        let mut rest = behind.as_slice();
        let mut result = Ok(());
        while let Some(first) = rest.first() {
            let alike =
                |entry: &Behind| std::mem::discriminant(entry) == std::mem::discriminant(first);
            let run = rest.iter().take_while(|entry| alike(entry)).count();
            let records: Vec<RecordView<'_>> =
                rest[..run].iter().filter_map(Behind::view).collect();
            let appended = match first {
                Behind::Own(_) => self.journal.append_own(&records),
                Behind::Adopted(_) => self.journal.append_adopted(&records),
                Behind::Marker(_) => rest[..run].iter().try_for_each(|entry| match entry {
                    Behind::Marker(marker) => self.journal.append_marker(marker),
                    _ => Ok(()),
                }),
            };
            result = result.and(appended);
            rest = &rest[run..];
        }
        result
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

impl Behind {
    fn view(&self) -> Option<RecordView<'_>> {
        match self {
            Behind::Own(record) | Behind::Adopted(record) => Some(record.view()),
            Behind::Marker(_) => None,
        }
    }
}

impl Change {
    pub(super) fn log(self) {
        match self {
            Change::Failed(error) => {
                error!(
                    "the journal can't be written, and reports are refused until it can: {error}"
                );
            }
            Change::Recovered => warn!("the journal can be written again"),
        }
    }
}
