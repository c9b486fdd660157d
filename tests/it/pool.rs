//! The well-known ways to exhaust a thread pool, each against a real process. This is the short
//! form: the bench crate measures the same with thousands of clients (bench/README.md).

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::process::{
    Directory, Running, free_addresses, herd, signal, spawn, wait_until,
};
use crate::support::{Client, report};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const FULL: &[u8] = b"? server full\n";

/// A single server in a directory of its own. Dropping it ends the process and deletes the
/// directory.
struct Server {
    process: Running,
    directory: Directory,
    address: SocketAddr,
}

impl Server {
    fn start(name: &str, flags: &[&str], prepare: impl FnOnce(&Path)) -> Server {
        let directory = Server::directory(name);
        prepare(directory.path());
        let mut command = herd(&directory, &[&["serve", "Alone"], flags].concat());
        command.stderr(Stdio::null());
        let (process, address) = spawn(command);
        Server {
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

/// Connects at capacity and returns the whole answer.
fn refusal(address: SocketAddr) -> Vec<u8> {
    let mut client = Client::connect(address);
    // Input that is never read must not turn the refusal into a reset.
    let _ = client.stream().write_all(b"IAMAT a +1+1 1\n");
    client.rest()
}

#[test]
fn churn_leaks_no_descriptors_and_no_memory() {
    for pool in ["shared", "dedicated"] {
        let server = Server::start(&format!("churn-{pool}"), &["--pool", pool], |_| {});
        assert_eq!(Client::connect(server.address).ask("a"), "? a");
        let churn = |count: usize| {
            for number in 0..count {
                let stream = TcpStream::connect(server.address).unwrap();
                if number % 2 == 0 {
                    let linger = Some(Duration::ZERO);
                    socket2::SockRef::from(&stream).set_linger(linger).unwrap();
                }
            }
        };
        churn(500);
        wait_until("the first connections stay", || {
            server.process.descriptors() < 40
        });
        let (descriptors, kib) = (server.process.descriptors(), server.process.resident_kib());
        churn(2_000);
        wait_until("the descriptors stay", || {
            server.process.descriptors() <= descriptors + 1
        });
        let grown = server.process.resident_kib().saturating_sub(kib);
        // This includes the buffers of the log.
        assert!(grown < 4_096, "{grown} KiB more than before");
        assert_eq!(Client::connect(server.address).ask("b"), "? b");
    }
}

#[test]
fn without_descriptors_clients_are_refused_cheaply_until_some_are_free() {
    let server = Server::start("descriptors", &[], |_| {});
    let mut connected: Vec<_> = (0..20).map(|_| Client::connect(server.address)).collect();
    for client in &mut connected {
        assert_eq!(client.ask("a"), "? a");
    }
    let used = server.process.descriptors() as u64;
    let limit = Rlimit {
        current: Some(used),
        maximum: Some(used),
    };
    let pid = Pid::from_child(&server.process.0);
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    // Descriptor numbers below the limit may still be free.
    wait_until("no client is refused", || {
        let mut client = Client::connect(server.address);
        client.send("e\n");
        let reply = client.line();
        connected.push(client);
        reply == "? server full"
    });
    connected.pop();
    for _ in 0..20 {
        assert_eq!(refusal(server.address), FULL);
    }
    let waiting: Vec<_> = (0..100).map(|_| Client::connect(server.address)).collect();
    let (start, before) = (Instant::now(), server.process.cpu_ticks());
    // Connected clients are served all the time.
    while start.elapsed() < Duration::from_secs(1) {
        std::thread::park_timeout(Duration::from_millis(100));
        assert_eq!(connected[0].ask("b"), "? b");
    }
    let ticks = server.process.cpu_ticks() - before;
    // Two on an otherwise idle machine; a loop that spins has a hundred.
    assert!(ticks <= 20, "{ticks} ticks of 10 ms in a second");
    drop(waiting);
    connected.truncate(5);
    let start = Instant::now();
    wait_until("no descriptor becomes free", || {
        let mut client = Client::connect(server.address);
        let _ = client.stream().write_all(b"c\n");
        client.line() == "? c"
    });
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(connected[0].ask("d"), "? d");
}

#[test]
fn refused_clients_hold_few_descriptors() {
    let server = Server::start("full", &["--max-clients", "2"], |_| {});
    let mut connected: Vec<_> = (0..2).map(|_| Client::connect(server.address)).collect();
    for client in &mut connected {
        assert_eq!(client.ask("a"), "? a");
    }
    let before = server.process.descriptors();
    // They read the refusal, and do not close.
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
    wait_until("nothing is logged", || {
        server.log().contains("server is full")
    });
}

#[test]
fn more_workers_than_the_system_allows_are_refused_at_the_start() {
    let directory = Server::directory("threads");
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

/// Sends requests whose lines fill the log of lines by 4 KiB each, and checks that all are answered.
fn fill_log(address: SocketAddr, requests: usize) {
    let mut client = Client::connect(address);
    let line = report("kiwi", "+1+1") + &" ".repeat(3_900);
    for _ in 0..requests {
        let reply = client.ask(&line);
        assert!(reply.starts_with("AT Alone "), "{reply}");
    }
}

#[test]
fn a_blocked_log_stalls_no_client_and_dropped_lines_are_counted() {
    // A pipe that is not read blocks the log thread as a hanging disk would.
    let (start_reading, reading) = std::sync::mpsc::channel::<()>();
    let mut reader = None;
    let server = Server::start("slow-log", &["--log-lines"], |directory| {
        let path = directory.join("logs/Alone.lines.log");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        reader = Some(std::thread::spawn(move || {
            let mut pipe = fs::File::open(path).unwrap();
            reading.recv().unwrap();
            let mut lines = Vec::new();
            pipe.read_to_end(&mut lines).unwrap();
            String::from_utf8(lines).unwrap()
        }));
    });
    // Two buffers of 8 MiB are in the way.
    fill_log(server.address, 6_000);
    wait_until("that is in the log of events", || {
        server.log().contains("it has taken no lines for ")
    });
    start_reading.send(()).unwrap();
    fill_log(server.address, 10);
    wait_until("dropped lines are counted", || {
        server.log().contains(" log lines dropped: ")
    });
    assert!(server.log().contains("no longer log failing"));
    signal(&server.process, "TERM");
    let lines = reader.unwrap().join().unwrap();
    assert!(lines.contains("received from client 127.0.0.1:"));
}

#[test]
fn a_full_log_disk_stalls_no_client() {
    // Every write to this device fails with the error of a full disk.
    let server = Server::start("full-log", &["--log-lines"], |directory| {
        std::os::unix::fs::symlink("/dev/full", directory.join("logs/Alone.lines.log")).unwrap();
    });
    fill_log(server.address, 500);
    assert_eq!(Client::connect(server.address).ask("a"), "? a");
}

/// While the process does not run, no time passes for its clients.
#[test]
fn a_process_that_was_stopped_for_a_while_closes_no_live_client() {
    for pool in ["shared", "dedicated"] {
        let flags = ["--pool", pool, "--workers", "8", "--idle-timeout", "1"];
        let server = Server::start(&format!("stopped-{pool}"), &flags, |_| {});
        let mut clients: Vec<_> = (0..5).map(|_| Client::connect(server.address)).collect();
        for client in &mut clients {
            assert_eq!(client.ask("a"), "? a");
        }
        signal(&server.process, "STOP");
        for client in &mut clients {
            client.send("b\n");
        }
        std::thread::sleep(Duration::from_secs(2));
        signal(&server.process, "CONT");
        for client in &mut clients {
            assert_eq!(client.line(), "? b");
        }
        std::thread::sleep(Duration::from_millis(300));
        for client in &mut clients {
            assert_eq!(client.ask("c"), "? c");
        }
    }
}
