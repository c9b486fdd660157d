//! A line on stderr with the progress of a run.
//!
//! On a terminal the line is overwritten; elsewhere a line is printed every few seconds, so that a log
//! is not filled.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(250);

/// Between two lines elsewhere.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The line. It is cleared when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    last: Instant,
    /// Start of every line: the progress of the whole of which this run is a part.
    prefix: String,
    silent: bool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress {
            terminal: io::stderr().is_terminal(),
            last: Instant::now(),
            prefix: String::new(),
            silent: false,
        }
    }

    /// One that shows nothing, for a task that runs beside another.
    pub(crate) fn silent() -> Progress {
        let mut progress = Progress::new();
        (progress.terminal, progress.silent) = (false, true);
        progress
    }

    /// Sets the start of every line from now on.
    pub(crate) fn set_prefix(&mut self, prefix: String) {
        self.prefix = prefix;
    }

    /// Shows a line if it is time for one; it is made only then.
    pub(crate) fn show(&mut self, line: impl FnOnce() -> String) {
        let interval = if self.terminal {
            TERMINAL_INTERVAL
        } else {
            LOG_INTERVAL
        };
        if self.silent || self.last.elapsed() < interval {
            return;
        }
        self.last = Instant::now();
        let line = format!("{}{}", self.prefix, line());
        // A run goes on even if its progress can't be shown.
        let _ = if self.terminal {
            write!(io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
