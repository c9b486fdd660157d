//! The durable copy of a server's records, and of what it claims to hold.
//!
//! An append-only log. [`append_own`](Journal::append_own) and its siblings return once the bytes
//! are with the kernel, so they survive the death of the process; a [`Syncer`] brings them to
//! disk for many callers at once. The vector on disk never covers more than the records on disk:
//! sequence numbers that this server assigns are claimed by the frame that holds the records, and a
//! neighbor's marker is appended behind the records that it covers. The newest record wins on
//! replay, so a record may occur any number of times, in any order.
//!
//! **After a failed append** that group is cut off again, and the journal goes on once there is
//! room; but it is *frozen*: records are appended without a claim, until a compaction has
//! succeeded. **A torn tail** is cut off on opening, and the part before it keeps its claims. **Any
//! other damage** leaves the readable records and no claims at all: the journal starts frozen, and
//! the damaged files are kept under another name once a compaction has made them superfluous. What
//! is behind the last whole append is a torn tail only if it is no longer than an append can be, and
//! if nothing that was appended is missing: `journal.end` notes where the last append ended.
//!
//! **A full disk** is no reason not to open: without a file, appends fail until there is room for
//! one. **Files that are deleted or changed by hand** while the journal is open are noticed by
//! [`Watched::check`]; [`begin_anew`](Journal::begin_anew) then goes on in a new file, frozen, so that
//! a compaction brings the live records there.
//!
//! # Modules
//!
//! `writer` appends to the newest file (through a `window` of mapped memory where it can), `files`
//! keeps the folder's books, `format` has the bytes, `recovery` opens a journal with the help of
//! `replay`, `compaction` copies the live records to a new file, `syncer` brings files to disk.
//! `lock` keeps other processes away, `watch` notices what they do all the same, `end_mark` notes
//! where the journal ends, and `raw` has what these need of the file system.
//!
//! # Files
//!
//! `journal-N.log`, numbered upward; mostly there is one. A compaction begins the next file,
//! writes all live records there while new ones are appended between them, syncs it, marks it
//! complete, and removes the older ones. Until it is complete all files count, so a crash at any
//! point of a compaction costs nothing. `journal.lock` is locked while a process has the journal
//! open; `journal.end` notes where the last append ended. A damaged file ends as `journal-N.log.damaged`, for an operator to inspect and delete.
//!
//! All numbers are little-endian. A file begins with its header, twice:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `herdjrnl` |
//! | 4 | version of the layout, 2; a folder of layout 1 is read, and compacted into this one |
//! | 8 | number of the file |
//! | 8 | random salt |
//! | 8 | highest epoch of this server so far |
//! | 8 | length of the previous file when it was closed, so that a file that lost its tail is noticed |
//! | 8 | number of the oldest file that was needed when this one began, so that a lost file is noticed |
//! | 8 | zero |
//! | 4 | CRC-32C of the 60 bytes before |
//!
//! Frames follow without a gap; behind the last one a file may go on with zeros, where the next
//! appends will be copied to:
//!
//! | bytes | content |
//! |---|---|
//! | 4 | CRC-32C of the salt, the frame's offset in the file, and the rest of the frame |
//! | 3 | length of the payload, 1 to 65,536 |
//! | 1 | kind: 1 own records, 2 records, 3 claims, 4 epoch, 5 complete, 6 void |
//! | | payload |
//!
//! A frame that is still being copied when the process dies is torn like one that is being
//! written.
//!
//! 1 and 2: records, packed as [`RecordView::pack`] does. 3: a line `CLAIMS 0 origin epoch sequence
//! ...`. 4: the epoch in 8 bytes. 5: one byte, 1 if older files were damaged and are to be kept.
//! 6: one byte, 0: what was claimed before is not.
//!
//! Layout 1 has no tombstones (records without a location) and no frame of kind 6. Nothing is appended
//! to a file of it, so a program that knows layout 1 alone refuses the folder by its newest file.
//!
//! # Why not `wal-db`
//!
//! Version 1.1.0 was tried and replaced by a log of our own. Each of these was observed:
//! after a failed write it goes on past the gap, and accepts appends that are gone when it is
//! opened again (100 of 100, once a full disk had room again); on opening it deletes everything
//! behind a flipped byte; it rewrites the marker of its first live record in place, and killed
//! in between it deletes the whole log on opening (1,000 live records of 1,000); two processes
//! can open one log; replaying 1 M records takes 2.1 to 3.5 s, against 0.05 to 0.2 s here.

mod compaction;
mod end_mark;
mod error;
mod files;
mod format;
mod lock;
mod raw;
mod recovery;
mod replay;
mod syncer;
#[cfg(test)]
mod tests;
mod watch;
mod window;
mod writer;

use std::io;
use std::path::Path;

use crate::disk::Readers;
use crate::model::record::RecordView;
use crate::model::vector::Vector;

pub(crate) use compaction::{Act, Compaction, retire_superfluous};
pub(crate) use error::JournalError;
pub(crate) use recovery::Recovered;
pub(crate) use syncer::{SyncPosition, Syncer};
pub(crate) use watch::{Tampering, Watched};

use end_mark::EndMark;
use error::io_error;
use files::Files;
use format::{Kind, MAX_PAYLOAD_BYTES};
use writer::Writer;

/// Keyword of the lines that claims are written as.
const CLAIMS: &str = "CLAIMS";

/// Bytes up to which a journal is not compacted, however little of it is live: half a million
/// records, which a start reads in 0.1 s. A herd of few clients that report all the time would
/// otherwise compact its journal every second, and each time the disk would hold up reports.
const SMALL_BYTES: u64 = if cfg!(test) { 4 << 20 } else { 64 << 20 };

/// A journal that is open for appending. Its owner's lock orders the appends.
#[derive(Debug)]
pub(crate) struct Journal {
    writer: Writer,
    files: Files,
    /// Claims that the journal holds; a marker that adds nothing to them is not appended.
    claimed: Vector,
    /// Records appended or read so far.
    records: u64,
    /// Bytes of those records: the average is the estimate for a live record.
    record_bytes: u64,
    /// Bytes that the last compaction wrote.
    compacted_bytes: u64,
    /// The epoch of this start, while its frame is still to be appended.
    epoch_due: Option<u64>,
    /// Reports of this server among the appends that have gathered.
    gathered_own: u64,
    /// Reports of this server that were lost with appends that had gathered: the journal lacks them
    /// until a compaction.
    missing_own: u64,
}

impl Journal {
    /// Opens the journal in a folder, which is created if it is missing, and shows every record in
    /// it to `show`, in the order in which they were appended: the greatest of a client counts.
    ///
    /// New files can be read by `readers`.
    pub(crate) fn open(
        directory: &Path,
        readers: Readers,
        mut show: impl FnMut(&RecordView<'_>),
    ) -> Result<(Journal, Recovered), JournalError> {
        recovery::open(directory, readers, &mut show)
    }

    /// Appends reports that this server has just numbered, of one epoch and in order, together with
    /// the claim to hold everything up to the last of them.
    ///
    /// All of the group is in the journal afterwards, or after an error nothing.
    pub(crate) fn append_own(&mut self, records: &[RecordView<'_>]) -> Result<(), JournalError> {
        let kind = if self.is_frozen() {
            Kind::Records
        } else {
            Kind::Own
        };
        let reports = records.len() as u64;
        self.gathered_own += reports;
        let appended = self.append_records(kind, records);
        if appended.is_err() {
            // These are refused, and so are not missed.
            self.missing_own -= reports;
        }
        appended
    }

    /// Appends records of other origins, or of earlier epochs, which claim nothing.
    ///
    /// All of the group is in the journal afterwards, or after an error nothing.
    pub(crate) fn append_adopted(
        &mut self,
        records: &[RecordView<'_>],
    ) -> Result<(), JournalError> {
        self.append_records(Kind::Records, records)
    }

    /// Appends a neighbor's marker. Every record that it covers must have been appended, or lost
    /// to one that was.
    ///
    /// A frozen journal leaves it out, and so does one that claims as much already.
    pub(crate) fn append_marker(&mut self, marker: &Vector) -> Result<(), JournalError> {
        if self.is_frozen() || self.claimed.includes(marker) {
            return Ok(());
        }
        self.put_claims(marker);
        self.check_append(Writer::end_append)?;
        self.claimed.merge(marker);
        Ok(())
    }

    /// Takes back all that was claimed so far. It is on disk once [`Syncer::sync`] has returned.
    pub(crate) fn void_claims(&mut self) -> Result<(), JournalError> {
        self.writer.put(Kind::Void, &[0]);
        self.write_out()?;
        self.claimed = Vector::default();
        // It would claim what was true when it began.
        self.writer.interrupt_compaction();
        Ok(())
    }

    /// From now on appends gather in memory, up to half a MiB, until [`flush`](Self::flush).
    pub(crate) fn set_lazy(&mut self) {
        self.writer.set_lazy();
    }

    /// From now on small appends are copied into mapped memory, where the file system suits that.
    /// Not for a journal that is synced all the time: the kernel would write a whole large page for
    /// each few records.
    pub(crate) fn set_windowed(&mut self) {
        self.writer.set_windowed();
    }

    /// Returns whether there is anything to flush.
    pub(crate) fn is_behind(&self) -> bool {
        self.writer.is_behind()
    }

    /// Writes the appends that have gathered, in one write. After an error none of them is in the
    /// journal.
    pub(crate) fn flush(&mut self) -> Result<(), JournalError> {
        if self.is_behind() {
            self.write_out()?;
        }
        Ok(())
    }

    /// [`flush`](Self::flush), right behind an append of `reports` of this server; after an error
    /// those are refused, and so are not missed.
    pub(crate) fn flush_or_refuse(&mut self, reports: usize) -> Result<(), JournalError> {
        let before = self.missing_own;
        self.flush().inspect_err(|_| {
            let refused = reports as u64;
            self.missing_own = before.max(self.missing_own.saturating_sub(refused));
        })
    }

    /// Number of reports of this server that were appended lazily and that the journal lacks, since
    /// it could not be written then.
    pub(crate) fn missing_own(&self) -> u64 {
        self.missing_own
    }

    /// Appends the epoch of this start and brings it to disk before it returns. If it can't be
    /// appended now, it goes before the next append.
    pub(crate) fn start_epoch(&mut self, epoch: u64) -> Result<(), JournalError> {
        // The header of the next file has it too.
        self.files.newest.epoch = self.files.newest.epoch.max(epoch);
        self.epoch_due = Some(epoch);
        self.put_epoch();
        self.write_out()?;
        self.writer.syncer().sync()?;
        Ok(())
    }

    fn put_epoch(&mut self) {
        if let Some(epoch) = self.epoch_due {
            self.writer.put(Kind::Epoch, &epoch.to_le_bytes());
        }
    }

    /// Handles by which to check that the files are still those in the folder.
    pub(crate) fn watched(&self) -> Watched {
        Watched {
            directory: self.files.directory.clone(),
            newest: self.files.newest,
            file: self.writer.file().cloned(),
            end: self.writer.end(),
            lost: self.writer.is_lost(),
            older: self.files.older.clone(),
            lock: self.files.lock.file().cloned(),
            end_mark: self.writer.end_mark().file().cloned(),
        }
    }

    /// Returns whether there is a file to append to; on a disk that was full from the start there is none yet.
    pub(crate) fn has_file(&self) -> bool {
        self.writer.file().is_some()
    }

    /// Makes a lock file and a note of the journal's end again, if they are gone.
    pub(crate) fn restore_lock(&mut self) -> Result<(), JournalError> {
        let files = &mut self.files;
        files.lock.lock_file(&files.directory, files.readers)?;
        self.restore_end_mark();
        Ok(())
    }

    fn restore_end_mark(&mut self) {
        let files = &self.files;
        let end_mark = EndMark::open(&files.directory, files.readers);
        self.writer.set_end_mark(end_mark, &files.newest);
    }

    /// Goes on in a new file, in a new folder if there is none: those that were appended to are gone
    /// or were changed. Until a compaction the journal lacks what they held, and is frozen.
    ///
    /// After an error, appends fail.
    pub(crate) fn begin_anew(&mut self) -> Result<(), JournalError> {
        // The gathered records are in the cache, as are all that the lost files held.
        self.missing_own += std::mem::take(&mut self.gathered_own);
        self.writer.give_up();
        let file = self.files.begin_anew(self.writer.end())?;
        self.writer.switch_to(file, &self.files.newest);
        self.note_size();
        self.restore_lock()?;
        self.claimed = Vector::default();
        Ok(())
    }

    /// Where the journal ends now: everything appended before is on disk once
    /// [`Syncer::sync`] has returned a position that is not lower.
    pub(crate) fn position(&self) -> SyncPosition {
        self.writer.syncer().appended()
    }

    /// A handle that brings this journal to disk, from any thread, without its owner's lock.
    pub(crate) fn syncer(&self) -> Syncer {
        self.writer.syncer().clone()
    }

    /// Returns whether claims are left out: after a failed append or after damage, until a compaction
    /// has succeeded.
    pub(crate) fn is_frozen(&self) -> bool {
        self.writer.is_frozen()
    }

    /// Returns whether a compaction is due when `clients` records are live: the journal is frozen, of an
    /// earlier layout, or over twice as large as they are.
    pub(crate) fn wants_compaction(&self, clients: usize) -> bool {
        let live = self.compacted_bytes.max(self.live_bytes(clients));
        let is_old = self.is_frozen() || self.files.older_layout;
        is_old || self.bytes() > SMALL_BYTES.max(2 * live)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.older_bytes() + self.writer.end()
    }

    /// Shows the size to whoever asks [`Syncer::size`], after a file was begun or removed.
    fn note_size(&self) {
        self.writer.syncer().set_size(self.bytes());
    }

    /// Estimated bytes of `clients` records, by the average of those seen so far.
    fn live_bytes(&self, clients: usize) -> u64 {
        match self.records {
            0 => 0,
            records => {
                (u128::from(self.record_bytes) * clients as u128 / u128::from(records)) as u64
            }
        }
    }

    fn append_records(
        &mut self,
        kind: Kind,
        records: &[RecordView<'_>],
    ) -> Result<(), JournalError> {
        if records.is_empty() {
            return Ok(());
        }
        if self.epoch_due.is_some() && !self.writer.is_behind() {
            self.put_epoch();
        }
        let mut bytes = 0;
        for record in records {
            bytes += self.writer.put_record(kind, record) as u64;
        }
        self.check_append(Writer::end_append)?;
        self.records += records.len() as u64;
        self.record_bytes += bytes;
        Ok(())
    }

    /// Each entry of a vector is true by itself, so a vector of many lines needs no bracket.
    fn put_claims(&mut self, vector: &Vector) {
        let mut lines = Vec::new();
        vector.write_lines(CLAIMS, &mut lines);
        for line in lines.split(|&byte| byte == b'\n') {
            if !line.is_empty() {
                self.writer.put(Kind::Claims, line);
            }
        }
    }

    fn write_out(&mut self) -> Result<(), JournalError> {
        self.check_append(Writer::write_out)
    }

    fn check_append(
        &mut self,
        append: impl FnOnce(&mut Writer) -> io::Result<()>,
    ) -> Result<(), JournalError> {
        let appended = append(&mut self.writer);
        if !self.writer.is_behind() {
            // All that had gathered is written, or lost.
            let gathered = std::mem::take(&mut self.gathered_own);
            match appended {
                Ok(()) => self.epoch_due = None,
                Err(_) => self.missing_own += gathered,
            }
        }
        appended.map_err(|source| io_error("appending to", &self.files.directory)(source))
    }

    /// Sets the bytes that can still be written before the disk is "full". The next append is a write.
    #[cfg(test)]
    pub(crate) fn set_room(&mut self, room: Option<u64>) {
        self.writer.close_window();
        self.writer.room = room;
    }

    /// Goes on in a new file; those before it are still needed.
    fn begin_file(&mut self) -> Result<(), JournalError> {
        let file = self.files.begin_next(self.writer.end())?;
        self.writer.switch_to(file, &self.files.newest);
        self.note_size();
        if self.writer.end_mark().file().is_none() {
            // There was no room for it before.
            self.restore_end_mark();
        }
        Ok(())
    }
}

const _: () = assert!(crate::model::vector::MAX_LINE_BYTES <= MAX_PAYLOAD_BYTES);
