//! The log thread: takes queued lines, writes them, and says what becomes of those it can't write.
//!
//! Lines that can't be written wait here and in the queue behind, and are written once that is
//! possible. What there is no room for is dropped and counted.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};
use log::{debug, info, warn};

use super::LAST_FLUSH;
use super::file::{FILE_BYTES, LogFile};
use super::health::{self, Destination};
use super::queue::{BUFFER_BYTES, Queue};
use super::router::{EVENT, TROUBLE};
use super::throttle::LogThrottle;
use super::{lines, strangers};
use crate::thread::{self, Stop};

/// Longest time that a line stays in memory.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Interval at which files that nothing is written to are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two reports of dropped lines.
const DROPS_INTERVAL: Duration = Duration::from_secs(10);

/// Time for which a stream may take nothing before it counts as a problem.
const STUCK: Duration = Duration::from_secs(1);

/// State of the log thread.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) woken: Receiver<()>,
    /// Requests to write what was logged; each is answered once that is done.
    pub(super) flushes: Receiver<Sender<()>>,
    /// Set to have all files opened again.
    pub(super) reopen: Arc<AtomicBool>,
    pub(super) stop: Stop,
    /// In the order in which they are written: what is said about one is written by a later one.
    pub(super) outputs: Vec<Output>,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut checked = Instant::now();
        loop {
            let (mut last, mut request) = (false, None);
            thread::waiting(|| {
                select! {
                    recv(self.woken) -> _ => {}
                    recv(self.flushes) -> flush => request = flush.ok(),
                    recv(self.stop.channel()) -> _ => last = true,
                    default(FLUSH_INTERVAL) => {}
                }
            });
            let now = Instant::now();
            if self.reopen.swap(false, Ordering::Relaxed) {
                // Lines that were logged before belong to the files of before.
                self.turn(now);
                for output in &mut self.outputs {
                    output.reopen();
                }
                info!(target: EVENT, "log files opened again");
            } else if now >= checked + CHECK_INTERVAL {
                checked = now;
                report_left_out();
                for output in &mut self.outputs {
                    output.check();
                }
            }
            self.turn(now);
            if let Some(written) = request {
                let _ = written.send(());
            }
            if last {
                self.end();
                return thread::dismissed();
            }
        }
    }

    fn turn(&mut self, now: Instant) {
        for output in &mut self.outputs {
            output.turn(now);
        }
    }

    /// Writes what is left, as far as that is possible within [`LAST_FLUSH`].
    fn end(&mut self) {
        let end = Instant::now() + LAST_FLUSH;
        report_left_out();
        for output in &mut self.outputs {
            output.report_drops(None);
        }
        loop {
            let now = Instant::now();
            self.turn(now);
            if now >= end || self.outputs.iter().all(Output::is_empty) {
                return;
            }
            // It takes no more for now; not every kind of destination tells when it does again.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Logs how many refused lines and connections were not logged.
fn report_left_out() {
    for (count, what) in strangers::take_left_out() {
        if count > 0 {
            debug!("{count} more {what} are not logged");
            lines::text(format_args!("{count} more {what} are not logged"));
        }
    }
}

/// One destination of lines.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` for standard error, which has copies only.
    destination: Option<Destination>,
    /// The path, or the name of a stream.
    name: String,
    queue: Queue,
    file: LogFile,
    /// Lines that were taken from the queue, and how many of their bytes have been written.
    pending: Vec<u8>,
    written: usize,
    drops: LogThrottle,
    /// Time since which a stream has taken nothing.
    stuck: Option<Instant>,
}

impl Output {
    pub(super) fn new(
        destination: Option<Destination>,
        name: String,
        queue: &Queue,
        file: LogFile,
    ) -> Output {
        Output {
            destination,
            name,
            queue: queue.clone(),
            file,
            pending: Vec::new(),
            written: 0,
            drops: LogThrottle::default(),
            stuck: None,
        }
    }

    fn has_pending(&self) -> bool {
        self.written < self.pending.len()
    }

    fn is_empty(&self) -> bool {
        !self.has_pending() && self.queue.is_empty()
    }

    /// Takes permissions from files; see [`LogFile::tighten`].
    pub(super) fn tighten(&self) -> Vec<(PathBuf, Option<io::Error>)> {
        self.file.tighten()
    }

    fn reopen(&mut self) {
        if let Err(error) = self.file.reopen() {
            self.set_problem(Some(error.to_string()));
        }
    }

    /// Looks whether the file is still there. Writing does that too.
    fn check(&mut self) {
        if !self.has_pending() {
            let found = self.file.check();
            self.set_problem(found.err().map(|error| error.to_string()));
        }
    }

    /// Writes what is pending, or else what is queued.
    fn turn(&mut self, now: Instant) {
        let mut dropped = 0;
        if !self.has_pending() {
            let taken = self.queue.take(std::mem::take(&mut self.pending));
            (self.pending, self.written, dropped) = (taken.lines, 0, taken.dropped);
        }
        if self.has_pending() {
            dropped += self.write(now);
        }
        if self.drops.record(dropped, now, DROPS_INTERVAL) {
            self.report_drops(Some(now));
        }
    }

    /// Writes what is pending. Returns the number of lines that were dropped.
    fn write(&mut self, now: Instant) -> u64 {
        // Standard error is no log.
        if self.destination.is_some() {
            health::begin_write(&self.name);
        }
        let (written, result) = self.file.write(&self.pending[self.written..]);
        if self.destination.is_some() {
            health::end_write();
        }
        self.written += written;
        let Err(error) = result else {
            self.stuck = None;
            self.set_problem(None);
            return 0;
        };
        match error.kind() {
            // It is slow, which shows by the lines that are dropped.
            ErrorKind::WouldBlock if written > 0 => {
                self.stuck = None;
                self.set_problem(None);
                0
            }
            ErrorKind::WouldBlock if now < *self.stuck.get_or_insert(now) + STUCK => 0,
            ErrorKind::WouldBlock => {
                let seconds = now.saturating_duration_since(self.stuck.unwrap_or(now));
                let seconds = seconds.as_secs();
                self.set_problem(Some(format!("it has taken no lines for {seconds} s")));
                0
            }
            // There is nowhere else to write these to.
            _ if self.destination.is_none() => {
                self.written = self.pending.len();
                0
            }
            kind => {
                self.set_problem(Some(error.to_string()));
                u64::from(kind == ErrorKind::BrokenPipe && self.skip_rest_of_line())
            }
        }
    }

    /// Leaves out a line of which the last reader of a FIFO has the beginning. Returns whether there
    /// was one.
    fn skip_rest_of_line(&mut self) -> bool {
        let is_inside = self.written > 0 && self.pending[self.written - 1] != b'\n';
        if is_inside {
            let rest = &self.pending[self.written..];
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            self.written += end;
            health::count_dropped(1);
        }
        is_inside
    }

    /// Notes what is wrong with the destination, and logs the beginning and the end of it.
    fn set_problem(&mut self, reason: Option<String>) {
        let Some(destination) = self.destination else {
            return;
        };
        let name = &self.name;
        let text = match (reason, self.file.unrotated()) {
            (Some(reason), _) => Some(format!("{name} can't be written: {reason}")),
            (None, Some(error)) => Some(format!(
                "{name} grows beyond {} MiB, since it can't be renamed: {error}",
                FILE_BYTES >> 20
            )),
            (None, None) => None,
        };
        let changed = health::set(destination, text.clone());
        match text {
            _ if !changed => {}
            Some(text) => warn!(target: TROUBLE, "log failing: {text}"),
            None => info!(target: TROUBLE, "no longer log failing: {name} is in order"),
        }
    }

    /// Logs how many lines were dropped, if any, and begins to count again; without a time, also those
    /// that are in the queue.
    fn report_drops(&mut self, now: Option<Instant>) {
        let mut count = self.drops.take_count();
        if now.is_none() {
            count += self.queue.take_dropped();
        }
        if count > 0 && self.destination.is_some() {
            warn!(
                target: TROUBLE,
                "{count} log lines dropped: there were more than {} could take, and {} MiB wait already",
                self.name,
                BUFFER_BYTES >> 20
            );
        }
    }
}
