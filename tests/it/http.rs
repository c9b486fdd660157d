//! The HTTP port of real processes: health, status, the whole herd, and what keeps a start from having
//! the port. The stream of events and the page have tests of their own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::fleet::Fleet;
use crate::support::http::{self, get, try_get};
use crate::support::process::{
    Directory, await_ready, behind, free_addresses, herd, launch, signal, wait, wait_until,
};
use crate::support::report;

#[track_caller]
fn page(fleet: &Fleet, server: usize) -> SocketAddr {
    http::address(fleet.ready_line(server))
}

#[test]
fn a_server_answers_for_its_health_and_status() {
    let mut fleet = Fleet::pair("http-paths", &["--http", "0"]);
    fleet.start_all();
    let address = page(&fleet, 0);
    assert!(address.ip().is_loopback());
    fleet.client(0).ask(&report("kiwi", "+1+1"));
    for (path, body) in [
        ("/livez", "ok\n"),
        ("/readyz", "ok\n"),
        ("/healthz", "ok\n"),
    ] {
        let answer = get(address, path);
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
    }
    let verbose = get(address, "/readyz?verbose");
    assert!(
        verbose.text().starts_with("[+]membership ok\n"),
        "{verbose:?}"
    );
    assert!(verbose.text().ends_with("\nready\n"), "{verbose:?}");
    let status = get(address, "/status").json();
    assert_eq!(status["version"], 1);
    assert_eq!(status["name"], fleet.name(0));
    assert_eq!(
        (&status["state"], &status["records"]),
        (&"ok".into(), &1.into())
    );
    assert_eq!(status["links"][fleet.name(1)]["phase"], "live");
    let missing = get(address, "/nothing");
    assert_eq!(missing.status, 404);
    let places = get(address, "/places?lat=34.07&lon=-118.44&limit=1").json();
    assert_eq!(places["status"], "OK");
    // Every answer keeps other sites out.
    for answer in [
        missing,
        verbose,
        http::try_send(address, "x\r\n\r\n").unwrap(),
    ] {
        let policy = answer.field("Content-Security-Policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert_eq!(answer.field("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(answer.field("Referrer-Policy"), Some("no-referrer"));
        assert_eq!(
            answer.field("Cross-Origin-Resource-Policy"),
            Some("same-origin")
        );
        assert_eq!(answer.field("Access-Control-Allow-Origin"), None);
    }
    let rebound = "GET /status HTTP/1.1\r\nHost: attacker.example\r\n\r\n";
    assert_eq!(http::try_send(address, rebound).unwrap().status, 421);
}

#[test]
fn the_herd_is_asked_once_for_all_who_look() {
    let mut fleet = Fleet::ring("http-herd", &["--http", "0"]);
    fleet.start_all();
    let addresses: Vec<_> = (0..fleet.len())
        .map(|server| page(&fleet, server))
        .collect();
    fleet.client(0).ask(&report("kiwi", "+1+1"));
    let whole = |address| get(address, "/herd").json();
    wait_until("the herd is whole", || whole(addresses[0])["whole"] == true);
    // The answers of one second are one answer.
    let begun = Instant::now();
    let mut different: Vec<String> = Vec::new();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_millis(2_500) {
        let at = whole(addresses[0])["at"].to_string();
        if !different.contains(&at) {
            different.push(at);
        }
        asked += 1;
    }
    assert!(asked > 3 && different.len() <= 4, "{asked} {different:?}");
    // As the command says it.
    let directory = Directory::new("http-status");
    let mut command = herd(&directory, &["status", "--json", "--servers"]);
    command.arg(fleet.servers_path(0));
    let printed: serde_json::Value =
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let shown = whole(addresses[1]);
    for (one, other) in [
        (&printed, &shown),
        (&printed["servers"][0], &shown["servers"][0]),
    ] {
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(one), keys(other));
    }
    assert_eq!(shown["servers"].as_array().unwrap().len(), 5);
    // Each dead server is shown by every other one, with its return.
    for dead in 0..fleet.len() {
        fleet.kill(dead);
        // A server that was started again has another port.
        let asked = page(&fleet, (dead + 1) % fleet.len());
        let took = wait_until("shown as down", || {
            whole(asked)["servers"][dead]["up"] == false
        });
        assert!(took < Duration::from_secs(5), "{took:?}");
        fleet.start(dead);
        wait_until("shown as up", || {
            whole(asked)["servers"][dead]["up"] == true
        });
    }
}

#[test]
fn a_server_is_ready_only_between_its_start_and_its_stop() {
    let [client, peer] = free_addresses();
    let [gone, gone_peer] = free_addresses();
    let [address, _] = free_addresses();
    let directory = Directory::new("http-ready");
    // The neighbor never answers, so the start waits for it for two seconds.
    directory.servers(&format!(
        "Ball {client} {peer} Gone\nGone {gone} {gone_peer} Ball\n"
    ));
    let http = address.to_string();
    let mut server = launch(herd(&directory, &["serve", "Ball", "--http", &http]));
    let ready =
        |path: &str| try_get(address, path).map(|answer| (answer.status, answer.text().to_owned()));
    let starting = |answer: Option<(u16, String)>| {
        answer.is_some_and(|(status, text)| status == 503 && text.starts_with("starting: "))
    };
    wait_until("it answers that it starts", || starting(ready("/readyz")));
    let verbose = get(address, "/readyz?verbose");
    assert!(
        verbose.text().contains("\n[-]catch-up starting: "),
        "{verbose:?}"
    );
    assert_eq!(get(address, "/livez").status, 200);
    let line = await_ready(&mut server);
    assert_eq!(http::address(&line), address);
    // Alone, but it serves.
    assert_eq!(get(address, "/readyz").status, 200);
    wait_until("it is alone", || {
        let verbose = get(address, "/readyz?verbose");
        verbose.status == 200
            && verbose
                .text()
                .contains("\n[-]links alone: no neighbor is linked")
    });
    // A client that takes no replies holds the stop up.
    let mut greedy = std::net::TcpStream::connect(client).unwrap();
    greedy.set_nonblocking(true).unwrap();
    while greedy.write(&b"x\n".repeat(1 << 15)).is_ok() {}
    signal(&server, "TERM");
    wait_until("it answers that it leaves", || {
        let answer = ready("/readyz");
        answer.is_none_or(|(status, text)| status == 503 && text.starts_with("leaving: "))
    });
    assert_eq!(wait(&mut server), Some(0));
}

#[test]
fn a_port_that_cannot_be_had_is_an_error_or_another() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let directory = Directory::new("http-taken");
    let [client, peer] = free_addresses();
    directory.servers(&format!("Alone {client} {peer}\n"));
    let serve = |flags: &[&str]| herd(&directory, &[&["serve", "Alone"], flags].concat());
    let refused = |flags: &[&str], code: i32, reason: &str| {
        let output = serve(flags).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(reason), "{flags:?}: {text}");
        assert_eq!(output.status.code(), Some(code), "{flags:?}");
    };
    let text = address.to_string();
    let reason =
        format!("Alone: cannot listen for HTTP on {address}: another program has that port");
    refused(&["--http", &text], 1, &reason);
    refused(
        &["--http", "70000"],
        2,
        "the port must be a number from 0 to 65535",
    );
    refused(&["--http", "a b:1"], 2, "is not an address");
    refused(
        &["--http-host", "herd.example"],
        2,
        "--http-host needs --http",
    );
    refused(&["--http-optional"], 2, "--http-optional needs --http");
    refused(
        &["--http", "0", "--http-host", "a:1"],
        2,
        "is not the name of a host",
    );
    let mut server = launch(serve(&["--http", &text, "--http-optional"]));
    let other = http::address(&await_ready(&mut server));
    assert_ne!(other, address);
    assert_eq!(get(other, "/livez").status, 200);
    drop(server);
    let names = ["--http", "localhost:0", "--http-host", "Herd.Example"];
    let mut server = launch(serve(&names));
    let address = http::address(&await_ready(&mut server));
    let named = "GET /livez HTTP/1.1\r\nHost: herd.example:80\r\n\r\n";
    assert_eq!(http::try_send(address, named).unwrap().status, 200);
}

/// The port takes open files, and one that is optional goes without them before the clients do.
#[cfg(target_os = "linux")]
#[test]
fn an_optional_port_is_given_up_where_open_files_are_few() {
    let fleet = Fleet::alone("http-files", &["--http", "0"]);
    let limited = |files: usize, flags: &[&str]| {
        let shell = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let mut command = behind(&["sh", "-c", &shell], &fleet.command(0));
        command.args(flags);
        command
    };
    let output = limited(300, &[]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, needed) = text.split_once("the server needs ").unwrap();
    let needed: usize = needed.split(' ').next().unwrap().parse().unwrap();
    assert!(!limited(needed, &[]).output().unwrap().status.success());
    let mut server = launch(limited(needed, &["--http-optional"]));
    let line = await_ready(&mut server);
    assert!(!line.contains("http"), "{line}");
}

#[test]
fn a_thousand_slow_connections_keep_nobody_out() {
    let mut fleet = Fleet::alone("http-slow", &["--http", "0"]);
    fleet.start_all();
    let address = page(&fleet, 0);
    let slow: Vec<_> = (0..1_000)
        .filter_map(|_| {
            let mut stream = std::net::TcpStream::connect(address).ok()?;
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ")
                .ok()?;
            Some(stream)
        })
        .collect();
    assert_eq!(slow.len(), 1_000);
    let begun = Instant::now();
    assert_eq!(get(address, "/livez").status, 200);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let mut client = fleet.client(0);
    assert!(client.ask(&report("kiwi", "+1+1")).starts_with("AT "));
    // They hold at most their places, and no thread.
    let process = fleet.process(0);
    assert!(process.descriptors() < 64 + 64, "{}", process.descriptors());
    drop(slow);
}

#[test]
fn reading_slowly_holds_nobody_up() {
    let mut fleet = Fleet::alone("http-greedy", &["--http", "0"]);
    fleet.start_all();
    let address = page(&fleet, 0);
    let mut greedy: Vec<_> = (0..64)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    for stream in &mut greedy {
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
    }
    assert_eq!(get(address, "/livez").status, 200);
    for stream in &mut greedy {
        let mut first = [0; 8];
        let _ = stream.read(&mut first);
    }
    assert_eq!(get(address, "/readyz").status, 200);
}
