//! The end of the program: exit codes and last words, whatever part of it fails or hangs.
//!
//! The failures are those of `herd::thread`'s faults for tests, which only builds with debug
//! assertions have.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::process::{
    Directory, Running, free_addresses, herd, signal, spawn, wait, wait_for, wait_until,
};

/// Standard error of the program in that directory.
const NOTICES: &str = "notices";

/// A server with a neighbor that is not running, and a fault in one of its threads.
fn command(directory: &Directory, fault: &str) -> std::process::Command {
    let [client, peer] = free_addresses();
    let [other_client, other_peer] = free_addresses();
    directory.servers(&format!(
        "Alone {client} {peer} Ball\nBall {other_client} {other_peer} Alone\n"
    ));
    let mut command = herd(directory, &["serve", "Alone"]);
    let notices = File::create(directory.path().join(NOTICES)).unwrap();
    command
        .env("HERD_THREAD_FAULT", fault)
        .stdout(Stdio::null())
        .stderr(notices);
    command
}

fn read(directory: &Directory, file: &str) -> String {
    let path: &Path = directory.path();
    String::from_utf8_lossy(&std::fs::read(path.join(file)).unwrap_or_default()).into_owned()
}

#[track_caller]
fn assert_said(directory: &Directory, file: &str, text: &str) {
    let content = read(directory, file);
    assert!(
        content.contains(text),
        "{text:?} is not in {file}: {content}"
    );
}

/// Waits for the end of a server, and returns its exit code and how long that took.
#[track_caller]
fn end(server: &mut Running, limit: Duration) -> (Option<i32>, Duration) {
    let mut status = None;
    let took = wait_for("the process ends", limit, || {
        status = server.0.try_wait().unwrap();
        status.is_some()
    });
    (status.unwrap().code(), took)
}

#[test]
fn a_panic_of_any_thread_ends_the_process_with_its_reason() {
    let names = [
        "client-listener",
        "journal-syncer",
        "link-audit",
        "link-door",
        "link-observer-0",
        "link-pulse",
        "link-reader-Ball",
        "link-receiver-0",
        "link-sender-Ball",
        "log-writer",
        "peer-listener",
        "signals",
        "start",
        "timer",
        "upkeep",
        "watch",
        "worker-0",
    ];
    let started = names.map(|name| {
        let directory = Directory::new("panic");
        let mut command = command(&directory, &format!("{name}:panic:300"));
        (name, Running(command.spawn().unwrap()), directory)
    });
    for (name, mut server, directory) in started {
        let (code, _) = end(&mut server, 2 * PATIENCE);
        assert_eq!(code, Some(1), "{name}");
        let reason = format!("thread {name} has panicked: a fault for a test");
        assert_said(&directory, NOTICES, &reason);
        // The log starts once the addresses are bound, and a log thread that has panicked writes none.
        if !["log-writer", "start"].contains(&name) {
            assert_said(&directory, "logs/Alone.log", &reason);
            let place = format!("panic in thread {name} at src/thread/fault.rs");
            assert_said(&directory, "logs/Alone.log", &place);
        }
    }
}

#[test]
fn a_stop_that_hangs_says_which_part_did_not_end() {
    let directory = Directory::new("hangs");
    let (mut server, _) = spawn(command(&directory, "timer:stall"));
    signal(&server, "TERM");
    let (code, took) = end(&mut server, 2 * PATIENCE);
    assert_eq!(code, Some(1));
    assert!(took > Duration::from_secs(8), "{took:?}");
    let reason = "Alone: not stopped after 9 s, still waiting for the timer";
    assert_said(&directory, NOTICES, reason);
    assert_said(&directory, "logs/Alone.log", reason);
}

#[test]
fn a_second_signal_ends_the_process_at_once_with_a_reason() {
    let directory = Directory::new("second");
    let (mut server, _) = spawn(command(&directory, "timer:stall"));
    signal(&server, "TERM");
    wait_until("the first signal is taken", || {
        read(&directory, "logs/Alone.log").contains("signal 15")
    });
    signal(&server, "INT");
    let (code, took) = end(&mut server, PATIENCE);
    assert_eq!(code, Some(1));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let reason = "Alone: signal 2, the second: not waiting for the end of the stop";
    assert_said(&directory, NOTICES, reason);
    assert_said(&directory, "logs/Alone.log", reason);
}

#[test]
fn a_signal_ends_a_start_that_hangs() {
    for name in ["TERM", "INT"] {
        let directory = Directory::new("start");
        let started = Instant::now();
        let mut server = Running(command(&directory, "start:stall").spawn().unwrap());
        // Before it takes signals, one has its default effect.
        let status = server.proc("status");
        wait_until("signals are caught", || {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            // SIGTERM is number 15.
            caught.is_some_and(|mask| mask & 1 << 14 != 0)
        });
        signal(&server, "HUP");
        signal(&server, name);
        assert_eq!(wait(&mut server), Some(0), "{name}");
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(read(&directory, NOTICES), "");
    }
}

#[test]
fn a_start_that_fails_says_why_in_the_log_too() {
    let directory = Directory::new("fails");
    let mut command = command(&directory, "");
    std::fs::write(directory.path().join("file"), "").unwrap();
    command.args(["--data-dir", "file"]);
    let mut server = Running(command.spawn().unwrap());
    assert_eq!(wait(&mut server), Some(1));
    let notices = read(&directory, NOTICES);
    let reason = notices.trim_end().strip_prefix("herd: ").unwrap();
    assert!(reason.starts_with("Alone: "), "{reason}");
    assert_said(&directory, "logs/Alone.log", reason);
}

#[test]
fn a_standard_error_that_nobody_reads_keeps_no_process_alive() {
    for fault in ["timer:panic:500", "timer:stall"] {
        let directory = Directory::new("pipe");
        let (_unread, mut full) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&full, true).unwrap();
        while full.write(&[b'x'; 512]).is_ok() {}
        rustix::io::ioctl_fionbio(&full, false).unwrap();
        let mut command = command(&directory, fault);
        command.stderr(full);
        let mut server = if fault.ends_with("stall") {
            let (server, _) = spawn(command);
            signal(&server, "TERM");
            server
        } else {
            Running(command.spawn().unwrap())
        };
        // The stop watch needs 9 s, and the last words are given a second.
        let (code, _) = end(&mut server, 2 * PATIENCE);
        assert_eq!(code, Some(1), "{fault}");
    }
}
