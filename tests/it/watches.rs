//! Watches over real sockets, in both pools. What they tell in every order of things is checked by
//! `src/watch/tests.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{Client, PATIENCE, alone, report, ring};
use herd::config::PoolKind;

const POOLS: [PoolKind; 2] = [PoolKind::Shared, PoolKind::Dedicated];

/// Connects a client that speaks the second dialect.
fn connect(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    let hello = client.ask("HELLO 2");
    assert!(hello.starts_with("HELLO 2 "), "{hello}");
    client
}

/// Begins a watch of a place without clients.
#[track_caller]
fn watch(client: &mut Client, name: &str, target: &str) {
    let reply = client.ask(&format!("WATCH {name} {target}"));
    assert_eq!(reply, format!("WATCHING {name}"));
    assert_eq!(client.line(), format!("RESET {name}"));
    assert_eq!(client.line(), format!("SETTLED {name} 0"));
}

/// Reads a push, without the fields of its `AT` line that depend on the clock.
fn push(client: &mut Client) -> String {
    let line = client.line();
    let fields: Vec<_> = line.split(' ').collect();
    match fields[..] {
        [word, name, "AT", _, _, id, location, _] => format!("{word} {name} {id} {location}"),
        _ => line,
    }
}

fn report_to(client: &mut Client, id: &str, location: &str) {
    let reply = client.ask(&report(id, location));
    assert!(reply.starts_with("AT "), "{reply}");
}

#[test]
fn a_watcher_is_told_who_comes_moves_leaves_and_is_forgotten() {
    for pool in POOLS {
        let server = alone(|config| (config.pool, config.workers) = (pool, 4));
        let address = server.client_address();
        let (mut watcher, mut other) = (connect(address), connect(address));
        watch(&mut watcher, "here", "+10+10 5");
        watch(&mut watcher, "it", "a");
        for (location, pushes) in [
            (
                "+10.01+10",
                &["ENTER here a +10.01+10", "MOVE it a +10.01+10"][..],
            ),
            (
                "+10.02+10",
                &["MOVE here a +10.02+10", "MOVE it a +10.02+10"],
            ),
            ("+11+10", &["LEAVE here a +11+10", "MOVE it a +11+10"]),
            ("+12+10", &["MOVE it a +12+10"]),
            ("+10+10", &["ENTER here a +10+10", "MOVE it a +10+10"]),
        ] {
            report_to(&mut other, "a", location);
            let mut told: Vec<_> = pushes.iter().map(|_| push(&mut watcher)).collect();
            told.sort();
            assert_eq!(told, pushes, "{pool:?}");
        }
        assert_eq!(watcher.ask("UNWATCH it"), "UNWATCHED it");
        assert!(other.ask("FORGET a").starts_with("FORGOT "));
        assert_eq!(push(&mut watcher), "GONE here a");
        // Its own reports are told like those of others, behind their replies.
        report_to(&mut watcher, "b", "+10+10");
        assert_eq!(push(&mut watcher), "ENTER here b +10+10");
        assert_eq!(watcher.ask("PING"), "PONG");
        assert_eq!(watcher.ask("UNWATCH here"), "UNWATCHED here");
        report_to(&mut other, "b", "+10.01+10");
        assert_eq!(watcher.ask("PING"), "PONG");
        server.stop();
    }
}

#[test]
fn a_watch_tells_of_what_any_server_is_told() {
    let servers = ring();
    let mut watcher = connect(servers[0].client_address());
    watch(&mut watcher, "pole", "-90+0 50");
    let mut far = connect(servers[2].client_address());
    report_to(&mut far, "a", "-89.9+123");
    assert_eq!(push(&mut watcher), "ENTER pole a -89.9+123");
    assert!(far.ask("FORGET a").starts_with("FORGOT "));
    assert_eq!(push(&mut watcher), "GONE pole a");
    servers.into_iter().for_each(|server| server.stop());
}

#[test]
fn a_watch_begins_with_all_that_is_there() {
    for pool in POOLS {
        let server = alone(|config| (config.pool, config.workers) = (pool, 4));
        let mut watcher = connect(server.client_address());
        // More than one batch of pushes.
        let names = watcher.report_all("client", 3_000);
        assert_eq!(watcher.ask("WATCH all +0+0 20016"), "WATCHING all");
        assert_eq!(watcher.line(), "RESET all");
        let mut told: Vec<_> = names.iter().map(|_| push(&mut watcher)).collect();
        let mut expected: Vec<_> = names
            .iter()
            .map(|name| format!("INSIDE all {name} +1+1"))
            .collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected);
        assert_eq!(watcher.line(), "SETTLED all 3000");
        server.stop();
    }
}

#[test]
fn a_slow_watcher_ends_with_the_newest_of_every_client() {
    for pool in POOLS {
        let server = alone(|config| (config.pool, config.workers) = (pool, 4));
        let mut watcher = connect(server.client_address());
        watch(&mut watcher, "all", "+0+0 20016");
        let mut reporter = connect(server.client_address());
        let (clients, rounds) = (150, 80);
        for round in 0..rounds {
            let lines: String = (0..clients)
                .map(|id| report(&format!("client-{id}"), &format!("+{round}+{id}")) + "\n")
                .collect();
            reporter.send(lines);
            for _ in 0..clients {
                assert!(reporter.line().starts_with("AT "));
            }
        }
        let last = rounds - 1;
        let expected: BTreeMap<_, _> = (0..clients)
            .map(|id| (format!("client-{id}"), format!("+{last}+{id}")))
            .collect();
        let mut told = BTreeMap::new();
        let mut lines = 0;
        while told != expected {
            let line = push(&mut watcher);
            assert!(!line.is_empty(), "closed");
            let fields: Vec<_> = line.split(' ').collect();
            if let [_, _, id, location] = fields[..] {
                told.insert(id.to_owned(), location.to_owned());
            }
            lines += 1;
            assert!(lines <= clients * rounds + 3, "no end");
        }
        server.stop();
    }
}

#[test]
fn a_connection_with_a_watch_is_never_idle_and_ends_with_its_half() {
    for pool in POOLS {
        let server = alone(|config| {
            (config.pool, config.workers) = (pool, 4);
            config.idle_timeout = Duration::from_millis(600);
        });
        let address = server.client_address();
        let mut watcher = connect(address);
        watch(&mut watcher, "it", "a");
        let mut early = connect(address);
        let mut late = connect(address);
        assert!(early.is_closed());
        assert!(late.is_closed());
        assert_eq!(watcher.ask("PING again"), "PONG again");
        watcher.half_close();
        assert!(watcher.is_closed());
        // A watch that begins with the end of the input ends at once.
        let mut brief = connect(address);
        brief.send("WATCH it a\nPING\n");
        brief.half_close();
        let rest = String::from_utf8(brief.rest()).unwrap();
        let replies: Vec<_> = rest.lines().filter(|line| !line.contains("T it")).collect();
        let replies: Vec<_> = replies
            .into_iter()
            .filter(|line| !line.starts_with("SETTLED"))
            .collect();
        assert_eq!(replies, ["WATCHING it", "PONG"]);
        server.stop();
    }
}

#[test]
fn a_server_stops_with_its_watchers() {
    for pool in POOLS {
        let server = alone(|config| (config.pool, config.workers) = (pool, 4));
        let mut watcher = connect(server.client_address());
        watch(&mut watcher, "all", "+0+0 20016");
        let begin = std::time::Instant::now();
        server.stop();
        assert!(begin.elapsed() < PATIENCE / 2);
        assert!(watcher.is_closed());
    }
}
