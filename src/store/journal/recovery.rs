//! Opens a journal: finds its files, replays them, judges what may still be claimed, and opens the
//! file to append to.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::io_error;
use super::files::{self, Files, Found, Lock, path, retire};
use super::format::{HEADER_BYTES, Header};
use super::replay::{Contents, replay, written_end};
use super::writer::Writer;
use super::{Journal, JournalError, Syncer};
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
}

/// A part of a journal that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// Offset of the first byte that could not be read.
    pub offset: u64,
    /// Number of bytes; 0 if that is not known, as of a file that is missing.
    pub bytes: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.bytes {
            0 => write!(f, "{path} is missing"),
            bytes => write!(
                f,
                "{path}: {bytes} bytes from byte {} on are damaged or missing",
                self.offset
            ),
        }
    }
}

/// Opens the journal in `directory`; every record is shown to `show`.
pub(super) fn open(
    directory: &Path,
    show: &mut dyn FnMut(&RecordView<'_>),
) -> Result<(Journal, Recovered), JournalError> {
    fs::create_dir_all(directory).map_err(io_error("creating", directory))?;
    let lock = Lock::take(directory)?;
    let mut listing = files::find(directory)?;
    files::remove_partial(directory, &mut listing.files)?;
    let mut scan = Scan::read(directory, &listing.files, show)?;
    let base = scan.retire_superseded(directory, &mut listing.files)?;
    let mut recovered = scan.judge(base);
    let record_bytes = scan.contents.values().map(|held| held.record_bytes).sum();

    let tail = Tail::open(directory, listing.files, &scan, &mut recovered)?;
    let mut tail = match tail {
        Ok(tail) => tail,
        Err(older) => Tail::create(directory, older, listing.highest_damaged, &recovered)?,
    };
    tail.newest.epoch = recovered.epoch;
    let file = Arc::new(tail.file);
    let syncer = Syncer::new(directory.to_owned(), &file);
    let frozen = !recovered.damage.is_empty();
    let journal = Journal {
        writer: Writer::new(file, &tail.newest, tail.end, frozen, syncer),
        files: Files {
            directory: directory.to_owned(),
            newest: tail.newest,
            older: tail.older.numbers,
            older_bytes: tail.older.bytes,
            older_damaged: frozen,
            _lock: lock,
        },
        claimed: recovered.vector.clone(),
        records: recovered.records,
        record_bytes,
        compacted_bytes: 0,
    };
    Ok((journal, recovered))
}

/// The contents of all files, by file number.
struct Scan {
    contents: BTreeMap<u64, Contents>,
    /// The damaged parts; a missing file has an entry too.
    damage: BTreeMap<u64, Vec<Damage>>,
}

impl Scan {
    /// Replays all files, oldest first.
    fn read(
        directory: &Path,
        files: &BTreeMap<u64, Found>,
        show: &mut dyn FnMut(&RecordView<'_>),
    ) -> Result<Scan, JournalError> {
        let mut scan = Scan {
            contents: BTreeMap::new(),
            damage: BTreeMap::new(),
        };
        let last = files.keys().next_back().copied();
        let newest = files.values().filter_map(|found| found.header).next_back();
        let mut expected = newest.map(|header| header.first);
        for (&number, found) in files {
            let mut add_damage = |number, offset, bytes| {
                scan.damage.entry(number).or_default().push(Damage {
                    path: path(directory, number),
                    offset,
                    bytes,
                });
            };
            if let Some(missing) = expected.filter(|&expected| expected < number) {
                add_damage(missing, 0, 0);
            }
            expected = expected.max(Some(number + 1));
            let Some(header) = &found.header else {
                add_damage(number, 0, found.length);
                continue;
            };
            // Bytes that a closed file has beyond its length then are left from a failed append.
            let next = files.get(&(number + 1)).and_then(|next| next.header);
            let closed = next.map(|next| next.previous_bytes);
            let limit = closed.map_or(found.length, |closed| closed.min(found.length));
            let held = replay(&found.file, header, limit, show)
                .map_err(io_error("reading", &path(directory, number)))?;
            for &(offset, bytes) in &held.holes {
                add_damage(number, offset, bytes);
            }
            let whole = match closed {
                Some(closed) => closed,
                // It is not the last, but its length when it was closed is not known.
                None if last != Some(number) => limit,
                None => held.end,
            };
            if held.end < whole {
                add_damage(number, held.end, whole - held.end);
            }
            scan.contents.insert(number, held);
        }
        Ok(scan)
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
                recovered.vector.merge(&held.vector);
            }
        }
        recovered
    }
}

/// The files before the one that is appended to.
struct Older {
    numbers: Vec<u64>,
    bytes: u64,
}

/// The file to append to, and where.
struct Tail {
    file: File,
    newest: Header,
    end: u64,
    older: Older,
}

impl Tail {
    /// Goes on in the last file, without its torn tail; if it is damaged, or there is none, all
    /// files are older ones and the next file must be created.
    fn open(
        directory: &Path,
        mut files: BTreeMap<u64, Found>,
        scan: &Scan,
        recovered: &mut Recovered,
    ) -> Result<Result<Tail, Older>, JournalError> {
        let last = files.pop_last();
        let mut older = Older {
            numbers: files.keys().copied().collect(),
            bytes: files.values().map(|found| found.length).sum(),
        };
        let Some((number, found)) = last else {
            return Ok(Err(older));
        };
        let Some(newest) = found.header.filter(|_| !scan.damage.contains_key(&number)) else {
            older.numbers.push(number);
            older.bytes += found.length;
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
        Ok(Ok(Tail {
            file: found.file,
            newest,
            end,
            older,
        }))
    }

    /// Creates the next file. The number of a damaged file that was kept is not used again.
    fn create(
        directory: &Path,
        older: Older,
        highest_damaged: u64,
        recovered: &Recovered,
    ) -> Result<Tail, JournalError> {
        let number = older.numbers.last().map_or(highest_damaged, |&last| last) + 1;
        let previous_bytes = older.numbers.last().map_or(Ok(0), |&last| {
            let path = path(directory, last);
            fs::metadata(&path)
                .map(|found| found.len())
                .map_err(io_error("querying", &path))
        })?;
        let newest = Header {
            number,
            salt: files::salt(),
            epoch: recovered.epoch,
            previous_bytes,
            first: *older.numbers.first().unwrap_or(&number),
        };
        Ok(Tail {
            file: files::create(directory, &newest)?,
            newest,
            end: HEADER_BYTES,
            older,
        })
    }
}
