//! A server's data folder whose journal is cut, changed or deleted, or that is opened twice.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use super::form::{choose, figure};
use crate::support::fleet::Fleet;
use crate::support::process::{free_addresses, herd, wait_until};
use crate::support::report;

/// Number of reports in the damaged journal, each appended on its own.
const REPORTS: usize = 240;

/// Number of clients of these reports.
const CLIENTS: usize = 60;

/// The journal file of a killed server, and the replies to every report in it.
struct Image {
    path: PathBuf,
    /// Contents of the file.
    bytes: Vec<u8>,
    /// End of the last append; zeros up to the end of the file follow, for later appends.
    end: usize,
    /// Clients and replies, in the order of the appends.
    replies: Vec<(String, String)>,
}

impl Image {
    /// Starts a server, reports to it, and kills it.
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

    /// Restores the data folder with a damaged file.
    fn restore(&self, damaged: &[u8]) {
        let folder = self.path.parent().unwrap();
        fs::remove_dir_all(folder).unwrap();
        fs::create_dir(folder).unwrap();
        fs::write(&self.path, damaged).unwrap();
    }

    /// Lines by client of a server that has the first `reports` reports.
    fn state(&self, reports: usize) -> HashMap<&str, &str> {
        let first = &self.replies[..reports];
        first
            .iter()
            .map(|(name, reply)| (&**name, &**reply))
            .collect()
    }

    /// The file's contents with one byte changed, and that byte's index.
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

/// Lines by client that a server holds.
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

/// Reports are appended one after another, so a journal that was cut holds a prefix of them.
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
            // After an append that a crash interrupted, the file has its full length and ends in zeros.
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
        "cut journal",
        format_args!("{cuts} cuts, each served what came before"),
    );
}

/// No wrong record is served, and every lost one is logged.
#[test]
fn a_journal_with_a_changed_byte_serves_no_wrong_record_and_logs_a_lost_one() {
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
            let delay = wait_until("the loss in the log", || {
                fleet.log(0)[logged..].contains("journal: ")
            });
            assert!(delay.as_secs() < 2);
        }
        // It accepts reports as before.
        let reply = fleet.client(0).ask(&report("after", "+2+2"));
        assert_eq!(fleet.client(0).whatsat("after"), reply);
        fleet.kill(0);
    }
    figure(
        "changed byte in the journal",
        format_args!("{flips} changed bytes, 0 wrong records, {lossy} lost one and logged it"),
    );
}

/// A neighbor sends the records that a damaged journal lacks.
#[test]
fn a_damaged_journal_is_completed_by_the_neighbor() {
    let rounds = choose(6, 100);
    let mut fleet = Fleet::pair("heal", &[]);
    let (ball, welsh) = (0, 1);
    fleet.start(welsh);
    let image = Image::take(&mut fleet, ball);
    // Ball starts a second time to send everything to Welsh.
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
        "damaged journal beside a neighbor",
        format_args!("{rounds} damaged journals, each completed by the neighbor"),
    );
}

/// A server without data must not make its neighbors forget theirs.
#[test]
fn a_deleted_folder_is_filled_by_the_neighbors_and_erases_nothing_at_them() {
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

/// Every acknowledged report is kept, whatever `--ack` is.
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
    let notices = String::from_utf8(second.stderr).unwrap();
    assert!(
        notices.contains("another process has the journal"),
        "{notices}"
    );
}
