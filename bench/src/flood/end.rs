//! An end of a flood: the connection that reports, or one that asks until it is shown the report.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Bytes of one read: more than a reply to bound 0 has.
const READ_BYTES: usize = 16 * 1024;

/// Bytes of a wrong reply that are shown.
const SHOWN_BYTES: usize = 300;

/// A connection with one line in flight at most.
#[derive(Debug)]
pub(crate) struct End {
    name: String,
    stream: TcpStream,
    /// The line that was sent: a report, or an inquiry, which is repeated.
    line: String,
    /// End of the line that shows the report, until that has come.
    wanted: Option<String>,
    input: Vec<u8>,
}

impl End {
    /// An end with nothing in flight; `name` is the address of its server.
    pub(crate) fn new(name: &str, stream: TcpStream) -> End {
        End {
            name: name.to_owned(),
            stream,
            line: String::new(),
            wanted: None,
            input: Vec::new(),
        }
    }

    /// Sends a line. `wanted` is the end of the line that shows the report.
    pub(crate) fn send(&mut self, line: &str, wanted: &str) -> Result<(), String> {
        self.line = line.to_owned();
        self.wanted = Some(wanted.to_owned());
        self.write()
    }

    /// The name of its server, as long as the report is not shown.
    pub(crate) fn waiting(&self) -> Option<&str> {
        self.wanted.as_ref().map(|_| self.name.as_str())
    }

    /// Reads once and returns whether that shows the report. An inquiry whose reply does not show it
    /// is sent again.
    pub(crate) fn read(&mut self) -> Result<bool, String> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(format!("{}: the server closed the connection", self.name)),
            Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(format!("{}: the connection broke: {error}", self.name)),
        }
        let fault = |fault: &str| {
            let input = &self.input[..self.input.len().min(SHOWN_BYTES)];
            format!("{}: {fault}: {}", self.name, input.escape_ascii())
        };
        let Some(wanted) = &self.wanted else {
            return Err(fault("more data than expected"));
        };
        let Some(line) = self.input.iter().position(|&byte| byte == b'\n') else {
            return Ok(false);
        };
        let (line, rest) = self.input.split_at(line + 1);
        let shown = line.starts_with(b"AT ") && line.ends_with(wanted.as_bytes());
        if self.line.starts_with("IAMAT ") {
            if !shown || !rest.is_empty() {
                let wanted = wanted.escape_default();
                return Err(fault(&format!(
                    "a wrong reply to a report, expected AT ...{wanted}, got"
                )));
            }
        } else {
            let unknown = line.strip_prefix(b"? ") == Some(self.line.as_bytes());
            if !unknown && !line.starts_with(b"AT ") {
                return Err(fault("a wrong reply"));
            }
            if !unknown && !rest.ends_with(b"\n\n") {
                return Ok(false);
            }
        }
        self.input.clear();
        if shown {
            self.wanted = None;
        } else {
            self.write()?;
        }
        Ok(shown)
    }

    /// Writes the line. With nothing else in flight the kernel has room for it.
    fn write(&mut self) -> Result<(), String> {
        self.stream
            .write_all(self.line.as_bytes())
            .map_err(|error| format!("{}: can't send: {error}", self.name))
    }
}
