//! What can go wrong with a journal.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why the journal could not do what it was asked.
#[derive(Debug)]
pub enum JournalError {
    /// The file system refused. After an append the journal is as it was before, and frozen.
    Io {
        /// What was being done, as in "appending to".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has this journal open.
    InUse(PathBuf),
    /// A later version of the program wrote this file.
    WrongVersion(PathBuf, u32),
    /// What was appended may never reach the disk. The kernel may have forgotten it, so another
    /// try would say nothing: the process must end.
    Sync(io::Error),
    /// An append failed while the compaction ran, or another one was begun: it must be begun anew.
    Interrupted,
    /// The disk has no room for a compaction, which would need so many bytes.
    NoRoom {
        /// What it would need.
        needed: u64,
        /// What there is.
        free: u64,
    },
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
                "{} has version {version} of the layout: it was written by a later herd",
                path.display()
            ),
            JournalError::Sync(source) => {
                write!(f, "the journal could not be brought to disk: {source}")
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

/// Says what was being done when the file system refused.
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
    fn errors_tell_what_to_do_something_about() {
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
                "journal-3.log has version 2 of the layout: it was written by a later herd",
            ),
            (
                JournalError::Sync(full()),
                "the journal could not be brought to disk: no storage space",
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
