//! Compaction: copies the live records to a new file, so that the older files can be retired.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::error::io_error;
use super::files::retire;
use super::format::{HEADER_BYTES, Kind, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES};
use super::{Journal, JournalError};
use crate::model::record::RecordView;
use crate::model::vector::Vector;

/// Frames of live records that are written each time the owner's lock is taken: 256 KiB.
const FRAMES_PER_WRITE: usize = 4;

/// Bytes that must stay free on the disk beside those that a compaction needs. A compaction that
/// fills the disk would stop the reports too.
const SPARE_BYTES: u64 = 1 << 20;

/// Files beyond which a compaction begins no further one because the last has reached the limit on
/// the size of files: the live records may be more than that limit allows.
const MAX_OUTGROWN: usize = 4;

/// A compaction under way: [`push`](Self::push) every live record and [`write`](Self::write)
/// now and then, then [`finish`](Self::finish).
///
/// The journal takes appends meanwhile; its lock is needed only in the closures called `with`,
/// which run their argument on the locked journal. To give a compaction up, drop it: the records
/// that it has written do no harm.
#[derive(Debug)]
pub(crate) struct Compaction {
    vector: Vector,
    /// Number of the file that it writes to.
    number: u64,
    /// True if nothing else was in that file when it began.
    is_clean: bool,
    /// Number of failed appends when it began.
    failures: u64,
    /// Bytes written so far.
    written: u64,
    /// Payloads of frames to be written; all but the last are full.
    waiting: VecDeque<Vec<u8>>,
}

/// Runs on the locked journal.
pub(crate) type Act<'a> = &'a mut dyn FnMut(&mut Journal) -> Result<(), JournalError>;

impl Journal {
    /// Begins a compaction. `vector` is the server's now, under the same lock as the appends, and
    /// `clients` the number of records that it covers: every record stored up to now must be
    /// pushed, or one that has replaced it.
    pub(crate) fn begin_compaction(
        &mut self,
        vector: &Vector,
        clients: usize,
    ) -> Result<Compaction, JournalError> {
        let live = self.live_bytes(clients);
        let needed = live + live / 4 + SPARE_BYTES;
        let free = free_bytes(&self.files.directory)?;
        if free < needed {
            return Err(JournalError::NoRoom { needed, free });
        }
        // If there are older files, the newest was begun for a compaction that did not finish;
        // going on in it keeps the number of files down.
        // So does going on in one that is still empty.
        let goes_on = !self.files.older.is_empty() || self.writer.end() == HEADER_BYTES;
        let is_outgrown = self.writer.is_outgrown() && self.files.older.len() < MAX_OUTGROWN;
        if !goes_on || is_outgrown {
            self.begin_file()?;
        }
        Ok(Compaction {
            vector: vector.clone(),
            number: self.files.newest.number,
            is_clean: self.writer.end() == HEADER_BYTES,
            failures: self.writer.failures(),
            written: 0,
            waiting: VecDeque::new(),
        })
    }
}

impl Compaction {
    /// Returns whether, once it has finished, the journal holds only records that are pushed, and those
    /// that are appended from now on: not if it goes on in the file of one that did not finish.
    pub(crate) fn is_clean(&self) -> bool {
        self.is_clean
    }

    /// Adds a live record.
    pub(crate) fn push(&mut self, record: &RecordView<'_>) {
        let full = MAX_PAYLOAD_BYTES - MAX_RECORD_BYTES;
        match self.waiting.back_mut() {
            Some(payload) if payload.len() <= full => record.pack(payload),
            _ => {
                let mut payload = Vec::with_capacity(MAX_PAYLOAD_BYTES);
                record.pack(&mut payload);
                self.waiting.push_back(payload);
            }
        }
    }

    /// Writes the records that have been pushed, a bounded piece each time the lock is taken.
    pub(crate) fn write(
        &mut self,
        with: &mut impl FnMut(Act<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        // The last payload may take more records.
        while self.waiting.len() > 1 {
            self.write_piece(with)?;
        }
        Ok(())
    }

    /// Writes the remaining records and the vector, and brings everything to disk; only then the older
    /// files are superfluous, and may be [retired](retire_superfluous). Takes as long as the disk does,
    /// but holds the lock for moments.
    pub(crate) fn finish(
        mut self,
        with: &mut impl FnMut(Act<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        while !self.waiting.is_empty() {
            self.write_piece(with)?;
        }
        let mut syncer = None;
        with(&mut |journal| {
            self.check(journal)?;
            syncer = Some(journal.syncer());
            journal.put_claims(&self.vector);
            journal.write_out()
        })?;
        let syncer = syncer.ok_or(JournalError::Interrupted)?;
        // The mark is written only once everything before it is on disk, or a loss of power could
        // leave the mark without the records that it stands for.
        syncer.sync()?;
        let mut superfluous: Vec<(u64, bool)> = Vec::new();
        with(&mut |journal| {
            self.check(journal)?;
            let keep = u8::from(journal.files.older_damaged);
            journal.writer.put(Kind::Complete, &[keep]);
            journal.write_out()?;
            let files = &mut journal.files;
            let damaged = std::mem::take(&mut files.older_damaged);
            let older = std::mem::take(&mut files.older);
            superfluous = older
                .iter()
                .map(|closed| (closed.number, damaged))
                .collect();
            files.older_layout = false;
            journal.missing_own = 0;
            journal.compacted_bytes = self.written;
            journal.writer.thaw();
            journal.note_size();
            journal.claimed.merge(&self.vector);
            Ok(())
        })?;
        syncer.sync()?;
        with(&mut |journal| {
            journal.files.superfluous.append(&mut superfluous);
            Ok(())
        })
    }

    fn write_piece(
        &mut self,
        with: &mut impl FnMut(Act<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        with(&mut |journal| {
            self.check(journal)?;
            let frames = self.waiting.len().min(FRAMES_PER_WRITE);
            for payload in self.waiting.drain(..frames) {
                self.written += payload.len() as u64;
                journal.writer.put(Kind::Records, &payload);
            }
            journal.write_out()
        })
    }

    fn check(&self, journal: &Journal) -> Result<(), JournalError> {
        let same_file = journal.files.newest.number == self.number;
        if same_file && journal.writer.failures() == self.failures {
            return Ok(());
        }
        Err(JournalError::Interrupted)
    }
}

/// Removes the files that are no longer needed, and keeps the damaged ones under another name; those
/// that can't be are tried again by the next call. Removing a large file takes a while, so the lock is
/// not held meanwhile.
pub(crate) fn retire_superfluous(
    with: &mut impl FnMut(Act<'_>) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let mut superfluous = Vec::new();
    let mut directory = PathBuf::new();
    with(&mut |journal| {
        superfluous = std::mem::take(&mut journal.files.superfluous);
        directory.clone_from(&journal.files.directory);
        Ok(())
    })?;
    let mut result = Ok(());
    superfluous.retain(|&(number, damaged)| {
        let retired = retire(&directory, number, damaged);
        let is_left = retired.is_err();
        if is_left && result.is_ok() {
            result = retired;
        }
        is_left
    });
    if !superfluous.is_empty() {
        with(&mut |journal| {
            journal.files.superfluous.append(&mut superfluous);
            Ok(())
        })?;
    }
    result
}

#[cfg(unix)]
fn free_bytes(directory: &Path) -> Result<u64, JournalError> {
    let found = rustix::fs::statvfs(directory)
        .map_err(|error| io_error("querying free space of", directory)(error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Unknown elsewhere; a disk that fills up ends the compaction with an error.
#[cfg(not(unix))]
fn free_bytes(_directory: &Path) -> Result<u64, JournalError> {
    Ok(u64::MAX)
}
