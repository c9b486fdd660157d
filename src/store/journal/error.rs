//! Errors of the journal.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Errors of opening, appending to, syncing or compacting a journal.
#[derive(Debug)]
pub enum JournalError {
    /// The file system refused. After a failed append the journal is as it was before, and frozen.
    Io {
        /// The operation, as in "appending to".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// Another process has this journal open.
    InUse(PathBuf),
    /// A later version of the program wrote this file.
    WrongVersion(PathBuf, u32),
    /// Appended bytes may never reach the disk. The kernel may have dropped them, so a retry would
    /// prove nothing: the process must end.
    Sync(io::Error),
    /// An append failed while the compaction ran, or another compaction was begun: it must be
    /// restarted.
    Interrupted,
    /// The disk has no room for a compaction.
    NoRoom {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
}

impl JournalError {
    /// Returns whether there may be room later.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            JournalError::Io { source, .. } => crate::disk::is_full(source),
            JournalError::NoRoom { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Io {
                doing,
                path,
                source,
            } => write!(f, "{doing} {}: {source}", path.display()),
            JournalError::InUse(path) => write!(
                f,
                "another process has the journal in {} open",
                path.display()
            ),
            JournalError::WrongVersion(path, version) => write!(
                f,
                "{} has layout version {version}: it was written by a later version of herd",
                path.display()
            ),
            JournalError::Sync(source) => {
                write!(f, "cannot sync the journal to disk: {source}")
            }
            JournalError::Interrupted => f.write_str("the compaction was interrupted"),
            JournalError::NoRoom { needed, free } => write!(
                f,
                "no room to compact the journal: {needed} bytes needed, {free} free"
            ),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JournalError::Io { source, .. } | JournalError::Sync(source) => Some(source),
            _ => None,
        }
    }
}

/// Adds the operation and the path to an error of the file system.
pub(super) fn io_error(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |source| JournalError::Io {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_operation_and_the_file() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for (error, expected) in [
            (
                io_error("appending to", Path::new("data/Ball"))(full()),
                "appending to data/Ball: no storage space",
            ),
            (
                JournalError::InUse("data/Ball".into()),
                "another process has the journal in data/Ball open",
            ),
            (
                JournalError::WrongVersion("journal-3.log".into(), 2),
                "journal-3.log has layout version 2: it was written by a later version of herd",
            ),
            (
                JournalError::Sync(full()),
                "cannot sync the journal to disk: no storage space",
            ),
            (
                JournalError::NoRoom { needed: 9, free: 5 },
                "no room to compact the journal: 9 bytes needed, 5 free",
            ),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }
}
