//! `herd check`, and what a server says of its files: everything at once, and where it is.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use crate::support::process::{
    Directory, Running, free_addresses, herd, signal, start_named, wait, wait_until,
};

fn check(directory: &Directory, arguments: &[&str]) -> Output {
    let arguments = [&["check"], arguments].concat();
    herd(directory, &arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn all_faults_of_a_file_are_printed_at_once_and_nothing_else() {
    let directory = Directory::new("check-faults");
    directory.servers(
        "A 127.0.0.1:1\u{a0}127.0.0.1:2 B\nB *:3 999.1.1.1:4 A\nC 127.0.0.1:5 127.0.0.1:1 X\n",
    );
    for format in ["text", "tsv", "json"] {
        let output = check(&directory, &["--format", format]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stdout), "");
        let number = "an IPv4 address is four numbers from 0 to 255 without leading zeros, and the name of a host does not end in a number";
        let expected = [
            "herd: servers.txt:1: column 14: U+00A0 (no-break space) is not white space here; use spaces or tabs".to_owned(),
            "servers.txt:2: B's client address \"*:3\" is not an address: * is no host; write the address that others dial here, and start the server with --bind 0.0.0.0".to_owned(),
            format!("servers.txt:2: B's peer address \"999.1.1.1:4\" is not an address: {number}"),
            "servers.txt:3: the address 127.0.0.1:1 is taken by line 1".to_owned(),
            "servers.txt:3: C's neighbor X is not a server of this file".to_owned(),
        ];
        assert_eq!(text(&output.stderr), expected.join("\n") + "\n");
    }
    // A server is as strict.
    let output = herd(&directory, &["serve", "A"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr).lines().count(), 5);
}

#[test]
fn what_will_go_wrong_is_warned_of_in_every_format() {
    let directory = Directory::new("check-warnings");
    // Of the domain that never exists.
    directory.servers(
        "A 127.0.0.1:1 127.0.0.1:2 B\nB 0.0.0.0:3 127.0.0.1:4 A C\nC 127.0.0.1:5 no-such.invalid:6 B\n",
    );
    let folder = directory.path().canonicalize().unwrap();
    let key = folder.join("herd.key");
    let key = key.display();
    let output = check(&directory, &[]);
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(0), String::new())
    );
    let shown = text(&output.stdout);
    for expected in [
        "\nwarning: servers.txt:2: B's client address 0.0.0.0:3 means all addresses of a machine",
        "\nwarning: servers.txt:2: if B is down, A and C can't reach each other (a single point of failure)\n",
        "\nwarning: servers.txt:2: B's peer address 127.0.0.1:4 can be dialed on its own machine only, and its neighbors on others (C)",
        "\nwarning: servers.txt:3: C's peer address: no-such.invalid can't be resolved here: ",
        &format!(
            "\nwarning: no server will start: {key}: there is no such file, and no key is created"
        ),
        "\nservers.txt: good, servers: 3, warnings: 5\n",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in {shown}");
    }
    let output = check(&directory, &["--format=tsv", "--no-lookup"]);
    let shown = text(&output.stdout);
    let kinds: Vec<_> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("warning\t")?.split('\t').next())
        .collect();
    assert_eq!(kinds, ["wildcard", "loopback", "single-point", "key"]);
    assert!(shown.starts_with("server\tA\t127.0.0.1:1\t127.0.0.1:2\tB\n"));
    assert!(shown.contains("\nserver\tB\t0.0.0.0:3\t127.0.0.1:4\tA C\n"));
    let output = check(&directory, &["--format=json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["servers"][2]["peers"], "no-such.invalid:6");
    assert_eq!(json["warnings"].as_array().unwrap().len(), 5);

    // A herd on one machine would get a new key; with a key there is nothing to say.
    directory.servers("A 127.0.0.1:1 127.0.0.1:2 B\nB 127.0.0.1:3 127.0.0.1:4 A\n");
    let shown = text(&check(&directory, &[]).stdout);
    let expected = format!(
        "\nwarning: {key}: there is no key file yet; the first server that starts creates one, for a new herd\n"
    );
    assert!(shown.contains(&expected), "{shown}");
    assert!(
        herd(&directory, &["key", "new", "--key-file", "other.key"])
            .output()
            .unwrap()
            .status
            .success()
    );
    let shown = text(&check(&directory, &["--key-file", "other.key"]).stdout);
    assert!(
        shown.ends_with("\nservers.txt: good, servers: 2\n"),
        "{shown}"
    );
    std::fs::write(folder.join("other.key"), "herd 1\n").unwrap();
    let shown = text(&check(&directory, &["--key-file", "other.key"]).stdout);
    assert!(
        shown.contains("\nwarning: no server will start: other.key:1: a herd id is"),
        "{shown}"
    );
}

/// Starts a server, and returns it with what it wrote to standard error before it was ready.
fn start(directory: &Directory, flags: &[&str]) -> (Running, String) {
    let errors = directory.path().join("errors");
    let mut command = herd(directory, &[&["serve", "Alone"], flags].concat());
    command.stdout(Stdio::piped());
    command.stderr(std::fs::File::create(&errors).unwrap());
    let mut child = command.spawn().unwrap();
    let mut ready = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut ready).unwrap();
    let errors = std::fs::read_to_string(&errors).unwrap();
    assert!(
        ready.starts_with("Alone is ready: clients "),
        "{ready}{errors}"
    );
    (Running(child), errors)
}

#[test]
fn a_new_data_folder_and_a_new_key_are_said_with_their_paths() {
    let directory = Directory::new("new-folder");
    let folder = directory.path().canonicalize().unwrap();
    let folder = folder.display();
    let [client, peer] = free_addresses();
    directory.servers(&format!("Alone {client} {peer}\n"));
    let key = format!("Alone: created a new key file {folder}/herd.key, for a new herd\n");
    let created = |data: &str| {
        format!("Alone: created a new data folder {folder}/{data}/Alone: no records yet\n")
    };
    let log = || std::fs::read_to_string(directory.path().join("logs/Alone.log")).unwrap();
    for (flags, expected) in [
        (&["--log-level=error"][..], key + &created("data")),
        // The second start finds them.
        (&[], String::new()),
        (&["--data-dir", "./elsewhere"], created("elsewhere")),
    ] {
        let (mut server, said) = start(&directory, flags);
        assert_eq!(said, expected);
        signal(&server, "TERM");
        assert_eq!(wait(&mut server), Some(0));
    }
    assert!(
        log().contains(&format!("0 clients from {folder}/data/Alone in ")),
        "{}",
        log()
    );
    assert!(
        log().contains(&format!(
            "created a new data folder {folder}/elsewhere/Alone"
        )),
        "{}",
        log()
    );
    let emptied = directory.path().join("data/Alone");
    std::fs::remove_dir_all(&emptied).unwrap();
    std::fs::create_dir(&emptied).unwrap();
    let (_server, said) = start(&directory, &[]);
    assert_eq!(
        said,
        format!("Alone: the data folder {folder}/data/Alone was empty: no records yet\n")
    );
}

#[test]
fn a_server_warns_of_addresses_that_its_neighbors_can_not_dial() {
    let directory = Directory::new("wildcard");
    let [client, peer] = free_addresses();
    let write = |other: &str| {
        directory.servers(&format!("A {client} {peer} B\nB {other}:1 {other}:2 A\n"));
    };
    write("127.0.0.1");
    let (server, _) = start_named(&directory, "A", &["--log-level", "warn"]);
    let log = || std::fs::read_to_string(directory.path().join("logs/A.log")).unwrap();
    assert!(!log().contains("servers.txt"), "{}", log());
    write("0.0.0.0");
    signal(&server, "HUP");
    let folder = directory.path().canonicalize().unwrap();
    let expected = format!(
        "{}/servers.txt:2: B's peer address 0.0.0.0:2 means all addresses of a machine, and neighbors elsewhere can't dial it",
        folder.display()
    );
    wait_until("the reload", || log().contains(&expected));
}
