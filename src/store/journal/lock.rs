//! The lock on a journal's folder, which keeps a second server of the name away.
//!
//! It has two halves, and each keeps the other's promise where that one fails:
//!
//! - A **lock on the file `journal.lock`**. It holds for all processes of the machine that see the
//!   folder, by whatever path and from whatever container. But it goes with the file: where the
//!   folder is moved away or the file is deleted, there is nothing to be locked any more.
//! - A **name**: an abstract socket, named after the path of the folder. It cannot be moved or
//!   deleted, and the kernel frees it when the process ends, however it ends. It holds for processes
//!   of the same network namespace; part of the name is the mount namespace, since the same path in
//!   two containers is two folders. Linux only.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::JournalError;
use super::error::io_error;
use super::raw::is_at;
use crate::disk::{Readers, is_full};

/// The lock on a journal's folder.
#[derive(Debug)]
pub(super) struct Lock {
    /// `None` on a full disk, until there is room for the file.
    file: Option<Held>,
    /// `None` where the system has no such names.
    _name: Option<name::Name>,
}

/// A locked file.
#[derive(Debug)]
struct Held(Arc<File>);

impl Lock {
    /// Locks the folder, or fails if another process has it locked.
    pub(super) fn take(directory: &Path, readers: Readers) -> Result<Lock, JournalError> {
        let name = name::Name::take(directory)
            .map_err(|name::Taken| JournalError::InUse(directory.to_owned()))?;
        let mut lock = Lock {
            file: None,
            _name: name,
        };
        match lock.lock_file(directory, readers) {
            // There was no room for the folder or the file.
            Err(JournalError::Io { source, .. })
                if is_full(&source) || source.kind() == io::ErrorKind::NotFound => {}
            locked => locked?,
        }
        Ok(lock)
    }

    /// Locks the file that is in the folder now.
    pub(super) fn lock_file(
        &mut self,
        directory: &Path,
        readers: Readers,
    ) -> Result<(), JournalError> {
        let path = path(directory);
        if let Some(held) = &self.file
            && is_at(&held.0, &path)
        {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = readers
            .limit(&mut options)
            .open(&path)
            .map_err(io_error("creating", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::InUse(directory.to_owned()));
            }
            Err(TryLockError::Error(source)) => return Err(io_error("locking", &path)(source)),
        }
        self.file = Some(Held(Arc::new(file)));
        Ok(())
    }

    /// The locked file, to compare with the one in the folder.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref().map(|held| &held.0)
    }
}

impl Drop for Held {
    /// Closing the file is not enough: a child process that is just being spawned holds it too,
    /// until it becomes another program.
    fn drop(&mut self) {
        drop(self.0.unlock());
    }
}

/// Path of the lock file.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join("journal.lock")
}

#[cfg(target_os = "linux")]
mod name {
    use std::fs;
    use std::io;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    use rustix::process::geteuid;
    use siphasher::sip128::{Hasher128, SipHasher13};
    use std::hash::Hasher;

    /// Time for which a taken name is tried again: a child process that is just being spawned holds
    /// it until it becomes another program.
    const PATIENCE: Duration = Duration::from_millis(300);

    /// Another server has the name.
    #[derive(Debug)]
    pub(super) struct Taken;

    /// A name that is held until it is dropped.
    #[derive(Debug)]
    pub(super) struct Name {
        _socket: OwnedFd,
    }

    impl Name {
        /// Takes the name of a folder. `None` if the system does not let this process.
        pub(super) fn take(directory: &Path) -> Result<Option<Name>, Taken> {
            let Ok(address) = address(directory) else {
                return Ok(None);
            };
            let start = Instant::now();
            loop {
                let in_use = match hold(&address) {
                    Ok(socket) => return Ok(Some(Name { _socket: socket })),
                    Err(error) => error.kind() == io::ErrorKind::AddrInUse,
                };
                if !in_use || !is_held_by_a_server(&address) {
                    return Ok(None);
                }
                if start.elapsed() > PATIENCE {
                    return Err(Taken);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// The folder's own last name is not resolved: the place is what counts, and not what is there.
    fn address(directory: &Path) -> io::Result<SocketAddrUnix> {
        let parent = fs::canonicalize(crate::disk::parent(directory))?;
        let place = parent.join(directory.file_name().unwrap_or_default());
        let namespace = fs::metadata("/proc/self/ns/mnt").map_or(0, |found| found.ino());
        let mut hasher = SipHasher13::new();
        hasher.write_u64(namespace);
        hasher.write(place.as_os_str().as_bytes());
        let hash = hasher.finish128().as_u128();
        let name = format!("herd-journal-{hash:032x}");
        Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?)
    }

    fn socket() -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = AddressFamily::UNIX;
        Ok(rustix::net::socket_with(
            family,
            SocketType::STREAM,
            flags,
            None,
        )?)
    }

    /// Listens, so that whoever finds the name taken can ask the kernel who has it.
    fn hold(address: &SocketAddrUnix) -> io::Result<OwnedFd> {
        let socket = socket()?;
        rustix::net::bind(&socket, address)?;
        rustix::net::listen(&socket, 1)?;
        Ok(socket)
    }

    /// Returns whether this user or root has the name. Any user can take any name, and must not keep a
    /// server from starting by that.
    fn is_held_by_a_server(address: &SocketAddrUnix) -> bool {
        let Ok(socket) = socket() else {
            return true;
        };
        if rustix::net::connect(&socket, address).is_err() {
            // It is just being taken or released, or several ask at once.
            return true;
        }
        sockopt::socket_peercred(&socket).map_or(true, |holder| {
            holder.uid == geteuid() || holder.uid.is_root()
        })
    }
}

/// Other systems have no such names.
#[cfg(not(target_os = "linux"))]
mod name {
    use std::path::Path;

    #[derive(Debug)]
    pub(super) struct Taken;

    #[derive(Debug)]
    pub(super) struct Name;

    impl Name {
        pub(super) fn take(_directory: &Path) -> Result<Option<Name>, Taken> {
            Ok(None)
        }
    }
}
