//! Renames of a log that has grown large: `NAME.log` becomes `NAME.log.1`, `.1` becomes `.2`, and so on.
//!
//! The old logs are renamed only once the current one could be: a rotation that fails half-way, and is
//! tried again and again, would otherwise move them out one after the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Number of renamed files that are kept; `NAME.log.1` is the newest.
pub(super) const KEPT_FILES: usize = 4;

/// Returns the path of the old log of that number; number 0 is one whose rotation is under way.
pub(super) fn kept(current: &Path, number: usize) -> PathBuf {
    let mut name = current.to_owned().into_os_string();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Renames the current log and the old ones. After an error the current one has its name still, and
/// no old one has been replaced but the oldest.
pub(super) fn rotate(current: &Path) -> io::Result<()> {
    let moved = kept(current, 0);
    if moved.exists() {
        // The process ended during a rotation.
        shift(current)?;
    }
    fs::rename(current, &moved)?;
    shift(current).inspect_err(|_| {
        // It has just been renamed the other way.
        let _ = fs::rename(&moved, current);
    })
}

/// Deletes the oldest log, and gives each other the next number, the oldest first, so that none is
/// replaced that has not moved.
///
/// A rename over a file, in place of its deletion, makes some file systems write the renamed one to
/// disk at once.
fn shift(current: &Path) -> io::Result<()> {
    match fs::remove_file(kept(current, KEPT_FILES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    for number in (0..KEPT_FILES).rev() {
        match fs::rename(kept(current, number), kept(current, number + 1)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(current: &Path, expected: &[(usize, &str)]) {
        for &(number, text) in expected {
            let read = fs::read_to_string(kept(current, number)).unwrap_or_default();
            assert_eq!(read, text, "number {number}");
        }
    }

    #[test]
    fn a_rotation_that_fails_again_and_again_destroys_no_log() {
        let directory = tempfile::tempdir().expect("a directory");
        let current = directory.path().join("Ball.log");
        let write = |path: &Path, text: &str| fs::write(path, text).expect("written");
        let olds = [(1, "newest"), (2, "second"), (3, "third"), (4, "oldest")];
        for (number, text) in olds {
            write(&kept(&current, number), text);
        }
        // The current one cannot be renamed: it does not exist.
        for _ in 0..5 {
            assert!(rotate(&current).is_err());
            check(&current, &olds);
        }
        // An old one can't be replaced: a folder is in its place.
        write(&current, "current");
        fs::remove_file(kept(&current, 3)).expect("removed");
        fs::create_dir_all(kept(&current, 3).join("held")).expect("a folder");
        fs::remove_file(kept(&current, 4)).expect("removed");
        fs::create_dir_all(kept(&current, 4).join("held")).expect("a folder");
        for _ in 0..5 {
            assert!(rotate(&current).is_err());
            check(&current, &olds[..2]);
            let read = fs::read_to_string(&current).expect("a file");
            assert_eq!(read, "current");
        }
    }

    #[test]
    fn a_rotation_that_a_crash_cut_short_is_completed() {
        let directory = tempfile::tempdir().expect("a directory");
        let current = directory.path().join("Ball.log");
        for (path, text) in [
            (current.clone(), "current"),
            (kept(&current, 0), "moved"),
            (kept(&current, 1), "old"),
        ] {
            fs::write(path, text).expect("written");
        }
        rotate(&current).expect("rotated");
        assert!(!current.exists() && !kept(&current, 0).exists());
        check(&current, &[(1, "current"), (2, "moved"), (3, "old")]);
    }
}
