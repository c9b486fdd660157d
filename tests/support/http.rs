//! Requests to the HTTP port of a server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns the body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Returns the body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let is = |line: &&str| {
            let field = line.split(':').next().unwrap_or_default();
            field.eq_ignore_ascii_case(name)
        };
        let line = self.head.lines().find(is)?;
        Some(line[name.len() + 1..].trim())
    }
}

/// Returns the address of the HTTP port in the line by which a server says that it is ready.
#[track_caller]
pub fn address(ready: &str) -> SocketAddr {
    let (_, rest) = ready.split_once(", http ").unwrap();
    let end = rest.find([',', ';', '\n']).unwrap();
    rest[..end].parse().unwrap()
}

/// Asks for a path; `None` if nobody answers.
pub fn try_get(address: SocketAddr, path: &str) -> Option<Answer> {
    try_send(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"),
    )
}

/// Asks for a path.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Answer {
    try_get(address, path).unwrap()
}

/// Sends these bytes, and returns the answer; `None` if there is none.
pub fn try_send(address: SocketAddr, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")?;
    let body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body })
}
