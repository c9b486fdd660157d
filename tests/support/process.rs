//! The program as a process, in a directory of its own.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory of its own, removed at the end.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("herd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

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

/// A process that does not outlive its test.
pub struct Running(pub Child);

impl Running {
    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The file of that name in the process's folder under `/proc`.
    pub fn proc(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.pid()))
    }

    fn entries(&self, what: &str) -> usize {
        std::fs::read_dir(self.proc(what)).unwrap().count()
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        self.entries("fd")
    }

    pub fn threads(&self) -> usize {
        self.entries("task")
    }

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

pub fn herd(directory: &Directory, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command
        .args(arguments)
        .current_dir(&directory.0)
        .stdin(Stdio::null());
    command
}

/// Two addresses whose ports were free a moment ago.
pub fn free_addresses() -> [SocketAddr; 2] {
    let held = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// Starts a server alone, on free ports, and waits until it says that it is ready.
pub fn start(directory: &Directory, flags: &[&str]) -> (Running, SocketAddr) {
    let [client, peer] = free_addresses();
    directory.servers(&format!("Alone {client} {peer}\n"));
    start_named(directory, "Alone", flags)
}

/// Starts a server of the directory's `servers.txt` and waits until it says that it is ready.
pub fn start_named(directory: &Directory, name: &str, flags: &[&str]) -> (Running, SocketAddr) {
    spawn(herd(directory, &[&["serve", name], flags].concat()))
}

/// Starts the server that a command is for, and waits until it says that it is ready.
#[track_caller]
pub fn spawn(mut command: Command) -> (Running, SocketAddr) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    let child = Running(child);
    let address = ready
        .split_once(" is ready: clients ")
        .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    let address = address.unwrap_or_else(|| panic!("it said {ready:?}: {command:?}"));
    (child, address)
}

/// The same program run by another, which gets `words` before it.
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

/// Polls until it is so; how long it took.
#[track_caller]
pub fn wait_until(what: &str, done: impl FnMut() -> bool) -> Duration {
    wait_for(what, PATIENCE, done)
}

/// The same with another patience.
#[track_caller]
pub fn wait_for(what: &str, patience: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < patience, "not in {patience:?}: {what}");
        // Spinning would take a core from the servers.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    start.elapsed()
}

pub fn wait(child: &mut Running) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::yield_now();
    }
}

pub fn signal(child: &Running, signal: &str) {
    let sent = Command::new("kill")
        .args(["-s", signal, &child.0.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}
