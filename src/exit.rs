//! The end of the process for a failure, and its last words.
//!
//! The reason for the end is to reach standard error and the log, whichever part fails: the log's
//! thread may be the one that has panicked, and a full pipe or a disk that does not answer must not
//! keep the process alive. So both are written by a thread of their own, for which the process waits
//! a moment only. This module knows the log by the function that writes it, since the log needs
//! threads, and threads end here.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Target of the log lines that are not copied to standard error: [`report`] writes there itself.
pub const TARGET: &str = "herd::exit";

/// Maximum wait for standard error and the log to take the last words.
const LIMIT: Duration = Duration::from_secs(1);

/// The log of this process.
static LOG: OnceLock<Log> = OnceLock::new();

#[derive(Debug)]
struct Log {
    /// Name of the server whose log it is.
    server: String,
    /// Writes all lines that were logged before, and returns once they are written.
    write: fn(),
}

/// Sets the log: the server's name, and a function that writes what was logged. Only the first call
/// counts.
pub fn set_log(server: &str, write: fn()) {
    let server = server.to_owned();
    let _ = LOG.set(Log { server, write });
}

/// Writes the reason for which the process is about to end to the log and to standard error. Takes a
/// second at most, whatever state these are in.
pub fn report(reason: &str) {
    log::error!(target: TARGET, "{}", reason.replace('\n', "; "));
    let line = format!("herd: {reason}\n");
    // Without standard error there is nowhere left to report to.
    let print = |line: &str| drop(io::stderr().write_all(line.as_bytes()));
    let (done, waited) = channel();
    let of_thread = line.clone();
    let thread = std::thread::Builder::new()
        .name("last-words".to_owned())
        .spawn(move || {
            if let Some(log) = LOG.get() {
                (log.write)();
            }
            print(&of_thread);
            let _ = done.send(());
        });
    match thread {
        Ok(_) => drop(waited.recv_timeout(LIMIT)),
        Err(_) => print(&line),
    }
}

/// Waits for the end of the process, which another thread has begun: a thread that panics drops its
/// ends of channels before it says why.
pub fn wait() -> ! {
    loop {
        std::thread::park();
    }
}

/// Ends the process with exit code 1, for that reason.
pub fn fail(reason: impl Display) -> ! {
    let reason = match LOG.get() {
        Some(log) => format!("{}: {reason}", log.server),
        None => reason.to_string(),
    };
    report(&reason);
    std::process::exit(1);
}
