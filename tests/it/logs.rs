//! Logs and signals of real processes: what others do to the files, where lines go at each level, and
//! how much strangers can have logged.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::process::{
    Directory, Running, free_addresses, herd, signal, start_named, wait, wait_until,
};
use crate::support::{Client, report};

/// A server in a directory of its own, with standard output and error in files.
struct Server {
    process: Running,
    directory: Directory,
    address: SocketAddr,
}

impl Server {
    /// Starts a server and waits until it is ready.
    fn start(flags: &[&str], prepare: impl FnOnce(&Directory)) -> Server {
        let directory = Directory::new("logs");
        let [client, peer] = free_addresses();
        directory.servers(&format!("Alone {client} {peer}\n"));
        prepare(&directory);
        let file = |name: &str| File::create(directory.path().join(name)).unwrap();
        let mut command = herd(&directory, &[&["serve", "Alone"], flags].concat());
        command.stdout(file("out")).stderr(file("notices"));
        let server = Server {
            process: Running(command.spawn().unwrap()),
            directory,
            address: client,
        };
        wait_until("it is ready", || server.read("out").contains("is ready"));
        server
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn read(&self, file: &str) -> String {
        let bytes = fs::read(self.path(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log(&self) -> String {
        self.read("logs/Alone.log")
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    #[track_caller]
    fn await_log(&self, text: &str) {
        wait_until(text, || self.log().contains(text));
    }

    /// Has the server log an event.
    #[track_caller]
    fn reload(&self) {
        signal(&self.process, "HUP");
        self.await_log("] reloaded: ");
    }

    #[track_caller]
    fn stop(&mut self) -> Duration {
        let began = Instant::now();
        signal(&self.process, "TERM");
        assert_eq!(wait(&mut self.process), Some(0), "{}", self.read("notices"));
        began.elapsed()
    }
}

fn make_fifo(path: PathBuf) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[test]
fn log_files_are_opened_again_by_a_signal() {
    for name in ["USR1", "HUP"] {
        let server = Server::start(&["--log-lines"], |_| {});
        server.client().ask("before");
        wait_until("the line is on file", || {
            server.read("logs/Alone.lines.log").contains(": before\n")
        });
        server.await_log("listens for clients on");
        for file in ["Alone.log", "Alone.lines.log"] {
            let path = server.path("logs").join(file);
            fs::rename(&path, path.with_extension("old")).unwrap();
        }
        signal(&server.process, name);
        server.await_log("log files opened again");
        server.client().ask("after");
        wait_until("the line is in the new file", || {
            server.read("logs/Alone.lines.log").contains(": after\n")
        });
        let old = server.read("logs/Alone.lines.old");
        assert!(
            old.contains(": before\n") && !old.contains("after"),
            "{old}"
        );
        assert!(
            server
                .read("logs/Alone.old")
                .contains("listens for clients on")
        );
    }
}

#[test]
fn what_others_do_to_the_log_is_followed() {
    let server = Server::start(&[], |_| {});
    let log = server.path("logs/Alone.log");
    // Rotated by copy and truncation.
    server.await_log("listens for clients on");
    fs::copy(&log, server.path("logs/copy")).unwrap();
    File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(0)
        .unwrap();
    server.reload();
    let emptied = server.log();
    assert!(
        emptied.starts_with("20") && !emptied.contains("serves"),
        "{emptied:?}"
    );
    // Renamed.
    fs::rename(&log, server.path("logs/moved")).unwrap();
    server.reload();
    // Removed with its folder, which nothing announces: the file comes back by itself.
    fs::remove_dir_all(server.path("logs")).unwrap();
    wait_until("the file is back", || log.exists());
    server.reload();
    for (path, mode) in [("logs", 0o700), ("logs/Alone.log", 0o600)] {
        let found = fs::metadata(server.path(path)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777 & !mode, 0, "{path}");
    }
    // A file in the place of the folder: said on standard error, and over once it is gone.
    fs::remove_dir_all(server.path("logs")).unwrap();
    fs::write(server.path("logs"), "").unwrap();
    wait_until("it is said", || {
        server
            .read("notices")
            .contains("logs/Alone.log can't be written")
    });
    fs::remove_file(server.path("logs")).unwrap();
    wait_until("its end is said", || {
        server.read("notices").contains("no longer log failing")
    });
    server.await_log("logs/Alone.log is in order");
}

#[test]
fn a_rotation_that_fails_is_said_once_and_destroys_no_old_log() {
    const LIMIT: u64 = 64 << 20;
    let server = Server::start(&[], |directory| {
        let path = |name: &str| directory.path().join("logs").join(name);
        fs::create_dir(directory.path().join("logs")).unwrap();
        // A hole takes no space.
        File::create(path("Alone.log"))
            .unwrap()
            .set_len(LIMIT)
            .unwrap();
        fs::write(path("Alone.log.1"), "newest").unwrap();
        fs::write(path("Alone.log.2"), "second").unwrap();
        for number in [3, 4] {
            fs::create_dir_all(path(&format!("Alone.log.{number}")).join("held")).unwrap();
        }
    });
    let size = |file: &str| fs::metadata(server.path(file)).map_or(0, |found| found.len());
    let said = |text: &str| server.read("notices").matches(text).count();
    let grows = "logs/Alone.log grows beyond 64 MiB, since it can't be renamed: ";
    wait_until("it is said", || said(grows) == 1);
    // Written to again and again, over more than the pause between two attempts.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        let before = size("logs/Alone.log");
        signal(&server.process, "HUP");
        wait_until("it grows", || size("logs/Alone.log") > before);
    }
    assert_eq!(said(grows), 1);
    assert_eq!(server.read("logs/Alone.log.1"), "newest");
    assert_eq!(server.read("logs/Alone.log.2"), "second");
    for number in [3, 4] {
        fs::remove_dir_all(server.path(&format!("logs/Alone.log.{number}"))).unwrap();
    }
    wait_until("its end is said", || {
        said("logs/Alone.log is in order") == 1
    });
    assert!(size("logs/Alone.log.1") > LIMIT && size("logs/Alone.log") < 1_000);
    assert_eq!(server.read("logs/Alone.log.2"), "newest");
    assert_eq!(server.read("logs/Alone.log.3"), "second");
}

#[test]
fn a_fifo_without_a_reader_delays_neither_start_nor_stop() {
    let began = Instant::now();
    let mut server = Server::start(&[], |directory| {
        fs::create_dir(directory.path().join("logs")).unwrap();
        make_fifo(directory.path().join("logs/Alone.log"));
    });
    assert!(began.elapsed() < Duration::from_secs(3));
    wait_until("it is said", || {
        let reason = "logs/Alone.log can't be written: no process reads this FIFO";
        server.read("notices").contains(reason)
    });
    assert!(server.stop() < Duration::from_secs(3));
    // A reader that comes late finds what was logged before.
    let mut server = Server::start(&[], |directory| {
        fs::create_dir(directory.path().join("logs")).unwrap();
        make_fifo(directory.path().join("logs/Alone.log"));
    });
    let mut reader = File::open(server.path("logs/Alone.log")).unwrap();
    server.stop();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("listens for clients on") && text.ends_with("stopped\n"),
        "{text}"
    );
}

#[test]
fn the_log_goes_to_standard_output_on_request() {
    let link = |directory: &Directory| {
        fs::create_dir(directory.path().join("logs")).unwrap();
        symlink("/dev/stdout", directory.path().join("logs/Alone.log")).unwrap();
    };
    let plain: fn(&Directory) = |_| {};
    let linked: fn(&Directory) = link;
    for (flags, prepare) in [
        (&["--log", "-", "--log-lines"][..], plain),
        (&[][..], linked),
    ] {
        let mut server = Server::start(flags, prepare);
        server.client().ask("hello");
        signal(&server.process, "HUP");
        wait_until("it has reloaded", || {
            server.read("out").contains("reloaded: ")
        });
        server.stop();
        let out = server.read("out");
        assert!(
            out.contains("Alone is ready: clients ") && out.ends_with("stopped\n"),
            "{out}"
        );
        let lines = out.contains(": hello\n");
        assert_eq!(lines, !flags.is_empty(), "{out}");
        assert_eq!(server.path("logs").exists(), flags.is_empty());
        assert!(!server.path("logs/Alone.log.1").exists());
        let notices = server.read("notices");
        let is_news = |line: &str| line.starts_with("Alone: created a new ");
        assert!(notices.lines().all(is_news), "{notices}");
    }
    let directory = Directory::new("logs");
    directory.servers("Alone 127.0.0.1:1 127.0.0.1:2\n");
    let both = ["serve", "Alone", "--log", "-", "--log-dir", "x"];
    let output = herd(&directory, &both).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("--log - and --log-dir exclude each other"),
        "{text}"
    );
}

#[test]
fn a_standard_output_that_nobody_reads_stalls_nothing() {
    let directory = Directory::new("logs");
    let [client, peer] = free_addresses();
    directory.servers(&format!("Alone {client} {peer}\n"));
    let notices = File::create(directory.path().join("notices")).unwrap();
    let mut command = herd(&directory, &["serve", "Alone", "--log", "-", "--log-lines"]);
    command.stdout(Stdio::piped()).stderr(notices);
    let mut server = Running(command.spawn().unwrap());
    // Held open, and not read.
    let mut out = server.0.stdout.take().unwrap();
    wait_until("it serves", || std::net::TcpStream::connect(client).is_ok());
    let mut asker = Client::connect(client);
    for _ in 0..1_000 {
        assert!(asker.ask(&report("kiwi", "+1+1")).starts_with("AT Alone "));
    }
    let reason = "log failing: standard output can't be written: it has taken no lines for ";
    wait_until("it is said", || {
        let notices = fs::read_to_string(directory.path().join("notices")).unwrap();
        notices.contains(reason)
    });
    // Read for a while: everything that waited comes.
    let mut text = String::new();
    while text.matches("received from client ").count() < 1_000 {
        let mut bytes = [0; 4_096];
        let length = out.read(&mut bytes).unwrap();
        text += &String::from_utf8_lossy(&bytes[..length]);
    }
    wait_until("its end is said", || {
        let notices = fs::read_to_string(directory.path().join("notices")).unwrap();
        notices.contains("no longer log failing: standard output is in order")
    });
    for _ in 0..1_000 {
        assert!(asker.ask(&report("kiwi", "+1+1")).starts_with("AT Alone "));
    }
    let began = Instant::now();
    signal(&server, "TERM");
    assert_eq!(wait(&mut server), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn stray_signals_change_nothing() {
    let mut server = Server::start(&[], |_| {});
    let mut client = server.client();
    let strays = [
        "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "PIPE", "CHLD", "URG",
        "WINCH", "XFSZ", "34", "40", "64",
    ];
    for name in strays {
        for _ in 0..3 {
            signal(&server.process, name);
            assert!(
                client.ask(&report("kiwi", "+1+1")).starts_with("AT Alone "),
                "{name}"
            );
        }
    }
    server.stop();
}

#[test]
fn a_link_that_was_reported_lost_is_reported_back_at_every_level() {
    for level in ["error", "warn"] {
        let directory = Directory::new("logs");
        let [ball, welsh] = [free_addresses(), free_addresses()];
        directory.servers(&format!(
            "Ball {} {} Welsh\nWelsh {} {} Ball\n",
            ball[0], ball[1], welsh[0], welsh[1]
        ));
        let notices = File::create(directory.path().join("notices")).unwrap();
        let mut command = herd(&directory, &["serve", "Ball", "--log-level", level]);
        command.stdout(Stdio::null()).stderr(notices);
        let _ball = Running(command.spawn().unwrap());
        let read = |file: &str| fs::read_to_string(directory.path().join(file)).unwrap_or_default();
        let (mut neighbor, _) = start_named(&directory, "Welsh", &[]);
        wait_until("they are linked", || {
            read("logs/Ball.log").contains("[INFO ] connected to neighbor Welsh\n")
        });
        neighbor.kill();
        let lost = "[WARN ] connection to neighbor Welsh lost: ";
        wait_until("the loss is reported", || read("notices").contains(lost));
        let (_neighbor, _) = start_named(&directory, "Welsh", &[]);
        let back = "[INFO ] connected to neighbor Welsh again\n";
        wait_until("it is reported back", || read("notices").contains(back));
        let log = read("logs/Ball.log");
        assert!(log.contains(lost) && log.contains(back), "{log}");
    }
}

#[test]
fn the_reason_for_each_refused_line_is_in_the_log_at_debug() {
    let server = Server::start(&["--log-level", "debug", "--max-records", "1"], |_| {});
    let mut client = server.client();
    client.ask(&report("kiwi", "+1+1"));
    let long_id = "x".repeat(256);
    let cases = [
        ("HELLO there".to_owned(), "not a command"),
        ("IAMAT kiwi +1+1".to_owned(), "too few or too many fields"),
        (format!("WHATSAT {long_id} 1 1"), "client id too long"),
        ("IAMAT kiwi +91+1 1".to_owned(), "bad location"),
        ("IAMAT kiwi +1+1 soon".to_owned(), "bad time"),
        ("WHATSAT kiwi 51 1".to_owned(), "bad radius"),
        ("WHATSAT kiwi 1 21".to_owned(), "bad bound"),
        ("WHATSAT nobody 1 1".to_owned(), "unknown client"),
        (
            "IAMAT kiwi +1+1 9999999999".to_owned(),
            "time too far ahead",
        ),
        (report("second", "+1+1"), "maximum number of records"),
        ("y".repeat(5_000), "line too long"),
    ];
    for (line, _) in &cases {
        client.send(format!("{line}\n"));
        assert!(client.line().starts_with("? "), "{line}");
    }
    for (line, reason) in cases {
        let shown = if line.len() <= 256 {
            line
        } else {
            let length = line.len().min(4_096);
            format!("{}... ({length} bytes)", &line[..256])
        };
        server.await_log(&format!(": refused, {reason}: {shown}\n"));
    }
}

/// At the levels and settings that log the most.
#[test]
fn a_flood_of_unprintable_lines_is_logged_in_part_and_counted() {
    let flags = ["--log-level", "debug", "--log-lines"];
    let server = Server::start(&flags, |_| {});
    let began = Instant::now();
    let line = [&[0; 4_000][..], b"\n"].concat();
    let stream = server.client();
    let mut reader = stream.stream().try_clone().unwrap();
    let mut writer = stream.stream().try_clone().unwrap();
    let lines = 2_000;
    let sending = std::thread::spawn(move || {
        (0..lines).for_each(|_| writer.write_all(&line).unwrap());
    });
    let mut replies = vec![0; lines * 4_003];
    reader.read_exact(&mut replies).unwrap();
    sending.join().unwrap();
    let shown = r"\x00".repeat(256) + "... (4000 bytes)\n";
    server.await_log(&format!("refused, not a command: {shown}"));
    for file in ["logs/Alone.log", "logs/Alone.lines.log"] {
        wait_until("the others are counted", || {
            server
                .read(file)
                .contains(" more refused lines are not logged\n")
        });
    }
    let lines_log = server.read("logs/Alone.lines.log");
    assert!(lines_log.contains(&format!(": {shown}")), "not received");
    assert!(
        lines_log.contains(&format!(r": ? {}", r"\x00".repeat(254))),
        "not sent"
    );
    let bytes = server.log().len() + lines_log.len();
    let seconds = began.elapsed().as_secs() + 1;
    assert!(
        bytes as u64 <= seconds * 1_000_000,
        "{bytes} bytes in {seconds} s"
    );
    // Valid lines are logged in full all the while.
    let padded = report("kiwi", "+1+1") + &" ".repeat(3_000) + "\t";
    server.client().ask(&padded);
    wait_until("a valid line is whole", || {
        let line = padded.trim_end().to_owned() + &" ".repeat(3_000) + r"\t";
        server.read("logs/Alone.lines.log").contains(&line)
    });
}

#[test]
fn a_log_that_cannot_be_opened_is_refused_with_its_reason() {
    let directory = Directory::new("logs");
    let [client, peer] = free_addresses();
    directory.servers(&format!("Alone {client} {peer}\n"));
    fs::create_dir_all(directory.path().join("logs/Alone.log")).unwrap();
    let socket = directory.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::create_dir(directory.path().join("other")).unwrap();
    symlink(&socket, directory.path().join("other/Alone.lines.log")).unwrap();
    for (folder, reason) in [
        ("logs", "logs/Alone.log: Is a directory"),
        (
            "other",
            "other/Alone.lines.log: it is a socket; --log - writes to standard output",
        ),
    ] {
        let flags = ["serve", "Alone", "--log-lines", "--log-dir", folder];
        let output = herd(&directory, &flags).output().unwrap();
        let notices = String::from_utf8_lossy(&output.stderr).into_owned();
        let path = directory.path().canonicalize().unwrap();
        let expected = format!("cannot log to {}/{reason}", path.display());
        assert!(notices.contains(&expected), "{notices}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn each_line_and_each_reply_is_logged_once_in_their_order() {
    let server = Server::start(&["--log-lines"], |_| {});
    let mut client = server.client();
    let lines = [
        report("first", "+1+1"),
        report("second", "+2+2"),
        "WHATSAT first 0 0".to_owned(),
        "WHATSAT nobody 0 0".to_owned(),
        "nothing".to_owned(),
        report("third", "+3+3"),
    ];
    client.send(lines.join("\n") + "\n");
    client.half_close();
    let replies = String::from_utf8(client.rest()).unwrap();
    let log = || server.read("logs/Alone.lines.log");
    wait_until("all are in the log", || log().contains(" gone: "));
    let log = log();
    let texts = |direction: &str| -> Vec<String> {
        let found = log.lines().filter_map(|line| line.split_once(direction));
        found
            .map(|(_, rest)| rest.split_once(": ").unwrap().1.to_owned())
            .collect()
    };
    assert_eq!(texts("Z received from "), lines);
    let sent: Vec<_> = replies.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(texts("Z sent to "), sent);
}
