//! Links between servers of which one returns empty, stalls, has a wrong clock, a double, a long way,
//! several addresses, or no place in the herd any more.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use herd::config::keys::KeyFile;
use herd::health::State;

use super::disk::{Tracer, own_mounts};
use super::form::{can_run, choose, figure, limit, skipped, spread};
use super::neighbors::faketime;
use super::states::{cleared, record, told};
use crate::support::fleet::Fleet;
use crate::support::process::{behind, wait_for, wait_until};
use crate::support::report;

const BALL: usize = 0;
const WELSH: usize = 1;

/// Waits until both links of a pair are live.
fn await_links(fleet: &Fleet) {
    for (from, to) in [(BALL, WELSH), (WELSH, BALL)] {
        wait_until("the links are live", || fleet.is_live(from, to));
    }
}

/// Reports of many clients, of which the disk may keep one waiting. Returns the clients' names.
fn report_all(fleet: &Fleet, server: usize, label: &str, count: usize) -> Vec<String> {
    let mut client = fleet.client(server);
    // Longer than any stall of a disk.
    let patience = Some(Duration::from_secs(60));
    client.stream().set_read_timeout(patience).unwrap();
    client.report_all(label, count)
}

/// Welsh still reads what the old connection of Ball has brought, when Ball is back without its data.
#[test]
fn a_neighbor_that_returns_empty_gets_back_what_its_old_connection_brings() {
    let delays: Vec<_> = choose(
        vec![1, 20, 100, 200],
        (0..100).map(|run| 1 + 2 * run).collect(),
    );
    let mut healing = Vec::new();
    for &delay in &delays {
        let mut fleet = Fleet::pair("empty", &["--log-level", "info"]).with_proxies();
        fleet.start_all();
        await_links(&fleet);
        // What Ball sends from here on is on its way until it is released. So is what Welsh sends
        // back: it would end the connection once Ball is gone, and what is on its way with it.
        fleet.link(BALL, WELSH).hold(true, true);
        report_all(&fleet, BALL, "on-the-way", 2_000);
        wait_until("all is on its way", || {
            fleet.link_status(BALL, WELSH).queue.records == 0
        });
        fleet.kill(BALL);
        fs::remove_dir_all(fleet.data(BALL)).unwrap();
        fleet.start(BALL);
        wait_until("Welsh feeds the new Ball", || fleet.is_live(WELSH, BALL));
        std::thread::sleep(Duration::from_millis(delay));
        fleet.link(BALL, WELSH).hold(false, true);
        wait_until("the old connection has been read", || {
            fleet.logged(WELSH, "neighbor Ball gone") > 0
        });
        fleet.link(BALL, WELSH).hold(false, false);
        healing.push(wait_for("equal digests", limit(2), || fleet.is_equal()));
        // Some may be lost with the socket of a process that is killed, but not all.
        assert!(fleet.status(BALL).records > 0, "nothing was on its way");
        assert_eq!(fleet.logged(WELSH, "holds different records"), 0);
    }
    figure(
        "neighbor that returns empty",
        format_args!(
            "{} times, released after 1 to 200 ms, 0 diverged, equal after {}",
            delays.len(),
            spread(&mut healing)
        ),
    );
}

/// The disk of Ball does not answer while a report is appended, under the apply lock.
#[test]
fn a_stalled_disk_closes_no_link_and_shows_in_the_status() {
    for seconds in choose(vec![6], vec![6, 30]) {
        let mut fleet = Fleet::pair("stall", &["--log-level", "info"]);
        fleet.start_all();
        await_links(&fleet);
        // A new window of the journal is written as zeros first.
        let inject = format!("inject=pwrite64:delay_enter={seconds}500000:when=1");
        let Some(mut tracer) = Tracer::attach("stalled disk", &fleet, BALL, ("pwrite64", &inject))
        else {
            return;
        };
        let began = Instant::now();
        let sent = std::thread::scope(|scope| {
            let fleet = &fleet;
            let sent = scope.spawn(move || report_all(fleet, BALL, "stall", 10_000));
            let theirs = scope.spawn(move || report_all(fleet, WELSH, "theirs", 2_000));
            wait_for("the stall in the status", Duration::from_secs(5), || {
                let problems = fleet.problems(BALL);
                let text = "the disk has not answered";
                problems
                    .iter()
                    .any(|(state, reason)| *state == State::JournalFailing && reason.contains(text))
            });
            theirs.join().unwrap();
            sent.join().unwrap()
        });
        assert!(began.elapsed() > Duration::from_secs(seconds), "no stall");
        tracer.detach();
        wait_until("equal digests", || {
            fleet.status(WELSH).records == 12_000 && fleet.is_equal()
        });
        wait_until("no problem is left", || fleet.problems(BALL).is_empty());
        for server in [BALL, WELSH] {
            for text in [
                "connection to neighbor",
                "neighbor Ball gone",
                "neighbor Welsh gone",
            ] {
                assert_eq!(fleet.logged(server, text), 0, "{text} at {server}");
            }
        }
        figure(
            "stalled disk",
            format_args!("{seconds}.5 s under {} reports: no link closed", sent.len()),
        );
    }
}

/// The clock of a linked server jumps by two hours.
#[test]
fn a_clock_that_jumps_closes_the_link_with_the_reason_at_both_ends() {
    let Some(library) = faketime() else {
        return skipped("clock that jumps", "libfaketime is not installed");
    };
    let mut fleet = Fleet::pair("jump", &["--log-level", "info"]);
    let offset = fleet.directory.path().join("offset");
    fs::write(&offset, "+0\n").unwrap();
    fleet.start(BALL);
    let mut command = fleet.command(WELSH);
    command
        .env("LD_PRELOAD", &library)
        .env("FAKETIME_TIMESTAMP_FILE", &offset)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    fleet.start_as(WELSH, command);
    await_links(&fleet);
    fs::write(&offset, "+7200\n").unwrap();
    let jumped = Instant::now();
    let closed = wait_for("the links are closed", limit(2), || {
        !fleet.is_live(BALL, WELSH) && !fleet.is_live(WELSH, BALL)
    });
    let (mut times, mut ends) = (Vec::new(), Vec::new());
    for server in [BALL, WELSH] {
        let text = "from that of every neighbor";
        times.push(told(&fleet, server, State::Clock, text, jumped));
        fleet.await_logged(server, "its clock differs by");
    }
    fs::write(&offset, "+0\n").unwrap();
    let corrected = Instant::now();
    for server in [BALL, WELSH] {
        ends.push(cleared(&fleet, server, State::Clock, corrected));
    }
    record(State::Clock, times[0], ends[0]);
    await_links(&fleet);
    for server in [BALL, WELSH] {
        wait_until("no problem is left", || fleet.problems(server).is_empty());
    }
    figure(
        "clock that jumps",
        format_args!("both links closed within {:.1} s", closed.as_secs_f64()),
    );
}

/// A second server is started under the name of one that runs, with the herd's key.
#[test]
fn two_servers_of_one_name_are_named_and_do_not_displace_each_other() {
    let mut fleet = Fleet::pair("twins", &["--log-level", "info"]);
    fleet.start_all();
    await_links(&fleet);
    let mut double = Fleet::pair("double", &["--log-level", "info"]);
    let key = fs::read(fleet.directory.path().join("herd.key")).unwrap();
    copy_key(double.directory.path(), &key);
    // It dials the Welsh of the first herd.
    let line = format!(
        "Welsh {} {} Ball\n",
        fleet.address(WELSH),
        fleet.peer(WELSH)
    );
    double.replace_line(BALL, WELSH, &line);
    double.launch(BALL);
    let text = "two servers call themselves Ball";
    let state = State::Twin;
    // From the first connection of the second one.
    wait_for("the second one is known", limit(5), || {
        let problems = fleet.problems(WELSH);
        problems.iter().any(|(found, _)| *found == state)
    });
    let fault = Instant::now();
    let mut times = Vec::new();
    for (fleet, server) in [(&fleet, WELSH), (&fleet, BALL), (&double, BALL)] {
        times.push(told(fleet, server, state, text, fault));
    }
    // The one that Welsh dials is named with its port.
    let named = format!("one at {}, epoch", fleet.peer(BALL));
    let problems = fleet.problems(WELSH);
    assert!(problems[0].1.contains(&named), "{problems:?}");
    let seconds = choose(3, 10);
    let connections = |fleet: &Fleet| fleet.logged(WELSH, "neighbor Ball connected from");
    let before = connections(&fleet);
    std::thread::sleep(Duration::from_secs(seconds));
    assert_eq!(connections(&fleet), before, "they displace each other");
    for (fleet, server) in [(&fleet, WELSH), (&fleet, BALL), (&double, BALL)] {
        let log = fleet.log(server);
        let warnings = log
            .lines()
            .filter(|line| line.contains(text) && line.contains("WARN"));
        let warnings: Vec<_> = warnings.collect();
        assert!((1..=6).contains(&warnings.len()), "{warnings:#?}");
    }
    double.kill(BALL);
    let end = Instant::now();
    let mut ends = Vec::new();
    for server in [BALL, WELSH] {
        ends.push(cleared(&fleet, server, state, end));
    }
    record(state, times[1], ends[1]);
    for server in [BALL, WELSH] {
        wait_for("no problem is left", Duration::from_secs(20), || {
            fleet.problems(server).is_empty()
        });
    }
    await_links(&fleet);
    figure(
        "two servers of one name",
        format_args!("both named at all three, no connection displaced in {seconds} s"),
    );
}

fn copy_key(folder: &Path, key: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(folder.join("herd.key"))
        .unwrap();
    file.write_all(key).unwrap();
}

/// A link over a long way comes up and stays.
#[test]
fn a_link_lives_at_round_trips_of_up_to_two_seconds() {
    let mut linking = Vec::new();
    for milliseconds in choose(vec![600, 2_000], vec![200, 600, 1_200, 2_000]) {
        let mut fleet = Fleet::pair("far", &["--log-level", "info"]).with_proxies();
        for (from, to) in [(BALL, WELSH), (WELSH, BALL)] {
            fleet
                .link(from, to)
                .delay(Duration::from_millis(milliseconds / 2));
        }
        let began = Instant::now();
        fleet.start_all();
        wait_for("the links are live", Duration::from_secs(15), || {
            fleet.is_live(BALL, WELSH) && fleet.is_live(WELSH, BALL)
        });
        linking.push(format!(
            "{milliseconds} ms: {:.1} s",
            began.elapsed().as_secs_f64()
        ));
        let reply = fleet.client(BALL).ask(&report("far", "+1+1"));
        fleet.client(WELSH).await_whatsat("far", &reply);
        std::thread::sleep(Duration::from_secs(choose(2, 10)));
        for server in [BALL, WELSH] {
            assert_eq!(fleet.logged(server, "lost: "), 0);
        }
    }
    figure(
        "long way",
        format_args!("linked at round trips of {}", linking.join(", ")),
    );
}

/// A neighbor's name has several addresses, of which the first leads to a stranger.
#[test]
fn the_next_address_of_a_name_is_tried_after_any_failure() {
    let reason = "no permission to mount files over those of /etc";
    let Some(words) = own_mounts() else {
        return skipped("several addresses", reason);
    };
    let mut fleet = Fleet::pair("several", &[]);
    let true_peer = fleet.peer(WELSH);
    let stranger = SocketAddr::from(([127, 0, 0, 77], true_peer.port()));
    let listener = TcpListener::bind(stranger).unwrap();
    std::thread::spawn(move || {
        // It accepts and closes.
        listener.incoming().take(1_000).for_each(drop);
    });
    let hosts = fleet.directory.path().join("hosts");
    let text = format!("127.0.0.77 several.test\n{} several.test\n", true_peer.ip());
    fs::write(&hosts, text).unwrap();
    let config = fleet.directory.path().join("host.conf");
    fs::write(&config, "multi on\n").unwrap();
    let line = format!(
        "Welsh {} several.test:{} Ball\n",
        fleet.address(WELSH),
        true_peer.port()
    );
    fleet.replace_line(BALL, WELSH, &line);
    // A user that is root in its own mounts only can't touch a file of the machine's root.
    let script = "mount --bind \"$0\" /etc/hosts && { [ -e /etc/host.conf ] || touch /etc/host.conf; } && \
                  mount --bind \"$1\" /etc/host.conf && shift && exec \"$@\"";
    let (hosts, config) = (hosts.display().to_string(), config.display().to_string());
    let words = [&words[..], &["sh", "-c", script, &hosts, &config]].concat();
    if !can_run(&[&words[..], &["true"]].concat()) {
        return skipped("several addresses", reason);
    }
    fleet.start(WELSH);
    let command = behind(&words, &fleet.command(BALL));
    fleet.start_as(BALL, command);
    wait_for("the link is live", Duration::from_secs(10), || {
        fleet.is_live(BALL, WELSH)
    });
    // Without the true neighbor the error names both addresses.
    fleet.kill(WELSH);
    wait_until("both addresses in the error", || {
        let error = fleet.link_status(BALL, WELSH).error;
        error.is_some_and(|error| {
            let both = [stranger.to_string(), true_peer.to_string()];
            both.iter().all(|address| error.reason.contains(address))
        })
    });
}

/// Welsh no longer names Ball its neighbor.
#[test]
fn a_server_that_was_removed_elsewhere_refuses_reports_until_it_is_back() {
    let mut fleet = Fleet::pair("removed", &[]);
    fleet.start_all();
    await_links(&fleet);
    let kept = fleet.client(BALL).ask(&report("kept", "+1+1"));
    assert!(kept.starts_with("AT Ball "));
    let whole = fleet.servers_text(WELSH);
    let line = format!("Welsh {} {}\n", fleet.address(WELSH), fleet.peer(WELSH));
    fleet.replace_line(WELSH, WELSH, &line);
    fleet.replace_line(WELSH, BALL, "");
    fleet.signal(WELSH, "HUP");
    let noticed = wait_for("reports are refused", limit(5), || {
        let line = report("lost", "+2+2");
        fleet.client(BALL).ask(&line) == format!("? {line}")
    });
    let state = |fleet: &Fleet| fleet.problems(BALL).first().map(|(state, _)| *state);
    assert_eq!(state(&fleet), Some(State::Removed));
    // Questions are answered.
    assert_eq!(fleet.client(BALL).whatsat("kept"), kept);
    fs::write(fleet.servers_path(WELSH), whole).unwrap();
    fleet.signal(WELSH, "HUP");
    await_links(&fleet);
    wait_until("reports are taken again", || {
        let reply = fleet.client(BALL).ask(&report("back", "+3+3"));
        reply.starts_with("AT Ball ")
    });
    figure(
        "removed server",
        format_args!("noticed after {:.1} s", noticed.as_secs_f64()),
    );
}

/// Ball has a key of its own making.
#[test]
fn a_server_with_another_key_refuses_reports_only_if_it_never_had_a_link() {
    let mut fleet = Fleet::pair("key", &["--log-level", "info"]);
    let path = fleet.directory.path().join("herd.key");
    fleet.start(WELSH);
    let own = KeyFile::load(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let other = KeyFile::create(&path).unwrap();
    assert_ne!(own, other);
    fleet.start(BALL);
    wait_until("reports are refused", || {
        let line = report("stranger", "+1+1");
        fleet.client(BALL).ask(&line) == format!("? {line}")
    });
    assert_eq!(fleet.problems(BALL)[0].0, State::Removed);
    assert_eq!(
        fleet.client(WELSH).whatsat("stranger"),
        "? WHATSAT stranger 0 0"
    );
    // Started again with the same key as Welsh, it has a link.
    fleet.kill(BALL);
    fleet.kill(WELSH);
    fleet.start_all();
    await_links(&fleet);
    // Then Welsh is given another key: Ball goes on alone, also after a restart.
    fleet.kill(WELSH);
    let text = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    KeyFile::create(&path).unwrap();
    fleet.start(WELSH);
    fs::remove_file(&path).unwrap();
    copy_key(fleet.directory.path(), &text);
    for restart in [false, true] {
        if restart {
            fleet.kill(BALL);
            fleet.start(BALL);
        }
        wait_for("it is alone", Duration::from_secs(10), || {
            let problems = fleet.problems(BALL);
            problems
                .first()
                .is_some_and(|(state, _)| *state == State::Alone)
        });
        std::thread::sleep(Duration::from_secs(2));
        let reply = fleet.client(BALL).ask(&report("alone", "+1+1"));
        assert!(reply.starts_with("AT Ball "), "{reply}");
    }
    // Nobody else has it, which the end says.
    fleet.signal(BALL, "TERM");
    assert_eq!(fleet.wait(BALL), Some(0));
    assert_eq!(
        fleet.logged(
            BALL,
            "records were confirmed by no neighbor since this start"
        ),
        1
    );
}
