//! The pool's well-known ways to die, each against a real process. The short form: the bench
//! crate measures the same with thousands of clients (bench/README.md).

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Client;
use crate::support::process::{
    Directory, Running, free_addresses, herd, signal, spawn, wait_until,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const FULL: &[u8] = b"? server full\n";

/// A server alone in a directory of its own; both end with it.
struct Replica {
    process: Running,
    directory: Directory,
    address: SocketAddr,
}

impl Replica {
    fn start(name: &str, flags: &[&str], prepare: impl FnOnce(&Path)) -> Replica {
        let directory = Replica::directory(name);
        prepare(directory.path());
        let mut command = herd(&directory, &[&["serve", "Alone"], flags].concat());
        command.stderr(Stdio::null());
        let (process, address) = spawn(command);
        Replica {
            process,
            directory,
            address,
        }
    }

    fn directory(name: &str) -> Directory {
        let directory = Directory::new(name);
        fs::create_dir_all(directory.path().join("logs")).unwrap();
        let [client, peer] = free_addresses();
        directory.servers(&format!("Alone {client} {peer}\n"));
        directory
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("logs/Alone.log")).unwrap()
    }
}

fn refusal(address: SocketAddr) -> Vec<u8> {
    let mut client = Client::connect(address);
    // Input that is never read must not turn the refusal into a reset.
    let _ = client.stream().write_all(b"IAMAT a +1+1 1\n");
    client.rest()
}

#[test]
fn floods_of_connections_leave_nothing_behind() {
    for pool in ["shared", "dedicated"] {
        let server = Replica::start(&format!("flood-{pool}"), &["--pool", pool], |_| {});
        assert_eq!(Client::connect(server.address).ask("a"), "? a");
        let flood = |count: usize| {
            for number in 0..count {
                let stream = TcpStream::connect(server.address).unwrap();
                if number % 2 == 0 {
                    let linger = Some(Duration::ZERO);
                    socket2::SockRef::from(&stream).set_linger(linger).unwrap();
                }
            }
        };
        flood(500);
        wait_until("the first ones stay", || server.process.descriptors() < 40);
        let (descriptors, kib) = (server.process.descriptors(), server.process.resident_kib());
        flood(2_000);
        wait_until("descriptors stay", || {
            server.process.descriptors() <= descriptors + 1
        });
        let grown = server.process.resident_kib().saturating_sub(kib);
        // The log's buffers are in it.
        assert!(grown < 4_096, "{grown} KiB more than before");
        assert_eq!(Client::connect(server.address).ask("b"), "? b");
    }
}

#[test]
fn without_descriptors_clients_are_told_cheaply_until_there_are_some() {
    let server = Replica::start("descriptors", &[], |_| {});
    let mut inside: Vec<_> = (0..20).map(|_| Client::connect(server.address)).collect();
    for client in &mut inside {
        assert_eq!(client.ask("a"), "? a");
    }
    let used = server.process.descriptors() as u64;
    let limit = Rlimit {
        current: Some(used),
        maximum: Some(used),
    };
    let pid = Pid::from_child(&server.process.0);
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    // Numbers below that may be free yet.
    wait_until("nobody is refused", || {
        let mut client = Client::connect(server.address);
        client.send("e\n");
        let told = client.line();
        inside.push(client);
        told == "? server full"
    });
    inside.pop();
    for _ in 0..20 {
        assert_eq!(refusal(server.address), FULL);
    }
    let waiting: Vec<_> = (0..100).map(|_| Client::connect(server.address)).collect();
    let (start, before) = (Instant::now(), server.process.cpu_ticks());
    // Those inside are served as ever.
    while start.elapsed() < Duration::from_secs(1) {
        std::thread::park_timeout(Duration::from_millis(100));
        assert_eq!(inside[0].ask("b"), "? b");
    }
    let ticks = server.process.cpu_ticks() - before;
    // Two on a machine that does nothing else; one that spins has a hundred.
    assert!(ticks <= 20, "{ticks} ticks of 10 ms in a second");
    drop(waiting);
    inside.truncate(5);
    let start = Instant::now();
    wait_until("no place becomes free", || {
        let mut client = Client::connect(server.address);
        let _ = client.stream().write_all(b"c\n");
        client.line() == "? c"
    });
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(inside[0].ask("d"), "? d");
}

#[test]
fn too_many_clients_are_told_and_hold_few_descriptors() {
    let server = Replica::start("full", &["--max-clients", "2"], |_| {});
    let mut inside: Vec<_> = (0..2).map(|_| Client::connect(server.address)).collect();
    for client in &mut inside {
        assert_eq!(client.ask("a"), "? a");
    }
    let before = server.process.descriptors();
    // They read what they are told, and stay.
    let mut refused: Vec<_> = (0..200).map(|_| Client::connect(server.address)).collect();
    for client in &mut refused {
        assert_eq!(client.rest(), FULL);
    }
    assert!(
        server.process.descriptors() <= before + 65,
        "{}",
        server.process.descriptors()
    );
    wait_until("refused clients stay", || {
        server.process.descriptors() <= before
    });
    wait_until("nothing tells of it", || {
        server.log().contains("server is full")
    });
}

#[test]
fn more_workers_than_the_machine_gives_are_refused_at_the_start() {
    let directory = Replica::directory("threads");
    let output = Command::new("bash")
        .args([
            "-c",
            "ulimit -v 2000000; exec \"$0\" serve Alone --workers 8000",
        ])
        .arg(env!("CARGO_BIN_EXE_herd"))
        .current_dir(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("threads are needed") && text.contains("lower --workers"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1), "{text}");
}

/// Requests whose lines fill the log, all answered.
fn chatter(address: SocketAddr, requests: usize) {
    let mut client = Client::connect(address);
    let line = "x".repeat(4_000);
    for _ in 0..requests {
        assert_eq!(client.ask(&line).len(), 2 + line.len());
    }
}

#[test]
fn a_log_that_takes_nothing_stalls_nobody_and_tells_what_was_dropped() {
    // A pipe that nobody reads is the slowest of disks.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let mut reader = None;
    let server = Replica::start("slow-log", &[], |directory| {
        let path = directory.join("logs/Alone.log");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        reader = Some(std::thread::spawn(move || {
            // The server's opening it for writing waits for this.
            let mut pipe = fs::File::open(path).unwrap();
            gone.recv().unwrap();
            let mut lines = Vec::new();
            pipe.read_to_end(&mut lines).unwrap();
            String::from_utf8(lines).unwrap()
        }));
    });
    // 8 KiB of lines each, against a buffer of 8 MiB.
    chatter(server.address, 3_000);
    go.send(()).unwrap();
    chatter(server.address, 10);
    signal(&server.process, "TERM");
    let lines = reader.unwrap().join().unwrap();
    assert!(
        lines.contains(" log lines dropped: "),
        "nothing tells of it"
    );
}

#[test]
fn a_full_log_disk_stalls_nobody() {
    // This device takes no byte: the error is that of a full disk.
    let server = Replica::start("full-log", &[], |directory| {
        std::os::unix::fs::symlink("/dev/full", directory.join("logs/Alone.log")).unwrap();
    });
    chatter(server.address, 500);
    assert_eq!(Client::connect(server.address).ask("a"), "? a");
}
