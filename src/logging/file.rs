//! The place that log lines are written to: a file, rotated by size, or a stream.
//!
//! Others may do to a log what they like: rename, remove or empty it, remove its folder, or put a
//! link or a FIFO in its place. So its path is looked at before each write, and opened again if it
//! leads elsewhere; and lines are appended wherever the file ends by then.
//!
//! A stream is a FIFO, a terminal, a device or standard output. It is written in pieces that its other
//! end has room for, so that one that is not read is waited for a moment only. Only a regular file is
//! rotated, and not one that standard output or standard error goes to, since the shell opened that.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::rotation::{KEPT_FILES, kept, rotate};
use crate::disk::{self, Readers};

/// Size past which the file is renamed and a new one is started.
pub(super) const FILE_BYTES: u64 = 64 << 20;

/// Pause after a rotation that failed.
const ROTATION_PAUSE: Duration = Duration::from_secs(1);

/// Bytes that a pipe takes without blocking whenever it is reported as writable.
const PIECE_BYTES: usize = 4096;

/// Maximum wait in one write for the other end of a stream.
const STREAM_PATIENCE: Duration = Duration::from_millis(100);

/// Device and number of a file, which tell it from any other.
type FileId = (u64, u64);

/// A log that is open, or is to be opened again.
#[derive(Debug)]
pub(super) struct LogFile {
    /// `None` for a standard stream.
    path: Option<(PathBuf, Readers)>,
    open: Option<Open>,
    limit: u64,
    /// When a rotation that failed is tried again, and why it failed.
    unrotated: Option<(Instant, io::Error)>,
}

#[derive(Debug)]
struct Open {
    file: File,
    id: FileId,
    is_stream: bool,
    rotates: bool,
}

impl Open {
    fn new(file: File) -> io::Result<Open> {
        let found = file.metadata()?;
        let is_stream = !found.is_file();
        let id = id_of(&found);
        let rotates =
            !is_stream && !is_file(io::stdout().as_fd(), id) && !is_file(io::stderr().as_fd(), id);
        Ok(Open {
            file,
            id,
            is_stream,
            rotates,
        })
    }
}

fn id_of(found: &Metadata) -> FileId {
    (found.dev(), found.ino())
}

fn is_file(stream: BorrowedFd<'_>, id: FileId) -> bool {
    duplicate(stream)
        .and_then(|file| file.metadata())
        .is_ok_and(|found| id_of(&found) == id)
}

fn duplicate(stream: BorrowedFd<'_>) -> io::Result<File> {
    Ok(File::from(stream.try_clone_to_owned()?))
}

/// Opens a log for appending, and creates it and its folder if they are missing. Does not wait for
/// the reader of a FIFO.
fn open_path(path: &Path, readers: Readers) -> io::Result<Open> {
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    options.create(true).append(true);
    options.custom_flags(flags.bits().cast_signed());
    readers.limit(&mut options);
    let opened = match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            disk::create_folder(disk::parent(path), readers)?;
            options.open(path)
        }
        opened => opened,
    };
    match opened {
        Err(error) if error.raw_os_error() == Some(NO_READER) => {
            let found = fs::metadata(path).map(|found| found.file_type());
            Err(match found {
                Ok(kind) if kind.is_fifo() => {
                    io::Error::new(ErrorKind::BrokenPipe, "no process reads this FIFO")
                }
                // As /dev/stdout is for a service whose output goes to a system log.
                Ok(kind) if kind.is_socket() => {
                    io::Error::other("it is a socket; --log - writes to standard output")
                }
                _ => error,
            })
        }
        opened => Open::new(opened?),
    }
}

/// Error of opening a FIFO that nobody reads, or a socket.
const NO_READER: i32 = rustix::io::Errno::NXIO.raw_os_error();

impl LogFile {
    /// Opens a log file, or creates it for its readers; past `limit` bytes it is rotated. A full disk
    /// and a FIFO that is not read yet are no errors: writes try again.
    pub(super) fn open(path: PathBuf, readers: Readers, limit: u64) -> io::Result<LogFile> {
        let open = match open_path(&path, readers) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe || disk::is_full(&error) => None,
            opened => Some(opened?),
        };
        Ok(LogFile {
            path: Some((path, readers)),
            open,
            limit,
            unrotated: None,
        })
    }

    /// Writes to a standard stream, which is never opened again or rotated.
    pub(super) fn standard(stream: BorrowedFd<'_>) -> io::Result<LogFile> {
        let mut open = Open::new(duplicate(stream)?)?;
        open.rotates = false;
        Ok(LogFile {
            path: None,
            open: Some(open),
            limit: u64::MAX,
            unrotated: None,
        })
    }

    /// Takes permissions that earlier versions gave away from this log and the old ones. Returns the
    /// paths of those that were changed, or could not be, with the error.
    pub(super) fn tighten(&self) -> Vec<(PathBuf, Option<io::Error>)> {
        let Some((path, readers)) = &self.path else {
            return Vec::new();
        };
        let olds = (1..=KEPT_FILES).map(|number| kept(path, number));
        let all = std::iter::once(path.clone()).chain(olds);
        all.filter_map(|path| match readers.tighten(&path) {
            Ok(Some((_, changed))) => Some((path, changed.err())),
            // It need not exist.
            Ok(None) | Err(_) => None,
        })
        .collect()
    }

    /// Opens the path again, whatever it leads to. If that fails, the open file stays if it is the one
    /// at the path still.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let Some((path, readers)) = &self.path else {
            return Ok(());
        };
        match open_path(path, *readers) {
            Ok(open) => {
                self.open = Some(open);
                Ok(())
            }
            Err(_) if self.is_at_path() => Ok(()),
            Err(error) => {
                self.open = None;
                Err(error)
            }
        }
    }

    /// Does without a write what one does first: follows the path, and tries a rotation again that
    /// failed. To be called once a second.
    pub(super) fn check(&mut self) -> io::Result<()> {
        self.follow()?;
        if self.unrotated.is_some() {
            self.rotate_if_due(0)?;
        }
        Ok(())
    }

    /// Opens the path again if it leads to another file than the open one.
    fn follow(&mut self) -> io::Result<()> {
        if self.is_at_path() {
            Ok(())
        } else {
            self.reopen()
        }
    }

    /// Returns whether the open file is the one at the path.
    fn is_at_path(&self) -> bool {
        match (&self.path, &self.open) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((path, _)), Some(open)) => {
                fs::metadata(path).is_ok_and(|found| id_of(&found) == open.id)
            }
        }
    }

    /// Returns why the file has grown past its limit, if it has.
    pub(super) fn unrotated(&self) -> Option<&io::Error> {
        self.unrotated.as_ref().map(|(_, error)| error)
    }

    /// Appends whole lines, after a rotation if they would exceed the limit. Returns the number of
    /// bytes written, and what kept it from writing all: of a file's lines, all or none are written;
    /// a stream may have taken a part.
    pub(super) fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let ready = self.follow().and_then(|()| self.rotate_if_due(lines.len()));
        match (ready, &mut self.open) {
            (Err(error), _) => (0, Err(error)),
            // Only a failed `follow` leaves nothing open.
            (Ok(()), None) => (0, Err(ErrorKind::NotFound.into())),
            (Ok(()), Some(open)) if open.is_stream => {
                let (written, result) = write_stream(&mut open.file, lines);
                if self.path.is_some()
                    && matches!(&result, Err(error) if error.kind() == ErrorKind::BrokenPipe)
                {
                    // Opening it again finds the next reader.
                    self.open = None;
                }
                (written, result)
            }
            (Ok(()), Some(open)) => match append(&mut open.file, lines) {
                Ok(()) => (lines.len(), Ok(())),
                Err(error) => (0, Err(error)),
            },
        }
    }

    fn rotate_if_due(&mut self, more: usize) -> io::Result<()> {
        let (Some((path, _)), Some(open)) = (&self.path, &self.open) else {
            return Ok(());
        };
        if !open.rotates {
            return Ok(());
        }
        let bytes = open.file.metadata()?.len();
        if bytes == 0 || bytes + more as u64 <= self.limit {
            self.unrotated = None;
            return Ok(());
        }
        let now = Instant::now();
        if self.unrotated.as_ref().is_some_and(|(next, _)| now < *next) {
            return Ok(());
        }
        match rotate(&disk::link_target(path)) {
            Ok(()) => {
                self.unrotated = None;
                self.follow()
            }
            // A file that grows is better than lost lines.
            Err(error) => {
                self.unrotated = Some((now + ROTATION_PAUSE, error));
                Ok(())
            }
        }
    }
}

/// Appends all lines, or none.
fn append(file: &mut File, lines: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    let written = file.write_all(lines);
    if written.is_err() && file.metadata()?.len() > before {
        // A full disk has taken half a line.
        let _ = file.set_len(before);
    }
    written
}

/// Writes as much as the other end takes within [`STREAM_PATIENCE`].
fn write_stream(file: &mut File, lines: &[u8]) -> (usize, io::Result<()>) {
    let end = Instant::now() + STREAM_PATIENCE;
    let mut written = 0;
    while written < lines.len() {
        match wait_until_writable(file, end) {
            Ok(true) => {}
            Ok(false) => return (written, Err(ErrorKind::WouldBlock.into())),
            Err(error) => return (written, Err(error)),
        }
        let piece = lines.len().min(written + PIECE_BYTES);
        match file.write(&lines[written..piece]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(bytes) => written += bytes,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
                    && Instant::now() < end => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

fn wait_until_writable(file: &File, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(file, PollFlags::OUT)];
        match poll(&mut polled, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) if !left.is_zero() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    /// A folder and the path of a log in it.
    fn place() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("logs/Ball.log");
        fs::create_dir(directory.path().join("logs")).expect("a folder");
        (directory, path)
    }

    fn open(path: &Path, limit: u64) -> LogFile {
        LogFile::open(path.to_owned(), Readers::Owner, limit).expect("a file")
    }

    #[track_caller]
    fn write(file: &mut LogFile, line: &str) {
        let (written, result) = file.write(line.as_bytes());
        result.expect("a write");
        assert_eq!(written, line.len());
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn files_rotate_by_size_and_old_ones_are_deleted() {
        let (_directory, path) = place();
        let mut file = open(&path, 10);
        for number in 0..10 {
            write(&mut file, &format!("line {number}\n"));
        }
        assert_eq!(read(&path), "line 9\n");
        assert_eq!(read(&kept(&path, 1)), "line 8\n");
        assert_eq!(read(&kept(&path, 4)), "line 5\n");
        assert!(!kept(&path, 5).exists());
    }

    #[test]
    fn a_file_that_cannot_rotate_grows_and_rotates_once_it_can() {
        let (_directory, path) = place();
        let mut file = open(&path, 10);
        // A folder that is not empty cannot be replaced.
        for number in [3, 4] {
            fs::create_dir_all(kept(&path, number).join("held")).expect("a folder");
        }
        write(&mut file, "line 0\n");
        write(&mut file, "line 1\n");
        assert!(file.unrotated().is_some());
        write(&mut file, "line 2\n");
        assert_eq!(read(&path), "line 0\nline 1\nline 2\n");
        for number in [3, 4] {
            fs::remove_dir_all(kept(&path, number)).expect("removed");
        }
        // It waits before it tries again.
        write(&mut file, "line 3\n");
        file.unrotated.as_mut().expect("a failure").0 = Instant::now();
        write(&mut file, "line 4\n");
        assert!(file.unrotated().is_none());
        assert_eq!(read(&path), "line 4\n");
        assert_eq!(read(&kept(&path, 1)), "line 0\nline 1\nline 2\nline 3\n");
    }

    #[test]
    fn what_others_do_to_the_file_is_followed() {
        let (directory, path) = place();
        let mut file = open(&path, 100);
        write(&mut file, "first\n");
        // Rotated from outside.
        let moved = directory.path().join("moved");
        fs::rename(&path, &moved).expect("renamed");
        write(&mut file, "second\n");
        assert_eq!(read(&moved), "first\n");
        assert_eq!(read(&path), "second\n");
        // Emptied: it goes on at the beginning, without a gap of NUL bytes.
        File::create(&path).expect("emptied");
        write(&mut file, "third\n");
        assert_eq!(read(&path), "third\n");
        // Removed, then with its folder.
        fs::remove_file(&path).expect("removed");
        write(&mut file, "fourth\n");
        assert_eq!(read(&path), "fourth\n");
        fs::remove_dir_all(directory.path().join("logs")).expect("removed");
        write(&mut file, "fifth\n");
        assert_eq!(read(&path), "fifth\n");
        // Neither the folder nor the file can be made.
        fs::remove_dir_all(directory.path().join("logs")).expect("removed");
        fs::write(directory.path().join("logs"), "").expect("a file");
        let (written, result) = file.write(b"sixth\n");
        assert!(written == 0 && result.is_err());
        fs::remove_file(directory.path().join("logs")).expect("removed");
        write(&mut file, "sixth\n");
        assert_eq!(read(&path), "sixth\n");
    }

    #[test]
    fn files_and_folders_are_for_their_readers() {
        for (readers, folder, mode) in [
            (Readers::Owner, 0o700, 0o600),
            (Readers::Group, 0o750, 0o640),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("logs/Ball.log");
            let file = LogFile::open(path.clone(), readers, 10).expect("a file");
            let mode_of = |path: &Path| {
                let found = fs::metadata(path).expect("a file");
                found.permissions().mode() & 0o777
            };
            assert_eq!(mode_of(&path) & !mode, 0);
            assert_eq!(mode_of(&directory.path().join("logs")) & !folder, 0);
            // Those of earlier versions.
            fs::write(kept(&path, 2), "").expect("written");
            for path in [&path, &kept(&path, 2)] {
                fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changed");
            }
            let changed = file.tighten();
            let changed: Vec<_> = changed.iter().map(|(path, _)| path.clone()).collect();
            assert_eq!(changed, [path.clone(), kept(&path, 2)]);
            assert_eq!(mode_of(&path) & !mode, 0);
        }
    }

    #[test]
    fn a_link_is_rotated_where_it_leads_to() {
        let (directory, path) = place();
        let target = directory.path().join("elsewhere");
        std::os::unix::fs::symlink(&target, &path).expect("a link");
        let mut file = open(&path, 10);
        write(&mut file, "line 0\n");
        write(&mut file, "line 1\n");
        assert!(fs::symlink_metadata(&path).expect("a link").is_symlink());
        assert_eq!(read(&target), "line 1\n");
        assert_eq!(read(&kept(&target, 1)), "line 0\n");
    }

    #[test]
    fn a_fifo_is_waited_for_a_moment_only_and_never_rotated() {
        use std::io::Read;

        let (_directory, path) = place();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
        let mut file = open(&path, 10);
        let (written, result) = file.write(b"line 0\n");
        let error = result.expect_err("no reader");
        assert_eq!((written, error.kind()), (0, ErrorKind::BrokenPipe));
        let mut options = OpenOptions::new();
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let options = options.read(true).custom_flags(flags);
        let mut reader = options.open(&path).expect("a FIFO");
        write(&mut file, "line 1\n");
        write(&mut file, "line 2\n");
        // More than the pipe holds.
        let began = Instant::now();
        let many = b"many\n".repeat(100_000);
        let (written, result) = file.write(&many);
        let error = result.expect_err("a full pipe");
        assert!(written > 0 && written < many.len());
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(began.elapsed() < 20 * STREAM_PATIENCE);
        let mut bytes = [0; 14];
        reader.read_exact(&mut bytes).expect("lines");
        assert_eq!(&bytes, b"line 1\nline 2\n");
        assert!(!kept(&path, 1).exists());
        // A reader that comes back finds the log again.
        drop(reader);
        let (_, result) = file.write(b"line 3\n");
        result.expect_err("no reader");
        let mut reader = options.open(&path).expect("a FIFO");
        write(&mut file, "line 4\n");
        let mut bytes = [0; 7];
        reader.read_exact(&mut bytes).expect("lines");
        assert_eq!(&bytes, b"line 4\n");
    }
}
