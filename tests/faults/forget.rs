//! Clients that are forgotten right before the server is killed, and folders of an earlier layout.

use std::fs;
use std::path::{Path, PathBuf};

use super::form::{choose, figure};
use crate::support::fleet::Fleet;
use crate::support::process::wait_until;
use crate::support::report;

/// Returns whether any file of a journal has these bytes.
fn is_in_journal(folder: &Path, text: &str) -> bool {
    let paths = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    // A compaction may remove a file meanwhile.
    paths.filter_map(|path| fs::read(path).ok()).any(|bytes| {
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

#[test]
fn kill_9_right_after_a_forget_brings_nobody_back() {
    let (rounds, clients) = choose((2, 40), (50, 200));
    // Where it is told apart from the locations that stay.
    let (gone, kept) = ("+11.223344-55.667788", "+44.332211-88.776655");
    for ack in ["journal", "disk"] {
        let flags = ["--ack", ack, "--compact-within", "1s"];
        let mut fleet = Fleet::alone(&format!("forget-{ack}"), &flags);
        let mut held = Vec::new();
        for round in 0..rounds {
            fleet.start(0);
            let mut client = fleet.client(0);
            let names: Vec<_> = (0..clients).map(|n| format!("{round}-{n}")).collect();
            for name in &names {
                let stays = client.ask(&report(&format!("stays-{name}"), kept));
                assert!(stays.starts_with("AT "), "{stays}");
                held.push((format!("stays-{name}"), stays));
                let goes = client.ask(&report(&format!("goes-{name}"), gone));
                assert!(goes.starts_with("AT "), "{goes}");
            }
            let mut forgetter = fleet.client(0);
            assert!(forgetter.ask("HELLO 2").starts_with("HELLO 2 "));
            let lines: Vec<_> = names
                .iter()
                .map(|name| format!("FORGET goes-{name}\n"))
                .collect();
            forgetter.send(lines.concat());
            for name in &names {
                let reply = forgetter.line();
                let start = format!("FORGOT Alone goes-{name} ");
                assert!(reply.starts_with(&start), "{reply}");
            }
            fleet.kill(0);
        }
        fleet.start(0);
        let forgotten = (rounds * clients) as u64;
        let status = fleet.status(0);
        assert_eq!((status.records, status.tombstones), (forgotten, forgotten));
        let mut client = fleet.client(0);
        let stays = client.whatsat_all(held.iter().map(|(name, _)| &**name));
        assert!(held.iter().map(|(_, reply)| reply).eq(&stays));
        for round in 0..rounds {
            for number in 0..clients {
                let name = format!("goes-{round}-{number}");
                assert!(client.whatsat(&name).starts_with("? "), "{name}");
            }
        }
        // That was due since before the kill.
        let folder = fleet.data(0);
        wait_until("the journal compacted", || !is_in_journal(&folder, gone));
        assert!(is_in_journal(&folder, kept));
        figure(
            "kill -9 right after clients were forgotten",
            format_args!("--ack {ack}: {rounds} kills, {forgotten} clients, 0 back, 0 others lost"),
        );
    }
}

#[test]
fn a_folder_of_the_first_layout_is_taken_over() {
    let mut fleet = Fleet::new("layout", &[("Ball", &[])], &[]);
    let folder = fleet.data(0);
    fs::create_dir_all(&folder).unwrap();
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-layout-1");
    for name in ["journal-1.log", "journal.end"] {
        fs::copy(fixture.join(name), folder.join(name)).unwrap();
    }
    fleet.start(0);
    let mut client = fleet.client(0);
    for (name, end) in [
        (
            "kiwi.cs.ucla.edu",
            "kiwi.cs.ucla.edu +34.070000-118.450000 1479413984.5",
        ),
        ("moa.example", "moa.example +10.75-20.5 1479413900"),
        ("emu.example", "emu.example -33.8688+151.2093 1479413886.25"),
    ] {
        let line = client.whatsat(name);
        assert!(line.starts_with("AT ") && line.ends_with(end), "{line}");
    }
    wait_until("the folder compacted", || {
        !folder.join("journal-1.log").exists()
    });
    fleet.kill(0);
    fleet.start(0);
    assert_eq!(fleet.status(0).records, 3);
}
