//! Clients that are forgotten right before the server is killed, and folders of an earlier layout.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

use super::form::{choose, figure, limit};
use crate::support::fleet::Fleet;
use crate::support::process::{wait_for, wait_until};
use crate::support::{PATIENCE, report};

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

/// The location of everybody who is forgotten, told apart from those that stay.
const GONE: &str = "+12.345678-87.654321";

/// Sends wishes to be forgotten until the connection ends; tells when `some` are acknowledged. Returns the
/// clients whose wish was.
fn forget_until_the_end(
    address: SocketAddr,
    clients: &[String],
    some: usize,
    tell: &Sender<()>,
) -> Vec<String> {
    let Ok(stream) = TcpStream::connect(address) else {
        return Vec::new();
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(&stream).lines();
    let mut ask = |line: String| {
        (&stream).write_all(line.as_bytes()).ok()?;
        lines.next()?.ok()
    };
    if ask("HELLO 2\n".to_owned()).is_none() {
        return Vec::new();
    }
    let mut acknowledged = 0;
    let is_acknowledged = |client: &&String| {
        if acknowledged == some {
            let _ = tell.send(());
        }
        acknowledged += 1;
        let reply = ask(format!("FORGET {client}\n"));
        reply.is_some_and(|reply| reply.starts_with("FORGOT ") && reply.contains(&**client))
    };
    clients
        .iter()
        .take_while(is_acknowledged)
        .cloned()
        .collect()
}

/// Two servers at a time take wishes, of which one is killed meanwhile; a third is away.
#[test]
fn a_client_forgotten_at_one_server_is_gone_from_all_five_whichever_is_killed() {
    let (rounds, clients) = choose((3, 100), (40, 400));
    let mut fleet = Fleet::ring("forget-ring", &["--compact-within", "2s"]);
    fleet.start_all();
    let (mut forgotten, mut kept, mut unanswered) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let (at, killed) = (round % fleet.len(), (round * 3 + 1) % fleet.len());
        let away = (killed + 1 + round % 3) % fleet.len();
        let stays = fleet.client(at).report_all(&format!("stays-{round}"), 20);
        kept.extend(stays);
        let goes: Vec<_> = (0..clients).map(|n| format!("goes-{round}-{n}")).collect();
        let mut client = fleet.client(at);
        for name in &goes {
            let reply = client.ask(&report(name, GONE));
            assert!(reply.starts_with("AT "), "{reply}");
        }
        drop(client);
        // One that is away holds the locations, and sends them once it is back.
        let reply = fleet.client(at).whatsat(&goes[clients - 1]);
        fleet.client(away).await_whatsat(&goes[clients - 1], &reply);
        fleet.kill(away);
        let halves = goes.split_at(clients / 2);
        let other = (0..fleet.len())
            .find(|server| ![killed, away].contains(server))
            .unwrap();
        let addresses = [fleet.address(killed), fleet.address(other)];
        let (some, (tell, told)) = (1 + round % (clients / 4), channel());
        let acknowledged = std::thread::scope(|scope| {
            let [first, second] =
                [(halves.0, addresses[0]), (halves.1, addresses[1])].map(|(half, address)| {
                    let tell = tell.clone();
                    scope.spawn(move || forget_until_the_end(address, half, some, &tell))
                });
            told.recv_timeout(PATIENCE).unwrap();
            fleet.kill(killed);
            [first.join().unwrap(), second.join().unwrap()].concat()
        });
        unanswered += clients - acknowledged.len();
        forgotten.extend(acknowledged);
        fleet.launch(killed);
        fleet.launch(away);
        fleet.await_ready(killed);
        fleet.await_ready(away);
        // Those who had no answer ask again, at any server.
        let rest: Vec<_> = goes
            .iter()
            .filter(|name| !forgotten.contains(name))
            .collect();
        let mut client = fleet.client(away);
        assert!(client.ask("HELLO 2").starts_with("HELLO 2 "));
        for name in rest {
            let reply = client.ask(&format!("FORGET {name}"));
            assert!(reply.starts_with("FORGOT "), "{reply}");
            forgotten.push(name.clone());
        }
    }
    let gone = wait_for("the forgotten are gone from all five", limit(10), || {
        (0..fleet.len()).all(|server| {
            let mut client = fleet.client(server);
            let replies = client.whatsat_all(forgotten.iter().map(String::as_str));
            replies.iter().all(|reply| reply.starts_with("? "))
        })
    });
    wait_for("equal servers", limit(10), || fleet.is_equal());
    for server in 0..fleet.len() {
        let status = fleet.status(server);
        let numbers = (kept.len() as u64, forgotten.len() as u64);
        assert_eq!((status.records, status.tombstones), numbers);
        let replies = fleet
            .client(server)
            .whatsat_all(kept.iter().map(String::as_str));
        assert!(replies.iter().all(|reply| reply.starts_with("AT ")));
    }
    let compacted = wait_for("the journals compacted", limit(20), || {
        let holds = |server| is_in_journal(&fleet.data(server), GONE);
        !(0..fleet.len()).any(holds)
    });
    figure(
        "kill -9 of servers of the ring while clients are forgotten",
        format_args!(
            "{rounds} rounds, {} clients, {unanswered} of them without an answer, 0 back, 0 others lost, gone after \
             {:.1} s more, from all journals after {:.1} s",
            forgotten.len(),
            gone.as_secs_f64(),
            compacted.as_secs_f64()
        ),
    );
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
