//! Links that fall silent without a word: cut by a packet filter in a network of the test's own,
//! held by proxies in the ring, and a neighbor that is frozen. That a link is down is judged by what
//! both its ends say: the dialer to `herd status`, the other one in its log.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use herd::link::neighbor::LinkPhase;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::fleet::{Fleet, OBSERVER};
use crate::form::{choose, figure, has_tool, limit, skipped, spread};
use crate::load::{Acknowledged, Load, STEADY, await_held, loads};
use crate::process::{wait_for, wait_until};
use crate::support::report;

/// A link is down within this time, at both its ends.
fn noticed_within() -> Duration {
    limit(5)
}

/// What a server logs of a neighbor's connection that it has given up.
fn gone(fleet: &Fleet, server: usize, neighbor: usize) -> usize {
    fleet.logged(server, &format!("neighbor {} gone: ", fleet.name(neighbor)))
}

/// How long links took to be noticed as down at each end, and servers to be equal again.
#[derive(Default)]
struct Measured {
    dialers: Vec<Duration>,
    dialed: Vec<Duration>,
    equal: Vec<Duration>,
}

/// Waits until each of these servers knows that it has lost this neighbor: that the link that it
/// dials is down, which its status shows; and, where it logs that, that the neighbor's is.
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
        // Each answer takes a handshake.
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

/// Cuts links under load and heals them. All that was acknowledged meanwhile must be everywhere
/// soon after. `links` are the servers that must notice, each with whom it has lost; with
/// `both_ends` they log who is gone.
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

/// Waits until what is reported at the first is known at all.
fn await_links(fleet: &Fleet) {
    for origin in 0..fleet.len() {
        let client = format!("links-of-{origin}");
        let reply = fleet.client(origin).ask(&report(&client, "+1+1"));
        for server in 0..fleet.len() {
            fleet.client(server).await_whatsat(&client, &reply);
        }
    }
}

fn tell(row: &str, times: usize, what: &str, measured: &mut Measured) {
    figure(
        row,
        format_args!(
            "{times} {what}: noticed after {}{}, 0 lost, equal after {}",
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

/// A network of its own for the calling thread and what it starts, gone with this.
struct Network(Child);

impl Network {
    fn enter(row: &str) -> Option<Network> {
        if !(has_tool(row, "unshare") && has_tool(row, "nft") && has_tool(row, "ip")) {
            return None;
        }
        // It ends when its input does, which it does when this process ends, in whatever way.
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
        wait_until("a network of its own", || {
            refused = network.0.try_wait().unwrap().is_some();
            refused || std::fs::read_link(&path).is_ok_and(|other| other != own)
        });
        let entered = File::open(&path).is_ok_and(|file| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).is_ok()
        });
        if refused || !entered || !run("ip link set lo up") {
            skipped(row, "no right to make a network (needs root)");
            return None;
        }
        let made = run("nft add table inet herd")
            && run("nft add chain inet herd in { type filter hook input priority 0 ; }");
        if !made {
            skipped(row, "the kernel has no packet filter for it");
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

/// Row 8, with packets that are dropped in the kernel: both ways, and one way or the other.
#[test]
fn packets_dropped_between_two_neighbors_cost_a_delay_and_no_report() {
    // The network is the thread's, and the harness may give the test a thread that others use.
    std::thread::spawn(|| {
        let row = "row 8 with dropped packets";
        let Some(_network) = Network::enter(row) else {
            return;
        };
        let mut fleet = Fleet::pair("dropped", &["--log-level", "info"]);
        let (ball, welsh) = (0, 1);
        fleet.start_all();
        await_links(&fleet);
        // Who asks how they are is not cut off.
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
            ("silent partitions", &[(ball, welsh), (welsh, ball)]),
            ("one-way partitions", &[(ball, welsh)]),
            ("one-way partitions, the other way", &[(welsh, ball)]),
        ];
        for (kind, (what, ways)) in kinds.into_iter().enumerate() {
            let times = choose(1, 10);
            let mut measured = Measured::default();
            for time in 0..times {
                // What waits to be acknowledged changes what a kernel does.
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
            tell(
                "8",
                times,
                &format!("{what}, packets dropped"),
                &mut measured,
            );
        }
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Row 8, in the ring, where it takes two links to part it: Welsh and Ball from the others.
#[test]
fn a_silent_cut_through_the_ring_costs_a_delay_and_no_report() {
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
    tell(
        "8",
        times,
        "silent partitions of the ring by proxies",
        &mut measured,
    );
}

/// Row 8: a process that is stopped keeps its connections open, and its kernel goes on to
/// acknowledge what is sent to it.
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
    tell("8", times, "frozen neighbors", &mut measured);
}

/// A process that is stopped for a moment and goes on, as under a debugger, has every read fail that
/// was waiting with a time-out.
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
        wait_until("it is stopped", || {
            let stat = std::fs::read_to_string(fleet.process(welsh).proc("stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        });
        fleet.signal(welsh, "CONT");
        await_links(&fleet);
    }
    assert_eq!(dialed(), before, "a link was cut");
    figure(
        "8",
        format_args!("{times} times stopped for a moment: no link cut"),
    );
}
