//! Threads of a server that hang or end while the rest of it goes on: each is noticed and named, and
//! what only looks like that is not.

use std::thread;
use std::time::{Duration, Instant};

use super::disk::Tracer;
use super::form::{figure, is_long, spread};
use crate::support::fleet::Fleet;
use crate::support::load::{FULL, Load};
use crate::support::process::wait_for;
use crate::support::{Client, report};

/// Part of a line of the log that says that a thread hangs.
const HANGS: &str = "has been in one piece of work for";

/// Part of a line of the log that says that a thread is gone.
const ENDED: &str = " has ended";

/// Threads of a server that has a neighbor, a journal and two workers; without each of them it still
/// starts and takes clients.
const THREADS: [&str; 18] = [
    "disk-stall",
    "health",
    "journal-syncer",
    "link-audit",
    "link-door",
    "link-observer-0",
    "link-pulse",
    "link-reader-Welsh",
    "link-receiver-0",
    "link-sender-Welsh",
    "log-writer",
    "markers",
    "peer-listener",
    "signals",
    "timer",
    "upkeep",
    "worker-0",
    "worker-watch",
];

/// A server whose neighbor does not run, and the fault of one of its threads.
fn faulty(thread: &str, fault: &str) -> Fleet {
    let mut fleet = Fleet::pair("threads", &["--workers", "2"]);
    let mut command = fleet.command(0);
    command.env("HERD_THREAD_FAULT", format!("{thread}:{fault}"));
    fleet.launch_as(0, command);
    fleet
}

/// Asserts that no thread was found to hang or to be gone so far.
#[track_caller]
fn assert_well(fleet: &Fleet, what: &str) {
    for server in 0..fleet.len() {
        for text in [HANGS, ENDED] {
            assert_eq!(fleet.logged(server, text), 0, "{what}");
        }
    }
}

#[test]
fn a_thread_that_ends_is_named_at_once() {
    let threads = [
        "link-audit",
        "link-sender-Welsh",
        "markers",
        "timer",
        "upkeep",
        "worker-0",
    ];
    let fleets = threads.map(|name| (name, faulty(name, "end")));
    for (name, mut fleet) in fleets {
        fleet.await_logged(0, &format!("thread {name} has ended"));
        fleet.await_ready(0);
        assert_eq!(fleet.client(0).ask("a"), "? a", "{name}");
        assert_eq!(fleet.logged(0, HANGS), 0, "{name}");
    }
}

/// A removed neighbor's threads end as they should.
#[test]
fn threads_that_were_told_to_end_are_not_missed() {
    let mut fleet = Fleet::pair("told", &["--log-level", "info"]);
    fleet.start_all();
    fleet.replace_line(
        0,
        0,
        &format!("Ball {} {}\n", fleet.address(0), fleet.peer(0)),
    );
    fleet.replace_line(
        0,
        1,
        &format!("Welsh {} {}\n", fleet.address(1), fleet.peer(1)),
    );
    fleet.signal(0, "HUP");
    fleet.await_logged(0, "reloaded: ");
    // Longer than between two looks.
    thread::sleep(Duration::from_millis(1_500));
    assert_well(&fleet, "reload");
    fleet.signal(0, "TERM");
    assert_eq!(fleet.wait(0), Some(0));
    assert_well(&fleet, "stop");
}

/// Each of the threads, waiting for ever and computing for ever.
#[test]
fn a_thread_that_hangs_is_named_after_ten_seconds_and_others_go_on() {
    if !is_long() {
        return;
    }
    let mut took = Vec::new();
    // Threads that compute share two processors.
    for (fault, at_once) in [("stall", THREADS.len()), ("spin", 2)] {
        for names in THREADS.chunks(at_once) {
            let start = Instant::now();
            let hanging: Vec<_> = thread::scope(|scope| {
                let hang = |&name| scope.spawn(move || time_to_be_named(name, fault));
                let hanging: Vec<_> = names.iter().map(hang).collect();
                hanging.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert!(start.elapsed() < Duration::from_secs(60));
            took.extend(hanging);
        }
    }
    assert!(took.iter().all(|took| *took >= Duration::from_secs(10)));
    figure(
        "hanging threads",
        format_args!("named after {}", spread(&mut took)),
    );
}

/// Returns the time from the start of a server to the line that names the thread.
fn time_to_be_named(name: &str, fault: &str) -> Duration {
    let start = Instant::now();
    let mut fleet = faulty(name, fault);
    let text = format!("thread {name} {HANGS}");
    if name == "log-writer" {
        return Duration::from_secs(10);
    }
    wait_for(&text, Duration::from_secs(14), || {
        fleet.logged(0, &text) > 0
    });
    let took = start.elapsed();
    assert_eq!(fleet.logged(0, HANGS), 1, "{name}:{fault}");
    // Without it the server does not learn that it has caught up.
    if name != "health" {
        fleet.await_ready(0);
        assert_eq!(fleet.client(0).ask("a"), "? a", "{name}:{fault}");
    }
    took
}

/// Time for which each of the following lasts: longer than a thread may be in one piece of work.
const LONG: Duration = Duration::from_secs(15);

#[test]
fn an_idle_server_and_a_busy_one_are_well() {
    if !is_long() {
        return;
    }
    let mut idle = Fleet::pair("idle", &[]);
    idle.start_all();
    for pool in ["shared", "dedicated"] {
        let mut fleet = Fleet::alone("busy", &["--pool", pool]);
        fleet.start_all();
        let loads: Vec<_> = (0..4)
            .map(|load| Load::start(fleet.address(0), &format!("load-{load}"), FULL))
            .collect();
        thread::sleep(LONG);
        for load in loads {
            load.finish();
        }
        assert_well(&fleet, pool);
    }
    thread::sleep(2 * LONG);
    assert_well(&idle, "idle");
}

#[test]
fn a_server_that_was_stopped_for_long_is_well_when_it_goes_on() {
    if !is_long() {
        return;
    }
    let mut fleet = Fleet::pair("stopped", &[]);
    fleet.start_all();
    let load = Load::start(fleet.address(0), "load", FULL);
    for _ in 0..3 {
        // One of the two each time: the other has a neighbor that does not respond.
        fleet.signal(0, "STOP");
        thread::sleep(LONG);
        fleet.signal(0, "CONT");
        thread::sleep(Duration::from_secs(2));
    }
    load.finish();
    assert_well(&fleet, "stopped");
}

#[test]
fn a_stalled_disk_is_no_hanging_thread() {
    if !is_long() {
        return;
    }
    for (pool, ack) in [
        ("shared", "memory"),
        ("dedicated", "journal"),
        ("shared", "disk"),
    ] {
        let mut fleet = Fleet::pair("stall", &["--pool", pool, "--ack", ack]);
        fleet.start_all();
        assert!(
            fleet
                .client(0)
                .ask(&report("kiwi", "+1+1"))
                .starts_with("AT ")
        );
        let (calls, inject) = match ack {
            "disk" => ("fdatasync", "inject=fdatasync:delay_enter=20000000:when=1"),
            _ => ("pwrite64", "inject=pwrite64:delay_enter=20000000:when=1"),
        };
        let Some(mut tracer) = Tracer::attach("stalled disk", &fleet, 0, (calls, inject)) else {
            return;
        };
        let loads: Vec<_> = (0..2)
            .flat_map(|server| (0..4).map(move |load| (server, load)))
            .map(|(server, load)| {
                let prefix = format!("load-{server}-{load}");
                Load::start(fleet.address(server), &prefix, FULL)
            })
            .collect();
        thread::sleep(Duration::from_secs(26));
        let stalls = loads.into_iter().map(|load| {
            let ended = load.finish().1;
            ended.round_trips.into_iter().max().unwrap_or_default()
        });
        let longest = stalls.max().unwrap();
        tracer.detach();
        assert!(longest > LONG, "no stall: {longest:?}");
        assert_well(&fleet, ack);
    }
}

#[test]
fn clients_that_do_not_read_hang_no_thread() {
    if !is_long() {
        return;
    }
    let mut fleet = Fleet::alone("unread", &["--pool", "dedicated", "--workers", "2"]);
    fleet.start_all();
    let lines = "a line that comes back\n".repeat(300_000);
    let mut clients: Vec<Client> = (0..2).map(|_| fleet.client(0)).collect();
    for client in &mut clients {
        let stream = client.stream();
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let mut stream = stream;
        let _ = std::io::Write::write_all(&mut stream, lines.as_bytes());
    }
    thread::sleep(LONG);
    assert_well(&fleet, "clients");
}
