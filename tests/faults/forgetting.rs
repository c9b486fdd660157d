//! Forgetting by real servers: one that was away for longer than `forget-after`, and a `forget-after`
//! that becomes longer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use herd::model::time::Timestamp;

use super::form::{figure, is_long, limit, skipped};
use super::neighbors::faketime;
use crate::support::fleet::Fleet;
use crate::support::process::{wait_for, wait_until};
use crate::support::report;

const SERVERS: [(&str, &[&str]); 3] = [
    ("Alford", &["Ball", "Welsh"]),
    ("Ball", &["Alford", "Welsh"]),
    ("Welsh", &["Alford", "Ball"]),
];
const ALFORD: usize = 0;
const BALL: usize = 1;
const WELSH: usize = 2;

/// Writes the age at which records are forgotten into the files of all servers.
fn set_age(fleet: &Fleet, age: &str) {
    for server in 0..fleet.len() {
        let text = fleet.servers_text(server);
        let kept = text
            .lines()
            .filter(|line| !line.starts_with("forget-after"));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        let text = format!("{kept}forget-after {age}\n");
        fs::write(fleet.servers_path(server), text).unwrap();
    }
}

/// The command that starts a server whose clock is ahead by what the file `offset` says.
fn command(fleet: &Fleet, server: usize, library: &Path) -> Command {
    let mut command = fleet.command(server);
    command
        .env("LD_PRELOAD", library)
        .env(
            "FAKETIME_TIMESTAMP_FILE",
            fleet.directory.path().join("offset"),
        )
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    command
}

fn start(fleet: &mut Fleet, server: usize, library: &Path, flags: &[&str]) {
    let mut command = command(fleet, server, library);
    command.args(flags);
    fleet.start_as(server, command);
}

fn await_links(fleet: &Fleet, servers: &[usize]) {
    wait_for("all links are live", Duration::from_secs(20), || {
        let others = |one: usize| servers.iter().filter(move |&&other| other != one);
        servers
            .iter()
            .all(|&one| others(one).all(|&other| fleet.is_live(one, other)))
    });
}

/// Checks that no server knows a client.
#[track_caller]
fn check_unknown(fleet: &Fleet, client: &str) {
    for server in 0..fleet.len() {
        let reply = fleet.client(server).whatsat(client);
        assert_eq!(
            reply,
            format!("? WHATSAT {client} 0 0"),
            "at {}",
            fleet.name(server)
        );
    }
}

/// A server is away while a client is forgotten, and for longer than the herd remembers that. Then the
/// herd is to remember for longer.
#[test]
fn a_forgotten_client_stays_gone_whatever_comes_back_and_however_long_the_age() {
    let Some(library) = faketime() else {
        return skipped(
            "absence beyond forget-after",
            "libfaketime is not installed",
        );
    };
    if !is_long() {
        return;
    }
    let mut fleet = Fleet::new("forgetting", &SERVERS, &["--log-level", "info"]);
    let all = [ALFORD, BALL, WELSH];
    let offset = fleet.directory.path().join("offset");
    fs::write(&offset, "+0\n").unwrap();
    set_age(&fleet, "1h");
    for server in all {
        let command = command(&fleet, server, &library);
        fleet.launch_as(server, command);
    }
    all.iter().for_each(|&server| fleet.await_ready(server));
    await_links(&fleet, &all);
    let known = fleet.client(ALFORD).ask(&report("kiwi", "+1+1"));
    for server in all {
        fleet.client(server).await_whatsat("kiwi", &known);
    }
    fleet.kill(WELSH);
    let mut client = fleet.client(BALL);
    assert!(client.ask("HELLO 2").starts_with("HELLO 2 Ball "));
    let forgot = client.ask("FORGET kiwi");
    assert!(forgot.starts_with("FORGOT Ball kiwi "), "{forgot}");
    drop(client);
    wait_until("the tombstone is at Alford", || {
        fleet.status(ALFORD).tombstones == 1
    });

    // Two hours pass: the tombstone expires.
    fs::write(&offset, "+7200\n").unwrap();
    let expired = wait_for("the tombstone is dropped", limit(20), || {
        [ALFORD, BALL]
            .iter()
            .all(|&server| fleet.status(server).tombstones == 0)
    });
    start(&mut fleet, WELSH, &library, &[]);
    await_links(&fleet, &all);
    check_unknown(&fleet, "kiwi");
    // By then it has dropped the location too.
    wait_for("the location is dropped", limit(20), || {
        fleet.status(WELSH).records == 0
    });
    check_unknown(&fleet, "kiwi");

    // A longer age is refused, at a reload and at a start.
    set_age(&fleet, "10h");
    fleet.signal(ALFORD, "HUP");
    fleet.await_logged(ALFORD, "--lengthen-forget-after");
    assert_eq!(fleet.status(ALFORD).forget_after_s, Some(3_600));
    fleet.signal(WELSH, "TERM");
    assert_eq!(fleet.wait(WELSH), Some(0));
    let refused = command(&fleet, WELSH, &library);
    fleet.launch_as(WELSH, refused);
    assert_eq!(fleet.wait(WELSH), Some(1));
    let notices = fs::read_to_string(fleet.directory.path().join("notices")).unwrap();
    assert!(
        notices.contains("restart each of them once with --lengthen-forget-after"),
        "{notices}"
    );
    set_age(&fleet, "1h");
    start(&mut fleet, WELSH, &library, &[]);
    await_links(&fleet, &all);

    // The recipe: all are up and equal, and each is restarted with the flag. The location is in the
    // journal of Welsh still, whose tombstone nobody has.
    let now = Timestamp::now().as_nanos() / 1_000_000_000;
    let line = format!("IAMAT moa +2+2 {}", now + 7_200);
    let moa = fleet.client(ALFORD).ask(&line);
    assert!(moa.starts_with("AT Alford "), "{moa}");
    set_age(&fleet, "10h");
    for server in all {
        fleet.signal(server, "TERM");
        assert_eq!(fleet.wait(server), Some(0));
        start(&mut fleet, server, &library, &["--lengthen-forget-after"]);
        await_links(&fleet, &all);
        check_unknown(&fleet, "kiwi");
    }
    for server in all {
        assert_eq!(fleet.status(server).forget_after_s, Some(36_000));
        fleet.client(server).await_whatsat("moa", &moa);
        wait_until("no problem is left", || fleet.problems(server).is_empty());
    }
    check_unknown(&fleet, "kiwi");
    // The next start needs no flag.
    fleet.signal(BALL, "TERM");
    assert_eq!(fleet.wait(BALL), Some(0));
    start(&mut fleet, BALL, &library, &[]);
    check_unknown(&fleet, "kiwi");
    figure(
        "absence beyond forget-after",
        format_args!(
            "the tombstone was dropped {:.1} s after it had expired; with a longer age nothing came back",
            expired.as_secs_f64()
        ),
    );
}
