//! SIGHUP in a running herd of processes: neighbors are added, removed and moved, keys change, and
//! an invalid file changes nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::process::{
    Directory, Running, await_ready, free_addresses, herd, launch, signal, start_named, wait,
};
use crate::support::{Client, PATIENCE, report};

/// One server's line of `servers.txt`.
#[derive(Clone)]
struct Entry {
    name: &'static str,
    addresses: [SocketAddr; 2],
    neighbors: &'static str,
}

fn entry(name: &'static str, neighbors: &'static str) -> Entry {
    Entry {
        name,
        addresses: free_addresses(),
        neighbors,
    }
}

/// Servers that run in one directory, and so with one `servers.txt`.
struct Herd {
    directory: Directory,
    entries: Vec<Entry>,
    servers: Vec<(&'static str, Running)>,
}

impl Herd {
    fn start(name: &str, entries: Vec<Entry>) -> Herd {
        let mut herd = Herd {
            directory: Directory::new(name),
            entries,
            servers: Vec::new(),
        };
        herd.write();
        for entry in &herd.entries {
            let command = crate::support::process::herd(&herd.directory, &["serve", entry.name]);
            herd.servers.push((entry.name, launch(command)));
        }
        for (_, server) in &mut herd.servers {
            await_ready(server);
        }
        herd
    }

    /// Writes `servers.txt`.
    fn write(&self) {
        let line = |entry: &Entry| {
            let [client, peer] = entry.addresses;
            format!("{} {client} {peer} {}\n", entry.name, entry.neighbors)
        };
        let text: String = self.entries.iter().map(line).collect();
        self.directory.servers(&text);
    }

    fn run(&mut self, name: &'static str) {
        let (running, _) = start_named(&self.directory, name, &[]);
        self.servers.push((name, running));
    }

    fn process(&self, name: &str) -> &Running {
        let found = self.servers.iter().find(|(other, _)| *other == name);
        &found.unwrap().1
    }

    fn log(&self, name: &str) -> String {
        let path = self
            .directory
            .path()
            .join("logs")
            .join(format!("{name}.log"));
        String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
    }

    /// Counts the occurrences of a text in a server's log.
    fn count_logged(&self, name: &str, text: &str) -> usize {
        self.log(name).matches(text).count()
    }

    #[track_caller]
    fn await_log(&self, name: &str, text: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.count_logged(name, text) < times {
            assert!(
                Instant::now() < deadline,
                "{text:?} not in {}",
                self.log(name)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Makes a server reload, and waits until its log has the outcome.
    #[track_caller]
    fn reload(&self, name: &str, outcome: &str) {
        let times = self.count_logged(name, outcome) + 1;
        signal(self.process(name), "HUP");
        self.await_log(name, outcome, times);
    }

    fn client(&self, name: &str) -> Client {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        Client::connect(entry.unwrap().addresses[0])
    }

    /// Reports at one server, and waits until the others answer with the same record.
    #[track_caller]
    fn flood(&self, client: &str, from: &str, to: &[&str]) {
        let reply = self.client(from).ask(&report(client, "+1+1"));
        assert!(reply.starts_with(&format!("AT {from} ")), "{reply}");
        for name in to {
            self.client(name).await_whatsat(client, &reply);
        }
    }

    fn set_neighbors(&mut self, name: &str, neighbors: &'static str) {
        let entry = self.entries.iter_mut().find(|entry| entry.name == name);
        entry.unwrap().neighbors = neighbors;
    }

    /// Returns the names of a server's threads for a neighbor.
    fn threads(&self, name: &str, neighbor: &str) -> Vec<String> {
        let tasks = format!("/proc/{}/task", self.process(name).0.id());
        let mut names: Vec<_> = std::fs::read_dir(tasks)
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .filter(|name| name.starts_with("link-") && name.ends_with(neighbor))
            .collect();
        names.sort();
        names
    }

    #[track_caller]
    fn await_whole(&self) {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let output = herd(&self.directory, &["status"]).output().unwrap();
            if output.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{output:?}");
        }
    }
}

#[test]
fn a_neighbor_is_added_removed_and_added_again() {
    let mut herd = Herd::start(
        "reload-neighbor",
        vec![entry("Alford", "Ball"), entry("Ball", "Alford")],
    );
    herd.flood("before", "Alford", &["Ball"]);

    herd.entries.push(entry("Zed", "Ball"));
    herd.set_neighbors("Ball", "Alford Zed");
    herd.write();
    herd.run("Zed");
    herd.reload("Ball", "neighbors: new: Zed; keys: the same as before");
    herd.reload(
        "Alford",
        "neighbors: the same as before; keys: the same as before",
    );
    assert_eq!(
        herd.threads("Ball", "Zed"),
        ["link-reader-Zed", "link-sender-Zed"]
    );
    // It receives earlier reports too.
    let known = herd.client("Ball").whatsat("before");
    herd.client("Zed").await_whatsat("before", &known);
    // It was started before Ball knew it, and refused reports as a removed server does.
    herd.await_whole();
    herd.flood("from-alford", "Alford", &["Ball", "Zed"]);
    herd.flood("from-zed", "Zed", &["Ball", "Alford"]);
    herd.await_whole();

    // Ball reloads, Zed does not: both connections to Zed are closed with the reason.
    herd.set_neighbors("Ball", "Alford");
    herd.set_neighbors("Zed", "");
    herd.write();
    let lost = herd.count_logged("Alford", "lost");
    herd.reload("Ball", "neighbors: gone: Zed");
    assert!(herd.threads("Ball", "Zed").is_empty());
    let reason = "servers.txt there no longer names this server a neighbor";
    herd.await_log("Zed", &format!("neighbor Ball gone: {reason}"), 1);
    herd.await_log(
        "Zed",
        &format!("connection to neighbor Ball lost: {reason}"),
        1,
    );
    herd.await_log("Zed", "refused: servers.txt here names no neighbor Zed", 1);
    herd.flood("without-zed", "Alford", &["Ball"]);
    assert_eq!(
        herd.client("Zed").whatsat("without-zed"),
        "? WHATSAT without-zed 0 0"
    );
    assert_eq!(
        herd.count_logged("Alford", "lost"),
        lost,
        "a link that was kept was lost"
    );

    // Added again, it receives the reports that it has missed.
    herd.set_neighbors("Ball", "Alford Zed");
    herd.set_neighbors("Zed", "Ball");
    herd.write();
    herd.reload("Ball", "neighbors: new: Zed");
    let known = herd.client("Ball").whatsat("without-zed");
    herd.client("Zed").await_whatsat("without-zed", &known);
    herd.await_whole();
    herd.flood("again", "Zed", &["Alford", "Ball"]);
}

#[test]
fn a_neighbor_that_moves_is_dialed_at_its_new_address() {
    let mut herd = Herd::start(
        "reload-moved",
        vec![entry("Alford", "Ball"), entry("Ball", "Alford")],
    );
    herd.flood("before", "Alford", &["Ball"]);
    // The old server keeps running, so there is none at the new address yet.
    let old = std::mem::replace(&mut herd.entries[1].addresses, free_addresses());
    herd.write();
    herd.reload("Alford", "neighbors: moved: Ball");
    let reason = "neighbor Alford gone: servers.txt there has another address for this server";
    herd.await_log("Ball", reason, 1);
    let [client, peer] = old;
    herd.reload(
        "Ball",
        &format!("this server's own addresses are {client} {peer} now"),
    );
    herd.servers.retain(|(name, _)| *name != "Ball");
    herd.run("Ball");
    herd.flood("after", "Alford", &["Ball"]);
    herd.flood("and-back", "Ball", &["Alford"]);
    herd.await_whole();
}

#[test]
fn an_invalid_file_is_refused_with_its_reason_and_the_configuration_stays() {
    let mut herd = Herd::start(
        "reload-bad",
        vec![entry("Alford", "Ball"), entry("Ball", "Alford")],
    );
    herd.flood("before", "Alford", &["Ball"]);
    let refused = "reload failed, keeping the current configuration: ";
    let lost = herd.count_logged("Alford", "lost");
    let good = herd.entries.clone();
    let folder = herd.directory.path().canonicalize().unwrap();
    let folder = folder.to_str().unwrap();

    std::fs::remove_file(herd.directory.path().join("servers.txt")).unwrap();
    herd.reload(
        "Alford",
        &format!("{refused}{folder}/servers.txt: cannot be read"),
    );
    herd.set_neighbors("Ball", "");
    herd.write();
    let fault = "servers.txt:1: Alford names Ball as a neighbor, but Ball (line 2) does not";
    herd.reload("Alford", &format!("{refused}{folder}/{fault}"));
    herd.entries.clone_from(&good);
    herd.entries[0].name = "Alfred";
    herd.entries[1].neighbors = "Alfred";
    herd.write();
    let fault = format!("{refused}servers.txt no longer names this server, Alford");
    herd.reload("Alford", &fault);
    herd.entries.clone_from(&good);
    herd.write();
    let key = herd.directory.path().join("herd.key");
    let right = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    herd.reload(
        "Alford",
        &format!("{refused}{folder}/herd.key: there is no such file"),
    );
    let new = crate::support::process::herd(&herd.directory, &["key", "new"]).output();
    assert!(new.unwrap().status.success());
    herd.reload(
        "Alford",
        &format!("{refused}the key file names another herd"),
    );
    std::fs::write(&key, right).unwrap();

    herd.flood("after", "Alford", &["Ball"]);
    herd.flood("and-back", "Ball", &["Alford"]);
    assert_eq!(herd.count_logged("Alford", "lost"), lost, "a link was lost");
    herd.reload(
        "Alford",
        "neighbors: the same as before; keys: the same as before",
    );
}

#[test]
fn keys_are_rotated_without_a_restart() {
    let mut herd = Herd::start(
        "reload-keys",
        vec![
            entry("Alford", "Ball Welsh"),
            entry("Ball", "Alford Welsh"),
            entry("Welsh", "Alford Ball"),
        ],
    );
    let key = herd.directory.path().join("herd.key");
    let first = std::fs::read(&key).unwrap();
    for _ in 0..3 {
        let rotated = crate::support::process::herd(&herd.directory, &["key", "rotate"]).output();
        assert!(rotated.unwrap().status.success());
        herd.reload("Alford", "keys: changed");
        // The herd is not ready for the next step.
        let status = crate::support::process::herd(&herd.directory, &["status"]).output();
        let printed = String::from_utf8(status.unwrap().stdout).unwrap();
        assert!(printed.contains("\nkeys differ: "), "{printed}");
        for name in ["Ball", "Welsh"] {
            herd.reload(name, "keys: changed");
        }
        herd.await_whole();
    }
    assert_eq!(herd.count_logged("Alford", "lost"), 0, "a link was lost");
    // A server that starts now has only the new key, and is accepted.
    assert_ne!(std::fs::read(&key).unwrap(), first);
    herd.servers.retain(|(name, _)| *name != "Welsh");
    herd.run("Welsh");
    herd.flood("with-the-new-key", "Welsh", &["Alford", "Ball"]);
    // One that has only the old key is refused.
    std::fs::write(&key, first).unwrap();
    herd.servers.retain(|(name, _)| *name != "Welsh");
    herd.run("Welsh");
    herd.await_log("Alford", "refused: wrong key or not a peer", 1);
}

/// A file of the configuration may be on a file system that does not answer any more.
#[test]
fn a_reload_that_waits_for_its_files_does_not_keep_the_server_from_stopping() {
    let directory = crate::support::process::Directory::new("reload-hangs");
    let (mut server, address) = crate::support::process::start(&directory, &[]);
    std::fs::remove_file(directory.path().join("servers.txt")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(directory.path().join("servers.txt"))
        .status();
    assert!(made.unwrap().success());
    signal(&server, "HUP");
    assert_eq!(Client::connect(address).ask("still here"), "? still here");
    let start = Instant::now();
    signal(&server, "TERM");
    assert_eq!(wait(&mut server), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}
