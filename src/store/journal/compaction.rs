//! Writes what is live anew, so that the rest can be forgotten.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use super::error::io_error;
use super::format::{self, Kind, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES};
use super::{Journal, JournalError, path};
use crate::model::record::RecordView;
use crate::model::vector::Vector;

/// Frames of live records that are written under one taking of the owner's lock: 256 KiB.
const FRAMES_PER_WRITE: usize = 4;

/// Room that must be left on the disk beside what a compaction needs. One that fills the disk
/// would stop the reports too.
const SPARE_BYTES: u64 = 1 << 20;

/// A compaction under way: [`push`](Self::push) every live record and [`write`](Self::write)
/// now and then, then [`finish`](Self::finish).
///
/// The journal takes appends meanwhile; its lock is needed only where a closure `with` is asked
/// for, which runs what it is given on the locked journal. To give one up, drop it: what it has
/// written does no harm.
#[derive(Debug)]
pub struct Compaction {
    vector: Vector,
    /// The file that it writes to.
    number: u64,
    /// How many appends had failed when it began.
    failures: u64,
    /// Bytes written so far.
    written: u64,
    /// Payloads of frames; all but the last are full.
    waiting: VecDeque<Vec<u8>>,
}

/// What a closure that holds the journal's lock is asked to run.
type Act<'a> = &'a mut dyn FnMut(&mut Journal) -> Result<(), JournalError>;

impl Journal {
    /// Begins to write all live records anew. `vector` is the server's now, under the same lock
    /// as the appends, and `clients` how many records it covers: every record stored up to now
    /// must be pushed, or one that has replaced it.
    pub fn begin_compaction(
        &mut self,
        vector: &Vector,
        clients: usize,
    ) -> Result<Compaction, JournalError> {
        let live = self.live_bytes(clients);
        let needed = live + live / 4 + SPARE_BYTES;
        let free = free_bytes(&self.directory)?;
        if free < needed {
            return Err(JournalError::NoRoom { needed, free });
        }
        // If there are older files, the current one was begun for a compaction that came to
        // nothing; going on in it keeps the number of files down.
        if self.older.is_empty() {
            self.begin_file()?;
        }
        Ok(Compaction {
            vector: vector.clone(),
            number: self.header.number,
            failures: self.failures,
            written: 0,
            waiting: VecDeque::new(),
        })
    }
}

impl Compaction {
    /// Takes a live record.
    pub fn push(&mut self, record: &RecordView<'_>) {
        let full = MAX_PAYLOAD_BYTES - MAX_RECORD_BYTES;
        match self.waiting.back_mut() {
            Some(payload) if payload.len() <= full => format::write_record(record, payload),
            _ => {
                let mut payload = Vec::with_capacity(MAX_PAYLOAD_BYTES);
                format::write_record(record, &mut payload);
                self.waiting.push_back(payload);
            }
        }
    }

    /// Writes what has been pushed, a bounded piece under each taking of the lock.
    pub fn write(
        &mut self,
        with: &mut impl FnMut(Act<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        // The last one may take more records.
        while self.waiting.len() > 1 {
            self.write_piece(with)?;
        }
        Ok(())
    }

    /// Writes what is left and the vector, brings all of it to disk, and only then lets go of
    /// the older files. Takes as long as the disk does, but holds the lock for moments.
    pub fn finish(
        mut self,
        mut with: impl FnMut(Act<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        while !self.waiting.is_empty() {
            self.write_piece(&mut with)?;
        }
        let mut syncer = None;
        with(&mut |journal| {
            self.check(journal)?;
            syncer = Some(journal.syncer());
            journal.put_claims(&self.vector);
            journal.write_out()
        })?;
        let syncer = syncer.ok_or(JournalError::Interrupted)?;
        // Complete is written only once everything before it is on disk, else a loss of power
        // could leave the mark without what it stands for.
        syncer.sync()?;
        let mut superfluous = Vec::new();
        let mut damaged = false;
        let mut directory = None;
        with(&mut |journal| {
            self.check(journal)?;
            let keep = u8::from(journal.older_damaged);
            journal.put(Kind::Complete, |out| out.push(keep));
            journal.write_out()?;
            superfluous = std::mem::take(&mut journal.older);
            damaged = std::mem::take(&mut journal.older_damaged);
            directory = Some(journal.directory.clone());
            journal.older_bytes = 0;
            journal.compacted_bytes = self.written;
            journal.frozen = false;
            journal.claimed.merge(&self.vector);
            Ok(())
        })?;
        syncer.sync()?;
        for number in superfluous {
            if let Some(directory) = &directory {
                retire(directory, number, damaged)?;
            }
        }
        Ok(())
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
                journal.put(Kind::Records, |out| out.extend_from_slice(&payload));
            }
            journal.write_out()
        })
    }

    fn check(&self, journal: &Journal) -> Result<(), JournalError> {
        if journal.failures == self.failures && journal.header.number == self.number {
            return Ok(());
        }
        Err(JournalError::Interrupted)
    }
}

/// Removes a file that is not needed any more, or renames it if it was damaged.
pub(super) fn retire(directory: &Path, number: u64, damaged: bool) -> Result<(), JournalError> {
    let path = path(directory, number);
    if damaged {
        let mut kept = path.clone().into_os_string();
        kept.push(super::recovery::DAMAGED);
        fs::rename(&path, kept).map_err(io_error("renaming", &path))
    } else {
        fs::remove_file(&path).map_err(io_error("removing", &path))
    }
}

#[cfg(unix)]
fn free_bytes(directory: &Path) -> Result<u64, JournalError> {
    let found = rustix::fs::statvfs(directory)
        .map_err(|error| io_error("looking for room in", directory)(error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Unknown elsewhere; a disk that fills up ends the compaction with an error.
#[cfg(not(unix))]
fn free_bytes(_directory: &Path) -> Result<u64, JournalError> {
    Ok(u64::MAX)
}
