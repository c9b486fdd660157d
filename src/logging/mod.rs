//! The log: events from every thread, and on request every line in and out, written by one thread.
//!
//! Events (`NAME.log`) are formatted by `simplelog`; lines in and out (`NAME.lines.log`) are written
//! straight into a buffer, a turn at a time. Either way a thread that logs appends to a queue in
//! memory and continues. The log thread writes the queues several times a second, rotates the files by
//! size, opens them again when they were moved, and is the only thread that waits for a disk. When a
//! queue is full, lines are dropped and counted, and the count is logged: the log never stalls a
//! request.

mod file;
mod health;
mod line;
pub(crate) mod lines;
mod queue;
mod rotation;
mod router;
pub(crate) mod strangers;
pub(crate) mod throttle;
mod time_prefix;
mod writer;

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{LevelFilter, info, warn};

use crate::disk::Readers;
use crate::exit;
use crate::thread::{self, Group, Never, Stopper};
use file::{FILE_BYTES, LogFile};
use health::Destination;
use queue::Queue;
use router::Router;
use writer::{Output, Writer};

pub use health::{Problem, dropped_lines, problem};
pub use router::{EVENT, RECOVERY};

/// Maximum wait for the log thread to write what was logged, before the process ends.
const LAST_FLUSH: Duration = Duration::from_millis(500);

/// The way to the log thread.
static CONTROL: OnceLock<Control> = OnceLock::new();

#[derive(Debug)]
struct Control {
    flushes: Sender<Sender<()>>,
    reopen: Arc<AtomicBool>,
    wake: Sender<()>,
}

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name.
    pub name: String,
    /// Folder of the files; `None` to log to standard output.
    pub folder: Option<PathBuf>,
    /// Lowest level that is logged. [`EVENT`] and [`RECOVERY`] are logged at every level.
    pub level: LevelFilter,
    /// Whether lines in and out are logged.
    pub lines: bool,
    /// The users that may read new files.
    pub readers: Readers,
}

/// Failure to open a log.
#[derive(Debug)]
pub struct LogError {
    /// The file, or `standard output`.
    pub path: String,
    /// The failure.
    pub error: io::Error,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot log to {}: {}", self.path, self.error)
    }
}

impl std::error::Error for LogError {}

/// The log thread. Dropping it writes the queued lines and ends the thread; a disk that does not
/// answer is not waited for.
#[derive(Debug)]
pub struct LogWriter {
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
    /// Closes when the thread has written all it could.
    ended: Receiver<Never>,
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.stopper.stop();
        // It gives up by itself, unless a write does not return.
        let _ = self.ended.recv_timeout(2 * LAST_FLUSH);
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
        {
            let _ = thread.join();
        }
    }
}

/// Starts logging, to `NAME.log` and `NAME.lines.log` in a folder or to standard output. With files,
/// notices (`warn`, `error` and recoveries) go to standard error as well. Panics are logged with their
/// location. Fails if a file can't be opened or a logger was set before.
pub fn start(settings: &Settings) -> Result<LogWriter, LogError> {
    let name = &settings.name;
    let (wake, woken) = bounded(1);
    let events = Queue::new(wake.clone());
    let notices = Queue::new(wake.clone());
    let mut outputs = Vec::new();
    let mut add = |destination, path: PathBuf, queue: &Queue| {
        let shown = path.display().to_string();
        let file = LogFile::open(path, settings.readers, FILE_BYTES).map_err(at(&shown))?;
        outputs.push(Output::new(Some(destination), shown, queue, file));
        Ok(())
    };
    match &settings.folder {
        Some(folder) => {
            if settings.lines {
                let lines = Queue::new(wake.clone());
                let path = folder.join(format!("{name}.lines.log"));
                add(Destination::Lines, path, &lines)?;
                lines::enable(lines);
            }
            let path = folder.join(format!("{name}.log"));
            add(Destination::Events, path, &events)?;
        }
        None => {
            const STDOUT: &str = "standard output";
            let file = LogFile::standard(io::stdout().as_fd()).map_err(at(STDOUT))?;
            let destination = Some(Destination::Events);
            outputs.push(Output::new(destination, STDOUT.to_owned(), &events, file));
            if settings.lines {
                lines::enable(events.clone());
            }
        }
    }
    const STDERR: &str = "standard error";
    let terminal = LogFile::standard(io::stderr().as_fd()).map_err(at(STDERR))?;
    outputs.push(Output::new(None, STDERR.to_owned(), &notices, terminal));
    let copies = settings.folder.is_some();
    let router = Router::new(
        settings.level,
        &events,
        &notices,
        format!("{name}: "),
        copies,
    );
    let max_level = router.max_level();
    let set = log::set_boxed_logger(Box::new(router)).map_err(io::Error::other);
    set.map_err(at("a second log"))?;
    log::set_max_level(max_level);
    log_panics();
    report_tightened(&outputs);
    let (stopper, stop) = thread::stop_pair();
    let (flush, flushes) = bounded(1);
    let (end, ended) = bounded(0);
    let reopen = Arc::new(AtomicBool::new(false));
    let writer = Writer {
        woken,
        flushes,
        reopen: Arc::clone(&reopen),
        stop,
        outputs,
    };
    let run = move || {
        writer.run();
        drop(end);
    };
    let thread = {
        let _entered = Group::process().enter();
        thread::spawn("log-writer", run).map_err(at("a thread"))?
    };
    // The logger above was the first, and so is this.
    let _ = CONTROL.set(Control {
        flushes: flush,
        reopen,
        wake,
    });
    exit::set_log(name, write_now);
    Ok(LogWriter {
        stopper,
        thread: Some(thread),
        ended,
    })
}

fn at(path: &str) -> impl FnOnce(io::Error) -> LogError {
    move |error| LogError {
        path: path.to_owned(),
        error,
    }
}

/// Takes permissions that earlier versions gave away from the log files, and says so.
fn report_tightened(outputs: &[Output]) {
    for (path, failed) in outputs.iter().flat_map(Output::tighten) {
        let path = path.display();
        match failed {
            None => info!(target: EVENT, "{path} could be read by others, and now can't"),
            Some(error) => warn!("{path} can be read by others: {error}"),
        }
    }
}

/// Has the log thread open all files again, as after they were renamed by another program.
pub fn reopen() {
    if let Some(control) = CONTROL.get() {
        control.reopen.store(true, Ordering::Relaxed);
        // A wake-up that is queued already is enough.
        let _ = control.wake.try_send(());
    }
}

/// Has the log thread write what was logged, and waits until that is done, for [`LAST_FLUSH`] at most.
fn write_now() {
    let (done, written) = bounded(1);
    // A log thread that has ended takes no request.
    let taken = |control: &Control| control.flushes.send_timeout(done, LAST_FLUSH).is_ok();
    if CONTROL.get().is_some_and(taken) {
        let _ = written.recv_timeout(LAST_FLUSH);
    }
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
