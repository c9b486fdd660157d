//! `servers.txt`: the servers of a herd, their addresses and their neighbors.
//!
//! One line for each server: `NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...`, separated by ASCII white
//! space; a line `forget-after AGE` sets the age at which records are forgotten; `#` starts a comment
//! that ends with the line. A file with a fault is refused as a whole, and all of its faults are
//! reported at once.
//!
//! `text` splits the file into fields, `address` reads addresses, `setting` reads settings, and this
//! file reads lines and compares them with each other. `advice` warns of what is allowed but hardly intended. This is the
//! only reader of the file: scripts ask `herd check --format tsv`.

mod address;
mod advice;
mod setting;
mod text;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Fault;
use crate::model::fields::MAX_NAME_BYTES;
use setting::Settings;
use text::{Field, Line, MAX_FILE_BYTES};

pub use address::Address;
pub use advice::{Warning, WarningKind};

/// Maximum number of faults that are displayed; a file that has more is hardly a `servers.txt`.
const MAX_SHOWN: usize = 100;

/// One server's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry {
    /// Name: letters, digits, `-`, `_` and `.`, since it names files and is sent in lines.
    pub name: String,
    /// Address for clients.
    pub client: Address,
    /// Address for neighbors.
    pub peer: Address,
    /// Names of its neighbors, in the order of the line.
    pub neighbors: Vec<String>,
    /// Line number in the file, from 1.
    pub line: usize,
}

/// Errors of reading `servers.txt`.
#[derive(Debug)]
pub enum TopologyError {
    /// The file cannot be read.
    Unreadable(PathBuf, std::io::Error),
    /// The file has faults, in the order of its lines.
    Faults(PathBuf, Vec<Fault>),
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopologyError::Unreadable(path, error) => {
                write!(f, "{}: cannot be read: {error}", path.display())
            }
            TopologyError::Faults(path, faults) => {
                for (index, fault) in faults.iter().take(MAX_SHOWN).enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{}{fault}", path.display())?;
                }
                if faults.len() > MAX_SHOWN {
                    let (path, rest) = (path.display(), faults.len() - MAX_SHOWN);
                    write!(f, "\n{path}: and {rest} more faults")?;
                }
                Ok(())
            }
        }
    }
}

// No `source`: the text contains the cause.
impl std::error::Error for TopologyError {}

/// All servers of a herd, checked: names unique, neighbors known and mutual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    servers: Vec<ServerEntry>,
    /// Age at which records are forgotten, and the number of its line.
    forget_after: Option<(Duration, usize)>,
}

impl Topology {
    /// Reads and checks a `servers.txt`.
    pub fn load(path: &Path) -> Result<Topology, TopologyError> {
        let text = read(path).map_err(|error| TopologyError::Unreadable(path.to_owned(), error))?;
        Topology::parse(&text).map_err(|faults| TopologyError::Faults(path.to_owned(), faults))
    }

    /// Parses and checks the text of a `servers.txt`.
    ///
    /// # Errors
    ///
    /// Returns all faults, in the order of their lines.
    pub fn parse(text: &[u8]) -> Result<Topology, Vec<Fault>> {
        let mut faults = Vec::new();
        let lines = text::read(text, &mut faults);
        let is_text = !lines.is_empty() || faults.is_empty();
        let mut settings = Settings::default();
        let drafts: Vec<Draft> = lines
            .iter()
            .filter_map(|line| {
                let is_setting = settings.take(line, &mut faults);
                (!is_setting).then(|| Draft::parse(line, &mut faults))
            })
            .collect();
        if drafts.is_empty() && is_text {
            faults.push(Fault::new(0, "names no server"));
        }
        check_consistency(&drafts, &mut faults);
        // Stable: within a line the faults are in the order in which they were found.
        faults.sort_by_key(|fault| fault.line);
        let servers: Option<Vec<_>> = drafts.into_iter().map(Draft::complete).collect();
        match servers {
            Some(servers) if faults.is_empty() => Ok(Topology {
                servers,
                forget_after: settings.forget_after(),
            }),
            _ => Err(faults),
        }
    }

    /// Returns the servers in the order of the file; at least one.
    pub fn servers(&self) -> &[ServerEntry] {
        &self.servers
    }

    /// Returns the server with that name, matched exactly.
    pub fn server(&self, name: &str) -> Option<&ServerEntry> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// Returns the age at which records are forgotten; `None` for never.
    pub fn forget_after(&self) -> Option<Duration> {
        self.forget_after.map(|(age, _)| age)
    }

    /// Returns whether all servers are on this machine, by their addresses, and so use one key file.
    pub fn is_on_one_machine(&self) -> bool {
        self.servers
            .iter()
            .all(|server| server.client.is_loopback() && server.peer.is_loopback())
    }
}

/// Reads a file that is not longer than a list of servers can be.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut text)?;
    if text.len() > MAX_FILE_BYTES {
        let reason = format!("it is longer than {MAX_FILE_BYTES} bytes, and so no list of servers");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}

/// A line, as far as it can be read. A line with a fault still counts as the neighbor that others
/// name, so that one fault does not make others of good lines.
struct Draft {
    name: String,
    client: Option<Address>,
    peer: Option<Address>,
    neighbors: Vec<String>,
    line: usize,
}

impl Draft {
    fn parse(line: &Line, faults: &mut Vec<Fault>) -> Draft {
        let mut fault = |message: String| faults.push(Fault::new(line.number, message));
        let name = &line.fields[0];
        if let Err(message) = check_name(name) {
            fault(message);
        }
        let name = name.text.clone();
        let mut address = |audience: &str, field: Option<&Field>| {
            let Some(field) = field else {
                fault(format!(
                    "{name} has no {audience} address; a line is NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR..."
                ));
                return None;
            };
            if field.is_reported {
                return None;
            }
            Address::parse(&field.text)
                .map_err(|message| fault(format!("{name}'s {audience} address {message}")))
                .ok()
        };
        let client = address("client", line.fields.get(1));
        // Without a client address, the peer address is not worth a second fault.
        let peer = match line.fields.len() {
            1 => None,
            _ => address("peer", line.fields.get(2)),
        };
        let mut neighbors: Vec<String> = Vec::new();
        for Field { text, .. } in line.fields.iter().skip(3) {
            if *text == name {
                fault(format!("{name} is named as its own neighbor"));
            } else if neighbors.contains(text) {
                fault(format!("{name} names the neighbor {text} twice"));
            } else {
                neighbors.push(text.clone());
            }
        }
        Draft {
            name,
            client,
            peer,
            neighbors,
            line: line.number,
        }
    }

    /// Returns whether its neighbors are what its author meant: without an address they may be
    /// shifted.
    fn has_neighbors(&self) -> bool {
        self.client.is_some() && self.peer.is_some()
    }

    fn complete(self) -> Option<ServerEntry> {
        Some(ServerEntry {
            name: self.name,
            client: self.client?,
            peer: self.peer?,
            neighbors: self.neighbors,
            line: self.line,
        })
    }
}

fn check_name(field: &Field) -> Result<(), String> {
    let name = field.text.as_str();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > MAX_NAME_BYTES {
        return Err(format!(
            "the name {name:?} is longer than {MAX_NAME_BYTES} bytes"
        ));
    }
    if field.is_reported {
        return Ok(());
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(allowed) {
        return Err(format!(
            "the name {name:?} is not made of letters, digits, '-', '_' and '.', beginning with a letter or a digit"
        ));
    }
    Ok(())
}

/// Finds the faults between lines: duplicate names and addresses, unknown and one-sided neighbors.
fn check_consistency(drafts: &[Draft], faults: &mut Vec<Fault>) {
    let mut names: HashMap<&str, &Draft> = HashMap::new();
    let mut addresses: HashMap<(String, u16), usize> = HashMap::new();
    for server in drafts {
        let mut fault = |message: String| faults.push(Fault::new(server.line, message));
        if let Some(first) = names.get(server.name.as_str()) {
            fault(format!(
                "the name {} is taken by line {}",
                server.name, first.line
            ));
        } else {
            names.insert(&server.name, server);
        }
        for address in [&server.client, &server.peer].into_iter().flatten() {
            let key = (address.same_host(), address.port);
            if let Some(&line) = addresses.get(&key) {
                fault(if line == server.line {
                    format!(
                        "{} has one address, {address}, for clients and peers",
                        server.name
                    )
                } else {
                    format!("the address {address} is taken by line {line}")
                });
            } else {
                addresses.insert(key, server.line);
            }
        }
    }
    for server in drafts {
        for neighbor in &server.neighbors {
            let message = match names.get(neighbor.as_str()) {
                None => {
                    let similar = drafts
                        .iter()
                        .find(|other| other.name.eq_ignore_ascii_case(neighbor));
                    let hint = similar.map_or(String::new(), |other| {
                        format!(" ({}, line {}, is another name)", other.name, other.line)
                    });
                    format!(
                        "{}'s neighbor {neighbor} is not a server of this file{hint}",
                        server.name
                    )
                }
                Some(other) if other.has_neighbors() && !other.neighbors.contains(&server.name) => {
                    format!(
                        "{} names {neighbor} as a neighbor, but {neighbor} (line {}) does not name {}",
                        server.name, other.line, server.name
                    )
                }
                Some(_) => continue,
            };
            faults.push(Fault::new(server.line, message));
        }
    }
}

#[cfg(test)]
mod tests;
