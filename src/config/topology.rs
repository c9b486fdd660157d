//! `servers.txt`: the servers of a herd, their addresses and their neighbors.
//!
//! One line for each server: `NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...`, separated by white
//! space; `#` starts a comment that ends with the line. A file with a fault is refused as a whole,
//! and all of its faults are reported at once.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::Fault;
use crate::model::fields::MAX_NAME_BYTES;

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

/// `HOST:PORT`; the host is resolved when a connection is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Host name or IP address; an IPv6 address without its brackets.
    pub host: String,
    /// Port, 1 to 65535.
    pub port: u16,
}

impl Address {
    /// Returns whether only this machine can connect to it: an address of the loopback block, or the
    /// name `localhost`. Another name may have any address.
    fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }

    fn parse(text: &str) -> Result<Address, String> {
        let fault = |reason: &str| format!("{text:?} is not an address: {reason}");
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest
                .split_once("]:")
                .ok_or_else(|| fault("an IPv6 address is written [ADDRESS]:PORT"))?,
            None => text
                .rsplit_once(':')
                .ok_or_else(|| fault("HOST:PORT is needed"))?,
        };
        if text.starts_with('[') != host.contains(':') {
            return Err(fault(
                "only an IPv6 address goes in brackets, as [ADDRESS]:PORT",
            ));
        }
        if text.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(fault("the brackets do not contain an IPv6 address"));
        }
        if host.is_empty() {
            return Err(fault("the host is missing"));
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 && text.ends_with(|c: char| c.is_ascii_digit()) => Ok(Address {
                host: host.to_owned(),
                port,
            }),
            _ => Err(fault("the port must be a number from 1 to 65535")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
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
                for (index, fault) in faults.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{}{fault}", path.display())?;
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
}

impl Topology {
    /// Reads and checks a `servers.txt`.
    pub fn load(path: &Path) -> Result<Topology, TopologyError> {
        let text = std::fs::read(path)
            .map_err(|error| TopologyError::Unreadable(path.to_owned(), error))?;
        Topology::parse(&text).map_err(|faults| TopologyError::Faults(path.to_owned(), faults))
    }

    /// Parses and checks the text of a `servers.txt`.
    pub fn parse(text: &[u8]) -> Result<Topology, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut servers = Vec::new();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            match parse_line(line, index + 1) {
                Ok(server) => servers.extend(server),
                Err(message) => faults.push(Fault::new(index + 1, message)),
            }
        }
        // A line with a fault may be the neighbor that other lines name, so neighbors are checked
        // only if every line is valid by itself.
        if faults.is_empty() {
            check_consistency(&servers, &mut faults);
        }
        faults.sort_by_key(|fault| fault.line);
        if faults.is_empty() {
            Ok(Topology { servers })
        } else {
            Err(faults)
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

    /// Returns whether all servers are on this machine, by their addresses, and so use one key file.
    pub fn is_on_one_machine(&self) -> bool {
        self.servers
            .iter()
            .all(|server| server.client.is_loopback() && server.peer.is_loopback())
    }

    /// Returns the servers that no flood from the first server reaches. A partitioned topology is
    /// allowed, but hardly intended.
    pub fn unreachable(&self) -> Vec<&str> {
        let mut reached = vec![self.servers[0].name.as_str()];
        let mut next = 0;
        while let Some(server) = reached.get(next).and_then(|name| self.server(name)) {
            for neighbor in &server.neighbors {
                if !reached.contains(&neighbor.as_str()) {
                    reached.push(neighbor);
                }
            }
            next += 1;
        }
        self.servers
            .iter()
            .map(|server| server.name.as_str())
            .filter(|name| !reached.contains(name))
            .collect()
    }
}

fn parse_line(line: &[u8], number: usize) -> Result<Option<ServerEntry>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "is not UTF-8 text".to_owned())?;
    let content = line.split('#').next().unwrap_or_default();
    let mut fields = content.split_whitespace();
    let Some(name) = fields.next() else {
        return Ok(None);
    };
    check_name(name)?;
    let mut address = |audience: &str| match fields.next() {
        Some(text) => {
            Address::parse(text).map_err(|fault| format!("{name}'s {audience} address {fault}"))
        }
        None => Err(format!(
            "{name} has no {audience} address; a line is NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR..."
        )),
    };
    let client = address("client")?;
    let peer = address("peer")?;
    let mut neighbors: Vec<String> = Vec::new();
    for neighbor in fields {
        if neighbor == name {
            return Err(format!("{name} is named as its own neighbor"));
        }
        if neighbors.iter().any(|known| known == neighbor) {
            return Err(format!("{name} names the neighbor {neighbor} twice"));
        }
        neighbors.push(neighbor.to_owned());
    }
    Ok(Some(ServerEntry {
        name: name.to_owned(),
        client,
        peer,
        neighbors,
        line: number,
    }))
}

fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > MAX_NAME_BYTES {
        return Err(format!(
            "the name {name:?} is longer than {MAX_NAME_BYTES} bytes"
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(allowed) {
        return Err(format!(
            "the name {name:?} is not made of letters, digits, '-', '_' and '.', beginning with a letter or a digit"
        ));
    }
    Ok(())
}

/// Finds the faults between lines: duplicate names and addresses, unknown and one-sided neighbors.
fn check_consistency(servers: &[ServerEntry], faults: &mut Vec<Fault>) {
    if servers.is_empty() {
        faults.push(Fault::new(0, "names no server"));
    }
    let mut names: HashMap<&str, &ServerEntry> = HashMap::new();
    let mut addresses: HashMap<&Address, usize> = HashMap::new();
    for server in servers {
        let mut fault = |message: String| faults.push(Fault::new(server.line, message));
        if let Some(first) = names.get(server.name.as_str()) {
            fault(format!(
                "the name {} is taken by line {}",
                server.name, first.line
            ));
        } else {
            names.insert(&server.name, server);
        }
        for address in [&server.client, &server.peer] {
            if let Some(line) = addresses.insert(address, server.line) {
                fault(if line == server.line {
                    format!(
                        "{} has one address, {address}, for clients and peers",
                        server.name
                    )
                } else {
                    format!("the address {address} is taken by line {line}")
                });
            }
        }
    }
    for server in servers {
        for neighbor in &server.neighbors {
            let message = match names.get(neighbor.as_str()) {
                None => format!(
                    "{}'s neighbor {neighbor} is not a server of this file",
                    server.name
                ),
                Some(other) if !other.neighbors.contains(&server.name) => format!(
                    "{} names {neighbor} as a neighbor, but {neighbor} (line {}) does not name {}",
                    server.name, other.line, server.name
                ),
                Some(_) => continue,
            };
            faults.push(Fault::new(server.line, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let got = match Topology::parse(text.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(faults) => faults
                .iter()
                .map(|fault| format!("{}: {}", fault.line, fault.message))
                .collect(),
        };
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn reads_servers_comments_and_every_kind_of_address() {
        let text =
            "# herd\n\nA host.example:1 [::1]:2 B # first\r\n\tB 127.0.0.1:3   127.0.0.1:4 A";
        let topology = Topology::parse(text.as_bytes()).expect("a good file");
        let a = topology.server("A").expect("A");
        assert_eq!(a.client.to_string(), "host.example:1");
        assert_eq!(a.peer.to_string(), "[::1]:2");
        assert_eq!(a.neighbors, ["B"]);
        assert_eq!(topology.server("B").map(|b| b.line), Some(4));
        assert!(topology.server("a").is_none());
        assert!(topology.unreachable().is_empty());
        check("Alone h:1 h:2", &[]);
    }

    #[test]
    fn unreachable_servers_are_found() {
        let text = "A h:1 h:2 B\nB h:3 h:4 A\nC h:5 h:6 D\nD h:7 h:8 C\n";
        let topology = Topology::parse(text.as_bytes()).expect("a good file");
        assert_eq!(topology.unreachable(), ["C", "D"]);
    }

    #[test]
    fn a_herd_on_one_machine_has_loopback_addresses_only() {
        let is_on_one_machine = |text: &str| {
            let topology = Topology::parse(text.as_bytes()).expect("a good file");
            topology.is_on_one_machine()
        };
        assert!(is_on_one_machine(
            "A 127.0.0.1:1 127.9.9.9:1\nB [::1]:1 LocalHost:1"
        ));
        for other in [
            "10.0.0.1",
            "0.0.0.0",
            "host.example",
            "[::]",
            "[2001:db8::1]",
        ] {
            assert!(
                !is_on_one_machine(&format!("A 127.0.0.1:1 {other}:2")),
                "{other}"
            );
            assert!(
                !is_on_one_machine(&format!("A {other}:1 127.0.0.1:2")),
                "{other}"
            );
        }
    }

    #[test]
    fn every_fault_has_its_line_and_reason() {
        check("# empty\n", &["0: names no server"]);
        check(
            "A h:1\nB\nC h h:1\nD h:0 h:2\nE h:3 h:65536\nF :1 h:1\nG ::1:5 h:1\nH [x]:1 h:1\nI [::1] h:1",
            &[
                "1: A has no peer address; a line is NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...",
                "2: B has no client address; a line is NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...",
                "3: C's client address \"h\" is not an address: HOST:PORT is needed",
                "4: D's client address \"h:0\" is not an address: the port must be a number from 1 to 65535",
                "5: E's peer address \"h:65536\" is not an address: the port must be a number from 1 to 65535",
                "6: F's client address \":1\" is not an address: the host is missing",
                "7: G's client address \"::1:5\" is not an address: only an IPv6 address goes in brackets, as [ADDRESS]:PORT",
                "8: H's client address \"[x]:1\" is not an address: only an IPv6 address goes in brackets, as [ADDRESS]:PORT",
                "9: I's client address \"[::1]\" is not an address: an IPv6 address is written [ADDRESS]:PORT",
            ],
        );
        check(
            "A h:1 h:2 A\nB h:3 h:4 A A\n../C h:5 h:6\n",
            &[
                "1: A is named as its own neighbor",
                "2: B names the neighbor A twice",
                "3: the name \"../C\" is not made of letters, digits, '-', '_' and '.', beginning with a letter or a digit",
            ],
        );
        check(
            "A h:1 h:2 B C X\nB h:3 h:1\nC h:5 h:5 A\nA h:6 h:7\n",
            &[
                "1: A names B as a neighbor, but B (line 2) does not name A",
                "1: A's neighbor X is not a server of this file",
                "2: the address h:1 is taken by line 1",
                "3: C has one address, h:5, for clients and peers",
                "4: the name A is taken by line 1",
            ],
        );
        let faults = Topology::parse(b"A h:1 h:2\n\xff h:3 h:4\n").expect_err("not UTF-8");
        assert_eq!(
            faults,
            [Fault {
                line: 2,
                message: "is not UTF-8 text".to_owned()
            }]
        );
    }
}
