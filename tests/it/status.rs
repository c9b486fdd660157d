//! `herd status` against real processes: a whole herd, a dead server, a server that does not answer, a
//! wrong key, and invalid files.

use std::process::Output;
use std::time::{Duration, Instant};

use crate::support::process::{
    Directory, Running, await_ready, free_addresses, herd, launch, signal,
};
use crate::support::{Client, PATIENCE, report};

const NAMES: [&str; 3] = ["Alford", "Ball", "Welsh"];

/// Three servers, each a neighbor of both others.
struct Herd {
    directory: Directory,
    servers: Vec<Running>,
    client: std::net::SocketAddr,
}

fn start(name: &str) -> Herd {
    let directory = Directory::new(name);
    let mut text = String::new();
    let mut first = None;
    for name in NAMES {
        let [client, peer] = free_addresses();
        first.get_or_insert(client);
        let others = NAMES.into_iter().filter(|other| *other != name);
        let others: Vec<_> = others.collect();
        text += &format!("{name} {client} {peer} {}\n", others.join(" "));
    }
    directory.servers(&text);
    let mut servers: Vec<_> = NAMES
        .iter()
        .map(|name| launch(crate::support::process::herd(&directory, &["serve", name])))
        .collect();
    for server in &mut servers {
        await_ready(server);
    }
    Herd {
        directory,
        servers,
        client: first.unwrap(),
    }
}

impl Herd {
    fn status(&self, flags: &[&str]) -> Output {
        let mut command = herd(&self.directory, &[&["status"], flags].concat());
        command.output().unwrap()
    }

    /// Repeats `herd status` until it ends with the exit code and prints the text. Returns all that it
    /// printed.
    #[track_caller]
    fn await_status(&self, code: i32, wanted: &str) -> String {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let output = self.status(&[]);
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.code() == Some(code) && printed.contains(wanted) {
                assert_eq!(String::from_utf8_lossy(&output.stderr), "");
                return printed;
            }
            assert!(Instant::now() < deadline, "{output:?}");
        }
    }
}

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.contains(stdout), "{stdout:?} is not in {out}");
    assert!(err.contains(stderr), "{stderr:?} is not in {err}");
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
}

#[test]
fn a_whole_herd_and_its_problems_are_reported() {
    let mut herd = start("status-whole");
    let mut client = Client::connect(herd.client);
    for index in 0..20 {
        client.ask(&report(&format!("client-{index}"), "+1+1"));
    }
    let whole = "the herd is whole: 3 of 3 servers up, equal\n";
    herd.await_status(0, whole);
    // Records are counted a moment before the digest is taken, so the first answer that finds them
    // equal may count one too few; the next can't.
    let printed = herd.await_status(0, whole);
    let lines: Vec<_> = printed.lines().collect();
    let heads = "SERVER  STATE  RECORDS  DIGEST            CLIENTS  REFUSED LINKS  VERSION  KEYS      UP FOR";
    assert_eq!(lines[0], heads, "{printed}");
    for (index, name) in NAMES.iter().enumerate() {
        let fields: Vec<_> = lines[1 + index].split_whitespace().collect();
        assert_eq!(fields[..3], [*name, "ok", "20"], "{printed}");
        assert_eq!(fields[3].len(), 16, "{printed}");
        // The client that reported is connected to the first server.
        assert_eq!(fields[4], if index == 0 { "1" } else { "0" }, "{printed}");
        assert_eq!(fields[6], env!("CARGO_PKG_VERSION"), "{printed}");
        assert_eq!(fields[7].len(), 8, "{printed}");
    }
    let links = lines.iter().filter(|line| line.contains(" > "));
    let live = links.filter(|line| line.split_whitespace().nth(3) == Some("live"));
    assert_eq!(live.count(), 6, "{printed}");

    // With another key, and without a key.
    let foreign = Directory::new("status-foreign");
    let key = foreign.path().join("herd.key");
    let created = crate::support::process::herd(&foreign, &["key", "new"])
        .output()
        .unwrap();
    assert!(created.status.success());
    let output = herd.status(&["--key-file", key.to_str().unwrap()]);
    let wrong = "Ball: no status: it closed during the handshake: it probably has another key";
    check(&output, 1, wrong, "");
    check(&output, 1, "the herd is not whole: 0 of 3 servers up", "");
    std::fs::remove_file(&key).unwrap();
    let output = herd.status(&["--key-file", key.to_str().unwrap()]);
    check(&output, 2, "", "herd.key: there is no such file");
    assert!(!key.exists(), "status creates no key");

    // A server that is stopped by a debugger, or swapped out, does not block the others' answers.
    signal(&herd.servers[1], "STOP");
    let start = Instant::now();
    let output = herd.status(&[]);
    check(&output, 1, "Ball: no answer within 2 s\n", "");
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    signal(&herd.servers[1], "CONT");
    herd.await_status(0, "the herd is whole");

    herd.servers[1].kill();
    let printed = herd.await_status(1, "Alford > Ball   down");
    assert!(
        printed.contains("Ball: no answer: connection refused\n"),
        "{printed}"
    );
    assert!(
        printed.ends_with("the herd is not whole: 2 of 3 servers up, problems: 1\n"),
        "{printed}"
    );
}

#[test]
fn invalid_files_end_with_exit_code_2_and_a_reason() {
    let directory = Directory::new("status-files");
    let run = |arguments: &[&str]| herd(&directory, arguments).output().unwrap();
    check(&run(&["status"]), 2, "", "servers.txt: cannot be read");
    directory.servers("Ball 127.0.0.1:1 127.0.0.1:2 Welsh\n");
    check(
        &run(&["status"]),
        2,
        "",
        "servers.txt:1: Ball's neighbor Welsh is not a server of this file",
    );
    let [client, peer] = free_addresses();
    directory.servers(&format!("Ball {client} {peer}\n"));
    check(&run(&["status"]), 2, "", "herd.key: there is no such file");
    assert!(!directory.path().join("herd.key").exists());
    check(&run(&["status", "--colour"]), 2, "", "--colour");
    check(
        &run(&["status", "--help"]),
        0,
        "Exit codes: 0 all servers are up",
        "",
    );
    check(&run(&["key", "new"]), 0, "herd.key", "");
    check(
        &run(&["status"]),
        1,
        "Ball: no answer: connection refused",
        "",
    );
}
