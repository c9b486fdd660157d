//! Decides which lines go to the log, and which to standard error as well.
//!
//! Levels say how much is wrong, and some lines matter at every level: one who reads that a link was
//! lost must be able to read that it is back. Such lines have a target of their own, [`EVENT`] or
//! [`RECOVERY`].

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{Config, ConfigBuilder, LevelPadding, WriteLogger};

use super::line::{LineWriter, Prefix};
use super::queue::Queue;
use super::time_prefix::TimePrefix;
use crate::exit;

/// Target of the lines about the life of the server and of what it depends on: start, stop, reload, a
/// link lost. They are in the log at every `--log-level`.
pub const EVENT: &str = "herd::event";

/// Target of the lines that end what a warning or an error reported. They are in the log at every
/// `--log-level`, and where warnings are on standard error they are too.
pub const RECOVERY: &str = "herd::recovery";

/// Target of the lines about the log itself. They are on standard error whatever is copied there.
pub(super) const TROUBLE: &str = "herd::logging";

/// The logger of the process.
pub(super) struct Router {
    level: LevelFilter,
    to_log: Box<WriteLogger<LineWriter>>,
    to_terminal: Box<WriteLogger<LineWriter>>,
    copies: bool,
}

impl Router {
    /// Logs to `log`, and to `terminal` what is wrong with the log, each line with that prefix. With
    /// `copies`, all that needs attention is copied there.
    pub(super) fn new(
        level: LevelFilter,
        log: &Queue,
        terminal: &Queue,
        prefix: String,
        copies: bool,
    ) -> Router {
        let logger = |queue, prefix| {
            let writer = LineWriter::new(queue, prefix);
            WriteLogger::new(LevelFilter::Trace, format(), writer)
        };
        Router {
            level,
            to_log: logger(log, Prefix::Time(TimePrefix::default())),
            to_terminal: logger(terminal, Prefix::Name(prefix)),
            copies,
        }
    }

    /// Returns the lowest level of any line that is logged.
    pub(super) fn max_level(&self) -> LevelFilter {
        self.level.max(LevelFilter::Info)
    }

    fn is_for_log(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level || [EVENT, RECOVERY, TROUBLE].contains(&metadata.target())
    }

    fn is_for_terminal(&self, metadata: &Metadata<'_>) -> bool {
        match metadata.target() {
            // It writes there itself.
            exit::TARGET => false,
            TROUBLE => true,
            _ if !self.copies => false,
            RECOVERY => true,
            _ => metadata.level() <= Level::Warn && self.is_for_log(metadata),
        }
    }
}

impl Log for Router {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.is_for_log(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.is_for_log(record.metadata()) {
            self.to_log.log(record);
        }
        if self.is_for_terminal(record.metadata()) {
            self.to_terminal.log(record);
        }
    }

    fn flush(&self) {}
}

/// Returns the format of a line: its level and its text. Lines of other crates are left out.
fn format() -> Config {
    let mut config = ConfigBuilder::new();
    config
        .set_time_level(LevelFilter::Off)
        .set_level_padding(LevelPadding::Right)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .add_filter_allow_str("herd");
    config.build()
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn recoveries_and_events_are_logged_at_every_level() {
        // Whether it is in the log at the levels error, warn, info and debug, then on the terminal.
        let (in_log, on_terminal) = ([true; 4], [true; 4]);
        let cases = [
            (Level::Info, RECOVERY, in_log, on_terminal),
            (Level::Info, EVENT, in_log, [false; 4]),
            (Level::Warn, EVENT, in_log, on_terminal),
            (Level::Warn, TROUBLE, in_log, on_terminal),
            (Level::Error, exit::TARGET, in_log, [false; 4]),
            (Level::Error, "herd::x", in_log, on_terminal),
            (
                Level::Warn,
                "herd::x",
                [false, true, true, true],
                [false, true, true, true],
            ),
            (
                Level::Info,
                "herd::x",
                [false, false, true, true],
                [false; 4],
            ),
            (
                Level::Debug,
                "herd::x",
                [false, false, false, true],
                [false; 4],
            ),
            (Level::Error, "ureq", [false; 4], [false; 4]),
        ];
        for (at, filter) in [
            LevelFilter::Error,
            LevelFilter::Warn,
            LevelFilter::Info,
            LevelFilter::Debug,
        ]
        .into_iter()
        .enumerate()
        {
            for (level, target, in_log, on_terminal) in cases {
                let (log, terminal) = (Queue::new(bounded(1).0), Queue::new(bounded(1).0));
                let router = Router::new(filter, &log, &terminal, "Ball: ".to_owned(), true);
                let args = format_args!("text");
                router.log(
                    &Record::builder()
                        .level(level)
                        .target(target)
                        .args(args)
                        .build(),
                );
                let text = |queue: &Queue| {
                    String::from_utf8(queue.take(Vec::new()).lines).unwrap_or_default()
                };
                let (logged, shown) = (text(&log), text(&terminal));
                let case = format!("{level} {target} at {filter}");
                assert_eq!(!logged.is_empty(), in_log[at], "{case}: {logged}");
                assert_eq!(!shown.is_empty(), on_terminal[at], "{case}: {shown}");
                if in_log[at] {
                    assert!(
                        logged.ends_with(&format!("[{level:<5}] text\n")),
                        "{logged}"
                    );
                }
                if on_terminal[at] {
                    assert_eq!(shown, format!("Ball: [{level:<5}] text\n"));
                }
            }
        }
    }
}
