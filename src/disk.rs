//! The rules for every file and folder that the server creates: who may read it, and how its name
//! survives a loss of power.
//!
//! Positions are personal data, so files are for their owner alone, or with `--group-readable` for
//! its group too. A mode is always passed when a file is created, so the umask narrows it further.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The users that may read the server's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readers {
    /// The owner: modes 600 and 700.
    #[default]
    Owner,
    /// The owner and its group: modes 640 and 750.
    Group,
}

impl Readers {
    /// Mode of files.
    fn file_mode(self) -> u32 {
        match self {
            Readers::Owner => 0o600,
            Readers::Group => 0o640,
        }
    }

    /// Mode of folders.
    fn folder_mode(self) -> u32 {
        match self {
            Readers::Owner => 0o700,
            Readers::Group => 0o750,
        }
    }

    /// Sets the mode of files that `options` creates.
    pub(crate) fn limit(self, options: &mut OpenOptions) -> &mut OpenOptions {
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(options, self.file_mode());
        options
    }

    /// Takes away permissions that a file or folder of an earlier version has beyond these. Returns
    /// its former mode if that was wider, and whether it could be changed.
    #[cfg(unix)]
    pub(crate) fn tighten(self, path: &Path) -> io::Result<Option<(u32, io::Result<()>)>> {
        use std::os::unix::fs::PermissionsExt;
        let found = fs::symlink_metadata(path)?;
        let allowed = if found.is_dir() {
            self.folder_mode()
        } else if found.is_file() {
            self.file_mode()
        } else {
            return Ok(None);
        };
        let mode = found.permissions().mode() & 0o777;
        if mode & !allowed == 0 {
            return Ok(None);
        }
        let changed = fs::set_permissions(path, fs::Permissions::from_mode(mode & allowed));
        Ok(Some((mode, changed)))
    }

    /// Other systems have no modes.
    #[cfg(not(unix))]
    pub(crate) fn tighten(self, _path: &Path) -> io::Result<Option<(u32, io::Result<()>)>> {
        Ok(None)
    }
}

/// Creates a folder and the missing ones above it, and brings their names to disk.
pub(crate) fn create_folder(path: &Path, readers: Readers) -> io::Result<()> {
    let missing = path.ancestors().take_while(|folder| !folder.exists());
    let missing: Vec<&Path> = missing
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    for folder in missing.into_iter().rev() {
        match create_one(folder, readers) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        sync_folder(parent(folder))?;
    }
    // Not a folder, or a link to nowhere.
    match fs::metadata(path)?.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}

#[cfg(unix)]
fn create_one(path: &Path, readers: Readers) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .mode(readers.folder_mode())
        .create(path)
}

#[cfg(not(unix))]
fn create_one(path: &Path, _readers: Readers) -> io::Result<()> {
    fs::create_dir(path)
}

/// Brings the names in a folder to disk.
///
/// File systems that can't sync a folder answer EINVAL or EOPNOTSUPP: they store names with the
/// files, or make no promise at all. A folder that may be used but not read can't be synced either.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    // Other systems can't open a folder.
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(path).and_then(|folder| folder.sync_all()) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// Returns whether waiting may help: the disk, a quota or the limit on the size of files is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Returns the folder that a path is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Returns the path that a chain of symbolic links ends at, whether or not there is a file.
pub(crate) fn link_target(path: &Path) -> PathBuf {
    /// As many as Linux follows.
    const MAX_LINKS: usize = 40;
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            // A relative link is relative to the folder that it is in.
            Ok(next) => target = target.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => break,
        }
    }
    target
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o777
    }

    #[test]
    fn new_folders_and_files_are_for_their_readers_only() {
        for (readers, folder_mode, file_mode) in [
            (Readers::Owner, 0o700, 0o600),
            (Readers::Group, 0o750, 0o640),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let folder = directory.path().join("data").join("Ball");
            create_folder(&folder, readers).expect("created");
            create_folder(&folder, readers).expect("exists");
            let file = folder.join("file");
            let mut options = OpenOptions::new();
            let options = readers.limit(options.write(true).create_new(true));
            options.open(&file).expect("created");
            for (path, most) in [
                (directory.path().join("data"), folder_mode),
                (folder, folder_mode),
                (file.clone(), file_mode),
            ] {
                assert_eq!(mode(&path) & !most, 0, "{}", path.display());
            }
            fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).expect("changed");
            let (before, changed) = readers.tighten(&file).expect("a file").expect("wider");
            changed.expect("changed");
            assert_eq!((before, mode(&file)), (0o664, file_mode));
            assert!(readers.tighten(&file).expect("a file").is_none());
        }
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("data");
        fs::write(&path, "x").expect("written");
        assert!(create_folder(&path, Readers::Owner).is_err());
        assert!(create_folder(&path.join("Ball"), Readers::Owner).is_err());
    }

    #[test]
    fn links_are_followed_to_a_missing_target() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name| directory.path().join(name);
        std::os::unix::fs::symlink("second", at("first")).expect("a link");
        std::os::unix::fs::symlink(at("secret"), at("second")).expect("a link");
        assert_eq!(link_target(&at("first")), at("secret"));
        assert_eq!(link_target(&at("plain")), at("plain"));
    }
}
