//! Disks that are full, fail, or are slow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::form::{can_run, choose, figure, has_tool, limit, skipped};
use crate::support::fleet::Fleet;
use crate::support::load::{FULL, Pace, assert_held, await_held, loads};
use crate::support::process::{Running, behind, wait_until};
use crate::support::{Client, report};

/// Shell script that mounts a file system of 1 MiB on its first argument and runs the rest as a command.
pub(super) const MOUNT: &str = r#"mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@""#;

/// Words to put before a command for a mount namespace of its own, if this process may make one.
pub(super) fn own_mounts() -> Option<Vec<&'static str>> {
    let ways: [&[&str]; 2] = [
        &["unshare", "--mount"],
        &["unshare", "--user", "--map-root-user", "--mount"],
    ];
    let words = ways.into_iter().find(|words| {
        let probe = ["sh", "-c", MOUNT, "/tmp", "true"];
        can_run(&[words, &probe[..]].concat())
    })?;
    Some(words.to_vec())
}

/// A report is either acknowledged and kept, or refused and stored nowhere.
#[test]
fn a_full_disk_refuses_only_reports_and_recovers_once_there_is_space() {
    let Some(mut words) = own_mounts() else {
        return skipped("full disk", "no permission to mount a file system");
    };
    let rounds = choose(1, 10);
    let mut fleet = Fleet::pair("full", &[]);
    let (ball, welsh) = (0, 1);
    fleet.start(welsh);
    let data = fleet.directory.0.join("data");
    fs::create_dir_all(&data).unwrap();
    let text = data.display().to_string();
    words.extend(["sh", "-c", MOUNT, &text]);
    let command = behind(&words, &fleet.command(ball));
    fleet.start_as(ball, command);
    // A path as seen from the server's mount namespace.
    let seen = |fleet: &Fleet, path: &Path| {
        let root = fleet.process(ball).proc("root");
        root.join(path.strip_prefix("/").unwrap())
    };
    let filler = seen(&fleet, &data.join("filler"));

    let mut at_ball = fleet.client(ball);
    let (mut kept, mut theirs) = (Vec::new(), Vec::new());
    let mut refused = Vec::new();
    let mut healing = Vec::new();
    for round in 0..rounds {
        let known = format!("known-{round}");
        let reply = at_ball.ask(&report(&known, "+1+1"));
        fleet.client(welsh).await_whatsat(&known, &reply);
        fill(&filler);
        // The rest of the last page takes a few more reports.
        let mut number = 0;
        let start = Instant::now();
        loop {
            let client = format!("full-{round}-{number}");
            let line = report(&client, "+2+2");
            let reply = at_ball.ask(&line);
            if reply == format!("? {line}") {
                refused.push(client);
                break;
            }
            assert!(reply.starts_with("AT Ball "), "{reply}");
            assert!(start.elapsed() < Duration::from_secs(10), "never full");
            kept.push((client, reply));
            number += 1;
        }
        // A shorter report may still fit where a longer one did not.
        let mut reply = reply;
        loop {
            let line = report(&known, "+3+3");
            let answer = at_ball.ask(&line);
            if answer == format!("? {line}") {
                break;
            }
            assert!(answer.starts_with("AT Ball "), "{answer}");
            assert!(start.elapsed() < Duration::from_secs(10), "never full");
            reply = answer;
        }
        // Queries and links are not affected.
        assert_eq!(at_ball.whatsat(&known), reply);
        kept.push((known, reply));
        let client = format!("foreign-{round}");
        let foreign = fleet.client(welsh).ask(&report(&client, "+4+4"));
        at_ball.await_whatsat(&client, &foreign);
        theirs.push((client, foreign));

        fs::remove_file(&filler).unwrap();
        let start = Instant::now();
        let client = format!("space-{round}");
        let mut reply = String::new();
        wait_until("reports are accepted again", || {
            reply = at_ball.ask(&report(&client, "+5+5"));
            reply.starts_with("AT Ball ")
        });
        healing.push(start.elapsed());
        fleet.client(welsh).await_whatsat(&client, &reply);
        kept.push((client, reply));
    }
    wait_until("each time is in the log", || {
        fleet.logged(ball, "the journal can't be written") >= rounds
    });
    for client in &refused {
        for server in [ball, welsh] {
            let line = fleet.client(server).whatsat(client);
            assert_eq!(line, format!("? WHATSAT {client} 0 0"));
        }
    }
    // Takes the files that a crash would leave to a disk with space. A stopped process writes nothing.
    fleet.signal(ball, "STOP");
    let left = fleet.directory.0.join("left");
    copy(&seen(&fleet, &fleet.data(ball)), &left);
    fleet.kill(ball);
    fleet.kill(welsh);
    fs::rename(left, fleet.data(ball)).unwrap();
    fleet.start(ball);
    let mut client = fleet.client(ball);
    for (name, reply) in &kept {
        assert_eq!(client.whatsat(name), *reply);
    }
    // Its vector does not cover what it adopted while its disk was full, so a neighbor sends it again.
    fleet.start(welsh);
    for (name, reply) in kept.iter().chain(&theirs) {
        client.await_whatsat(name, reply);
        fleet.client(welsh).await_whatsat(name, reply);
    }
    figure(
        "full disk",
        format_args!(
            "{rounds} times, {} reports kept, {} refused and stored nowhere, accepted again after {}",
            kept.len(),
            refused.len() + rounds,
            super::form::spread(&mut healing)
        ),
    );
}

/// Only the log is affected.
#[test]
fn a_full_log_disk_costs_log_lines_and_nothing_else() {
    let Some(mut words) = own_mounts() else {
        return skipped("full log disk", "no permission to mount a file system");
    };
    let rounds = choose(1, 10);
    let mut fleet = Fleet::alone("full-log", &["--log-lines"]);
    let logs = fleet.directory.0.join("logs");
    fs::create_dir_all(&logs).unwrap();
    let text = logs.display().to_string();
    // The lines of all rounds alone take over 1 MiB.
    let mount = MOUNT.replace("size=1m", "size=4m");
    words.extend(["sh", "-c", &mount, &text]);
    let command = behind(&words, &fleet.command(0));
    fleet.start_as(0, command);
    let root = fleet.process(0).proc("root");
    let seen = root.join(logs.strip_prefix("/").unwrap());
    let log = || fs::read(seen.join("Alone.lines.log")).unwrap();
    let count = |text: &str| String::from_utf8_lossy(&log()).matches(text).count();

    let mut client = fleet.client(0);
    let mut waits = Vec::new();
    for round in 0..rounds {
        fill(&seen.join("filler"));
        let full = log().len();
        let mut ask = |number: usize| {
            let start = Instant::now();
            let reply = client.ask(&report(&format!("full-{round}-{number}"), "+1+1"));
            assert!(reply.starts_with("AT Alone "), "{reply}");
            waits.push(start.elapsed());
        };
        // More than the rest of the last page takes.
        (0..200).for_each(&mut ask);
        // A failed write can't be observed from outside, so reports go on until one must have failed.
        // They are paced: the lines that wait to be written would fill the disk again.
        let start = Instant::now();
        let mut number = 200;
        while start.elapsed() < Duration::from_secs(1) {
            ask(number);
            number += 1;
            std::thread::park_timeout(Duration::from_millis(2));
        }
        assert!(log().len() - full < 4_096, "there was space");
        fs::remove_file(seen.join("filler")).unwrap();
        ask(number);
        // They waited meanwhile.
        let received = |number: usize| count(&format!(": IAMAT full-{round}-{number} "));
        wait_until("the last line is in the log", || received(number) == 1);
        for earlier in 0..number {
            assert_eq!(received(earlier), 1, "{earlier}");
        }
        wait_until("beginning and end are in the log of events", || {
            let events = fs::read_to_string(seen.join("Alone.log")).unwrap();
            let failing = events.matches("] log failing: ").count();
            let ended = events.matches("] no longer log failing: ").count();
            failing > round && ended == failing
        });
    }
    // The first half of a line, which a full disk took, was removed again.
    let log = log();
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        let whole = line.starts_with(b"20") && line.ends_with(b"\n");
        assert!(whole, "{}", line.escape_ascii());
    }
    figure(
        "full log disk",
        format_args!(
            "{rounds} times, {} reports, all accepted, each within {}",
            waits.len(),
            super::form::spread(&mut waits)
        ),
    );
}

/// Writes until the disk is full.
pub(super) fn fill(path: &Path) {
    let mut bytes = vec![0; 4_096];
    let mut file = fs::File::create(path).unwrap();
    while !bytes.is_empty() {
        while std::io::Write::write_all(&mut file, &bytes).is_ok() {}
        bytes.truncate(bytes.len() / 2);
    }
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// strace attached to a running server, which changes the result of its syncs.
pub(super) struct Tracer {
    pub(super) child: Child,
    pub(super) calls: PathBuf,
}

impl Tracer {
    /// Attaches to every thread, and injects into the traced calls. Without strace or permission it
    /// prints that the test is skipped.
    pub(super) fn attach(
        fault: &str,
        fleet: &Fleet,
        server: usize,
        (trace, inject): (&str, &str),
    ) -> Option<Tracer> {
        if !has_tool(fault, "strace") {
            return None;
        }
        let calls = fleet.directory.0.join("calls");
        let process = fleet.process(server);
        let child = Command::new("strace")
            .args(["-f", "-q", "-e", &format!("trace={trace}"), "-e", inject])
            .arg("-o")
            .arg(&calls)
            .args(["-p", &process.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut tracer = Tracer { child, calls };
        let mut refused = false;
        wait_until("strace is attached", || {
            refused = tracer.child.try_wait().unwrap().is_some();
            refused || all_traced(process)
        });
        if refused {
            skipped(fault, "no permission to trace another process");
            return None;
        }
        Some(tracer)
    }

    /// Detaches from the server, which keeps running.
    pub(super) fn detach(&mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", "INT", &pid]).status();
        assert!(sent.unwrap().success());
        self.child.wait().unwrap();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn all_traced(process: &Running) -> bool {
    fs::read_dir(process.proc("task")).unwrap().all(|entry| {
        let status = fs::read_to_string(entry.unwrap().path().join("status"));
        status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}

/// After a failed sync the kernel may have dropped the data, so a second sync proves nothing.
#[test]
fn a_failed_sync_ends_the_server_and_is_never_repeated() {
    let rounds = choose(1, 10);
    let mut fleet = Fleet::alone("eio", &["--ack", "disk"]);
    let mut ending = Vec::new();
    for round in 0..rounds {
        fleet.start(0);
        let client = format!("kept-{round}");
        let kept = fleet.client(0).ask(&report(&client, "+1+1"));
        assert!(kept.starts_with("AT "), "{kept}");
        let inject = "inject=fsync,fdatasync:error=EIO";
        let Some(mut tracer) =
            Tracer::attach("failed sync", &fleet, 0, ("fsync,fdatasync", inject))
        else {
            return;
        };
        // Several clients wait for the same sync, and no report is acknowledged.
        let mut waiting: Vec<_> = (0..8).map(|_| fleet.client(0)).collect();
        let start = Instant::now();
        for (number, client) in waiting.iter_mut().enumerate() {
            client.send(report(&format!("lost-{number}"), "+1+1") + "\n");
        }
        assert_eq!(fleet.wait(0), Some(1));
        ending.push(start.elapsed());
        for mut client in waiting {
            assert!(client.is_closed(), "it was acknowledged");
        }
        tracer.child.wait().unwrap();
        let calls = fs::read_to_string(&tracer.calls).unwrap();
        let syncs = calls.lines().filter(|line| line.contains("sync(")).count();
        assert_eq!(syncs, 1, "{calls}");
        let notices = fs::read_to_string(fleet.directory.0.join("notices")).unwrap();
        assert!(
            notices.contains("cannot sync the journal to disk"),
            "{notices}"
        );
        fleet.start(0);
        assert_eq!(fleet.client(0).whatsat(&client), kept);
        fleet.kill(0);
    }
    figure(
        "failed sync",
        format_args!(
            "{rounds} times, none repeated, exit code 1 after {}",
            super::form::spread(&mut ending)
        ),
    );
}

/// With 300 ms a sync, only clients that wait for the disk wait longer, and all of them share each sync.
#[test]
fn a_slow_disk_costs_only_latency() {
    let mut fleet = Fleet::alone("slow-disk", &["--ack", "disk", "--workers", "2"]);
    fleet.start(0);
    let connections = choose(10, 200);
    let pace = Pace {
        clients: 20,
        ..FULL
    };
    let addresses = || vec![fleet.address(0); connections];
    let fast = loads(addresses(), "fast", pace);
    fast.iter().for_each(|load| load.warm_up(pace));
    let (threads, descriptors) = (fleet.process(0).threads(), fleet.process(0).descriptors());
    let resident = fleet.process(0).resident_kib();
    let mut held = std::collections::HashMap::new();
    let mut quick = Vec::new();
    for load in fast {
        let (acknowledged, ended) = load.finish();
        held.extend(acknowledged);
        quick.push(ended.quantile(0.5));
    }
    let inject = "inject=fsync,fdatasync:delay_exit=300000";
    let Some(mut tracer) = Tracer::attach("slow disk", &fleet, 0, ("fsync,fdatasync", inject))
    else {
        return;
    };
    let slow = loads(addresses(), "slow", pace);
    let asking = Instant::now();
    let mut queries = Vec::new();
    let mut client = fleet.client(0);
    while asking.elapsed() < Duration::from_secs(choose(2, 20)) {
        let start = Instant::now();
        assert!(client.whatsat("fast-0-1").starts_with("AT "));
        queries.push(start.elapsed());
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let process = fleet.process(0);
    assert_eq!(process.threads(), threads);
    assert!(process.descriptors() <= descriptors + 2);
    let grown = process.resident_kib().saturating_sub(resident);
    assert!(grown < 16 << 10, "{grown} KiB more than before");
    queries.sort();
    let query = queries[queries.len() * 9 / 10];
    assert!(query < Duration::from_millis(100), "{query:?}");
    let mut latency = Vec::new();
    for load in slow {
        let (acknowledged, ended) = load.finish();
        held.extend(acknowledged);
        latency.extend(ended.round_trips);
    }
    latency.sort();
    let median = latency[latency.len() / 2];
    // A report waits for the running sync and the next one, never for more.
    let bounds = Duration::from_millis(250)..Duration::from_millis(choose(2_000, 1_000));
    assert!(bounds.contains(&median), "{median:?}");
    tracer.detach();
    let after = Client::connect(fleet.address(0)).ask(&report("after", "+1+1"));
    assert!(after.starts_with("AT "), "{after}");
    await_held(fleet.address(0), &held, limit(2));
    fleet.kill(0);
    fleet.start(0);
    assert_held(fleet.address(0), &held);
    quick.sort();
    figure(
        "slow disk",
        format_args!(
            "300 ms a sync, {connections} connections of 16 reports: round trip {} ms (before {:.1} ms), WHATSAT's 90 % {:.1} ms, {grown} KiB growth, 0 lost",
            median.as_millis(),
            quick[quick.len() / 2].as_secs_f64() * 1e3,
            query.as_secs_f64() * 1e3,
        ),
    );
}
