//! Threads of a server that hang or end while the rest of it goes on: each is noticed and named, and
//! what only looks like that is not.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use herd::health::State;

use super::disk::Tracer;
use super::form::{can_run, choose, figure, is_long, limit, skipped, spread};
use crate::support::fleet::Fleet;
use crate::support::http::{self, get, try_get};
use crate::support::load::{FULL, Load};
use crate::support::process::{free_addresses, wait_for};
use crate::support::{Client, report};

/// Part of a line of the log that says that a thread hangs.
const HANGS: &str = "has been in one piece of work for";

/// Part of a line of the log that says that a thread is gone.
const ENDED: &str = " has ended";

/// Threads of a server that has a neighbor, a journal and two workers; without each of them it still
/// starts and takes clients.
const THREADS: [&str; 21] = [
    "disk-stall",
    "health",
    "http-0",
    "http-herd",
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
    "watch",
    "worker-0",
    "worker-watch",
];

/// A server whose neighbor does not run, with the fault of one of its threads, and its HTTP port.
fn faulty(thread: &str, fault: &str) -> (Fleet, SocketAddr) {
    // Without some threads it never says that it is ready, and so not which port it has.
    let [http, _] = free_addresses();
    let flags = ["--workers", "2", "--http", &http.to_string()];
    let mut fleet = Fleet::pair("threads", &flags);
    let mut command = fleet.command(0);
    command.env("HERD_THREAD_FAULT", format!("{thread}:{fault}"));
    fleet.launch_as(0, command);
    wait_for("the HTTP port", limit(5), || {
        try_get(http, "/livez").is_some()
    });
    (fleet, http)
}

/// Waits until `/livez` says that a thread is not well, and returns the reason.
#[track_caller]
fn problem(http: SocketAddr, limit: Duration) -> String {
    let mut reason = String::new();
    wait_for("a thread that is not well", limit, || {
        let answer = get(http, "/livez");
        reason = answer.text().trim_end().to_owned();
        assert_eq!(answer.status == 200, reason == "ok", "{answer:?}");
        answer.status == 503
    });
    reason
}

/// Asks servers for `/livez` all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Watch {
    fn start(fleet: &Fleet) -> Watch {
        let address = |server| http::address(fleet.ready_line(server));
        let addresses: Vec<_> = (0..fleet.len()).map(address).collect();
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut problems = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for &address in &addresses {
                    // One that is stopped does not answer.
                    let answer = try_get(address, "/livez");
                    problems.extend(
                        answer
                            .filter(|answer| answer.status != 200)
                            .map(|answer| answer.text().to_owned()),
                    );
                }
                thread::park_timeout(Duration::from_millis(100));
            }
            problems
        });
        Watch { stop, thread }
    }

    /// Asserts that all answers were that all is well, and looks once more.
    #[track_caller]
    fn assert_well(self, fleet: &Fleet, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.thread.join().unwrap(), [""; 0], "{what}");
        for server in 0..fleet.len() {
            let address = http::address(fleet.ready_line(server));
            assert_eq!(get(address, "/livez").text(), "ok\n", "{what}");
        }
    }
}

/// Returns whether the program has faults of threads, and prints that the test is skipped if not.
fn has_faults(what: &str) -> bool {
    if !cfg!(debug_assertions) {
        skipped(
            what,
            "threads have faults in builds with debug assertions only",
        );
    }
    cfg!(debug_assertions)
}

#[test]
fn a_thread_that_ends_is_named_at_once() {
    if !has_faults("threads that end") {
        return;
    }
    let threads = [
        "http-herd",
        "link-audit",
        "link-sender-Welsh",
        "log-writer",
        "markers",
        "timer",
        "upkeep",
        "worker-0",
    ];
    let servers = threads.map(|name| (name, faulty(name, "end")));
    for (name, (mut fleet, http)) in servers {
        let expected = format!("thread {name} has ended");
        assert_eq!(problem(http, limit(3)), expected);
        fleet.await_ready(0);
        assert_eq!(fleet.client(0).ask("a"), "? a", "{name}");
        assert_eq!(get(http, "/readyz?verbose").status, 200, "{name}");
    }
}

/// A removed neighbor's threads end as they should.
#[test]
fn threads_that_were_told_to_end_are_not_missed() {
    let mut fleet = Fleet::pair("told", &["--log-level", "info", "--http", "0"]);
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
    let watch = Watch::start(&fleet);
    fleet.signal(0, "HUP");
    fleet.await_logged(0, "reloaded: ");
    // Longer than between two looks.
    thread::sleep(Duration::from_millis(1_500));
    watch.assert_well(&fleet, "reload");
    fleet.signal(0, "TERM");
    assert_eq!(fleet.wait(0), Some(0));
    assert_eq!(fleet.logged(0, ENDED), 0);
}

/// Each of the threads waiting for ever, and in the long form computing for ever too.
#[test]
fn a_thread_that_hangs_is_named_after_ten_seconds_and_others_go_on() {
    if !has_faults("hanging threads") {
        return;
    }
    let mut took = Vec::new();
    // Threads that compute share two processors.
    let faults = [("stall", THREADS.len()), ("spin", 2)];
    for (fault, at_once) in &faults[..choose(1, 2)] {
        for names in THREADS.chunks(*at_once) {
            let start = Instant::now();
            let hanging: Vec<_> = thread::scope(|scope| {
                let hang = |&name| scope.spawn(move || time_to_be_named(name, fault));
                let hanging: Vec<_> = names.iter().map(hang).collect();
                hanging.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert!(start.elapsed() < limit(60));
            took.extend(hanging);
        }
    }
    assert!(took.iter().all(|took| *took >= Duration::from_secs(10)));
    figure(
        "hanging threads",
        format_args!("named after {}", spread(&mut took)),
    );
}

/// Returns the time from the start of a server to the answer that names the thread.
fn time_to_be_named(name: &str, fault: &str) -> Duration {
    let start = Instant::now();
    let (mut fleet, http) = faulty(name, fault);
    let reason = problem(http, limit(14));
    let took = start.elapsed();
    assert!(
        reason.starts_with(&format!("thread {name} {HANGS} ")),
        "{fault}: {reason}"
    );
    if name != "log-writer" {
        fleet.await_logged(0, HANGS);
        assert_eq!(fleet.logged(0, HANGS), 1, "{name}:{fault}");
    }
    assert_eq!(get(http, "/status").status, 200, "{name}:{fault}");
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
    let mut idle = Fleet::pair("idle", &["--http", "0"]);
    idle.start_all();
    let idling = Watch::start(&idle);
    for pool in ["shared", "dedicated"] {
        let mut fleet = Fleet::alone("busy", &["--pool", pool, "--http", "0"]);
        fleet.start_all();
        let watch = Watch::start(&fleet);
        let loads: Vec<_> = (0..4)
            .map(|load| Load::start(fleet.address(0), &format!("load-{load}"), FULL))
            .collect();
        thread::sleep(LONG);
        for load in loads {
            load.finish();
        }
        watch.assert_well(&fleet, pool);
    }
    thread::sleep(2 * LONG);
    idling.assert_well(&idle, "idle");
}

#[test]
fn a_server_that_was_stopped_for_long_is_well_when_it_goes_on() {
    if !is_long() {
        return;
    }
    let mut fleet = Fleet::pair("stopped", &["--http", "0"]);
    fleet.start_all();
    let watch = Watch::start(&fleet);
    let loads =
        [0, 1].map(|server| Load::start(fleet.address(server), &format!("load-{server}"), FULL));
    for _ in 0..3 {
        // One of the two each time: the other has a neighbor that does not respond.
        fleet.signal(0, "STOP");
        thread::sleep(LONG);
        fleet.signal(0, "CONT");
        thread::sleep(Duration::from_secs(2));
    }
    for load in loads {
        load.finish();
    }
    watch.assert_well(&fleet, "stopped");
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
        let mut fleet = Fleet::pair("stall", &["--pool", pool, "--ack", ack, "--http", "0"]);
        fleet.start_all();
        let watch = Watch::start(&fleet);
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
        watch.assert_well(&fleet, ack);
    }
}

#[test]
fn clients_that_do_not_read_hang_no_thread() {
    if !is_long() {
        return;
    }
    let flags = ["--pool", "dedicated", "--workers", "2", "--http", "0"];
    let mut fleet = Fleet::alone("unread", &flags);
    fleet.start_all();
    let watch = Watch::start(&fleet);
    let lines = "a line that comes back\n".repeat(300_000);
    let clients: Vec<Client> = (0..2).map(|_| fleet.client(0)).collect();
    for client in &clients {
        let mut stream = client.stream();
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        assert!(stream.write_all(lines.as_bytes()).is_err());
    }
    thread::sleep(LONG);
    watch.assert_well(&fleet, "clients that do not read");
}

/// The log goes to a pipe that nobody reads.
#[test]
fn a_log_that_nobody_takes_hangs_no_thread() {
    if !is_long() {
        return;
    }
    let mut fleet = Fleet::alone("pipe", &["--http", "0", "--log-lines"]);
    let path = fleet.directory.0.join("logs/Alone.lines.log");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(can_run(&["mkfifo", path.to_str().unwrap()]));
    let options = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path);
    let reader = options.unwrap();
    fleet.start_all();
    let watch = Watch::start(&fleet);
    let load = Load::start(fleet.address(0), "load", FULL);
    thread::sleep(LONG);
    let problems = fleet.problems(0);
    load.finish();
    assert!(
        problems
            .iter()
            .any(|(state, _)| *state == State::LogFailing),
        "{problems:?}"
    );
    watch.assert_well(&fleet, "log");
    drop(reader);
}
