//! `herd check`: what `servers.txt` says, and what will go wrong with it.
//!
//! Faults of the file are errors; what it may say but hardly intends are warnings, most of which the
//! topology gives by itself. Here those are added that only the machine can tell: names that can't be
//! looked up, addresses that turn out to be the same, and the state of the key file.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argh::{FromArgValue, FromArgs};
use crossbeam_channel::{bounded, unbounded};
use herd::config::keys::{KeyError, KeyErrorKind, KeyFile};
use herd::config::topology::{Address, ServerEntry, Topology, Warning, WarningKind};
use herd::model::age;
use serde::Serialize;

/// Maximum time for all host names to be looked up; those without an answer by then are warned of.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// Threads that look names up.
const LOOKUP_THREADS: usize = 32;

/// Check servers.txt: print its servers, all of its faults, and warnings of what is allowed but hardly intended.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "check",
    help_triggers("-h", "--help"),
    note = "Faults are printed to standard error, all at once, each with its line; no server starts with such a file.
Warnings are about servers that are not connected to all others, servers without which others are cut
off, addresses that others can't dial (0.0.0.0, or loopback beside a network), host names that can't be
resolved here within 3 s, two addresses that are one, records that are forgotten in under an hour, and a
key file that is missing or can't be used.

Formats: text, for people; tsv, for scripts, fields separated by tabs:
  server        NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBORS   (neighbors separated by spaces)
  forget-after  SECONDS                                      (if it is set)
  warning       KIND LINE TEXT                               (line 0: the file as a whole)
json has the same in one object, {{\"servers\":[...],\"forget_after_s\":...,\"warnings\":[...]}}. KIND is
partition, single-point, wildcard, loopback, unresolved, same-address, key or forget-after.

Exit codes: 0 no faults, with or without warnings; 2 bad usage, or a file with faults."
)]
pub(crate) struct CheckArguments {
    /// file to check (default: servers.txt)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"servers.txt\")")]
    servers: PathBuf,

    /// key file to look at (default: herd.key beside the servers file)
    #[argh(option, arg_name = "FILE")]
    key_file: Option<PathBuf>,

    /// form of the output: text (the default), tsv or json
    #[argh(option, arg_name = "text|tsv|json", default = "Format::Text")]
    format: Format,

    /// do not resolve host names
    #[argh(switch)]
    no_lookup: bool,
}

/// Forms of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromArgValue)]
enum Format {
    Text,
    Tsv,
    Json,
}

/// The output as JSON.
#[derive(Serialize)]
struct Report<'a> {
    servers: Vec<ReportedServer<'a>>,
    /// `None` for never.
    forget_after_s: Option<u64>,
    warnings: Vec<ReportedWarning<'a>>,
}

#[derive(Serialize)]
struct ReportedServer<'a> {
    name: &'a str,
    clients: String,
    peers: String,
    neighbors: &'a [String],
    line: usize,
}

#[derive(Serialize)]
struct ReportedWarning<'a> {
    kind: &'static str,
    line: usize,
    text: &'a str,
}

impl CheckArguments {
    /// Checks the file and returns the output.
    pub(crate) fn report(&self) -> Result<String, Box<dyn Error>> {
        let topology = Topology::load(&self.servers)?;
        let mut warnings = topology.warnings();
        if !self.no_lookup {
            warnings.extend(lookup_warnings(&topology));
        }
        let key = super::key_file(self.key_file.as_deref(), &self.servers);
        warnings.extend(key_warning(&key, topology.is_on_one_machine()));
        Ok(match self.format {
            Format::Text => text(&self.servers, &topology, &warnings),
            Format::Tsv => tsv(&topology, &warnings),
            Format::Json => json(&topology, &warnings)?,
        })
    }
}

fn text(file: &Path, topology: &Topology, warnings: &[Warning]) -> String {
    let (file, mut text) = (file.display(), String::new());
    let servers = topology.servers();
    for server in servers {
        let neighbors = match server.neighbors.len() {
            0 => "no neighbors".to_owned(),
            _ => format!("neighbors {}", server.neighbors.join(", ")),
        };
        let (name, client, peer) = (&server.name, &server.client, &server.peer);
        let _ = writeln!(text, "{name}: clients {client}, peers {peer}, {neighbors}");
    }
    if let Some(age) = topology.forget_after() {
        let _ = writeln!(
            text,
            "records are forgotten after {}",
            age::in_words(Some(age))
        );
    }
    for Warning { line, message, .. } in warnings {
        let _ = match line {
            0 => writeln!(text, "warning: {message}"),
            _ => writeln!(text, "warning: {file}:{line}: {message}"),
        };
    }
    let _ = write!(text, "{file}: good, servers: {}", servers.len());
    if !warnings.is_empty() {
        let _ = write!(text, ", warnings: {}", warnings.len());
    }
    text + "\n"
}

fn tsv(topology: &Topology, warnings: &[Warning]) -> String {
    let mut text = String::new();
    for server in topology.servers() {
        let (name, client, peer) = (&server.name, &server.client, &server.peer);
        let neighbors = server.neighbors.join(" ");
        let _ = writeln!(text, "server\t{name}\t{client}\t{peer}\t{neighbors}");
    }
    if let Some(age) = topology.forget_after() {
        let _ = writeln!(text, "forget-after\t{}", age.as_secs());
    }
    for warning in warnings {
        // A path may contain anything.
        let message = warning.message.replace(['\t', '\n'], " ");
        let _ = writeln!(
            text,
            "warning\t{}\t{}\t{message}",
            warning.kind, warning.line
        );
    }
    text
}

fn json(topology: &Topology, warnings: &[Warning]) -> serde_json::Result<String> {
    let servers = topology.servers().iter().map(|server| ReportedServer {
        name: &server.name,
        clients: server.client.to_string(),
        peers: server.peer.to_string(),
        neighbors: &server.neighbors,
        line: server.line,
    });
    let warnings = warnings.iter().map(|warning| ReportedWarning {
        kind: warning.kind.word(),
        line: warning.line,
        text: &warning.message,
    });
    let report = Report {
        servers: servers.collect(),
        forget_after_s: topology.forget_after().map(|age| age.as_secs()),
        warnings: warnings.collect(),
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

// --- The key file --------------------------------------------------------------------------------

/// Warns of a key file with which servers will not start, or which they will create.
fn key_warning(path: &Path, is_on_one_machine: bool) -> Option<Warning> {
    let message = match KeyFile::load(path).err()? {
        KeyError {
            path,
            kind: KeyErrorKind::Missing,
        } if is_on_one_machine => format!(
            "{}: there is no key file yet; the first server that starts creates one, for a new herd",
            super::absolute(&path).display()
        ),
        KeyError {
            path,
            kind: KeyErrorKind::Missing,
        } => {
            format!("no server will start: {}", super::missing_key(&path))
        }
        error => format!("no server will start: {error}"),
    };
    Some(Warning {
        kind: WarningKind::Key,
        line: 0,
        message,
    })
}

// --- Names ---------------------------------------------------------------------------------------

/// The addresses of a host, or why there are none.
type Found = Result<Vec<IpAddr>, String>;

/// An address of the file, with what it is in words.
fn addresses(server: &ServerEntry) -> [(String, &Address); 2] {
    [("client", &server.client), ("peer", &server.peer)]
        .map(|(audience, address)| (format!("{}'s {audience} address", server.name), address))
}

/// Looks all host names up, and warns of what is wrong with their addresses.
fn lookup_warnings(topology: &Topology) -> Vec<Warning> {
    let is_name = |address: &&Address| address.ip().is_none();
    let hosts: BTreeSet<String> = topology
        .servers()
        .iter()
        .flat_map(|server| [&server.client, &server.peer])
        .filter(is_name)
        .map(|address| address.host.clone())
        .collect();
    judge(topology, &look_up(hosts))
}

/// Looks names up, all at once. A name without an answer in time is left out: a look-up can't be
/// interrupted, so its thread is left behind, and ends with the process.
fn look_up(hosts: BTreeSet<String>) -> BTreeMap<String, Found> {
    let deadline = Instant::now() + LOOKUP_LIMIT;
    let (queue, queued) = unbounded::<String>();
    let (done, answers) = bounded(hosts.len());
    let threads = hosts.len().min(LOOKUP_THREADS);
    for host in hosts {
        let _ = queue.send(host);
    }
    drop(queue);
    for _ in 0..threads {
        let (queued, done) = (queued.clone(), done.clone());
        let work = move || {
            for host in queued {
                let found = match (host.as_str(), 0).to_socket_addrs() {
                    Ok(found) => Ok(found.map(|address| address.ip()).collect()),
                    Err(error) => Err(error.to_string()),
                };
                let _ = done.send((host, found));
            }
        };
        // Without a thread, its names count as not answered.
        let _ = herd::thread::spawn_helper("check-lookup", work);
    }
    drop(done);
    let next = || answers.recv_deadline(deadline).ok();
    std::iter::from_fn(next).collect()
}

/// Judges the addresses that names have here.
fn judge(topology: &Topology, found: &BTreeMap<String, Found>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |kind, line, message| {
        warnings.push(Warning {
            kind,
            line,
            message,
        });
    };
    let mut first: BTreeMap<(IpAddr, u16), (String, &Address)> = BTreeMap::new();
    let has_network = topology.servers().iter().any(|server| {
        let ip = server.peer.ip();
        ip.is_none_or(|ip| !ip.is_loopback() && !ip.is_unspecified()) && !server.peer.is_loopback()
    });
    for server in topology.servers() {
        for (what, address) in addresses(server) {
            let found = match address.ip() {
                Some(ip) => vec![ip],
                None => match found.get(&address.host) {
                    Some(Ok(found)) => found.iter().map(IpAddr::to_canonical).collect(),
                    Some(Err(error)) => {
                        let message =
                            format!("{what}: {} can't be resolved here: {error}", address.host);
                        warn(WarningKind::Unresolved, server.line, message);
                        continue;
                    }
                    None => {
                        let seconds = LOOKUP_LIMIT.as_secs();
                        let message = format!(
                            "{what}: {} can't be resolved here: no answer within {seconds} s",
                            address.host
                        );
                        warn(WarningKind::Unresolved, server.line, message);
                        continue;
                    }
                },
            };
            let is_name = address.ip().is_none() && !address.is_loopback();
            if is_name && has_network && found.iter().all(IpAddr::is_loopback) {
                let ips: Vec<String> = found.iter().map(IpAddr::to_string).collect();
                let message = format!(
                    "{what}: {} is {} here, which other machines can't dial (see /etc/hosts)",
                    address.host,
                    ips.join(" and ")
                );
                warn(WarningKind::Loopback, server.line, message);
            }
            for ip in found {
                let Some((other, written)) =
                    first.insert((ip, address.port), (what.clone(), address))
                else {
                    continue;
                };
                // Where they are the same in writing too, the file has a fault.
                if written != address {
                    let message = format!(
                        "{what} {address} and {other} {written} are the same here, {ip}: only one of them can have the port"
                    );
                    warn(WarningKind::SameAddress, server.line, message);
                    break;
                }
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn judges(text: &str, found: &[(&str, Found)], expected: &[&str]) {
        let topology = Topology::parse(text.as_bytes()).expect("a good file");
        let found = found
            .iter()
            .map(|(host, found)| ((*host).to_owned(), found.clone()))
            .collect();
        let got: Vec<_> = judge(&topology, &found)
            .iter()
            .map(|w| format!("{}: {}: {}", w.line, w.kind, w.message))
            .collect();
        assert_eq!(got, expected);
    }

    fn ips(text: &str) -> Found {
        Ok(text
            .split(' ')
            .map(|ip| ip.parse().expect("an IP"))
            .collect())
    }

    #[test]
    fn names_are_judged_by_the_addresses_that_they_have_here() {
        judges(
            "A good:1 10.0.0.1:2 B\nB gone:1 slow:2 A\n",
            &[
                ("good", ips("10.0.0.7 2001:db8::1")),
                ("gone", Err("no such name".to_owned())),
            ],
            &[
                "2: unresolved: B's client address: gone can't be resolved here: no such name",
                "2: unresolved: B's peer address: slow can't be resolved here: no answer within 3 s",
            ],
        );
        judges(
            "A one:1 10.0.0.1:2 B\nB two:1 own:2 A\n",
            &[
                ("one", ips("10.0.0.1 10.0.0.2")),
                ("two", ips("10.0.0.3 10.0.0.2")),
                ("own", ips("127.0.1.1")),
            ],
            &[
                "2: same-address: B's client address two:1 and A's client address one:1 are the same here, 10.0.0.2: only one of them can have the port",
                "2: loopback: B's peer address: own is 127.0.1.1 here, which other machines can't dial (see /etc/hosts)",
            ],
        );
        judges(
            "A localhost:1 127.0.0.1:2 B\nB 127.0.0.1:1 127.0.0.1:4 A\n",
            &[("localhost", ips("::1 127.0.0.1"))],
            &[
                "2: same-address: B's client address 127.0.0.1:1 and A's client address localhost:1 are the same here, 127.0.0.1: only one of them can have the port",
            ],
        );
    }

    #[test]
    fn every_format_has_the_servers_and_the_warnings() {
        let topology =
            Topology::parse(b"A h:1 [::1]:2 B\nB h:3 h:4 A\nC h:5 h:6\nforget-after 30d\n")
                .expect("a good file");
        let warnings = topology.warnings();
        assert_eq!(
            text(Path::new("s.txt"), &topology, &warnings),
            "A: clients h:1, peers [::1]:2, neighbors B\n\
             B: clients h:3, peers h:4, neighbors A\n\
             C: clients h:5, peers h:6, no neighbors\n\
             records are forgotten after 30 days\n\
             warning: s.txt:1: A's peer address [::1]:2 can be dialed on its own machine only, and its neighbors on others (B) have addresses of a network\n\
             warning: servers unreachable from A: C (the topology is partitioned)\n\
             s.txt: good, servers: 3, warnings: 2\n"
        );
        assert_eq!(
            tsv(&topology, &warnings),
            "server\tA\th:1\t[::1]:2\tB\n\
             server\tB\th:3\th:4\tA\n\
             server\tC\th:5\th:6\t\n\
             forget-after\t2592000\n\
             warning\tloopback\t1\tA's peer address [::1]:2 can be dialed on its own machine only, and its neighbors on others (B) have addresses of a network\n\
             warning\tpartition\t0\tservers unreachable from A: C (the topology is partitioned)\n"
        );
        let json = json(&topology, &warnings).expect("JSON");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["servers"][0]["peers"], "[::1]:2");
        assert_eq!(json["servers"][1]["neighbors"][0], "A");
        assert_eq!(json["forget_after_s"], 2_592_000);
        assert_eq!(json["warnings"][1]["kind"], "partition");
    }
}
