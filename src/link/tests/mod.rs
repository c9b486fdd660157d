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
//! | `plant SERVER CLIENT SECONDS` | puts a record of a third server into a cache, past the protocol |
//! | `connect FROM TO` | dials and shakes hands; replaces TO's older connection of FROM |
//! | `run` | sends and delivers everything, until nothing is left |
//! | `cut` | loses whatever is sent over the connections of now, in silence |
//! | `wait SECONDS` | lets time pass, and does what is due meanwhile |
//! | `markers SERVER`, `audit SERVER` | sends markers; sends the digest |
//! | `compare SERVER` | compares the digests that were received, and has differences repaired |
//! | `dismiss SERVER NEIGHBOR` | removes a neighbor from `servers.txt` |
//! | `redial SERVER NEIGHBOR PORT` | changes a neighbor's address in `servers.txt` |
//! | `stop SERVER` | closes the server's connections to its neighbors |
//! | `status SERVER`, `records SERVER` | prints the state of the links; the records |

mod memory;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use self::memory::{Clock, EPOCH, Outgoing, Pipe, peer};
use super::audit::{Auditor, PeerDigest, PeerDigests};
use super::framing::Reader;
use super::handshake::{self, HandshakeError, Hello};
use super::neighbor::Neighbor;
use super::receiver::connection::Connection;
use super::receiver::registry::{Registry, Shut};
use super::refusals::RejectedPeers;
use super::sender::acks::Acks;
use super::sender::dialer::Dialer;
use super::sender::feed::Feed;
use super::sender::orders::{CloseReason, Order, Request};
use crate::config::keys::{HerdId, KeyFile};
use crate::model::command::Command;
use crate::model::digest::DigestKey;
use crate::model::record::RecordView;
use crate::replica::Replica;
use crate::thread::{Stopper, stop_pair};

/// Longest output of a line; the rest is cut off.
const SHOWN_BYTES: usize = 120;

/// Interval of the scripts' audits, within which no connection falls silent.
const AUDIT_INTERVAL: Duration = Duration::from_secs(2);

/// A server of a script.
struct Server {
    replica: Arc<Replica>,
    keys: KeyFile,
    herd: HerdId,
    versions: Option<u64>,
    queue: usize,
    links: BTreeMap<String, Link>,
    registry: Registry<Pipe>,
    auditor: Auditor,
    peer_digests: PeerDigests,
    received: Receiver<PeerDigest>,
    _stopper: Stopper,
}

/// A server's link to one neighbor.
struct Link {
    neighbor: Arc<Neighbor>,
    feed: Feed,
    requests: Receiver<Request>,
    dialer: Dialer,
}

/// One end of a connection.
struct End<P> {
    protocol: P,
    reader: Reader,
    out: Outgoing,
}

/// A connection from its dialer to another server; an end is `None` once it has closed.
struct Dialed {
    from: String,
    to: String,
    number: u64,
    dialer: Option<End<Acks>>,
    acceptor: Option<End<Connection>>,
}

/// A script while it runs.
struct Script {
    clock: Clock,
    keys: KeyFile,
    servers: BTreeMap<String, Server>,
    connections: Vec<Dialed>,
    out: String,
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
            ["plant", server, client, seconds] => {
                // Old enough to count in a digest.
                let received = (EPOCH - 100) * 1_000_000_000;
                let text = format!("RECORD Zed 1 1 {received} {client} +2+2 {seconds}");
                let record = RecordView::parse_line(text.as_bytes()).unwrap();
                self.servers[server].replica.restore(&record);
            }
            ["connect", from, to] => self.connect(from, to),
            ["run"] => while self.step() {},
            ["cut"] => {
                for end in self.connections.iter().filter_map(|c| c.dialer.as_ref()) {
                    end.out.pipe.cut();
                }
            }
            ["wait", seconds] => {
                for _ in 0..seconds.parse().unwrap() {
                    self.clock.pass(Duration::from_secs(1));
                    self.tick();
                }
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
                link.neighbor.dismiss();
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
                }
            }
            ["status", server] => {
                let links = &self.servers[server].links;
                let lines = links.iter().map(|(name, link)| {
                    let status = link.neighbor.status();
                    let error = status.error.as_ref();
                    format!(
                        "{server} > {name} is {}, lag {:?}, resyncs {}, diverged {}, error: {}",
                        status.phase,
                        status.lag(),
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
        let keys = if setting("key=").is_some() {
            &other
        } else {
            &self.keys
        };
        let herd = if setting("herd=").is_some() {
            &other
        } else {
            &self.keys
        };
        let (stopper, stop) = stop_pair();
        let (peer_digests, received) = PeerDigests::new();
        let replica = Arc::new(Replica::new(name, 7, 1_000));
        let key = DigestKey::new(b"a herd");
        let server = Server {
            keys: keys.clone(),
            herd: herd.herd(),
            versions: setting("versions=").map(|text| text.parse().unwrap()),
            queue: setting("queue=").map_or(100, |text| text.parse().unwrap()),
            links: BTreeMap::new(),
            registry: Registry::default(),
            auditor: Auditor::new(Arc::clone(&replica), key, AUDIT_INTERVAL, stop),
            peer_digests,
            received,
            replica,
            _stopper: stopper,
        };
        let now = self.clock.now();
        let others: Vec<_> = self.servers.keys().cloned().collect();
        self.servers.insert(name.to_owned(), server);
        let pairs = others
            .iter()
            .flat_map(|other| [(name, &**other), (other, name)]);
        for (server, neighbor) in pairs {
            let server = self.servers.get_mut(server).unwrap();
            let (id, outbox) = server.replica.add_link_bounded(server.queue);
            let (requests, requested) = bounded(8);
            let state = Arc::new(Neighbor::new(neighbor, id, outbox.gauge(), requests));
            let rejected = Arc::<RejectedPeers>::default();
            let replica = Arc::clone(&server.replica);
            let link = Link {
                feed: Feed::new(replica, key, Arc::clone(&state), outbox, now),
                dialer: Dialer::new(Arc::clone(&state), rejected, peer(1), now),
                requests: requested,
                neighbor: state,
            };
            server.links.insert(neighbor.to_owned(), link);
        }
    }

    fn hello(&self, name: &str) -> Hello {
        let server = &self.servers[name];
        let mut hello = Hello::new(server.herd, name, 7, self.clock.wall());
        if let Some(version) = server.versions {
            hello.versions = (version, version);
        }
        hello
    }

    fn connect(&mut self, from: &str, to: &str) {
        let dialed = self.servers[from].links[to].dialer.dial().clone();
        self.say(&format!("{from} dials {to} at {dialed}"));
        let [near, far] = Pipe::pair();
        let (own, other) = (self.hello(from), self.hello(to));
        let (keys, other_keys) = (&self.servers[from].keys, &self.servers[to].keys);
        let links = &self.servers[to].links;
        let knows = |name: &str| {
            links
                .get(name)
                .is_some_and(|link| !link.neighbor.is_dismissed())
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
        let link = self
            .servers
            .get_mut(from)
            .unwrap()
            .links
            .get_mut(to)
            .unwrap();
        let (dialer, acceptor) = match (dialer, acceptor) {
            (Ok(dialer), Ok(acceptor)) => (dialer, acceptor),
            (Err(error), _) => return link.dialer.failed(&error, now, wall),
            (Ok(_), Err(error)) => panic!("{error}"),
        };
        link.feed.connected();
        let acks = Acks::new(Arc::clone(&link.neighbor), now);
        let server = self.servers.get_mut(to).unwrap();
        let number = server.registry.add(far.clone()).unwrap();
        server.registry.replace(number, from);
        let neighbor = Arc::clone(&server.links[from].neighbor);
        neighbor.wake_sender();
        let outgoing = |writer, pipe| Outgoing {
            writer,
            pipe,
            clock: clock.clone(),
        };
        let mut out = outgoing(acceptor.writer, far);
        let replica = Arc::clone(&server.replica);
        let digests = server.peer_digests.clone();
        let protocol = Connection::start(neighbor, replica, digests, &mut out).unwrap();
        self.connections.push(Dialed {
            from: from.to_owned(),
            to: to.to_owned(),
            number,
            dialer: Some(End {
                protocol: acks,
                reader: dialer.reader,
                out: outgoing(dialer.writer, near),
            }),
            acceptor: Some(End {
                protocol,
                reader: acceptor.reader,
                out,
            }),
        });
    }

    /// Gives an order to a sender, whether it is connected or not.
    fn order(&mut self, server: &str, neighbor: &str, order: &Order) {
        let link = self
            .servers
            .get_mut(server)
            .unwrap()
            .links
            .get_mut(neighbor)
            .unwrap();
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

    /// Does what is due by the clock at both ends of all connections.
    fn tick(&mut self) {
        for index in 0..self.connections.len() {
            let now = self.clock.now();
            let connection = &mut self.connections[index];
            if let Some(end) = &connection.dialer
                && now >= end.protocol.deadline()
            {
                let error = end.protocol.silence(now);
                self.lose(index, &error);
            }
            let connection = &mut self.connections[index];
            if let Some(end) = &mut connection.acceptor
                && let Err(reason) = end.protocol.tick(&mut end.out)
            {
                self.gone(index, &reason.reason());
            }
        }
    }

    /// Sends what is due and takes what has come over each connection; whether there was anything.
    fn step(&mut self) -> bool {
        self.tick();
        let mut any = false;
        for index in 0..self.connections.len() {
            any |= self.send(index);
            any |= self.receive(index);
            any |= self.hear(index);
        }
        any
    }

    /// Does what the sender thread does.
    fn send(&mut self, index: usize) -> bool {
        let Dialed {
            from, to, dialer, ..
        } = &mut self.connections[index];
        let Some(end) = dialer else {
            return false;
        };
        let link = self
            .servers
            .get_mut(from)
            .unwrap()
            .links
            .get_mut(to)
            .unwrap();
        let now = self.clock.now();
        let result = if let Ok(request) = link.requests.try_recv() {
            link.feed.take_request(&request, &mut end.out)
        } else if link.feed.resync_due().is_some_and(|due| due <= now) {
            link.feed.resync(&mut end.out)
        } else if let Ok(queued) = link.feed.outbox().try_take() {
            link.feed.send_queued(queued, &mut end.out)
        } else {
            return false;
        };
        // The end of the connection is heard by the reader.
        let _ = result;
        true
    }

    /// Does what the receiver thread does.
    fn receive(&mut self, index: usize) -> bool {
        let now = self.clock.now();
        let connection = &mut self.connections[index];
        let Some(end) = &mut connection.acceptor else {
            return false;
        };
        let mut lines = String::new();
        let result = match end.reader.fill(&end.out.pipe) {
            Ok(filled) => end.protocol.note(filled, now).and_then(|()| {
                let block = end.reader.take_block().unwrap();
                lines = String::from_utf8_lossy(block).into_owned();
                end.protocol.apply(block, &mut end.out)
            }),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => Err(error.into()),
        };
        let heading = format!("{} > {}", connection.from, connection.to);
        // A scan of the cache shows records in no particular order.
        let mut lines: Vec<_> = lines.lines().collect();
        let are_records =
            |one: &&str, other: &&str| [one, other].iter().all(|l| l.starts_with("RECORD"));
        lines
            .chunk_by_mut(are_records)
            .for_each(<[_]>::sort_unstable);
        for line in lines {
            self.say(&format!("{heading}: {line}"));
        }
        if let Err(reason) = result {
            self.gone(index, &reason.reason());
        }
        true
    }

    /// Does what the sender's reader thread does.
    fn hear(&mut self, index: usize) -> bool {
        let now = self.clock.now();
        let Dialed {
            from, to, dialer, ..
        } = &mut self.connections[index];
        let Some(end) = dialer else {
            return false;
        };
        let heading = format!("{to} > {from}");
        let link = self
            .servers
            .get_mut(from)
            .unwrap()
            .links
            .get_mut(to)
            .unwrap();
        let mut lines = Vec::new();
        let mut result = match end.reader.fill(&end.out.pipe) {
            Ok(filled) => end.protocol.note(filled, now),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => Err(error),
        };
        while let Ok(()) = result
            && let Some(line) = end.reader.take_line().unwrap()
        {
            lines.push(format!("{heading}: {}", String::from_utf8_lossy(line)));
            result = match end.protocol.take_line(line) {
                Ok(Some(vector)) => {
                    link.feed.take_vector(vector);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
        }
        lines.iter().for_each(|line| self.say(line));
        if let Err(error) = result {
            self.lose(index, &error);
        }
        true
    }

    /// Ends the dialer's end.
    fn lose(&mut self, index: usize, error: &io::Error) {
        let wall = self.clock.wall();
        let Dialed {
            from, to, dialer, ..
        } = &mut self.connections[index];
        dialer.take().unwrap().out.pipe.shut(Shutdown::Both);
        let text = format!("{from}: connection to {to} lost: {error}");
        let link = self
            .servers
            .get_mut(from)
            .unwrap()
            .links
            .get_mut(to)
            .unwrap();
        link.feed.disconnected();
        link.dialer.lost(error, wall);
        self.say(&text);
    }

    /// Ends the other end.
    fn gone(&mut self, index: usize, reason: &str) {
        let Dialed {
            from,
            to,
            number,
            acceptor,
            ..
        } = &mut self.connections[index];
        acceptor.take().unwrap().out.pipe.shut(Shutdown::Both);
        let text = format!("{to}: neighbor {from} gone: {reason}");
        self.servers.get_mut(to).unwrap().registry.remove(*number);
        self.say(&text);
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
