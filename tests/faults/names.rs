//! Host names: name servers that do not answer, and names with several addresses. Each server that
//! looks up names has a mount namespace with files of its own for that.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::form::{can_run, choose, figure, limit, skipped, spread};
use crate::support::process::{
    Directory, Running, behind, free_addresses, herd, signal, spawn, wait, wait_for, wait_until,
};
use crate::support::{Client, report};

/// Maximum time from SIGTERM to the end of the process.
const STOP_SECONDS: u64 = 5;

/// Shell script that puts the files of its first argument, a folder, in place of those in `/etc`, and
/// runs the rest as a command.
const MOUNT: &str = r#"
for file in resolv.conf nsswitch.conf hosts host.conf; do
    [ ! -e "$0/$file" ] || mount --bind "$0/$file" "/etc/$file" || exit 1
done
exec "$@""#;

/// Words to put before a command that is to look up names by the files in that folder, if this process
/// may mount files.
fn with_files(folder: &str) -> Option<Vec<String>> {
    let ways: [&[&str]; 2] = [
        &["unshare", "--mount"],
        &["unshare", "--user", "--map-root-user", "--mount"],
    ];
    let mounting = ["sh", "-c", MOUNT, folder];
    let words = ways.map(|words| [words, &mounting].concat());
    let words = words
        .into_iter()
        .find(|words| can_run(&[&words[..], &["true"]].concat()))?;
    Some(words.into_iter().map(str::to_owned).collect())
}

/// A directory whose programs ask a name server that never answers.
struct DeadNames {
    directory: Directory,
    server: UdpSocket,
    words: Vec<String>,
}

impl DeadNames {
    fn new(fault: &str) -> Option<DeadNames> {
        // An address for each test.
        let bind = |last: u8| UdpSocket::bind((IpAddr::from([127, 33, 53, last]), 53));
        let Some(server) = (1..255).find_map(|last| bind(last).ok()) else {
            skipped(fault, "no permission to bind port 53 (needs root)");
            return None;
        };
        server.set_nonblocking(true).unwrap();
        let directory = Directory::new("names");
        let folder = directory.path().join("etc");
        fs::create_dir(&folder).unwrap();
        let name_server = server.local_addr().unwrap().ip();
        let resolv = format!("nameserver {name_server}\noptions timeout:10 attempts:3\n");
        fs::write(folder.join("resolv.conf"), resolv).unwrap();
        fs::write(folder.join("nsswitch.conf"), "hosts: dns\n").unwrap();
        let Some(words) = with_files(folder.to_str().unwrap()) else {
            skipped(fault, "no permission to mount files over those of /etc");
            return None;
        };
        Some(DeadNames {
            directory,
            server,
            words,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let words: Vec<_> = self.words.iter().map(String::as_str).collect();
        let mut command = behind(&words, &herd(&self.directory, arguments));
        command.stderr(Stdio::null());
        command
    }

    /// Writes `servers.txt`, and a key: none is created where an address is a name.
    fn servers(&self, text: &str) {
        self.directory.servers(text);
        let key = self.directory.path().join("herd.key");
        if !key.exists() {
            let made = herd(&self.directory, &["key", "new"]).output().unwrap();
            assert!(made.status.success());
        }
    }

    /// Waits for a program's question.
    #[track_caller]
    fn await_question(&self) {
        wait_until("a name is looked up", || {
            match self.server.recv(&mut [0; 512]) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    false
                }
            }
        });
    }

    /// Takes the questions of programs that have ended.
    fn forget_questions(&self) {
        while self.server.recv(&mut [0; 512]).is_ok() {}
    }
}

/// Sends SIGTERM. Returns how long the server takes to end, with exit code 0.
#[track_caller]
fn stop(server: &mut Running) -> Duration {
    let start = Instant::now();
    signal(server, "TERM");
    wait_for("the server ends", limit(STOP_SECONDS), || {
        server.0.try_wait().unwrap().is_some()
    });
    let took = start.elapsed();
    assert_eq!(wait(server), Some(0));
    took
}

#[test]
fn dead_name_servers_delay_no_stop() {
    let fault = "dead name servers, SIGTERM to the end";
    let Some(names) = DeadNames::new(fault) else {
        return;
    };
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..choose(2, 20) {
        let [client, peer] = free_addresses();
        let servers = |host: &str| {
            names.servers(&format!(
                "Alone {client} {peer} Ball\nBall {host}:1 {host}:2 Alone\n"
            ));
        };
        for is_reloaded in [false, true] {
            servers("ball.example");
            names.forget_questions();
            let (mut server, _) = spawn(names.command(&["serve", "Alone"]));
            names.await_question();
            if is_reloaded {
                servers("another.example");
                signal(&server, "HUP");
            }
            times[usize::from(is_reloaded)].push(stop(&mut server));
        }
        // The server's own address is a name: it is looked up before anything else.
        names.servers("Alone alone.example:1 alone.example:2\n");
        names.forget_questions();
        let mut command = names.command(&["serve", "Alone"]);
        let mut server = Running(command.stdout(Stdio::null()).spawn().unwrap());
        names.await_question();
        times[2].push(stop(&mut server));
    }
    let [running, reloaded, starting] = times.each_mut().map(|times| spread(times));
    figure(
        fault,
        format!("{running}, after SIGHUP {reloaded}, during the start {starting}"),
    );
}

#[test]
fn dead_name_servers_delay_no_stop_with_a_search_for_places() {
    let fault = "dead name servers and a places provider";
    let Some(names) = DeadNames::new(fault) else {
        return;
    };
    let [client, peer] = free_addresses();
    names.servers(&format!("Alone {client} {peer}\n"));
    let flags = [
        "--places",
        "overpass",
        "--places-url",
        "http://places.example/",
    ];
    let (mut server, address) = spawn(names.command(&[&["serve", "Alone"], &flags[..]].concat()));
    let mut asking = Client::connect(address);
    asking.ask(&report("kiwi", "+1+1"));
    asking.send("WHATSAT kiwi 10 5\n");
    names.await_question();
    let took = stop(&mut server);
    // What is in flight is answered at once.
    assert!(asking.rest().ends_with(b"}\n\n"));
    figure(
        fault,
        format!("{:.2} s from SIGTERM to the end", took.as_secs_f64()),
    );
}

#[test]
fn dead_name_servers_delay_neither_check_nor_status() {
    let fault = "dead name servers, herd check and herd status";
    let Some(names) = DeadNames::new(fault) else {
        return;
    };
    let run = |arguments: &[&str]| {
        let start = Instant::now();
        let output = names.command(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text, start.elapsed())
    };
    // More names than are looked up at a time.
    let line = |i: usize| format!("S{i} client-{i}.example:1 peer-{i}.example:2\n");
    names.servers(&(0..50).map(line).collect::<String>());
    let (code, text, check_took) = run(&["check"]);
    names.await_question();
    assert_eq!(code, Some(0));
    let unanswered = "can't be resolved here: no answer within 3 s\n";
    assert_eq!(text.matches(unanswered).count(), 100, "{text}");
    assert!(check_took < limit(4), "{check_took:?}");
    names.forget_questions();
    let (code, text, _) = run(&["check", "--no-lookup"]);
    assert_eq!(code, Some(0));
    assert!(!text.contains(unanswered), "{text}");
    assert!(
        names.server.recv(&mut [0; 512]).is_err(),
        "a name was looked up"
    );

    names.servers("A a.example:1 a.example:2 B\nB b.example:1 b.example:2 A\n");
    let (code, text, took) = run(&["status"]);
    names.await_question();
    assert_eq!(code, Some(1));
    assert!(text.contains("A: no answer within 2 s"), "{text}");
    assert!(took < limit(3), "{took:?}");
    let (check, status) = (check_took.as_secs_f64(), took.as_secs_f64());
    figure(fault, format!("{check:.2} s and {status:.2} s"));
}

#[test]
fn a_server_listens_on_all_addresses_of_its_name_and_says_which_it_left_out() {
    let directory = Directory::new("several");
    let [first, _] = free_addresses();
    let second = SocketAddr::new(IpAddr::from([127, 0, 0, 77]), first.port());
    let folder = directory.path().join("etc");
    fs::create_dir(&folder).unwrap();
    // The last one is of the block for documentation, which no machine has.
    let hosts = [first.ip(), second.ip(), IpAddr::from([192, 0, 2, 1])];
    let hosts = hosts.map(|ip| format!("{ip} own.example\n")).concat();
    fs::write(folder.join("hosts"), hosts).unwrap();
    fs::write(folder.join("nsswitch.conf"), "hosts: files\n").unwrap();
    fs::write(folder.join("host.conf"), "multi on\n").unwrap();
    let Some(words) = with_files(folder.to_str().unwrap()) else {
        return skipped(
            "a name with several addresses",
            "no permission to mount files over those of /etc",
        );
    };
    let (port, peer_port) = (first.port(), first.port() + 1_000);
    directory.servers(&format!(
        "Alone own.example:{port} own.example:{peer_port}\n"
    ));
    let made = herd(&directory, &["key", "new"]).output().unwrap();
    assert!(made.status.success());
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let serve = herd(&directory, &["serve", "Alone", "--max-clients", "2"]);
    let mut command = behind(&words, &serve);
    let notices = directory.path().join("notices");
    command.stderr(fs::File::create(&notices).unwrap());
    let (mut server, address) = spawn(command);
    assert!([first, second].contains(&address), "{address}");
    // One limit for both.
    let mut clients = [first, second].map(Client::connect);
    for client in &mut clients {
        assert_eq!(client.ask("a"), "? a");
    }
    for address in [first, second] {
        assert_eq!(Client::connect(address).rest(), b"? server full\n");
    }
    for (audience, port) in [("clients", port), ("peers", peer_port)] {
        let text = format!(
            "not listening for {audience} on 192.0.2.1:{port}: this machine has no such address"
        );
        wait_until(&text, || {
            fs::read_to_string(&notices).unwrap().contains(&text)
        });
    }
    drop(clients);
    stop(&mut server);
}
