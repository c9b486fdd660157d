//! Truncated, changed and lost files: readable records are kept, and no missing record is claimed.

use super::super::end_mark::EndMark;
use super::super::recovery::DamageKind;
use super::super::writer::MAX_APPEND_BYTES;
use super::*;

/// The note of the end, as a crash in the middle of the last append leaves it.
fn note_before(folder: &Folder, end: u64) {
    let (journal, ..) = open(folder);
    let mut note = EndMark::open(&folder.0, Readers::Owner);
    note.begin_file(&journal.files.newest, end);
    drop(journal);
}

#[test]
fn a_tail_torn_at_any_byte_leaves_a_prefix_that_keeps_its_claims() {
    let folder = Folder::new();
    let ever = small(&folder);
    let bytes = fs::read(path(&folder.0, 1)).unwrap();
    let mut most = 0;
    for length in HEADER_BYTES as usize..=bytes.len() {
        // All of it is one append, as far as the note goes.
        fs::write(path(&folder.0, 1), &bytes).unwrap();
        note_before(&folder, HEADER_BYTES);
        fs::write(path(&folder.0, 1), &bytes[..length]).unwrap();
        if length % 2 == 0 {
            folder.forget_end();
        }
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
        folder.forget_end();
    }
    assert_eq!(most, ever.len());
}

#[test]
fn a_whole_journal_that_is_cut_at_any_byte_is_damaged_even_between_frames() {
    let folder = Folder::new();
    let ever = small(&folder);
    let bytes = fs::read(path(&folder.0, 1)).unwrap();
    for length in 0..bytes.len() {
        for zeros in [false, true] {
            let copy = folder.copy();
            let mut cut = bytes[..length].to_vec();
            if zeros {
                cut.resize(bytes.len(), 0);
            }
            if cut == bytes {
                continue;
            }
            fs::write(path(&copy.0, 1), &cut).unwrap();
            let (journal, recovered, ids) = open(&copy);
            assert!(ids.is_subset(&ever));
            assert_eq!(recovered.damage.len(), 1, "cut at {length}");
            assert!(recovered.vector.is_empty() && journal.is_frozen());
            drop(journal);
            // It stays damaged for a start that comes before the first compaction.
            let (mut journal, recovered, _) = open(&copy);
            assert_eq!(recovered.damage.len(), 1, "cut at {length}");
            compact(&mut journal, &ids, &Vector::default());
            let kept = fs::read(copy.0.join("journal-1.log.damaged")).unwrap();
            assert_eq!(kept, cut);
        }
    }
}

#[test]
fn a_journal_without_a_note_of_its_end_is_damaged_if_its_tail_is_longer_than_an_append() {
    let folder = Folder::new();
    small(&folder);
    let bytes = fs::read(path(&folder.0, 1)).unwrap();
    let window = WINDOW_BYTES as usize;
    let longest = MAX_APPEND_BYTES as usize;
    let garbage = |length: usize| vec![0xa5; length];
    for (bytes, damaged) in [
        (bytes.clone(), false),
        // Zeros up to the end of a window are left by a crash; others are not.
        ([&bytes[..], &vec![0; window - bytes.len()]].concat(), false),
        (
            [&bytes[..], &vec![0; 2 * window - bytes.len()]].concat(),
            true,
        ),
        ([&bytes[..], &[0; 100]].concat(), true),
        ([&bytes[..128], &vec![0; window - 128]].concat(), true),
        (bytes[..128].to_vec(), false),
        (bytes[..120].to_vec(), true),
        (Vec::new(), true),
        ([&bytes[..], &garbage(longest)].concat(), false),
        ([&bytes[..], &garbage(longest + 1)].concat(), true),
    ] {
        let copy = folder.copy();
        copy.forget_end();
        fs::write(path(&copy.0, 1), &bytes).unwrap();
        let (journal, recovered, _) = open(&copy);
        assert_eq!(!recovered.damage.is_empty(), damaged, "{}", bytes.len());
        assert_eq!(journal.is_frozen(), damaged);
    }
}

#[test]
fn a_lost_or_exchanged_newest_file_is_noticed() {
    let folder = Folder::new();
    let ever = small(&folder);
    let copy = folder.copy();
    fs::remove_file(path(&copy.0, 1)).unwrap();
    let missing = format!("{} is missing", path(&copy.0, 1).display());
    for _ in 0..2 {
        let (journal, recovered, ids) = open(&copy);
        assert!(ids.is_empty() && journal.is_frozen());
        assert_eq!(recovered.damage[0].to_string(), missing);
    }
    // A file of an earlier copy of the folder, or of another server.
    let other = Folder::new();
    small(&other);
    fs::copy(path(&other.0, 1), path(&folder.0, 1)).unwrap();
    for _ in 0..2 {
        let (journal, recovered, ids) = open(&folder);
        assert!(ids == ever && recovered.vector.is_empty());
        assert!(journal.is_frozen() && !recovered.damage.is_empty());
    }
    // A copy under another number.
    fs::copy(path(&other.0, 1), path(&other.0, 5)).unwrap();
    let (journal, recovered, _) = open(&other);
    assert!(journal.is_frozen() && !recovered.damage.is_empty());
}

/// Bytes like these make every third offset look like the start of a frame of 64 KiB.
const LOOKALIKE: [u8; 3] = [3, 0xff, 0];

#[test]
fn garbage_is_searched_in_a_time_that_grows_with_its_length_only() {
    let folder = Folder::new();
    let ever = small(&folder);
    let (mut journal, ..) = open(&folder);
    let at = journal.writer.end() as usize;
    let later: Vec<Id> = (10..1_000).map(own).collect();
    journal.own(&later).unwrap();
    drop(journal);
    let whole = fs::read(path(&folder.0, 1)).unwrap();
    let mut taken = Vec::new();
    for mib in [1, 8] {
        let copy = folder.copy();
        let mut bytes = whole[..at].to_vec();
        bytes.extend(LOOKALIKE.iter().cycle().take(mib << 20));
        fs::write(path(&copy.0, 1), &bytes).unwrap();
        let start = std::time::Instant::now();
        let (_journal, recovered, ids) = open(&copy);
        taken.push(start.elapsed());
        assert!(ids == ever && recovered.damage.len() == 1);
    }
    // A search without a bound took half a second a MiB; the machine may be busy.
    assert!(taken[1].as_secs_f64() < 2.0, "{taken:?}");
    // Records behind such garbage are found again, but for a few at its edge.
    let mut bytes = whole.clone();
    let middle = at + (whole.len() - at) / 2;
    for (index, byte) in bytes[at..middle].iter_mut().enumerate() {
        *byte = LOOKALIKE[index % 3];
    }
    fs::write(path(&folder.0, 1), &bytes).unwrap();
    let (_journal, recovered, ids) = open(&folder);
    check_claims(&recovered, &ids, &ids);
    assert!(ids.is_superset(&ever) && !recovered.damage.is_empty());
}

/// Effect of a damage on the bytes of a file.
fn damage(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) -> String {
    let length = bytes.len();
    let from = random.usize(..=length);
    let count = match random.u8(..4) {
        0 => random.usize(..=16),
        1 => random.usize(..=2_000),
        _ => random.usize(..=length),
    };
    let to = (from + count).min(length);
    let kind = random.u8(..12);
    let text = format!("kind {kind}, {from}..{to} of {length}");
    let garbage = |random: &mut fastrand::Rng, length: usize| -> Vec<u8> {
        std::iter::repeat_with(|| random.u8(..))
            .take(length)
            .collect()
    };
    match kind {
        0 if length > 0 => bytes[from.min(length - 1)] ^= 1 << random.u8(..8),
        1 => bytes.truncate(from),
        2 => bytes[from..to].fill(0),
        3 => bytes[from..].fill(0),
        4 => {
            let replaced = garbage(random, to - from);
            bytes.splice(from..to, replaced);
        }
        5 => {
            let replaced = garbage(random, length - from);
            bytes.splice(from.., replaced);
        }
        6 => {
            let added = garbage(random, count);
            bytes.splice(from..from, added);
        }
        7 => drop(bytes.drain(from..to)),
        8 => {
            let moved = bytes[from..to].to_vec();
            let at = random.usize(..=length);
            bytes.splice(at..at, moved);
        }
        // Through an editor, or a transfer as text.
        9 => {
            *bytes = bytes
                .iter()
                .flat_map(|&byte| match byte {
                    b'\n' => vec![b'\r', b'\n'],
                    _ => vec![byte],
                })
                .collect();
        }
        10 => bytes.clear(),
        _ => {
            for byte in &mut bytes[from..to] {
                *byte = LOOKALIKE[usize::from(*byte) % 3];
            }
        }
    }
    text
}

/// Journals as they are found after a clean stop, after a crash, and after a crash in a compaction.
fn samples() -> Vec<(Folder, BTreeSet<Id>)> {
    let mut samples = Vec::new();
    for kind in 0..3 {
        let folder = Folder::new();
        let (mut journal, ..) = open(&folder);
        journal.start_epoch(7).unwrap();
        if kind > 0 {
            journal.set_windowed();
        }
        let mut ever = BTreeSet::new();
        for first in (1..400).step_by(4) {
            let ids: Vec<Id> = (first..first + 4).map(own).collect();
            let theirs = [foreign(first), foreign(first + 1)];
            journal.own(&ids).unwrap();
            journal.adopted(&theirs).unwrap();
            journal.append_marker(&vector(&[foreign(first)])).unwrap();
            ever.extend(ids);
            ever.extend(theirs);
            if kind == 2 && first == 201 {
                let begun = journal.begin_compaction(&Vector::default(), ever.len());
                drop(begun.unwrap());
            }
        }
        let sample = if kind > 0 {
            folder.copy()
        } else {
            drop(journal);
            folder
        };
        samples.push((sample, ever));
    }
    samples
}

/// Damages journals at random: each opens, holds nothing that was never appended, and loses nothing
/// in silence; the damaged file is kept.
#[test]
fn a_thousand_random_damages_are_survived_and_never_silent() {
    let seed = std::env::var("HERD_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let message = format!("random damages: HERD_SEED={seed}\n");
    std::io::stderr().write_all(message.as_bytes()).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let samples = samples();
    let (mut lossy, mut harmless) = (0, 0);
    for number in 0..1_000 {
        let (sample, ever) = &samples[random.usize(..samples.len())];
        let folder = sample.copy();
        let names: Vec<String> = folder.names().into_iter().collect();
        let name = &names[random.usize(..names.len())];
        let file = folder.0.join(name);
        let before = fs::read(&file).unwrap();
        let mut bytes = before.clone();
        let mut texts = vec![name.clone()];
        for _ in 0..random.usize(1..=3) {
            texts.push(damage(&mut random, &mut bytes));
        }
        let is_gone = random.u8(..50) == 0;
        match is_gone {
            true => fs::remove_file(&file).unwrap(),
            false => fs::write(&file, &bytes).unwrap(),
        }
        let what = format!("seed {seed}, damage {number}, gone: {is_gone}: {texts:?}");
        let (mut journal, recovered, ids) = open(&folder);
        assert!(ids.is_subset(ever), "a wrong record: {what}");
        check_claims(&recovered, &ids, ever);
        if ids == *ever && recovered.damage.is_empty() {
            harmless += 1;
            continue;
        }
        assert!(!recovered.damage.is_empty(), "a silent loss: {what}");
        assert!(recovered.vector.is_empty() && journal.is_frozen(), "{what}");
        lossy += 1;
        compact(&mut journal, ever, &vector(&[own(400)]));
        drop(journal);
        if !is_gone {
            let kept = fs::read(folder.0.join(format!("{name}.damaged")));
            assert!(kept.is_ok_and(|kept| kept == bytes), "not kept: {what}");
        }
        let (_journal, recovered, ids) = open(&folder);
        assert!(ids == *ever && recovered.damage.is_empty(), "{what}");
    }
    assert!(lossy > 500 && harmless > 0, "{lossy} and {harmless}");
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
    let DamageKind::Bytes {
        offset,
        bytes: length,
    } = damage.kind
    else {
        panic!("{damage}");
    };
    assert!(offset <= at as u64 && at as u64 <= offset + length);
    assert_eq!(
        damage.to_string(),
        format!(
            "{}: {length} bytes from byte {offset} on are damaged or missing",
            path(&folder.0, 1).display(),
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
