//! The head of a request: what is taken from it, and what is refused. Pure; fuzzed.
//!
//! `httparse` cuts it into fields by RFC 9112. A request has no body here: a `Transfer-Encoding` or a
//! `Content-Length` other than zero is refused and the connection closed, so that no two programs can
//! differ on where a request ends. `Host` must be a name of this server, which keeps a page of
//! another site, whose name was made to point here, from reading the answers (DNS rebinding).

use std::net::{Ipv4Addr, Ipv6Addr};

/// Maximum length of a head in bytes.
pub const MAX_HEAD_BYTES: usize = 8 << 10;

/// Maximum number of header fields.
const MAX_FIELDS: usize = 64;

/// A request method that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The answer with its body.
    Get,
    /// The answer without its body.
    Head,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, not decoded: it begins with `/`.
    pub path: String,
    /// The part behind `?`, not decoded.
    pub query: Option<String>,
    /// Whether the client takes a body that is compressed by gzip.
    pub takes_gzip: bool,
    /// The value of `If-None-Match`.
    pub if_none_match: Option<String>,
}

/// Reason for which a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not HTTP/1.0 or HTTP/1.1 as their grammar has it.
    Malformed(&'static str),
    /// It has a body, or a field that announces one.
    Body,
    /// The method is neither GET nor HEAD.
    Method,
    /// The head is too long, or has too many fields.
    TooLarge,
    /// The version is not one of HTTP/1.
    Version,
    /// The host is not this server.
    Misdirected,
    /// The head was not complete in time.
    Late,
}

impl Refusal {
    /// Returns the status code.
    pub fn status(self) -> u16 {
        match self {
            Refusal::Malformed(_) | Refusal::Body => 400,
            Refusal::Method => 405,
            Refusal::Late => 408,
            Refusal::Misdirected => 421,
            Refusal::TooLarge => 431,
            Refusal::Version => 505,
        }
    }

    /// Returns the reason in words.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Malformed(reason) => reason,
            Refusal::Body => "a request has no body here",
            Refusal::Method => "only GET and HEAD are served",
            Refusal::Late => "the head of the request was not complete within 5 s",
            Refusal::Misdirected => {
                "the Host is not a name of this server (see --http-host); use its IP address or localhost"
            }
            Refusal::TooLarge => {
                "the head of the request is longer than 8 KiB, or has over 64 fields"
            }
            Refusal::Version => "only HTTP/1.0 and HTTP/1.1 are served",
        }
    }
}

/// Outcome of reading the bytes that have come so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head is not complete.
    Partial,
    /// The head is complete; what comes behind it is ignored.
    Request(Request),
    /// The request is refused.
    Refused(Refusal),
}

/// Names by which the port may be addressed, besides IP addresses and `localhost`.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Returns the set of these names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Hosts {
        Hosts(names.into_iter().map(|name| same(&name)).collect())
    }

    /// Returns whether a `Host`, with or without a port, is this server.
    fn contains(&self, host: &str) -> bool {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((ip, port)) if ip.parse::<Ipv6Addr>().is_ok() => ("localhost", port),
                _ => return false,
            },
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        let is_port = match port.strip_prefix(':') {
            Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
            None => port.is_empty(),
        };
        let name = same(name);
        is_port
            && (name == "localhost" || name.parse::<Ipv4Addr>().is_ok() || self.0.contains(&name))
    }
}

/// Returns the form in which equal names are equal.
fn same(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_suffix('.').unwrap_or(&name).to_owned()
}

/// Reads the head of a request from the bytes that have come so far.
pub fn parse(bytes: &[u8], hosts: &Hosts) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let end = match head.parse(&bytes[..bytes.len().min(MAX_HEAD_BYTES)]) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => {
            return Parsed::Refused(Refusal::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(error) => return Parsed::Refused(fault(error)),
    };
    debug_assert!(end <= MAX_HEAD_BYTES);
    match request(&head, hosts) {
        Ok(request) => Parsed::Request(request),
        Err(refusal) => Parsed::Refused(refusal),
    }
}

fn fault(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::TooLarge,
        httparse::Error::Version => Refusal::Version,
        httparse::Error::HeaderName => Refusal::Malformed("a header field's name is malformed"),
        httparse::Error::HeaderValue => Refusal::Malformed("a header field's value is malformed"),
        _ => Refusal::Malformed("it is not an HTTP request"),
    }
}

fn request(head: &httparse::Request<'_, '_>, hosts: &Hosts) -> Result<Request, Refusal> {
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
        return Err(Refusal::Malformed("it is not an HTTP request"));
    };
    let mut host = None;
    let (mut takes_gzip, mut if_none_match) = (false, None);
    for field in head.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("Transfer-Encoding") || is("Content-Length") && !is_zero(field.value) {
            return Err(Refusal::Body);
        } else if is("Host") {
            let value = std::str::from_utf8(field.value);
            let value = value.map_err(|_| Refusal::Malformed("the Host is malformed"))?;
            if host.replace(value.trim_matches([' ', '\t'])).is_some() {
                return Err(Refusal::Malformed("there is more than one Host"));
            }
        } else if is("Accept-Encoding") {
            takes_gzip |= accepts_gzip(field.value);
        } else if is("If-None-Match") {
            if_none_match = String::from_utf8(field.value.to_vec()).ok();
        }
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => return Err(Refusal::Method),
    };
    if host.is_none() && version == 1 {
        return Err(Refusal::Malformed("the Host is missing"));
    }
    let (authority, target) = split_target(target)?;
    // The host in an absolute target overrides the field, which must be well-formed all the same. A
    // health check of HTTP/1.0 has none; browsers always send one.
    for host in host.iter().chain(&authority) {
        if !hosts.contains(host) {
            return Err(Refusal::Misdirected);
        }
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    Ok(Request {
        method,
        path: path.to_owned(),
        query,
        takes_gzip,
        if_none_match,
    })
}

/// Splits `http://HOST/PATH` and `/PATH` into host and path.
fn split_target(target: &str) -> Result<(Option<&str>, &str), Refusal> {
    if target.starts_with('/') {
        return Ok((None, target));
    }
    let scheme = "http://";
    let rest = target
        .get(..scheme.len())
        .filter(|start| start.eq_ignore_ascii_case(scheme))
        .map(|_| &target[scheme.len()..]);
    let Some(rest) = rest else {
        return Err(Refusal::Malformed("the target is not a path"));
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match path {
        "" => Ok((Some(authority), "/")),
        path if path.starts_with('?') => Err(Refusal::Malformed("the target has no path")),
        path => Ok((Some(authority), path)),
    }
}

fn is_zero(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|&byte| byte == b'0')
}

/// Returns whether an `Accept-Encoding` names gzip with a weight other than 0.
fn accepts_gzip(value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else {
        return false;
    };
    value.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let is_refused = |weight: &str| {
            let weight = weight.strip_prefix("q=").unwrap_or_default();
            weight.parse() == Ok(0.0)
        };
        is_gzip && !parts.any(is_refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts::new(["Herd.Example".to_owned()])
    }

    fn read(text: &str) -> Parsed {
        parse(text.as_bytes(), &hosts())
    }

    #[track_caller]
    fn refused(text: &str) -> u16 {
        match read(text) {
            Parsed::Refused(refusal) => refusal.status(),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn request_of(text: &str) -> Request {
        match read(text) {
            Parsed::Request(request) => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn with(fields: &str) -> String {
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
    }

    #[test]
    fn a_request_is_read_once_its_head_is_complete() {
        let text = "HEAD /readyz?verbose HTTP/1.1\r\nHost: 127.0.0.1:14000\r\nAccept-Encoding: br, gzip;q=0.5\r\nIf-None-Match: \"x\"\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(read(&text[..end]), Parsed::Partial, "{end}");
        }
        let expected = Request {
            method: Method::Head,
            path: "/readyz".to_owned(),
            query: Some("verbose".to_owned()),
            takes_gzip: true,
            if_none_match: Some("\"x\"".to_owned()),
        };
        assert_eq!(read(text), Parsed::Request(expected.clone()));
        // A second request behind it is not looked at: the connection closes.
        let two = format!("{text}GET / HTTP/1.1\r\n\r\n");
        assert_eq!(read(&two), Parsed::Request(expected));
    }

    #[test]
    fn hosts_other_than_this_server_are_misdirected() {
        for host in [
            "localhost",
            "LOCALHOST.:80",
            "127.0.0.1",
            "10.1.2.3:14000",
            "[::1]",
            "[2001:db8::1]:80",
            "herd.example",
            "HERD.example.:1",
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert!(matches!(read(&text), Parsed::Request(_)), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "herd.example.evil",
            "127.0.0.1.evil",
            "[::1",
            "[evil]",
            "[::1]x",
            "localhost:80x",
            "localhost:80:80",
            "user@localhost",
            "999.0.0.1",
            "::1",
            "\u{a0}localhost",
            "localhost\u{2003}",
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(refused(&text), 421, "{host}");
        }
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"),
            400
        );
        // Health checks of balancers send this, and browsers never do.
        assert_eq!(request_of("GET /livez HTTP/1.0\r\n\r\n").path, "/livez");
    }

    #[test]
    fn an_absolute_target_counts_as_its_host() {
        let absolute =
            |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let request = request_of(&absolute("HTTP://localhost:1/a?b", "localhost"));
        assert_eq!(
            (&*request.path, request.query.as_deref()),
            ("/a", Some("b"))
        );
        assert_eq!(
            request_of(&absolute("http://127.0.0.1", "localhost")).path,
            "/"
        );
        assert_eq!(refused(&absolute("http://evil/", "localhost")), 421);
        assert_eq!(refused(&absolute("http://localhost/", "evil")), 421);
        for target in [
            "*",
            "localhost:1",
            "https://localhost/",
            "http://localhost?x",
            "a",
        ] {
            assert_eq!(refused(&absolute(target, "localhost")), 400, "{target}");
        }
    }

    #[test]
    fn bodies_and_what_could_hide_a_second_request_are_refused() {
        for fields in [
            "Content-Length: 5\r\n",
            "Content-Length: 0\r\nContent-Length: 5\r\n",
            "Content-Length: -0\r\n",
            "Content-Length: 0, 0\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
            "Content-Length: 0\r\nTransfer-Encoding: x\r\n",
            "Content-Length : 5\r\n",
            " X: folded\r\n",
            "X\r\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            ": x\r\n",
            "Transfer-Encoding\t: chunked\r\n",
            "X:\r\n\tTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(refused(&with(fields)), 400, "{fields:?}");
        }
        assert_eq!(
            request_of(&with("Content-Length: 0\r\n")).method,
            Method::Get
        );
        for method in [
            "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get",
        ] {
            let text = with("").replace("GET", method);
            assert_eq!(refused(&text), 405, "{method}");
            assert_eq!(
                refused(&text.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx")),
                400
            );
        }
        for other in ["\x16\x03\x01\x02\0", "\0", "GET\r\n", "GET /\r\n\r\n"] {
            assert_eq!(refused(other), 400, "{other:?}");
        }
        assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
        assert_eq!(refused("GET / HTTP/3.0\r\n"), 505);
    }

    #[test]
    fn a_head_has_its_limits() {
        let long = with(&format!("X: {}\r\n", "x".repeat(MAX_HEAD_BYTES)));
        assert_eq!(refused(&long), 431);
        assert_eq!(read(&long[..MAX_HEAD_BYTES - 1]), Parsed::Partial);
        assert_eq!(refused(&long[..MAX_HEAD_BYTES]), 431);
        let fill = MAX_HEAD_BYTES - with("X: \r\n").len();
        let longest = with(&format!("X: {}\r\n", "x".repeat(fill)));
        assert_eq!(longest.len(), MAX_HEAD_BYTES);
        assert_eq!(request_of(&longest).path, "/livez");
        let fields = |count: usize| "X: y\r\n".repeat(count - 1);
        assert_eq!(request_of(&with(&fields(MAX_FIELDS))).path, "/livez");
        assert_eq!(refused(&with(&fields(MAX_FIELDS + 1))), 431);
    }

    #[test]
    fn gzip_is_sent_to_those_that_take_it() {
        for (value, takes) in [
            ("gzip", true),
            ("GZIP;q=1", true),
            ("br;q=1, gzip", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("identity", false),
            ("xgzip", false),
            ("", false),
        ] {
            let text = with(&format!("Accept-Encoding: {value}\r\n"));
            assert_eq!(request_of(&text).takes_gzip, takes, "{value}");
        }
    }
}
