//! One connection of the load: unsent requests, requests in flight, and the start of a reply.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use super::check::Checker;
use super::workload::{Pending, Share, Workload};

/// A connection and the requests in flight on it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    share: Share,
    /// Requests made so far.
    requests: u64,
    pending: VecDeque<Pending>,
    /// The start of a reply whose rest has not come.
    partial: Vec<u8>,
    /// Bytes that the kernel did not take.
    unsent: Vec<u8>,
    /// Requests made and not yet written, gathered for one write.
    outgoing: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, share: Share) -> Connection {
        Connection {
            stream,
            share,
            requests: 0,
            pending: VecDeque::new(),
            partial: Vec::new(),
            unsent: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    /// Makes a request; [`flush`](Self::flush) sends it.
    pub(crate) fn request(&mut self, load: &mut Workload, now: u64, at: u64) {
        let pending = load.request(&mut self.share, now, at, &mut self.outgoing);
        self.pending.push_back(pending);
        self.requests += 1;
    }

    /// Returns the number of requests made so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Sends the requests made so far. Returns whether the kernel had taken all before, and whether it
    /// has now.
    pub(crate) fn flush(&mut self) -> io::Result<(bool, bool)> {
        let before = self.unsent.is_empty();
        if !before {
            self.unsent.append(&mut self.outgoing);
            std::mem::swap(&mut self.unsent, &mut self.outgoing);
        }
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.clear();
        self.unsent.extend_from_slice(&self.outgoing[sent..]);
        self.outgoing.clear();
        Ok((before, self.unsent.is_empty()))
    }

    /// Reads once; `Ok(None)` if there was nothing after all.
    pub(crate) fn read<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, String> {
        match (&self.stream).read(buffer) {
            Ok(0) => Err(format!(
                "the server closed a connection with {} replies missing",
                self.pending.len()
            )),
            Ok(bytes) => Ok(Some(&buffer[..bytes])),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(error) => Err(format!("a connection broke: {error}")),
        }
    }

    /// Checks the replies in the input; `each` is called with the request of each.
    pub(crate) fn replies(
        &mut self,
        checker: &mut Checker,
        input: &[u8],
        mut each: impl FnMut(&Pending),
    ) -> Result<(), String> {
        let mut joined = std::mem::take(&mut self.partial);
        let mut rest = if joined.is_empty() {
            input
        } else {
            joined.extend_from_slice(input);
            &joined[..]
        };
        while !rest.is_empty() {
            let Some(wanted) = self.pending.front() else {
                let start = &rest[..rest.len().min(100)];
                return Err(format!("more data than expected: {}", start.escape_ascii()));
            };
            let Some(bytes) = checker.check(wanted, rest)? else {
                break;
            };
            each(wanted);
            self.pending.pop_front();
            rest = &rest[bytes..];
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }
}
