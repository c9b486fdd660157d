//! What was acknowledged survives: real processes, killed as a crash kills them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use process::{Directory, Running, signal, start, start_named, wait};
use support::{Client, RING, report};

/// The last acknowledged reply of each client.
type Acknowledged = HashMap<String, String>;

/// Reports without a pause, in bursts of 16 over 50 clients, until the server is gone. What was
/// acknowledged by then is the answer.
fn load(address: SocketAddr, prefix: String) -> JoinHandle<Acknowledged> {
    std::thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut acknowledged = Acknowledged::new();
        for burst in 0usize.. {
            let clients: Vec<_> = (0..16)
                .map(|i| format!("{prefix}-{}", (burst * 16 + i) % 50))
                .collect();
            let lines: String = clients
                .iter()
                .map(|client| report(client, "+1+1") + "\n")
                .collect();
            if (&stream).write_all(lines.as_bytes()).is_err() {
                break;
            }
            for client in clients {
                let mut reply = String::new();
                let read = reader.read_line(&mut reply);
                if read.is_err() || !reply.ends_with('\n') {
                    return acknowledged;
                }
                assert!(reply.starts_with("AT "), "{reply}");
                acknowledged.insert(client, reply.trim_end().to_owned());
            }
        }
        acknowledged
    })
}

/// The server's answer for each is the acknowledged one, or a later one that was not
/// acknowledged any more.
fn check_kept(address: SocketAddr, acknowledged: &Acknowledged) {
    let mut client = Client::connect(address);
    for (name, reply) in acknowledged {
        let held = client.whatsat(name);
        let time = |line: &str| line.rsplit(' ').next().unwrap().to_owned();
        assert!(held.starts_with("AT "), "{name} is lost: {held}");
        assert!(time(&held) >= time(reply), "{held} is older than {reply}");
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged() {
    for ack in ["journal", "disk"] {
        let directory = Directory::new(&format!("kill-{ack}"));
        let mut kept = Acknowledged::new();
        for round in 0..5 {
            let (mut server, address) = start(&directory, &["--ack", ack, "--log-level", "warn"]);
            check_kept(address, &kept);
            let loads: Vec<_> = (0..3)
                .map(|client| load(address, format!("{round}-{client}")))
                .collect();
            let mut witness = Client::connect(address);
            wait_until("nothing is reported", || {
                witness.whatsat(&format!("{round}-0-49")).starts_with("AT ")
            });
            server.kill();
            for load in loads {
                kept.extend(load.join().unwrap());
            }
        }
        let (_server, address) = start(&directory, &[]);
        check_kept(address, &kept);
        assert!(kept.len() >= 5 * 50);
    }
}

#[test]
fn a_clean_stop_keeps_everything_under_every_ack() {
    for ack in ["memory", "journal", "disk"] {
        let directory = Directory::new(&format!("stop-{ack}"));
        let (mut server, address) = start(&directory, &["--ack", ack]);
        let mut client = Client::connect(address);
        let replies: Vec<_> = (0..1_000)
            .map(|number| client.ask(&report(&format!("client-{number}"), "+1+1")))
            .collect();
        signal(&server, "TERM");
        assert_eq!(wait(&mut server), Some(0), "{ack}");
        let (_server, address) = start(&directory, &["--ack", ack]);
        let mut client = Client::connect(address);
        for (number, reply) in replies.iter().enumerate() {
            assert_eq!(client.whatsat(&format!("client-{number}")), *reply, "{ack}");
        }
    }
}

/// The ring as processes, with a load on each.
#[test]
fn all_five_killed_at_once_come_back_equal_with_nothing_lost() {
    let directory = Directory::new("kill-five");
    let held: Vec<_> = (0..10)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut text = String::new();
    for ((name, neighbors), ports) in RING.iter().zip(held.chunks(2)) {
        let [client, peer] = [0, 1].map(|port| ports[port].local_addr().unwrap());
        text += &format!("{name} {client} {peer} {}\n", neighbors.join(" "));
    }
    directory.servers(&text);
    drop(held);
    let start_all = || -> Vec<(Running, SocketAddr)> {
        RING.iter()
            .map(|(name, _)| start_named(&directory, name, &["--log-level", "warn"]))
            .collect()
    };
    let mut kept = Acknowledged::new();
    for round in 0..3 {
        let mut servers = start_all();
        let loads: Vec<_> = servers
            .iter()
            .zip(RING)
            .map(|((_, address), (name, _))| load(*address, format!("{name}-{round}")))
            .collect();
        let mut witness = Client::connect(servers[0].1);
        wait_until("the flood does not come through", || {
            witness
                .whatsat(&format!("Hamilton-{round}-49"))
                .starts_with("AT ")
        });
        for (server, _) in &mut servers {
            server.0.kill().unwrap();
        }
        for (server, _) in &mut servers {
            server.kill();
        }
        for load in loads {
            kept.extend(load.join().unwrap());
        }
    }
    let servers = start_all();
    let mut clients: Vec<_> = servers
        .iter()
        .map(|(_, address)| Client::connect(*address))
        .collect();
    for name in kept.keys() {
        wait_until(&format!("the servers do not agree on {name}"), || {
            let shown: Vec<_> = clients
                .iter_mut()
                .map(|client| client.whatsat(name))
                .collect();
            shown
                .iter()
                .all(|line| *line == shown[0] && line.starts_with("AT "))
        });
    }
    for (_, address) in &servers {
        check_kept(*address, &kept);
    }
}

#[test]
fn a_deleted_folder_is_filled_again_by_the_neighbors_and_wipes_nobody() {
    let directory = Directory::new("deleted");
    let [a, b] = process::free_addresses();
    let [c, d] = process::free_addresses();
    directory.servers(&format!("Ball {a} {b} Welsh\nWelsh {c} {d} Ball\n"));
    let (_welsh, address) = start_named(&directory, "Welsh", &[]);
    let mut welsh = Client::connect(address);
    let (mut ball, address) = start_named(&directory, "Ball", &[]);
    let reply = Client::connect(address).ask(&report("kiwi", "+1+1"));
    welsh.await_whatsat("kiwi", &reply);
    ball.kill();
    std::fs::remove_dir_all(directory.0.join("data/Ball")).unwrap();
    let (_ball, address) = start_named(&directory, "Ball", &[]);
    let mut client = Client::connect(address);
    client.await_whatsat("kiwi", &reply);
    let newer = client.ask(&report("kiwi", "+2+2"));
    welsh.await_whatsat("kiwi", &newer);
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let directory = Directory::new("second");
    let (_server, _) = start(&directory, &[]);
    let [client, peer] = process::free_addresses();
    directory.servers(&format!("Alone {client} {peer}\n"));
    let second = process::herd(&directory, &["serve", "Alone"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another process has the journal"), "{said}");
}
