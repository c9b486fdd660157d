//! Warnings about a `servers.txt` that is valid and hardly intended: it is taken as it is.
//!
//! Nothing here looks a name up; `herd check` adds what only the resolver knows.

use std::fmt;
use std::time::Duration;

use super::{Address, ServerEntry, Topology};
use crate::model::age;

/// Age below which it is hardly intended that records are forgotten.
const EARLY: Duration = Duration::from_secs(3_600);

/// Maximum number of names that a warning lists.
const MAX_NAMES: usize = 8;

/// Something in a `servers.txt` that is allowed but hardly intended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Kind of the warning.
    pub kind: WarningKind,
    /// Line number, from 1; 0 for the file as a whole.
    pub line: usize,
    /// Description, for the user.
    pub message: String,
}

/// Kinds of warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// Some servers are not connected to others.
    Partition,
    /// Without one server, others can't reach each other.
    SinglePoint,
    /// An address that stands for all of a machine, which others can't dial.
    Wildcard,
    /// An address that other machines can't dial, in a herd that has others too.
    Loopback,
    /// A host that can't be resolved here.
    Unresolved,
    /// Two addresses that differ in writing only.
    SameAddress,
    /// The key file is missing or can't be used.
    Key,
    /// Records are forgotten very early.
    ForgetAfter,
}

impl WarningKind {
    /// Returns the word for it in the output of `herd check --format`.
    pub fn word(self) -> &'static str {
        match self {
            WarningKind::Partition => "partition",
            WarningKind::SinglePoint => "single-point",
            WarningKind::Wildcard => "wildcard",
            WarningKind::Loopback => "loopback",
            WarningKind::Unresolved => "unresolved",
            WarningKind::SameAddress => "same-address",
            WarningKind::Key => "key",
            WarningKind::ForgetAfter => "forget-after",
        }
    }
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Topology {
    /// Returns the warnings that the file gives by itself: first those of lines, in their order, then
    /// those of the whole.
    pub fn warnings(&self) -> Vec<Warning> {
        let lines = self.servers.iter().flat_map(|server| self.of_line(server));
        let mut lines: Vec<_> = lines.chain(self.of_forget_after()).collect();
        // Stable: those of one line are in the order in which they were found.
        lines.sort_by_key(|warning| warning.line);
        lines.into_iter().chain(self.of_graph()).collect()
    }

    /// Returns the warnings that matter to one server: those of the addresses that it and its
    /// neighbors have, which decide whether there can be links.
    pub fn warnings_for(&self, name: &str) -> Vec<Warning> {
        self.servers
            .iter()
            .filter(|server| server.name == name || server.neighbors.iter().any(|n| n == name))
            .flat_map(|server| self.of_line(server))
            .collect()
    }

    /// The warnings of one server's addresses.
    fn of_line(&self, server: &ServerEntry) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |kind, message| {
            warnings.push(Warning {
                kind,
                line: server.line,
                message,
            });
        };
        let name = &server.name;
        for (audience, others, address) in [
            ("client", "clients", &server.client),
            ("peer", "neighbors", &server.peer),
        ] {
            if address.is_wildcard() {
                let host = if address.host.contains(':') {
                    "::"
                } else {
                    "0.0.0.0"
                };
                warn(
                    WarningKind::Wildcard,
                    format!(
                        "{name}'s {audience} address {address} means all addresses of a machine, and {others} elsewhere can't dial it; \
                         write the one that they dial, and start {name} with --bind {host}"
                    ),
                );
            }
        }
        let is_remote = |peer: &Address| !peer.is_loopback() && !peer.is_wildcard();
        let remote: Vec<&str> = server
            .neighbors
            .iter()
            .filter_map(|neighbor| self.server(neighbor))
            .filter(|neighbor| is_remote(&neighbor.peer))
            .map(|neighbor| neighbor.name.as_str())
            .collect();
        if server.peer.is_loopback() && !remote.is_empty() {
            let (peer, remote) = (&server.peer, listed(&remote));
            warn(
                WarningKind::Loopback,
                format!(
                    "{name}'s peer address {peer} can be dialed on its own machine only, and its neighbors on others ({remote}) have addresses of a network"
                ),
            );
        }
        warnings
    }

    /// The warning of an age that hardly outlasts a restart.
    fn of_forget_after(&self) -> Option<Warning> {
        let (age, line) = self.forget_after?;
        (age < EARLY).then(|| Warning {
            kind: WarningKind::ForgetAfter,
            line,
            message: format!(
                "records are forgotten after {}: a device that is silent for so long is not known any more, \
                 and clocks of servers may differ by a minute",
                age::in_words(Some(age))
            ),
        })
    }

    /// The warnings of the links as a whole. One server has none.
    fn of_graph(&self) -> Vec<Warning> {
        let graph = Graph::new(&self.servers);
        let parts = graph.parts(None);
        let first = self.servers[0].name.as_str();
        if let [_, others @ ..] = parts.as_slice()
            && !others.is_empty()
        {
            let mut rest: Vec<usize> = others.concat();
            rest.sort_unstable();
            let rest: Vec<&str> = rest.iter().map(|&index| graph.names[index]).collect();
            let message = format!(
                "servers unreachable from {first}: {} (the topology is partitioned)",
                rest.join(", ")
            );
            return vec![Warning {
                kind: WarningKind::Partition,
                line: 0,
                message,
            }];
        }
        let cut = |(index, server): (usize, &ServerEntry)| {
            let parts = graph.parts(Some(index));
            (parts.len() > 1).then(|| Warning {
                kind: WarningKind::SinglePoint,
                line: server.line,
                message: graph.split_by(&server.name, &parts),
            })
        };
        self.servers.iter().enumerate().filter_map(cut).collect()
    }
}

/// Servers by their index, and which are neighbors. Herds are small, so that each question walks
/// through all of it.
struct Graph<'a> {
    names: Vec<&'a str>,
    neighbors: Vec<Vec<usize>>,
}

impl Graph<'_> {
    fn new(servers: &[ServerEntry]) -> Graph<'_> {
        let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
        let index: std::collections::HashMap<&str, usize> = names
            .iter()
            .enumerate()
            .map(|(i, &name)| (name, i))
            .collect();
        let of_server = |server: &ServerEntry| {
            let known = server.neighbors.iter();
            known
                .filter_map(|name| index.get(name.as_str()).copied())
                .collect()
        };
        let neighbors = servers.iter().map(of_server).collect();
        Graph { names, neighbors }
    }

    /// Returns the parts within which all servers reach each other while the server `down` does not
    /// run. Parts and their servers are in the order of the file.
    fn parts(&self, down: Option<usize>) -> Vec<Vec<usize>> {
        let mut seen = vec![false; self.names.len()];
        if let Some(down) = down {
            seen[down] = true;
        }
        let mut parts = Vec::new();
        for start in 0..self.names.len() {
            if std::mem::replace(&mut seen[start], true) {
                continue;
            }
            let (mut part, mut next) = (vec![start], 0);
            while let Some(&at) = part.get(next) {
                next += 1;
                for &neighbor in &self.neighbors[at] {
                    if !std::mem::replace(&mut seen[neighbor], true) {
                        part.push(neighbor);
                    }
                }
            }
            part.sort_unstable();
            parts.push(part);
        }
        parts
    }

    fn split_by(&self, down: &str, parts: &[Vec<usize>]) -> String {
        let names = |part: &Vec<usize>| -> Vec<&str> {
            part.iter().map(|&index| self.names[index]).collect()
        };
        let all_single = parts.iter().all(|part| part.len() == 1);
        let halves = if all_single {
            let all: Vec<&str> = parts.iter().flat_map(names).collect();
            format!("{} can't reach each other", listed(&all))
        } else if let [one, other] = parts {
            let (one, other) = (names(one), names(other));
            format!("{} can't reach {}", listed(&one), listed(&other))
        } else {
            let parts: Vec<String> = parts.iter().map(|part| listed(&names(part))).collect();
            format!(
                "there are {} parts that can't reach each other: {}",
                parts.len(),
                parts.join("; ")
            )
        };
        format!("if {down} is down, {halves} (a single point of failure)")
    }
}

/// Lists names, in words; only the first few of many.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [some @ .., last] if names.len() <= MAX_NAMES => {
            format!("{} and {last}", some.join(", "))
        }
        _ => {
            let rest = names.len() - MAX_NAMES;
            format!("{} and {rest} more", names[..MAX_NAMES].join(", "))
        }
    }
}
