//! A herd of child processes: the servers of one `servers.txt` in one directory. A server is known by
//! its index there.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use herd::config::keys::KeyFile;
use herd::health::State;
use herd::link::neighbor::{LinkPhase, LinkStatus};
use herd::link::status::{ServerStatus, ask_over};
use herd::model::time::Timestamp;
use socket2::{Domain, Socket, Type};

use crate::support::process::{
    Directory, Running, await_ready, free_addresses, herd, launch, signal, wait, wait_until,
};
use crate::support::proxy::Proxy;
use crate::support::{Client, PATIENCE, RING};

pub struct Fleet {
    pub directory: Directory,
    servers: Vec<Server>,
    flags: Vec<String>,
}

struct Server {
    name: &'static str,
    neighbors: Vec<usize>,
    client: SocketAddr,
    peer: SocketAddr,
    /// Proxies in front of its neighbors, in the order of `neighbors`; empty without proxies.
    proxies: Vec<Proxy>,
    process: Option<Running>,
    /// The line that it printed when it was ready.
    ready: String,
}

/// Source address of [`Fleet::status`], so that a packet filter can let it pass.
pub const OBSERVER: [u8; 4] = [127, 0, 0, 9];

impl Fleet {
    /// Writes the files of a herd and starts none of its servers. `flags` are for every server; the
    /// log level is `warn` unless they set another.
    pub fn new(label: &str, servers: &[(&'static str, &[&str])], flags: &[&str]) -> Fleet {
        let index = |name: &&str| servers.iter().position(|(other, _)| other == name);
        let servers = servers
            .iter()
            .map(|(name, neighbors)| {
                let [client, peer] = free_addresses();
                Server {
                    name,
                    neighbors: neighbors.iter().map(|name| index(name).unwrap()).collect(),
                    client,
                    peer,
                    proxies: Vec::new(),
                    process: None,
                    ready: String::new(),
                }
            })
            .collect();
        let mut flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
        if !flags.iter().any(|flag| flag == "--log-level") {
            flags.extend(["--log-level", "warn"].map(str::to_owned));
        }
        let fleet = Fleet {
            directory: Directory::new(label),
            servers,
            flags,
        };
        fleet.write_servers();
        fleet
    }

    /// The report's ring of five.
    pub fn ring(label: &str, flags: &[&str]) -> Fleet {
        let servers: Vec<(&'static str, &[&str])> = RING
            .iter()
            .map(|(name, neighbors)| (*name, &neighbors[..]))
            .collect();
        Fleet::new(label, &servers, flags)
    }

    /// Ball and Welsh, each the other's neighbor.
    pub fn pair(label: &str, flags: &[&str]) -> Fleet {
        let servers: [(&str, &[&str]); 2] = [("Ball", &["Welsh"]), ("Welsh", &["Ball"])];
        Fleet::new(label, &servers, flags)
    }

    /// A server without neighbors.
    pub fn alone(label: &str, flags: &[&str]) -> Fleet {
        Fleet::new(label, &[("Alone", &[])], flags)
    }

    /// Puts a proxy between each server and each neighbor that it dials.
    pub fn with_proxies(mut self) -> Fleet {
        let peers: Vec<_> = self.servers.iter().map(|server| server.peer).collect();
        for server in &mut self.servers {
            let start = |&neighbor: &usize| Proxy::start(peers[neighbor]);
            server.proxies = server.neighbors.iter().map(start).collect();
        }
        self.write_servers();
        self
    }

    /// Writes a `servers.txt` for each server, with the proxies in place of its neighbors.
    fn write_servers(&self) {
        for reader in &self.servers {
            let mut text = String::new();
            for (index, server) in self.servers.iter().enumerate() {
                let position = reader.neighbors.iter().position(|&other| other == index);
                let proxy = position.and_then(|position| reader.proxies.get(position));
                let peer = proxy.map_or(server.peer, |proxy| proxy.address);
                let names: Vec<_> = server
                    .neighbors
                    .iter()
                    .map(|&neighbor| self.servers[neighbor].name)
                    .collect();
                let (name, client) = (server.name, server.client);
                text += &format!("{name} {client} {peer} {}\n", names.join(" "));
            }
            std::fs::write(self.directory.0.join(servers_file(reader.name)), text).unwrap();
        }
    }

    /// The `servers.txt` that a server reads.
    pub fn servers_path(&self, reader: usize) -> PathBuf {
        self.directory.0.join(servers_file(self.name(reader)))
    }

    pub fn servers_text(&self, reader: usize) -> String {
        std::fs::read_to_string(self.servers_path(reader)).unwrap()
    }

    /// Replaces the line of a server in the `servers.txt` that `reader` reads.
    pub fn replace_line(&self, reader: usize, server: usize, line: &str) {
        let name = format!("{} ", self.name(server));
        let text: String = self
            .servers_text(reader)
            .split_inclusive('\n')
            .map(|old| if old.starts_with(&name) { line } else { old })
            .collect();
        std::fs::write(self.servers_path(reader), text).unwrap();
    }

    /// The proxy between a server and a neighbor that it dials.
    pub fn link(&self, from: usize, to: usize) -> &Proxy {
        let server = &self.servers[from];
        let position = server.neighbors.iter().position(|&other| other == to);
        &server.proxies[position.unwrap()]
    }

    pub fn len(&self) -> usize {
        self.servers.len()
    }

    pub fn name(&self, server: usize) -> &'static str {
        self.servers[server].name
    }

    pub fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].client
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.client).collect()
    }

    pub fn peer(&self, server: usize) -> SocketAddr {
        self.servers[server].peer
    }

    pub fn client(&self, server: usize) -> Client {
        Client::connect(self.address(server))
    }

    /// The command that starts a server.
    pub fn command(&self, server: usize) -> Command {
        let name = self.servers[server].name;
        let mut command = herd(&self.directory, &["serve", name, "--servers"]);
        command.arg(servers_file(name)).args(&self.flags);
        command
    }

    #[track_caller]
    pub fn start(&mut self, server: usize) {
        let command = self.command(server);
        self.start_as(server, command);
    }

    /// Starts a server with another command, and waits until it is ready.
    #[track_caller]
    pub fn start_as(&mut self, server: usize, command: Command) {
        self.launch_as(server, command);
        self.servers[server].ready = await_ready(self.process_mut(server));
    }

    /// Starts a server and does not wait until it is ready.
    #[track_caller]
    pub fn launch(&mut self, server: usize) {
        let command = self.command(server);
        self.launch_as(server, command);
    }

    /// The same with another command. Its standard error is appended to the file `notices`.
    #[track_caller]
    pub fn launch_as(&mut self, server: usize, mut command: Command) {
        assert!(
            self.servers[server].process.is_none(),
            "it is running already"
        );
        let notices = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.directory.0.join("notices"))
            .unwrap();
        command.stderr(notices);
        self.servers[server].process = Some(launch(command));
    }

    /// Waits until a server that was launched is ready.
    #[track_caller]
    pub fn await_ready(&mut self, server: usize) {
        self.servers[server].ready = await_ready(self.process_mut(server));
    }

    /// The line by which a server said that it is ready.
    pub fn ready_line(&self, server: usize) -> &str {
        &self.servers[server].ready
    }

    /// Starts all servers at once, and waits until each is ready.
    #[track_caller]
    pub fn start_all(&mut self) {
        (0..self.len()).for_each(|server| self.launch(server));
        (0..self.len()).for_each(|server| self.await_ready(server));
    }

    pub fn process(&self, server: usize) -> &Running {
        self.servers[server].process.as_ref().unwrap()
    }

    pub fn process_mut(&mut self, server: usize) -> &mut Running {
        self.servers[server].process.as_mut().unwrap()
    }

    pub fn kill(&mut self, server: usize) {
        self.servers[server].process.take().unwrap().kill();
    }

    /// Kills all running servers at the same moment.
    pub fn kill_all(&mut self) {
        let mut killed: Vec<_> = self
            .servers
            .iter_mut()
            .filter_map(|server| server.process.take())
            .collect();
        for process in &mut killed {
            process.0.kill().unwrap();
        }
    }

    pub fn signal(&self, server: usize, name: &str) {
        signal(self.process(server), name);
    }

    /// Waits for the end of a server and returns its exit code.
    #[track_caller]
    pub fn wait(&mut self, server: usize) -> Option<i32> {
        wait(&mut self.servers[server].process.take().unwrap())
    }

    /// Data folder of a server.
    pub fn data(&self, server: usize) -> PathBuf {
        self.directory.0.join("data").join(self.name(server))
    }

    /// A server's log.
    pub fn log(&self, server: usize) -> String {
        // With the previous file, in case the log has been rotated.
        let read = |suffix: &str| {
            let path = self.directory.0.join("logs");
            let path = path.join(format!("{}.{suffix}", self.name(server)));
            std::fs::read(path).unwrap_or_default()
        };
        let bytes = [read("log.1"), read("log")].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A server's status, as `herd status` shows it.
    #[track_caller]
    pub fn status(&self, server: usize) -> ServerStatus {
        let keys = KeyFile::load(&self.directory.0.join("herd.key")).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from = SocketAddr::from((OBSERVER, 0));
        socket.bind(&from.into()).unwrap();
        socket
            .connect_timeout(&self.peer(server).into(), PATIENCE)
            .unwrap();
        let (until, deadline) = (Timestamp::now(), Instant::now() + PATIENCE);
        ask_over(&socket.into(), self.name(server), &keys, until, deadline).unwrap()
    }

    /// The conditions under which a server is not well, with their reasons.
    #[track_caller]
    pub fn problems(&self, server: usize) -> Vec<(State, String)> {
        let problems = self.status(server).problems;
        let shown = problems
            .into_iter()
            .map(|problem| (problem.state, problem.reason));
        shown.collect()
    }

    /// Returns whether all servers hold the same records.
    #[track_caller]
    pub fn is_equal(&self) -> bool {
        let digest = |server| self.status(server).digest.map(|digest| digest.total());
        (1..self.len()).all(|server| digest(server) == digest(0))
    }

    /// Returns whether a server's link to a neighbor is live.
    #[track_caller]
    pub fn is_live(&self, server: usize, neighbor: usize) -> bool {
        self.link_status(server, neighbor).phase == LinkPhase::Live
    }

    /// Status of a server's link to a neighbor, as `herd status` shows it.
    #[track_caller]
    pub fn link_status(&self, server: usize, neighbor: usize) -> LinkStatus {
        let links = self.status(server).links;
        let wanted = |(name, _): &(String, LinkStatus)| name == self.name(neighbor);
        links.into_iter().find(wanted).unwrap().1
    }

    /// Number of lines of a server's log that contain `text`.
    pub fn logged(&self, server: usize, text: &str) -> usize {
        let log = self.log(server);
        log.lines().filter(|line| line.contains(text)).count()
    }

    #[track_caller]
    pub fn await_logged(&self, server: usize, text: &str) {
        wait_until(&format!("{text:?} in the log"), || {
            self.logged(server, text) > 0
        });
    }
}

impl Drop for Fleet {
    /// A test that fails shows the end of each server's log. The servers end before their directory is
    /// removed: they would write to it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut out = std::io::stderr().lock();
            for server in 0..self.len() {
                let log = self.log(server);
                let lines: Vec<_> = log.lines().rev().take(15).collect();
                for line in lines.iter().rev() {
                    let _ = writeln!(out, "{}: {line}", self.name(server));
                }
            }
        }
        for server in &mut self.servers {
            server.process = None;
        }
    }
}

fn servers_file(name: &str) -> String {
    format!("servers-{name}.txt")
}
