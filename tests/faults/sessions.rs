//! Clients that pin their places: by replies that they do not take, by half a line, by a disk that
//! stalls under their reports.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::disk::Tracer;
use super::form::{choose, figure, limit};
use crate::support::fleet::Fleet;
use crate::support::process::wait_for;
use crate::support::{Client, report};

/// Connects with so small a receive buffer that the system takes few replies for the client.
fn connect_small(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2_048).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// Twenty clients take all places, ask for more than they read, and are never heard of again. Some
/// leave half a line.
#[test]
fn clients_that_do_not_read_lose_their_places_in_time() {
    let pools = ["shared", "dedicated"];
    let ways: Vec<_> = pools
        .iter()
        .flat_map(|pool| [(*pool, "x", "1000"), (*pool, "", "1000"), (*pool, "x", "2")])
        .collect();
    thread::scope(|scope| {
        for (pool, rest, idle) in ways {
            scope.spawn(move || {
                let taken = time_to_get_in(pool, rest, idle);
                figure(
                    "clients that do not read",
                    format_args!(
                        "--pool {pool}, --idle-timeout {idle}, half a line {rest:?}: all places free after {:.2} s",
                        taken.as_secs_f64()
                    ),
                );
            });
        }
    });
}

fn time_to_get_in(pool: &str, rest: &str, idle: &str) -> Duration {
    let flags = [
        "--pool",
        pool,
        "--workers",
        "20",
        "--max-clients",
        "20",
        "--idle-timeout",
        idle,
    ];
    let mut fleet = Fleet::alone("pinned", &flags);
    fleet.start_all();
    assert!(
        fleet
            .client(0)
            .ask(&report("kiwi", "+34.068930-118.445127"))
            .starts_with("AT ")
    );
    let questions = "WHATSAT kiwi 50 20\n".repeat(27) + rest;
    wait_for("the first client is gone", limit(2), || {
        fleet.status(0).clients == 0
    });
    let start = Instant::now();
    let pinned: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect_small(fleet.address(0));
            stream.write_all(questions.as_bytes()).unwrap();
            stream
        })
        .collect();
    wait_for("the places are taken", limit(2), || {
        fleet.status(0).clients == 20
    });
    assert_eq!(fleet.client(0).rest(), b"? server full\n");
    wait_for("all places are free", limit(12), || {
        fleet.status(0).clients == 0
    });
    let taken = start.elapsed();
    assert!(taken <= limit(11), "{taken:?}");
    assert_eq!(fleet.client(0).ask("a"), "? a");
    drop(pinned);
    taken
}

/// A client that sends everything before it reads anything is closed in order: it gets the replies that
/// left in time, whole but for the last, and no reset in the place of the end.
#[test]
fn a_client_that_reads_too_late_gets_the_replies_that_left_and_an_end() {
    thread::scope(|scope| {
        for pool in ["shared", "dedicated"] {
            scope.spawn(move || {
                let mut fleet = Fleet::alone("late", &["--pool", pool]);
                fleet.start_all();
                let mut stream = TcpStream::connect(fleet.address(0)).unwrap();
                let lines = "a line that is not a command and comes back\n".repeat(300_000);
                stream.write_all(lines.as_bytes()).unwrap();
                let mut replies = Vec::new();
                stream.read_to_end(&mut replies).unwrap();
                let reply = b"? a line that is not a command and comes back\n";
                let whole = replies.chunks_exact(reply.len());
                assert!(whole.clone().all(|line| line == reply));
                assert!(reply.starts_with(whole.remainder()));
                let taken = replies.len() / reply.len();
                assert!((1_000..300_000).contains(&taken), "{taken}");
                figure(
                    "client that reads too late",
                    format_args!("--pool {pool}: {taken} of 300,000 replies, then the end"),
                );
            });
        }
    });
}

/// The disk does not answer while a report is appended. Reports wait, questions do not.
#[test]
fn questions_are_answered_while_reports_wait_for_a_stalled_disk() {
    for reporters in [1, 8] {
        let mut fleet = Fleet::alone("stall", &[]);
        fleet.start_all();
        let known = fleet.client(0).ask(&report("kiwi", "+1+1"));
        // A new window of the journal is written as zeros first.
        let inject = "inject=pwrite64:delay_enter=3000000:when=1";
        let Some(mut tracer) = Tracer::attach("stalled disk", &fleet, 0, ("pwrite64", inject))
        else {
            return;
        };
        let done = AtomicBool::new(false);
        let (waits, stalls) = thread::scope(|scope| {
            let (fleet, done, known) = (&fleet, &done, &known);
            let askers: Vec<_> = (0..4)
                .map(|_| scope.spawn(move || longest_wait(fleet, known, done)))
                .collect();
            let reporters: Vec<_> = (0..reporters)
                .map(|number| scope.spawn(move || report_until_stalled(fleet, number)))
                .collect();
            let stalls: Vec<_> = reporters
                .into_iter()
                .map(|reporter| reporter.join().unwrap())
                .collect();
            done.store(true, Ordering::Relaxed);
            let waits = askers.into_iter().map(|asker| asker.join().unwrap());
            (waits.collect::<Vec<_>>(), stalls)
        });
        tracer.detach();
        let shortest = stalls.iter().min().unwrap();
        assert!(*shortest > Duration::from_secs(2), "no stall: {stalls:?}");
        let worst = waits.into_iter().max().unwrap();
        assert!(
            worst < choose(Duration::from_secs(1), Duration::from_millis(50)),
            "{worst:?}"
        );
        figure(
            "questions beside a stalled disk",
            format_args!(
                "{reporters} reports waiting 3 s: the worst of four clients' answers after {:.1} ms",
                worst.as_secs_f64() * 1e3
            ),
        );
    }
}

/// Asks one question after the other. Returns the longest time to an answer.
fn longest_wait(fleet: &Fleet, known: &str, done: &AtomicBool) -> Duration {
    let mut client = fleet.client(0);
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let start = Instant::now();
        assert_eq!(client.whatsat("kiwi"), known);
        longest = longest.max(start.elapsed());
        thread::sleep(Duration::from_millis(2));
    }
    longest
}

/// Reports until an answer takes long, which all must get in the end. Returns how long it took.
fn report_until_stalled(fleet: &Fleet, number: usize) -> Duration {
    let mut client = fleet.client(0);
    let patience = Some(Duration::from_secs(30));
    client.stream().set_read_timeout(patience).unwrap();
    let begin = Instant::now();
    let mut round = 0;
    loop {
        assert!(begin.elapsed() < Duration::from_secs(20), "no stall");
        let lines: Vec<_> = (0..16)
            .map(|line| report(&format!("client-{number}-{round}-{line}"), "+1+1"))
            .collect();
        round += 1;
        let start = Instant::now();
        client.send(lines.join("\n") + "\n");
        for _ in &lines {
            assert!(client.line().starts_with("AT "));
        }
        if start.elapsed() > Duration::from_secs(1) {
            return start.elapsed();
        }
    }
}

/// Clients that do not read take no more memory together than they may; those go that have waited
/// longest.
#[test]
fn the_oldest_of_too_many_unread_replies_go() {
    let mut fleet = Fleet::alone("unsent", &["--max-unsent-bytes", "1048576"]);
    fleet.start_all();
    let lines = "x\n".repeat(8 << 20);
    // Each leaves 64 KiB with the system, and a little with its session.
    let connect = || {
        let mut stream = connect_small(fleet.address(0));
        stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        assert!(stream.write_all(lines.as_bytes()).is_err());
        stream
    };
    let mut streams: Vec<_> = (0..5).map(|_| connect()).collect();
    assert_eq!(fleet.status(0).clients, 5);
    streams.extend((0..15).map(|_| connect()));
    wait_for("the first are gone", limit(2), || {
        fleet.status(0).clients <= 15
    });
    fleet.await_logged(0, "clients with untaken replies disconnected");
    // Replies that the system held are still there, and then the end.
    let mut first = streams.remove(0);
    let mut replies = Vec::new();
    let _ = first.read_to_end(&mut replies);
    assert!(replies.starts_with(b"? x\n"));
    let newest = streams.last_mut().unwrap();
    newest.set_nonblocking(true).unwrap();
    let mut taken = 0;
    let end = loop {
        match newest.read(&mut [0; 4_096]) {
            Ok(bytes) if bytes > 0 => taken += bytes,
            end => break end,
        }
    };
    assert!(taken > 0);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(fleet.client(0).ask("a"), "? a");
}

/// Clients that wait for a worker when the server stops are answered, and closed in order.
#[test]
fn clients_in_the_queue_are_answered_at_a_stop() {
    let mut fleet = Fleet::alone("queued", &["--pool", "dedicated", "--workers", "1"]);
    fleet.start_all();
    let mut first = fleet.client(0);
    assert_eq!(first.ask("a"), "? a");
    let mut queued: Vec<_> = (0..3).map(|_| fleet.client(0)).collect();
    for client in &mut queued {
        client.send("b\n");
    }
    wait_for("they are in the queue", limit(2), || {
        fleet.status(0).clients == 4
    });
    let start = Instant::now();
    fleet.signal(0, "TERM");
    for client in &mut queued {
        let rest: &mut Client = client;
        assert_eq!(rest.rest(), b"? b\n");
    }
    drop((first, queued));
    assert_eq!(fleet.wait(0), Some(0));
    assert!(start.elapsed() < limit(4), "{:?}", start.elapsed());
}
