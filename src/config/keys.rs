//! The key file: which herd this is, and the secret that lets a server speak as one of it.
//!
//! The file is text, so that it can be looked at, copied and pasted. Blank lines and what follows
//! a `#` do not count; numbers are in hexadecimal:
//!
//! ```text
//! herd     32 digits        the herd's random id, the same for ever
//! key      64 digits        what this server dials with, and accepts
//! next     64 digits        accepted too: the key to come
//! previous 64 digits        accepted too: the key before
//! ```
//!
//! At most one of `next` and `previous` is there, and only during a rotation. A rotation takes
//! three steps, `key` → `key, next` → `key, previous` → `key`, and servers whose files are one
//! step apart accept what the others dial with: so a herd whose servers change theirs one after
//! another is never split. Two steps apart they are not, so every server must have taken one
//! step before the next is made.
//!
//! Keys show in no log, no error and no `Debug`. A server reads its file at its start, and again
//! when it is told to.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Bytes of a herd id.
pub const HERD_ID_BYTES: usize = 16;

/// The largest key file that is read; a longer file is something else.
const MAX_FILE_BYTES: usize = 4096;

/// What the file begins with, for whoever opens it.
const HEADING: &str = "# The key of a herd. Whoever has it can speak as one of its servers.\n\
                       # See herd key --help.\n";

/// A secret that servers share.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// The bytes, for the handshake and nothing else.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Which herd this is. Not the secret that opens a link, but not for strangers either: what is
/// keyed with it, they could forge.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HerdId([u8; HERD_ID_BYTES]);

impl HerdId {
    /// Reads 32 hexadecimal digits.
    pub fn parse(text: &[u8]) -> Option<HerdId> {
        parse_hex(text).map(HerdId)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; HERD_ID_BYTES] {
        &self.0
    }

    /// 32 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for HerdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HerdId")
    }
}

/// Where a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is one key, and no rotation under way.
    One,
    /// The new key is accepted, the old one dialed with.
    NextAccepted,
    /// The new key is dialed with, the old one still accepted.
    PreviousAccepted,
}

/// What a key file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    herd: HerdId,
    key: Key,
    step: Step,
    /// The key beside the one that is dialed with; there unless the step is [`Step::One`].
    second: Option<Key>,
}

/// What is wrong in a key file's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The line, counted from 1; `None` if it is the file as a whole.
    pub line: Option<usize>,
    /// What is wrong, without the text itself: it may be a key.
    pub what: String,
}

/// Why there is no key to be had.
#[derive(Debug)]
pub struct KeyError {
    /// The key file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: KeyErrorKind,
}

/// What is wrong with a key file.
#[derive(Debug)]
pub enum KeyErrorKind {
    /// There is none.
    Missing,
    /// There is one already, where a new one was to be made.
    Exists,
    /// It can't be read.
    Read(io::Error),
    /// It can't be made or replaced.
    Write(io::Error),
    /// It is a directory, a pipe or the like.
    NotAFile,
    /// Others than its owner can read or change it; its permission bits.
    Exposed(u32),
    /// Its text is no key file's.
    Malformed(Malformed),
    /// Another process is changing it.
    Busy,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            KeyErrorKind::Missing => {
                write!(f, "{path}: there is no such file; herd key new makes one")
            }
            KeyErrorKind::Exists => write!(
                f,
                "{path}: there is a key already, and it is not overwritten; herd key rotate changes it"
            ),
            KeyErrorKind::Read(error) => write!(f, "{path}: cannot be read: {error}"),
            KeyErrorKind::Write(error) => write!(f, "{path}: cannot be written: {error}"),
            KeyErrorKind::NotAFile => write!(f, "{path}: not a regular file"),
            KeyErrorKind::Exposed(mode) => write!(
                f,
                "{path}: others than its owner have access (mode {mode:04o}); chmod 600 it, and if somebody may have read it, make a new key"
            ),
            KeyErrorKind::Malformed(Malformed { line, what }) => match line {
                Some(line) => write!(f, "{path}:{line}: {what}"),
                None => write!(f, "{path}: {what}"),
            },
            KeyErrorKind::Busy => write!(f, "{path}: another herd key is changing it"),
        }
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            KeyErrorKind::Read(error) | KeyErrorKind::Write(error) => Some(error),
            _ => None,
        }
    }
}

impl KeyFile {
    /// A new herd with a new key, by the operating system's randomness.
    pub fn generate() -> io::Result<KeyFile> {
        Ok(KeyFile {
            herd: HerdId(random()?),
            key: Key(random()?),
            step: Step::One,
            second: None,
        })
    }

    /// Which herd this is.
    pub fn herd(&self) -> HerdId {
        self.herd
    }

    /// The key to dial with.
    pub fn dialed(&self) -> &Key {
        &self.key
    }

    /// The keys to accept, the likelier one first.
    pub fn accepted(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key).chain(&self.second)
    }

    /// Where a rotation is.
    pub fn step(&self) -> Step {
        self.step
    }

    /// The same herd one step further in a rotation.
    pub fn rotated(&self) -> io::Result<KeyFile> {
        let (key, step, second) = match (self.step, &self.second) {
            (Step::One, _) | (_, None) => {
                (self.key.clone(), Step::NextAccepted, Some(Key(random()?)))
            }
            (Step::NextAccepted, Some(next)) => {
                (next.clone(), Step::PreviousAccepted, Some(self.key.clone()))
            }
            (Step::PreviousAccepted, Some(_)) => (self.key.clone(), Step::One, None),
        };
        Ok(KeyFile {
            herd: self.herd,
            key,
            step,
            second,
        })
    }

    /// Reads what a key file says.
    pub fn parse(text: &[u8]) -> Result<KeyFile, Malformed> {
        let (mut herd, mut key, mut second) = (None, None, None);
        let fault = |line, what: &str| Malformed {
            line,
            what: what.to_owned(),
        };
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line_number = Some(index + 1);
            let code = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            let mut fields = code
                .split(u8::is_ascii_whitespace)
                .filter(|field| !field.is_empty());
            let Some(word) = fields.next() else {
                continue;
            };
            let value = fields.next().unwrap_or_default();
            if fields.next().is_some() {
                return Err(fault(line_number, "more than a word and a number"));
            }
            let secret = || {
                parse_hex(value).map(Key).ok_or_else(|| {
                    let (wanted, got) = (2 * KEY_BYTES, value.len());
                    let what = format!(
                        "a key is {wanted} hexadecimal digits; here are {got} bytes that are not"
                    );
                    fault(line_number, &what)
                })
            };
            let again = match word {
                b"herd" => {
                    let id = HerdId::parse(value)
                        .ok_or_else(|| fault(line_number, "a herd id is 32 hexadecimal digits"))?;
                    herd.replace(id).is_some()
                }
                b"key" => key.replace(secret()?).is_some(),
                b"next" => second.replace((Step::NextAccepted, secret()?)).is_some(),
                b"previous" => second
                    .replace((Step::PreviousAccepted, secret()?))
                    .is_some(),
                _ => {
                    let what = "a line begins with herd, key, next or previous";
                    return Err(fault(line_number, what));
                }
            };
            if again {
                let what =
                    "one herd, one key, and one next or previous are allowed; this is one more";
                return Err(fault(line_number, what));
            }
        }
        let herd = herd.ok_or_else(|| fault(None, "it has no line with the herd's id"))?;
        let key = key.ok_or_else(|| fault(None, "it has no line with a key"))?;
        let (step, second) = match second {
            Some((_, second)) if second == key => {
                return Err(fault(None, "its two keys are the same"));
            }
            Some((step, second)) => (step, Some(second)),
            None => (Step::One, None),
        };
        Ok(KeyFile {
            herd,
            key,
            step,
            second,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "{HEADING}herd {}\nkey {}\n",
            self.herd.to_hex(),
            hex(&self.key.0)
        );
        let word = match self.step {
            Step::NextAccepted => "next",
            Step::One | Step::PreviousAccepted => "previous",
        };
        if let Some(second) = &self.second {
            text += &format!("{word} {}\n", hex(&second.0));
        }
        text
    }

    /// Reads a key file that only its owner can read.
    pub fn load(path: &Path) -> Result<KeyFile, KeyError> {
        let read = || KeyFile::from_file(open(path)?);
        read().map_err(|kind| at(path, kind))
    }

    /// Makes a key file for a new herd; an error if there is one.
    pub fn create(path: &Path) -> Result<KeyFile, KeyError> {
        let create = || {
            let keys = KeyFile::generate()?;
            let placing = Placing::write(path, &keys)?;
            // Unlike a rename, a link fails where there is a file.
            fs::hard_link(&placing.temporary, path)?;
            sync_directory(path)?;
            Ok(keys)
        };
        create().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => at(path, KeyErrorKind::Exists),
            _ => at(path, KeyErrorKind::Write(error)),
        })
    }

    /// Reads the key file; where there is none, makes one. Of several servers that start at
    /// once, one makes it and all read it.
    pub fn load_or_create(path: &Path) -> Result<KeyFile, KeyError> {
        let missing = |error: &KeyError| matches!(error.kind, KeyErrorKind::Missing);
        match KeyFile::load(path) {
            Err(error) if missing(&error) => match KeyFile::create(path) {
                Err(error) if matches!(error.kind, KeyErrorKind::Exists) => KeyFile::load(path),
                made => made,
            },
            loaded => loaded,
        }
    }

    /// Takes the file one step further in a rotation, and says to which. Whoever reads it
    /// meanwhile gets the old one or the new one.
    pub fn rotate(path: &Path) -> Result<Step, KeyError> {
        let rotate = || {
            let file = open(path)?;
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => KeyErrorKind::Busy,
                TryLockError::Error(error) => KeyErrorKind::Write(error),
            })?;
            let keys = KeyFile::from_file(&file)?;
            // The lock may be on a file that another process has just replaced.
            if KeyFile::from_file(open(path)?)? != keys {
                return Err(KeyErrorKind::Busy);
            }
            let replace = || {
                let keys = keys.rotated()?;
                let placing = Placing::write(path, &keys)?;
                fs::rename(&placing.temporary, path)?;
                sync_directory(path)?;
                Ok(keys.step)
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
            let what = format!("longer than {MAX_FILE_BYTES} bytes: this is no key file");
            return Err(KeyErrorKind::Malformed(Malformed { line: None, what }));
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

/// Opens a regular file that only its owner can read. What is looked at is what has been opened,
/// so nobody can exchange it in between.
fn open(path: &Path) -> Result<File, KeyErrorKind> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Opening a pipe would wait for somebody to write.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyErrorKind::Missing,
        _ => KeyErrorKind::Read(error),
    })?;
    let metadata = file.metadata().map_err(KeyErrorKind::Read)?;
    if !metadata.is_file() {
        return Err(KeyErrorKind::NotAFile);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyErrorKind::Exposed(mode));
        }
    }
    Ok(file)
}

/// A finished key file under another name beside the one it is for, so that whoever opens that
/// one finds all of it. Removed at the end.
struct Placing {
    temporary: PathBuf,
}

impl Placing {
    fn write(path: &Path, keys: &KeyFile) -> io::Result<Placing> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", hex(&random::<8>()?)));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let temporary = path.with_file_name(name);
        let mut file = options.open(&temporary)?;
        let placing = Placing { temporary };
        file.write_all(keys.to_text().as_bytes())?;
        // A server that lost its key to a power cut would make another herd.
        file.sync_all()?;
        Ok(placing)
    }
}

impl Drop for Placing {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| io::Error::other(format!("no random numbers to be had: {error}")))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(16 * digit(0)? + digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
