//! The log: lines from every thread, formatted by `simplelog`, written by one thread.
//!
//! A worker that logs appends its line to what has gathered in memory and goes on. Some kilobytes
//! together are queued for the log thread, which asks for the rest a few times a second, rotates
//! the file by size, and is the only one that waits for a disk. When the queue is full, lines are
//! dropped and counted, and the count is logged: a log is never a reason to stall a request.
//!
//! The time in front of a line is written here and not by `simplelog`, which formats every part
//! of it anew: a third of what a line cost.

mod clock;
mod file;
mod line;
mod queue;
pub mod throttle;

use std::io::{self, Write};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::LevelFilter;
use simplelog::{CombinedLogger, ConfigBuilder, LevelPadding, SharedLogger, WriteLogger};

use clock::ClockFace;
use file::{FILE_BYTES, RotatingFile};
use line::LineWriter;
use queue::Queue;

/// Bytes of lines that gather before they are queued. The memory of the queue is cold, and a lock
/// that is let go after a line was copied there waits for it; these bytes stay in the cache.
const GATHERED_BYTES: usize = 8 << 10;

/// How long a line may wait in memory.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// The log thread. Dropping it writes what is queued and ends it.
#[derive(Debug)]
pub struct LogWriter {
    wake: Option<Sender<()>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.stop.take();
        self.wake.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Begins to log to `directory/NAME.log`, and notices (`warn` and worse) to standard error as
/// well. Panics are logged with their place. An error if the file can't be opened or a logger
/// has been set before.
pub fn start(directory: &Path, name: &str, level: LevelFilter) -> io::Result<LogWriter> {
    std::fs::create_dir_all(directory)?;
    let file = RotatingFile::open(directory.join(format!("{name}.log")), FILE_BYTES)?;
    let (wake, woken) = bounded(1);
    let lines = Queue::new(wake.clone());
    let notices = Queue::new(wake.clone());
    let loggers: Vec<Box<dyn SharedLogger>> = vec![
        WriteLogger::new(
            level,
            format(),
            LineWriter::new(&lines, GATHERED_BYTES, Some(ClockFace::default())),
        ),
        // Notices on a terminal go without the time.
        WriteLogger::new(
            LevelFilter::Warn.min(level),
            format(),
            LineWriter::new(&notices, 0, None),
        ),
    ];
    CombinedLogger::init(loggers).map_err(io::Error::other)?;
    log_panics();
    let (stop, stopped) = bounded(0);
    let drain = Drain {
        woken,
        stopped,
        prefix: format!("{name}: "),
        lines,
        notices,
        file,
        lost: None,
    };
    let thread = std::thread::Builder::new()
        .name("log-writer".to_owned())
        .stack_size(crate::thread::STACK_BYTES)
        .spawn(move || drain.run())?;
    Ok(LogWriter {
        wake: Some(wake),
        stop: Some(stop),
        thread: Some(thread),
    })
}

/// Level, what.
fn format() -> simplelog::Config {
    ConfigBuilder::new()
        .set_time_level(LevelFilter::Off)
        .set_level_padding(LevelPadding::Right)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .add_filter_allow_str("herd")
        .build()
}

/// Sees to it that a panic is logged with its place, at `error`: it ends one session, not the
/// server, so nothing else would tell. [`start`] calls this.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no message");
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        log::error!("panic in thread {thread} at {place}: {what}");
    }));
}

/// The log thread's state.
struct Drain {
    woken: Receiver<()>,
    stopped: Receiver<()>,
    /// Who speaks, in front of each notice: several servers share a terminal.
    prefix: String,
    lines: Queue,
    notices: Queue,
    file: RotatingFile,
    /// What of the lines could not be written, and why, until it could be told.
    lost: Option<(u64, io::Error)>,
}

impl Drain {
    fn run(mut self) {
        let (mut spare_lines, mut spare_notices) = (Vec::new(), Vec::new());
        loop {
            let last = crossbeam_channel::select! {
                recv(self.woken) -> _ => false,
                recv(self.stopped) -> _ => true,
                default(FLUSH_INTERVAL) => false,
            };
            // What has gathered in the loggers comes to the queues.
            log::logger().flush();
            spare_notices = self.write_notices(spare_notices);
            spare_lines = self.write_lines(spare_lines);
            if last {
                return;
            }
        }
    }

    fn write_notices(&self, spare: Vec<u8>) -> Vec<u8> {
        let taken = self.notices.take(spare);
        let mut stderr = io::stderr().lock();
        for line in taken.lines.split_inclusive(|&byte| byte == b'\n') {
            // Where standard error is gone, the file still has the line.
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
                if let Some((lost, error)) = self.lost.take() {
                    log::warn!("{lost} log lines lost: {error}");
                }
            }
            Err(error) => {
                let lines = memchr::memchr_iter(b'\n', &taken.lines).count() as u64;
                let before = match self.lost.take() {
                    Some((lost, _)) => lost,
                    None => {
                        // Standard error may still be there to hear it.
                        log::warn!("log lines are lost until they can be written again: {error}");
                        0
                    }
                };
                self.lost = Some((before + lines, error));
            }
        }
        taken.lines
    }
}
