//! Opens a journal: finds its files, replays them, and judges what may still be claimed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compaction::retire;
use super::error::io_error;
use super::format::{HEADER_BYTES, Header, Seal, WrongVersion};
use super::replay::{Contents, replay, written_end};
use super::{Journal, JournalError, Syncer, create, path, salt};
use crate::model::record::RecordView;
use crate::model::vector::Vector;

/// What the name of a file that was damaged ends in.
pub(super) const DAMAGED: &str = ".damaged";

/// What a journal held when it was opened, apart from its records.
#[derive(Debug, Default)]
pub struct Recovered {
    /// How many records were shown, older ones of the same client among them.
    pub records: u64,
    /// What those records cover; empty after damage.
    pub vector: Vector,
    /// The highest epoch of this server that was ever written; 0 if none was.
    pub epoch: u64,
    /// Bytes of a torn tail that were cut off: the last append was under way when the process or
    /// the machine died. What is before them is whole.
    pub torn_bytes: u64,
    /// What could not be read. If there is any, nothing is claimed.
    pub damage: Vec<Damage>,
}

/// A part of a journal that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// In which file.
    pub path: PathBuf,
    /// From which byte on.
    pub offset: u64,
    /// How many bytes; 0 if that is not known, as of a file that is missing.
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

/// A file that was found.
struct Found {
    file: File,
    length: u64,
    header: Option<Header>,
}

pub(super) fn open(
    directory: &Path,
    show: &mut dyn FnMut(&RecordView<'_>),
) -> Result<(Journal, Recovered), JournalError> {
    fs::create_dir_all(directory).map_err(io_error("making", directory))?;
    let lock = lock(directory)?;
    let (mut files, highest) = find(directory)?;
    remove_partial(directory, &mut files)?;

    let mut damage: BTreeMap<u64, Vec<Damage>> = BTreeMap::new();
    let mut contents: BTreeMap<u64, Contents> = BTreeMap::new();
    let last = files.keys().next_back().copied();
    let newest = files.values().filter_map(|found| found.header).next_back();
    let mut expected = newest.map(|header| header.first);
    for (&number, found) in &files {
        let damaged = |offset, bytes| Damage {
            path: path(directory, number),
            offset,
            bytes,
        };
        if let Some(missing) = expected.filter(|&expected| expected < number) {
            damage.entry(missing).or_default().push(Damage {
                path: path(directory, missing),
                offset: 0,
                bytes: 0,
            });
        }
        expected = expected.max(Some(number + 1));
        let Some(header) = &found.header else {
            let all = damaged(0, found.length);
            damage.entry(number).or_default().push(all);
            continue;
        };
        // What a closed file has beyond its length then is left from a failed append.
        let next = files.get(&(number + 1)).and_then(|next| next.header);
        let closed = next.map(|next| next.previous_bytes);
        let limit = closed.map_or(found.length, |closed| closed.min(found.length));
        let held = replay(&found.file, header, limit, show)
            .map_err(io_error("reading", &path(directory, number)))?;
        let mut holes = held.holes.clone();
        let whole = match closed {
            Some(closed) => closed,
            // It is not the last, but how long it was is not known.
            None if last != Some(number) => limit,
            None => held.end,
        };
        if held.end < whole {
            holes.push((held.end, whole - held.end));
        }
        if !holes.is_empty() {
            let found = holes
                .into_iter()
                .map(|(offset, bytes)| damaged(offset, bytes));
            damage.entry(number).or_default().extend(found);
        }
        contents.insert(number, held);
    }

    // Files before the last complete one have been superseded. They are let go of unless that
    // one is damaged: then what is left of them is better than nothing.
    let complete = contents
        .iter()
        .rev()
        .find_map(|(&number, held)| held.complete.map(|keep| (number, keep)));
    if let Some((number, _)) = complete {
        damage.retain(|missing, _| *missing >= number || files.contains_key(missing));
    }
    let base = complete.filter(|(number, _)| !damage.contains_key(number));
    if let Some((base, keep)) = base {
        let later = files.split_off(&base);
        for (number, _) in std::mem::replace(&mut files, later) {
            retire(directory, number, keep || damage.contains_key(&number))?;
        }
        damage = damage.split_off(&base);
    }

    let mut recovered = Recovered {
        records: contents.values().map(|held| held.records).sum(),
        epoch: contents.values().map(|held| held.epoch).max().unwrap_or(0),
        ..Recovered::default()
    };
    let record_bytes = contents.values().map(|held| held.record_bytes).sum();
    if damage.is_empty() {
        let from = base.map_or(0, |(base, _)| base);
        for held in contents.range(from..).map(|(_, held)| held) {
            recovered.vector.merge(&held.vector);
        }
    }

    let last = files.pop_last();
    let damaged_last = last
        .as_ref()
        .is_some_and(|(number, _)| damage.contains_key(number));
    recovered.damage = damage.into_values().flatten().collect();
    let mut older: Vec<u64> = files.keys().copied().collect();
    let mut older_bytes = files.values().map(|found| found.length).sum();
    let go_on = match last {
        Some((number, found)) if damaged_last => {
            older.push(number);
            older_bytes += found.length;
            None
        }
        Some((
            number,
            Found {
                file,
                length,
                header: Some(header),
            },
        )) => {
            let end = contents.get(&number).map_or(HEADER_BYTES, |held| held.end);
            let path = path(directory, number);
            // Behind the last append a window leaves zeros, which are nothing torn.
            let written = written_end(&file, end, length).map_err(io_error("reading", &path))?;
            recovered.torn_bytes = written - end;
            file.set_len(end).map_err(io_error("cutting", &path))?;
            Some((file, header, end))
        }
        _ => None,
    };
    let (file, mut header, end) = match go_on {
        Some(found) => found,
        None => {
            // A name that a damaged file kept is not used again.
            let number = older.last().map_or(highest, |&last| last) + 1;
            let previous = older.last().map_or(Ok(0), |&last| {
                let path = path(directory, last);
                fs::metadata(&path)
                    .map(|found| found.len())
                    .map_err(io_error("looking at", &path))
            })?;
            let header = Header {
                number,
                salt: salt(),
                epoch: recovered.epoch,
                previous_bytes: previous,
                first: *older.first().unwrap_or(&number),
            };
            (create(directory, &header)?, header, HEADER_BYTES)
        }
    };
    header.epoch = recovered.epoch;
    let file = Arc::new(file);
    let frozen = !recovered.damage.is_empty();
    let journal = Journal {
        directory: directory.to_owned(),
        seal: Seal::new(&header),
        syncer: Syncer::new(directory.to_owned(), &file),
        file,
        header,
        end,
        torn: false,
        older,
        older_bytes,
        older_damaged: frozen,
        frozen,
        failures: 0,
        claimed: recovered.vector.clone(),
        records: recovered.records,
        record_bytes,
        compacted_bytes: 0,
        buffer: Vec::new(),
        open: None,
        lazy: false,
        windowed: false,
        window: None,
        _lock: lock,
        #[cfg(test)]
        room: None,
    };
    Ok((journal, recovered))
}

/// The lock on a journal's folder.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough: a child process that is being made holds it too, until it
    /// becomes another program.
    fn drop(&mut self) {
        drop(self.0.unlock());
    }
}

fn lock(directory: &Path) -> Result<Lock, JournalError> {
    let path = directory.join("journal.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error("making", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error("locking", &path)(source)),
    }
}

/// The journal's files, and the highest number that one had which is kept as damaged.
fn find(directory: &Path) -> Result<(BTreeMap<u64, Found>, u64), JournalError> {
    let mut files = BTreeMap::new();
    let mut highest = 0;
    let entries = fs::read_dir(directory).map_err(io_error("reading", directory))?;
    for entry in entries {
        let name = entry.map_err(io_error("reading", directory))?.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix("journal-")) else {
            continue;
        };
        let damaged = name.strip_suffix(DAMAGED);
        let number = damaged.unwrap_or(name).strip_suffix(".log");
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            continue;
        };
        if damaged.is_some() {
            highest = highest.max(number);
        } else {
            files.insert(number, look(&path(directory, number))?);
        }
    }
    Ok((files, highest))
}

fn look(path: &Path) -> Result<Found, JournalError> {
    let read = || {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        let mut start = Vec::new();
        file.by_ref().take(HEADER_BYTES).read_to_end(&mut start)?;
        io::Result::Ok((file, length, start))
    };
    let (file, length, start) = read().map_err(io_error("reading", path))?;
    let header = Header::read(&start)
        .map_err(|WrongVersion(version)| JournalError::WrongVersion(path.to_owned(), version))?;
    Ok(Found {
        file,
        length,
        header,
    })
}

/// Removes a last file that is too short for a header: the process died while it made it, and
/// nothing was ever appended.
fn remove_partial(directory: &Path, files: &mut BTreeMap<u64, Found>) -> Result<(), JournalError> {
    if let Some(last) = files.last_entry()
        && last.get().length < HEADER_BYTES
    {
        retire(directory, *last.key(), false)?;
        last.remove();
    }
    Ok(())
}
