//! The log: lines from every thread, formatted by `simplelog`, written by one thread.
//!
//! A thread that logs appends its line to a buffer in memory and continues. The buffer is queued for
//! the log thread every few kilobytes. The log thread flushes it several times a second, rotates
//! the file by size, and is the only thread that waits for a disk. When the queue is full, lines
//! are dropped and counted, and the count is logged: the log never stalls a request.
//!
//! The time at the beginning of a line is written here and not by `simplelog`, which formats every
//! part of it each time; that was a third of the cost of a line.

mod file;
mod line;
mod queue;
pub(crate) mod throttle;
mod time_prefix;

use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::LevelFilter;
use simplelog::{CombinedLogger, ConfigBuilder, LevelPadding, SharedLogger, WriteLogger};

use crate::exit;
use crate::thread::{self, Stop, Stopper};
use file::{FILE_BYTES, RotatingFile};
use line::LineWriter;
use queue::Queue;
use throttle::LogThrottle;
use time_prefix::TimePrefix;

/// Bytes of lines that are buffered before they are queued. These stay in the processor's cache; the
/// memory of the queue does not, and a lock that is held while a line is copied there is held longer.
const GROUP_BYTES: usize = 8 << 10;

/// Longest time that a line stays in memory.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Maximum wait for the log thread to write what was logged, before the process ends for a failure.
const LAST_FLUSH: Duration = Duration::from_millis(500);

/// Requests to write what was logged; each is answered once that is done.
static FLUSHES: OnceLock<Sender<Sender<()>>> = OnceLock::new();

/// The log thread. Dropping it writes the queued lines and ends the thread.
#[derive(Debug)]
pub struct LogWriter {
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts logging to `directory/NAME.log`, and notices (`warn` and `error`) to standard error as
/// well. Panics are logged with their location. Fails if the file can't be opened or a logger
/// was set before.
pub fn start(directory: &Path, name: &str, level: LevelFilter) -> io::Result<LogWriter> {
    std::fs::create_dir_all(directory)?;
    let file = RotatingFile::open(directory.join(format!("{name}.log")), FILE_BYTES)?;
    let (wake, woken) = bounded(1);
    let lines = Queue::new(wake.clone());
    let notices = Queue::new(wake);
    let to_file = LineWriter::new(&lines, GROUP_BYTES, Some(TimePrefix::default()));
    // Notices on a terminal have no time.
    let to_terminal = LineWriter::new(&notices, 0, None);
    // The last words are written there by `exit` itself.
    let for_terminal = format().add_filter_ignore_str(exit::TARGET).build();
    let loggers: Vec<Box<dyn SharedLogger>> = vec![
        WriteLogger::new(level, format().build(), to_file),
        WriteLogger::new(LevelFilter::Warn.min(level), for_terminal, to_terminal),
    ];
    CombinedLogger::init(loggers).map_err(io::Error::other)?;
    log_panics();
    let (stopper, stop) = thread::stop_pair();
    let (flush, flushes) = bounded(1);
    let writer = Writer {
        woken,
        flushes,
        stop,
        prefix: format!("{name}: "),
        lines,
        notices,
        file,
        lost: LogThrottle::default(),
        write_error: None,
    };
    let thread = thread::spawn("log-writer", move || writer.run())?;
    // The logger above was the first, and so is this.
    let _ = FLUSHES.set(flush);
    exit::set_log(name, write_now);
    Ok(LogWriter {
        stopper,
        thread: Some(thread),
    })
}

/// Has the log thread write what was logged, and waits until that is done, for [`LAST_FLUSH`] at most.
fn write_now() {
    let (done, written) = bounded(1);
    let flushes = FLUSHES.get();
    // A log thread that has ended takes no request.
    if flushes.is_some_and(|flushes| flushes.send_timeout(done, LAST_FLUSH).is_ok()) {
        let _ = written.recv_timeout(LAST_FLUSH);
    }
}

/// Returns the format of a line: its level and its text.
fn format() -> ConfigBuilder {
    let mut config = ConfigBuilder::new();
    config
        .set_time_level(LevelFilter::Off)
        .set_level_padding(LevelPadding::Right)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .add_filter_allow_str("herd");
    config
}

/// Makes every panic be logged with its location, at `error`: one that ends a session and not the
/// server would go unnoticed otherwise. [`start`] calls this.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        // It may quote bytes from outside.
        let message =
            crate::model::text::PrintableText(panic.payload_as_str().unwrap_or("no message"));
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        log::error!("panic in thread {thread} at {location}: {message}");
    }));
}

/// State of the log thread.
struct Writer {
    woken: Receiver<()>,
    flushes: Receiver<Sender<()>>,
    stop: Stop,
    /// The server's name, put before each notice: several servers share a terminal.
    prefix: String,
    lines: Queue,
    notices: Queue,
    file: RotatingFile,
    /// Lines that could not be written since the last success.
    lost: LogThrottle,
    /// The last error of a write, until one succeeds.
    write_error: Option<io::Error>,
}

impl Writer {
    fn run(mut self) {
        let (mut spare_lines, mut spare_notices) = (Vec::new(), Vec::new());
        loop {
            let (mut last, mut request) = (false, None);
            crossbeam_channel::select! {
                recv(self.woken) -> _ => {}
                recv(self.flushes) -> flush => request = flush.ok(),
                recv(self.stop.channel()) -> _ => last = true,
                default(FLUSH_INTERVAL) => {}
            }
            // Queues the lines in the loggers' buffers.
            log::logger().flush();
            spare_notices = self.write_notices(spare_notices);
            spare_lines = self.write_lines(spare_lines);
            if let Some(written) = request {
                let _ = written.send(());
            }
            if last {
                return;
            }
        }
    }

    fn write_notices(&self, spare: Vec<u8>) -> Vec<u8> {
        let taken = self.notices.take(spare);
        let mut stderr = io::stderr().lock();
        for line in taken.lines.split_inclusive(|&byte| byte == b'\n') {
            // If standard error is closed, the file still has the line.
            let _ = stderr.write_all(&[self.prefix.as_bytes(), line].concat());
        }
        taken.lines
    }

    fn write_lines(&mut self, spare: Vec<u8>) -> Vec<u8> {
        let taken = self.lines.take(spare);
        if taken.dropped > 0 {
            log::warn!(
                "{} log lines dropped: they came faster than they could be written",
                taken.dropped
            );
        }
        if taken.lines.is_empty() {
            return taken.lines;
        }
        match self.file.write(&taken.lines) {
            Ok(()) => {
                if let Some(error) = self.write_error.take() {
                    log::warn!("{} log lines lost: {error}", self.lost.reset());
                }
            }
            Err(error) => {
                let lines = memchr::memchr_iter(b'\n', &taken.lines).count() as u64;
                // The first error is reported at once: standard error may still show it.
                if self.lost.record(lines, Instant::now(), Duration::MAX) {
                    log::warn!("log lines are lost until they can be written again: {error}");
                }
                self.write_error = Some(error);
            }
        }
        taken.lines
    }
}
