//! The log file, rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

/// Size past which the file is renamed and a new one is started.
pub(super) const FILE_BYTES: u64 = 64 << 20;

/// Number of renamed files that are kept; `NAME.log.1` is the newest.
const KEPT_FILES: usize = 4;

/// A log file that is renamed and replaced when it has grown large.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
}

impl RotatingFile {
    /// Opens or creates the file; past `limit` bytes it is rotated.
    pub(super) fn open(path: PathBuf, limit: u64) -> io::Result<RotatingFile> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(RotatingFile {
            path,
            file,
            bytes,
            limit,
        })
    }

    /// Appends whole lines, after a rotation if they would exceed the limit. After an error, none of
    /// them is in the file.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.limit {
            // A file that grows is better than lost lines; the next write tries again.
            let _ = self.rotate();
        }
        if let Err(error) = self.file.write_all(lines) {
            // A full disk may have taken half a line.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let kept = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..KEPT_FILES).rev() {
            // The older ones need not exist.
            let _ = std::fs::rename(kept(number), kept(number + 1));
        }
        match std::fs::rename(&self.path, kept(1)) {
            // An earlier attempt failed after this step.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        *self = RotatingFile::open(self.path.clone(), self.limit)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn directory(label: &str) -> PathBuf {
        let name = format!("herd-log-{label}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        directory
    }

    #[test]
    fn a_file_that_cannot_rotate_grows_and_rotates_once_it_can() {
        let directory = directory("stuck");
        let path = directory.join("Ball.log");
        let mut file = RotatingFile::open(path.clone(), 10).expect("a file");
        // A folder that is not empty cannot be replaced.
        let obstacle = |number| directory.join(format!("Ball.log.{number}"));
        for number in 1..=KEPT_FILES {
            std::fs::create_dir_all(obstacle(number).join("held")).expect("a directory");
        }
        let mut write = |line: &str| file.write(line.as_bytes()).expect("a write");
        write("line 0\n");
        write("line 1\n");
        let read = |path: &Path| std::fs::read_to_string(path).expect("a file");
        assert_eq!(read(&path), "line 0\nline 1\n");
        for number in 1..=KEPT_FILES {
            std::fs::remove_dir_all(obstacle(number)).expect("removed");
        }
        write("line 2\n");
        assert_eq!(read(&path), "line 2\n");
        assert_eq!(read(&obstacle(1)), "line 0\nline 1\n");
        std::fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn files_rotate_by_size_and_old_ones_are_deleted() {
        let directory = directory("rotated");
        let path = directory.join("Ball.log");
        let mut file = RotatingFile::open(path.clone(), 10).expect("a file");
        for number in 0..10 {
            file.write(format!("line {number}\n").as_bytes())
                .expect("a write");
        }
        let read = |suffix: &str| std::fs::read_to_string(format!("{}{suffix}", path.display()));
        assert_eq!(read("").expect("the file"), "line 9\n");
        assert_eq!(read(".1").expect("the last"), "line 8\n");
        assert_eq!(read(".4").expect("the oldest"), "line 5\n");
        assert!(read(".5").is_err());
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
