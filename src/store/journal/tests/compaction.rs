//! Compactions: a crash at any step, failures meanwhile, and the bound on the journal's size.

use super::*;

#[test]
fn a_crash_at_any_step_of_a_compaction_costs_nothing() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.start_epoch(7).unwrap();
    let mut ever: BTreeSet<Id> = (1..=3_000).map(own).collect();
    for &id in &ever {
        journal.own(&[id]).unwrap();
    }
    let mut sequence = 3_000;
    let steps = std::cell::Cell::new(0);
    let mut claims = vector(&[own(sequence)]);
    let check = |folder: &Folder, ever: &BTreeSet<Id>, claims: &Vector, files: usize| {
        let copy = folder.copy();
        let (_journal, recovered, ids) = open(&copy);
        assert!(ids == *ever, "{} of {}", ids.len(), ever.len());
        assert_eq!(&recovered.vector, claims);
        assert_eq!(recovered.epoch, 7);
        assert!(copy.names().len() <= files);
        steps.set(steps.get() + 1);
    };
    // The first is given up; the second is interrupted by a crash; the third succeeds.
    for round in 0..3 {
        let live = ever.clone();
        let mut compaction = journal.begin_compaction(&claims, live.len()).unwrap();
        let mut with = |act: &mut dyn FnMut(&mut Journal) -> Result<(), JournalError>| {
            check(&folder, &ever, &claims, 2);
            act(&mut journal)?;
            check(&folder, &ever, &claims, 2);
            sequence += 1;
            journal.own(&[own(sequence)])?;
            ever.insert(own(sequence));
            claims.advance(b"Ball", 7, sequence);
            check(&folder, &ever, &claims, 2);
            Ok(())
        };
        for (count, id) in live.iter().enumerate() {
            id.with(|view| compaction.push(view));
            if count % 1_200 == 0 {
                compaction.write(&mut with).unwrap();
            }
        }
        match round {
            0 => drop(compaction),
            1 => {
                drop(journal);
                (journal, ..) = open(&folder);
            }
            _ => {
                compaction.finish(&mut with).unwrap();
                retire_superfluous(&mut with).unwrap();
            }
        }
    }
    check(&folder, &ever, &claims, 1);
    assert!(steps.get() > 10, "{steps:?}");
    assert_eq!(folder.names(), BTreeSet::from(["journal-2.log".to_owned()]));
    // A crash between the last mark and the removal.
    drop(journal);
    let (mut journal, ..) = open(&folder);
    let before = fs::read(path(&folder.0, 2)).unwrap();
    compact(&mut journal, &ever, &claims);
    fs::write(path(&folder.0, 2), &before).unwrap();
    check(&folder, &ever, &claims, 1);
    // Without that file, and without the mark, the journal must not pass for whole.
    drop(journal);
    fs::remove_file(path(&folder.0, 2)).unwrap();
    let bytes = fs::read(path(&folder.0, 3)).unwrap();
    fs::write(path(&folder.0, 3), &bytes[..bytes.len() / 2]).unwrap();
    let (journal, recovered, _) = open(&folder);
    assert!(journal.is_frozen() && recovered.vector.is_empty());
    assert_eq!(
        recovered.damage[0].to_string(),
        format!("{} is missing", path(&folder.0, 2).display())
    );
}

#[test]
fn an_append_that_fails_meanwhile_interrupts_a_compaction() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    journal.own(&[own(1)]).unwrap();
    let claims = vector(&[own(1)]);
    let mut compaction = journal.begin_compaction(&claims, 1).unwrap();
    own(1).with(|view| compaction.push(view));
    journal.writer.room = Some(3);
    assert!(journal.own(&[own(2)]).is_err());
    journal.writer.room = None;
    let error = finish(compaction, &mut journal);
    assert!(matches!(error, Err(JournalError::Interrupted)));
    assert!(journal.is_frozen());
    compact(&mut journal, &BTreeSet::from([own(1)]), &claims);
    assert!(!journal.is_frozen());
    assert_eq!(folder.names().len(), 1);
}

#[test]
fn the_journal_stays_within_bounds() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    let live: BTreeSet<Id> = (1..=20_000).map(own).collect();
    let mut compactions = 0;
    let mut most = 0;
    for _ in 0..16 {
        for first in (0..20_000).step_by(500) {
            let ids: Vec<Id> = (first + 1..=first + 500).map(own).collect();
            journal.adopted(&ids).unwrap();
        }
        most = most.max(journal.bytes());
        if journal.wants_compaction(live.len()) {
            compact(&mut journal, &live, &Vector::default());
            compactions += 1;
            assert!(!journal.wants_compaction(live.len()));
        }
    }
    let live_bytes = journal.live_bytes(live.len());
    assert!(compactions > 2, "{compactions} compactions");
    assert!(most < SMALL_BYTES + 4 * live_bytes, "{most} bytes");
    drop(journal);
    let (journal, _, ids) = open(&folder);
    assert!(ids == live);
    assert_eq!(journal.bytes(), disk_bytes(&folder.0));
}

fn disk_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum()
}

#[test]
fn the_size_is_known_without_the_journal_whatever_becomes_of_its_files() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    let check = |journal: &Journal| {
        let on_disk = || {
            let names = folder.names().into_iter();
            let logs = names.filter(|name| name.ends_with(".log"));
            logs.map(|name| std::fs::metadata(folder.0.join(name)).unwrap().len())
        };
        let size = journal.syncer().size();
        assert_eq!(size, journal.bytes());
        assert_eq!(size, on_disk().sum::<u64>());
    };
    check(&journal);
    journal.start_epoch(7).unwrap();
    let live: Vec<_> = (1..=100).map(own).collect();
    journal.own(&live).unwrap();
    check(&journal);
    let appended = journal.syncer().appended_bytes();
    assert!(appended > 100 * 20, "{appended}");
    let claims = vector(&[own(100)]);
    let mut compaction = journal.begin_compaction(&claims, live.len()).unwrap();
    check(&journal);
    for id in &live {
        id.with(|view| compaction.push(view));
    }
    finish(compaction, &mut journal).unwrap();
    check(&journal);
    assert!(journal.syncer().appended_bytes() > appended);
    assert_eq!(
        journal.syncer().syncs().count(),
        3,
        "of the epoch, and two of the compaction"
    );
    journal.begin_anew().unwrap();
    assert_eq!(journal.syncer().size(), journal.bytes());
    drop(journal);
    let (journal, ..) = open(&folder);
    assert_eq!(journal.syncer().size(), journal.bytes());
}

/// It may hold what is to be forgotten.
#[test]
fn a_file_that_cannot_be_removed_is_removed_later() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    let live = BTreeSet::from([own(1), own(2)]);
    journal.own(&[own(1), own(2)]).unwrap();
    let (first, aside) = (path(&folder.0, 1), folder.0.join("aside"));
    // A folder in its place can't be unlinked, by root neither.
    fs::rename(&first, &aside).unwrap();
    fs::create_dir(&first).unwrap();
    let claims = vector(&[own(2)]);
    let mut compaction = journal.begin_compaction(&claims, live.len()).unwrap();
    for id in &live {
        id.with(|view| compaction.push(view));
    }
    compaction.finish(&mut |act| act(&mut journal)).unwrap();
    assert!(!journal.wants_compaction(live.len()));
    for _ in 0..2 {
        let error = retire_superfluous(&mut |act| act(&mut journal));
        assert!(matches!(error, Err(JournalError::Io { .. })), "{error:?}");
    }
    fs::remove_dir(&first).unwrap();
    fs::rename(&aside, &first).unwrap();
    retire_superfluous(&mut |act| act(&mut journal)).unwrap();
    assert_eq!(folder.names(), BTreeSet::from(["journal-2.log".to_owned()]));
    drop(journal);
    let (_journal, recovered, found) = open(&folder);
    assert_eq!((found, recovered.vector), (live, claims));
}
