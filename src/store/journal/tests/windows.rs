//! Appends through windows: present in the file at once, across the end of a window, on a full disk.

use super::*;

/// Opens a journal that uses windows, if the temporary folder's file system suits them.
fn windowed(folder: &Folder) -> Option<Journal> {
    let (mut journal, ..) = open(folder);
    journal.start_epoch(7).unwrap();
    journal.set_windowed();
    if !journal.writer.is_windowed() {
        let message = "skipped: the temporary folder's file system is not known to suit windows\n";
        std::io::stderr().write_all(message.as_bytes()).unwrap();
        return None;
    }
    Some(journal)
}

fn length(folder: &Folder, number: u64) -> u64 {
    fs::metadata(path(&folder.0, number)).unwrap().len()
}

#[test]
fn appends_across_windows_survive_a_crash_and_padding_is_no_torn_tail() {
    let folder = Folder::new();
    let Some(mut journal) = windowed(&folder) else {
        return;
    };
    let mut ever = BTreeSet::new();
    let mut crossed = 0;
    for group in 0..1_000 {
        let ids: Vec<Id> = (1..=16).map(|member| own(16 * group + member)).collect();
        let before = length(&folder, 1);
        journal.own(&ids).unwrap();
        ever.extend(ids);
        let after = length(&folder, 1);
        assert_eq!(after % WINDOW_BYTES, 0);
        if after == before {
            continue;
        }
        crossed += 1;
        let (_journal, recovered, found) = open(&folder.copy());
        assert!(found == ever, "{} of {}", found.len(), ever.len());
        assert_eq!((recovered.torn_bytes, recovered.damage.len()), (0, 0));
        assert_eq!(recovered.vector, vector(&[own(16 * group + 16)]));
    }
    assert!(crossed >= 4, "{crossed} windows");
    drop(journal);
    // A journal that is closed leaves no padding.
    let bytes = fs::read(path(&folder.0, 1)).unwrap();
    assert_ne!(bytes.last(), Some(&0));
    let (_journal, _, found) = open(&folder);
    assert!(found == ever);
}

#[test]
fn a_copy_that_a_crash_cut_short_is_a_torn_tail() {
    let folder = Folder::new();
    let Some(mut journal) = windowed(&folder) else {
        return;
    };
    for sequence in 1..=3 {
        journal.own(&[own(sequence)]).unwrap();
    }
    let end = journal.writer.end() as usize;
    let noted = fs::read(end_mark::path(&folder.0)).unwrap();
    let last = {
        let (copy, ..) = open(&folder.copy());
        journal.own(&[own(4)]).unwrap();
        assert_eq!(copy.writer.end() as usize, end);
        journal.writer.end() as usize
    };
    let whole = fs::read(path(&folder.0, 1)).unwrap();
    let copy = folder.copy();
    for cut in end..last {
        // Bytes not copied yet are zeros, in whatever order the others were copied.
        for keep in [end..cut, cut..last] {
            let mut bytes = whole.clone();
            bytes[end..last].fill(0);
            bytes[keep.clone()].copy_from_slice(&whole[keep.clone()]);
            let all = bytes[end..last] == whole[end..last];
            let none = bytes[end..last].iter().all(|&byte| byte == 0);
            fs::write(path(&copy.0, 1), &bytes).unwrap();
            fs::write(end_mark::path(&copy.0), &noted).unwrap();
            let (_journal, recovered, found) = open(&copy);
            assert_eq!(found.len(), if all { 4 } else { 3 }, "{keep:?}");
            assert!(recovered.damage.is_empty());
            assert_eq!(recovered.torn_bytes > 0, !all && !none, "{keep:?}");
        }
    }
}

#[test]
fn a_full_disk_refuses_when_the_window_is_used_up_and_windows_come_back_after_a_compaction() {
    let folder = Folder::new();
    let Some(mut journal) = windowed(&folder) else {
        return;
    };
    journal.own(&[own(1)]).unwrap();
    journal.writer.room = Some(0);
    let mut ever = BTreeSet::from([own(1)]);
    let mut sequence = 2;
    while journal.own(&[own(sequence)]).is_ok() {
        ever.insert(own(sequence));
        sequence += 1;
        assert!(sequence < 10_000, "a window has an end");
    }
    assert!(sequence > 1_000, "the window's room was there");
    assert!(journal.is_frozen());
    let (_journal, recovered, found) = open(&folder.copy());
    assert!(found == ever);
    assert_eq!((recovered.torn_bytes, recovered.damage.len()), (0, 0));

    journal.writer.room = None;
    journal.own(&[own(sequence)]).unwrap();
    ever.insert(own(sequence));
    assert!(!journal.writer.has_window(), "frozen");
    compact(&mut journal, &ever, &vector(&[own(sequence)]));
    journal.own(&[own(sequence + 1)]).unwrap();
    ever.insert(own(sequence + 1));
    assert!(journal.writer.has_window());
    let (_journal, recovered, found) = open(&folder.copy());
    assert!(found == ever);
    assert_eq!(recovered.vector, vector(&[own(sequence + 1)]));
}

#[test]
fn a_file_that_was_closed_for_the_next_one_has_no_padding() {
    let folder = Folder::new();
    let Some(mut journal) = windowed(&folder) else {
        return;
    };
    journal.own(&[own(1)]).unwrap();
    let end = journal.writer.end();
    let _compaction = journal.begin_compaction(&vector(&[own(1)]), 1).unwrap();
    assert_eq!(length(&folder, 1), end);
    journal.own(&[own(2)]).unwrap();
    assert_eq!(length(&folder, 2), WINDOW_BYTES);
    let (_journal, recovered, found) = open(&folder.copy());
    assert_eq!(found, BTreeSet::from([own(1), own(2)]));
    assert_eq!(recovered.damage.len(), 0);
}

#[test]
fn a_file_that_is_cut_short_under_an_append_refuses_it_and_is_left_by_the_next_compaction() {
    for kept in [0, 100, HEADER_BYTES + 50, 10_000] {
        let folder = Folder::new();
        let Some(mut journal) = windowed(&folder) else {
            return;
        };
        let mut ever: BTreeSet<Id> = (1..=200).map(own).collect();
        for &id in &ever {
            journal.own(&[id]).unwrap();
        }
        let file = File::options().write(true).open(path(&folder.0, 1));
        file.unwrap().set_len(kept).unwrap();
        // The page that the next append goes to may still be there.
        for sequence in 201..=400 {
            if journal.own(&[own(sequence)]).is_ok() {
                ever.insert(own(sequence));
            }
        }
        let found = journal.watched().check();
        assert!(matches!(found, Some(Tampering::Records(_))), "{found:?}");
        journal.begin_anew().unwrap();
        assert!(journal.is_frozen() && journal.watched().check().is_none());
        journal.own(&[own(401)]).unwrap();
        ever.insert(own(401));
        compact(&mut journal, &ever, &vector(&[own(401)]));
        let (_journal, recovered, ids) = open(&folder.copy());
        assert!(ids == ever && recovered.damage.is_empty(), "kept {kept}");
        assert!(folder.names().contains("journal-1.log.damaged"));
    }
}
