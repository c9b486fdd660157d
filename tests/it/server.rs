//! One server, over real sockets, under both of the pool's disciplines.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::{Client, PATIENCE, alone, report};
use herd::config::PoolKind;

/// Runs a story under both disciplines, each with four workers.
fn under_both(story: impl Fn(SocketAddr)) {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let server = alone(|config| config.pool = pool);
        story(server.client_address());
        server.stop();
    }
}

#[test]
fn answers_reports_and_inquiries() {
    under_both(|address| {
        let mut client = Client::connect(address);
        let line = report("kiwi.cs.ucla.edu", "+34.068930-118.445127");
        let reply = client.ask(&line);
        let echoed = line.strip_prefix("IAMAT").unwrap();
        assert!(
            reply.starts_with("AT Alford +0.") && reply.ends_with(echoed),
            "{reply}"
        );
        assert_eq!(client.whatsat("kiwi.cs.ucla.edu"), reply);
        client.send("WHATSAT kiwi.cs.ucla.edu 10 5");
        client.half_close();
        let rest = client.rest();
        let (at_line, json) = rest.split_at(reply.len() + 1);
        assert_eq!(at_line, format!("{reply}\n").as_bytes());
        let json: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["results"].as_array().unwrap().len(), 5);
        assert!(rest.ends_with(b"}\n\n"));
    });
}

#[test]
fn five_thousand_lines_in_one_burst_are_answered_in_order() {
    under_both(|address| {
        let mut client = Client::connect(address);
        let lines: Vec<_> = (0..5_000).map(|i| format!("line {i}\n")).collect();
        client.send(lines.concat());
        client.half_close();
        let expected: String = lines.iter().map(|line| format!("? {line}")).collect();
        assert_eq!(String::from_utf8(client.rest()).unwrap(), expected);
    });
}

#[test]
fn a_line_without_end_costs_no_more_than_its_limit() {
    under_both(|address| {
        let mut client = Client::connect(address);
        let mut sender = client.stream().try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            use std::io::Write;
            // The server stops reading a second after its answer at the latest; what is sent
            // beyond that may fail.
            let chunk = vec![b'x'; 100_000];
            (0..100).all(|_| sender.write_all(&chunk).is_ok())
        });
        let reply = client.line();
        assert_eq!(reply.len(), "? ".len() + 4_096);
        assert!(client.rest().is_empty());
        sending.join().unwrap();
    });
}

#[test]
fn idle_clients_keep_nobody_waiting_in_the_lobby() {
    let server = alone(|config| config.pool = PoolKind::Shared);
    let idle: Vec<_> = (0..1_000)
        .map(|_| Client::connect(server.client_address()))
        .collect();
    let half: Vec<_> = (0..100)
        .map(|_| {
            let mut client = Client::connect(server.client_address());
            client.send("IAMAT half a li");
            client
        })
        .collect();
    let start = Instant::now();
    let mut good = Client::connect(server.client_address());
    for number in 0..100 {
        assert_eq!(
            good.ask(&format!("hello {number}")),
            format!("? hello {number}")
        );
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "100 requests took {took:?}");
    drop((idle, half));
    server.stop();
}

#[test]
fn idle_clients_hold_all_seats_until_one_leaves() {
    let server = alone(|config| (config.pool, config.workers) = (PoolKind::Dedicated, 2));
    let mut seated: Vec<_> = (0..2)
        .map(|_| Client::connect(server.client_address()))
        .collect();
    for client in &mut seated {
        assert_eq!(client.ask("a"), "? a");
    }
    let mut waiting = Client::connect(server.client_address());
    waiting.send("b\n");
    waiting
        .stream()
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut byte = [0];
    assert!(std::io::Read::read(&mut waiting.stream(), &mut byte).is_err());
    waiting.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    seated.pop();
    assert_eq!(waiting.line(), "? b");
    server.stop();
}

#[test]
fn one_client_too_many_is_told() {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let server = alone(|config| (config.pool, config.max_clients) = (pool, Some(2)));
        let mut inside: Vec<_> = (0..2)
            .map(|_| Client::connect(server.client_address()))
            .collect();
        for client in &mut inside {
            assert_eq!(client.ask("a"), "? a");
        }
        assert_eq!(
            Client::connect(server.client_address()).rest(),
            b"? server full\n"
        );
        inside.pop();
        let deadline = Instant::now() + PATIENCE;
        while Client::connect(server.client_address()).ask("b") != "? b" {
            assert!(Instant::now() < deadline, "no place became free");
        }
        server.stop();
    }
}

#[test]
fn silent_clients_are_let_go_in_order() {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let server = alone(|config| {
            (config.pool, config.idle_timeout) = (pool, Duration::from_secs(1));
        });
        let mut never_spoke = Client::connect(server.client_address());
        let mut spoke_once = Client::connect(server.client_address());
        assert_eq!(spoke_once.ask("a"), "? a");
        let start = Instant::now();
        assert!(never_spoke.rest().is_empty());
        assert!(spoke_once.rest().is_empty());
        assert!(start.elapsed() > Duration::from_millis(500));
        server.stop();
    }
}

#[test]
fn stopping_answers_what_was_read_and_closes() {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let server = alone(|config| config.pool = pool);
        let mut clients: Vec<_> = (0..4)
            .map(|_| Client::connect(server.client_address()))
            .collect();
        for client in &mut clients {
            assert_eq!(client.ask("a"), "? a");
            client.send("IAMAT half +1+1 14");
        }
        let address = server.client_address();
        let start = Instant::now();
        let stopping = std::thread::spawn(move || server.stop());
        for client in &mut clients {
            assert!(client.rest().is_empty());
        }
        drop(clients);
        stopping.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(9));
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}

#[test]
fn a_client_that_does_not_read_holds_no_worker() {
    let server = alone(|config| (config.pool, config.workers) = (PoolKind::Shared, 1));
    let full: Vec<_> = (0..8)
        .map(|_| {
            let client = Client::connect(server.client_address());
            client.stream().set_nonblocking(true).unwrap();
            let lines = b"x\n".repeat(50_000);
            // Sends until the server has stopped reading and the buffers between are full.
            let deadline = Instant::now() + Duration::from_millis(300);
            while Instant::now() < deadline {
                let _ = std::io::Write::write(&mut client.stream(), &lines);
            }
            client
        })
        .collect();
    let mut good = Client::connect(server.client_address());
    assert_eq!(good.ask("hello"), "? hello");
    drop(full);
    server.stop();
}
