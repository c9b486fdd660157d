//! Key files are created once, read back and rotated; unsafe and malformed ones are refused.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use tempfile::TempDir;

const HERD: &str = "000102030405060708090a0b0c0d0e0f";
const ONE: &str = "11111111111111111111111111111111111111111111111111111111111111aB";
const TWO: &str = "2222222222222222222222222222222222222222222222222222222222222222";

/// The steps of a rotation, in order.
const STEPS: [&str; 3] = ["next", "previous", "idle"];

fn step_of(rotation: &Rotation) -> &'static str {
    match rotation {
        Rotation::Idle => "idle",
        Rotation::NextAccepted(_) => "next",
        Rotation::PreviousAccepted(_) => "previous",
    }
}

/// Creates a directory, and returns it with the path of a key file in it.
fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("herd.key");
    (directory, path)
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[track_caller]
fn check_text(text: &str, expected: &str) {
    let error = KeyFile::parse(text.as_bytes()).expect_err(text);
    let shown = at(Path::new("f"), KeyErrorKind::Malformed(error)).to_string();
    assert_eq!(shown, expected);
    assert!(!shown.contains("1111") && !shown.contains("2222"));
}

#[test]
fn faults_are_reported_without_the_text_of_the_file() {
    check_text("", "f: it has no line with the herd's id");
    check_text(&format!("herd {HERD}\n"), "f: it has no line with a key");
    check_text(
        &format!("key {ONE}\n"),
        "f: it has no line with the herd's id",
    );
    check_text(
        &format!("\n{ONE}\n"),
        "f:2: a line begins with herd, key, next or previous",
    );
    check_text(
        &format!("herd {TWO}"),
        "f:1: a herd id is 32 hexadecimal digits",
    );
    let short = "a key is 64 hexadecimal digits; these 63 bytes are not";
    check_text(&format!("# a\nkey {}", &ONE[1..]), &format!("f:2: {short}"));
    let dots = "a key is 64 hexadecimal digits; these 64 bytes are not";
    check_text(
        &format!("key {}", ONE.replace('a', "+")),
        &format!("f:1: {dots}"),
    );
    check_text(
        &format!("key {ONE} {TWO}"),
        "f:1: more than a word and a number",
    );
    let more = "one herd, one key, and one next or previous are allowed; this is another";
    check_text(&format!("key {ONE}\nkey {TWO}"), &format!("f:2: {more}"));
    check_text(
        &format!("next {ONE}\nprevious {TWO}"),
        &format!("f:2: {more}"),
    );
    check_text(
        &format!("herd {HERD}\nkey {ONE}\nnext {ONE}"),
        "f: its two keys are the same",
    );
}

#[test]
fn a_written_file_is_read_back() {
    let text = format!("# x\r\n\n herd {HERD} # y\r\nkey\t{ONE}\n previous {TWO}");
    let keys = KeyFile::parse(text.as_bytes()).unwrap();
    assert_eq!(keys.herd().to_hex(), HERD);
    assert_eq!(step_of(&keys.rotation), "previous");
    assert_eq!(keys.dialed().bytes()[31], 0xab);
    let accepted: Vec<_> = keys.accepted().map(|key| key.bytes()[0]).collect();
    assert_eq!(accepted, [0x11, 0x22]);
    assert_eq!(KeyFile::parse(keys.to_text().as_bytes()), Ok(keys.clone()));
    let shown = format!("{keys:?}");
    assert!(!shown.contains("17") && !shown.contains("11"), "{shown}");
}

#[test]
fn servers_one_step_apart_accept_each_other_and_the_last_step_drops_the_old_key() {
    let mut before = KeyFile::generate().unwrap();
    let first = before.clone();
    for step in STEPS {
        let after = before.rotated().unwrap();
        assert_eq!(
            (step_of(&after.rotation), after.herd()),
            (step, first.herd())
        );
        assert!(before.accepted().any(|key| key == after.dialed()));
        assert!(after.accepted().any(|key| key == before.dialed()));
        assert_eq!(
            KeyFile::parse(after.to_text().as_bytes()),
            Ok(after.clone())
        );
        before = after;
    }
    assert!(before.accepted().all(|key| key != first.dialed()));
}

/// Checks the error of reading a file that `make` creates.
#[track_caller]
fn check_file(make: impl FnOnce(&Path), expected: &str) {
    let (_directory, path) = directory();
    make(&path);
    let shown = KeyFile::load_or_create(&path).unwrap_err().to_string();
    assert_eq!(shown.replace(&*path.to_string_lossy(), "f"), expected);
}

#[test]
fn unsafe_files_and_other_kinds_of_files_are_refused() {
    let put = |path: &Path, text: &str, mode: u32| {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let good = KeyFile::generate().unwrap().to_text();
    for mode in [0o644, 0o660, 0o604, 0o620, 0o602, 0o610] {
        let expected = format!(
            "f: other users than its owner have access (mode {mode:04o}); chmod 600 it (or 640 if root owns it and the server only reads it), and if another user may have read it, create a new key"
        );
        check_file(|path| put(path, &good, mode), &expected);
    }
    check_file(
        |path| put(path, "", 0o600),
        "f: it has no line with the herd's id",
    );
    check_file(
        |path| put(path, &" ".repeat(MAX_FILE_BYTES + 1), 0o600),
        "f: longer than 4096 bytes: not a key file",
    );
    check_file(
        |path| fs::create_dir(path).unwrap(),
        "f: not a regular file",
    );
    check_file(
        |path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        },
        "f: not a regular file",
    );
    check_file(
        |path| symlink("herd.key", path).unwrap(),
        "f: cannot be read: Too many levels of symbolic links (os error 40)",
    );
}

#[test]
fn servers_that_start_at_once_create_one_key() {
    let (directory, path) = directory();
    let keys: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| KeyFile::load_or_create(&path).unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|(each, _)| *each == keys[0].0));
    assert_eq!(keys.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert_eq!(KeyFile::load(&path).unwrap(), keys[0].0);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(names(&directory), ["herd.key"]);
}

#[test]
fn creation_keeps_an_existing_file_and_rotation_replaces_it() {
    let (directory, path) = directory();
    let kind = KeyFile::rotate(&path).unwrap_err().kind;
    assert!(matches!(kind, KeyErrorKind::Missing));
    let created = KeyFile::create(&path).unwrap();
    let kind = KeyFile::create(&path).unwrap_err().kind;
    assert!(matches!(kind, KeyErrorKind::Exists));
    assert_eq!(KeyFile::load(&path).unwrap(), created);

    let held = open(&path).unwrap();
    held.lock().unwrap();
    let kind = KeyFile::rotate(&path).unwrap_err().kind;
    assert!(matches!(kind, KeyErrorKind::Busy));
    drop(held);

    for step in STEPS {
        assert_eq!(step_of(&KeyFile::rotate(&path).unwrap()), step);
        let loaded = KeyFile::load(&path).unwrap();
        assert_eq!(
            (step_of(&loaded.rotation), loaded.herd()),
            (step, created.herd())
        );
    }
    assert_ne!(KeyFile::load(&path).unwrap(), created);
    assert_eq!(names(&directory), ["herd.key"]);
}

#[test]
fn only_the_group_of_a_file_of_root_may_read_it() {
    for (mode, by_owner, by_root) in [
        (0o600, false, false),
        (0o400, false, false),
        (0o640, true, false),
        (0o440, true, false),
        (0o660, true, true),
        (0o650, true, true),
        (0o644, true, true),
        (0o601, true, true),
    ] {
        assert_eq!(is_exposed(mode, false), by_owner, "{mode:o}");
        assert_eq!(is_exposed(mode, true), by_root, "{mode:o}");
    }
}

#[test]
fn rotation_changes_the_target_of_a_link_and_keeps_its_mode() {
    let (directory, path) = directory();
    let secrets = directory.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    let target = secrets.join("key");
    let created = KeyFile::create(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o400)).unwrap();
    symlink("middle", &path).unwrap();
    symlink("secrets/key", directory.path().join("middle")).unwrap();
    let rotation = KeyFile::rotate(&path).unwrap();
    assert!(matches!(rotation, Rotation::NextAccepted(_)));
    assert!(path.is_symlink());
    let rotated = KeyFile::load(&target).unwrap();
    assert_eq!(rotated.dialed(), created.dialed());
    assert!(matches!(rotated.rotation, Rotation::NextAccepted(_)));
    let mode = fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o400);
    assert_eq!(fs::read_dir(&secrets).unwrap().count(), 1);
}

#[test]
fn a_link_to_nowhere_is_an_error_that_names_the_missing_file() {
    let (directory, path) = directory();
    symlink("secrets/key", &path).unwrap();
    let target = directory.path().join("secrets/key");
    let expected = format!(
        "{}: a symbolic link to {}, which does not exist; if a key is to be created there, name that file",
        path.display(),
        target.display()
    );
    let errors = [
        KeyFile::load(&path).unwrap_err(),
        KeyFile::load_or_create(&path).unwrap_err(),
        KeyFile::create(&path).unwrap_err(),
        KeyFile::rotate(&path).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(names(&directory), ["herd.key"]);
}

#[test]
fn without_links_one_of_several_servers_creates_the_key() {
    let (directory, path) = directory();
    let created: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let keys = KeyFile::generate().unwrap();
                    put_new_without_links(&path, &keys).map(|()| keys)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let winners: Vec<_> = created.iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(KeyFile::load(&path).unwrap(), *winners[0]);
    for error in created.iter().filter_map(|created| created.as_ref().err()) {
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
    assert_eq!(names(&directory), ["herd.key"]);

    // A file that a crash left behind is named, and nothing is overwritten.
    fs::remove_file(&path).unwrap();
    fs::write(directory.path().join("herd.key.new"), "").unwrap();
    let error = put_new_without_links(&path, winners[0]).unwrap_err();
    assert!(error.to_string().ends_with("remove it"), "{error}");
}
