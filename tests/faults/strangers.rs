//! Strangers: peers without the key, on the peer port and between two servers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use herd::config::keys::KeyFile;
use herd::config::topology::Address;
use herd::link::framing::is_timeout;
use herd::link::status::ask;
use herd::model::time::Timestamp;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::form::{choose, figure, limit, spread};
use crate::support::fleet::Fleet;
use crate::support::process::{herd, wait_for, wait_until};
use crate::support::proxy::Proxy;
use crate::support::strangers::Strangers;
use crate::support::{PATIENCE, report, send_and_read};

/// Length of each of the two handshake messages that prove the key, with the length prefix.
const MESSAGE_BYTES: usize = 50;

/// Number of peers that a server has refused so far, according to its log.
fn refused(fleet: &Fleet, server: usize) -> usize {
    let log = fleet.log(server);
    let counts = log
        .split("(refused so far: ")
        .skip(1)
        .filter_map(|rest| rest.split(')').next()?.parse().ok());
    counts.max().unwrap_or(0)
}

#[track_caller]
fn await_refused(fleet: &Fleet, server: usize, count: usize) {
    wait_until(&format!("{count} refusals in the log"), || {
        refused(fleet, server) >= count
    });
}

/// Reports at one server and waits until the other has the record.
#[track_caller]
fn flood(fleet: &Fleet, from: usize, to: usize, client: &str) {
    let reply = fleet.client(from).ask(&report(client, "+1+1"));
    assert!(reply.starts_with("AT "), "{reply}");
    // Polling without a pause would fill the log while a link reconnects.
    let mut other = fleet.client(to);
    wait_until(client, || other.whatsat(client) == reply);
}

/// A server with another herd's key.
#[test]
fn a_wrong_key_is_refused_and_logged_at_both_ends() {
    let mut fleet = Fleet::pair("key", &["--log-level", "debug"]);
    let (ball, welsh) = (0, 1);
    let made = herd(&fleet.directory, &["key", "new", "--key-file", "other.key"]).output();
    assert!(made.unwrap().status.success());
    fleet.start(ball);
    let mut command = fleet.command(welsh);
    command.args(["--key-file", "other.key"]);
    fleet.start_as(welsh, command);
    let reply = fleet.client(ball).ask(&report("kiwi", "+1+1"));
    for server in [ball, welsh] {
        fleet.await_logged(server, "refused: wrong key or not a peer");
        fleet.await_logged(server, "it probably has another key");
        await_refused(&fleet, server, 3);
    }
    assert_eq!(fleet.client(welsh).whatsat("kiwi"), "? WHATSAT kiwi 0 0");
    fleet.kill(welsh);
    fleet.start(welsh);
    fleet.client(welsh).await_whatsat("kiwi", &reply);
    figure("wrong key", "refused, counted and logged at both ends");
}

/// Replayed streams, streams altered on their way, and frames of a huge length.
#[test]
fn replayed_altered_and_huge_streams_change_nothing() {
    let rounds = choose(1, 20);
    let mut fleet = Fleet::pair("forged", &["--log-level", "debug"]).with_proxies();
    let (ball, welsh) = (0, 1);
    fleet.link(ball, welsh).record();
    fleet.start_all();
    flood(&fleet, ball, welsh, "first");
    flood(&fleet, welsh, ball, "second");
    let link = fleet.link(ball, welsh);
    let (connections, mut replays) = (link.connections(), 0);
    let recorded = link.recorded().pop().unwrap();
    assert!(recorded.len() > 2 * MESSAGE_BYTES);
    for round in 0..rounds {
        let before = refused(&fleet, welsh);
        assert!(send_and_read(fleet.peer(welsh), &recorded).len() <= MESSAGE_BYTES);
        assert!(send_and_read(fleet.peer(ball), &recorded).len() <= MESSAGE_BYTES);
        for from in [MESSAGE_BYTES, MESSAGE_BYTES + 7, 1] {
            assert_eq!(send_and_read(fleet.peer(welsh), &recorded[from..]), b"");
        }
        await_refused(&fleet, welsh, before + 4);
        replays += 5;
        flood(&fleet, ball, welsh, &format!("after-{round}"));
    }
    assert_eq!(link.connections(), connections, "the link was cut");

    // Bytes of the length, of the ciphertext and of the tag. A change of the first adds 256 bytes to the
    // frame, which take longer to arrive than a neighbor may be silent.
    let bytes = [0, 1, 2, 9, 17];
    let flips = choose(1, 10) * bytes.len();
    for round in 0..flips {
        let byte = bytes[round % bytes.len()];
        // Welsh refuses altered bytes of Ball, and Ball those of Welsh.
        for (server, flip) in [
            (welsh, Proxy::flip as fn(&Proxy, usize)),
            (ball, Proxy::flip_back),
        ] {
            let connections = link.connections();
            let counted = [ball, welsh].map(|server| fleet.status(server).refused);
            let logged = usize::try_from(counted[server]).unwrap();
            await_refused(&fleet, server, logged);
            flip(link, byte);
            // The altered frame may be a marker or a keep-alive, which come once a second.
            wait_for("it is counted", limit(6), || {
                fleet.status(server).refused > counted[server]
            });
            flood(&fleet, ball, welsh, &format!("altered-{round}-{server}"));
            let mut expected = counted;
            expected[server] += 1;
            let counted = [ball, welsh].map(|server| fleet.status(server).refused);
            assert_eq!(
                counted, expected,
                "byte {byte} of what was sent to {server}"
            );
            assert!(link.connections() > connections, "the link goes on");
            await_refused(&fleet, server, logged + 1);
        }
    }

    let strangers = choose(200, 5_000);
    let huge = vec![0xff; 70_000];
    let resident = fleet.process(welsh).resident_kib();
    let before = refused(&fleet, welsh);
    for _ in 0..strangers {
        assert_eq!(send_and_read(fleet.peer(welsh), &huge), b"");
    }
    await_refused(&fleet, welsh, before + strangers);
    let grown = fleet.process(welsh).resident_kib().saturating_sub(resident);
    assert!(grown < 8 << 10, "{grown} KiB for {strangers} strangers");
    for client in ["first", "second", "altered-0-0", "altered-0-1"] {
        let lines = [ball, welsh].map(|server| fleet.client(server).whatsat(client));
        assert!(lines[0].starts_with("AT "), "{lines:?}");
        assert_eq!(lines[0], lines[1]);
    }
    figure(
        "replayed, altered and huge streams",
        format_args!(
            "{replays} replays, {} altered frames, {strangers} huge lengths: 0 accepted, each closed, counted and logged, {grown} KiB growth",
            2 * flips
        ),
    );
}

/// A stranger that the server has no descriptor for is counted as well, and does not fill the log.
#[test]
fn strangers_without_a_descriptor_are_counted() {
    let strangers = choose(20, 200);
    let mut fleet = Fleet::alone("descriptors", &["--log-level", "debug"]);
    fleet.start(0);
    let process = fleet.process(0);
    let limit = |limit: Rlimit| {
        let pid = Pid::from_child(&process.0);
        prlimit(Some(pid), Resource::Nofile, limit).unwrap()
    };
    let before = getrlimit(Resource::Nofile);
    // The checks of the journal open a file for a moment now and then, and a sync of the start keeps
    // one open for as long as the disk takes.
    let counts = (0..choose(50, 300)).map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        process.descriptors()
    });
    let held = counts.min().unwrap();
    limit(Rlimit {
        current: Some(held as u64),
        ..before
    });
    let start = Instant::now();
    for _ in 0..strangers {
        assert_eq!(send_and_read(fleet.peer(0), b""), b"");
    }
    let seconds = start.elapsed().as_secs() as usize;
    await_refused(&fleet, 0, strangers);
    let warnings = fleet.logged(0, "[WARN ] peer connection from");
    assert!(
        warnings <= 2 + seconds,
        "{warnings} warnings in {seconds} s"
    );
    limit(before);
    // The reserved descriptor is restored with the next connection.
    wait_until("there are descriptors again", || {
        let Ok(stream) = TcpStream::connect(fleet.peer(0)) else {
            return false;
        };
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        // The server waits for the handshake of a connection that it accepts.
        matches!((&stream).read(&mut [0]), Err(error) if is_timeout(&error))
    });
    assert!(fleet.status(0).refused >= strangers as u64);
    figure(
        "strangers without a descriptor",
        format_args!("{strangers} strangers: each closed, counted and logged, {warnings} warnings"),
    );
}

/// Tells threads that it is over, when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Strangers keep taking every handshake slot.
#[test]
fn strangers_in_every_handshake_slot_do_not_affect_a_live_link() {
    let seconds = choose(3, 30);
    let mut fleet = Fleet::pair("slots", &[]).with_proxies();
    let (ball, welsh) = (0, 1);
    fleet.start_all();
    flood(&fleet, ball, welsh, "up");
    flood(&fleet, welsh, ball, "up-too");
    let dialed = || fleet.link(ball, welsh).connections() + fleet.link(welsh, ball).connections();
    let connections = dialed();
    let (threads, resident) = {
        let process = fleet.process(welsh);
        (process.threads(), process.resident_kib())
    };
    let (over, came) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        for stranger in 0..100 {
            let (over, came, peers) = (&over, &came, fleet.peer(welsh));
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(peers) else {
                        continue;
                    };
                    came.fetch_add(1, Ordering::Relaxed);
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    // Some send nothing and some start a message. They stay until they are closed.
                    let _ = stream.write_all(&b"\x00\x30unfinished"[..stranger % 3 * 4]);
                    let _ = stream.read_to_end(&mut Vec::new());
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        // They end with this block, also if something in it fails.
        let _over = Over(&over);
        let start = Instant::now();
        let mut most = 0;
        for number in 0.. {
            if start.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            let sent = Instant::now();
            flood(&fleet, ball, welsh, &format!("meanwhile-{number}"));
            flood(&fleet, welsh, ball, &format!("back-{number}"));
            longest = longest.max(sent.elapsed());
            most = most.max(fleet.process(welsh).descriptors());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(most < 150, "{most} descriptors");
    });
    assert_eq!(dialed(), connections, "a link was cut");
    assert_eq!(fleet.process(welsh).threads(), threads);
    let grown = fleet.process(welsh).resident_kib().saturating_sub(resident);
    assert!(grown < 8 << 10, "{grown} KiB");
    // Once the strangers are gone, a restarted neighbor connects.
    fleet.kill(ball);
    fleet.start(ball);
    let back = Instant::now();
    flood(&fleet, ball, welsh, "again");
    let back = back.elapsed();
    assert!(back < limit(3), "{back:?}");
    figure(
        "strangers in every handshake slot",
        format_args!(
            "{} strangers in {seconds} s: no link cut, the longest flood there and back {:.3} s, {grown} KiB growth, a restarted neighbor connected after {:.2} s",
            came.load(Ordering::Relaxed),
            longest.as_secs_f64(),
            back.as_secs_f64()
        ),
    );
}

/// A server whose peer port strangers flood, from the address that neighbors dial from and from another.
#[test]
fn strangers_at_the_door_keep_out_neither_a_restarted_neighbor_nor_an_observer() {
    const NEIGHBORS: [u8; 4] = [127, 0, 0, 1];
    const ELSEWHERE: [u8; 4] = [127, 0, 0, 9];
    type Start = fn(SocketAddr, [u8; 4]) -> Strangers;
    let rate: Start = |to, from| Strangers::flood(to, from, 5_000);
    let floods: [(&str, Start, u64); 3] = [
        ("5,000 connections a second", rate, choose(2, 60)),
        (
            "40 silent connections",
            |to, from| Strangers::hold(to, from, 40),
            choose(1, 15),
        ),
        (
            "1,000 silent connections",
            |to, from| Strangers::hold(to, from, 1_000),
            choose(1, 15),
        ),
    ];
    for (label, start, seconds) in floods {
        for from in [NEIGHBORS, ELSEWHERE] {
            let mut fleet = Fleet::pair("door", &[]);
            let (ball, welsh) = (0, 1);
            fleet.start_all();
            flood(&fleet, ball, welsh, "up");
            flood(&fleet, welsh, ball, "up-too");
            let (threads, resident) = {
                let process = fleet.process(welsh);
                (process.threads(), process.resident_kib())
            };
            let keys = KeyFile::load(&fleet.directory.0.join("herd.key")).unwrap();
            let (host, port) = (fleet.peer(welsh).ip().to_string(), fleet.peer(welsh).port());
            let address = Address { host, port };
            let strangers = start(fleet.peer(welsh), from);
            let began = Instant::now();
            let ticks = fleet.process(welsh).cpu_ticks();
            let (mut linked, mut answered, mut commands) = (Vec::new(), Vec::new(), Vec::new());
            let mut most = 0;
            while began.elapsed() < Duration::from_secs(seconds) {
                fleet.kill(ball);
                fleet.start(ball);
                let back = Instant::now();
                let round = linked.len();
                flood(&fleet, ball, welsh, &format!("there-{round}"));
                flood(&fleet, welsh, ball, &format!("back-{round}"));
                linked.push(back.elapsed());
                for _ in 0..5 {
                    let (asked, now) = (Instant::now(), Timestamp::now());
                    ask("Welsh", &address, &keys, now, asked + PATIENCE).unwrap();
                    answered.push(asked.elapsed());
                }
                let asked = Instant::now();
                let arguments = ["status", "--servers", "servers-Ball.txt"];
                let output = herd(&fleet.directory, &arguments).output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(
                    !said.contains("no answer") && !said.contains("no status"),
                    "{said}"
                );
                assert!(said.contains("2 of 2 servers up"), "{said}");
                commands.push(asked.elapsed());
                most = most.max(fleet.process(welsh).descriptors());
                assert_eq!(fleet.process(welsh).threads(), threads);
            }
            let elapsed = began.elapsed();
            let ticks = fleet.process(welsh).cpu_ticks() - ticks;
            let came = strangers.stop();
            let grown = fleet.process(welsh).resident_kib().saturating_sub(resident);
            let figures = format!(
                "{label} from {}: {came} in {:.0} s, {} restarts, linked both ways after {}, status after {}, `herd status` after {}, {:.1} % of a processor, {most} descriptors, {grown} KiB growth",
                Ipv4Addr::from(from),
                elapsed.as_secs_f64(),
                linked.len(),
                spread(&mut linked),
                spread(&mut answered),
                spread(&mut commands),
                ticks as f64 / elapsed.as_secs_f64(),
            );
            figure("strangers at the door", &figures);
            assert!(linked.iter().all(|after| *after < limit(5)), "{figures}");
            assert!(answered.iter().all(|after| *after < limit(2)), "{figures}");
            // A record on its way makes it look twice, a second apart.
            assert!(commands.iter().all(|after| *after < limit(3)), "{figures}");
            assert!(most < 250, "{figures}");
            assert!(grown < 8 << 10, "{figures}");
        }
    }
}
