//! Fault tests of the journal: the most that a full disk, a failed sync or any sequence of steps
//! may cost. Damage, compactions and windows have files of their own.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod compaction;
mod damage;
mod layouts;
mod tampering;
mod windows;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::files::path;
use super::format::{FRAME_BYTES, HEADER_BYTES, Header, Seal};
use super::window::WINDOW_BYTES;
use super::writer::LAZY_BYTES;
use super::*;
use crate::model::time::Timestamp;

/// A folder that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("herd-journal-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Copies the folder as a crash at this moment would leave it.
    fn copy(&self) -> Folder {
        let copy = Folder::new();
        for name in self
            .names()
            .iter()
            .map(String::as_str)
            .chain(["journal.end"])
        {
            // The note of the end may not have been made yet.
            drop(fs::copy(self.0.join(name), copy.0.join(name)));
        }
        copy
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("journal-")).collect()
    }

    /// Removes the note of where the journal ends, as if an earlier version had written the folder.
    fn forget_end(&self) {
        fs::remove_file(end_mark::path(&self.0)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A record of the tests: all its fields follow from its origin, epoch and sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    origin: &'static str,
    epoch: u64,
    sequence: u64,
}

const fn own(sequence: u64) -> Id {
    Id {
        origin: "Ball",
        epoch: 7,
        sequence,
    }
}

const fn foreign(sequence: u64) -> Id {
    Id {
        origin: "Welsh",
        epoch: 3,
        sequence,
    }
}

impl Id {
    fn client(self) -> String {
        format!("{}-{}-{}", self.origin, self.epoch, self.sequence)
    }

    fn with<R>(self, look: impl FnOnce(&RecordView<'_>) -> R) -> R {
        let client = self.client();
        look(&RecordView {
            client: client.as_bytes(),
            location: b"+34.068930-118.445127",
            time_text: b"1479413884.392014450",
            time: Timestamp::from_nanos(self.sequence * 1_000),
            received: Timestamp::from_nanos(self.sequence * 1_001),
            origin: self.origin.as_bytes(),
            epoch: self.epoch,
            sequence: self.sequence,
        })
    }

    /// Returns which record this is, and checks that it is the same in every byte.
    #[track_caller]
    fn of(view: &RecordView<'_>) -> Id {
        let origins = ["Ball", "Welsh"];
        let id = Id {
            origin: origins
                .into_iter()
                .find(|origin| origin.as_bytes() == view.origin)
                .unwrap(),
            epoch: view.epoch,
            sequence: view.sequence,
        };
        id.with(|same| assert_eq!(view, same));
        id
    }
}

fn views<R>(ids: &[Id], look: impl FnOnce(&[RecordView<'_>]) -> R) -> R {
    let clients: Vec<String> = ids.iter().map(|id| id.client()).collect();
    let views: Vec<RecordView<'_>> = ids
        .iter()
        .zip(&clients)
        .map(|(id, client)| RecordView {
            client: client.as_bytes(),
            ..id.with(|view| RecordView {
                client: &[],
                origin: id.origin.as_bytes(),
                location: b"+34.068930-118.445127",
                time_text: b"1479413884.392014450",
                ..*view
            })
        })
        .collect();
    look(&views)
}

fn vector(ids: &[Id]) -> Vector {
    let mut vector = Vector::default();
    for id in ids {
        vector.advance(id.origin.as_bytes(), id.epoch, id.sequence);
    }
    vector
}

impl Journal {
    fn own(&mut self, ids: &[Id]) -> Result<(), JournalError> {
        views(ids, |views| self.append_own(views))
    }

    fn adopted(&mut self, ids: &[Id]) -> Result<(), JournalError> {
        views(ids, |views| self.append_adopted(views))
    }
}

/// Opens a journal and collects what is in it.
#[track_caller]
fn open(folder: &Folder) -> (Journal, Recovered, BTreeSet<Id>) {
    let mut ids = BTreeSet::new();
    let (journal, recovered) = Journal::open(&folder.0, Readers::Owner, |view| {
        ids.insert(Id::of(view));
    })
    .unwrap();
    (journal, recovered, ids)
}

/// Checks the claims on a disk: of all records ever appended, those that are covered are there.
#[track_caller]
fn check_claims(recovered: &Recovered, ids: &BTreeSet<Id>, ever: &BTreeSet<Id>) {
    assert!(ids.is_subset(ever), "records that were never appended");
    for id in ever {
        if recovered
            .vector
            .covers(id.origin.as_bytes(), id.epoch, id.sequence)
        {
            assert!(ids.contains(id), "{id:?} is claimed but missing");
        }
    }
}

/// Finishes a compaction, and removes the older files.
fn finish(compaction: Compaction, journal: &mut Journal) -> Result<(), JournalError> {
    compaction.finish(&mut |act| act(journal))?;
    retire_superfluous(&mut |act| act(journal))
}

/// Compacts in one go.
fn compact(journal: &mut Journal, live: &BTreeSet<Id>, claims: &Vector) {
    let mut compaction = journal.begin_compaction(claims, live.len()).unwrap();
    for id in live {
        id.with(|view| compaction.push(view));
        compaction.write(&mut |act| act(journal)).unwrap();
    }
    finish(compaction, journal).unwrap();
}

/// Writes a small journal with some of everything, and returns its records.
fn small(folder: &Folder) -> BTreeSet<Id> {
    let (mut journal, ..) = open(folder);
    journal.start_epoch(7).unwrap();
    journal.own(&[own(1)]).unwrap();
    journal.own(&[own(2), own(3)]).unwrap();
    journal.adopted(&[foreign(1), foreign(2)]).unwrap();
    journal.append_marker(&vector(&[foreign(2)])).unwrap();
    journal.adopted(&[foreign(3)]).unwrap();
    journal.own(&[own(4)]).unwrap();
    let foreign = (1..=3).map(foreign);
    (1..=4).map(own).chain(foreign).collect()
}

#[test]
fn everything_comes_back() {
    let folder = Folder::new();
    let ever = small(&folder);
    let (journal, recovered, ids) = open(&folder);
    assert_eq!(ids, ever);
    assert_eq!(recovered.vector, vector(&[own(4), foreign(2)]));
    assert_eq!((recovered.epoch, recovered.records), (7, 7));
    assert_eq!((recovered.torn_bytes, &recovered.damage[..]), (0, &[][..]));
    assert!(!journal.is_frozen());
    assert_eq!(
        folder.names().into_iter().collect::<Vec<_>>(),
        ["journal-1.log"]
    );
}

#[test]
fn a_group_larger_than_a_frame_is_still_one_append() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    let ids: Vec<Id> = (1..=2_000).map(own).collect();
    journal.own(&ids).unwrap();
    assert!(journal.bytes() > 2 * MAX_PAYLOAD_BYTES as u64);
    drop(journal);
    let (_journal, recovered, found) = open(&folder);
    assert_eq!(found, ids.into_iter().collect());
    assert_eq!(recovered.vector, vector(&[own(2_000)]));
}

#[test]
fn a_second_process_is_refused() {
    let folder = Folder::new();
    let (journal, ..) = open(&folder);
    let second = Journal::open(&folder.0, Readers::Owner, |_| {});
    assert!(matches!(second, Err(JournalError::InUse(_))), "{second:?}");
    drop(journal);
    open(&folder);
}

#[test]
fn a_full_disk_leaves_nothing_of_the_group_and_freezes_the_claims() {
    let ids: Vec<Id> = (2..=4).map(own).collect();
    let group = {
        let folder = Folder::new();
        let (mut journal, ..) = open(&folder);
        journal.own(&ids).unwrap();
        journal.writer.end() - HEADER_BYTES
    };
    for room in 0..group {
        let folder = Folder::new();
        let (mut journal, ..) = open(&folder);
        journal.own(&[own(1)]).unwrap();
        let position = journal.position();
        journal.writer.room = Some(room);
        assert!(matches!(journal.own(&ids), Err(JournalError::Io { .. })));
        assert_eq!(journal.position(), position);
        assert!(journal.is_frozen());
        {
            let (_journal, recovered, found) = open(&folder.copy());
            assert_eq!((recovered.torn_bytes, found.len()), (0, 1));
        }
        journal.writer.room = None;
        journal.own(&[own(5)]).unwrap();
        journal.append_marker(&vector(&[foreign(1)])).unwrap();
        let (_journal, recovered, found) = open(&folder.copy());
        assert_eq!(found, BTreeSet::from([own(1), own(5)]));
        assert_eq!(recovered.vector, vector(&[own(1)]));
        if room % 64 == 0 {
            compact(&mut journal, &found, &vector(&[own(5)]));
            assert!(!journal.is_frozen());
            journal.own(&[own(6)]).unwrap();
            drop(journal);
            let (_journal, recovered, found) = open(&folder);
            assert_eq!(found, BTreeSet::from([own(1), own(5), own(6)]));
            assert_eq!(recovered.vector, vector(&[own(6)]));
        }
    }
}

#[test]
fn lazy_appends_wait_for_a_flush_and_come_back_after_it() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.start_epoch(7).unwrap();
    journal.set_lazy();
    let before = journal.bytes();
    journal.own(&[own(1)]).unwrap();
    journal.adopted(&[foreign(1)]).unwrap();
    journal.append_marker(&vector(&[foreign(1)])).unwrap();
    assert!(journal.is_behind());
    assert_eq!(journal.bytes(), before);
    // A crash now leaves none of the records, and no claim to them.
    let (_journal, recovered, ids) = open(&folder.copy());
    assert!(ids.is_empty() && recovered.vector.is_empty());

    journal.flush().unwrap();
    assert!(!journal.is_behind());
    let (_journal, recovered, ids) = open(&folder.copy());
    assert_eq!(ids, BTreeSet::from([own(1), foreign(1)]));
    assert_eq!(recovered.vector, vector(&[own(1), foreign(1)]));
}

#[test]
fn lazy_appends_of_one_kind_share_a_frame() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.set_lazy();
    let mut gathered = |appends: &[&dyn Fn(&mut Journal)]| {
        let before = journal.bytes();
        for append in appends {
            append(&mut journal);
        }
        journal.flush().unwrap();
        journal.bytes() - before
    };
    let first = |journal: &mut Journal| journal.own(&[own(1)]).unwrap();
    let second = |journal: &mut Journal| journal.own(&[own(2)]).unwrap();
    let other = |journal: &mut Journal| journal.adopted(&[foreign(1)]).unwrap();
    let frame = FRAME_BYTES as u64;
    let one = gathered(&[&first]);
    assert_eq!(gathered(&[&first, &second]), 2 * one - frame);
    let another = gathered(&[&other]);
    assert_eq!(gathered(&[&first, &other, &second]), 2 * one + another);
    drop(journal);
    let (_journal, recovered, ids) = open(&folder);
    assert_eq!(ids, BTreeSet::from([own(1), own(2), foreign(1)]));
    assert_eq!(recovered.damage.len(), 0);
}

#[test]
fn lazy_appends_are_bounded() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.set_lazy();
    let ids: Vec<Id> = (1..=100).map(own).collect();
    let before = journal.bytes();
    for _ in 0..LAZY_BYTES {
        journal.own(&ids).unwrap();
        assert!(journal.writer.buffered_bytes() < LAZY_BYTES);
        if journal.bytes() > before {
            return;
        }
    }
    panic!("nothing was written");
}

#[test]
fn a_flush_that_fails_leaves_nothing_and_claims_nothing_more_until_a_compaction() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.set_lazy();
    journal.own(&[own(1)]).unwrap();
    journal.flush().unwrap();
    journal.own(&[own(2)]).unwrap();
    journal.writer.room = Some(30);
    journal.flush().unwrap_err();
    journal.writer.room = None;
    assert!(journal.is_frozen() && !journal.is_behind());
    journal.own(&[own(3)]).unwrap();
    journal.flush().unwrap();
    let (_journal, recovered, ids) = open(&folder.copy());
    assert_eq!(ids, BTreeSet::from([own(1), own(3)]));
    assert_eq!(recovered.vector, vector(&[own(1)]));

    let live = BTreeSet::from([own(1), own(2), own(3)]);
    compact(&mut journal, &live, &vector(&[own(3)]));
    drop(journal);
    let (_journal, recovered, ids) = open(&folder);
    assert_eq!(ids, live);
    assert_eq!(recovered.vector, vector(&[own(3)]));
}

/// Uses a separate file system that is really full, where this test may mount one.
#[test]
#[cfg(target_os = "linux")]
fn a_file_system_that_is_really_full_is_survived() {
    let folder = Folder::new();
    let mount = |arguments: &[&str]| {
        let path = folder.0.to_str().unwrap();
        let status = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(path)
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs"]) {
        let message = "skipped: mounting a small file system needs root\n";
        std::io::stderr().write_all(message.as_bytes()).unwrap();
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let (mut journal, ..) = open(&folder);
        let ballast = folder.0.join("ballast");
        fs::write(&ballast, vec![1; 500_000]).unwrap();
        let mut ever = BTreeSet::new();
        let mut next = 1;
        let mut fill = |journal: &mut Journal, ever: &mut BTreeSet<Id>, most: u64| {
            for _ in 0..most {
                let ids: Vec<Id> = (next..next + 16).map(own).collect();
                next += 16;
                if journal.own(&ids).is_err() {
                    return true;
                }
                ever.extend(ids);
            }
            false
        };
        assert!(fill(&mut journal, &mut ever, u64::MAX));
        let claimed = ever.last().copied().unwrap();
        let error = journal.begin_compaction(&Vector::default(), ever.len());
        assert!(matches!(error, Err(JournalError::NoRoom { .. })));
        fs::remove_file(&ballast).unwrap();
        assert!(!fill(&mut journal, &mut ever, 100));
        journal.syncer().sync().unwrap();
        drop(journal);
        let (_journal, recovered, ids) = open(&folder);
        assert_eq!((recovered.torn_bytes, recovered.damage.len()), (0, 0));
        assert!(ids == ever, "{} of {}", ids.len(), ever.len());
        assert_eq!(recovered.vector, vector(&[claimed]));
    });
    assert!(mount(&["umount"]));
    outcome.unwrap();
}

#[test]
fn a_failed_sync_is_final() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    let syncer = journal.syncer();
    journal.own(&[own(1)]).unwrap();
    let appended = journal.position();
    assert!(syncer.sync().unwrap() >= appended);
    journal.own(&[own(2)]).unwrap();
    assert!(journal.position() > appended);
    syncer.set_failing(true);
    assert!(matches!(syncer.sync(), Err(JournalError::Sync(_))));
    syncer.set_failing(false);
    assert!(matches!(syncer.sync(), Err(JournalError::Sync(_))));
    assert!(matches!(journal.start_epoch(9), Err(JournalError::Sync(_))));
}

/// One step of a journal's history.
#[derive(Clone, Debug)]
enum Step {
    Own(u64),
    Adopt(u64),
    /// A marker for all that the neighbor has sent but the last few.
    Marker(u64),
    Epoch,
    Fail,
    Compact,
    GiveUp,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..5u64).prop_map(Step::Own),
        4 => (1..5u64).prop_map(Step::Adopt),
        3 => (0..3u64).prop_map(Step::Marker),
        1 => Just(Step::Epoch),
        1 => Just(Step::Fail),
        1 => Just(Step::Compact),
        1 => Just(Step::GiveUp),
        2 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was done, and wherever the last file is cut or hit then: only records that were
    /// appended come back, and all that are claimed.
    #[test]
    fn what_is_claimed_is_there(
        steps in prop::collection::vec(step(), 1..30),
        cut in 0.0..1.0f64,
        hit in prop::option::of((0.0..1.0f64, 1..=255u8)),
        windowed in any::<bool>(),
    ) {
        let folder = Folder::new();
        let open = |folder: &Folder| {
            let (mut journal, recovered, ids) = open(folder);
            if windowed {
                journal.set_windowed();
            }
            (journal, recovered, ids)
        };
        let (mut journal, ..) = open(&folder);
        let mut ever = BTreeSet::new();
        let mut memory = Vector::default();
        let (mut numbered, mut sent) = (0, 0);
        for step in steps {
            match step {
                Step::Own(count) => {
                    let ids: Vec<Id> = (numbered + 1..=numbered + count).map(own).collect();
                    journal.own(&ids).unwrap();
                    numbered += count;
                    memory.merge(&vector(&ids));
                    ever.extend(ids);
                }
                Step::Adopt(count) => {
                    let ids: Vec<Id> = (sent + 1..=sent + count).map(foreign).collect();
                    journal.adopted(&ids).unwrap();
                    sent += count;
                    ever.extend(ids);
                }
                Step::Marker(behind) => {
                    let marker = vector(&[foreign(sent.saturating_sub(behind))]);
                    journal.append_marker(&marker).unwrap();
                    memory.merge(&marker);
                }
                Step::Epoch => journal.start_epoch(7).unwrap(),
                // The neighbor's record is in the cache but not in the journal.
                Step::Fail => {
                    // A window would have room.
                    journal.writer.close_window();
                    journal.writer.room = Some(30);
                    journal.adopted(&[foreign(sent + 1)]).unwrap_err();
                    journal.writer.room = None;
                    sent += 1;
                    ever.insert(foreign(sent));
                    prop_assert!(journal.is_frozen());
                }
                Step::Compact => compact(&mut journal, &ever, &memory),
                Step::GiveUp => {
                    let mut compaction = journal.begin_compaction(&memory, 1).unwrap();
                    for id in &ever {
                        id.with(|view| compaction.push(view));
                    }
                    compaction.write(&mut |act| act(&mut journal)).unwrap();
                }
                Step::Restart => {
                    drop(journal);
                    let (again, recovered, ids) = open(&folder);
                    check_claims(&recovered, &ids, &ever);
                    prop_assert!(recovered.damage.is_empty());
                    // The neighbor sends again what was not in the journal.
                    journal = again;
                    memory = recovered.vector;
                    let lost: Vec<Id> = ever.difference(&ids).copied().collect();
                    journal.adopted(&lost).unwrap();
                }
            }
        }
        let last = path(&folder.0, journal.files.newest.number);
        let end = journal.writer.end();
        // As a crash would leave it.
        let mut bytes = fs::read(&last).unwrap();
        drop(journal);
        bytes.truncate((end as f64 * cut) as usize + 1);
        if let Some((at, mask)) = hit {
            let at = (bytes.len() as f64 * at) as usize;
            bytes[at] ^= mask;
        }
        fs::write(&last, &bytes).unwrap();
        let (journal, recovered, ids) = open(&folder);
        check_claims(&recovered, &ids, &ever);
        prop_assert_eq!(journal.is_frozen(), !recovered.damage.is_empty());
        drop(journal);
        let (_journal, again, later) = open(&folder);
        prop_assert_eq!(later, ids);
        prop_assert_eq!(again.vector, recovered.vector);
    }
}
