//! Golden scripts: the protocol of links between real replicas, over memory instead of sockets.
//!
//! Each `*.txt` file beside this one is a script: commands, `---`, and the output that was recorded.
//! A test runs every script and compares the output; with `UPDATE_GOLDEN=1` in the environment it
//! records the output instead. A new script is a file with its commands and `---`. Lines that begin
//! with `#` are comments. Each command is repeated in the output, before what came of it.
//!
//! Time stands still but for `wait`, so output is exact. Handshakes, encryption and frames are the
//! real ones. A line is printed as `FROM > TO: LINE` when it is received; a long one is cut short.
//!
//! | command | effect |
//! |---|---|
//! | `server NAME [queue=BATCHES] [versions=N] [key=other] [herd=other]` | adds a neighbor of all servers |
//! | `report SERVER CLIENT SECONDS` | takes a client's report |
//! | `forget SERVER CLIENT` | forgets a client |
//! | `expire SERVER SECONDS` | sets the age at which records die; 0 for never |
//! | `old SERVER NEIGHBOR` | tells the server that a neighbor knows no tombstones; `-` for none |
//! | `plant SERVER CLIENT SECONDS` | puts a record of a third server into a cache, past the protocol |
//! | `connect FROM TO` | dials and shakes hands; replaces TO's older connection of FROM |
//! | `restart SERVER` | ends the server at once, without its records; what it has sent stays to be read |
//! | `run [FROM TO]` | sends and delivers everything, of all or of that connection, until nothing is left |
//! | `send FROM TO` | sends everything that is queued over that connection, and delivers nothing |
//! | `cut` | loses whatever is sent over the connections of now, in silence |
//! | `wait SECONDS` | lets time pass, and does what is due meanwhile |
//! | `epoch SERVER EPOCH` | has the server identify itself as that start from now on |
//! | `clock SERVER SECONDS` | sets a server's clock ahead by that |
//! | `markers SERVER`, `audit SERVER` | sends markers; sends the digest |
//! | `compare SERVER` | compares the digests that were received, and has differences repaired |
//! | `dismiss SERVER NEIGHBOR` | removes a neighbor from `servers.txt` |
//! | `redial SERVER NEIGHBOR PORT` | changes a neighbor's address in `servers.txt` |
//! | `stop SERVER` | closes the server's connections to its neighbors |
//! | `status SERVER`, `records SERVER` | prints the state of the links; the records |

mod memory;
mod recorded;
mod server;
mod steps;

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::memory::{Clock, EPOCH, Outgoing, Pipe, peer};
use self::server::{FIRST_EPOCH, Link, Server, Settings};
use super::framing::Reader;
use super::handshake::{self, HandshakeError, Hello};
use super::neighbor::TwinEvidence;
use super::receiver::connection::Connection;
use super::receiver::pulse::BackChannel;
use super::receiver::registry::Shut;
use super::sender::acks::Acks;
use super::sender::attempt::DialError;
use super::sender::orders::{CloseReason, Order};
use crate::config::keys::KeyFile;
use crate::model::command::Command;
use crate::model::record::RecordView;

/// Longest output of a line; the rest is cut off.
const SHOWN_BYTES: usize = 120;

/// One end of a connection.
struct End<P, O> {
    protocol: P,
    reader: Reader,
    out: O,
}

/// A connection from its dialer to another server; an end is `None` once it has closed.
struct Dialed {
    from: String,
    to: String,
    number: u64,
    /// The pipe of the acceptor's end.
    far: Pipe,
    dialer: Option<End<Acks, Outgoing>>,
    acceptor: Option<End<Connection<Outgoing>, Arc<BackChannel<Outgoing>>>>,
}

/// A script while it runs.
struct Script {
    clock: Clock,
    keys: KeyFile,
    servers: BTreeMap<String, Server>,
    connections: Vec<Dialed>,
    out: String,
}

/// Returns a server's link to a neighbor.
fn link<'a>(
    servers: &'a mut BTreeMap<String, Server>,
    server: &str,
    neighbor: &str,
) -> &'a mut Link {
    let server = servers.get_mut(server).unwrap();
    server.links.get_mut(neighbor).unwrap()
}

impl Script {
    fn new() -> Script {
        Script {
            clock: Clock::new(),
            keys: KeyFile::generate().unwrap(),
            servers: BTreeMap::new(),
            connections: Vec::new(),
            out: String::new(),
        }
    }

    fn say(&mut self, line: &str) {
        let cut = line.len().min(SHOWN_BYTES);
        let more = if cut < line.len() { "..." } else { "" };
        self.out += &format!("  {}{more}\n", &line[..cut]);
    }

    fn command(&mut self, line: &str) {
        self.out += &format!("{line}\n");
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["server", name, ref settings @ ..] => self.add(name, settings),
            ["report", server, client, seconds] => {
                let text = format!("IAMAT {client} +1+1 {seconds}");
                let Ok(Command::Iamat(report)) = Command::parse(text.as_bytes()) else {
                    panic!("{line}");
                };
                let now = self.clock.wall();
                self.servers[server]
                    .replica
                    .report(&[report], now, &mut Vec::new());
            }
            ["forget", server, client] => {
                let now = self.clock.wall();
                let (outcome, _) = self.servers[server].replica.forget(client.as_bytes(), now);
                self.say(&format!("{outcome:?}"));
            }
            ["expire", server, seconds] => {
                let age = Duration::from_secs(seconds.parse().unwrap());
                let age = (!age.is_zero()).then_some(age);
                self.servers[server].replica.set_forget_after(age);
            }
            ["old", server, neighbor] => {
                let name = (neighbor != "-").then_some(neighbor);
                self.servers[server].replica.set_old_neighbor(name);
            }
            ["plant", server, client, seconds] => {
                // Old enough to count in a digest.
                let received = (EPOCH - 100) * 1_000_000_000;
                let text = format!("RECORD Zed 1 1 {received} {client} +2+2 {seconds}");
                let record = RecordView::parse_line(text.as_bytes()).unwrap();
                self.servers[server].replica.restore(&record);
            }
            ["connect", from, to] => self.connect(from, to),
            ["restart", server] => self.restart(server),
            ["run"] => while self.step(|_| true) {},
            ["run", from, to] => while self.step(|c| c.from == from && c.to == to) {},
            ["send", from, to] => {
                let is_it = |c: &Dialed| c.from == from && c.to == to && c.dialer.is_some();
                let index = self.connections.iter().position(is_it).unwrap();
                while self.send(index) {}
            }
            ["cut"] => {
                for end in self.connections.iter().filter_map(|c| c.dialer.as_ref()) {
                    end.out.pipe.cut();
                }
            }
            ["wait", seconds] => {
                for _ in 0..seconds.parse().unwrap() {
                    self.clock.pass(Duration::from_secs(1));
                    self.pulse();
                    self.tick();
                }
            }
            ["epoch", server, epoch] => {
                self.servers.get_mut(server).unwrap().epoch = epoch.parse().unwrap();
            }
            ["clock", server, seconds] => {
                self.servers.get_mut(server).unwrap().ahead = seconds.parse().unwrap();
            }
            ["markers", server] => self.servers[server].replica.send_markers(),
            ["audit", server] => self.servers[server].auditor.send(self.clock.wall()),
            ["compare", server] => {
                let server = &self.servers[server];
                for digest in server.received.try_iter() {
                    server.auditor.compare(&digest, self.clock.now());
                }
            }
            ["dismiss", server, neighbor] => {
                let link = &self.servers[server].links[neighbor];
                link.neighbor.close(CloseReason::Dismissed);
                self.servers[server].registry.wake(neighbor);
                self.order(server, neighbor, &Order::End(CloseReason::Dismissed));
            }
            ["redial", server, neighbor, port] => {
                let address = peer(port.parse().unwrap());
                self.order(server, neighbor, &Order::Redial(address));
            }
            ["stop", server] => {
                let names: Vec<_> = self.servers[server].links.keys().cloned().collect();
                for name in names {
                    self.order(server, &name, &Order::End(CloseReason::Stopping));
                    let server = self.servers.get_mut(server).unwrap();
                    server.links[&name].neighbor.close(CloseReason::Stopping);
                    server.registry.stop();
                }
            }
            ["status", server] => {
                let links = &self.servers[server].links;
                let lines = links.iter().map(|(name, link)| {
                    let status = link.neighbor.status(self.clock.now());
                    let error = status.error.as_ref();
                    format!(
                        "{server} > {name} is {}, unconfirmed {:?}, resyncs {}, diverged {}, error: {}",
                        status.phase,
                        status.unconfirmed(),
                        status.resyncs,
                        status.diverged,
                        error.map_or("none", |error| &error.reason)
                    )
                });
                let lines: Vec<String> = lines.collect();
                lines.iter().for_each(|line| self.say(line));
            }
            ["records", server] => {
                let mut lines = Vec::new();
                self.servers[server].replica.scan(
                    &mut lines,
                    |lines: &mut Vec<Vec<u8>>, record| {
                        let mut line = Vec::new();
                        record.write_line(&mut line);
                        lines.push(line);
                    },
                    |_| true,
                );
                lines.sort();
                for line in lines {
                    self.say(String::from_utf8_lossy(&line).trim_end());
                }
            }
            _ => panic!("no such command: {line}"),
        }
    }

    fn add(&mut self, name: &str, settings: &[&str]) {
        let setting = |key: &str| settings.iter().find_map(|text| text.strip_prefix(key));
        let other = KeyFile::generate().unwrap();
        let or_other = |setting: Option<&str>| setting.map_or(&self.keys, |_| &other);
        let settings = Settings {
            keys: or_other(setting("key=")).clone(),
            herd: or_other(setting("herd=")).herd(),
            versions: setting("versions=").map(|text| text.parse().unwrap()),
            queue: setting("queue=").map_or(100, |text| text.parse().unwrap()),
        };
        let now = self.clock.now();
        let mut server = Server::new(name, FIRST_EPOCH, settings);
        for (other, neighbor) in &mut self.servers {
            neighbor.add_link(name, now);
            server.add_link(other, now);
        }
        self.servers.insert(name.to_owned(), server);
    }

    /// Ends a server, and starts it without its records. The other ends of its connections stay as
    /// they are, with what they have yet to read.
    fn restart(&mut self, name: &str) {
        for connection in &mut self.connections {
            if connection.from == name
                && let Some(end) = connection.dialer.take()
            {
                end.out.pipe.shut(Shutdown::Both);
            }
            if connection.to == name && connection.acceptor.take().is_some() {
                connection.far.shut(Shutdown::Both);
            }
        }
        let now = self.clock.now();
        let old = self.servers.remove(name).unwrap();
        let mut server = Server::new(name, old.replica.epoch() + 1, old.settings);
        for other in old.links.keys() {
            server.add_link(other, now);
        }
        self.servers.insert(name.to_owned(), server);
    }

    fn hello(&self, name: &str) -> Hello {
        let server = &self.servers[name];
        let epoch = server.epoch;
        let mut hello = Hello::new(server.settings.herd, name, epoch, server.clock(&self.clock))
            .forgetting_after(server.replica.forget_after_in_force());
        if let Some(version) = server.settings.versions {
            hello.versions = (version, version);
        }
        hello
    }

    fn connect(&mut self, from: &str, to: &str) {
        let dialed = self.servers[from].links[to].dialer.dial().clone();
        self.say(&format!("{from} dials {to} at {dialed}"));
        let [near, far] = Pipe::pair();
        let (own, other) = (self.hello(from), self.hello(to));
        let other_version = other.versions.1;
        let (keys, other_keys) = (
            &self.servers[from].settings.keys,
            &self.servers[to].settings.keys,
        );
        let links = &self.servers[to].links;
        let knows = |name: &str| {
            links
                .get(name)
                .is_some_and(|link| link.neighbor.closing().is_none())
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let (dialer, acceptor) = std::thread::scope(|scope| {
            let accepting = scope.spawn(|| {
                let result = handshake::accept(&far, other_keys, || other, knows, deadline);
                if result.is_err() {
                    far.shut(Shutdown::Both);
                }
                result
            });
            let dialer = handshake::dial(&near, keys, &own, to, deadline);
            (dialer, accepting.join().unwrap())
        });
        let outcome = |result: &Result<_, HandshakeError>| match result {
            Ok(_) => "connected".to_owned(),
            Err(error) => error.to_string(),
        };
        let outcomes = [(from, outcome(&dialer)), (to, outcome(&acceptor))];
        for (name, outcome) in outcomes {
            self.say(&format!("{name}: {outcome}"));
        }
        let (now, wall, clock) = (self.clock.now(), self.clock.wall(), self.clock.clone());
        let link = link(&mut self.servers, from, to);
        let (dialer, acceptor) = match (dialer, acceptor) {
            (Ok(dialer), Ok(acceptor)) => (dialer, acceptor),
            (Err(error), _) => {
                let error = DialError::Addresses(vec![(None, error)]);
                return link.dialer.failed(&error, now, wall);
            }
            (Ok(_), Err(error)) => panic!("{error}"),
        };
        let version = own.versions.1.min(other_version);
        link.dialer.connected(now);
        link.feed.connected(&dialer, self.clock.now());
        let acks = Acks::new(Arc::clone(&link.neighbor), now);
        let outgoing = |writer, pipe| Outgoing {
            writer,
            pipe,
            clock: clock.clone(),
        };
        let mut connection = Dialed {
            from: from.to_owned(),
            to: to.to_owned(),
            number: 0,
            far: far.clone(),
            dialer: Some(End {
                protocol: acks,
                reader: dialer.reader,
                out: outgoing(dialer.writer, near),
            }),
            acceptor: None,
        };
        let server = self.servers.get_mut(to).unwrap();
        connection.number = server.registry.add(far.clone()).unwrap();
        let neighbor = Arc::clone(&server.links[from].neighbor);
        let back = Arc::new(BackChannel::new(
            outgoing(acceptor.writer, far.clone()),
            version,
        ));
        let start = (acceptor.hello.epoch, None);
        let replaced =
            server
                .registry
                .replace(connection.number, from, start, |_| None, Arc::clone(&back));
        match replaced {
            Ok(()) => {
                neighbor.wake_sender();
                back.pong(server.clock(&self.clock)).unwrap();
                let replica = Arc::clone(&server.replica);
                let parts = (server.peer_digests.clone(), Arc::default());
                let (hello, kept) = (&acceptor.hello, Arc::clone(&back));
                neighbor.speaks(acceptor.version, hello.forget_after);
                let start = (hello.epoch, hello.forget_after);
                let protocol =
                    Connection::start(neighbor, start, replica, parts, kept, || now).unwrap();
                connection.acceptor = Some(End {
                    protocol,
                    reader: acceptor.reader,
                    out: back,
                });
            }
            Err(twins) => {
                neighbor.report_twin(now, TwinEvidence::Refused, &twins.text);
                back.write(format!("BYE {}\n", twins.text).as_bytes())
                    .unwrap();
                twins.connected.report_twin(&twins.text).unwrap();
                far.shut(Shutdown::Both);
                server.registry.remove(connection.number);
                self.say(&format!("{to}: refuses {from}: {}", twins.text));
            }
        }
        self.connections.push(connection);
    }

    /// Gives an order to a sender, whether it is connected or not.
    fn order(&mut self, server: &str, neighbor: &str, order: &Order) {
        let link = link(&mut self.servers, server, neighbor);
        let is_its = |c: &&mut Dialed| c.from == server && c.to == neighbor && c.dialer.is_some();
        let connection = self.connections.iter_mut().find(is_its);
        let is_connected = connection.is_some();
        if let Some(mut end) = connection.and_then(|connection| connection.dialer.take()) {
            let _ = link.feed.close(order, &mut end.out);
            link.feed.disconnected();
            end.out.pipe.shut(Shutdown::Both);
        }
        if let Order::Redial(address) = order {
            link.dialer.redial(address.clone(), !is_connected);
        }
    }
}

#[test]
fn scripts_give_their_recorded_output() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/link/tests");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut ran = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let (commands, recorded) = text.split_once("---\n").expect("a line ---");
        let mut script = Script::new();
        let is_command = |line: &&str| !line.is_empty() && !line.starts_with('#');
        for line in commands.lines().filter(is_command) {
            script.command(line);
        }
        if update {
            std::fs::write(&path, format!("{commands}---\n{}", script.out)).unwrap();
        } else {
            assert_eq!(script.out, recorded, "{}", path.display());
        }
        ran += 1;
    }
    assert!(ran >= 11, "only {ran} scripts were found");
}
