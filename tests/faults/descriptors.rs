//! A limit of open files that is short: links and files have their share before clients.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use herd::link::neighbor::LinkPhase;
use socket2::{Domain, Socket, Type};

use super::form::{choose, figure, limit};
use crate::support::fleet::Fleet;
use crate::support::process::{behind, wait_for, wait_until};

const FAULT: &str = "few descriptors";

/// Clients that the limit leaves room for.
const CLIENTS: usize = 10;

/// A herd with one server in its center, and the names of the others.
fn star(neighbors: usize) -> Fleet {
    let names: Vec<&'static str> = (0..neighbors)
        .map(|index| &*format!("N{index}").leak())
        .collect();
    let mut servers: Vec<(&'static str, &[&str])> = vec![("Hub", &names)];
    servers.extend(names.iter().map(|&name| (name, &["Hub"][..])));
    Fleet::new("star", &servers, &[])
}

fn limited(fleet: &Fleet, files: usize) -> Command {
    let files = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
    behind(&["sh", "-c", &files], &fleet.command(0))
}

/// The number of descriptors that the center needs itself, by its refusal to start with fewer.
#[track_caller]
fn needed(fleet: &Fleet, neighbors: usize) -> usize {
    let output = limited(fleet, 300).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let beside = format!(" itself beside {neighbors} neighbors; raise it (ulimit -n) above that");
    assert!(text.contains(&beside), "{text}");
    let start = "Hub: the limit of 300 open files leaves none for clients: the server needs ";
    let (_, rest) = text.split_once(start).unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn neighbors_take_descriptors_from_clients_and_never_the_other_way_round() {
    let neighbors = choose(4, 20);
    let mut fleet = star(neighbors);
    let needed = needed(&fleet, neighbors);
    let command = limited(&fleet, needed + CLIENTS);
    fleet.start_as(0, command);
    let notices = fleet.directory.path().join("notices");
    wait_until("the limit is reported", || {
        let text = format!("open files leaves {CLIENTS} for clients");
        fs::read_to_string(&notices).unwrap().contains(&text)
    });

    // All that clients, rejected clients and strangers can take.
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| fleet.client(0)).collect();
    for client in &mut clients {
        assert_eq!(client.ask("a"), "? a");
    }
    let rejected: Vec<_> = (0..100).map(|_| fleet.client(0)).collect();
    let stranger = |last: u8| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from = SocketAddr::from(([127, 0, 0, last], 0));
        socket.bind(&from.into()).unwrap();
        socket.connect(&fleet.peer(0).into()).unwrap();
        socket
    };
    let strangers: Vec<_> = (0..400)
        .map(|index| stranger((index % 2 * 8 + 1) as u8))
        .collect();

    (1..=neighbors).for_each(|server| fleet.start(server));
    let start = Instant::now();
    let is_live = |fleet: &Fleet, from, to| fleet.link_status(from, to).phase == LinkPhase::Live;
    wait_for("all links are live both ways", limit(10), || {
        (1..=neighbors).all(|other| is_live(&fleet, 0, other) && is_live(&fleet, other, 0))
    });
    let took = start.elapsed();
    for client in &mut clients {
        assert_eq!(client.ask("b"), "? b");
    }
    assert_eq!(fleet.logged(0, "descriptor is left"), 0);
    assert_eq!(fleet.logged(0, "Too many open files"), 0);
    drop((strangers, rejected));

    // Neighbors that a reload adds take their share of the same limit.
    let path = fleet.directory.path().join("servers-Hub.txt");
    let listed = fs::read_to_string(&path).unwrap();
    let with_more = |more: usize| {
        let names: Vec<_> = (0..more).map(|index| format!("M{index}")).collect();
        let mut text = listed.replacen('\n', &format!(" {}\n", names.join(" ")), 1);
        for (index, name) in names.iter().enumerate() {
            text += &format!(
                "{name} 127.0.0.1:{} 127.0.0.1:{} Hub\n",
                1 + index,
                101 + index
            );
        }
        fs::write(&path, text).unwrap();
        fleet.signal(0, "HUP");
    };
    // Beyond eight neighbors each has slots for its handshakes.
    let each = if neighbors > 8 { 9 } else { 5 };
    let left = CLIENTS - each;
    with_more(2);
    fleet.await_logged(
        0,
        &format!(
            "the server needs {} itself beside {} neighbors",
            needed + 2 * each,
            neighbors + 2
        ),
    );
    fleet.await_logged(
        0,
        "reload failed, keeping the current configuration: the limit of",
    );
    with_more(1);
    fleet.await_logged(0, &format!("open files leaves {left} for clients"));
    assert_eq!(fleet.client(0).rest(), b"? server full\n");
    drop(clients.split_off(left - 1));
    wait_until("a client is admitted", || fleet.client(0).ask("c") == "? c");
    figure(
        FAULT,
        format!(
            "{} beside {neighbors} neighbors, all linked {:.2} s after the last one's start at a full server",
            needed + CLIENTS,
            took.as_secs_f64(),
        ),
    );
}

#[test]
fn seventy_five_neighbors_and_three_hundred_descriptors_are_refused_at_the_start() {
    let fleet = star(75);
    assert!(needed(&fleet, 75) > 300 + 75);
}
