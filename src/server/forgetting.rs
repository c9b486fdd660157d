//! The age at which records are forgotten, over starts and reloads: it may become shorter at any time,
//! and longer only on demand.
//!
//! A longer age could bring back what was forgotten: a server that was away meanwhile holds records
//! whose tombstones have expired everywhere else. So the value that was last in force is kept in the
//! data folder, and written before a new one is used.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{info, warn};

use crate::disk::parent;
use crate::logging::EVENT;
use crate::model::age;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::store::journal::JournalError;

/// Name of the file in the server's data folder: one line, the age in seconds or `never`.
const FILE: &str = "forget-after";

/// Why an age can't be adopted.
#[derive(Debug)]
pub enum ForgetAfterError {
    /// It is longer than the one that was last in force: that one, and the new one.
    Longer(Option<Duration>, Option<Duration>),
    /// The file that keeps the age is damaged or can't be read.
    Unreadable(PathBuf, String),
    /// The file that keeps the age can't be written.
    Unwritable(PathBuf, io::Error),
    /// The journal can't take its claims back.
    Journal(JournalError),
}

impl fmt::Display for ForgetAfterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForgetAfterError::Longer(old, new) => {
                let (old, new) = (age::in_words(*old), age::in_words(*new));
                write!(
                    f,
                    "servers.txt has forget-after {new}, and it was {old}: a longer one could bring back what was \
                     forgotten. With all servers up and equal by herd status, restart each of them once with \
                     --lengthen-forget-after"
                )
            }
            ForgetAfterError::Unreadable(path, reason) => write!(
                f,
                "{}, which keeps the last forget-after: {reason}. Write the age there, such as 86400s, or start \
                 the server with an empty data folder",
                path.display()
            ),
            ForgetAfterError::Unwritable(path, error) => {
                write!(f, "cannot write {}: {error}", path.display())
            }
            ForgetAfterError::Journal(error) => write!(f, "{error}"),
        }
    }
}

// No `source`: the text contains the cause.
impl std::error::Error for ForgetAfterError {}

/// The age in force, and where it is kept.
#[derive(Debug)]
pub(super) struct ForgetAfter {
    /// `None` if nothing is to survive the process.
    path: Option<PathBuf>,
    age: Option<Duration>,
}

/// An age that may be adopted.
#[derive(Debug)]
pub(super) struct Judged {
    path: Option<PathBuf>,
    age: Option<Duration>,
    /// The file has another age.
    is_new: bool,
    /// The age that was in force before, if it was shorter.
    shorter: Option<Duration>,
}

impl ForgetAfter {
    /// Judges the age of a start by the one that was last in force in that data folder. Changes
    /// nothing.
    pub(super) fn judge_start(
        folder: Option<&Path>,
        wanted: Option<Duration>,
        may_lengthen: bool,
    ) -> Result<Judged, ForgetAfterError> {
        let path = folder.map(|folder| folder.join(FILE));
        // Without a file it was a server of before, which forgot nothing.
        let kept = path.as_deref().map_or(Ok(None), read)?;
        let is_longer = age::is_longer(wanted, kept);
        if is_longer && !may_lengthen {
            return Err(ForgetAfterError::Longer(kept, wanted));
        }
        Ok(Judged {
            path,
            age: wanted,
            is_new: wanted != kept,
            shorter: kept.filter(|_| is_longer),
        })
    }

    /// Judges the age of a reload.
    pub(super) fn judge_reload(
        &self,
        wanted: Option<Duration>,
    ) -> Result<Judged, ForgetAfterError> {
        match age::is_longer(wanted, self.age) {
            true => Err(ForgetAfterError::Longer(self.age, wanted)),
            false => Ok(Judged {
                path: self.path.clone(),
                age: wanted,
                is_new: wanted != self.age,
                shorter: None,
            }),
        }
    }
}

impl Judged {
    /// Puts the age in force. An error means that nothing has changed, but for a vector that claims
    /// less.
    pub(super) fn adopt(
        self,
        replica: &Replica,
        has_neighbors: bool,
        now: Timestamp,
    ) -> Result<ForgetAfter, ForgetAfterError> {
        let Judged {
            path,
            age,
            is_new,
            shorter,
        } = self;
        // Before the age is longer: an end in between leaves a server that must be told again.
        if let Some(shorter) = shorter {
            let dropped = replica.lose_claims(shorter, has_neighbors, now);
            let dropped = dropped.map_err(ForgetAfterError::Journal)?;
            warn!(
                target: EVENT,
                "records are forgotten later from now on, after {} instead of {}: {dropped} that had expired are \
                 dropped, and the neighbors are asked for all of theirs",
                age::in_words(age),
                age::in_words(Some(shorter))
            );
        }
        if let Some(path) = &path
            && is_new
        {
            let written = write(path, age);
            written.map_err(|error| ForgetAfterError::Unwritable(path.clone(), error))?;
        }
        replica.set_forget_after(age);
        if let Some(age) = age.filter(|_| is_new && shorter.is_none()) {
            info!(target: EVENT, "records are forgotten after {} from now on", age::in_words(Some(age)));
        }
        Ok(ForgetAfter { path, age })
    }
}

/// Reads the age that was last in force: never, if there is no such file.
fn read(path: &Path) -> Result<Option<Duration>, ForgetAfterError> {
    let unreadable = |reason| ForgetAfterError::Unreadable(path.to_owned(), reason);
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    match text.strip_suffix('\n') {
        Some("never") => Ok(None),
        Some(text) => match age::parse(text) {
            Ok(age) => Ok(Some(age)),
            Err(reason) => Err(unreadable(format!("{text:?} {reason}"))),
        },
        None => Err(unreadable("it is cut off".to_owned())),
    }
}

/// Writes the age to disk, so that a loss of power leaves the old one or the new.
fn write(path: &Path, age: Option<Duration>) -> io::Result<()> {
    let folder = parent(path);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    match age {
        Some(age) => writeln!(file, "{}s", age.as_secs())?,
        None => writeln!(file, "never")?,
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Option<Duration> = Some(Duration::from_secs(3_600));
    const NOW: Timestamp = Timestamp::from_nanos(1_479_413_884_000_000_000);
    const DAY: Option<Duration> = Some(Duration::from_secs(86_400));

    fn replica() -> Replica {
        let replica = Replica::new("Ball", 7, 10);
        let mut held = crate::model::vector::Vector::default();
        held.advance(b"Welsh", 1, 5);
        replica.advance(&held);
        replica
    }

    #[test]
    fn a_start_remembers_the_age_and_lengthens_it_on_demand_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path());
        // Age, whether it may be longer, whether it is taken, whether the vector stays.
        for (age, may_lengthen, is_taken, is_kept) in [
            (None, false, true, true),
            (DAY, false, true, true),
            (DAY, false, true, true),
            (HOUR, true, true, true),
            (DAY, false, false, true),
            (None, false, false, true),
            (HOUR, false, true, true),
            (DAY, true, true, false),
            (DAY, true, true, true),
            (None, true, true, false),
            (None, false, true, true),
            (HOUR, false, true, true),
        ] {
            let replica = replica();
            let judged = ForgetAfter::judge_start(path, age, may_lengthen);
            assert_eq!(judged.is_ok(), is_taken, "{age:?}");
            if let Ok(judged) = judged {
                judged.adopt(&replica, true, NOW).unwrap();
                assert_eq!(replica.forget_after(), age);
            }
            assert_eq!(replica.vector().covers(b"Welsh", 1, 5), is_kept, "{age:?}");
        }
        // Without a folder a start has no memory.
        for age in [HOUR, None, DAY] {
            let judged = ForgetAfter::judge_start(None, age, false).unwrap();
            judged.adopt(&replica(), true, NOW).unwrap();
        }
    }

    #[test]
    fn a_reload_shortens_and_is_remembered_by_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path());
        let replica = replica();
        let start = ForgetAfter::judge_start(path, None, false).unwrap();
        let first = start.adopt(&replica, true, NOW).unwrap();
        let judged = first.judge_reload(HOUR).unwrap();
        let kept = judged.adopt(&replica, true, NOW).unwrap();
        assert_eq!(replica.forget_after(), HOUR);
        for longer in [DAY, None] {
            let error = kept.judge_reload(longer).unwrap_err().to_string();
            assert!(error.contains("--lengthen-forget-after"), "{error}");
            ForgetAfter::judge_start(path, longer, false).unwrap_err();
        }
        assert_eq!(replica.forget_after(), HOUR);
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert_eq!(text, "3600s\n");
    }

    #[test]
    fn a_damaged_file_refuses_a_start_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        for damaged in ["", "3600s", "3600\n", "x\n"] {
            fs::write(&file, damaged).unwrap();
            let error = ForgetAfter::judge_start(Some(folder.path()), HOUR, false);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("empty data folder"), "{error}");
            ForgetAfter::judge_start(Some(folder.path()), HOUR, true).unwrap_err();
        }
    }
}
