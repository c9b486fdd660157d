//! Disks that are full, that fail, and that are slow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::form::{can_run, choose, figure, has_tool, limit, skipped};
use crate::load::{FULL, Pace, assert_held, await_held, loads};
use crate::process::{Running, behind, wait_until};
use crate::support::{Client, report};

/// Mounts a file system of 1 MiB on the folder named first, and becomes the program behind it.
const MOUNT: &str = r#"mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@""#;

/// The words before a command that gets mounts of its own, which end with it.
fn own_mounts() -> Option<Vec<&'static str>> {
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

/// Row 4: a report is either acknowledged and kept, or refused and nowhere.
#[test]
fn a_full_disk_refuses_reports_and_nothing_else_and_heals_when_there_is_room() {
    let Some(mut words) = own_mounts() else {
        return skipped("row 4", "no right to mount a small file system");
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
    // The same folder, as that process sees it.
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
        // What is left of the last page takes a few more.
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
        let line = report(&known, "+3+3");
        assert_eq!(at_ball.ask(&line), format!("? {line}"), "a known client");
        // Questions and links go on.
        assert_eq!(at_ball.whatsat(&known), reply);
        kept.push((known, reply));
        let client = format!("foreign-{round}");
        let foreign = fleet.client(welsh).ask(&report(&client, "+4+4"));
        at_ball.await_whatsat(&client, &foreign);
        theirs.push((client, foreign));

        fs::remove_file(&filler).unwrap();
        let start = Instant::now();
        let client = format!("room-{round}");
        let mut reply = String::new();
        wait_until("reports are taken again", || {
            reply = at_ball.ask(&report(&client, "+5+5"));
            reply.starts_with("AT Ball ")
        });
        healing.push(start.elapsed());
        fleet.client(welsh).await_whatsat(&client, &reply);
        kept.push((client, reply));
    }
    wait_until("the log tells of each time", || {
        fleet.logged(ball, "the journal can't be written") >= rounds
    });
    for client in &refused {
        for server in [ball, welsh] {
            let line = fleet.client(server).whatsat(client);
            assert_eq!(line, format!("? WHATSAT {client} 0 0"));
        }
    }
    // What a crash would leave, on a disk with room: a stopped process writes no more.
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
    // What it adopted while its disk was full it claims not to have, and is told again.
    fleet.start(welsh);
    for (name, reply) in kept.iter().chain(&theirs) {
        client.await_whatsat(name, reply);
        fleet.client(welsh).await_whatsat(name, reply);
    }
    figure(
        "4",
        format_args!(
            "{rounds} times a full disk, {} reports kept, {} refused and nowhere, taken again after {}",
            kept.len(),
            refused.len() + rounds,
            crate::form::spread(&mut healing)
        ),
    );
}

/// Row 24: the log's disk is full, and nobody but the log notices.
#[test]
fn a_full_log_disk_costs_log_lines_and_nothing_else() {
    let Some(mut words) = own_mounts() else {
        return skipped("row 24", "no right to mount a small file system");
    };
    let rounds = choose(1, 10);
    let mut fleet = Fleet::alone("full-log", &["--log-level", "info"]);
    let logs = fleet.directory.0.join("logs");
    fs::create_dir_all(&logs).unwrap();
    let text = logs.display().to_string();
    words.extend(["sh", "-c", MOUNT, &text]);
    let command = behind(&words, &fleet.command(0));
    fleet.start_as(0, command);
    let root = fleet.process(0).proc("root");
    let seen = root.join(logs.strip_prefix("/").unwrap());
    let log = || fs::read(seen.join("Alone.log")).unwrap();
    let tells = |what: &str| String::from_utf8_lossy(&log()).matches(what).count();

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
        // More than what is left of the last page takes.
        (0..200).for_each(&mut ask);
        // Nothing tells from outside that a write has failed; reports go on until one must have. Not
        // as many as go: what waits to be written when there is room again would fill it.
        let start = Instant::now();
        let mut number = 200;
        while start.elapsed() < Duration::from_secs(1) {
            ask(number);
            number += 1;
            std::thread::park_timeout(Duration::from_millis(2));
        }
        assert!(log().len() - full < 4_096, "there was room");
        fs::remove_file(seen.join("filler")).unwrap();
        wait_until("the log tells how much it lost", || {
            ask(number);
            number += 1;
            tells("log lines lost: ") == round + 1
        });
    }
    // Half a line that a full disk took is taken back.
    let log = log();
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        let whole = line.starts_with(b"20") && line.ends_with(b"\n");
        assert!(whole, "{}", line.escape_ascii());
    }
    figure(
        "24",
        format_args!(
            "{rounds} times a full log disk, {} reports, all taken, each within {}",
            waits.len(),
            crate::form::spread(&mut waits)
        ),
    );
}

/// Writes until there is no room.
fn fill(path: &Path) {
    let mut bytes = vec![0; 4_096];
    let mut file = fs::File::create(path).unwrap();
    while !bytes.is_empty() {
        while std::io::Write::write_all(&mut file, &bytes).is_ok() {}
        bytes.truncate(bytes.len() / 2);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// strace on a running server, of which it changes what syncs come to.
struct Tracer {
    child: Child,
    calls: PathBuf,
}

impl Tracer {
    /// Attaches to every thread, or says that the test is skipped.
    fn attach(row: &str, fleet: &Fleet, server: usize, inject: &str) -> Option<Tracer> {
        if !has_tool(row, "strace") {
            return None;
        }
        let calls = fleet.directory.0.join("calls");
        let process = fleet.process(server);
        let child = Command::new("strace")
            .args(["-f", "-q", "-e", "trace=fsync,fdatasync", "-e", inject])
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
            skipped(row, "no right to trace another process");
            return None;
        }
        Some(tracer)
    }

    /// Lets go of the server, which runs on.
    fn detach(&mut self) {
        let pid = self.child.id().to_string();
        let told = Command::new("kill").args(["-s", "INT", &pid]).status();
        assert!(told.unwrap().success());
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

/// Row 5.
#[test]
fn a_failed_sync_ends_the_server_and_is_never_tried_again() {
    let rounds = choose(1, 10);
    let mut fleet = Fleet::alone("eio", &["--ack", "disk"]);
    let mut ending = Vec::new();
    for round in 0..rounds {
        fleet.start(0);
        let client = format!("kept-{round}");
        let kept = fleet.client(0).ask(&report(&client, "+1+1"));
        assert!(kept.starts_with("AT "), "{kept}");
        let inject = "inject=fsync,fdatasync:error=EIO";
        let Some(mut tracer) = Tracer::attach("row 5", &fleet, 0, inject) else {
            return;
        };
        // Several wait for the same sync; none of them is acknowledged.
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
        "5",
        format_args!(
            "{rounds} failed syncs, each the last, exit code 1 after {}",
            crate::form::spread(&mut ending)
        ),
    );
}

/// Row 6: with 300 ms a sync, who waits for the disk waits longer, in one queue for all; nobody
/// else waits.
#[test]
fn a_slow_disk_raises_latency_and_nothing_else() {
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
    let Some(mut tracer) = Tracer::attach("row 6", &fleet, 0, inject) else {
        return;
    };
    let slow = loads(addresses(), "slow", pace);
    let asking = Instant::now();
    let mut questions = Vec::new();
    let mut client = fleet.client(0);
    while asking.elapsed() < Duration::from_secs(choose(2, 20)) {
        let start = Instant::now();
        assert!(client.whatsat("fast-0-1").starts_with("AT "));
        questions.push(start.elapsed());
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let process = fleet.process(0);
    assert_eq!(process.threads(), threads);
    assert!(process.descriptors() <= descriptors + 2);
    let grown = process.resident_kib().saturating_sub(resident);
    assert!(grown < 16 << 10, "{grown} KiB more than before");
    questions.sort();
    let question = questions[questions.len() * 9 / 10];
    assert!(question < Duration::from_millis(100), "{question:?}");
    let mut latency = Vec::new();
    for load in slow {
        let (acknowledged, ended) = load.finish();
        held.extend(acknowledged);
        latency.extend(ended.round_trips);
    }
    latency.sort();
    let median = latency[latency.len() / 2];
    // A report waits for the sync that runs and for the one after it, never for more.
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
        "6",
        format_args!(
            "300 ms a sync, {connections} connections of 16 reports: round trip {} ms (before {:.1} ms), WHATSAT's 90 % {:.1} ms, {grown} KiB grown, 0 lost",
            median.as_millis(),
            quick[quick.len() / 2].as_secs_f64() * 1e3,
            question.as_secs_f64() * 1e3,
        ),
    );
}
