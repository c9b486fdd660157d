//! The program as a process: its output, exit codes and log.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::support::process::{
    Directory, free_addresses, herd, signal, start, start_named, wait, wait_until,
};
use crate::support::{Client, report};

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (got_out, got_err) = (text(&output.stdout), text(&output.stderr));
    assert!(got_out.contains(stdout), "{stdout:?} is not in {got_out:?}");
    assert!(got_err.contains(stderr), "{stderr:?} is not in {got_err:?}");
    assert_eq!(output.status.code(), Some(code), "{got_err}");
}

#[test]
fn bad_usage_and_bad_files_exit_with_2_and_a_reason() {
    let directory = Directory::new("usage");
    let run = |arguments: &[&str]| herd(&directory, arguments).output().unwrap();
    check(&run(&[]), 2, "", "a command is missing");
    check(
        &run(&["chekc"]),
        2,
        "",
        "herd: herd has no command chekc; did you mean check? (see herd --help)\n",
    );
    check(&run(&["serve"]), 2, "", "NAME");
    check(
        &run(&["serve", "Ball"]),
        2,
        "",
        "servers.txt: cannot be read",
    );
    check(&run(&["check"]), 2, "", "servers.txt: cannot be read");
    directory.servers("Ball 127.0.0.1:1 127.0.0.1:2 Welsh\nAlford 127.0.0.1\n");
    check(
        &run(&["check"]),
        2,
        "",
        "servers.txt:2: Alford's client address \"127.0.0.1\" is not",
    );
    directory.servers("Ball 127.0.0.1:1 127.0.0.1:2\nWelsh 127.0.0.1:3 127.0.0.1:4\n");
    check(
        &run(&["check"]),
        0,
        "warning: servers unreachable from Ball: Welsh (the topology is partitioned)\n",
        "",
    );
    check(
        &run(&["check", "--format", "yaml"]),
        2,
        "",
        r#"expected "text", "tsv" or "json""#,
    );
    directory.servers("Ball 127.0.0.1:1 127.0.0.1:2 # alone\n");
    check(
        &run(&["check"]),
        0,
        "Ball: clients 127.0.0.1:1, peers 127.0.0.1:2, no neighbors\n",
        "",
    );
    check(
        &run(&["serve", "Welsh"]),
        2,
        "",
        "names no server Welsh; it names Ball",
    );
    for (flag, value, reason) in [
        ("--pool", "sofa", r#"expected "dedicated" or "shared""#),
        (
            "--ack",
            "never",
            r#"expected "memory", "journal" or "disk""#,
        ),
        ("--workers", "0", "from 1 to 8192"),
        ("--workers", "many", "from 1 to 8192"),
        ("--max-clients", "0", "greater than 0"),
        ("--max-records", "-1", "greater than 0"),
        ("--idle-timeout", "0", "seconds from 1"),
        ("--bind", "here", "invalid IP address"),
        (
            "--log-level",
            "loud",
            r#"expected "error", "warn", "info" or "debug""#,
        ),
        ("--log", "file", "it must be - for standard output"),
        ("--no-such-flag", "1", "--no-such-flag"),
    ] {
        check(&run(&["serve", "Ball", flag, value]), 2, "", reason);
        check(
            &run(&["serve", "Ball", &format!("{flag}={value}")]),
            2,
            "",
            reason,
        );
    }
    let without_key = |flags: &[&str]| {
        let mut command = herd(&directory, &[&["serve", "Ball"], flags].concat());
        command
            .env_remove("GOOGLE_PLACES_API_KEY")
            .output()
            .unwrap()
    };
    for provider in ["google", "google-legacy"] {
        check(
            &without_key(&["--places", provider]),
            2,
            "",
            "GOOGLE_PLACES_API_KEY is not set",
        );
    }
    let mut two_lines = herd(&directory, &["serve", "Ball", "--places", "google"]);
    two_lines.env("GOOGLE_PLACES_API_KEY", "first\nsecond");
    let output = two_lines.output().unwrap();
    check(&output, 2, "", "GOOGLE_PLACES_API_KEY is not a key: it has");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("first"));
    check(
        &run(&["serve", "Ball", "--places", "yellow-pages"]),
        2,
        "",
        r#"expected "atlas", "google", "google-legacy" or "overpass""#,
    );
    check(
        &run(&["serve", "Ball", "--places-workers", "0"]),
        2,
        "",
        "from 1 to 256",
    );
    for limit in ["0", "-1", "none"] {
        check(
            &run(&["serve", "Ball", "--places-calls-per-minute", limit]),
            2,
            "",
            "greater than 0, or unlimited",
        );
    }
    check(
        &run(&["serve", "Ball", "--places-url", "http://x/"]),
        2,
        "",
        "--places-url cannot be used with --places atlas",
    );
    let bad_url = ["--places", "overpass", "--places-url", "ftp://x/"];
    check(
        &run(&[&["serve", "Ball"], &bad_url[..]].concat()),
        2,
        "",
        "absolute http or https URL",
    );
    check(&run(&["--help"]), 0, "Run one server", "");
    check(&run(&["serve", "-h"]), 0, "--idle-timeout", "");
    check(
        &run(&["--version"]),
        0,
        concat!("herd ", env!("CARGO_PKG_VERSION")),
        "",
    );
}

#[test]
fn unavailable_resources_exit_with_1_and_a_reason() {
    let directory = Directory::new("taken");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap();
    let [free, _] = free_addresses();
    directory.servers(&format!("Ball {held} {free}\n"));
    let run = |flags: &[&str]| {
        herd(&directory, &[&["serve", "Ball"], flags].concat())
            .output()
            .unwrap()
    };
    let expected =
        format!("Ball: cannot listen for clients on {held}: another program has that port");
    check(&run(&[]), 1, "", &expected);
    // An address of the block for documentation, which no machine has.
    check(
        &run(&["--bind", "192.0.2.1"]),
        1,
        "",
        "this machine has no such address",
    );
    drop(holder);
    std::fs::write(directory.0.join("file"), "").unwrap();
    let expected = format!(
        "Ball: cannot log to {}/file/Ball.log: Not a directory",
        absolute(&directory)
    );
    check(&run(&["--log-dir", "file"]), 1, "", &expected);
}

/// Path of the directory, as a process that runs there has it.
fn absolute(directory: &Directory) -> String {
    let path = directory.path().canonicalize().unwrap();
    path.to_str().unwrap().to_owned()
}

fn log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("logs/Alone.log")).unwrap()
}

fn read_lines(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("logs/Alone.lines.log")).unwrap()
}

#[test]
fn a_signal_under_load_ends_the_server_cleanly_and_the_log_is_complete() {
    for name in ["TERM", "INT"] {
        let directory = Directory::new(&format!("signal-{name}"));
        let (mut server, address) = start(&directory, &["--log-lines"]);
        let mut client = Client::connect(address);
        let line = report("kiwi", "+1+1");
        let reply = client.ask(&line);
        assert_eq!(client.ask("\x01\u{e9}"), "? \x01\u{e9}");
        let load = std::thread::spawn(move || {
            // Ends when the server closes.
            while client.stream().write_all(b"x\n").is_ok() && !client.line().is_empty() {}
        });
        signal(&server, name);
        assert_eq!(wait(&mut server), Some(0));
        load.join().unwrap();
        let lines = read_lines(&directory.0);
        for expected in [
            format!("received from client 127.0.0.1:{{port}}: {line}"),
            format!("sent to client 127.0.0.1:{{port}}: {reply}"),
            r"received from client 127.0.0.1:{port}: \x01\xc3\xa9".to_owned(),
            "client 127.0.0.1:{port} connected".to_owned(),
            "client 127.0.0.1:{port} gone: ".to_owned(),
        ] {
            let (before, after) = expected.split_once("{port}").unwrap();
            let found = lines
                .lines()
                .any(|line| line.contains(before) && line.contains(after));
            assert!(found, "{expected} is not in the log");
        }
        let log = log(&directory.0);
        assert!(log.ends_with("stopped\n"), "{log}");
        for line in log.lines().chain(lines.lines()) {
            let (time, rest) = line.split_once(' ').unwrap();
            let time = time.as_bytes();
            let form = b"0000-00-00T00:00:00.000000Z";
            let fits = time.len() == form.len()
                && time.iter().zip(form).all(|(t, f)| {
                    if *f == b'0' {
                        t.is_ascii_digit()
                    } else {
                        t == f
                    }
                });
            let levels = ["[INFO ] ", "[WARN ] "];
            let directions = ["received from ", "sent to ", "client "];
            let begins = |words: &[&str]| words.iter().any(|word| rest.starts_with(word));
            assert!(fits && (begins(&levels) || begins(&directions)), "{line}");
        }
    }
}

#[test]
fn a_log_line_is_written_within_a_second() {
    let directory = Directory::new("log");
    let (_server, address) = start(&directory, &["--log-lines"]);
    let mut client = Client::connect(address);
    client.ask("find me");
    let asked = Instant::now();
    while !read_lines(&directory.0).contains("find me") {
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "not written after a second"
        );
        std::thread::yield_now();
    }
}

#[test]
fn the_log_has_events_at_every_level_and_no_lines() {
    for level in ["error", "warn", "info", "debug"] {
        let directory = Directory::new("quiet");
        let (mut server, address) = start(&directory, &["--log-level", level]);
        let mut client = Client::connect(address);
        client.ask(&report("find-me-not", "+1+1"));
        client.ask("WHATSAT find-me-not 1 1");
        signal(&server, "HUP");
        wait_until("it has reloaded", || {
            log(&directory.0).contains("reloaded: ")
        });
        signal(&server, "TERM");
        assert_eq!(wait(&mut server), Some(0));
        let log = log(&directory.0);
        for event in [
            "listens for clients on",
            "signal 1\n",
            "stopping\n",
            "stopped\n",
        ] {
            assert!(log.contains(event), "{event} at {level}: {log}");
        }
        assert!(!log.contains("find-me-not"), "{log}");
        assert!(!directory.0.join("logs/Alone.lines.log").exists());
    }
}

#[test]
fn billed_calls_have_a_limit_and_a_key_in_clear_text_gives_a_warning() {
    let far = ["--places-url", "http://192.0.2.1/token/places"];
    let secret = "not-a-real-key";
    for (provider, flags, limit, warned) in [
        ("google", &[][..], "10, each is billed", false),
        ("google-legacy", &far[..], "10, each is billed", true),
        (
            "google",
            &["--places-calls-per-minute", "unlimited"],
            "unlimited, each",
            false,
        ),
        (
            "google",
            &["--places-calls-per-minute=3"],
            "3, each is billed",
            false,
        ),
        (
            "google",
            &["--places-url", "http://127.0.0.1:1/"],
            "10, each is billed",
            false,
        ),
        (
            "google",
            &["--places-url", "https://192.0.2.1/"],
            "10, each is billed",
            false,
        ),
        ("overpass", &far, "unlimited\n", false),
    ] {
        let directory = Directory::new("billed");
        let [client, peer] = free_addresses();
        directory.servers(&format!("Alone {client} {peer}\n"));
        let mut command = herd(&directory, &["serve", "Alone", "--places", provider]);
        command.args(flags).env("GOOGLE_PLACES_API_KEY", secret);
        command.stderr(std::process::Stdio::piped());
        let (mut server, _) = crate::support::process::spawn(command);
        signal(&server, "TERM");
        assert_eq!(wait(&mut server), Some(0));
        let mut notices = String::new();
        let mut stderr = server.0.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut stderr, &mut notices).unwrap();
        let log = log(&directory.0);
        let case = format!("{provider} {flags:?}: {log} {notices}");
        assert!(
            log.contains(&format!("places: calls per minute: {limit}")),
            "{case}"
        );
        let warning = "--places-url is plain http: the API key";
        assert_eq!(log.contains(warning), warned, "{case}");
        assert_eq!(notices.contains(warning), warned, "{case}");
        // Neither the key nor the URL, which may contain a secret too.
        assert!(
            !case.replace(&format!("{flags:?}"), "").contains("token"),
            "{case}"
        );
        assert!(!case.contains(secret), "{case}");
    }
}

#[test]
fn the_key_file_is_created_beside_the_servers_file_for_its_owner_only() {
    let directory = Directory::new("key-created");
    let (mut server, _) = start(&directory, &[]);
    let created = std::fs::read_to_string(directory.0.join("herd.key")).unwrap();
    let mode = std::fs::metadata(directory.0.join("herd.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    signal(&server, "TERM");
    assert_eq!(wait(&mut server), Some(0));
    // A second start keeps it, and another file can be named.
    let (_server, _) = start(&directory, &[]);
    let (_other, _) = start(
        &directory,
        &["--key-file", "other.key", "--data-dir", "other"],
    );
    let read = |name: &str| std::fs::read_to_string(directory.0.join(name)).unwrap();
    assert_eq!(read("herd.key"), created);
    assert_ne!(read("other.key"), created);
    let secret = created
        .lines()
        .find_map(|line| line.strip_prefix("key "))
        .unwrap();
    assert_eq!(secret.len(), 64);
    assert!(!log(&directory.0).contains(secret));
}

#[test]
fn no_key_is_created_for_a_herd_on_several_machines() {
    let directory = Directory::new("key-missing");
    let [client, peer] = free_addresses();
    let key = directory.0.join("herd.key");
    for other in ["host.example", "10.0.0.1", "[2001:db8::1]"] {
        directory.servers(&format!(
            "Ball {client} {peer} Welsh\nWelsh {other}:1 {other}:2 Ball\n"
        ));
        let output = herd(&directory, &["serve", "Ball"]).output().unwrap();
        let advice = format!(
            "run herd key new --key-file {}/herd.key on one machine, and copy the file to the others, mode 600",
            absolute(&directory)
        );
        check(&output, 2, "", &advice);
        assert!(!key.exists());
    }
    let made = herd(&directory, &["key", "new"]).output().unwrap();
    check(&made, 0, "herd.key: a key for a new herd.", "");
    let (mut server, _) = start_named(&directory, "Ball", &[]);
    signal(&server, "TERM");
    assert_eq!(wait(&mut server), Some(0));
}

#[test]
fn keys_are_created_and_rotated_by_subcommands() {
    let directory = Directory::new("key");
    directory.servers("Ball 127.0.0.1:1 127.0.0.1:2\n");
    let run = |arguments: &[&str]| herd(&directory, arguments).output().unwrap();
    check(&run(&["key"]), 2, "", "new");
    check(
        &run(&["key", "rotate"]),
        2,
        "",
        "herd.key: there is no such file; herd key new creates one",
    );
    check(
        &run(&["key", "new"]),
        0,
        "herd.key: a key for a new herd.",
        "",
    );
    check(
        &run(&["key", "new"]),
        2,
        "",
        "herd.key: there is a key already",
    );
    for step in ["step 1 of 3", "step 2 of 3", "step 3 of 3", "step 1 of 3"] {
        check(&run(&["key", "rotate"]), 0, step, "");
    }
    check(
        &run(&["key", "new", "--key-file", "no/such/place"]),
        1,
        "",
        "no/such/place: cannot be written: No such file or directory",
    );
    check(&run(&["key", "--help"]), 0, "do this three times", "");
    check(&run(&["key", "rotate", "--help"]), 0, "--key-file", "");

    let serve = ["serve", "Ball"];
    let path = directory.0.join("herd.key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = "herd.key: other users than its owner have access (mode 0644); chmod 600 it";
    check(&run(&serve), 2, "", exposed);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "herd 1\n").unwrap();
    check(
        &run(&serve),
        2,
        "",
        "/herd.key:1: a herd id is 32 hexadecimal digits",
    );
    check(
        &run(&["serve", "Ball", "--key-file", "."]),
        2,
        "",
        ": not a regular file",
    );
}
