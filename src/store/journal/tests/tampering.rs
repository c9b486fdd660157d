//! Files that are deleted, moved or replaced while the journal is open, and a disk that is full from the
//! start.

use super::*;

/// A journal of a few records, what to do to it by hand, and whether records are gone by that.
fn tamper(act: impl FnOnce(&Folder), expected: &str) {
    let folder = Folder::new();
    let mut ever = small(&folder);
    let (mut journal, ..) = open(&folder);
    journal.set_windowed();
    journal.own(&[own(5)]).unwrap();
    ever.insert(own(5));
    assert_eq!(journal.watched().check(), None);
    act(&folder);
    let Some(Tampering::Records(text)) = journal.watched().check() else {
        panic!("not noticed: {expected}");
    };
    assert!(text.contains(expected), "{text}");
    journal.begin_anew().unwrap();
    assert_eq!(journal.watched().check(), None, "{expected}");
    journal.own(&[own(6)]).unwrap();
    ever.insert(own(6));
    // A crash before the compaction: what is gone is noticed.
    {
        let (_journal, recovered, ids) = open(&folder.copy());
        assert!(ids.contains(&own(6)) && ids.is_subset(&ever));
        assert!(!recovered.damage.is_empty(), "{expected}");
        assert!(recovered.vector.is_empty());
    }
    let second = Journal::open(&folder.0, Readers::Owner, |_| {});
    assert!(matches!(second, Err(JournalError::InUse(_))), "{second:?}");
    compact(&mut journal, &ever, &vector(&[own(6), foreign(3)]));
    assert_eq!(journal.watched().check(), None, "{expected}");
    drop(journal);
    let (_journal, recovered, ids) = open(&folder);
    assert!(ids == ever && recovered.damage.is_empty(), "{expected}");
    assert_eq!(recovered.vector, vector(&[own(6), foreign(3)]));
}

#[test]
fn files_that_are_deleted_moved_or_changed_are_noticed_and_written_again() {
    let file = |folder: &Folder| path(&folder.0, 1);
    tamper(
        |folder| fs::remove_file(file(folder)).unwrap(),
        "was deleted or moved",
    );
    tamper(
        |folder| fs::rename(file(folder), folder.0.join("elsewhere")).unwrap(),
        "was deleted or moved",
    );
    tamper(
        |folder| {
            fs::remove_file(file(folder)).unwrap();
            fs::write(file(folder), b"").unwrap();
        },
        "was replaced by another file",
    );
    tamper(
        |folder| {
            let other = Folder::new();
            let (mut journal, ..) = open(&other);
            journal.adopted(&[foreign(1)]).unwrap();
            drop(journal);
            fs::rename(file(&other), file(folder)).unwrap();
        },
        "was replaced by another file",
    );
    // As `cp` does.
    tamper(
        |folder| fs::write(file(folder), vec![b'x'; 1 << 20]).unwrap(),
        "was overwritten",
    );
    for kept in [0, 100, 300] {
        tamper(
            |folder| {
                let file = File::options().write(true).open(file(folder));
                file.unwrap().set_len(kept).unwrap();
            },
            "was cut short",
        );
    }
    tamper(
        |folder| {
            let file = File::options().write(true).open(file(folder)).unwrap();
            file.set_len(400).unwrap();
            file.set_len(1 << 20).unwrap();
        },
        "was overwritten with zeros",
    );
    tamper(
        |folder| fs::remove_dir_all(&folder.0).unwrap(),
        "was deleted or moved",
    );
    tamper(
        |folder| {
            fs::remove_dir_all(&folder.0).unwrap();
            fs::create_dir(&folder.0).unwrap();
        },
        "was deleted or moved",
    );
}

#[test]
fn a_folder_that_is_moved_away_cannot_be_opened_in_its_old_place() {
    let folder = Folder::new();
    let (journal, ..) = open(&folder);
    let moved = Folder::new();
    fs::rename(&folder.0, &moved.0).unwrap();
    let second = Journal::open(&folder.0, Readers::Owner, |_| {});
    assert!(matches!(second, Err(JournalError::InUse(_))), "{second:?}");
    // Nor in its new place.
    let second = Journal::open(&moved.0, Readers::Owner, |_| {});
    assert!(matches!(second, Err(JournalError::InUse(_))), "{second:?}");
    drop(journal);
    open(&folder);
    open(&moved);
}

#[test]
fn a_lock_or_a_note_that_is_deleted_is_made_again() {
    for name in ["journal.lock", "journal.end"] {
        let folder = Folder::new();
        let (mut journal, ..) = open(&folder);
        journal.own(&[own(1)]).unwrap();
        fs::remove_file(folder.0.join(name)).unwrap();
        let found = journal.watched().check();
        assert!(matches!(found, Some(Tampering::Lock(_))), "{found:?}");
        journal.restore_lock().unwrap();
        assert_eq!(journal.watched().check(), None);
        journal.own(&[own(2)]).unwrap();
        let second = Journal::open(&folder.0, Readers::Owner, |_| {});
        assert!(matches!(second, Err(JournalError::InUse(_))), "{second:?}");
        drop(journal);
        let (_journal, recovered, ids) = open(&folder);
        assert_eq!((ids.len(), recovered.damage.len()), (2, 0));
    }
}

#[test]
fn a_journal_that_cannot_be_begun_again_refuses_appends_until_it_can() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.own(&[own(1)]).unwrap();
    fs::remove_dir_all(&folder.0).unwrap();
    fs::write(&folder.0, b"in the way").unwrap();
    assert!(journal.watched().check().is_some());
    assert!(journal.begin_anew().is_err());
    assert!(journal.own(&[own(2)]).is_err());
    fs::remove_file(&folder.0).unwrap();
    journal.begin_anew().unwrap();
    journal.own(&[own(2)]).unwrap();
    let ever = BTreeSet::from([own(1), own(2)]);
    compact(&mut journal, &ever, &vector(&[own(2)]));
    drop(journal);
    let (_journal, recovered, ids) = open(&folder);
    assert!(ids == ever && recovered.damage.is_empty());
}

#[test]
fn reports_that_were_lost_before_they_were_written_are_counted_until_a_compaction() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.set_lazy();
    journal.own(&[own(1), own(2)]).unwrap();
    journal.adopted(&[foreign(1)]).unwrap();
    journal.writer.room = Some(0);
    journal.flush().unwrap_err();
    assert_eq!(journal.missing_own(), 2);
    // Reports that are written at once and refused are not missed.
    journal.own(&[own(3)]).unwrap();
    journal.flush_or_refuse(1).unwrap_err();
    assert_eq!(journal.missing_own(), 2);
    journal.writer.room = None;
    journal.own(&[own(4)]).unwrap();
    journal.flush_or_refuse(1).unwrap();
    assert_eq!(journal.missing_own(), 2);
    let live = BTreeSet::from([own(1), own(2), own(4), foreign(1)]);
    compact(&mut journal, &live, &Vector::default());
    assert_eq!(journal.missing_own(), 0);
    // Without gathering, a report that is not written is refused.
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.writer.room = Some(0);
    journal.own(&[own(1)]).unwrap_err();
    assert_eq!(journal.missing_own(), 0);
}

#[test]
fn an_epoch_that_could_not_be_appended_goes_before_the_first_record() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.writer.room = Some(0);
    journal.start_epoch(9).unwrap_err();
    journal.own(&[own(1)]).unwrap_err();
    journal.writer.room = None;
    journal.own(&[own(2)]).unwrap();
    let (_journal, recovered, ids) = open(&folder.copy());
    assert_eq!((recovered.epoch, ids), (9, BTreeSet::from([own(2)])));
}

/// Without windows an append would lengthen a file that was cut short over the gap, and hide it.
#[test]
fn an_append_behind_a_cut_is_refused_and_the_cut_is_noticed() {
    let folder = Folder::new();
    let mut ever = small(&folder);
    let (mut journal, ..) = open(&folder);
    journal.own(&[own(5)]).unwrap();
    ever.insert(own(5));
    let file = File::options().write(true).open(path(&folder.0, 1));
    file.unwrap().set_len(100).unwrap();
    journal.own(&[own(6)]).unwrap_err();
    assert!(matches!(
        journal.watched().check(),
        Some(Tampering::Records(_))
    ));
    journal.begin_anew().unwrap();
    journal.own(&[own(6)]).unwrap();
    ever.insert(own(6));
    compact(&mut journal, &ever, &vector(&[own(6), foreign(3)]));
    drop(journal);
    let (_journal, recovered, ids) = open(&folder);
    assert!(ids == ever && recovered.damage.is_empty());
}
