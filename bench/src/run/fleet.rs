//! Servers of one variant, in processes of their own.
//!
//! A fleet has a folder for its files, ports that were free, and its processes, which are stopped
//! by their ids when it is dropped. Should this program be interrupted, every process that it has
//! started is killed and every file removed before it ends.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::cores::Cores;
use super::variant::Variant;

/// Longest time until a server is ready; with a million records in its journal it needs more than a
/// moment.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Longest time that a server may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Between two checks of a process that must end.
const PAUSE: Duration = Duration::from_millis(2);

/// Number of attempts with other ports, in case another program takes those that were free.
const PORT_TRIES: usize = 3;

/// Exit code of a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// The place of all fleets: a folder, and the list of all processes that run.
#[derive(Clone, Debug)]
pub(crate) struct Workplace {
    folder: PathBuf,
    cores: Cores,
    /// `true` if the load generator has a core to itself.
    apart: Arc<AtomicBool>,
    running: Arc<Mutex<BTreeSet<u32>>>,
    /// Number of fleets so far.
    fleets: Arc<AtomicU64>,
    /// Commands that were run, for the record.
    commands: Arc<Mutex<Vec<String>>>,
}

impl Workplace {
    /// Makes a folder for servers that run on these cores. An interruption kills them and removes it.
    pub(crate) fn new(cores: Cores) -> Result<Workplace, String> {
        let folder = std::env::temp_dir().join(format!("herd-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let workplace = Workplace {
            folder,
            cores,
            apart: Arc::default(),
            running: Arc::default(),
            fleets: Arc::default(),
            commands: Arc::default(),
        };
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
        let other = workplace.clone();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                // The lock is kept, so that no process is started any more.
                let running = lock(&other.running);
                for &process in &*running {
                    signal(process, Signal::KILL);
                }
                other.clear();
                std::process::exit(INTERRUPTED);
            }
        });
        Ok(workplace)
    }

    /// Gives the load generator, which is the calling thread, a core to itself, and servers that are
    /// started from now on the others; or lets all of them share all.
    pub(crate) fn divide_cores(&self, apart: bool) -> Result<(), String> {
        self.apart.store(apart, Ordering::Relaxed);
        self.cores.keep_apart(apart)
    }

    /// The cores that servers and load generator run on.
    pub(crate) fn cores(&self) -> &Cores {
        &self.cores
    }

    /// Removes the folder.
    pub(crate) fn clear(&self) {
        // A file that can't be removed lies among temporary files.
        let _ = fs::remove_dir_all(&self.folder);
    }

    /// Notes a command for the record, without the paths that differ from machine to machine.
    pub(crate) fn note(&self, command: &str) {
        let here = std::env::current_dir().unwrap_or_default();
        let command = command
            .replace(&*self.folder.to_string_lossy(), "$TMPDIR")
            .replace(&format!("{}/", here.display()), "");
        lock(&self.commands).push(command);
    }

    /// The commands since the last call.
    pub(crate) fn take_commands(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.commands))
    }
}

/// Locks data that stays consistent even if a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // One that has ended by itself needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// One server's place in a fleet.
#[derive(Debug)]
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

/// Servers that are neighbors of each other.
#[derive(Debug)]
pub(crate) struct Fleet {
    workplace: Workplace,
    folder: PathBuf,
    variant: Variant,
    members: Vec<Member>,
}

impl Fleet {
    /// Starts a ring of servers of these names; two are neighbors, one is alone.
    pub(crate) fn start(
        workplace: &Workplace,
        variant: Variant,
        names: &[&str],
    ) -> Result<Fleet, String> {
        let mut failure = String::new();
        for _ in 0..PORT_TRIES {
            let mut fleet = Fleet::new(workplace, variant.clone(), names)?;
            match fleet.start_members() {
                Ok(()) => return Ok(fleet),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// A ring of which no server runs yet.
    pub(crate) fn new(
        workplace: &Workplace,
        variant: Variant,
        names: &[&str],
    ) -> Result<Fleet, String> {
        let fault = |error: io::Error| format!("{}: {error}", workplace.folder.display());
        let number = workplace.fleets.fetch_add(1, Ordering::Relaxed);
        let folder = workplace.folder.join(format!("fleet-{number}"));
        fs::create_dir(&folder).map_err(fault)?;
        // All are held until all are known, so that they differ.
        let ports: Vec<TcpListener> = (0..names.len() * 2)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<io::Result<_>>()
            .map_err(fault)?;
        let mut addresses = Vec::new();
        for port in &ports {
            addresses.push(port.local_addr().map_err(fault)?);
        }
        let members: Vec<Member> = names
            .iter()
            .zip(addresses.chunks_exact(2))
            .map(|(name, pair)| Member {
                name: (*name).to_owned(),
                client: pair[0],
                peer: pair[1],
                process: None,
            })
            .collect();
        let mut text = String::new();
        for (index, member) in members.iter().enumerate() {
            let neighbors: BTreeSet<&str> = [index + 1, index + names.len() - 1]
                .iter()
                .map(|neighbor| names[neighbor % names.len()])
                .filter(|name| *name != member.name)
                .collect();
            let neighbors: Vec<&str> = neighbors.into_iter().collect();
            text += &format!(
                "{} {} {} {}\n",
                member.name,
                member.client,
                member.peer,
                neighbors.join(" ")
            );
        }
        fs::write(folder.join("servers.txt"), text).map_err(fault)?;
        Ok(Fleet {
            workplace: workplace.clone(),
            folder,
            variant,
            members,
        })
    }

    /// Starts all servers at once, and waits until each is ready: one that starts before its neighbors
    /// waits for them.
    fn start_members(&mut self) -> Result<(), String> {
        let launched: Result<Vec<_>, String> = (0..self.members.len())
            .map(|index| self.launch_member(index))
            .collect();
        let mut launched = launched?.into_iter().enumerate();
        launched.try_for_each(|(index, ready)| self.await_member(index, &ready))
    }

    /// Starts one server and waits until it is ready.
    pub(crate) fn start_member(&mut self, index: usize) -> Result<(), String> {
        let ready = self.launch_member(index)?;
        self.await_member(index, &ready)
    }

    /// Starts one server. Returns the channel that its first line of output comes over.
    fn launch_member(&mut self, index: usize) -> Result<mpsc::Receiver<String>, String> {
        let name = self.members[index].name.clone();
        let mut arguments = Vec::new();
        if self.workplace.apart.load(Ordering::Relaxed) {
            arguments = self.workplace.cores.prefix();
        }
        arguments.extend(self.variant.command(&name, &self.folder));
        self.workplace.note(&arguments.join(" "));
        let complaints = self.complaints(index);
        let stderr = File::create(&complaints).map_err(|error| error.to_string())?;
        let mut command = Command::new(&arguments[0]);
        command
            .args(&arguments[1..])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut process = {
            let mut running = lock(&self.workplace.running);
            let process = command
                .spawn()
                .map_err(|error| format!("{}: {error}", arguments.join(" ")))?;
            running.insert(process.id());
            process
        };
        let stdout = process.stdout.take();
        self.members[index].process = Some(process);
        let (started, ready) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = stdout
                .map(BufReader::new)
                .into_iter()
                .flat_map(BufRead::lines);
            let _ = started.send(lines.next().and_then(Result::ok).unwrap_or_default());
            // Its other output must not fill the pipe.
            lines.for_each(drop);
        });
        Ok(ready)
    }

    /// The file that a server writes its complaints to.
    fn complaints(&self, index: usize) -> PathBuf {
        let name = &self.members[index].name;
        self.folder.join(format!("{name}.stderr"))
    }

    /// Waits until a server that was launched is ready.
    fn await_member(&mut self, index: usize, ready: &mpsc::Receiver<String>) -> Result<(), String> {
        let name = &self.members[index].name;
        let line = ready.recv_timeout(READY_LIMIT).unwrap_or_default();
        if line.starts_with(&format!("{name} is ready")) {
            return Ok(());
        }
        let _ = self.stop_member(index);
        let complaint = fs::read_to_string(self.complaints(index)).unwrap_or_default();
        let complaint = complaint.lines().last().unwrap_or(&line);
        Err(format!(
            "{} does not start: {complaint}",
            self.variant.name()
        ))
    }

    /// Stops one server in order; the error says that it had to be killed.
    pub(crate) fn stop_member(&mut self, index: usize) -> Result<(), String> {
        let Some(mut process) = self.members[index].process.take() else {
            return Ok(());
        };
        signal(process.id(), Signal::TERM);
        let start = Instant::now();
        let mut result = Ok(());
        while matches!(process.try_wait(), Ok(None)) {
            if start.elapsed() > STOP_LIMIT && result.is_ok() {
                signal(process.id(), Signal::KILL);
                result = Err(format!("{} does not stop", self.members[index].name));
            }
            thread::sleep(PAUSE);
        }
        lock(&self.workplace.running).remove(&process.id());
        result
    }

    /// The client address of a server.
    pub(crate) fn client(&self, index: usize) -> SocketAddr {
        self.members[index].client
    }

    /// The process id of a server that runs.
    pub(crate) fn process(&self, index: usize) -> Result<String, String> {
        let process = self.members[index].process.as_ref();
        Ok(process.ok_or("the server does not run")?.id().to_string())
    }

    /// The options of a tool that is run on the first server. The command is noted.
    pub(crate) fn options(&self, tool: &str, options: &str) -> Result<String, String> {
        let (address, process) = (self.client(0), self.process(0)?);
        let options = format!("--address {address} --pid {process} {options}");
        self.workplace
            .note(format!("target/release/herd-bench {tool} {options}").trim_end());
        Ok(options)
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The variant that runs.
    pub(crate) fn variant(&self) -> &Variant {
        &self.variant
    }

    /// The folder and the list of commands that it belongs to.
    pub(crate) fn workplace(&self) -> &Workplace {
        &self.workplace
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            let _ = self.stop_member(index);
        }
        // A file that can't be removed goes with the workplace.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
