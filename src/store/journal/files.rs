//! Owns the files of a journal's folder: their names and numbers, the lock on the folder, which of
//! them are still needed, and how a file is created and retired.
//!
//! The bytes within a file belong to `format`, appending to the newest file to `writer`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::JournalError;
use super::error::io_error;
use super::format::{HEADER_BYTES, Header, WrongVersion};

/// Suffix of the name of a file that was damaged and is kept.
const DAMAGED: &str = ".damaged";

/// The files that a journal consists of.
#[derive(Debug)]
pub(super) struct Files {
    pub directory: PathBuf,
    /// Header of the newest file, the one that is appended to.
    pub newest: Header,
    /// Numbers of the files before it that are still needed, oldest first.
    pub older: Vec<u64>,
    /// Bytes of those files.
    pub older_bytes: u64,
    /// Whether any of those files was damaged.
    pub older_damaged: bool,
    /// Held for as long as the journal is open.
    pub _lock: Lock,
}

impl Files {
    /// Creates the next file, for a journal whose newest file ends at `end`. The files before it
    /// are still needed.
    pub(super) fn begin_next(&mut self, end: u64) -> Result<File, JournalError> {
        let header = Header {
            number: self.newest.number + 1,
            salt: salt(),
            previous_bytes: end,
            first: *self.older.first().unwrap_or(&self.newest.number),
            ..self.newest
        };
        let file = create(&self.directory, &header)?;
        self.older.push(self.newest.number);
        self.older_bytes += end;
        self.newest = header;
        Ok(file)
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
#[derive(Debug)]
pub(super) struct Listing {
    /// The journal's files by number.
    pub files: BTreeMap<u64, Found>,
    /// Highest number of a file that is kept as damaged; 0 if there is none.
    pub highest_damaged: u64,
}

/// Lists the journal's files in a folder and opens them.
pub(super) fn find(directory: &Path) -> Result<Listing, JournalError> {
    let mut listing = Listing {
        files: BTreeMap::new(),
        highest_damaged: 0,
    };
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
/// file, and nothing was ever appended.
pub(super) fn remove_partial(
    directory: &Path,
    files: &mut BTreeMap<u64, Found>,
) -> Result<(), JournalError> {
    if let Some(last) = files.last_entry()
        && last.get().length < HEADER_BYTES
    {
        retire(directory, *last.key(), false)?;
        last.remove();
    }
    Ok(())
}

/// Removes a file that is no longer needed, or renames it if it was damaged.
pub(super) fn retire(directory: &Path, number: u64, damaged: bool) -> Result<(), JournalError> {
    let path = path(directory, number);
    if damaged {
        let mut kept = path.clone().into_os_string();
        kept.push(DAMAGED);
        fs::rename(&path, kept).map_err(io_error("renaming", &path))
    } else {
        fs::remove_file(&path).map_err(io_error("removing", &path))
    }
}

/// Creates a file of the journal. After an error there is none.
pub(super) fn create(directory: &Path, header: &Header) -> Result<File, JournalError> {
    let path = path(directory, header.number);
    let created = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
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

/// The lock on a journal's folder.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Locks the folder, or fails at once if another process has it locked.
    pub(super) fn take(directory: &Path) -> Result<Lock, JournalError> {
        let path = directory.join("journal.lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error("creating", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(JournalError::InUse(directory.to_owned())),
            Err(TryLockError::Error(source)) => Err(io_error("locking", &path)(source)),
        }
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process that is just being spawned holds it too,
    /// until it becomes another program.
    fn drop(&mut self) {
        drop(self.0.unlock());
    }
}
