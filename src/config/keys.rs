//! The key file: the herd's id, and the secret by which its servers identify each other.
//!
//! The file is text, so that it can be inspected, copied and pasted. Blank lines and text after a
//! `#` are ignored; numbers are hexadecimal:
//!
//! ```text
//! herd     32 digits        the herd's random id, which never changes
//! key      64 digits        the key that this server dials with, and accepts
//! next     64 digits        accepted too: the key of the next step
//! previous 64 digits        accepted too: the key of the step before
//! ```
//!
//! At most one of `next` and `previous` is present, and only during a rotation. A rotation takes
//! three steps, `key` → `key, next` → `key, previous` → `key`, and servers whose files are one step
//! apart accept the key that the other dials with: so a herd whose servers change their files one
//! after another is never partitioned. Servers two steps apart do not accept each other, so every
//! server must have taken one step before the next.
//!
//! Keys appear in no log, no error and no `Debug` output. A server reads its file at its start, and
//! again at a reload.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::Fault;
use crate::disk::{Readers, link_target, parent, sync_folder};

/// Length of a key in bytes.
pub(crate) const KEY_BYTES: usize = 32;

/// Length of a herd id in bytes.
pub(crate) const HERD_ID_BYTES: usize = 16;

/// Maximum length of a key file in bytes; a longer file is refused.
const MAX_FILE_BYTES: usize = 4096;

/// Time for which a process waits for another that is creating the key, on a file system where they
/// must take turns.
const CREATION_PATIENCE: Duration = Duration::from_secs(2);

/// First lines of a key file, for a reader.
const HEADING: &str = "# The key of a herd. Any program that has it can act as one of its servers.\n\
                       # See herd key --help.\n";

/// A secret that servers share.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// Returns the bytes, for the handshake only.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Id of a herd. It is not the secret that opens a link, but not public either: digests are keyed
/// with it, so a program that knows it can forge them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HerdId([u8; HERD_ID_BYTES]);

impl HerdId {
    /// Parses 32 hexadecimal digits.
    pub(crate) fn parse(text: &[u8]) -> Option<HerdId> {
        parse_hex(text).map(HerdId)
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8; HERD_ID_BYTES] {
        &self.0
    }

    /// Returns the id as 32 hexadecimal digits.
    pub(crate) fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for HerdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HerdId")
    }
}

/// State of a key rotation, with the key that is accepted beside the one to dial with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// There is one key; no rotation is under way.
    Idle,
    /// The new key is accepted; the old one is dialed with.
    NextAccepted(Key),
    /// The new key is dialed with; the old one is still accepted.
    PreviousAccepted(Key),
}

impl Rotation {
    fn second_key(&self) -> Option<&Key> {
        match self {
            Rotation::Idle => None,
            Rotation::NextAccepted(key) | Rotation::PreviousAccepted(key) => Some(key),
        }
    }
}

/// Contents of a key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    herd: HerdId,
    key: Key,
    rotation: Rotation,
}

/// An error of reading, creating or changing a key file.
#[derive(Debug)]
pub struct KeyError {
    /// Path of the key file.
    pub path: PathBuf,
    /// Kind of the error.
    pub kind: KeyErrorKind,
}

/// Kinds of errors with a key file.
#[derive(Debug)]
pub enum KeyErrorKind {
    /// The file does not exist.
    Missing,
    /// The path is a symbolic link to this path, where there is no file.
    Dangling(PathBuf),
    /// The file that should be created exists.
    Exists,
    /// The file cannot be read.
    Read(io::Error),
    /// The file cannot be created or replaced.
    Write(io::Error),
    /// The path is a directory, a pipe or another kind of file.
    NotAFile,
    /// Other users have access than its owner or, if that is root, its group; its permission bits.
    Exposed(u32),
    /// The text is not that of a key file. The fault does not quote it: it may be a key.
    Malformed(Fault),
    /// Another process is changing the file.
    Busy,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            KeyErrorKind::Missing => {
                write!(f, "{path}: there is no such file; herd key new creates one")
            }
            KeyErrorKind::Dangling(target) => write!(
                f,
                "{path}: a symbolic link to {}, which does not exist; if a key is to be created there, name that file",
                target.display()
            ),
            KeyErrorKind::Exists => write!(
                f,
                "{path}: there is a key already, and it is not overwritten; herd key rotate changes it"
            ),
            KeyErrorKind::Read(error) => write!(f, "{path}: cannot be read: {error}"),
            KeyErrorKind::Write(error) => write!(f, "{path}: cannot be written: {error}"),
            KeyErrorKind::NotAFile => write!(f, "{path}: not a regular file"),
            KeyErrorKind::Exposed(mode) => write!(
                f,
                "{path}: other users than its owner have access (mode {mode:04o}); chmod 600 it (or 640 if root owns it and the server only reads it), and if another user may have read it, create a new key"
            ),
            KeyErrorKind::Malformed(fault) => write!(f, "{path}{fault}"),
            KeyErrorKind::Busy => write!(f, "{path}: another process is changing it"),
        }
    }
}

// No `source`: the text contains the cause.
impl std::error::Error for KeyError {}

impl KeyFile {
    /// Generates an id and a key for a new herd from the operating system's randomness.
    pub fn generate() -> io::Result<KeyFile> {
        Ok(KeyFile {
            herd: HerdId(random()?),
            key: Key(random()?),
            rotation: Rotation::Idle,
        })
    }

    /// Returns the herd's id.
    pub fn herd(&self) -> HerdId {
        self.herd
    }

    /// Returns the key to dial with.
    pub(crate) fn dialed(&self) -> &Key {
        &self.key
    }

    /// Returns the keys to accept, the likelier one first.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key).chain(self.rotation.second_key())
    }

    /// Returns the contents one step further in the rotation.
    pub fn rotated(&self) -> io::Result<KeyFile> {
        let own = self.key.clone();
        let (key, rotation) = match &self.rotation {
            Rotation::Idle => (own, Rotation::NextAccepted(Key(random()?))),
            Rotation::NextAccepted(next) => (next.clone(), Rotation::PreviousAccepted(own)),
            Rotation::PreviousAccepted(_) => (own, Rotation::Idle),
        };
        Ok(KeyFile {
            herd: self.herd,
            key,
            rotation,
        })
    }

    /// Parses the text of a key file.
    pub(crate) fn parse(text: &[u8]) -> Result<KeyFile, Fault> {
        let (mut herd, mut key, mut rotation) = (None, None, None);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line_number = index + 1;
            let code = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            let mut fields = code
                .split(u8::is_ascii_whitespace)
                .filter(|field| !field.is_empty());
            let Some(word) = fields.next() else {
                continue;
            };
            let value = fields.next().unwrap_or_default();
            if fields.next().is_some() {
                return Err(Fault::new(line_number, "more than a word and a number"));
            }
            let secret = || {
                parse_hex(value).map(Key).ok_or_else(|| {
                    let (wanted, got) = (2 * KEY_BYTES, value.len());
                    let message =
                        format!("a key is {wanted} hexadecimal digits; these {got} bytes are not");
                    Fault::new(line_number, message)
                })
            };
            let is_duplicate = match word {
                b"herd" => {
                    let id = HerdId::parse(value).ok_or_else(|| {
                        Fault::new(line_number, "a herd id is 32 hexadecimal digits")
                    })?;
                    herd.replace(id).is_some()
                }
                b"key" => key.replace(secret()?).is_some(),
                b"next" => rotation
                    .replace(Rotation::NextAccepted(secret()?))
                    .is_some(),
                b"previous" => rotation
                    .replace(Rotation::PreviousAccepted(secret()?))
                    .is_some(),
                _ => {
                    let message = "a line begins with herd, key, next or previous";
                    return Err(Fault::new(line_number, message));
                }
            };
            if is_duplicate {
                let message =
                    "one herd, one key, and one next or previous are allowed; this is another";
                return Err(Fault::new(line_number, message));
            }
        }
        let herd = herd.ok_or_else(|| Fault::new(0, "it has no line with the herd's id"))?;
        let key = key.ok_or_else(|| Fault::new(0, "it has no line with a key"))?;
        let rotation = rotation.unwrap_or(Rotation::Idle);
        if rotation.second_key() == Some(&key) {
            return Err(Fault::new(0, "its two keys are the same"));
        }
        Ok(KeyFile {
            herd,
            key,
            rotation,
        })
    }

    fn to_text(&self) -> String {
        let (herd, key) = (self.herd.to_hex(), hex::encode(self.key.0));
        let second = match &self.rotation {
            Rotation::Idle => String::new(),
            Rotation::NextAccepted(next) => format!("next {}\n", hex::encode(next.0)),
            Rotation::PreviousAccepted(previous) => {
                format!("previous {}\n", hex::encode(previous.0))
            }
        };
        format!("{HEADING}herd {herd}\nkey {key}\n{second}")
    }

    /// Reads a key file that only its owner can read.
    pub fn load(path: &Path) -> Result<KeyFile, KeyError> {
        let read = || KeyFile::from_file(open(path)?);
        read().map_err(|kind| at(path, kind))
    }

    /// Creates a key file for a new herd.
    ///
    /// # Errors
    ///
    /// Returns [`KeyErrorKind::Exists`] if there is a file.
    pub fn create(path: &Path) -> Result<KeyFile, KeyError> {
        if let Some(target) = missing_target(path) {
            return Err(at(path, KeyErrorKind::Dangling(target)));
        }
        let create = || {
            let keys = KeyFile::generate()?;
            put_new(path, &keys)?;
            sync_folder(parent(path))?;
            Ok(keys)
        };
        create().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => at(path, KeyErrorKind::Exists),
            _ => at(path, KeyErrorKind::Write(error)),
        })
    }

    /// Reads the key file; creates it if it is missing, and returns whether it did. Of several servers
    /// that start at once, one creates it and all read it.
    pub fn load_or_create(path: &Path) -> Result<(KeyFile, bool), KeyError> {
        let load = || Ok((KeyFile::load(path)?, false));
        let missing = |error: &KeyError| matches!(error.kind, KeyErrorKind::Missing);
        match load() {
            Err(error) if missing(&error) => match KeyFile::create(path) {
                Err(error) if matches!(error.kind, KeyErrorKind::Exists) => load(),
                created => Ok((created?, true)),
            },
            loaded => loaded,
        }
    }

    /// Replaces the file by one that is one step further in a rotation, and returns the new state.
    /// A reader gets either the old file or the new one. Where the path is a symbolic link, the file
    /// that it leads to is replaced; the new one has its owner, group and mode.
    ///
    /// # Errors
    ///
    /// Returns [`KeyErrorKind::Busy`] if another process is changing the file.
    pub fn rotate(path: &Path) -> Result<Rotation, KeyError> {
        let rotate = || {
            let file = open(path)?;
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => KeyErrorKind::Busy,
                TryLockError::Error(error) => KeyErrorKind::Write(error),
            })?;
            let keys = KeyFile::from_file(&file)?;
            // Another process may have replaced the file that is locked here.
            if KeyFile::from_file(open(path)?)? != keys {
                return Err(KeyErrorKind::Busy);
            }
            let replace = || {
                let keys = keys.rotated()?;
                let target = link_target(path);
                let temporary = write_temporary(&target, &keys)?;
                copy_access(&file, temporary.as_file())?;
                temporary.persist(&target)?;
                sync_folder(parent(&target))?;
                Ok(keys.rotation)
            };
            replace().map_err(KeyErrorKind::Write)
        };
        rotate().map_err(|kind| at(path, kind))
    }

    fn from_file(file: impl Read) -> Result<KeyFile, KeyErrorKind> {
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES as u64 + 1)
            .read_to_end(&mut text)
            .map_err(KeyErrorKind::Read)?;
        if text.len() > MAX_FILE_BYTES {
            return Err(KeyErrorKind::Malformed(Fault::new(
                0,
                format!("longer than {MAX_FILE_BYTES} bytes: not a key file"),
            )));
        }
        KeyFile::parse(&text).map_err(KeyErrorKind::Malformed)
    }
}

fn at(path: &Path, kind: KeyErrorKind) -> KeyError {
    KeyError {
        path: path.to_owned(),
        kind,
    }
}

/// Opens a regular file that only its owner can read, or only root and the group of root's file. The
/// checks are made on the open file, so it cannot be exchanged in between.
fn open(path: &Path) -> Result<File, KeyErrorKind> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Without this, opening a pipe would wait for a writer.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => match missing_target(path) {
            Some(target) => KeyErrorKind::Dangling(target),
            None => KeyErrorKind::Missing,
        },
        _ => KeyErrorKind::Read(error),
    })?;
    let metadata = file.metadata().map_err(KeyErrorKind::Read)?;
    if !metadata.is_file() {
        return Err(KeyErrorKind::NotAFile);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let mode = metadata.mode() & 0o7777;
        if is_exposed(mode, metadata.uid() == 0) {
            return Err(KeyErrorKind::Exposed(mode));
        }
    }
    Ok(file)
}

/// Returns whether users have access that should not. The file of a service is often root's, so that the
/// service can't change it, and readable by the group that the service runs as.
#[cfg(unix)]
fn is_exposed(mode: u32, is_roots: bool) -> bool {
    let others = if is_roots { 0o037 } else { 0o077 };
    mode & others != 0
}

/// Where a symbolic link leads to, if there is nothing.
fn missing_target(path: &Path) -> Option<PathBuf> {
    let is_link = path.is_symlink() && !path.exists();
    let target = is_link.then(|| link_target(path))?;
    // A circle of links leads nowhere at all.
    (!target.is_symlink()).then_some(target)
}

/// Puts a key file in a place that is free. A reader of `path` finds either no file or a complete
/// one, and of several processes one succeeds.
fn put_new(path: &Path, keys: &KeyFile) -> io::Result<()> {
    // A rename that replaces nothing or, on an older kernel, a link.
    let persisted = write_temporary(path, keys)?.persist_noclobber(path);
    match persisted.map_err(|error| error.error) {
        Err(error) if lacks_links(&error) => put_new_without_links(path, keys),
        persisted => persisted.map(drop),
    }
}

/// Returns whether the file system has neither: as vfat, some network file systems and sandboxes.
fn lacks_links(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TooManyLinks
    )
}

/// [`put_new`] by means that every file system has: one process at a time has the temporary name,
/// and replaces nothing.
fn put_new_without_links(path: &Path, keys: &KeyFile) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut options = OpenOptions::new();
    let start = Instant::now();
    let mut file = loop {
        let options = Readers::Owner.limit(options.write(true).create_new(true));
        match options.open(&temporary) {
            // Another process is just creating the key, or died over it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if path.exists() {
                    return Err(error);
                }
                if start.elapsed() > CREATION_PATIENCE {
                    let text = format!(
                        "{} is left from an earlier attempt; remove it",
                        temporary.display()
                    );
                    return Err(io::Error::other(text));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => break opened?,
        }
    };
    let mut put = || {
        if path.exists() || path.is_symlink() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        file.write_all(keys.to_text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    put().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Gives a file that is to replace another that one's owner, group and mode.
#[cfg(unix)]
fn copy_access(from: &File, to: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (old, new) = (from.metadata()?, to.metadata()?);
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        std::os::unix::fs::fchown(to, Some(old.uid()), Some(old.gid()))?;
    }
    to.set_permissions(old.permissions())
}

/// Other systems pass the folder's access on.
#[cfg(not(unix))]
fn copy_access(_from: &File, _to: &File) -> io::Result<()> {
    Ok(())
}

/// Writes a key file under a temporary name in the same directory, so that a reader of `path` finds
/// either no file or a complete one. Only the owner has access. Removed if it is dropped.
fn write_temporary(path: &Path, keys: &KeyFile) -> io::Result<NamedTempFile> {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    // On Unix, its mode is 600.
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .tempfile_in(parent(path))?;
    file.write_all(keys.to_text().as_bytes())?;
    // A server that lost its key in a power cut would create another herd.
    file.as_file().sync_all()?;
    Ok(file)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| io::Error::other(format!("no random numbers available: {error}")))?;
    Ok(bytes)
}

/// Parses exactly `2 * N` hexadecimal digits.
fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
