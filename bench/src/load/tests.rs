//! Impossible options, and whole runs against correct and incorrect servers.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use super::*;

fn load(options: &[&str]) -> Load {
    let options: Vec<&str> = ["--address", "127.0.0.1:1"]
        .into_iter()
        .chain(options.iter().copied())
        .collect();
    Load::from_args(&["load"], &options).expect("options")
}

/// A plan with these options.
pub(super) fn plan(options: &str) -> Plan {
    let load: Load = parse("load", &format!("--address 127.0.0.1:1 {options}")).expect("options");
    load.plan(1_000).expect("a plan")
}

#[track_caller]
fn check_refused(options: &[&str], expected: &str) {
    let error = load(options).plan(1_000).expect_err(expected);
    assert!(error.contains(expected), "{options:?}: {error}");
}

#[test]
fn impossible_options_are_refused() {
    check_refused(&["--connections", "0"], "at least 1");
    check_refused(&["--depth", "0"], "at least 1");
    check_refused(
        &["--connections", "900", "--idle", "100"],
        "1032 descriptors",
    );
    check_refused(&["--connections", "9", "--clients", "8"], "--clients 8");
    check_refused(&["--seconds", "0"], "--seconds 0: must be");
    check_refused(&["--seconds", "NaN"], "--seconds NaN: must be");
    check_refused(&["--whatsat", "101"], "--whatsat 101");
    check_refused(&["--bound", "21"], "--bound 21");
    check_refused(&["--radius", "51"], "--radius 51");
    check_refused(&["--radius", "1e1"], "no number");
    check_refused(&["--rate", "0"], "--rate 0");
    check_refused(&["--rate", "5", "--depth", "2"], "closed loop");
    check_refused(&["--echo", "--redis"], "--echo or --redis");
    check_refused(&["--redis", "--whatsat", "1"], "no meaning");
    check_refused(&["--nearby", "1"], "--nearby needs");
    check_refused(&["--nearby", "1", "--whatsat", "100"], "--nearby 1");
    check_refused(&["--redis", "--drip", "1"], "--drip and --deaf");
    check_refused(&["--pid", "4294967295"], "--pid");
}

#[test]
fn defaults_fit_each_other() {
    let plan = load(&["--connections", "900"]).plan(1_000).expect("a plan");
    assert_eq!((plan.clients, plan.depth), (10_000, 1));
    let plan = load(&["--connections", "20000"]).plan(90_000);
    assert_eq!(plan.expect("a plan").clients, 20_000);
}

/// A run of 0.1 s against a server that answers a line with what `reply` makes of it and of
/// the last report.
fn run(options: &[&str], reply: fn(&str, &str) -> String) -> Result<engine::Measured, String> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    // The thread ends with the client's connection.
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut last = String::new();
        for line in reader.lines() {
            let Ok(line) = line else { return };
            if let Some(report) = line.strip_prefix("IAMAT ") {
                last = report.to_owned();
            }
            if stream.write_all(reply(&line, &last).as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut load = load(options);
    load.address = address;
    load.seconds = 0.1;
    load.warmup = if load.requests.is_some() { 0.0 } else { 0.01 };
    load.clients = Some(1);
    let plan = load.plan(1_000).expect("a plan");
    let result = measure(plan, &mut Progress::new());
    server.join().expect("the server's thread");
    result
}

fn right(line: &str, last: &str) -> String {
    let places = "{\"html_attributions\":[],\"results\":[],\"status\":\"ZERO_RESULTS\"}\n\n";
    let places = if line.starts_with("WHATSAT") {
        places
    } else {
        ""
    };
    format!("AT Ball +0.000000120 {last}\n{places}")
}

#[test]
fn right_servers_are_measured() {
    let closed = run(&["--depth", "4", "--whatsat", "30"], right).expect("a closed loop");
    assert!(closed.replies > 0);
    // No loopback answers within a microsecond: the histogram holds real latencies.
    assert!(closed.latency.min() > 1_000 && closed.latency.max() < 10_000_000_000);
    assert!(closed.lateness.is_empty());
    let plan = load(&["--label", "x"]).plan(1_000).expect("a plan");
    assert!(outcome::text(&plan, &closed).contains("all right"));
    assert_eq!(outcome::cells(&plan, &closed)[1], ("label", "x".to_owned()));
    let counted = run(&["--depth", "4", "--requests", "7"], right).expect("seven requests");
    assert!(counted.replies <= 7 && counted.seconds < 0.1);
    let open = run(&["--rate", "500", "--whatsat", "30"], right).expect("an open loop");
    assert!((1..=60).contains(&open.replies), "{}", open.replies);
    assert!(!open.lateness.is_empty());
}

#[track_caller]
fn check_void(options: &[&str], reply: fn(&str, &str) -> String, expected: &str) {
    let error = run(options, reply).expect_err(expected);
    assert!(error.contains(expected), "{error}");
}

#[test]
fn wrong_servers_make_the_run_void() {
    check_void(&[], |line, _| format!("? {line}\n"), "a wrong reply");
    check_void(
        &[],
        |line, last| right(line, last) + "\n",
        "more data than expected",
    );
    check_void(
        &["--depth", "2"],
        |line, last| right(line, last).repeat(2),
        "a wrong reply",
    );
    check_void(
        &["--whatsat", "50"],
        |line, last| right(line, last).replace("ZERO_RESULTS", "REQUEST_DENIED"),
        "places have failed",
    );
}

#[test]
fn a_server_that_drops_idle_connections_makes_the_run_void() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut load = load(&["--idle", "1"]);
    load.address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || {
        let (idle, _) = listener.accept().expect("the idle client");
        let active = listener.accept().expect("the active client");
        drop(idle);
        active
    });
    let plan = load.plan(1_000).expect("a plan");
    let error = measure(plan, &mut Progress::new()).expect_err("an idle connection closed");
    assert!(error.contains("idle connection"), "{error}");
    server.join().expect("the server's thread");
}
