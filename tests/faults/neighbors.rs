//! Neighbors that are absent, refuse, are slow, flap, or have a wrong clock.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::form::{choose, figure, limit, skipped, spread};
use crate::support::fleet::Fleet;
use crate::support::load::{Ended, Load, Pace, STEADY, await_held, loads};
use crate::support::process::{wait_for, wait_until};
use crate::support::{PATIENCE, report};

/// Maximum CPU time of a server while a neighbor is absent, in ticks of 10 ms a second: of an optimized
/// program, and of one that is not. Spinning takes 100.
const IDLE_TICKS: (u64, u64) = (3, 12);

/// The neighbor's port is closed, resets every connection, or never answers.
#[test]
fn an_absent_neighbor_costs_nothing_and_is_found_once_it_is_there() {
    let seconds = choose(2, 10);
    let mut found = Vec::new();
    let mut busiest = 0;
    for kind in ["absent", "resetting", "mute"] {
        let mut fleet = Fleet::pair(kind, &[]);
        if kind != "absent" {
            fleet = fleet.with_proxies();
            fleet.link(0, 1).reset(kind == "resetting");
            fleet.link(0, 1).hold(kind == "mute", kind == "mute");
            // The proxy needs a server behind it.
            fleet.start(1);
        }
        fleet.start(0);
        let mut client = fleet.client(0);
        let (start, before) = (Instant::now(), fleet.process(0).cpu_ticks());
        let mut replies = Vec::new();
        while start.elapsed() < Duration::from_secs(seconds) {
            replies.push(client.ask(&report(&format!("{}", replies.len()), "+1+1")));
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(replies.iter().all(|reply| reply.starts_with("AT Ball ")));
        let ticks = fleet.process(0).cpu_ticks() - before;
        busiest = busiest.max(ticks * 100 / seconds);
        assert!(
            ticks <= choose(IDLE_TICKS.1, IDLE_TICKS.0) * seconds,
            "{kind}: {ticks} ticks in {seconds} s"
        );
        if kind == "absent" {
            fleet.start(1);
        } else {
            let dials = fleet.link(0, 1).connections() as u64;
            let most = 6 + 2 * seconds;
            assert!((1..=most).contains(&dials), "{kind}: {dials} dials");
            fleet.link(0, 1).reset(false);
            fleet.link(0, 1).hold(false, false);
        }
        // Missed records come in any order.
        let mut client = fleet.client(1);
        found.push(wait_for("everything that it missed", limit(3), || {
            let mut all = replies.iter().enumerate();
            all.all(|(number, reply)| client.whatsat(&format!("{number}")) == *reply)
        }));
    }
    figure(
        "absent neighbor",
        format_args!(
            "absent, resetting and mute for {seconds} s each: at most {:.1} % of a core, complete after {}",
            busiest as f64 / 100.0,
            spread(&mut found)
        ),
    );
}

/// Resources of a server that must not grow while links are bad.
#[derive(Debug)]
struct Footprint {
    threads: usize,
    descriptors: usize,
    resident_kib: usize,
}

impl Footprint {
    fn of(fleet: &Fleet, server: usize) -> Footprint {
        let process = fleet.process(server);
        Footprint {
            threads: process.threads(),
            descriptors: process.descriptors(),
            resident_kib: process.resident_kib(),
        }
    }
}

/// Measures the round trips of a client that reports now and then beside a load.
fn measure(fleet: &Fleet, label: &str, seconds: u64) -> Ended {
    let pace = Pace {
        clients: 10,
        burst: 1,
        pause: Duration::from_millis(2),
    };
    let single = Load::start(fleet.address(0), label, pace);
    std::thread::sleep(Duration::from_secs(seconds));
    single.finish().1
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Asserts that clients of a server with a bad link wait no longer than before, within the noise of
/// other processes on the machine.
#[track_caller]
fn assert_unchanged(good: Duration, bad: Duration) {
    let noise = Duration::from_millis(choose(50, 5));
    assert!(bad <= 2 * good + noise, "p99 {bad:?}, before {good:?}");
}

/// One neighbor is behind 1 Mbit/s, under a load that keeps overflowing its queue.
#[test]
fn a_slow_neighbor_is_no_burden_and_gets_everything_in_the_end() {
    let seconds = choose(2, 30);
    let mut fleet = Fleet::pair("slow", &[]).with_proxies();
    let (ball, welsh) = (0, 1);
    fleet.start_all();
    let pace = Pace {
        clients: 2_000,
        burst: 64,
        pause: Duration::from_millis(choose(1, 4)),
    };
    let running = loads([fleet.address(ball); 3], "heavy", pace);
    running.iter().for_each(|load| load.warm_up(pace));
    let good = measure(&fleet, "good", choose(1, 5)).quantile(0.99);
    let before = Footprint::of(&fleet, ball);

    let link = fleet.link(ball, welsh);
    link.slow_down(125_000);
    // The next connection gets the small buffers of a slow network.
    link.cut();
    let start = Instant::now();
    wait_for("the queue overflows", Duration::from_secs(20), || {
        fleet.logged(ball, "overflowed") > 0
    });
    let bad = measure(&fleet, "bad", seconds / 2).quantile(0.99);
    let half = Footprint::of(&fleet, ball);
    std::thread::sleep(Duration::from_secs(seconds - seconds / 2));
    let full = Footprint::of(&fleet, ball);
    let overflows = fleet.logged(ball, "overflowed");
    let most = start.elapsed().as_secs() as usize + 2;
    assert!((1..=most).contains(&overflows), "{overflows} overflows");
    // The queue for one neighbor holds 16 MiB.
    assert!(
        full.resident_kib < before.resident_kib + (48 << 10),
        "{before:?} {full:?}"
    );
    assert!(
        full.resident_kib < half.resident_kib + (16 << 10),
        "{half:?} {full:?}"
    );
    assert_eq!(full.threads, before.threads);
    assert!(
        full.descriptors <= before.descriptors + 2,
        "{before:?} {full:?}"
    );
    assert_unchanged(good, bad);

    fleet.link(ball, welsh).slow_down(0);
    let held: Vec<_> = running.into_iter().map(|load| load.finish().0).collect();
    let start = Instant::now();
    for held in &held {
        await_held(fleet.address(welsh), held, PATIENCE);
    }
    figure(
        "neighbor behind 1 Mbit/s",
        format_args!(
            "for {seconds} s: {overflows} overflows, memory {} MiB before, {} after half, {} at the end, p99 {:.2} ms, before {:.2} ms, all sent {:.2} s after",
            before.resident_kib >> 10,
            half.resident_kib >> 10,
            full.resident_kib >> 10,
            milliseconds(bad),
            milliseconds(good),
            start.elapsed().as_secs_f64()
        ),
    );
}

/// All links break ten times a second.
#[test]
fn flapping_links_cost_at_most_one_scan_a_second_and_no_report() {
    let seconds = choose(3, 30);
    let mut fleet = Fleet::pair("flap", &["--log-level", "info"]).with_proxies();
    let (ball, welsh) = (0, 1);
    fleet.start_all();
    let running = loads(fleet.addresses(), "flap", STEADY);
    running.iter().for_each(|load| load.warm_up(STEADY));
    let good = measure(&fleet, "good", 1).quantile(0.99);
    let scans = |dialer: usize, neighbor: usize| {
        let name = fleet.name(neighbor);
        let log = fleet.log(dialer);
        log.lines()
            .filter(|line| line.contains("] sent ") && line.ends_with(&format!("{name} lacked")))
            .count()
    };
    let before = [Footprint::of(&fleet, ball), Footprint::of(&fleet, welsh)];
    let scans_before = [scans(ball, welsh), scans(welsh, ball)];
    let dialed_before = fleet.link(ball, welsh).connections();

    let over = AtomicBool::new(false);
    let bad = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fleet.link(ball, welsh).cut();
                fleet.link(welsh, ball).cut();
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let bad = measure(&fleet, "bad", seconds);
        over.store(true, Ordering::Relaxed);
        bad.quantile(0.99)
    });
    // A log line is on file within a second, and the last attempt to dial has ended.
    std::thread::sleep(Duration::from_millis(1_000));
    let after = [Footprint::of(&fleet, ball), Footprint::of(&fleet, welsh)];
    let counts = [scans(ball, welsh), scans(welsh, ball)];
    for side in [0, 1] {
        let (before, after) = (&before[side], &after[side]);
        let scans = counts[side] - scans_before[side];
        assert!(scans <= seconds as usize + 3, "{scans} in {seconds} s");
        assert_eq!(after.threads, before.threads);
        assert!(
            after.descriptors <= before.descriptors + 8,
            "{before:?} {after:?}"
        );
        let grown = after.resident_kib.saturating_sub(before.resident_kib);
        assert!(grown < 16 << 10, "{before:?} {after:?}");
    }
    assert_unchanged(good, bad);
    let dialed = fleet.link(ball, welsh).connections() - dialed_before;
    assert!(dialed as u64 >= seconds, "{dialed} connections");
    let held: Vec<_> = running.into_iter().map(|load| load.finish().0).collect();
    let start = Instant::now();
    for address in fleet.addresses() {
        for held in &held {
            await_held(address, held, limit(3));
        }
    }
    figure(
        "flapping links",
        format_args!(
            "cut every 100 ms for {seconds} s: {dialed} connections, {} scans, {} KiB growth, p99 {:.2} ms, before {:.2} ms, equal {:.2} s after",
            counts[0] - scans_before[0],
            after[0].resident_kib.saturating_sub(before[0].resident_kib),
            milliseconds(bad),
            milliseconds(good),
            start.elapsed().as_secs_f64()
        ),
    );
}

/// Path of the library that changes a process's clock.
pub(super) fn faketime() -> Option<PathBuf> {
    let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")];
    if let Ok(entries) = std::fs::read_dir("/usr/lib") {
        folders.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut paths = folders
        .iter()
        .map(|folder| folder.join("faketime/libfaketime.so.1"));
    paths.find(|path| path.exists())
}

/// A link between clocks that differ too much is refused at both ends.
#[test]
fn a_clock_an_hour_off_is_refused_with_the_reason_and_nothing_diverges() {
    let Some(library) = faketime() else {
        return skipped("wrong clock", "libfaketime is not installed");
    };
    let mut fleet = Fleet::pair("clock", &[]);
    let (ball, welsh) = (0, 1);
    let mut healing = Vec::new();
    for offset in ["+3600", "-3600"] {
        let logged = [ball, welsh].map(|server| fleet.log(server).len());
        fleet.start(ball);
        let mut command = fleet.command(welsh);
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME", format!("{offset}s"))
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        fleet.start_as(welsh, command);
        for (server, before) in [ball, welsh].into_iter().zip(logged) {
            wait_until("the reason in the log", || {
                let log = &fleet.log(server)[before..];
                log.lines().any(|line| {
                    // The difference may lose a second on its way.
                    line.contains("its clock differs by")
                        && ["3600", "3599"].iter().any(|off| line.contains(off))
                })
            });
        }
        let (early, late) = (format!("early{offset}"), format!("late{offset}"));
        let at_ball = fleet.client(ball).ask(&report(&early, "+1+1"));
        assert!(at_ball.starts_with("AT Ball "), "{at_ball}");
        // A time near Welsh's clock, which is an hour ahead of Ball's.
        let mut line = report(&late, "+2+2");
        if offset == "+3600" {
            let now = line.rsplit(' ').next().unwrap().to_owned();
            let (seconds, fraction) = now.split_once('.').unwrap();
            let ahead = seconds.parse::<u64>().unwrap() + 3_500;
            line = line.replace(&now, &format!("{ahead}.{fraction}"));
            assert_eq!(fleet.client(ball).ask(&line), format!("? {line}"));
        } else {
            // The current time is an hour ahead of Welsh's clock.
            assert_eq!(fleet.client(welsh).ask(&line), format!("? {line}"));
            line = format!("IAMAT {late} +2+2 1479413884.5");
        }
        let at_welsh = fleet.client(welsh).ask(&line);
        assert!(at_welsh.starts_with("AT Welsh "), "{at_welsh}");
        let unknown = |client: &str| format!("? WHATSAT {client} 0 0");
        assert_eq!(fleet.client(welsh).whatsat(&early), unknown(&early));
        assert_eq!(fleet.client(ball).whatsat(&late), unknown(&late));
        // With the right time both servers get both records.
        fleet.signal(welsh, "TERM");
        assert_eq!(fleet.wait(welsh), Some(0));
        fleet.start(welsh);
        healing.push(wait_for("the same at both", limit(3), || {
            [ball, welsh].iter().all(|&server| {
                let mut client = fleet.client(server);
                client.whatsat(&early) == at_ball && client.whatsat(&late) == at_welsh
            })
        }));
        fleet.kill_all();
    }
    figure(
        "wrong clock",
        format_args!(
            "an hour ahead and behind: refused with the reason at both ends, equal with the right time after {}",
            spread(&mut healing)
        ),
    );
}
