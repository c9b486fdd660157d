//! Opens a journal: finds its files, replays them, judges what may still be claimed, and opens the
//! file to append to.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::end_mark::{EndMark, Mark};
use super::error::io_error;
use super::files::{self, Closed, Files, Found, path, retire};
use super::format::{HEADER_BYTES, Header, VERSION};
use super::lock::Lock;
use super::replay::{Contents, replay, written_end};
use super::window::WINDOW_BYTES;
use super::writer::{MAX_APPEND_BYTES, Writer};
use super::{Journal, JournalError, Syncer};
use crate::disk::{Readers, create_folder, is_full};
use crate::model::record::RecordView;
use crate::model::vector::Vector;

/// The contents of a journal when it was opened, apart from its records.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Number of records shown, older ones of the same client among them.
    pub records: u64,
    /// Vector that those records cover; empty after damage.
    pub vector: Vector,
    /// Highest epoch of this server that was ever written; 0 if none was.
    pub epoch: u64,
    /// Bytes of a torn tail that were cut off: the last append was under way when the process or
    /// the machine died. Everything before them is whole.
    pub torn_bytes: u64,
    /// Parts that could not be read. If there are any, nothing is claimed.
    pub damage: Vec<Damage>,
    /// Why the journal can't be written now, on a disk that is full.
    pub full: Option<JournalError>,
    /// Files and folders that others could read, with their former modes, and the error if that
    /// could not be changed.
    pub exposed: Vec<(PathBuf, u32, Option<io::Error>)>,
}

/// A part of a journal that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// The kind of damage.
    pub kind: DamageKind,
}

/// Kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DamageKind {
    /// Bytes that are not what was written, or that are missing.
    Bytes {
        /// Offset of the first.
        offset: u64,
        /// Their number.
        bytes: u64,
    },
    /// The file is missing.
    Missing,
    /// It is another file than the one that was written to.
    Replaced,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.kind {
            DamageKind::Missing => write!(f, "{path} is missing"),
            DamageKind::Replaced => {
                write!(f, "{path} is not the file that the server wrote last")
            }
            DamageKind::Bytes { offset, bytes } => write!(
                f,
                "{path}: {bytes} bytes from byte {offset} on are damaged or missing"
            ),
        }
    }
}

/// Opens the journal in `directory`; every record is shown to `show`.
pub(super) fn open(
    directory: &Path,
    readers: Readers,
    show: &mut dyn FnMut(&RecordView<'_>),
) -> Result<(Journal, Recovered), JournalError> {
    let mut full = None;
    match create_folder(directory, readers) {
        Err(error) if is_full(&error) => full = Some(io_error("creating", directory)(error)),
        created => created.map_err(io_error("creating", directory))?,
    }
    let lock = Lock::take(directory, readers)?;
    let exposed = tighten(directory, readers);
    let mut listing = match full {
        Some(_) => files::Listing::default(),
        None => files::find(directory)?,
    };
    let mark = Mark::read(directory);
    files::remove_partial(directory, &mut listing.files, mark.map(|mark| mark.number))?;
    let mut scan = Scan::read(directory, &listing.files, mark, show)?;
    let base = scan.retire_superseded(directory, &mut listing.files)?;
    let mut recovered = scan.judge(base);
    recovered.exposed = exposed;
    let record_bytes = scan.contents.values().map(|held| held.record_bytes).sum();

    let mut headers = listing.files.values().filter_map(|found| found.header);
    let older_layout = headers.any(|header| header.version < VERSION);
    let tail = Tail::open(directory, listing.files, &scan, &mut recovered)?;
    let mut tail = match tail {
        Ok(tail) => tail,
        Err(older) => {
            let newest = scan.next_header(&older, listing.highest_damaged, mark, &recovered);
            Tail::create(directory, readers, older, newest, &mut full)?
        }
    };
    tail.newest.epoch = recovered.epoch;
    recovered.full = full;
    let file = tail.file.map(Arc::new);
    let syncer = Syncer::new(directory.to_owned(), file.as_ref());
    let damaged = !recovered.damage.is_empty();
    let frozen = damaged || file.is_none();
    let mut writer = Writer::new(file, &tail.newest, tail.end, frozen, syncer);
    if writer.file().is_some() {
        writer.set_end_mark(EndMark::open(directory, readers), &tail.newest);
    }
    let journal = Journal {
        writer,
        files: Files {
            directory: directory.to_owned(),
            readers,
            newest: tail.newest,
            older: tail.older,
            older_damaged: damaged,
            older_layout,
            superfluous: Vec::new(),
            lock,
        },
        claimed: recovered.vector.clone(),
        records: recovered.records,
        record_bytes,
        compacted_bytes: 0,
        epoch_due: None,
        gathered_own: 0,
        missing_own: 0,
    };
    journal.note_size();
    Ok((journal, recovered))
}

/// Takes away what an earlier version allowed to others: on the folder and on the journal's files.
fn tighten(directory: &Path, readers: Readers) -> Vec<(PathBuf, u32, Option<io::Error>)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("journal"))
        .map(|entry| entry.path());
    std::iter::once(directory.to_owned())
        .chain(files)
        .filter_map(|path| {
            let (mode, changed) = readers.tighten(&path).ok()??;
            Some((path, mode, changed.err()))
        })
        .collect()
}

/// The contents of all files, by file number.
struct Scan {
    contents: BTreeMap<u64, Contents>,
    /// The damaged parts; a missing file has an entry too.
    damage: BTreeMap<u64, Vec<Damage>>,
    /// Lengths that files should have at least, where they are known and the files are shorter.
    lengths: BTreeMap<u64, u64>,
}

impl Scan {
    /// Replays all files, oldest first. `mark` notes where the last append ended.
    fn read(
        directory: &Path,
        files: &BTreeMap<u64, Found>,
        mark: Option<Mark>,
        show: &mut dyn FnMut(&RecordView<'_>),
    ) -> Result<Scan, JournalError> {
        let mut scan = Scan {
            contents: BTreeMap::new(),
            damage: BTreeMap::new(),
            lengths: BTreeMap::new(),
        };
        let last = files.keys().next_back().copied();
        let newest = files.values().filter_map(|found| found.header).next_back();
        let mut expected = newest.map(|header| header.first);
        for (&number, found) in files {
            let mut add_damage = |number, kind| {
                let path = path(directory, number);
                let all = scan.damage.entry(number).or_default();
                all.push(Damage { path, kind });
            };
            if let Some(missing) = expected.filter(|&expected| expected < number) {
                add_damage(missing, DamageKind::Missing);
            }
            expected = expected.max(Some(number + 1));
            let Some(header) = &found.header else {
                let bytes = noted_end(mark, number, None).max(found.length);
                add_damage(number, DamageKind::Bytes { offset: 0, bytes });
                continue;
            };
            let noted = noted_end(mark, number, Some(header.salt));
            let replaced = header.number != number
                || mark.is_some_and(|mark| mark.number == number && mark.salt != header.salt);
            if replaced {
                add_damage(number, DamageKind::Replaced);
                // So that a start before the next compaction finds it damaged too.
                scan.lengths.insert(number, found.length + 1);
            }
            // Bytes that a closed file has beyond its length then are left from a failed append.
            let next = files.get(&(number + 1)).and_then(|next| next.header);
            let closed = next.map(|next| next.previous_bytes);
            let limit = closed.map_or(found.length, |closed| closed.min(found.length));
            let held = replay(&found.file, header, limit, show)
                .map_err(io_error("reading", &path(directory, number)))?;
            for &(offset, bytes) in &held.holes {
                add_damage(number, DamageKind::Bytes { offset, bytes });
            }
            let whole = match closed {
                Some(closed) => closed,
                // It is not the last, but its length when it was closed is not known.
                None if last != Some(number) => limit,
                None if mark.is_some_and(|mark| mark.number == number) => {
                    last_end(directory, number, found, held.end)?
                }
                None => last_end_unnoted(directory, number, found, held.end)?,
            };
            let whole = whole.max(noted);
            if held.end < whole {
                let (offset, bytes) = (held.end, whole - held.end);
                add_damage(number, DamageKind::Bytes { offset, bytes });
                scan.lengths.insert(number, whole);
            }
            scan.contents.insert(number, held);
        }
        // The file that was appended to last is not there.
        if let Some(mark) = mark.filter(|mark| last.is_none_or(|last| last < mark.number)) {
            let path = path(directory, mark.number);
            let kind = DamageKind::Missing;
            scan.damage
                .entry(mark.number)
                .or_default()
                .push(Damage { path, kind });
        }
        Ok(scan)
    }

    /// Header of the file to begin behind `older` ones, of which some may be damaged or missing.
    fn next_header(
        &self,
        older: &[Closed],
        highest_damaged: u64,
        mark: Option<Mark>,
        recovered: &Recovered,
    ) -> Header {
        let last = older.last().map_or(0, |closed| closed.number);
        let noted = mark.map_or(0, |mark| mark.number);
        let number = last.max(highest_damaged).max(noted) + 1;
        let length = |closed: &Closed| {
            let should = self.lengths.get(&closed.number).copied().unwrap_or(0);
            should.max(closed.bytes)
        };
        // The oldest that is needed, there or not: missing files must be noticed by the next start
        // too, if it comes before all live records are in the new file.
        let missing = self.damage.keys().next().copied();
        let first = older.first().map(|closed| closed.number);
        let first = first.into_iter().chain(missing).min();
        Header {
            version: VERSION,
            number,
            salt: files::salt(),
            epoch: recovered.epoch,
            previous_bytes: older.last().map_or(0, length),
            first: first.unwrap_or(number),
        }
    }

    /// Retires the files before the last complete one, which are superseded, and returns the number
    /// of that one. If it is damaged, the older files are kept: their remains are better than
    /// nothing.
    fn retire_superseded(
        &mut self,
        directory: &Path,
        files: &mut BTreeMap<u64, Found>,
    ) -> Result<Option<u64>, JournalError> {
        let complete = self
            .contents
            .iter()
            .rev()
            .find_map(|(&number, held)| held.complete.map(|keep| (number, keep)));
        let Some((number, keep)) = complete else {
            return Ok(None);
        };
        // A file that is missing before a complete one was superseded too.
        self.damage
            .retain(|missing, _| *missing >= number || files.contains_key(missing));
        if self.damage.contains_key(&number) {
            return Ok(None);
        }
        let later = files.split_off(&number);
        for (older, _) in std::mem::replace(files, later) {
            retire(directory, older, keep || self.damage.contains_key(&older))?;
        }
        self.damage = self.damage.split_off(&number);
        Ok(Some(number))
    }

    /// Judges what has been recovered; without damage the files from `base` on keep their claims.
    fn judge(&self, base: Option<u64>) -> Recovered {
        let held = || self.contents.values();
        let mut recovered = Recovered {
            records: held().map(|held| held.records).sum(),
            epoch: held().map(|held| held.epoch).max().unwrap_or(0),
            damage: self.damage.values().flatten().cloned().collect(),
            ..Recovered::default()
        };
        if recovered.damage.is_empty() {
            for (_, held) in self.contents.range(base.unwrap_or(0)..) {
                if held.voids_older {
                    recovered.vector = Vector::default();
                }
                recovered.vector.merge(&held.vector);
            }
        }
        recovered
    }
}

/// Length that a file should have at least by the note of the journal's end, if that is about it.
fn noted_end(mark: Option<Mark>, number: u64, salt: Option<u64>) -> u64 {
    mark.filter(|mark| mark.number == number)
        .filter(|mark| salt.is_none_or(|salt| salt == mark.salt))
        .map_or(0, |mark| mark.end)
}

/// Length that the last file should have: up to `end` its frames are intact.
///
/// Bytes other than zero behind them are an append that was under way, unless they are longer than one.
fn last_end(directory: &Path, number: u64, found: &Found, end: u64) -> Result<u64, JournalError> {
    let written = written_end(&found.file, end, found.length)
        .map_err(io_error("reading", &path(directory, number)))?;
    Ok(match written - end > MAX_APPEND_BYTES {
        true => written,
        false => end,
    })
}

/// [`last_end`] of a file whose end was not noted, so that zeros may have taken the place of records.
///
/// Where it was left by a crash, zeros reach to the end of a window. One that has no frame was never
/// begun: a start appends its epoch at once.
fn last_end_unnoted(
    directory: &Path,
    number: u64,
    found: &Found,
    end: u64,
) -> Result<u64, JournalError> {
    let should = last_end(directory, number, found, end)?;
    let written = written_end(&found.file, end, found.length)
        .map_err(io_error("reading", &path(directory, number)))?;
    let zeros = found.length - written;
    let is_window = zeros <= WINDOW_BYTES && found.length.is_multiple_of(WINDOW_BYTES);
    let is_empty = written == HEADER_BYTES && zeros > 0;
    Ok(match (zeros > ZEROS_IN_FRAME && !is_window) || is_empty {
        true => found.length,
        false => should.max(HEADER_BYTES),
    })
}

/// Maximum zeros in a row within a frame, and so at the end of a torn one.
const ZEROS_IN_FRAME: u64 = 64;

/// The file to append to, and where.
struct Tail {
    /// `None` on a full disk.
    file: Option<File>,
    newest: Header,
    end: u64,
    /// The files before it.
    older: Vec<Closed>,
}

impl Tail {
    /// Goes on in the last file, without its torn tail; if it is damaged or of an earlier layout, or
    /// there is none, all files are older ones and the next file must be created.
    fn open(
        directory: &Path,
        mut files: BTreeMap<u64, Found>,
        scan: &Scan,
        recovered: &mut Recovered,
    ) -> Result<Result<Tail, Vec<Closed>>, JournalError> {
        let last = files.pop_last();
        let closed = |number, found: &Found| Closed {
            number,
            bytes: found.length,
        };
        let mut older: Vec<Closed> = files
            .iter()
            .map(|(&number, found)| closed(number, found))
            .collect();
        let Some((number, found)) = last else {
            return Ok(Err(older));
        };
        let is_damaged = scan.damage.range(number..).next().is_some();
        let Some(newest) = found.header.filter(|_| !is_damaged) else {
            older.push(closed(number, &found));
            return Ok(Err(older));
        };
        let end = scan
            .contents
            .get(&number)
            .map_or(HEADER_BYTES, |held| held.end);
        let path = path(directory, number);
        // Zeros behind the last append are left from a window, and are no torn tail.
        let written =
            written_end(&found.file, end, found.length).map_err(io_error("reading", &path))?;
        recovered.torn_bytes = written - end;
        found
            .file
            .set_len(end)
            .map_err(io_error("truncating", &path))?;
        if newest.version < VERSION {
            // An earlier program would take what is appended now for something else.
            older.push(Closed { number, bytes: end });
            return Ok(Err(older));
        }
        Ok(Ok(Tail {
            file: Some(found.file),
            newest,
            end,
            older,
        }))
    }

    /// Creates the next file. On a full disk there is none for now, and `full` is set.
    fn create(
        directory: &Path,
        readers: Readers,
        older: Vec<Closed>,
        newest: Header,
        full: &mut Option<JournalError>,
    ) -> Result<Tail, JournalError> {
        let mut tail = Tail {
            file: None,
            newest,
            end: HEADER_BYTES,
            older,
        };
        if full.is_none() {
            match files::create(directory, &newest, readers) {
                Ok(file) => tail.file = Some(file),
                Err(error) if error.is_full() => *full = Some(error),
                Err(error) => return Err(error),
            }
        }
        if tail.file.is_none() {
            // The first attempt to begin the file takes the number.
            tail.newest.number -= 1;
        }
        Ok(tail)
    }
}
