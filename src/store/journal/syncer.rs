//! Brings a journal to disk while its owner goes on appending.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::JournalError;

/// A place in a journal: how many bytes were appended before it since the journal was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncPosition(u64);

/// A handle that brings a journal to disk. One call serves everybody who appended before it.
#[derive(Clone, Debug)]
pub struct Syncer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    /// Bytes appended since opening. Raised after the bytes are with the kernel.
    appended: AtomicU64,
    files: Mutex<Files>,
    /// A sync has failed. No later one may say that all is well.
    failed: AtomicBool,
    /// Makes the next sync fail.
    #[cfg(test)]
    fail: AtomicBool,
}

#[derive(Debug)]
struct Files {
    /// Those that may hold what is not on disk: the current one, behind the ones before it.
    open: Vec<Arc<File>>,
    /// Whether the folder may not hold their names yet.
    new_name: bool,
}

impl Syncer {
    pub(super) fn new(directory: PathBuf, file: &Arc<File>) -> Syncer {
        Syncer(Arc::new(Shared {
            directory,
            appended: AtomicU64::new(0),
            files: Mutex::new(Files {
                open: vec![Arc::clone(file)],
                new_name: true,
            }),
            failed: AtomicBool::new(false),
            #[cfg(test)]
            fail: AtomicBool::new(false),
        }))
    }

    /// Where the journal ends.
    pub fn appended(&self) -> SyncPosition {
        SyncPosition(self.0.appended.load(Ordering::Acquire))
    }

    /// Brings everything that was appended before this call to disk, and says up to where that
    /// is.
    ///
    /// The one error is [`JournalError::Sync`]; after one there is never a success.
    pub fn sync(&self) -> Result<SyncPosition, JournalError> {
        let shared = &*self.0;
        let (position, files, new_name) = {
            let files = shared.files.lock();
            (self.appended(), files.open.clone(), files.new_name)
        };
        if shared.failed.load(Ordering::Acquire) {
            let earlier = io::Error::other("an earlier try has failed");
            return Err(JournalError::Sync(earlier));
        }
        if let Err(source) = self.sync_files(&files, new_name) {
            shared.failed.store(true, Ordering::Release);
            return Err(JournalError::Sync(source));
        }
        let mut now = shared.files.lock();
        // The current file stays; the ones before it get no more bytes.
        let done = &files[..files.len() - 1];
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
            self.sync_directory()?;
        }
        Ok(())
    }

    #[cfg(unix)]
    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.0.directory)?.sync_all()
    }

    /// Elsewhere a folder cannot be opened, and names are kept with the file.
    #[cfg(not(unix))]
    fn sync_directory(&self) -> io::Result<()> {
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
    pub(super) fn fail_next(&self, fail: bool) {
        self.0.fail.store(fail, Ordering::Relaxed);
    }
}
