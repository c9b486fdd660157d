//! Where the journal ends, kept outside of it: a journal that was cut at the end of a frame, emptied,
//! or overwritten with zeros looks like a shorter one, and would lose its last records in silence.
//!
//! The file `journal.end` is mapped into memory, so that noting the end of an append costs no system
//! call. The note is made behind the append, so it never names bytes that were not appended. It
//! proves a loss, and nothing else depends on it: without the file, or with a damaged one, recovery
//! judges the journal by its own bytes.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `herdjend` |
//! | 8 | number of the newest file |
//! | 8 | its salt |
//! | 4 | CRC-32C of the 24 bytes before; zero while they change |
//! | 4 | zero |
//! | 8 | length of that file behind the last append |
//!
//! All numbers are little-endian.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Header, number_64};
use super::raw::write_at;
use super::window::{Put, Window};
use crate::disk::Readers;

const MAGIC: &[u8; 8] = b"herdjend";

/// Offset of the checksum.
const CHECKSUM: usize = 24;

/// Offset of the length.
const END: usize = 32;

/// Bytes of the file.
const BYTES: usize = 40;

/// A note of where the journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Number of the newest file.
    pub number: u64,
    /// Its salt.
    pub salt: u64,
    /// Its length behind the last append.
    pub end: u64,
}

impl Mark {
    /// Reads the note of a folder; `None` if there is none that is intact.
    pub(super) fn read(directory: &Path) -> Option<Mark> {
        let bytes = fs::read(path(directory)).ok()?;
        let stored = bytes.get(CHECKSUM..CHECKSUM + 4)?;
        let body = bytes
            .get(..CHECKSUM)
            .filter(|body| body.starts_with(MAGIC))?;
        let intact = crc32c::crc32c(body).to_le_bytes() == stored;
        intact.then_some(Mark {
            number: number_64(&body[8..16]),
            salt: number_64(&body[16..24]),
            end: number_64(bytes.get(END..BYTES)?),
        })
    }
}

/// The file, open for writing.
#[derive(Debug, Default)]
pub(super) struct EndMark(Option<Open>);

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    window: Window,
}

impl EndMark {
    /// Opens the file, or creates it. On a disk that has no room for it, and on systems without
    /// mapped files, there is none.
    pub(super) fn open(directory: &Path, readers: Readers) -> EndMark {
        let open = || {
            if !cfg!(unix) {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = readers.limit(&mut options).open(path(directory))?;
            // Written, and not only lengthened, so that its block is allocated.
            if file.metadata()?.len() < BYTES as u64 {
                write_at(&file, &[0; BYTES], 0)?;
            }
            let window = Window::open(&file, 0..BYTES as u64)?;
            let file = Arc::new(file);
            io::Result::Ok(Open { file, window })
        };
        EndMark(open().ok())
    }

    /// Notes that the newest file is now that of `header`, and ends there.
    pub(super) fn begin_file(&mut self, header: &Header, end: u64) {
        let mut body = MAGIC.to_vec();
        body.extend_from_slice(&header.number.to_le_bytes());
        body.extend_from_slice(&header.salt.to_le_bytes());
        // Without its checksum the note counts for nothing, should the process die in between.
        self.put(CHECKSUM, &[0; 4]);
        self.put(0, &body);
        self.put(END, &end.to_le_bytes());
        self.put(CHECKSUM, &crc32c::crc32c(&body).to_le_bytes());
    }

    /// Notes the end of the last append.
    pub(super) fn advance(&mut self, end: u64) {
        self.put(END, &end.to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(open) = &mut self.0
            && open.window.put(at as u64, bytes) != Put::Done
        {
            self.0 = None;
        }
    }

    /// The open file, to compare with the one in the folder; `None` if there is none.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.0.as_ref().map(|open| &open.file)
    }
}

/// Path of the file.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join("journal.end")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_a_damaged_one_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        assert_eq!(Mark::read(directory), None);
        let header = Header {
            version: super::super::format::VERSION,
            number: 3,
            salt: 0x1234_5678_9abc_def0,
            epoch: 7,
            previous_bytes: 0,
            first: 3,
        };
        let mut mark = EndMark::open(directory, Readers::Owner);
        assert_eq!(Mark::read(directory), None);
        mark.begin_file(&header, 128);
        mark.advance(700);
        let expected = Mark {
            number: 3,
            salt: header.salt,
            end: 700,
        };
        assert_eq!(Mark::read(directory), Some(expected));
        drop(EndMark::open(directory, Readers::Owner));
        assert_eq!(Mark::read(directory), Some(expected));
        let bytes = fs::read(path(directory)).expect("the file");
        for at in 0..CHECKSUM + 4 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            fs::write(path(directory), flipped).expect("written");
            assert_eq!(Mark::read(directory), None, "byte {at}");
        }
    }
}
