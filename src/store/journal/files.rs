//! Owns the files of a journal's folder: their names and numbers, which of them are still needed,
//! and how a file is created and retired.
//!
//! The bytes within a file belong to `format`, appending to the newest file to `writer`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::JournalError;
use super::error::io_error;
use super::format::{HEADER_BYTES, Header, VERSION, WrongVersion};
use super::lock::Lock;
use crate::disk::Readers;

/// Suffix of the name of a file that was damaged and is kept.
const DAMAGED: &str = ".damaged";

/// Highest number of a file; those beyond are not the journal's.
const MAX_NUMBER: u64 = u64::MAX / 2;

/// The files that a journal consists of.
#[derive(Debug)]
pub(super) struct Files {
    pub directory: PathBuf,
    /// The users that may read its files.
    pub readers: Readers,
    /// Header of the newest file, the one that is appended to.
    pub newest: Header,
    /// The files before it that are still needed, oldest first.
    pub older: Vec<Closed>,
    /// True if any of those files was damaged.
    pub older_damaged: bool,
    /// True if any of those files has an earlier layout.
    pub older_layout: bool,
    /// Files that are no longer needed and have yet to be retired; true for those that were damaged.
    pub superfluous: Vec<(u64, bool)>,
    /// Held for as long as the journal is open.
    pub lock: Lock,
}

/// A file that is no longer appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub number: u64,
    pub bytes: u64,
}

impl Files {
    /// Creates the next file, for a journal whose newest file ends at `end`. The files before it
    /// are still needed.
    pub(super) fn begin_next(&mut self, end: u64) -> Result<File, JournalError> {
        let header = Header {
            version: VERSION,
            number: self.newest.number + 1,
            salt: salt(),
            previous_bytes: end,
            first: self.first(),
            ..self.newest
        };
        let file = create(&self.directory, &header, self.readers)?;
        self.older.push(Closed {
            number: self.newest.number,
            bytes: end,
        });
        self.newest = header;
        Ok(file)
    }

    /// Creates the next file in place of those that were deleted or changed by hand; `end` is where
    /// the newest of them should end. Whatever is in the folder now is kept as damaged once it is
    /// superfluous.
    pub(super) fn begin_anew(&mut self, end: u64) -> Result<File, JournalError> {
        crate::disk::create_folder(&self.directory, self.readers)
            .map_err(io_error("creating", &self.directory))?;
        self.lock.lock_file(&self.directory, self.readers)?;
        let listing = find(&self.directory)?;
        let last = listing.files.keys().next_back().copied().unwrap_or(0);
        let number = last.max(listing.highest_damaged).max(self.newest.number) + 1;
        let header = Header {
            version: VERSION,
            number,
            salt: salt(),
            previous_bytes: end,
            // A start before all live records are in the new file must notice what is gone.
            first: self.first().max(1),
            ..self.newest
        };
        let file = create(&self.directory, &header, self.readers)?;
        let closed = listing.files.iter().map(|(&number, found)| Closed {
            number,
            bytes: found.length,
        });
        self.older = closed.collect();
        self.older_damaged = true;
        self.newest = header;
        Ok(file)
    }

    /// Number of the oldest file that is needed.
    fn first(&self) -> u64 {
        self.older
            .first()
            .map_or(self.newest.number, |closed| closed.number)
    }

    /// Bytes of the older files.
    pub(super) fn older_bytes(&self) -> u64 {
        self.older.iter().map(|closed| closed.bytes).sum()
    }
}

/// A file of a journal, as found when the journal is opened.
#[derive(Debug)]
pub(super) struct Found {
    pub file: File,
    pub length: u64,
    /// `None` if both copies of the header are damaged.
    pub header: Option<Header>,
}

/// The files of a folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The journal's files by number.
    pub files: BTreeMap<u64, Found>,
    /// Highest number of a file that is kept as damaged; 0 if there is none.
    pub highest_damaged: u64,
}

/// Lists the journal's files in a folder and opens them.
pub(super) fn find(directory: &Path) -> Result<Listing, JournalError> {
    let mut listing = Listing::default();
    let entries = fs::read_dir(directory).map_err(io_error("reading", directory))?;
    for entry in entries {
        let name = entry.map_err(io_error("reading", directory))?.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix("journal-")) else {
            continue;
        };
        let damaged = name.strip_suffix(DAMAGED);
        let Some(text) = damaged.unwrap_or(name).strip_suffix(".log") else {
            continue;
        };
        // `007` is not a name that this program gives.
        let number = text
            .parse()
            .ok()
            .filter(|&number: &u64| number <= MAX_NUMBER && number.to_string() == text);
        let Some(number) = number else {
            continue;
        };
        if damaged.is_some() {
            listing.highest_damaged = listing.highest_damaged.max(number);
        } else {
            let found = open_existing(&path(directory, number))?;
            listing.files.insert(number, found);
        }
    }
    Ok(listing)
}

fn open_existing(path: &Path) -> Result<Found, JournalError> {
    let read = || {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        let mut start = Vec::new();
        (&file).take(HEADER_BYTES).read_to_end(&mut start)?;
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

/// Removes a newest file that is too short for a header: the process died while it created the
/// file, and nothing was ever appended. `noted` is the number of the file that was appended to last.
pub(super) fn remove_partial(
    directory: &Path,
    files: &mut BTreeMap<u64, Found>,
    noted: Option<u64>,
) -> Result<(), JournalError> {
    if let Some(last) = files.last_entry()
        && last.get().length < HEADER_BYTES
        && noted.is_some_and(|noted| noted < *last.key())
    {
        retire(directory, *last.key(), false)?;
        last.remove();
    }
    Ok(())
}

/// Removes a file that is no longer needed, or renames it if it was damaged.
pub(super) fn retire(directory: &Path, number: u64, damaged: bool) -> Result<(), JournalError> {
    let path = path(directory, number);
    let (doing, retired) = if damaged {
        let mut kept = path.clone().into_os_string();
        kept.push(DAMAGED);
        ("renaming", fs::rename(&path, kept))
    } else {
        ("removing", fs::remove_file(&path))
    };
    match retired {
        // Somebody else has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        retired => retired.map_err(io_error(doing, &path)),
    }
}

/// Creates a file of the journal. After an error there is none.
pub(super) fn create(
    directory: &Path,
    header: &Header,
    readers: Readers,
) -> Result<File, JournalError> {
    let path = path(directory, header.number);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let created = readers.limit(&mut options).open(&path);
    let mut file = created.map_err(io_error("creating", &path))?;
    if let Err(source) = file.write_all(&header.write()) {
        // A file that stays is recognized on opening: it is too short for a header.
        drop(fs::remove_file(&path));
        return Err(io_error("creating", &path)(source));
    }
    Ok(file)
}

/// Path of the file with that number.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("journal-{number}.log"))
}

/// A random salt for a new file.
pub(super) fn salt() -> u64 {
    RandomState::new().hash_one(0)
}
