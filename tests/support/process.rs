//! The program as a child process, in a directory of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// A temporary directory, removed on drop.
pub struct Directory(pub PathBuf);

impl Directory {
    /// Creates a directory that no other test uses, whatever `name` is.
    pub fn new(name: &str) -> Directory {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Tests that run side by side hold more connections than the usual soft limit of a user
        // allows, 1,024.
        herd::config::limits::raise_descriptor_limit();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unique = format!("herd-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes `servers.txt`.
    pub fn servers(&self, text: &str) -> PathBuf {
        let path = self.0.join("servers.txt");
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A child process, killed on drop.
pub struct Running(pub Child);

impl Running {
    /// Kills it, as a crash would, and waits for its end.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Path of a file in the process's folder under `/proc`.
    pub fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid()))
    }

    fn entries(&self, folder: &str) -> usize {
        std::fs::read_dir(self.proc(folder)).unwrap().count()
    }

    /// Number of open descriptors.
    pub fn descriptors(&self) -> usize {
        self.entries("fd")
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.entries("task")
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    /// CPU time so far, in clock ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(self.proc("stat")).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let fields: Vec<_> = after_name.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that runs the program in a directory.
pub fn herd(directory: &Directory, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command
        .args(arguments)
        .current_dir(&directory.0)
        .stdin(Stdio::null());
    command
}

/// Two addresses on which no other process listens, not even while their server is down.
///
/// The loopback block has an address for every process id, so no other process takes a port of this
/// one. The ports lie below those that the kernel gives to outgoing connections.
#[cfg(target_os = "linux")]
pub fn free_addresses() -> [SocketAddr; 2] {
    use std::sync::atomic::AtomicU16;

    static PORT: AtomicU16 = AtomicU16::new(12_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    [0, 1].map(|_| {
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        SocketAddr::from(([127, 64 | (high & 0x3f), middle, low], port))
    })
}

/// Two addresses whose ports were free a moment ago: other systems have a single loopback address.
#[cfg(not(target_os = "linux"))]
pub fn free_addresses() -> [SocketAddr; 2] {
    let held = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// Starts a server without neighbors, on free ports, and waits until it is ready.
pub fn start(directory: &Directory, flags: &[&str]) -> (Running, SocketAddr) {
    let [client, peer] = free_addresses();
    directory.servers(&format!("Alone {client} {peer}\n"));
    start_named(directory, "Alone", flags)
}

/// Starts a server of the directory's `servers.txt` and waits until it is ready.
pub fn start_named(directory: &Directory, name: &str, flags: &[&str]) -> (Running, SocketAddr) {
    spawn(herd(directory, &[&["serve", name], flags].concat()))
}

/// Starts a server and waits until it is ready. Returns it with the address of its client port.
#[track_caller]
pub fn spawn(command: Command) -> (Running, SocketAddr) {
    let mut child = launch(command);
    let ready = await_ready(&mut child);
    let address = ready
        .split_once(" is ready: clients ")
        .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    (child, address.unwrap())
}

/// Starts a server and does not wait until it is ready.
pub fn launch(mut command: Command) -> Running {
    Running(command.stdout(Stdio::piped()).spawn().unwrap())
}

/// Waits until a server that was launched is ready. Returns the line by which it said so.
#[track_caller]
pub fn await_ready(child: &mut Running) -> String {
    let mut ready = String::new();
    BufReader::new(child.0.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    let is_ready = ready.contains(" is ready: clients ");
    assert!(is_ready, "not ready, it printed {ready:?}");
    ready
}

/// The same command run by another program: `words` and then the command itself.
pub fn behind(words: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(words[0]);
    outer
        .args(&words[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    if let Some(directory) = command.get_current_dir() {
        outer.current_dir(directory);
    }
    outer
}

/// Polls until `done` returns true. Returns how long that took.
#[track_caller]
pub fn wait_until(what: &str, done: impl FnMut() -> bool) -> Duration {
    wait_for(what, PATIENCE, done)
}

/// [`wait_until`] with another time limit.
#[track_caller]
pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        // Spinning would take a core from the servers.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    start.elapsed()
}

/// Waits for the end of a process. Returns its exit code, or `None` if a signal ended it.
pub fn wait(child: &mut Running) -> Option<i32> {
    let mut status = None;
    wait_until("the process ends", || {
        status = child.0.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code()
}

/// Sends a signal, such as `TERM`.
pub fn signal(child: &Running, signal: &str) {
    let sent = Command::new("kill")
        .args(["-s", signal, &child.0.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}
