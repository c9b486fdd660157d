//! Notices that the files of a journal were deleted, moved, replaced or cut short by hand while the
//! server has them open. Appends would succeed for as long as it runs, and be gone afterwards.
//!
//! The check needs no lock: it works on handles that were copied under it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::end_mark;
use super::files::{Closed, path};
use super::format::{HEADER_BYTES, Header};
use super::lock;
use super::raw::{Found, found, has_hole, id_of, is_at, read_at};

/// Bytes before the end that are read: no append ends in that many zeros.
const TAIL_BYTES: u64 = 64;

/// The files as they should be, at one moment.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(super) directory: PathBuf,
    pub(super) newest: Header,
    /// `None` while there is no file to append to.
    pub(super) file: Option<Arc<File>>,
    /// Length of that file up to the last append; it may have grown since.
    pub(super) end: u64,
    /// True if an append found a part of it gone.
    pub(super) lost: bool,
    pub(super) older: Vec<Closed>,
    pub(super) lock: Option<Arc<File>>,
    pub(super) end_mark: Option<Arc<File>>,
}

/// A change to a journal's folder that the server has not made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tampering {
    /// Records are gone from the folder; a description.
    Records(String),
    /// The lock file, or the note of the journal's end, is gone from the folder; a description.
    Lock(String),
}

impl Watched {
    /// Compares the files in the folder with those that are open.
    pub(crate) fn check(&self) -> Option<Tampering> {
        self.check_records()
            .map(Tampering::Records)
            .or_else(|| self.check_others().map(Tampering::Lock))
    }

    fn check_records(&self) -> Option<String> {
        let path = path(&self.directory, self.newest.number);
        let shown = path.display();
        let Some(file) = &self.file else {
            return Some(format!("{} has no journal", self.directory.display()));
        };
        if self.lost {
            return Some(format!("{shown} was cut short, or its disk has failed"));
        }
        match found(&path) {
            Found::Nothing => return Some(format!("{shown} was deleted or moved")),
            Found::Something(id, _) if Some(id) != id_of(file) => {
                return Some(format!("{shown} was replaced by another file"));
            }
            Found::Something(_, length) if length < self.end => {
                return Some(format!(
                    "{shown} was cut short, from {} bytes to {length}",
                    self.end
                ));
            }
            _ => {}
        }
        let is_same = |bytes: Vec<u8>| {
            let header = Header::read(&bytes).ok().flatten();
            header.is_some_and(|header| header.salt == self.newest.salt)
        };
        if read_at(file, 0, HEADER_BYTES).is_some_and(|bytes| !is_same(bytes)) {
            return Some(format!("{shown} was overwritten"));
        }
        let tail = (self.end - HEADER_BYTES).min(TAIL_BYTES);
        if tail > 0
            && read_at(file, self.end - tail, tail)
                .is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
        {
            return Some(format!("{shown} was overwritten with zeros"));
        }
        // Cut short, and lengthened by the next append.
        if has_hole(file, HEADER_BYTES..self.end) {
            return Some(format!("{shown} was cut short, and has a hole"));
        }
        self.older.iter().find_map(|closed| {
            let path = super::files::path(&self.directory, closed.number);
            let shown = path.display();
            match found(&path) {
                Found::Nothing => Some(format!("{shown} was deleted or moved")),
                Found::Something(_, length) if length < closed.bytes => {
                    Some(format!("{shown} was cut short"))
                }
                _ => None,
            }
        })
    }

    fn check_others(&self) -> Option<String> {
        let gone = |file: &Option<Arc<File>>, path: PathBuf| {
            let file = file.as_ref()?;
            (!is_at(file, &path)).then(|| format!("{} was deleted or replaced", path.display()))
        };
        gone(&self.lock, lock::path(&self.directory))
            .or_else(|| gone(&self.end_mark, end_mark::path(&self.directory)))
            .or_else(|| {
                let missing = self.lock.is_none();
                missing.then(|| format!("{} is missing", lock::path(&self.directory).display()))
            })
    }
}
