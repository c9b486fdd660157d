//! Links that fall silent without being closed: cut by a packet filter in a network namespace of the
//! test, held back by proxies in the ring, or with a frozen neighbor. A link is down once both its ends
//! report it: the dialer in its status, the other end in its log.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use herd::link::neighbor::LinkPhase;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::form::{choose, figure, has_tool, limit, skipped, spread};
use crate::support::fleet::{Fleet, OBSERVER};
use crate::support::load::{Acknowledged, Load, STEADY, await_held, loads};
use crate::support::process::{wait_for, wait_until};
use crate::support::report;

/// Time limit for both ends to notice that a link is down.
fn noticed_within() -> Duration {
    limit(5)
}

/// Number of times that a server logged the end of a neighbor's connection.
fn gone(fleet: &Fleet, server: usize, neighbor: usize) -> usize {
    fleet.logged(server, &format!("neighbor {} gone: ", fleet.name(neighbor)))
}

/// Times until each end noticed that its link was down, and until the servers were equal again.
#[derive(Default)]
struct Measured {
    dialers: Vec<Duration>,
    dialed: Vec<Duration>,
    equal: Vec<Duration>,
}

/// Waits until each of these servers has noticed that it lost a neighbor: its own link to the neighbor is
/// down in its status and, unless `before` is empty, the end of the neighbor's connection is in its log.
fn await_noticed(
    fleet: &Fleet,
    links: &[(usize, usize)],
    before: &[usize],
    start: Instant,
    measured: &mut Measured,
) {
    let mut unaware = links.to_vec();
    while !unaware.is_empty() {
        unaware.retain(|&(server, neighbor)| {
            let down = !fleet.link_status(server, neighbor).phase.is_connected();
            if down {
                measured.dialers.push(start.elapsed());
            }
            !down
        });
        let names: Vec<_> = unaware
            .iter()
            .map(|&(server, neighbor)| [server, neighbor].map(|server| fleet.name(server)))
            .collect();
        let waited = start.elapsed();
        assert!(
            waited < noticed_within(),
            "still up after {waited:?}: {names:?}"
        );
        // Each status takes a handshake.
        std::thread::park_timeout(Duration::from_millis(20));
    }
    if before.is_empty() {
        return;
    }
    let left = noticed_within().saturating_sub(start.elapsed());
    wait_for("both ends have noticed", left, || {
        let mut both = links.iter().zip(before);
        both.all(|(&(server, neighbor), before)| gone(fleet, server, neighbor) > *before)
    });
    measured.dialed.push(start.elapsed());
}

/// Cuts links under load and heals them. Every report acknowledged meanwhile must be at all servers soon
/// after. `links` are pairs of a server that must notice and the neighbor that it lost; with
/// `both_ends` the server also logs the end of the neighbor's connection.
fn cut_and_heal(
    fleet: &Fleet,
    (links, both_ends): (&[(usize, usize)], bool),
    loaded: &[usize],
    cut: impl Fn(bool),
    label: &str,
    measured: &mut Measured,
) {
    let addresses = loaded.iter().map(|&server| fleet.address(server));
    let running = loads(addresses, label, STEADY);
    running.iter().for_each(|load| load.warm_up(STEADY));
    wait_for("the links are live", limit(2), || {
        links
            .iter()
            .all(|&(server, neighbor)| fleet.link_status(server, neighbor).phase == LinkPhase::Live)
    });
    let watched = if both_ends { links } else { &[] };
    let before: Vec<_> = watched.iter().map(|&(a, b)| gone(fleet, a, b)).collect();
    cut(true);
    await_noticed(fleet, links, &before, Instant::now(), measured);
    std::thread::sleep(Duration::from_millis(choose(100, 1_500)));
    let mut held = Acknowledged::new();
    for load in &running {
        held.extend(load.acknowledged());
    }
    cut(false);
    let healed = Instant::now();
    for server in 0..fleet.len() {
        await_held(fleet.address(server), &held, limit(2));
    }
    measured.equal.push(healed.elapsed());
    let ended: Vec<_> = running.into_iter().map(Load::finish).collect();
    for server in 0..fleet.len() {
        for (acknowledged, _) in &ended {
            await_held(fleet.address(server), acknowledged, limit(2));
        }
    }
}

/// Waits until a report at any server reaches all servers.
fn await_links(fleet: &Fleet) {
    for origin in 0..fleet.len() {
        let client = format!("links-of-{origin}");
        let reply = fleet.client(origin).ask(&report(&client, "+1+1"));
        for server in 0..fleet.len() {
            fleet.client(server).await_whatsat(&client, &reply);
        }
    }
}

fn print(fault: &str, times: usize, measured: &mut Measured) {
    figure(
        fault,
        format_args!(
            "{times} times, noticed after {}{}, 0 lost, equal after {}",
            spread(&mut measured.dialers),
            if measured.dialed.is_empty() {
                String::new()
            } else {
                format!(", at the other end {}", spread(&mut measured.dialed))
            },
            spread(&mut measured.equal)
        ),
    );
}

/// A network namespace for the calling thread and the processes that it starts; ends on drop.
struct Network(Child);

impl Network {
    fn enter(fault: &str) -> Option<Network> {
        if !(has_tool(fault, "unshare") && has_tool(fault, "nft") && has_tool(fault, "ip")) {
            return None;
        }
        // It ends with its input, and so with this process, however this process ends.
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut network = Network(holder);
        let path = format!("/proc/{}/ns/net", network.0.id());
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let mut refused = false;
        wait_until("a network namespace", || {
            refused = network.0.try_wait().unwrap().is_some();
            refused || std::fs::read_link(&path).is_ok_and(|other| other != own)
        });
        let entered = File::open(&path).is_ok_and(|file| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).is_ok()
        });
        if refused || !entered || !run("ip link set lo up") {
            skipped(
                fault,
                "no permission to make a network namespace (needs root)",
            );
            return None;
        }
        let made = run("nft add table inet herd")
            && run("nft add chain inet herd in { type filter hook input priority 0 ; }");
        if !made {
            skipped(fault, "the kernel has no packet filter");
            return None;
        }
        Some(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(words: &str) -> bool {
    let words: Vec<_> = words.split(' ').collect();
    let status = Command::new(words[0])
        .args(&words[1..])
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// The kernel drops packets both ways, one way, and the other way.
#[test]
fn packets_dropped_between_two_neighbors_cost_only_a_delay() {
    // The namespace belongs to the thread, and the harness may run other tests on this thread.
    std::thread::spawn(|| {
        let Some(_network) = Network::enter("dropped packets") else {
            return;
        };
        let mut fleet = Fleet::pair("dropped", &["--log-level", "info"]);
        let (ball, welsh) = (0, 1);
        fleet.start_all();
        await_links(&fleet);
        // Status requests still get through.
        let observer = Ipv4Addr::from(OBSERVER);
        let drop_to = |from: usize, to: usize| {
            for which in [
                format!("tcp dport {} ip saddr", fleet.peer(to).port()),
                format!("tcp sport {} ip daddr", fleet.peer(from).port()),
            ] {
                let rule = format!("nft add rule inet herd in {which} != {observer} drop");
                assert!(run(&rule));
            }
        };
        type Ways<'a> = (&'a str, &'a [(usize, usize)]);
        let kinds: [Ways<'_>; 3] = [
            ("packets dropped both ways", &[(ball, welsh), (welsh, ball)]),
            ("packets dropped one way", &[(ball, welsh)]),
            ("packets dropped the other way", &[(welsh, ball)]),
        ];
        for (kind, (fault, ways)) in kinds.into_iter().enumerate() {
            let times = choose(1, 10);
            let mut measured = Measured::default();
            for time in 0..times {
                // The kernel behaves differently while data waits for an acknowledgement.
                let loaded: &[usize] = if time % 2 == 0 { &[ball, welsh] } else { &[] };
                let cut = |cut: bool| {
                    if cut {
                        ways.iter().for_each(|&(from, to)| drop_to(from, to));
                    } else {
                        assert!(run("nft flush chain inet herd in"));
                    }
                };
                let links = [(ball, welsh), (welsh, ball)];
                let label = format!("{kind}-{time}");
                cut_and_heal(&fleet, (&links, true), loaded, cut, &label, &mut measured);
            }
            print(fault, times, &mut measured);
        }
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Two links are cut, which separates Welsh and Ball from the others.
#[test]
fn a_silent_partition_of_the_ring_costs_only_a_delay() {
    let times = choose(1, 5);
    let mut fleet = Fleet::ring("held", &[]).with_proxies();
    let [alford, ball, hamilton, holiday, welsh] = [0, 1, 2, 3, 4];
    fleet.start_all();
    await_links(&fleet);
    let links = [
        (welsh, alford),
        (alford, welsh),
        (ball, hamilton),
        (hamilton, ball),
    ];
    let mut measured = Measured::default();
    for time in 0..times {
        let cut = |cut: bool| {
            for (from, to) in links {
                fleet.link(from, to).hold(cut, cut);
            }
        };
        let loaded = [welsh, ball, alford, hamilton, holiday];
        cut_and_heal(
            &fleet,
            (&links, false),
            &loaded,
            cut,
            &time.to_string(),
            &mut measured,
        );
    }
    print("silent partition of the ring", times, &mut measured);
}

/// A stopped process keeps its connections open, and its kernel still acknowledges what it receives.
#[test]
fn a_frozen_neighbor_is_noticed_and_catches_up() {
    let times = choose(1, 5);
    let mut fleet = Fleet::ring("frozen", &[]);
    let [alford, ball, hamilton, holiday, welsh] = [0, 1, 2, 3, 4];
    fleet.start_all();
    await_links(&fleet);
    let mut measured = Measured::default();
    for time in 0..times {
        let freeze = |freeze: bool| fleet.signal(welsh, if freeze { "STOP" } else { "CONT" });
        let links = [(alford, welsh), (ball, welsh)];
        let loaded = [alford, ball, hamilton, holiday];
        cut_and_heal(
            &fleet,
            (&links, false),
            &loaded,
            freeze,
            &time.to_string(),
            &mut measured,
        );
    }
    print("frozen neighbor", times, &mut measured);
}

/// When a process is stopped for a moment and continues, as under a debugger, every read that was waiting
/// with a timeout fails.
#[test]
fn a_neighbor_that_is_stopped_for_a_moment_keeps_its_links() {
    let times = choose(3, 50);
    let mut fleet = Fleet::pair("moment", &[]).with_proxies();
    let (ball, welsh) = (0, 1);
    fleet.start_all();
    await_links(&fleet);
    let dialed = || fleet.link(ball, welsh).connections() + fleet.link(welsh, ball).connections();
    let before = dialed();
    for _ in 0..times {
        fleet.signal(welsh, "STOP");
        wait_until("the process is stopped", || {
            let stat = std::fs::read_to_string(fleet.process(welsh).proc("stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        });
        fleet.signal(welsh, "CONT");
        await_links(&fleet);
    }
    assert_eq!(dialed(), before, "a link was cut");
    figure(
        "neighbor stopped for a moment",
        format_args!("{times} times, no link cut"),
    );
}
