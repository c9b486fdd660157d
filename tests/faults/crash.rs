//! Servers that end: one killed, all killed at once, two killed so that the ring splits, and stopped by
//! SIGTERM.

use std::time::Duration;

use super::form::{choose, figure, limit, spread};
use crate::support::fleet::Fleet;
use crate::support::load::{
    Acknowledged, FULL, Load, Pace, STEADY, assert_held, await_held, loads, missing,
};
use crate::support::process::wait_for;
use crate::support::{PATIENCE, report};

/// Lets a load run.
fn run_on(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// A server without neighbors has only its journal.
#[test]
fn kill_9_under_load_loses_nothing_acknowledged() {
    let rounds = choose(4, 50);
    for ack in ["journal", "disk"] {
        let mut fleet = Fleet::alone(&format!("kill-{ack}"), &["--ack", ack]);
        let mut kept = Acknowledged::new();
        for round in 0..rounds {
            fleet.start(0);
            assert_held(fleet.address(0), &kept);
            let loads = loads([fleet.address(0); 3], &format!("{round}"), FULL);
            loads.iter().for_each(|load| load.warm_up(FULL));
            fleet.kill(0);
            for load in loads {
                kept.extend(load.end().0);
            }
        }
        fleet.start(0);
        assert_held(fleet.address(0), &kept);
        assert_eq!(kept.len(), rounds * 3 * FULL.clients);
        figure(
            "kill -9 of a server without neighbors",
            format_args!(
                "--ack {ack}: {rounds} kills under load, {} clients, 0 lost",
                kept.len()
            ),
        );
    }
}

/// In the ring the clients of the other servers notice nothing, and the killed server catches up.
#[test]
fn a_server_killed_repeatedly_does_not_disturb_the_others_and_catches_up() {
    let kills = choose(4, 100);
    let mut fleet = Fleet::ring("kill-one", &[]);
    fleet.start_all();
    let mut held = Acknowledged::new();
    let mut catching_up = Vec::new();
    let mut reports = 0;
    let mut running: Vec<_> = loads(fleet.addresses(), "all", STEADY)
        .into_iter()
        .map(Some)
        .collect();
    for round in 0..kills {
        let victim = round % fleet.len();
        for load in running.iter().flatten() {
            load.warm_up(STEADY);
        }
        fleet.kill(victim);
        let (acknowledged, ended) = running[victim].take().unwrap().end();
        assert_eq!(ended.refused, 0);
        reports += ended.round_trips.len() * STEADY.burst;
        held.extend(acknowledged);
        run_on(choose(100, 50));
        let mut missed = held.clone();
        for load in running.iter().flatten() {
            missed.extend(load.acknowledged());
        }
        fleet.start(victim);
        catching_up.push(await_held(fleet.address(victim), &missed, limit(2)));
        let prefix = format!("again-{round}");
        running[victim] = Some(Load::start(fleet.address(victim), &prefix, STEADY));
    }
    for load in running.into_iter().flatten() {
        let (acknowledged, ended) = load.finish();
        reports += ended.round_trips.len() * STEADY.burst;
        held.extend(acknowledged);
    }
    for address in fleet.addresses() {
        await_held(address, &held, PATIENCE);
    }
    figure(
        "kill -9 of one server of five",
        format_args!(
            "{kills} kills under {reports} reports, 0 lost, 0 errors at the others, caught up in {}",
            spread(&mut catching_up)
        ),
    );
}

/// No server is left from which the others could resync.
#[test]
fn all_five_killed_at_once_restart_equal_with_nothing_lost() {
    let rounds = choose(2, 20);
    let mut fleet = Fleet::ring("kill-five", &[]);
    let mut kept = Acknowledged::new();
    for round in 0..rounds {
        fleet.start_all();
        let loads = loads(fleet.addresses(), &format!("{round}"), FULL);
        loads.iter().for_each(|load| load.warm_up(FULL));
        fleet.kill_all();
        for load in loads {
            kept.extend(load.end().0);
        }
    }
    fleet.start_all();
    let mut equal = vec![wait_for("five equal servers", PATIENCE, || {
        are_equal(&fleet, &kept)
    })];
    for address in fleet.addresses() {
        assert_held(address, &kept);
    }
    // As `herd status` compares them, but over all records, since no update is on its way.
    let sums: Vec<(u64, u64)> = (0..fleet.len())
        .map(|server| fleet.status(server))
        .map(|status| (status.records, status.digest.unwrap().total()))
        .collect();
    assert!(sums.iter().all(|&sum| sum == sums[0]), "{sums:x?}");
    assert!(sums[0].0 >= kept.len() as u64, "{sums:x?}");
    figure(
        "kill -9 of all five servers at once",
        format_args!(
            "{rounds} times, {} clients, 0 lost, equal digests, at the end equal after {}",
            kept.len(),
            spread(&mut equal)
        ),
    );
}

/// True if all servers return the same lines for these clients.
fn are_equal(fleet: &Fleet, clients: &Acknowledged) -> bool {
    let lines = |server| {
        fleet
            .client(server)
            .whatsat_all(clients.keys().map(String::as_str))
    };
    let first = lines(0);
    (1..fleet.len()).all(|server| lines(server) == first)
}

/// Without Alford and Hamilton, Welsh and Ball are on one side and Holiday is on the other.
#[test]
fn both_sides_of_a_split_ring_accept_reports_and_the_newest_wins() {
    let rounds = choose(1, 20);
    let mut fleet = Fleet::ring("split", &[]);
    let [alford, ball, hamilton, holiday, welsh] = [0, 1, 2, 3, 4];
    let mut healing = Vec::new();
    let mut held = Acknowledged::new();
    fleet.start_all();
    for round in 0..rounds {
        fleet.kill(alford);
        fleet.kill(hamilton);
        let sides = loads(
            [welsh, ball, holiday].map(|server| fleet.address(server)),
            &format!("{round}"),
            STEADY,
        );
        sides.iter().for_each(|load| load.warm_up(STEADY));
        // The side with the newer report alternates.
        let mut writers = [welsh, holiday];
        writers.rotate_left(round % 2);
        let replies = writers.map(|server| fleet.client(server).ask(&report("contested", "+1+1")));
        held.extend(sides.into_iter().flat_map(|load| load.finish().0));
        held.insert("contested".to_owned(), replies[1].clone());
        fleet.start(alford);
        fleet.start(hamilton);
        healing.push(wait_for("the newest everywhere", limit(2), || {
            (0..fleet.len()).all(|server| missing(fleet.address(server), &held).is_empty())
        }));
        for server in 0..fleet.len() {
            fleet.client(server).await_whatsat("contested", &replies[1]);
        }
    }
    figure(
        "split ring",
        format_args!(
            "{rounds} splits with reports on both sides, 0 lost, equal in {}",
            spread(&mut healing)
        ),
    );
}

/// A stop sends everything to the neighbors first, and the journal holds everything.
#[test]
fn sigterm_under_load_loses_nothing_acknowledged() {
    let rounds = choose(1, 20);
    let mut stopping = Vec::new();
    for ack in ["memory", "journal", "disk"] {
        let mut fleet = Fleet::pair(&format!("term-{ack}"), &["--ack", ack]);
        let (ball, welsh) = (0, 1);
        fleet.start_all();
        let mut kept = Acknowledged::new();
        for round in 0..rounds {
            // Welsh gets the reports only over a link that is up.
            let up = fleet.client(ball).ask(&report("up", "+1+1"));
            fleet.client(welsh).await_whatsat("up", &up);
            let pace = Pace {
                pause: Duration::from_millis(1),
                ..FULL
            };
            let loads = loads([fleet.address(ball); 4], &format!("{round}"), pace);
            loads.iter().for_each(|load| load.warm_up(FULL));
            let start = std::time::Instant::now();
            fleet.signal(ball, "TERM");
            assert_eq!(fleet.wait(ball), Some(0), "--ack {ack}");
            stopping.push(start.elapsed());
            for load in loads {
                let (acknowledged, ended) = load.end();
                assert_eq!(ended.refused, 0);
                kept.extend(acknowledged);
            }
            await_held(fleet.address(welsh), &kept, PATIENCE);
            // Without its neighbor it has only what it stored itself.
            fleet.kill(welsh);
            fleet.start(ball);
            assert_held(fleet.address(ball), &kept);
            fleet.start(welsh);
        }
    }
    figure(
        "SIGTERM under load",
        format_args!(
            "{} stops, exit code 0, 0 lost, stopped in {}",
            stopping.len(),
            spread(&mut stopping)
        ),
    );
}

/// A neighbor that reads very slowly does not keep a server from syncing its journal, neither while
/// the server sends queued records nor during a resync.
#[test]
fn sigterm_beside_a_very_slow_neighbor_ends_in_time_and_loses_nothing() {
    let rounds = choose(1, 3);
    let mut stopping = Vec::new();
    for (kind, label) in ["queued", "lacking"].iter().enumerate() {
        let flags = ["--ack", "memory"];
        let mut fleet = Fleet::pair(&format!("crawl-{label}"), &flags).with_proxies();
        let (ball, welsh) = (0, 1);
        let mut kept = Acknowledged::new();
        for round in 0..rounds {
            fleet.start_all();
            let up = fleet.client(ball).ask(&report("up", "+1+1"));
            fleet.client(welsh).await_whatsat("up", &up);
            let link = fleet.link(ball, welsh);
            if kind == 1 {
                link.hold(true, true);
                link.cut();
            }
            link.slow_down(40_000);
            let pace = Pace {
                clients: 5_000,
                ..FULL
            };
            let loads = loads([fleet.address(ball); 4], &format!("{round}"), pace);
            loads.iter().for_each(|load| load.warm_up(pace));
            kept.extend(loads.into_iter().flat_map(|load| load.finish().0));
            // Now the dialer gets through and starts to send far more than the link takes.
            link.hold(false, false);
            wait_for("a long queue for the neighbor", limit(5), || {
                let link = fleet.link_status(ball, welsh);
                link.phase.is_connected() && link.unconfirmed() > Some(2_000)
            });
            let start = std::time::Instant::now();
            fleet.signal(ball, "TERM");
            assert_eq!(fleet.wait(ball), Some(0), "{label}");
            stopping.push(start.elapsed());
            fleet.kill(welsh);
            fleet.link(ball, welsh).slow_down(0);
            fleet.start(ball);
            assert_held(fleet.address(ball), &kept);
            fleet.kill(ball);
        }
    }
    figure(
        "SIGTERM beside a neighbor behind 320 kbit/s",
        format_args!(
            "{} stops, exit code 0, 0 lost, stopped in {}",
            stopping.len(),
            spread(&mut stopping)
        ),
    );
}
