//! `HOST:PORT`, as `servers.txt` has it: the address that others dial.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum length of a host name in bytes, and of one of its labels (RFC 1035).
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// `HOST:PORT`; the host is resolved when a connection is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Host name or IP address; an IPv6 address without its brackets, and in its shortest form.
    pub host: String,
    /// Port, 1 to 65535; 0 for a free one, where this machine listens.
    pub port: u16,
}

impl Address {
    /// Returns the IP address that is written there; `None` for a name.
    pub fn ip(&self) -> Option<IpAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(ip.to_canonical())
    }

    /// Returns whether only this machine can connect to it: an address of the loopback block, or the
    /// name `localhost`. Another name may have any address.
    pub fn is_loopback(&self) -> bool {
        match self.ip() {
            Some(address) => address.is_loopback(),
            None => self.same_host().as_str() == "localhost",
        }
    }

    /// Returns whether it stands for all addresses of a machine: `0.0.0.0` or `[::]`.
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|address| address.is_unspecified())
    }

    /// Returns the host in the form in which equal hosts are equal: names do not distinguish case, and
    /// may end in a dot.
    pub(super) fn same_host(&self) -> String {
        let host = self.host.to_ascii_lowercase();
        host.strip_suffix('.').unwrap_or(&host).to_owned()
    }

    /// Parses `HOST:PORT` or `[IPV6]:PORT`.
    ///
    /// # Errors
    ///
    /// Returns all reasons why the text is not an address, in one sentence.
    pub(super) fn parse(text: &str) -> Result<Address, String> {
        Address::parse_with(text, 1)
    }

    /// Parses the address of a port of this machine's own: as [`parse`](Self::parse) does, or `PORT`
    /// alone for one of the loopback address. Port 0 stands for a free one.
    pub fn parse_local(text: &str) -> Result<Address, String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Address::parse_with(&format!("{}:{text}", Ipv4Addr::LOCALHOST), 0);
        }
        if !text.contains(':') {
            return Err(format!(
                "{text:?} is not an address: PORT or HOST:PORT is needed, with a port from 0 to 65535"
            ));
        }
        Address::parse_with(text, 0)
    }

    fn parse_with(text: &str, least_port: u16) -> Result<Address, String> {
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
        let host = if text.starts_with('[') {
            check_ipv6(host)
        } else {
            check_host(host)
        };
        let port = match port.parse::<u16>() {
            Ok(number)
                if number >= least_port && port.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                Ok(number)
            }
            _ => Err(format!(
                "the port must be a number from {least_port} to 65535"
            )),
        };
        match (host, port) {
            (Ok(host), Ok(port)) => Ok(Address { host, port }),
            (Err(reason), Ok(_)) | (Ok(_), Err(reason)) => Err(fault(&reason)),
            (Err(host), Err(port)) => Err(fault(&format!("{host}; {port}"))),
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

fn check_ipv6(host: &str) -> Result<String, String> {
    if host.contains('%') {
        return Err("an IPv6 address with a zone (%) is not supported".to_owned());
    }
    let address: Ipv6Addr = host
        .parse()
        .map_err(|_| "the brackets do not contain an IPv6 address".to_owned())?;
    if address.is_multicast() {
        return Err("no server can listen on a multicast address".to_owned());
    }
    Ok(address.to_string())
}

/// Checks a host name or an IPv4 address.
fn check_host(host: &str) -> Result<String, String> {
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if host == "*" {
        return Err(
            "* is no host; write the address that others dial here, and start the server with --bind 0.0.0.0"
                .to_owned(),
        );
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(other) = host.chars().find(|&c| !allowed(c)) {
        return Err(format!("a host name can't contain {other:?}"));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let mut last = "";
    for label in name.split('.') {
        if label.is_empty() {
            return Err("a part of the host name is empty".to_owned());
        }
        if label.len() > MAX_LABEL_BYTES || name.len() > MAX_HOST_BYTES {
            return Err(format!(
                "a host name has at most {MAX_HOST_BYTES} bytes, {MAX_LABEL_BYTES} between two dots"
            ));
        }
        last = label;
    }
    // Resolvers read such names as addresses too, in forms that few expect: 010.1 is 8.0.0.1.
    if is_number(last) {
        let address: Ipv4Addr = host.parse().map_err(|_| {
            "an IPv4 address is four numbers from 0 to 255 without leading zeros, and the name of a host does not end in a number"
                .to_owned()
        })?;
        if address.is_multicast() || address.is_broadcast() {
            return Err("no server can listen on a multicast or broadcast address".to_owned());
        }
    }
    Ok(host.to_owned())
}

/// Returns whether a resolver takes the last part of a host name for a number.
fn is_number(label: &str) -> bool {
    let hexadecimal = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}
