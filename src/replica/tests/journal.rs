//! Forgetting in the journal: what a compaction leaves out, when one is due, and what comes back.

use std::fs;
use std::path::Path;

use super::*;
use crate::config::Ack;
use crate::disk::Readers;
use crate::store::journal::{Journal, JournalError};

const DAY: Duration = Duration::from_secs(86_400);

fn after(time: Timestamp, span: Duration) -> Timestamp {
    Timestamp::from_nanos(time.as_nanos() + span.as_nanos() as u64)
}

/// Opens a replica of the next epoch on a folder.
fn open(folder: &Path) -> Replica {
    let mut replica = Replica::new("Ball", 1, 100);
    let mut forgotten = None;
    let (mut journal, recovered) = Journal::open(folder, Readers::Owner, |record| {
        if replica.restore(record) {
            forgotten = Some(forgotten.unwrap_or(record.received).min(record.received));
        }
    })
    .expect("a journal");
    assert_eq!(recovered.damage, []);
    replica.restore_vector(&recovered.vector);
    replica.epoch = recovered.epoch + 1;
    journal.start_epoch(replica.epoch).expect("an epoch");
    replica.attach(journal, Ack::Journal, None, DAY, forgotten);
    replica
}

/// Returns whether any file of the journal has these bytes.
fn is_on_disk(folder: &Path, bytes: &str) -> bool {
    let files = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    files.into_iter().any(|path| {
        let held = fs::read(path).expect("a file");
        held.windows(bytes.len())
            .any(|window| window == bytes.as_bytes())
    })
}

fn journals(folder: &Path) -> usize {
    let names = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("journal-"))
        .count()
}

#[test]
fn what_was_forgotten_is_gone_from_the_journal_in_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let replica = open(folder);
    let others = ["IAMAT b +22.2-22.2 10", "IAMAT a +11.1-11.1 10"];
    check_report(&replica, &others, &[Outcome::Stored; 2]);
    // Of two windows, a large one and a small one: in the newer location's file both were.
    check_report(&replica, &["IAMAT a +33.3-33.3 11"], &[Outcome::Stored]);
    assert!(matches!(
        replica.compact_journal(after(NOW, 9 * DAY)),
        Ok(false)
    ));
    let (outcome, _) = replica.forget(b"a", NOW);
    assert_eq!(outcome, ForgetOutcome::Forgotten(NOW));
    let old = ["+11.1-11.1", "+33.3-33.3"];
    assert!(old.iter().all(|location| is_on_disk(folder, location)));
    let early = after(NOW, DAY - Duration::from_secs(1));
    assert!(matches!(replica.compact_journal(early), Ok(false)));
    assert!(matches!(replica.compact_journal(after(NOW, DAY)), Ok(true)));
    assert!(!old.iter().any(|location| is_on_disk(folder, location)));
    assert!(is_on_disk(folder, "+22.2-22.2"));
    assert_eq!(journals(folder), 1);
    // Once is enough.
    assert!(matches!(
        replica.compact_journal(after(NOW, 9 * DAY)),
        Ok(false)
    ));
    drop(replica);
    let replica = open(folder);
    assert_eq!((replica.clients(), replica.tombstones()), (1, 1));
    check_report(&replica, &["IAMAT a +1+1 1000"], &[Outcome::Forgotten(NOW)]);
    check_stored(&replica, "b", Some("+22.2-22.2"));
    assert!(matches!(
        replica.compact_journal(after(NOW, 9 * DAY)),
        Ok(false)
    ));
}

#[test]
fn no_clock_that_led_puts_off_what_is_due() {
    let ahead = after(NOW, Duration::from_secs(290));
    // A device whose clock leads, and a server whose clock is set back by a year.
    for (report, forgotten_at) in [
        ("IAMAT a +11.1-11.1 1290", NOW),
        ("IAMAT a +11.1-11.1 10", after(NOW, 365 * DAY)),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let replica = open(folder);
        check_report(&replica, &[report], &[Outcome::Stored]);
        let (outcome, _) = replica.forget(b"a", forgotten_at);
        assert!(matches!(outcome, ForgetOutcome::Forgotten(time) if time > ahead));
        assert!(matches!(replica.compact_journal(NOW), Ok(false)));
        assert!(matches!(replica.compact_journal(after(NOW, DAY)), Ok(true)));
        assert!(!is_on_disk(folder, "+11.1-11.1"));
    }
}

#[test]
fn a_restart_does_not_put_off_what_is_due() {
    for revived in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let replica = open(folder);
        check_report(&replica, &["IAMAT a +11.1-11.1 10"], &[Outcome::Stored]);
        replica.forget(b"a", NOW);
        if revived {
            check_report(&replica, &["IAMAT a +44.4-44.4 1001"], &[Outcome::Stored]);
        }
        drop(replica);
        let replica = open(folder);
        let early = after(NOW, DAY - Duration::from_secs(1));
        assert!(matches!(replica.compact_journal(early), Ok(false)));
        assert!(matches!(replica.compact_journal(after(NOW, DAY)), Ok(true)));
        assert!(!is_on_disk(folder, "+11.1-11.1"));
        assert_eq!(is_on_disk(folder, "+44.4-44.4"), revived);
    }
}

#[test]
fn a_batch_with_a_location_behind_its_tombstone_is_forgotten_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let replica = open(folder);
    let (link, _outlet) = replica.add_link();
    let lines = [
        "TOMBSTONE Welsh 1 2 1000000000000 a",
        "RECORD Welsh 1 1 999000000000 a +11.1-11.1 10",
    ];
    let records = lines.map(|line| RecordView::parse_line(line.as_bytes()).expect("a record"));
    replica.adopt(&records, first(link), NOW);
    assert_eq!((replica.clients(), replica.tombstones()), (0, 1));
    if is_on_disk(folder, "+11.1-11.1") {
        assert!(matches!(replica.compact_journal(after(NOW, DAY)), Ok(true)));
    }
    assert!(!is_on_disk(folder, "+11.1-11.1"));
}

/// The compaction goes on in the file of one that was under way when the process died; that file has
/// the location too.
#[test]
fn a_compaction_in_a_file_that_has_the_location_is_followed_by_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let replica = open(folder);
    check_report(&replica, &["IAMAT b +22.2-22.2 10"], &[Outcome::Stored]);
    {
        let apply = &mut *replica.apply.lock();
        let journal = &mut apply.durable.as_mut().expect("a journal").journal;
        drop(
            journal
                .begin_compaction(&Vector::default(), 1)
                .expect("room"),
        );
    }
    check_report(&replica, &["IAMAT a +11.1-11.1 10"], &[Outcome::Stored]);
    replica.forget(b"a", NOW);
    assert_eq!(journals(folder), 2);
    let due = after(NOW, DAY);
    assert!(matches!(replica.compact_journal(due), Ok(true)));
    assert!(
        is_on_disk(folder, "+11.1-11.1"),
        "it was in the newest file"
    );
    assert!(matches!(replica.compact_journal(due), Ok(true)));
    assert!(!is_on_disk(folder, "+11.1-11.1"));
    assert!(matches!(replica.compact_journal(due), Ok(false)));
}

#[test]
fn the_dead_leave_the_journal_only_while_the_clock_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let replica = open(folder);
    let reports = ["IAMAT a +11.1-11.1 10", "IAMAT b +22.2-22.2 990"];
    check_report(&replica, &reports, &[Outcome::Stored; 2]);
    replica.forget(b"c", Timestamp::from_nanos(5_000_000_000));
    replica.set_forget_after(Some(Duration::from_secs(100)));
    let compact = |replica: &Replica, now| {
        let apply = &mut *replica.apply.lock();
        let durable = apply.durable.as_mut().expect("a journal");
        durable.note_forgotten(Timestamp::from_nanos(0));
        now
    };
    let now = after(NOW, DAY);
    assert!(matches!(
        replica.compact_journal(compact(&replica, now)),
        Ok(true)
    ));
    drop(replica);
    // All of them are dead by then, and come back: deadness is judged later.
    let replica = open(folder);
    assert_eq!((replica.clients(), replica.tombstones()), (2, 1));
    replica.set_forget_after(Some(Duration::from_secs(100)));
    replica.trust_clock(Timestamp::from_nanos(u64::MAX));
    assert_eq!(replica.drop_dead(NOW, || true), 2);
    assert!(is_on_disk(folder, "+11.1-11.1"));
    // Expired records are due as forgotten ones are: from their death, at 110 s.
    let due = Timestamp::from_nanos(110_000_000_000 - 5_000_000_000);
    assert!(matches!(
        replica.compact_journal(after(due, DAY - Duration::from_secs(1))),
        Ok(false)
    ));
    replica.set_forget_after(None);
    assert!(matches!(replica.compact_journal(after(due, DAY)), Ok(true)));
    assert!(!is_on_disk(folder, "+11.1-11.1"));
    check_stored(&replica, "b", Some("+22.2-22.2"));
    drop(replica);
    let replica = open(folder);
    assert_eq!((replica.clients(), replica.tombstones()), (1, 0));
    // Not yet dropped from memory, but so long dead that a compaction leaves it out.
    replica.set_forget_after(Some(Duration::from_secs(100)));
    replica.trust_clock(Timestamp::from_nanos(u64::MAX));
    assert!(matches!(
        replica.compact_journal(compact(&replica, now)),
        Ok(true)
    ));
    drop(replica);
    assert!(open(folder).is_empty());
}

#[test]
fn a_tombstone_that_cannot_be_appended_is_not_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = open(folder.path());
    check_report(&replica, &["IAMAT a +11.1-11.1 10"], &[Outcome::Stored]);
    let with_room = |room| {
        let apply = &mut *replica.apply.lock();
        let journal = &mut apply.durable.as_mut().expect("a journal").journal;
        journal.set_room(room);
    };
    with_room(Some(0));
    assert_eq!(replica.forget(b"a", NOW), (ForgetOutcome::Unwritable, None));
    check_stored(&replica, "a", Some("+11.1-11.1"));
    assert_eq!(replica.tombstones(), 0);
    with_room(None);
    assert_eq!(replica.forget(b"a", NOW).0, ForgetOutcome::Forgotten(NOW));
    check_stored(&replica, "a", None);
}

#[test]
fn a_void_vector_is_void_after_a_crash_too() -> Result<(), JournalError> {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let replica = open(folder);
    check_report(&replica, &["IAMAT a +11.1-11.1 10"], &[Outcome::Stored]);
    let mut marker = Vector::default();
    marker.advance(b"Welsh", 7, 9);
    replica.advance(&marker);
    drop(replica);
    let replica = open(folder);
    assert!(replica.vector().covers(b"Welsh", 7, 9) && replica.vector().covers(b"Ball", 1, 1));
    replica.void_vector()?;
    assert!(replica.vector().is_empty());
    // The first of the numbers of this start is the first claim.
    check_report(&replica, &["IAMAT b +22.2-22.2 10"], &[Outcome::Stored]);
    drop(replica);
    let replica = open(folder);
    let covers = |replica: &Replica| {
        let vector = replica.vector();
        [
            vector.covers(b"Welsh", 7, 9),
            vector.covers(b"Ball", 1, 1),
            vector.covers(b"Ball", 2, 1),
        ]
    };
    assert_eq!(covers(&replica), [false, false, true]);
    assert_eq!(replica.clients(), 2);
    // A neighbor's marker is appended again, though the journal had it once.
    replica.advance(&marker);
    drop(replica);
    let replica = open(folder);
    assert_eq!(covers(&replica), [true, false, true]);
    Ok(())
}

#[test]
fn what_had_expired_does_not_come_back_with_a_longer_age() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let replica = open(folder);
    // At 1,000 s, with an age of 100 s: long dead, just dead, about to be, and alive.
    let reports = [
        "IAMAT a +11.1-11.1 10",
        "IAMAT b +22.2-22.2 899",
        "IAMAT c +33.3-33.3 1019",
        "IAMAT d +44.4-44.4 1021",
    ];
    let all_stored = [Outcome::Stored; 4];
    check_report(&replica, &reports, &all_stored);
    // Tombstones stay for longer.
    for time in [770, 800, 950] {
        let id = time.to_string();
        replica.forget(id.as_bytes(), Timestamp::from_nanos(time * 1_000_000_000));
    }
    // As a server was that dropped the first from memory alone.
    replica.set_forget_after(Some(Duration::from_secs(100)));
    replica.trust_clock(Timestamp::from_nanos(u64::MAX));
    assert_eq!(replica.drop_dead(NOW, || true), 2);
    drop(replica);
    for (drops, kept) in [(false, 7), (true, 3)] {
        let replica = open(folder);
        assert!(replica.vector().covers(b"Ball", 1, 7));
        let age = Duration::from_secs(100);
        let dropped = replica.lose_claims(age, drops, NOW).expect("a journal");
        assert_eq!((dropped, replica.len()), (7 - kept, kept));
        assert!(replica.vector().is_empty());
        drop(replica);
        let replica = open(folder);
        assert_eq!(replica.len(), kept);
        assert!(!replica.vector().covers(b"Ball", 1, 7));
        check_stored(&replica, "d", Some("+44.4-44.4"));
        // The claims of a later start count again.
        if !drops {
            let mut held = Vector::default();
            held.advance(b"Ball", 1, 7);
            replica.advance(&held);
        }
    }
    for gone in ["+11.1-11.1", "+22.2-22.2", "+33.3-33.3"] {
        assert!(!is_on_disk(folder, gone), "{gone}");
    }
}
