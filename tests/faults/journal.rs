//! Journals whose files are deleted, moved, cut or changed under the server, or by the time it starts,
//! and whose compaction can't be brought to disk.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk::Tracer;
use super::form::{choose, figure, limit, spread};
use crate::support::fleet::Fleet;
use crate::support::process::{free_addresses, herd, wait_until};
use crate::support::report;

/// Sends a report for each client, and returns the replies, which must be acknowledgements.
pub(super) fn report_all(fleet: &Fleet, label: &str, count: usize) -> HashMap<String, String> {
    let mut client = fleet.client(0);
    let ask = |number| {
        let name = format!("{label}-{number}");
        let reply = client.ask(&report(&name, "+1+1"));
        assert!(reply.starts_with("AT "), "{reply}");
        (name, reply)
    };
    (0..count).map(ask).collect()
}

/// Sends reports until one is refused, or for 200 ms. Returns the acknowledged ones.
fn report_while_accepted(fleet: &Fleet, label: &str) -> HashMap<String, String> {
    let mut client = fleet.client(0);
    let mut held = HashMap::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(200) {
        let name = format!("{label}-{}", held.len());
        let line = report(&name, "+1+1");
        let reply = client.ask(&line);
        if reply == format!("? {line}") {
            break;
        }
        assert!(reply.starts_with("AT "), "{reply}");
        held.insert(name, reply);
    }
    held
}

#[track_caller]
pub(super) fn assert_held(fleet: &Fleet, held: &HashMap<String, String>, what: &str) {
    let lines = fleet.client(0).whatsat_all(held.keys().map(String::as_str));
    let lost = held
        .values()
        .zip(&lines)
        .filter(|(reply, line)| reply != line);
    assert_eq!(lost.count(), 0, "lost after: {what}");
}

/// The newest file of a server's journal.
fn newest(fleet: &Fleet, server: usize) -> PathBuf {
    let entries = fs::read_dir(fleet.data(server)).unwrap();
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("journal-")?;
        name.strip_suffix(".log")?.parse::<u64>().ok()
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| number(path).is_some())
        .max_by_key(number)
        .unwrap()
}

/// A change of the files of a running server's journal, and whether a new journal is needed.
type Act = (&'static str, fn(&Fleet));

const ACTS: [Act; 12] = [
    ("deleted", |fleet| {
        fs::remove_file(newest(fleet, 0)).unwrap()
    }),
    ("moved", |fleet| {
        fs::rename(newest(fleet, 0), fleet.directory.0.join("elsewhere")).unwrap();
    }),
    ("replaced by an empty file", |fleet| {
        let path = newest(fleet, 0);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
    }),
    ("replaced by another file", |fleet| {
        let other = fleet.directory.0.join("other");
        fs::write(&other, vec![7; 1 << 20]).unwrap();
        fs::rename(other, newest(fleet, 0)).unwrap();
    }),
    ("overwritten", |fleet| {
        fs::write(newest(fleet, 0), vec![7; 1 << 20]).unwrap();
    }),
    ("emptied", |fleet| cut(&newest(fleet, 0), 0)),
    ("cut in the middle", |fleet| cut(&newest(fleet, 0), 5_000)),
    ("emptied and lengthened", |fleet| {
        let path = newest(fleet, 0);
        let length = fs::metadata(&path).unwrap().len();
        cut(&path, 0);
        cut(&path, length);
    }),
    ("in a folder that is moved", |fleet| {
        fs::rename(fleet.data(0), fleet.directory.0.join("elsewhere")).unwrap();
    }),
    ("in a folder that is moved and made again", |fleet| {
        fs::rename(fleet.data(0), fleet.directory.0.join("elsewhere")).unwrap();
        fs::create_dir(fleet.data(0)).unwrap();
    }),
    ("in a folder that is deleted", |fleet| {
        fs::remove_dir_all(fleet.data(0)).unwrap();
    }),
    ("in a folder that is deleted with the one above", |fleet| {
        fs::remove_dir_all(fleet.data(0).parent().unwrap()).unwrap();
    }),
];

fn cut(path: &Path, length: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

/// A second server of the name, with the same data folder and other ports, must not start.
#[track_caller]
fn assert_locked(fleet: &Fleet, what: &str) {
    let [client, peer] = free_addresses();
    let servers = fleet.directory.servers(&format!("Alone {client} {peer}\n"));
    let arguments = ["serve", "Alone", "--servers", servers.to_str().unwrap()];
    let second = herd(&fleet.directory, &arguments).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{what}: {said}");
    assert!(
        said.contains("another process has the journal"),
        "{what}: {said}"
    );
}

/// Does one thing to a server's journal and ends the server in one way. Returns the time until that
/// was in the log, and the number of acknowledged reports, which are all there after a restart.
fn tamper((what, act): Act, ack: &str, ending: &str) -> (Duration, usize) {
    let mut fleet = Fleet::alone("tamper", &["--ack", ack, "--log-level", "info"]);
    fleet.start(0);
    let mut held = report_all(&fleet, "before", 200);
    std::thread::sleep(Duration::from_millis(150));
    act(&fleet);
    let start = Instant::now();
    // An append to a part that is gone is refused.
    held.extend(report_while_accepted(&fleet, "after"));
    wait_until("the loss in the log", || {
        fleet.logged(0, "all records are written from memory") > 0
    });
    let noticed = start.elapsed();
    wait_until("the new journal is whole", || {
        let problem = fleet.logged(0, "journal compacted");
        problem > 0
    });
    assert_locked(&fleet, what);
    held.extend(report_all(&fleet, "later", 50));
    std::thread::sleep(Duration::from_millis(150));
    fleet.signal(0, ending);
    let code = (ending == "TERM").then_some(0);
    assert_eq!(fleet.wait(0), code, "{what}");
    fleet.start(0);
    assert_held(&fleet, &held, &format!("{what}, --ack {ack}, {ending}"));
    (noticed, held.len())
}

/// Whatever is done to the files by hand, the server notices, says it, and loses nothing.
#[test]
fn files_that_are_deleted_moved_or_changed_by_hand_cost_no_report() {
    let all = choose(false, true);
    let mut outcomes = Vec::new();
    if all {
        for act in ACTS {
            for ack in ["journal", "disk", "memory"] {
                for ending in ["KILL", "TERM"] {
                    outcomes.push(tamper(act, ack, ending));
                }
            }
        }
    } else {
        let endings = ["KILL", "TERM"].into_iter().cycle();
        let pairs: Vec<_> = ACTS.into_iter().zip(endings).collect();
        for some in pairs.chunks(6) {
            outcomes.extend(std::thread::scope(|scope| {
                let threads: Vec<_> = some
                    .iter()
                    .map(|&(act, ending)| scope.spawn(move || tamper(act, "journal", ending)))
                    .collect();
                let outcomes = threads.into_iter().map(|thread| thread.join().unwrap());
                outcomes.collect::<Vec<_>>()
            }));
        }
    }
    let (mut noticed, held): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
    let longest = noticed.iter().max().unwrap();
    assert!(*longest < limit(2), "{longest:?}");
    figure(
        "journal changed by hand",
        format_args!(
            "{} times in {} ways, noticed after {}, 0 of {} acknowledged reports lost",
            noticed.len(),
            ACTS.len(),
            spread(&mut noticed),
            held.iter().sum::<usize>()
        ),
    );
}

#[test]
fn a_lock_file_that_is_deleted_is_made_again() {
    let mut fleet = Fleet::alone("unlock", &[]);
    fleet.start(0);
    let lock = fleet.data(0).join("journal.lock");
    fs::remove_file(&lock).unwrap();
    assert_locked(&fleet, "lock deleted");
    wait_until("the lock is there again", || lock.exists());
    fleet.await_logged(0, "journal.lock was deleted or replaced");
    assert_locked(&fleet, "lock deleted");
    // Another process can't lock it.
    let file = fs::File::open(&lock).unwrap();
    wait_until("it is locked", || file.try_lock().is_err());
}

/// The kernel may have dropped what it could not write: no second sync, and no compaction that goes on.
#[test]
fn a_sync_that_fails_in_a_compaction_ends_the_server() {
    let mut ending = Vec::new();
    for ack in ["journal", "memory", "disk"] {
        let mut fleet = Fleet::alone("eio-compaction", &["--ack", ack]);
        fleet.start(0);
        let held = report_all(&fleet, "kept", 100);
        std::thread::sleep(Duration::from_millis(200));
        let inject = "inject=fsync,fdatasync,msync:error=EIO";
        let Some(mut tracer) = Tracer::attach(
            "failed sync in a compaction",
            &fleet,
            0,
            ("fsync,fdatasync", inject),
        ) else {
            return;
        };
        // A journal that is gone is compacted at once.
        let journal = newest(&fleet, 0);
        let away = fleet.directory.0.join("away");
        fs::rename(&journal, &away).unwrap();
        let calls = tracer.calls.clone();
        let syncs = || {
            let calls = fs::read_to_string(&calls).unwrap();
            calls.lines().filter(|line| line.contains("sync(")).count()
        };
        wait_until("a sync", || syncs() > 0);
        let start = Instant::now();
        assert_eq!(fleet.wait(0), Some(1), "{ack}");
        ending.push(start.elapsed());
        tracer.child.wait().unwrap();
        assert_eq!(syncs(), 1, "{ack}");
        let notices = fs::read_to_string(fleet.directory.0.join("notices")).unwrap();
        assert!(
            notices.contains("cannot sync the journal to disk"),
            "{notices}"
        );
        assert_eq!(
            fleet.logged(0, "cannot sync the journal to disk"),
            1,
            "{ack}"
        );
        fs::rename(&away, &journal).unwrap();
        fleet.start(0);
        assert_held(&fleet, &held, ack);
    }
    assert!(*ending.iter().max().unwrap() < limit(1), "{ending:?}");
    figure(
        "failed sync in a compaction",
        format_args!(
            "with each --ack, one sync tried, exit code 1 after {}",
            spread(&mut ending)
        ),
    );
}

/// Whatever is in a journal, a start takes seconds a GiB at most.
#[test]
fn a_start_over_garbage_takes_a_time_that_grows_with_its_length_only() {
    let mut fleet = Fleet::alone("garbage", &[]);
    fleet.start(0);
    let held = report_all(&fleet, "kept", 100);
    fleet.signal(0, "TERM");
    assert_eq!(fleet.wait(0), Some(0));
    let path = newest(&fleet, 0);
    let whole = fs::read(&path).unwrap();
    let mib = choose(8, 256);
    let mut random = fastrand::Rng::with_seed(1);
    let mut took = Vec::new();
    // Every third offset of the first looks like the start of a frame of 64 KiB.
    for garbage in [
        &[3, 0xff, 0][..],
        &[0],
        &[1, 0],
        &random.u64(..).to_le_bytes(),
    ] {
        let mut bytes = whole.clone();
        bytes.extend(garbage.iter().cycle().take(mib << 20));
        fs::write(&path, bytes).unwrap();
        let start = Instant::now();
        fleet.start(0);
        took.push(start.elapsed());
        assert_held(&fleet, &held, "garbage");
        wait_until("the damaged file is kept", || {
            garbage == [0] || path.with_extension("log.damaged").exists()
        });
        fleet.kill(0);
        fs::remove_dir_all(fleet.data(0)).unwrap();
        fs::create_dir(fleet.data(0)).unwrap();
    }
    let longest = took.iter().max().unwrap().as_secs_f64();
    let a_gib = longest * 1_024.0 / mib as f64;
    assert!(a_gib < choose(1_000.0, 5.0), "{took:?}");
    figure(
        "garbage in the journal",
        format_args!("{mib} MiB, a start takes {a_gib:.2} s a GiB at most"),
    );
}
