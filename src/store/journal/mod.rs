//! The durable copy of a server's records, and of what it may claim to hold.
//!
//! An append-only log. [`append_own`](Journal::append_own) and its like return once the bytes
//! are with the kernel, so they survive the death of the process; a [`Syncer`] brings them to
//! disk for many callers at once. The vector on disk never covers more than the records on disk:
//! what this server numbers itself is claimed by the frame that holds it, and a neighbor's marker
//! is appended behind the records that it covers. Newest wins on replay, so a record may be
//! there any number of times, in any order.
//!
//! **After a failed append** that group is cut off again, and the journal goes on once there is
//! room; but it is *frozen*: records are appended without a claim, until a compaction has
//! written everything anew. **A torn tail** is cut off on opening, and what is before it keeps
//! its claims. **Any other damage** leaves the readable records and no claims at all: the journal
//! starts frozen, and the damaged files are kept under another name once a compaction has made
//! them superfluous.
//!
//! # Files
//!
//! `journal-N.log`, numbered upward; mostly there is one. A compaction begins the next file,
//! writes all live records there while new ones are appended between them, syncs it, marks it
//! complete, and removes the older ones. Until it is complete all files count, so a crash at any
//! point of a compaction costs nothing. `journal.lock` is locked while a process has the journal
//! open. A damaged file ends as `journal-N.log.damaged`, for somebody to look at and to delete.
//!
//! All numbers are little-endian. A file begins with its header, twice:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `herdjrnl` |
//! | 4 | version of the layout, 1 |
//! | 8 | number of the file |
//! | 8 | random salt |
//! | 8 | highest epoch of this server so far |
//! | 8 | length of the file before when that was closed, so that a file that lost its tail is noticed |
//! | 8 | number of the oldest file that was needed when this one began, so that a lost file is noticed |
//! | 8 | zero |
//! | 4 | CRC-32C of the 60 bytes before |
//!
//! Frames follow without a gap; behind the last one a file may go on with zeros, where the next
//! appends will be copied to:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | CRC-32C of the salt, the frame's offset in the file, and the rest of the frame |
//! | 3 | length of the payload, 1 to 65,536 |
//! | 1 | kind: 1 own records, 2 records, 3 claims, 4 epoch, 5 complete |
//! | | payload |
//!
//! A frame that is still being copied when the process dies is torn like one that is being
//! written.
//!
//! 1 and 2: records, each `time`, `received`, `epoch`, `sequence` in 8 bytes, the lengths of
//! origin, client, location and time text in one byte each, and those texts. 3: a line `CLAIMS 0
//! origin epoch sequence ...`. 4: the epoch in 8 bytes. 5: one byte, 1 if older files were
//! damaged and are to be kept.
//!
//! # Why not `wal-db`
//!
//! It was tried at 1.1.0, and a log of our own took its place. Each of these was seen to happen:
//! after a failed write it goes on past the gap, and accepts appends that are gone when it is
//! opened again (100 of 100, once a full disk had room again); on opening it deletes everything
//! behind a flipped byte; it rewrites the marker of its first live record in place, and killed
//! in between it deletes the whole log on opening (1,000 live records of 1,000); two processes
//! can open one log; replaying 1 M records takes 2.1 to 3.5 s, against 0.05 to 0.2 s here.

mod compaction;
mod error;
mod format;
mod recovery;
mod replay;
mod syncer;
#[cfg(test)]
mod tests;
mod window;

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::record::RecordView;
use crate::model::vector::Vector;

pub use compaction::Compaction;
pub use error::JournalError;
pub use recovery::{Damage, Recovered};
pub use syncer::{SyncPosition, Syncer};

use error::io_error;
use format::{FRAME_BYTES, HEADER_BYTES, Header, Kind, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES, Seal};
use window::{WINDOW_BYTES, Window};

/// Keyword of the lines that claims are written as.
const CLAIMS: &str = "CLAIMS";

/// Bytes up to which a journal is left alone, however little of it is live: half a million records,
/// which a start reads in 0.1 s. A herd of few clients that report all the time would else write
/// its journal anew every second, and each time the disk would hold up reports.
const SMALL_BYTES: u64 = if cfg!(test) { 4 << 20 } else { 64 << 20 };

/// Bytes of appends that wait for a flush; past this an append writes them all.
const LAZY_BYTES: usize = 512 << 10;

/// Bytes that the buffer for a write may keep; a greater one is given back after use.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// A journal that is open for appending. Its owner's lock orders the appends.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    file: Arc<File>,
    header: Header,
    seal: Seal,
    /// Length of the file up to the last whole append.
    end: u64,
    /// Bytes behind `end` are left from a failed append, and could not be cut off yet.
    torn: bool,
    /// Files before the current one that are still needed, oldest first.
    older: Vec<u64>,
    older_bytes: u64,
    /// Whether one of those was damaged.
    older_damaged: bool,
    frozen: bool,
    /// How many appends have failed.
    failures: u64,
    /// What the journal claims; a marker that adds nothing is not written again.
    claimed: Vector,
    /// Records appended or read so far and the bytes that they took: the average is what a live
    /// record will take.
    records: u64,
    record_bytes: u64,
    /// What the last compaction wrote.
    compacted_bytes: u64,
    /// What is to be written next.
    buffer: Vec<u8>,
    /// The frame at the end of `buffer`, while it may grow: where it begins. Appends that gather
    /// share frames, and so the cost of a checksum.
    open: Option<(usize, Kind)>,
    /// Whether appends wait in `buffer` for a flush.
    lazy: bool,
    /// Whether small appends go through windows, where the file system suits them.
    windowed: bool,
    /// The one that is open; it begins before `end`, and behind `end` it is zeros.
    window: Option<Window>,
    syncer: Syncer,
    /// Keeps the lock on the folder.
    _lock: recovery::Lock,
    /// Bytes that tests leave to be written until the disk is "full".
    #[cfg(test)]
    room: Option<u64>,
}

impl Journal {
    /// Opens the journal in a folder, which is made if it is missing, and shows every record in
    /// it to `show`, in the order in which they were appended: the greatest of a client counts.
    pub fn open(
        directory: &Path,
        mut show: impl FnMut(&RecordView<'_>),
    ) -> Result<(Journal, Recovered), JournalError> {
        recovery::open(directory, &mut show)
    }

    /// Appends reports that this server has just numbered, of one epoch and in order: the claim
    /// to hold everything up to the last of them goes with them.
    ///
    /// All of the group is in the journal afterwards, or after an error nothing.
    pub fn append_own(&mut self, records: &[RecordView<'_>]) -> Result<(), JournalError> {
        let kind = if self.frozen {
            Kind::Records
        } else {
            Kind::Own
        };
        self.append_records(kind, records)
    }

    /// Appends records of other origins, or of earlier epochs, which claim nothing.
    ///
    /// All of the group is in the journal afterwards, or after an error nothing.
    pub fn append_adopted(&mut self, records: &[RecordView<'_>]) -> Result<(), JournalError> {
        self.append_records(Kind::Records, records)
    }

    /// Appends a neighbor's marker. Every record that it covers must have been appended, or lost
    /// to one that was.
    ///
    /// A frozen journal leaves it out, and so does one that claims as much already.
    pub fn append_marker(&mut self, marker: &Vector) -> Result<(), JournalError> {
        if self.frozen {
            return Ok(());
        }
        let mut merged = self.claimed.clone();
        merged.merge(marker);
        if merged == self.claimed {
            return Ok(());
        }
        self.put_claims(marker);
        self.end_append()?;
        self.claimed = merged;
        Ok(())
    }

    /// From now on appends gather in memory, up to [`LAZY_BYTES`], until [`flush`](Self::flush).
    pub fn set_lazy(&mut self) {
        self.lazy = true;
    }

    /// From now on small appends are copied into memory that the file lies in, where the file
    /// system suits that. Not for a journal that is synced all the time: the kernel would write a
    /// whole large page for each few records.
    pub fn set_windowed(&mut self) {
        self.windowed = window::suits(&self.file);
    }

    /// Whether there is anything to flush.
    pub fn is_behind(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Writes what has gathered, in one append. After an error nothing of it is in the journal.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.write_out()
    }

    /// Appends the epoch of this start and brings it to disk before it returns.
    pub fn start_epoch(&mut self, epoch: u64) -> Result<(), JournalError> {
        self.put(Kind::Epoch, |out| {
            out.extend_from_slice(&epoch.to_le_bytes())
        });
        self.write_out()?;
        self.header.epoch = self.header.epoch.max(epoch);
        self.syncer.sync()?;
        Ok(())
    }

    /// Where the journal ends now: what was appended before is on disk once
    /// [`Syncer::sync`] has returned a position that is not lower.
    pub fn position(&self) -> SyncPosition {
        self.syncer.appended()
    }

    /// What brings this journal to disk, from any thread, without its owner's lock.
    pub fn syncer(&self) -> Syncer {
        self.syncer.clone()
    }

    /// Whether claims are left out: after a failed append or after damage, until a compaction
    /// has succeeded.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Whether a compaction is due when `clients` records are live: the journal is frozen, or over
    /// twice as large as they are.
    pub fn wants_compaction(&self, clients: usize) -> bool {
        let live = self.compacted_bytes.max(self.live_bytes(clients));
        self.frozen || self.bytes() > SMALL_BYTES.max(2 * live)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.older_bytes + self.end
    }

    /// What so many records will take, by the average of those seen so far.
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
        let before = self.buffer.len();
        for record in records {
            let grows = self.open.is_some_and(|(start, open)| {
                let payload = self.buffer.len() - start - FRAME_BYTES;
                open == kind && payload <= MAX_PAYLOAD_BYTES - MAX_RECORD_BYTES
            });
            if !grows {
                self.open_frame(kind);
            }
            format::write_record(record, &mut self.buffer);
        }
        let bytes = (self.buffer.len() - before) as u64;
        self.end_append()?;
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
                self.put(Kind::PeerDigests, |out| out.extend_from_slice(line));
            }
        }
    }

    /// Writes what was put, unless that may wait.
    fn end_append(&mut self) -> Result<(), JournalError> {
        if self.lazy && self.buffer.len() < LAZY_BYTES {
            return Ok(());
        }
        self.write_out()
    }

    /// Adds a frame to what the next [`write_out`](Self::write_out) writes.
    fn put(&mut self, kind: Kind, fill: impl FnOnce(&mut Vec<u8>)) {
        self.open_frame(kind);
        fill(&mut self.buffer);
        self.close_frame();
    }

    fn open_frame(&mut self, kind: Kind) {
        self.close_frame();
        self.open = Some((Seal::begin(&mut self.buffer), kind));
    }

    fn close_frame(&mut self) {
        if let Some((start, kind)) = self.open.take() {
            let offset = self.end + start as u64;
            self.seal.close(&mut self.buffer, start, offset, kind);
        }
    }

    /// Writes the frames that were put, in one append.
    fn write_out(&mut self) -> Result<(), JournalError> {
        self.close_frame();
        let mut buffer = std::mem::take(&mut self.buffer);
        let length = buffer.len() as u64;
        let written = self.write(&mut buffer);
        buffer.clear();
        buffer.shrink_to(KEPT_BUFFER_BYTES);
        self.buffer = buffer;
        if let Err(source) = written {
            self.frozen = true;
            self.failures += 1;
            // What part of it was written must not stand between this append and the next.
            self.torn = true;
            // That is tried again before the next append, which fails if this does.
            drop(self.cut());
            return Err(io_error("appending to", &self.directory)(source));
        }
        self.end += length;
        self.syncer.advance(length);
        Ok(())
    }

    /// Brings bytes to the end of the file: into the window, or else by a write, which makes the
    /// next window too. May append zeros to `bytes`.
    fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.cut()?;
        if self
            .window
            .as_mut()
            .is_some_and(|window| window.put(self.end, bytes))
        {
            return Ok(());
        }
        self.window = None;
        let end = self.end + bytes.len() as u64;
        let window_end = end.next_multiple_of(WINDOW_BYTES);
        // A large append would find no window large enough, and where room was lacking only what
        // is needed is asked for.
        let opens = self.windowed && !self.frozen && bytes.len() as u64 <= WINDOW_BYTES / 4;
        if opens {
            bytes.resize((window_end - self.end) as usize, 0);
        }
        #[cfg(test)]
        if let Some(room) = &mut self.room {
            let fits = (*room).min(bytes.len() as u64);
            *room -= fits;
            if fits < bytes.len() as u64 {
                write_at(&self.file, &bytes[..fits as usize], self.end)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        write_at(&self.file, bytes, self.end)?;
        if opens {
            // Without a window the next append is a write like this one.
            self.window = Window::open(&self.file, end..window_end).ok();
        }
        Ok(())
    }

    /// Cuts off what a failed append left.
    fn cut(&mut self) -> io::Result<()> {
        if self.torn {
            self.trim()?;
            self.torn = false;
        }
        Ok(())
    }

    /// Cuts off what is behind the last whole append.
    fn trim(&mut self) -> io::Result<()> {
        self.window = None;
        self.file.set_len(self.end)
    }

    /// Goes on in a new file; those before it are still needed.
    fn begin_file(&mut self) -> Result<(), JournalError> {
        let header = Header {
            number: self.header.number + 1,
            salt: salt(),
            previous_bytes: self.end,
            first: *self.older.first().unwrap_or(&self.header.number),
            ..self.header
        };
        let file = create(&self.directory, &header)?;
        // If that fails, the new file's header tells where this one ends.
        drop(self.trim());
        self.older.push(self.header.number);
        self.older_bytes += self.end;
        self.file = Arc::new(file);
        self.syncer.begin_file(&self.file);
        self.seal = Seal::new(&header);
        self.header = header;
        self.end = HEADER_BYTES;
        self.torn = false;
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Zeros that stay behind do no harm: an opened journal cuts them off.
        drop(self.trim());
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

fn salt() -> u64 {
    RandomState::new().hash_one(0)
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("journal-{number}.log"))
}

/// Makes a file of the journal. If that fails, there is none.
fn create(directory: &Path, header: &Header) -> Result<File, JournalError> {
    let path = path(directory, header.number);
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let mut file = made.map_err(io_error("making", &path))?;
    if let Err(source) = file.write_all(&header.write()) {
        // One that stays is recognized on opening: it is too short for a header.
        drop(std::fs::remove_file(&path));
        return Err(io_error("making", &path)(source));
    }
    Ok(file)
}

const _: () = assert!(MAX_RECORD_BYTES + FRAME_BYTES < MAX_PAYLOAD_BYTES);
const _: () = assert!(crate::model::vector::MAX_LINE_BYTES <= MAX_PAYLOAD_BYTES);
