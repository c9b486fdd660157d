//! Earlier layouts of the journal. `tests/fixtures/journal-layout-1` was written by version 0.1.0 of the
//! program, before there were tombstones: the folder of a server Ball, linked to Welsh, that was
//! stopped.

use super::*;

/// Copies the folder of layout 1. With `padding`, the server was killed: zeros are behind the last
/// append.
fn layout_1(padding: u64) -> Folder {
    let folder = Folder::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-layout-1");
    for name in ["journal-1.log", "journal.end"] {
        fs::copy(fixture.join(name), folder.0.join(name)).unwrap();
    }
    let file = File::options()
        .write(true)
        .open(path(&folder.0, 1))
        .unwrap();
    file.set_len(file.metadata().unwrap().len().max(padding))
        .unwrap();
    folder
}

type Owned = (String, String, String, String, u64);

/// Opens the folder; returns all records in the order of their appends, with what they are of.
fn read(folder: &Folder) -> (Journal, Recovered, Vec<Owned>) {
    let mut records = Vec::new();
    let (journal, recovered) = Journal::open(&folder.0, Readers::Owner, |view| {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        records.push((
            text(view.client),
            text(view.location),
            text(view.time_text),
            text(view.origin),
            view.sequence,
        ));
    })
    .unwrap();
    (journal, recovered, records)
}

fn version_of(folder: &Folder, number: u64) -> u32 {
    let bytes = fs::read(path(&folder.0, number)).unwrap();
    Header::read(&bytes).unwrap().unwrap().version
}

const BALL: u64 = 1_795_774_168_712_284_177;
const WELSH: u64 = 1_795_774_168_712_517_032;

#[test]
fn a_folder_of_layout_1_is_read_and_compacted_into_2() {
    let expected: Vec<Owned> = [
        (
            "kiwi.cs.ucla.edu",
            "+34.068930-118.445127",
            "1479413884.392014450",
            "Ball",
            1,
        ),
        ("moa.example", "+10.5-20.25", "1479413885", "Ball", 2),
        (
            "kiwi.cs.ucla.edu",
            "+34.070000-118.450000",
            "1479413984.5",
            "Ball",
            3,
        ),
        (
            "emu.example",
            "-33.8688+151.2093",
            "1479413886.25",
            "Welsh",
            1,
        ),
        ("moa.example", "+10.75-20.5", "1479413900", "Welsh", 2),
    ]
    .map(|(client, location, time, origin, sequence)| {
        (
            client.into(),
            location.into(),
            time.into(),
            origin.into(),
            sequence,
        )
    })
    .into();
    let mut claims = Vector::default();
    claims.advance(b"Ball", BALL, 3);
    claims.advance(b"Welsh", WELSH, 2);
    for padding in [0, WINDOW_BYTES] {
        let folder = layout_1(padding);
        let (mut journal, recovered, records) = read(&folder);
        assert_eq!(records, expected);
        assert_eq!(recovered.vector, claims);
        assert_eq!((recovered.epoch, recovered.torn_bytes), (BALL, 0));
        assert!(recovered.damage.is_empty() && !journal.is_frozen());
        // Appends go to a file of layout 2, which an earlier program refuses.
        assert_eq!([1, 2].map(|number| version_of(&folder, number)), [1, 2]);
        let tombstone = RecordView::tombstone(
            b"kiwi.cs.ucla.edu",
            Timestamp::from_nanos(1_795_774_170_000_000_000),
            b"Ball",
            BALL + 1,
            1,
        );
        journal.start_epoch(BALL + 1).unwrap();
        journal.append_own(&[tombstone]).unwrap();
        let all: Vec<Owned> = expected
            .iter()
            .cloned()
            .chain([(
                "kiwi.cs.ucla.edu".into(),
                String::new(),
                String::new(),
                "Ball".into(),
                1,
            )])
            .collect();
        claims.advance(b"Ball", BALL + 1, 1);
        // A start before the compaction finds all of it too, however the last one ended.
        drop(journal);
        for _ in 0..2 {
            let (journal, recovered, records) = read(&folder);
            assert_eq!((records, recovered.vector), (all.clone(), claims.clone()));
            assert!(recovered.damage.is_empty() && journal.wants_compaction(3));
        }
        let (mut journal, ..) = read(&folder);
        let mut compaction = journal.begin_compaction(&claims, 1).unwrap();
        compaction.push(&tombstone);
        finish(compaction, &mut journal).unwrap();
        assert!(!journal.wants_compaction(1));
        assert_eq!(folder.names(), BTreeSet::from(["journal-2.log".to_owned()]));
        drop(journal);
        let (_journal, recovered, records) = read(&folder);
        assert_eq!(records.last(), all.last());
        assert_eq!(recovered.vector, claims);
        claims = Vector::default();
        claims.advance(b"Ball", BALL, 3);
        claims.advance(b"Welsh", WELSH, 2);
    }
}

#[test]
fn damage_in_a_folder_of_layout_1_is_told_and_costs_the_claims_only() {
    let folder = layout_1(0);
    let path = path(&folder.0, 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[300] ^= 1;
    fs::write(&path, bytes).unwrap();
    for _ in 0..2 {
        let (journal, recovered, records) = read(&folder);
        assert!(!recovered.damage.is_empty() && recovered.vector.is_empty());
        assert_eq!(records.len(), 2, "those of Welsh");
        assert!(journal.is_frozen());
    }
}

#[test]
fn a_later_layout_is_refused_in_words() {
    let folder = Folder::new();
    let (journal, ..) = open(&folder);
    let later = Header {
        version: 3,
        ..journal.files.newest
    };
    drop(journal);
    fs::write(path(&folder.0, 1), later.write()).unwrap();
    let error = Journal::open(&folder.0, Readers::Owner, |_| {}).unwrap_err();
    let words = "has layout version 3: it was written by a later version of herd";
    assert!(error.to_string().contains(words), "{error}");
}
