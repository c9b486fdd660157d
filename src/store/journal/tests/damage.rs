//! Truncated, changed and lost files: readable records are kept, and no missing record is claimed.

use super::*;

#[test]
fn a_tail_torn_at_any_byte_leaves_a_prefix_that_keeps_its_claims() {
    let folder = Folder::new();
    let ever = small(&folder);
    let bytes = fs::read(path(&folder.0, 1)).unwrap();
    let mut most = 0;
    for length in 0..=bytes.len() {
        fs::write(path(&folder.0, 1), &bytes[..length]).unwrap();
        let (mut journal, recovered, ids) = open(&folder);
        check_claims(&recovered, &ids, &ever);
        assert!(recovered.damage.is_empty() && !journal.is_frozen());
        assert!(ids.len() >= most, "a longer prefix holds more");
        most = ids.len();
        // The journal goes on from there, and nothing of the tail comes back.
        journal.own(&[own(50)]).unwrap();
        drop(journal);
        let (_journal, again, later) = open(&folder);
        assert_eq!((again.torn_bytes, later.len()), (0, ids.len() + 1));
        drop(_journal);
        fs::remove_file(path(&folder.0, 1)).unwrap();
    }
    assert_eq!(most, ever.len());
}

#[test]
fn a_flipped_byte_anywhere_is_noticed_and_never_makes_a_record() {
    let folder = Folder::new();
    let ever = small(&folder);
    let bytes = fs::read(path(&folder.0, 1)).unwrap();
    for at in 0..bytes.len() {
        for mask in [0x01, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] ^= mask;
            fs::write(path(&folder.0, 1), &flipped).unwrap();
            let (journal, recovered, ids) = open(&folder);
            check_claims(&recovered, &ids, &ever);
            // At most the frame that was hit is lost: two records.
            assert!(ids.len() >= ever.len() - 2, "byte {at}");
            assert_eq!(journal.is_frozen(), !recovered.damage.is_empty());
            if (at as u64) < HEADER_BYTES {
                // The other copy is used.
                assert_eq!((ids.len(), recovered.damage.len()), (7, 0));
            } else {
                assert!(recovered.torn_bytes > 0 || recovered.vector.is_empty());
                let left_out = recovered.torn_bytes + recovered.damage.len() as u64;
                assert!(left_out > 0, "byte {at}");
            }
            drop(journal);
            for name in folder.names() {
                fs::remove_file(folder.0.join(name)).unwrap();
            }
        }
    }
}

#[test]
fn a_damaged_journal_is_kept_and_claims_nothing_until_it_is_compacted() {
    let folder = Folder::new();
    let ever = small(&folder);
    let mut bytes = fs::read(path(&folder.0, 1)).unwrap();
    let at = HEADER_BYTES as usize + 100;
    bytes[at] ^= 1;
    fs::write(path(&folder.0, 1), &bytes).unwrap();

    let (mut journal, recovered, mut ids) = open(&folder);
    assert_eq!(recovered.damage.len(), 1);
    let damage = &recovered.damage[0];
    assert!(damage.offset <= at as u64 && at as u64 <= damage.offset + damage.bytes);
    assert_eq!(
        damage.to_string(),
        format!(
            "{}: {} bytes from byte {} on are damaged or missing",
            path(&folder.0, 1).display(),
            damage.bytes,
            damage.offset
        )
    );
    assert!(recovered.vector.is_empty() && journal.is_frozen());
    assert!(journal.wants_compaction(ids.len()));
    assert_eq!(recovered.epoch, 7);
    journal.own(&[own(9)]).unwrap();
    journal.append_marker(&vector(&[foreign(3)])).unwrap();
    ids.insert(own(9));
    drop(journal);

    // Opening it has changed nothing.
    let (mut journal, recovered, again) = open(&folder);
    assert_eq!(again, ids);
    assert!(recovered.vector.is_empty() && recovered.damage.len() == 1);
    // The neighbors have sent again what was missing.
    let mut whole = ever.clone();
    whole.insert(own(9));
    let claims = vector(&[own(9), foreign(3)]);
    compact(&mut journal, &whole, &claims);
    assert!(!journal.is_frozen());
    journal.own(&[own(10)]).unwrap();
    whole.insert(own(10));
    drop(journal);
    let kept = folder.0.join("journal-1.log.damaged");
    assert_eq!(fs::read(kept).unwrap(), bytes);
    let (_journal, recovered, ids) = open(&folder);
    assert_eq!(ids, whole);
    assert_eq!(recovered.vector, vector(&[own(10), foreign(3)]));
    assert!(recovered.damage.is_empty());
}

#[test]
fn the_name_of_a_damaged_file_is_not_used_again() {
    let folder = Folder::new();
    fs::write(folder.0.join("journal-8.log.damaged"), b"x").unwrap();
    open(&folder);
    assert!(folder.names().contains("journal-9.log"));
}

#[test]
fn a_frame_that_a_client_hides_in_its_id_is_not_found_after_damage() {
    let folder = Folder::new();
    let (mut journal, ..) = open(&folder);
    // It knows the offset, but not the salt.
    let guess = Seal::new(&Header {
        salt: 0,
        ..journal.files.newest
    });
    let mut payload = Vec::new();
    foreign(9).with(|view| view.pack(&mut payload));
    let at = journal.writer.end() + (FRAME_BYTES + 4 * 8 + 4 + "Ball".len()) as u64;
    let mut hidden = Vec::new();
    let start = Seal::begin(&mut hidden);
    hidden.extend(&payload);
    guess.close(&mut hidden, start, at, Kind::Records);
    own(1)
        .with(|view| {
            journal.append_own(&[RecordView {
                client: &hidden,
                ..*view
            }])
        })
        .unwrap();
    drop(journal);
    let mut bytes = fs::read(path(&folder.0, 1)).unwrap();
    assert_eq!(bytes[at as usize..][..hidden.len()], hidden);
    bytes[HEADER_BYTES as usize] ^= 1;
    fs::write(path(&folder.0, 1), &bytes).unwrap();
    let (_journal, _, ids) = open(&folder);
    assert!(ids.is_empty());
}

#[test]
fn a_closed_file_that_lost_its_tail_is_damaged() {
    let folder = Folder::new();
    let ever = small(&folder);
    let (mut journal, ..) = open(&folder);
    drop(journal.begin_compaction(&Vector::default(), 1).unwrap());
    journal.own(&[own(5)]).unwrap();
    drop(journal);
    let bytes = fs::read(path(&folder.0, 1)).unwrap();
    for length in [0, 100, bytes.len() / 2, bytes.len() - 1] {
        let copy = folder.copy();
        fs::write(path(&copy.0, 1), &bytes[..length]).unwrap();
        let (journal, recovered, ids) = open(&copy);
        assert!(recovered.vector.is_empty() && journal.is_frozen());
        assert!(ids.contains(&own(5)) && ids.len() <= ever.len());
    }
}
