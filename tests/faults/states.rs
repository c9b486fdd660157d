//! Each state of a server, brought about in a real process: `herd status` tells it within 2 s, with its
//! reason and exit code 1, and no longer than 2 s after its end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use herd::health::State;

use super::disk::{MOUNT, fill, own_mounts};
use super::form::{figure, limit, skipped};
use crate::support::fleet::Fleet;
use crate::support::load::{STEADY, loads};
use crate::support::process::{behind, herd, wait, wait_for, wait_until};
use crate::support::report;

const BALL: usize = 0;
const WELSH: usize = 1;

/// End of the line of a server that was ready without a neighbor.
const ALONE: &str = "; alone: no neighbor answered within 2 s\n";

/// Waits until all links of a fleet are live and no server has a problem.
#[track_caller]
fn await_well(fleet: &Fleet) {
    for server in 0..fleet.len() {
        wait_until("the server is well", || {
            let status = fleet.status(server);
            let is_live = |one: &herd::link::neighbor::LinkStatus| {
                one.phase == herd::link::neighbor::LinkPhase::Live
            };
            status.problems.is_empty() && status.links.values().all(is_live)
        });
    }
}

/// Waits until a server tells the state, with that text in its reason. `herd status` must show it
/// then, and exit with 1. Returns the time since `fault`.
#[track_caller]
pub(super) fn told(
    fleet: &Fleet,
    server: usize,
    state: State,
    text: &str,
    fault: Instant,
) -> Duration {
    wait_for(&format!("{state}: {text}"), limit(2), || {
        let problems = fleet.problems(server);
        problems
            .iter()
            .any(|(found, reason)| *found == state && reason.contains(text))
    });
    let time = fault.elapsed();
    let (code, table) = shown(fleet, server, &[]);
    let (json_code, json) = shown(fleet, server, &["--json"]);
    assert_eq!((code, json_code), (1, 1), "{table}");
    let row = format!("\n{} ", fleet.name(server));
    let (_, row) = table.split_once(&row).unwrap();
    let worst = fleet.status(server).state;
    assert!(row.trim_start().starts_with(worst.name()), "{table}");
    // Beneath its row; the reason may be wrapped.
    assert!(row.contains(&format!("\n    {state} for ")), "{table}");
    assert!(json.starts_with(r#"{"version":1,"#), "{json}");
    assert!(
        json.contains(&format!(r#"{{"state":"{state}","since":"#)),
        "{json}"
    );
    time
}

/// Waits until a server no longer tells the state. Returns the time since `end`.
#[track_caller]
pub(super) fn cleared(fleet: &Fleet, server: usize, state: State, end: Instant) -> Duration {
    wait_for(&format!("the end of {state}"), limit(2), || {
        let problems = fleet.problems(server);
        problems.iter().all(|(found, _)| *found != state)
    });
    end.elapsed()
}

/// Exit code and output of `herd status`.
fn shown(fleet: &Fleet, server: usize, flags: &[&str]) -> (i32, String) {
    let path = fleet.servers_path(server);
    let arguments = ["status", "--servers", path.to_str().unwrap()];
    let output = herd(&fleet.directory, &[&arguments, flags].concat())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text)
}

pub(super) fn record(state: State, told: Duration, cleared: Duration) {
    let (told, cleared) = (told.as_secs_f64(), cleared.as_secs_f64());
    figure(
        &format!("state {state}"),
        format_args!("told after {told:.2} s, cleared after {cleared:.2} s"),
    );
}

#[test]
fn full_is_told_until_there_is_room() {
    let mut fleet = Fleet::alone("state-full", &["--max-records", "2"]);
    fleet.start(0);
    let mut client = fleet.client(0);
    client.ask(&report("a", "+1+1"));
    assert_eq!(shown(&fleet, 0, &[]).0, 0);
    client.ask(&report("b", "+1+1"));
    let fault = Instant::now();
    let told = told(&fleet, 0, State::Full, "--max-records is 2", fault);
    fleet.kill(0);
    let mut command = fleet.command(0);
    command.args(["--max-records", "3"]);
    // The last of two counts for argh only if the first is gone.
    let mut larger = Command::new(command.get_program());
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let first = arguments
        .iter()
        .position(|word| word == "--max-records")
        .unwrap();
    larger
        .args(&arguments[..first])
        .args(&arguments[first + 2..])
        .current_dir(fleet.directory.path());
    fleet.start_as(0, larger);
    let cleared = cleared(&fleet, 0, State::Full, Instant::now());
    record(State::Full, told, cleared);
}

#[test]
fn refusing_clients_is_told_until_there_is_room() {
    let mut fleet = Fleet::alone("state-refusing", &["--max-clients", "2"]);
    fleet.start(0);
    let mut clients: Vec<_> = (0..2).map(|_| fleet.client(0)).collect();
    for client in &mut clients {
        client.ask(&report("a", "+1+1"));
    }
    assert_eq!(
        shown(&fleet, 0, &[]).0,
        0,
        "at capacity none is refused yet"
    );
    let fault = Instant::now();
    assert_eq!(fleet.client(0).line(), "? server full");
    let state = State::RefusingClients;
    let told = told(&fleet, 0, state, "2 are connected, and 2 may be", fault);
    // It holds although no other client comes.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fleet.status(0).state, state);
    clients.pop();
    record(state, told, cleared(&fleet, 0, state, Instant::now()));
}

#[test]
fn alone_is_told_from_two_seconds_after_the_last_link() {
    let mut fleet = Fleet::pair("state-alone", &[]);
    fleet.start_all();
    await_well(&fleet);
    fleet.kill(WELSH);
    let fault = Instant::now();
    wait_for("alone", limit(5), || {
        fleet.status(BALL).state == State::Alone
    });
    assert!(fault.elapsed() >= Duration::from_millis(1_700));
    let told = told(&fleet, BALL, State::Alone, "Connection refused", fault);
    fleet.start(WELSH);
    wait_until("a link", || fleet.is_live(BALL, WELSH));
    let cleared = cleared(&fleet, BALL, State::Alone, Instant::now());
    record(State::Alone, told, cleared);
}

#[test]
fn removed_is_told_until_the_server_is_back() {
    let mut fleet = Fleet::pair("state-removed", &[]);
    fleet.start_all();
    await_well(&fleet);
    let whole = fleet.servers_text(WELSH);
    let line = format!("Welsh {} {}\n", fleet.address(WELSH), fleet.peer(WELSH));
    fleet.replace_line(WELSH, WELSH, &line);
    fleet.replace_line(WELSH, BALL, "");
    fleet.signal(WELSH, "HUP");
    let fault = Instant::now();
    let told = told(&fleet, BALL, State::Removed, "no neighbor there", fault);
    fs::write(fleet.servers_path(WELSH), whole).unwrap();
    fleet.signal(WELSH, "HUP");
    let cleared = cleared(&fleet, BALL, State::Removed, Instant::now());
    record(State::Removed, told, cleared);
}

#[test]
fn a_changed_journal_is_told_until_it_is_written_again() {
    let mut fleet = Fleet::alone("state-journal", &[]);
    fleet.start(0);
    fleet.client(0).ask(&report("a", "+1+1"));
    fs::remove_file(fleet.data(0).join("journal-1.log")).unwrap();
    let fault = Instant::now();
    let state = State::JournalFailing;
    let told = told(&fleet, 0, state, "was deleted or moved", fault);
    wait_until("a new journal", || {
        fleet.data(0).join("journal-2.log").exists()
    });
    record(state, told, cleared(&fleet, 0, state, Instant::now()));
}

/// Starts a server with a folder on a file system of 1 MiB, which it fills up and frees again.
fn on_full_disk(label: &str, folder: &str, state: State, text: &str) {
    let Some(mut words) = own_mounts() else {
        return skipped(&state.to_string(), "no permission to mount a file system");
    };
    let mut fleet = Fleet::alone(label, &["--log-level", "info"]);
    let path = fleet.directory.path().join(folder);
    fs::create_dir_all(&path).unwrap();
    let shown = path.display().to_string();
    words.extend(["sh", "-c", MOUNT, &shown]);
    let command = behind(&words, &fleet.command(0));
    fleet.start_as(0, command);
    let root = fleet.process(0).proc("root");
    let filler = root.join(path.strip_prefix("/").unwrap()).join("filler");
    let mut client = fleet.client(0);
    let mut number = 0;
    let mut ask = || {
        number += 1;
        client.ask(&report(&format!("client-{number}"), "+1+1"))
    };
    assert!(ask().starts_with("AT "));
    fill(&filler);
    let fault = match state {
        State::JournalFailing => {
            wait_until("a report is refused", || ask().starts_with("? "));
            Instant::now()
        }
        _ => {
            // More than the rest of the last page takes.
            (0..200).for_each(|_| drop(ask()));
            Instant::now()
        }
    };
    let told = told(&fleet, 0, state, text, fault);
    fs::remove_file(&filler).unwrap();
    // Nothing is reported meanwhile.
    let cleared = cleared(&fleet, 0, state, Instant::now());
    assert!(ask().starts_with("AT "));
    record(state, told, cleared);
}

#[test]
fn a_full_disk_is_told_until_there_is_room() {
    let state = State::JournalFailing;
    on_full_disk("state-disk", "data", state, "reports are refused");
}

#[test]
fn a_log_that_cannot_be_written_is_told_until_it_can() {
    on_full_disk("state-log", "logs", State::LogFailing, "Alone.log");
}

/// An upstream that answers every request with the status, and 200 with no places.
fn upstream(status: &Arc<AtomicU16>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::clone(status);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let status = status.load(Ordering::Relaxed);
            std::thread::spawn(move || drop(answer(stream, status)));
        }
    });
    address
}

fn answer(stream: TcpStream, status: u16) -> std::io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    let body = r#"{"version":0.6,"elements":[]}"#;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    (&stream).write_all((head + body).as_bytes())
}

#[test]
fn a_failing_places_provider_is_told_until_a_call_succeeds() {
    let status = Arc::new(AtomicU16::new(200));
    let url = format!("http://{}/", upstream(&status));
    let flags = ["--places", "overpass", "--places-url", &url];
    let mut fleet = Fleet::alone("state-places", &flags);
    fleet.start(0);
    let mut client = fleet.client(0);
    client.ask(&report("a", "+1+1"));
    let mut radius = 0;
    let mut search = || {
        // No answer is taken from the cache.
        radius += 1;
        client.send(format!("WHATSAT a 0.{radius} 5\n"));
        while !client.line().is_empty() {}
    };
    search();
    assert_eq!(shown(&fleet, 0, &[]).0, 0);
    let state = State::PlacesFailing;
    for (code, calls, text) in [
        (403, 1, "refuses the last call"),
        (500, 3, "the last 3 calls to the places provider failed"),
        (500, 20, "calls to it are suspended"),
    ] {
        status.store(code, Ordering::Relaxed);
        (0..calls).for_each(|_| search());
        let told = told(&fleet, 0, state, text, Instant::now());
        status.store(200, Ordering::Relaxed);
        if calls == 20 {
            // The breaker lets no call pass for 5 s.
            std::thread::sleep(Duration::from_secs(5));
            assert_eq!(fleet.status(0).state, state);
        }
        search();
        record(state, told, cleared(&fleet, 0, state, Instant::now()));
    }
}

/// A server that comes back with an empty folder, and whose neighbor takes seconds to send everything,
/// is in state starting, and serves nobody before it has caught up.
#[test]
fn starting_is_told_until_the_server_has_caught_up() {
    let mut fleet = Fleet::pair("state-starting", &["--log-level", "info"]).with_proxies();
    fleet.start(WELSH);
    let ready = fleet.ready_line(WELSH);
    assert!(ready.ends_with(ALONE), "{ready}");
    fleet.start(BALL);
    await_well(&fleet);
    fleet.kill(BALL);
    let names = fleet.client(WELSH).report_all("known", 10_000);
    // About 800 KB.
    fleet.link(WELSH, BALL).slow_down(200_000);
    fleet.launch(BALL);
    let fault = Instant::now();
    let address = fleet.peer(BALL);
    wait_until("the peer port", || TcpStream::connect(address).is_ok());
    let state = State::Starting;
    let told = told(&fleet, BALL, state, "receiving records: ", fault);
    let mut client = fleet.client(BALL);
    let last = names.last().unwrap();
    client.send(format!("WHATSAT {last} 0 0\n"));
    let early = client.stream();
    early
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let read = early.peek(&mut [0]);
    assert!(read.is_err(), "it was answered before the server was ready");
    early
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    fleet.await_ready(BALL);
    let end = Instant::now();
    assert!(
        fault.elapsed() > Duration::from_secs(2),
        "{:?}",
        fault.elapsed()
    );
    let ready = fleet.ready_line(BALL);
    assert!(ready.ends_with("; caught up with Welsh\n"), "{ready}");
    assert!(client.line().starts_with("AT Welsh "));
    while !client.line().is_empty() {}
    assert!(fleet.logged(BALL, "receiving records: ") > 0);
    record(state, told, cleared(&fleet, BALL, state, end));

    // Stopped in the middle, it ends at once.
    fleet.kill(BALL);
    fs::remove_dir_all(fleet.data(BALL)).unwrap();
    fleet.launch(BALL);
    wait_until("the peer port", || TcpStream::connect(address).is_ok());
    wait_until("starting", || fleet.status(BALL).state == state);
    let stopped = Instant::now();
    fleet.signal(BALL, "TERM");
    assert_eq!(wait(fleet.process_mut(BALL)), Some(0));
    let stopped = stopped.elapsed();
    assert!(stopped < limit(2), "{stopped:?}");
}

/// The neighbor dies while it sends: the server waits for another one for 2 s.
#[test]
fn a_neighbor_that_dies_in_a_resync_is_not_waited_for() {
    let mut fleet = Fleet::pair("state-dies", &[]).with_proxies();
    fleet.start_all();
    await_well(&fleet);
    fleet.kill(BALL);
    fleet.client(WELSH).report_all("known", 5_000);
    fleet.link(WELSH, BALL).slow_down(50_000);
    fleet.launch(BALL);
    let address = fleet.peer(BALL);
    wait_until("the peer port", || TcpStream::connect(address).is_ok());
    wait_until("receiving", || {
        let problems = fleet.problems(BALL);
        problems.iter().any(|(_, reason)| {
            reason.contains(" from Welsh so far") && !reason.contains(": 0 from")
        })
    });
    fleet.kill(WELSH);
    // With what is still on its way.
    fleet.link(WELSH, BALL).cut();
    let died = Instant::now();
    fleet.await_ready(BALL);
    let waited = died.elapsed();
    assert!(
        waited > Duration::from_millis(1_500) && waited < limit(3),
        "{waited:?}"
    );
    let ready = fleet.ready_line(BALL);
    assert!(ready.ends_with(ALONE), "{ready}");
}

/// A client that was known before is known after, however early the question comes.
#[test]
fn a_server_that_comes_back_under_load_knows_every_client() {
    let mut fleet = Fleet::ring("state-back", &[]);
    fleet.start_all();
    let ball = (0..fleet.len())
        .find(|&server| fleet.name(server) == "Ball")
        .unwrap();
    let other = (ball + 1) % fleet.len();
    let mut names = fleet.client(ball).report_all("before", 500);
    let addresses: Vec<_> = (0..fleet.len())
        .filter(|&server| server != ball)
        .map(|server| fleet.address(server))
        .collect();
    let loads = loads(addresses, "load", STEADY);
    let (mut asked, mut ready) = (0, Vec::new());
    for round in 0..super::form::choose(2, 10) {
        // A neighbor scans its cache once a second for each link.
        std::thread::sleep(Duration::from_secs(1));
        fleet.kill(ball);
        let away = format!("away-{round}");
        names.extend(fleet.client(other).report_all(&away, 500));
        let last = names.last().unwrap().clone();
        for server in (0..fleet.len()).filter(|&server| server != ball) {
            wait_until("the others hold them", || {
                fleet.client(server).whatsat(&last).starts_with("AT ")
            });
        }
        let started = Instant::now();
        fleet.launch(ball);
        // Before it is ready: the connection waits with the kernel.
        wait_until("the client port", || {
            TcpStream::connect(fleet.address(ball)).is_ok()
        });
        let replies = fleet
            .client(ball)
            .whatsat_all(names.iter().map(String::as_str));
        ready.push(started.elapsed());
        let unknown = replies.iter().filter(|reply| !reply.starts_with("AT "));
        assert_eq!(unknown.count(), 0, "of {}", replies.len());
        asked += replies.len();
        fleet.await_ready(ball);
        let line = fleet.ready_line(ball);
        assert!(line.contains("; caught up with "), "{line}");
    }
    for load in loads {
        load.finish();
    }
    figure(
        "server that comes back under load",
        format_args!(
            "{asked} questions for known clients, 0 refused, all answered after {}",
            super::form::spread(&mut ready)
        ),
    );
}

/// Two neighbors that come back together lack the same, and do not take each other for caught up.
#[test]
fn neighbors_that_come_back_together_know_every_client() {
    let mut fleet = Fleet::ring("state-both", &[]);
    fleet.start_all();
    let named = |wanted| (0..fleet.len()).find(|&server| fleet.name(server) == wanted);
    let (ball, welsh, other) = (
        named("Ball").unwrap(),
        named("Welsh").unwrap(),
        named("Holiday").unwrap(),
    );
    for round in 0..super::form::choose(2, 10) {
        await_well(&fleet);
        // A neighbor scans its cache once a second for each link.
        std::thread::sleep(Duration::from_secs(1));
        fleet.kill(ball);
        fleet.kill(welsh);
        let names = fleet
            .client(other)
            .report_all(&format!("away-{round}"), 500);
        for server in (0..fleet.len()).filter(|server| ![ball, welsh].contains(server)) {
            wait_until("the others hold them", || {
                let last = names.last().unwrap();
                fleet.client(server).whatsat(last).starts_with("AT ")
            });
        }
        fleet.launch(ball);
        fleet.launch(welsh);
        for server in [ball, welsh] {
            wait_until("the client port", || {
                TcpStream::connect(fleet.address(server)).is_ok()
            });
            let replies = fleet
                .client(server)
                .whatsat_all(names.iter().map(String::as_str));
            let unknown = replies.iter().filter(|reply| !reply.starts_with("AT "));
            assert_eq!(unknown.count(), 0, "at {}", fleet.name(server));
        }
        for server in [ball, welsh] {
            fleet.await_ready(server);
            let line = fleet.ready_line(server);
            assert!(line.contains("; caught up with "), "{line}");
        }
    }
}

/// A herd whose servers start together waits for nothing.
#[test]
fn servers_that_start_together_are_ready_at_once() {
    let mut fleet = Fleet::ring("state-together", &[]);
    let started = Instant::now();
    fleet.start_all();
    let took = started.elapsed();
    for server in 0..fleet.len() {
        let line = fleet.ready_line(server);
        assert!(line.contains("; caught up with "), "{line}");
    }
    assert!(took < limit(1), "{took:?}");
    // Each has said that it is ready, so none is starting by its state.
    for server in 0..fleet.len() {
        let problems = fleet.problems(server);
        let is_starting = problems.iter().any(|(state, _)| *state == State::Starting);
        assert!(!is_starting, "{problems:?}");
    }
    figure(
        "five servers that start together",
        format_args!("ready after {:.2} s", took.as_secs_f64()),
    );
}

/// The lag of a link is an age, whatever the rate is.
#[test]
fn the_lag_is_the_age_of_the_oldest_unconfirmed_record() {
    let mut fleet = Fleet::pair("state-lag", &[]).with_proxies();
    fleet.start_all();
    await_well(&fleet);
    let lag = |fleet: &Fleet| fleet.link_status(BALL, WELSH).lag_ms.unwrap();
    // Welsh's confirmations are held back.
    fleet.link(BALL, WELSH).hold(false, true);
    let begun = Instant::now();
    fleet.client(BALL).ask(&report("a", "+1+1"));
    wait_until("the lag grows", || lag(&fleet) >= 1_500);
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_millis(1_500), "{elapsed:?}");
    fleet.link(BALL, WELSH).hold(false, false);
    wait_until("the lag is gone", || lag(&fleet) == 0);
    assert!(Path::new(&fleet.data(BALL)).exists());
}
