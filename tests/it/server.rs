//! One server, over real sockets, with both kinds of pool.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::{Client, PATIENCE, alone, alone_with, report};
use herd::config::{Ack, PoolKind};
use herd::places::Places;
use herd::places::failure::Failure;
use herd::places::remote::{Remote, Settings};
use herd::places::upstream::{Request, Upstream};

/// Runs a test with both kinds of pool, each with four workers.
fn with_both_pools(test: impl Fn(SocketAddr)) {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let server = alone(|config| config.pool = pool);
        test(server.client_address());
        server.stop();
    }
}

#[test]
fn answers_iamat_and_whatsat() {
    with_both_pools(|address| {
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
    with_both_pools(|address| {
        let mut client = Client::connect(address);
        let lines: Vec<_> = (0..5_000).map(|i| format!("line {i}\n")).collect();
        client.send(lines.concat());
        client.half_close();
        let expected: String = lines.iter().map(|line| format!("? {line}")).collect();
        assert_eq!(String::from_utf8(client.rest()).unwrap(), expected);
    });
}

#[test]
fn an_endless_line_costs_no_more_than_its_limit() {
    with_both_pools(|address| {
        let mut client = Client::connect(address);
        let mut sender = client.stream().try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            use std::io::Write;
            // The server stops reading at most a second after its answer; later writes may fail.
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
fn idle_clients_delay_no_other_client_in_the_shared_pool() {
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
    let mut active = Client::connect(server.client_address());
    for number in 0..100 {
        assert_eq!(
            active.ask(&format!("hello {number}")),
            format!("? hello {number}")
        );
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "100 requests took {took:?}");
    drop((idle, half));
    server.stop();
}

#[test]
fn idle_clients_hold_all_dedicated_workers_until_one_disconnects() {
    let server = alone(|config| (config.pool, config.workers) = (PoolKind::Dedicated, 2));
    let mut served: Vec<_> = (0..2)
        .map(|_| Client::connect(server.client_address()))
        .collect();
    for client in &mut served {
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
    served.pop();
    assert_eq!(waiting.line(), "? b");
    server.stop();
}

#[test]
fn a_client_beyond_the_limit_is_refused() {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let server = alone(|config| (config.pool, config.max_clients) = (pool, Some(2)));
        let mut connected: Vec<_> = (0..2)
            .map(|_| Client::connect(server.client_address()))
            .collect();
        for client in &mut connected {
            assert_eq!(client.ask("a"), "? a");
        }
        assert_eq!(
            Client::connect(server.client_address()).rest(),
            b"? server full\n"
        );
        connected.pop();
        let deadline = Instant::now() + PATIENCE;
        while Client::connect(server.client_address()).ask("b") != "? b" {
            assert!(Instant::now() < deadline, "the permit was not returned");
        }
        server.stop();
    }
}

#[test]
fn clients_of_one_address_beyond_their_limit_are_refused() {
    let server = alone(|config| config.max_clients_per_address = Some(2));
    let address = server.client_address();
    let mut connected: Vec<_> = (0..2).map(|_| Client::connect(address)).collect();
    for client in &mut connected {
        assert_eq!(client.ask("a"), "? a");
    }
    assert_eq!(Client::connect(address).rest(), b"? server full\n");
    // Another address is served.
    #[cfg(target_os = "linux")]
    {
        let mut other = crate::support::strangers::connect(address, [127, 0, 0, 5]).unwrap();
        other.write_all(b"b\n").unwrap();
        let mut reply = [0; 4];
        other.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"? b\n");
    }
    connected.pop();
    let deadline = Instant::now() + PATIENCE;
    while Client::connect(address).ask("c") != "? c" {
        assert!(Instant::now() < deadline, "the permit was not returned");
    }
    server.stop();
}

/// An urgent byte is not part of what the client sends, and nothing waits behind it.
#[test]
fn urgent_bytes_change_nothing() {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let server = alone(|config| config.pool = pool);
        let mut client = Client::connect(server.client_address());
        let socket = SockRef::from(client.stream()).try_clone().unwrap();
        for round in 0..50 {
            client.send("first\nsec");
            assert_eq!(socket.send_out_of_band(b"!").unwrap(), 1);
            client.send("ond\n");
            client.send("third\n");
            for reply in ["? first", "? second", "? third"] {
                assert_eq!(client.line(), reply, "{pool:?}, round {round}");
            }
        }
        server.stop();
    }
}

#[test]
fn idle_clients_are_disconnected_in_order() {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let server = alone(|config| {
            (config.pool, config.idle_timeout) = (pool, Duration::from_secs(1));
        });
        let mut silent = Client::connect(server.client_address());
        let mut idle = Client::connect(server.client_address());
        assert_eq!(idle.ask("a"), "? a");
        let start = Instant::now();
        assert!(silent.rest().is_empty());
        assert!(idle.rest().is_empty());
        assert!(start.elapsed() > Duration::from_millis(500));
        server.stop();
    }
}

#[test]
fn a_stop_answers_requests_that_were_read_and_closes() {
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
    let deaf: Vec<_> = (0..8)
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
    let mut active = Client::connect(server.client_address());
    assert_eq!(active.ask("hello"), "? hello");
    drop(deaf);
    server.stop();
}

/// A provider that finds the same place everywhere.
#[derive(Debug)]
struct OnePlace;

impl Upstream for OnePlace {
    fn fetch(&self, _: &Request, _: Duration) -> Result<Vec<u8>, Failure> {
        Ok(b"{\"results\":[\"here\"]}".to_vec())
    }

    fn name(&self) -> &'static str {
        "one"
    }

    fn abort(&self) {}

    fn may_cache(&self) -> bool {
        false
    }
}

#[test]
fn replies_keep_their_order_across_waits_for_the_disk_and_for_places() {
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        let data = std::env::temp_dir().join(format!("herd-waits-{pool:?}-{}", std::process::id()));
        let settings = Settings {
            workers: 1,
            calls_per_minute: None,
        };
        let places = Remote::start(Box::new(OnePlace), settings).map(Places::Remote);
        let server = alone_with(places.unwrap(), |config| {
            (config.pool, config.workers, config.ack) = (pool, 1, Ack::Disk);
            config.data_dir = Some(data.clone());
        });
        let mut client = Client::connect(server.client_address());
        let iamat = report("kiwi", "+34.0-118.4");
        // All in one segment, so that one turn has to wait for both, twice.
        client.send(format!("{iamat}\nWHATSAT kiwi 10 5\nx\n").repeat(2));
        client.half_close();
        let replies = String::from_utf8(client.rest()).unwrap();
        let at_line = replies.lines().next().unwrap();
        assert!(at_line.starts_with("AT Alford "), "{replies}");
        let round = format!("{at_line}\n{at_line}\n{{\"results\":[\"here\"]}}\n\n? x\n");
        // The second report is echoed with its own time difference.
        assert_eq!(replies.lines().count(), 2 * round.lines().count());
        assert!(replies.starts_with(&round), "{replies}");
        assert!(replies.ends_with("[\"here\"]}\n\n? x\n"), "{replies}");
        server.stop();
        std::fs::remove_dir_all(data).unwrap();
    }
}
