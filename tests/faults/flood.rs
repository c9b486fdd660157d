//! Cost of the flood: messages per update in a whole and in a broken ring, and memory while a neighbor
//! is dead.

use std::collections::HashMap;

use herd::link::neighbor::LinkPhase;
use herd::replica::outbox::Depth;

use super::form::{choose, figure, limit};
use crate::support::fleet::Fleet;
use crate::support::load::{Acknowledged, await_held};
use crate::support::process::wait_for;
use crate::support::report;

/// Number of reports in one write. The replies fit into the buffers of both sockets.
const BURST: usize = 64;

/// Reports once for each of these clients. Returns the acknowledged replies.
fn report_each(fleet: &Fleet, server: usize, clients: &[String]) -> Acknowledged {
    let mut acknowledged = HashMap::new();
    let mut client = fleet.client(server);
    for some in clients.chunks(BURST) {
        let lines: String = some
            .iter()
            .map(|client| report(client, "+1+1") + "\n")
            .collect();
        client.send(lines);
        for name in some {
            let reply = client.line();
            assert!(reply.starts_with("AT "), "{reply}");
            acknowledged.insert(name.clone(), reply);
        }
    }
    acknowledged
}

/// Numbers of records and of resyncs that these servers have sent each other. Waits until nothing is on
/// its way.
fn sent(fleet: &Fleet, servers: &[usize]) -> (u64, u64) {
    let mut sums = (0, 0);
    wait_for("nothing is on its way", limit(4), || {
        sums = (0, 0);
        servers.iter().all(|&server| {
            let links = fleet.status(server).links;
            let among = |name: &String| servers.iter().any(|&other| fleet.name(other) == name);
            links
                .iter()
                .filter(|(name, _)| among(name))
                .all(|(_, link)| {
                    sums.0 += link.written;
                    sums.1 += link.resyncs;
                    link.phase == LinkPhase::Live && link.unconfirmed() == Some(0)
                })
        })
    });
    sums
}

/// Reports for new clients at each of these servers. Returns the number of records sent over the links
/// for them.
fn messages(fleet: &Fleet, servers: &[usize], label: &str, each: usize) -> u64 {
    let before = sent(fleet, servers);
    let mut held = Acknowledged::new();
    for &server in servers {
        let clients: Vec<_> = (0..each).map(|i| format!("{label}-{server}-{i}")).collect();
        held.extend(report_each(fleet, server, &clients));
    }
    for &server in servers {
        await_held(fleet.address(server), &held, limit(4));
    }
    let after = sent(fleet, servers);
    assert_eq!(after.1, before.1, "a link was reconnected meanwhile");
    after.0 - before.0
}

/// In a ring of five an update crosses each of the five links once, and the one where its two
/// directions meet a second time. With one server dead it travels along a line of four.
#[test]
fn an_update_takes_six_messages_in_a_ring_and_three_in_a_broken_one() {
    let each = choose(400, 20_000);
    let mut fleet = Fleet::ring("messages", &[]);
    let all = [0, 1, 2, 3, 4];
    fleet.start_all();
    wait_for("all links are live", limit(3), || {
        all.iter().all(|&server| {
            let links = fleet.status(server).links;
            links.iter().all(|(_, link)| link.phase == LinkPhase::Live)
        })
    });
    let updates = (all.len() * each) as u64;
    assert_eq!(messages(&fleet, &all, "whole", each), 6 * updates);
    let [left @ .., dead] = all;
    fleet.kill(dead);
    let broken = (left.len() * each) as u64;
    assert_eq!(messages(&fleet, &left, "broken", each), 3 * broken);
    figure(
        "messages per update",
        format_args!(
            "{updates} updates in a ring of five: exactly 6 messages each; {broken} with one server dead: exactly 3"
        ),
    );
}

/// Growth of a server's memory in KiB during updates of known clients while its neighbor, if it has
/// one, is dead.
fn growth(fleet: &mut Fleet, neighbor: Option<usize>, updates: usize) -> usize {
    let long = "x".repeat(200);
    let clients: Vec<_> = (0..1_000).map(|i| format!("{i}-{long}")).collect();
    fleet.start_all();
    for _ in 0..5 {
        report_each(fleet, 0, &clients);
    }
    if let Some(neighbor) = neighbor {
        wait_for("the link is live", limit(3), || {
            fleet.link_status(0, neighbor).phase == LinkPhase::Live
        });
        fleet.kill(neighbor);
        wait_for("the link is down", limit(3), || {
            !fleet.link_status(0, neighbor).phase.is_connected()
        });
    }
    let links = |fleet: &Fleet| fleet.status(0).links;
    // The first status request that a thread answers allocates some memory.
    (0..50).for_each(|_| drop(links(fleet)));
    let before = fleet.process(0).resident_kib();
    for _ in 0..updates / clients.len() {
        report_each(fleet, 0, &clients);
        for (_, link) in links(fleet) {
            assert_eq!(
                link.queue,
                Depth::default(),
                "something is queued for the dead neighbor"
            );
        }
    }
    fleet.process(0).resident_kib().saturating_sub(before)
}

/// The cache is the only copy of the records that a dead neighbor misses.
#[test]
fn a_dead_neighbor_costs_no_memory() {
    // Some 300 bytes each between servers.
    let updates = choose(40_000, 200_000);
    let alone = growth(&mut Fleet::alone("memory-alone", &[]), None, updates);
    let beside_the_dead = growth(&mut Fleet::pair("memory-dead", &[]), Some(1), updates);
    assert!(
        beside_the_dead < alone + (4 << 10),
        "{beside_the_dead} KiB, and {alone} KiB with no neighbor"
    );
    figure(
        "memory while a neighbor is dead",
        format_args!(
            "{updates} updates: {beside_the_dead} KiB growth, {alone} KiB without a neighbor, nothing queued"
        ),
    );
}
