//! Files as the system knows them: whether an open file is the one at a path, and reads and writes at
//! an offset.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Device and number of a file.
pub(super) type Id = (u64, u64);

/// The outcome of looking for a file by its path.
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// A file with that id and length.
    Something(Id, u64),
    /// A file that this process may not look at, or that the disk does not deliver now.
    Unknown,
}

#[cfg(unix)]
fn id(found: &fs::Metadata) -> Id {
    use std::os::unix::fs::MetadataExt;
    (found.dev(), found.ino())
}

/// Other systems do not let open files be deleted or replaced.
#[cfg(not(unix))]
fn id(_found: &fs::Metadata) -> Id {
    (0, 0)
}

/// Device and number of an open file.
pub(super) fn id_of(file: &File) -> Option<Id> {
    file.metadata().ok().map(|found| id(&found))
}

/// Looks for a file by its path.
pub(super) fn found(path: &Path) -> Found {
    match fs::metadata(path) {
        Ok(found) => Found::Something(id(&found), found.len()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::StaleNetworkFileHandle
            ) =>
        {
            Found::Nothing
        }
        Err(_) => Found::Unknown,
    }
}

/// Returns whether an open file is the one at that path.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match found(path) {
        Found::Nothing => false,
        Found::Something(id, _) => id_of(file) == Some(id),
        Found::Unknown => true,
    }
}

/// Bytes of a file; `None` if the disk does not deliver them.
#[cfg(unix)]
pub(super) fn read_at(file: &File, at: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, at).ok()?;
    Some(bytes)
}

#[cfg(not(unix))]
pub(super) fn read_at(_file: &File, _at: u64, _length: u64) -> Option<Vec<u8>> {
    None
}

/// Writes bytes at an offset of a file.
#[cfg(unix)]
pub(super) fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
pub(super) fn write_at(mut file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

/// Returns whether a part of these bytes was never written. The file's own offset changes.
#[cfg(target_os = "linux")]
pub(super) fn has_hole(file: &File, bytes: std::ops::Range<u64>) -> bool {
    let hole = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(bytes.start));
    hole.is_ok_and(|hole| hole < bytes.end)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn has_hole(_file: &File, _bytes: std::ops::Range<u64>) -> bool {
    false
}
