//! The log: lines from every thread, formatted by `simplelog`, written by one thread.
//!
//! A worker that logs appends its line to a buffer in memory and goes on. The log thread
//! empties the buffer a few times a second, rotates the file by size, and is the only one that
//! waits for a disk. When the buffer is full, lines are dropped and counted, and the count is
//! logged: a log is never a reason to stall a request.
//!
//! The time in front of a line is written here and not by `simplelog`, which formats every part
//! of it anew: a third of what a line cost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::LevelFilter;
use parking_lot::Mutex;
use simplelog::{CombinedLogger, ConfigBuilder, LevelPadding, SharedLogger, WriteLogger};
use time::OffsetDateTime;
use time::macros::format_description;

/// Bytes of lines that wait for the log thread; past this lines are dropped and counted.
const BUFFER_BYTES: usize = 8 << 20;

/// Bytes of lines at which the log thread is woken before its time.
const WAKE_BYTES: usize = BUFFER_BYTES / 4;

/// How long a line may wait in memory.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Size at which the file is renamed and a new one begun.
const FILE_BYTES: u64 = 64 << 20;

/// Renamed files that are kept, `NAME.log.1` being the youngest.
const KEPT_FILES: usize = 4;

/// Lines that wait for the log thread.
#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
}

/// Where one kind of line gathers.
#[derive(Clone, Debug)]
struct Queue {
    buffer: Arc<Mutex<Buffer>>,
    wake: Sender<()>,
}

/// What a logger writes to: gathers the pieces that a line comes in, and queues it whole.
#[derive(Debug)]
struct LineWriter {
    queue: Queue,
    line: Vec<u8>,
    /// Where lines begin with the time.
    clock: Option<ClockFace>,
}

impl Write for LineWriter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.write_all(piece)?;
        Ok(piece.len())
    }

    fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.line.is_empty()
            && let Some(clock) = &mut self.clock
        {
            clock.write(SystemTime::now(), &mut self.line);
        }
        self.line.extend_from_slice(piece);
        if piece.last() == Some(&b'\n') {
            self.queue.push(&self.line);
            self.line.clear();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the time in UTC with microseconds. All but the fraction is made once a second.
#[derive(Debug, Default)]
struct ClockFace {
    second: u64,
    /// `2026-11-22T21:41:07.`, of that second.
    shown: Vec<u8>,
}

impl ClockFace {
    fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != since_epoch.as_secs() || self.shown.is_empty() {
            self.second = since_epoch.as_secs();
            let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].");
            self.shown = i64::try_from(self.second)
                .ok()
                .and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok())
                .and_then(|time| time.format(form).ok())
                .unwrap_or_default()
                .into_bytes();
        }
        let mut fraction = *b"000000Z ";
        let mut rest = since_epoch.subsec_micros();
        for digit in fraction[..6].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.extend_from_slice(&self.shown);
        out.extend_from_slice(&fraction);
    }
}

impl Queue {
    fn push(&self, line: &[u8]) {
        let mut buffer = self.buffer.lock();
        if buffer.lines.len() + line.len() > BUFFER_BYTES {
            buffer.dropped += 1;
            return;
        }
        let before = buffer.lines.len();
        buffer.lines.extend_from_slice(line);
        let wakes = before < WAKE_BYTES && buffer.lines.len() >= WAKE_BYTES;
        drop(buffer);
        if wakes {
            // If there is a wake-up under way already, that one will do.
            let _ = self.wake.try_send(());
        }
    }

    /// Takes what has gathered, leaving the emptied `lines` in its place.
    fn take(&self, mut lines: Vec<u8>) -> Buffer {
        lines.clear();
        let next = Buffer { lines, dropped: 0 };
        std::mem::replace(&mut *self.buffer.lock(), next)
    }
}

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
    let queue = || Queue {
        buffer: Arc::default(),
        wake: wake.clone(),
    };
    let (lines, notices) = (queue(), queue());
    let loggers: Vec<Box<dyn SharedLogger>> = vec![
        WriteLogger::new(
            level,
            format(),
            LineWriter::new(&lines, Some(ClockFace::default())),
        ),
        // Notices on a terminal go without the time.
        WriteLogger::new(
            LevelFilter::Warn.min(level),
            format(),
            LineWriter::new(&notices, None),
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
        .stack_size(crate::STACK_BYTES)
        .spawn(move || drain.run())?;
    Ok(LogWriter {
        wake: Some(wake),
        stop: Some(stop),
        thread: Some(thread),
    })
}

impl LineWriter {
    fn new(queue: &Queue, clock: Option<ClockFace>) -> LineWriter {
        LineWriter {
            queue: queue.clone(),
            line: Vec::new(),
            clock,
        }
    }
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

/// A file that is renamed and begun anew when it has grown large.
#[derive(Debug)]
struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
}

impl RotatingFile {
    fn open(path: PathBuf, limit: u64) -> io::Result<RotatingFile> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(RotatingFile {
            path,
            file,
            bytes,
            limit,
        })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.limit {
            // A file that grows is better than lines that are lost; the next write tries again.
            let _ = self.rotate();
        }
        if let Err(error) = self.file.write_all(lines) {
            // A disk that is full may have taken half a line.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let kept = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..KEPT_FILES).rev() {
            // The older ones need not exist.
            let _ = std::fs::rename(kept(number), kept(number + 1));
        }
        match std::fs::rename(&self.path, kept(1)) {
            // The last try came so far.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        *self = RotatingFile::open(self.path.clone(), self.limit)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (Queue, Receiver<()>) {
        let (wake, woken) = bounded(1);
        let buffer = Arc::default();
        (Queue { buffer, wake }, woken)
    }

    #[test]
    fn lines_are_queued_whole() {
        let (queue, _woken) = queue();
        let mut writer = LineWriter::new(&queue, None);
        for piece in ["a ", "line", "\n", "half"] {
            writer.write_all(piece.as_bytes()).expect("memory");
        }
        assert_eq!(queue.take(Vec::new()).lines, b"a line\n");
    }

    #[test]
    fn the_time_is_utc_with_microseconds() {
        let mut face = ClockFace::default();
        let mut check = |micros: u64, expected: &str| {
            let mut out = Vec::new();
            face.write(UNIX_EPOCH + Duration::from_micros(micros), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        };
        check(0, "1970-01-01T00:00:00.000000Z ");
        check(1_479_413_884_392_014, "2016-11-17T20:18:04.392014Z ");
        check(1_479_413_884_999_999, "2016-11-17T20:18:04.999999Z ");
        check(1_479_413_885_000_001, "2016-11-17T20:18:05.000001Z ");
        check(951_782_400_000_000, "2000-02-29T00:00:00.000000Z ");
    }

    #[test]
    fn a_full_buffer_drops_and_counts_and_wakes_once() {
        let (queue, woken) = queue();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..10 {
            queue.push(&line);
        }
        assert_eq!(woken.len(), 1);
        let taken = queue.take(Vec::new());
        assert_eq!((taken.lines.len(), taken.dropped), (BUFFER_BYTES, 2));
        assert_eq!(queue.take(Vec::new()).dropped, 0);
    }

    fn directory(label: &str) -> PathBuf {
        let name = format!("herd-log-{label}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        directory
    }

    #[test]
    fn a_file_that_cannot_rotate_grows_and_rotates_once_it_can() {
        let directory = directory("stuck");
        let path = directory.join("Ball.log");
        let mut file = RotatingFile::open(path.clone(), 10).expect("a file");
        // Folders that are not empty are replaced by nothing.
        let obstacle = |number| directory.join(format!("Ball.log.{number}"));
        for number in 1..=KEPT_FILES {
            std::fs::create_dir_all(obstacle(number).join("held")).expect("a directory");
        }
        let mut write = |line: &str| file.write(line.as_bytes()).expect("a write");
        write("line 0\n");
        write("line 1\n");
        let read = |path: &Path| std::fs::read_to_string(path).expect("a file");
        assert_eq!(read(&path), "line 0\nline 1\n");
        for number in 1..=KEPT_FILES {
            std::fs::remove_dir_all(obstacle(number)).expect("removed");
        }
        write("line 2\n");
        assert_eq!(read(&path), "line 2\n");
        assert_eq!(read(&obstacle(1)), "line 0\nline 1\n");
        std::fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn files_rotate_by_size_and_old_ones_go() {
        let directory = directory("rotated");
        let path = directory.join("Ball.log");
        let mut file = RotatingFile::open(path.clone(), 10).expect("a file");
        for number in 0..10 {
            file.write(format!("line {number}\n").as_bytes())
                .expect("a write");
        }
        let read = |suffix: &str| std::fs::read_to_string(format!("{}{suffix}", path.display()));
        assert_eq!(read("").expect("the file"), "line 9\n");
        assert_eq!(read(".1").expect("the last"), "line 8\n");
        assert_eq!(read(".4").expect("the oldest"), "line 5\n");
        assert!(read(".5").is_err());
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
