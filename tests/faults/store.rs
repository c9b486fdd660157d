//! What becomes of a server's folder: cut, changed, deleted, opened twice.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use super::form::{choose, figure};
use crate::support::fleet::Fleet;
use crate::support::process::{free_addresses, herd, wait_until};
use crate::support::report;

/// Reports in the store that gets damaged, each by itself in the journal.
const REPORTS: usize = 240;

/// Clients that they are of.
const CLIENTS: usize = 60;

/// A journal file that was left by a killed server, and the replies to all that is in it.
struct Image {
    path: PathBuf,
    /// All of the file.
    bytes: Vec<u8>,
    /// Where the last append ends; behind it are zeros, to be written over.
    end: usize,
    /// In the order in which they were appended.
    replies: Vec<(String, String)>,
}

impl Image {
    /// Reports to a server, and kills it.
    fn take(fleet: &mut Fleet, server: usize) -> Image {
        fleet.start(server);
        let mut client = fleet.client(server);
        let mut replies = Vec::new();
        for number in 0..REPORTS {
            let name = name(number % CLIENTS);
            let reply = client.ask(&report(&name, "+1+1"));
            assert!(reply.starts_with("AT "), "{reply}");
            replies.push((name, reply));
        }
        fleet.kill(server);
        let files: Vec<_> = fs::read_dir(fleet.data(server))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        let [path] = &files[..] else {
            panic!("not one file: {files:?}");
        };
        let bytes = fs::read(path).unwrap();
        // A record ends in text.
        let end = 1 + bytes.iter().rposition(|&byte| byte != 0).unwrap();
        Image {
            path: path.clone(),
            bytes,
            end,
            replies,
        }
    }

    /// Puts the folder back as it was, but for what is done to the file.
    fn restore(&self, damaged: &[u8]) {
        let folder = self.path.parent().unwrap();
        fs::remove_dir_all(folder).unwrap();
        fs::create_dir(folder).unwrap();
        fs::write(&self.path, damaged).unwrap();
    }

    /// What a server holds that has the first so many reports.
    fn state(&self, reports: usize) -> HashMap<&str, &str> {
        let first = &self.replies[..reports];
        first
            .iter()
            .map(|(name, reply)| (&**name, &**reply))
            .collect()
    }

    /// The file with one byte changed.
    fn flipped(&self, random: &mut fastrand::Rng) -> (usize, Vec<u8>) {
        let mut bytes = self.bytes.clone();
        let at = random.usize(..self.end);
        bytes[at] ^= random.u8(1..);
        (at, bytes)
    }
}

fn name(number: usize) -> String {
    format!("client-{number}")
}

/// What a server holds of all clients.
fn held(fleet: &Fleet, server: usize) -> HashMap<String, String> {
    let names: Vec<_> = (0..CLIENTS).map(name).collect();
    let lines = fleet
        .client(server)
        .whatsat_all(names.iter().map(String::as_str));
    names
        .into_iter()
        .zip(lines)
        .filter(|(_, line)| line.starts_with("AT "))
        .collect()
}

fn same(held: &HashMap<String, String>, expected: &HashMap<&str, &str>) -> bool {
    held.len() == expected.len()
        && held
            .iter()
            .all(|(name, line)| expected.get(&**name) == Some(&&**line))
}

/// Row 3: reports are appended one after another, so a journal that was cut anywhere holds the
/// first so many of them.
#[test]
fn a_journal_cut_at_any_length_serves_what_came_before() {
    let cuts = choose(12, 300);
    let mut fleet = Fleet::alone("cut", &[]);
    let image = Image::take(&mut fleet, 0);
    let mut random = fastrand::Rng::with_seed(3);
    for cut in 0..cuts {
        let length = match cut {
            0 => 0,
            1 => image.end - 1,
            _ => random.usize(..image.end),
        };
        let mut bytes = image.bytes[..length].to_vec();
        if cut % 2 == 0 && length > 0 {
            // An append that a crash cut short has zeros behind it, in a file of full length.
            bytes.resize(image.bytes.len(), 0);
        }
        image.restore(&bytes);
        fleet.start(0);
        let held = held(&fleet, 0);
        let whole = (0..=REPORTS).any(|reports| same(&held, &image.state(reports)));
        assert!(whole, "cut at {length}: no prefix: {held:?}");
        fleet.kill(0);
    }
    figure(
        "3",
        format_args!("{cuts} cuts, each served what came before"),
    );
}

/// Row 3: never a wrong record, and never a missing one without a word.
#[test]
fn a_journal_with_a_changed_byte_serves_no_wrong_record_and_tells() {
    let flips = choose(12, 300);
    let mut fleet = Fleet::alone("flip", &[]);
    let image = Image::take(&mut fleet, 0);
    let all: HashSet<_> = image.replies.iter().cloned().collect();
    let mut random = fastrand::Rng::with_seed(4);
    let mut lossy = 0;
    for _ in 0..flips {
        let (at, bytes) = image.flipped(&mut random);
        image.restore(&bytes);
        let logged = fleet.log(0).len();
        fleet.start(0);
        let held = held(&fleet, 0);
        for record in &held {
            let known = all.contains(&(record.0.clone(), record.1.clone()));
            assert!(known, "byte {at}: a wrong record: {record:?}");
        }
        if !same(&held, &image.state(REPORTS)) {
            lossy += 1;
            let told = wait_until("a word in the log", || {
                fleet.log(0)[logged..].contains("journal: ")
            });
            assert!(told.as_secs() < 2);
        }
        // It takes reports as ever.
        let reply = fleet.client(0).ask(&report("after", "+2+2"));
        assert_eq!(fleet.client(0).whatsat("after"), reply);
        fleet.kill(0);
    }
    figure(
        "3",
        format_args!("{flips} changed bytes, 0 wrong records, {lossy} lost one and told"),
    );
}

/// Row 3: what a damaged journal lacks comes from the neighbor.
#[test]
fn a_damaged_journal_is_made_good_by_the_neighbor() {
    let rounds = choose(6, 100);
    let mut fleet = Fleet::pair("heal", &[]);
    let (ball, welsh) = (0, 1);
    fleet.start(welsh);
    let image = Image::take(&mut fleet, ball);
    // All of it has reached Welsh by another start of Ball.
    fleet.start(ball);
    let whole = image.state(REPORTS);
    wait_until("all at Welsh", || same(&held(&fleet, welsh), &whole));
    fleet.kill(ball);
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..rounds {
        let (at, mut bytes) = image.flipped(&mut random);
        if round % 2 == 0 {
            bytes = image.bytes[..at].to_vec();
        }
        image.restore(&bytes);
        fleet.start(ball);
        wait_until(&format!("all at Ball again, damaged at {at}"), || {
            same(&held(&fleet, ball), &whole)
        });
        assert!(same(&held(&fleet, welsh), &whole), "Welsh has changed");
        fleet.kill(ball);
    }
    figure(
        "3",
        format_args!("{rounds} damaged journals, each made good by the neighbor"),
    );
}

/// Row 23.
#[test]
fn a_deleted_folder_is_filled_again_by_the_neighbors_and_wipes_nobody() {
    let mut fleet = Fleet::pair("deleted", &[]);
    let (ball, welsh) = (0, 1);
    fleet.start_all();
    let reply = fleet.client(ball).ask(&report("kiwi", "+1+1"));
    fleet.client(welsh).await_whatsat("kiwi", &reply);
    fleet.kill(ball);
    fs::remove_dir_all(fleet.data(ball)).unwrap();
    fleet.start(ball);
    fleet.client(ball).await_whatsat("kiwi", &reply);
    let newer = fleet.client(ball).ask(&report("kiwi", "+2+2"));
    fleet.client(welsh).await_whatsat("kiwi", &newer);
}

/// What was not acknowledged any more may be there; what was, is, whatever `--ack` says.
#[test]
fn a_clean_stop_keeps_everything_under_every_ack() {
    for ack in ["memory", "journal", "disk"] {
        let mut fleet = Fleet::alone(&format!("stop-{ack}"), &["--ack", ack]);
        fleet.start(0);
        let mut client = fleet.client(0);
        let ask = |number: usize| client.ask(&report(&name(number), "+1+1"));
        let replies: Vec<_> = (0..400).map(ask).collect();
        fleet.signal(0, "TERM");
        assert_eq!(fleet.wait(0), Some(0), "{ack}");
        fleet.start(0);
        let mut client = fleet.client(0);
        for (number, reply) in replies.iter().enumerate() {
            assert_eq!(client.whatsat(&name(number)), *reply, "{ack}");
        }
    }
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let mut fleet = Fleet::alone("second", &[]);
    fleet.start(0);
    let [client, peer] = free_addresses();
    fleet.directory.servers(&format!("Alone {client} {peer}\n"));
    let second = herd(&fleet.directory, &["serve", "Alone"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another process has the journal"), "{said}");
}
