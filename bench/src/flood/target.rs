//! The two ends of a flood: who reports, and who is asked until it shows the report.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Where the client is; the servers only pass it on.
const LOCATION: &str = "+34.068930-118.445127";

/// Bytes of one read: more than a reply to bound 0 has.
const READ_BYTES: usize = 16 * 1024;

/// The connection that reports.
#[derive(Debug)]
pub(crate) struct Reporter {
    name: String,
    stream: TcpStream,
    client: String,
    /// What the reply must end with, until it has come.
    wanted: Option<String>,
    input: Vec<u8>,
}

impl Reporter {
    pub(crate) fn new(name: &str, stream: TcpStream, client: &str) -> Reporter {
        Reporter {
            name: name.to_owned(),
            stream,
            client: client.to_owned(),
            wanted: None,
            input: Vec::new(),
        }
    }

    /// Sends the report of this time.
    pub(crate) fn report(&mut self, time: &str) -> Result<(), String> {
        let fields = format!("{} {LOCATION} {time}\n", self.client);
        send(&self.name, &self.stream, &format!("IAMAT {fields}"))?;
        self.wanted = Some(format!(" {fields}"));
        Ok(())
    }

    /// Whether the last report's reply has come.
    pub(crate) fn answered(&self) -> bool {
        self.wanted.is_none()
    }

    /// Reads once and checks the reply if it is whole.
    pub(crate) fn read(&mut self) -> Result<(), String> {
        read(&self.name, &self.stream, &mut self.input)?;
        if !self.input.contains(&b'\n') {
            return Ok(());
        }
        let wanted = self.wanted.take().unwrap_or_default();
        let right = self.input.starts_with(b"AT ") && self.input.ends_with(wanted.as_bytes());
        if !right || wanted.is_empty() {
            return Err(format!(
                "{}: a wrong reply to a report\n    expected  AT ...{}\n    got       {}",
                self.name,
                wanted.escape_default(),
                self.input.escape_ascii()
            ));
        }
        self.input.clear();
        Ok(())
    }
}

/// A server that must show the report.
#[derive(Debug)]
pub(crate) struct Target {
    name: String,
    stream: TcpStream,
    inquiry: String,
    client: String,
    /// How the line that shows the report ends, until it has been shown.
    wanted: Option<String>,
    input: Vec<u8>,
}

impl Target {
    pub(crate) fn new(name: &str, stream: TcpStream, client: &str) -> Target {
        Target {
            name: name.to_owned(),
            stream,
            inquiry: format!("WHATSAT {client} 0 0\n"),
            client: client.to_owned(),
            wanted: None,
            input: Vec::new(),
        }
    }

    /// Starts to ask for the report of this time.
    pub(crate) fn ask(&mut self, time: &str) -> Result<(), String> {
        self.wanted = Some(format!(" {} {LOCATION} {time}\n", self.client));
        send(&self.name, &self.stream, &self.inquiry)
    }

    /// Its name, while it does not show the report.
    pub(crate) fn waiting(&self) -> Option<&str> {
        self.wanted.as_ref().map(|_| self.name.as_str())
    }

    /// Reads once; whether the report is shown. If it is not, the server is asked again.
    pub(crate) fn read(&mut self) -> Result<bool, String> {
        read(&self.name, &self.stream, &mut self.input)?;
        let fault = |what: &str, input: &[u8]| {
            let input = &input[..input.len().min(300)];
            format!("{}: {what}: {}", self.name, input.escape_ascii())
        };
        let Some(wanted) = &self.wanted else {
            return Err(fault("more than was asked for", &self.input));
        };
        let Some(line) = self.input.iter().position(|&byte| byte == b'\n') else {
            return Ok(false);
        };
        let (line, rest) = self.input.split_at(line + 1);
        let unknown = line.strip_prefix(b"? ") == Some(self.inquiry.as_bytes());
        if !unknown && !line.starts_with(b"AT ") {
            return Err(fault("a wrong reply", &self.input));
        }
        if !unknown && !rest.ends_with(b"\n\n") {
            return Ok(false);
        }
        let shown = !unknown && line.ends_with(wanted.as_bytes());
        self.input.clear();
        if shown {
            self.wanted = None;
        } else {
            send(&self.name, &self.stream, &self.inquiry)?;
        }
        Ok(shown)
    }
}

/// Sends a line. With nothing else in flight the kernel has room for it.
fn send(name: &str, mut stream: &TcpStream, line: &str) -> Result<(), String> {
    stream
        .write_all(line.as_bytes())
        .map_err(|error| format!("{name}: can't send: {error}"))
}

fn read(name: &str, mut stream: &TcpStream, input: &mut Vec<u8>) -> Result<(), String> {
    let mut buffer = [0; READ_BYTES];
    match stream.read(&mut buffer) {
        Ok(0) => Err(format!("{name}: the server closed the connection")),
        Ok(bytes) => {
            input.extend_from_slice(&buffer[..bytes]);
            Ok(())
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(())
        }
        Err(error) => Err(format!("{name}: the connection broke: {error}")),
    }
}
