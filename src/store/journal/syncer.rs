//! Brings a journal to disk while its owner goes on appending.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::JournalError;
use crate::disk::sync_folder;
use crate::metrics::{Histogram, HistogramSnapshot};

/// A position in a journal: the number of bytes appended before it since the journal was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncPosition(u64);

/// A handle that brings a journal to disk. One call serves all appends before it.
#[derive(Clone, Debug)]
pub struct Syncer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    /// Bytes appended since opening. Raised once the bytes are with the kernel.
    appended: AtomicU64,
    /// Size of all files less `appended`, modulo 2^64: it changes only when a file is begun or
    /// removed, so that an append has one number to raise.
    size_offset: AtomicU64,
    /// Time that each sync took.
    syncs: Histogram,
    files: Mutex<Files>,
    /// True if a sync has failed. No later one may report success.
    failed: AtomicBool,
    /// Makes syncs fail.
    #[cfg(test)]
    fail: AtomicBool,
}

#[derive(Debug)]
struct Files {
    /// Files that may hold bytes that are not on disk, oldest first; the last is the newest file.
    /// Empty while there is no file to append to.
    open: Vec<Arc<File>>,
    /// True if their names may not be in the folder on disk yet.
    new_name: bool,
}

impl Syncer {
    pub(super) fn new(directory: PathBuf, file: Option<&Arc<File>>) -> Syncer {
        Syncer(Arc::new(Shared {
            directory,
            appended: AtomicU64::new(0),
            size_offset: AtomicU64::new(0),
            syncs: Histogram::default(),
            files: Mutex::new(Files {
                open: file.into_iter().cloned().collect(),
                new_name: true,
            }),
            failed: AtomicBool::new(false),
            #[cfg(test)]
            fail: AtomicBool::new(false),
        }))
    }

    /// Returns the end of the journal.
    pub fn appended(&self) -> SyncPosition {
        SyncPosition(self.0.appended.load(Ordering::Acquire))
    }

    /// Returns the number of bytes appended since the journal was opened.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended().0
    }

    /// Returns the size of all files, without waiting for whoever appends.
    pub(crate) fn size(&self) -> u64 {
        let offset = self.0.size_offset.load(Ordering::Relaxed);
        offset.wrapping_add(self.appended_bytes())
    }

    /// Sets the size of all files, after one was begun or removed.
    pub(super) fn set_size(&self, bytes: u64) {
        let offset = bytes.wrapping_sub(self.appended_bytes());
        self.0.size_offset.store(offset, Ordering::Relaxed);
    }

    /// Returns the times that syncs took, each as a whole.
    pub(crate) fn syncs(&self) -> HistogramSnapshot {
        self.0.syncs.snapshot()
    }

    /// Brings everything that was appended before this call to disk, and returns the position up to
    /// which that is.
    ///
    /// The only error is [`JournalError::Sync`]; after one, all later calls fail.
    pub fn sync(&self) -> Result<SyncPosition, JournalError> {
        let shared = &*self.0;
        let (position, files, new_name) = {
            let files = shared.files.lock();
            (self.appended(), files.open.clone(), files.new_name)
        };
        if shared.failed.load(Ordering::Acquire) {
            let earlier = io::Error::other("an earlier sync failed");
            return Err(JournalError::Sync(earlier));
        }
        let began = Instant::now();
        let synced = self.sync_files(&files, new_name);
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        shared.syncs.observe(nanos);
        if let Err(source) = synced {
            shared.failed.store(true, Ordering::Release);
            return Err(JournalError::Sync(source));
        }
        let mut now = shared.files.lock();
        // The newest file stays; the ones before it get no more bytes.
        let done = &files[..files.len().saturating_sub(1)];
        let grown = now.open.last().map(Arc::as_ptr) != files.last().map(Arc::as_ptr);
        now.open
            .retain(|file| !done.iter().any(|done| Arc::ptr_eq(done, file)));
        now.new_name &= grown;
        Ok(position)
    }

    fn sync_files(&self, files: &[Arc<File>], new_name: bool) -> io::Result<()> {
        #[cfg(test)]
        if self.0.fail.load(Ordering::Relaxed) {
            return Err(io::Error::other("input/output error"));
        }
        for file in files {
            file.sync_data()?;
        }
        if new_name {
            match sync_folder(&self.0.directory) {
                // Somebody has moved the folder away. That is noticed, and mended, elsewhere; the
                // bytes are on disk.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.0.appended.fetch_add(bytes, Ordering::Release);
    }

    pub(super) fn begin_file(&self, file: &Arc<File>) {
        let mut files = self.0.files.lock();
        files.open.push(Arc::clone(file));
        files.new_name = true;
    }

    #[cfg(test)]
    pub(super) fn set_failing(&self, fail: bool) {
        self.0.fail.store(fail, Ordering::Relaxed);
    }
}
