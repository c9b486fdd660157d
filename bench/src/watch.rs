//! `herd-bench watch`: watches of a server, and how long a report takes to be pushed to them.
//!
//! The reports are those of a `herd-bench load` beside it, whose times are the moments at which they
//! were sent: so a push tells by itself how old it is. One thread reads all connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use argh::FromArgs;
use hdrhistogram::Histogram;
use rustix::event::epoll;

use crate::figures::{duration, grouped};
use crate::load::{say_hello, town_of};
use crate::progress::Progress;
use crate::{Failure, net, print, process};

/// Watches that a connection may have.
const MAX_OF_CONNECTION: usize = 64;

/// Longest time until all watches are filled.
const FILL_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for pushes, in nanoseconds.
const WAIT_NANOS: u64 = 20_000_000;

/// Longest delay that a histogram can hold, in nanoseconds.
const MAX_NANOS: u64 = 100_000_000_000;

/// Bytes of one read.
const READ_BYTES: usize = 256 << 10;

/// Bytes of one read of a connection that reads slowly, and the pause after it.
const SLOW_BYTES: usize = 4 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(100);

/// Watch clients, and measure how long their reports take to be pushed.
///
/// Run a `load --towns --rate` beside it. Watch number n lies around client n of that load. Each
/// push's age is counted from its report's time. A refused watch or a closed connection makes the
/// run void.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "watch",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --address 127.0.0.1:12000 --watches 1000 --connections 16 --pid 4711",
    example = "{command_name} --address 127.0.0.1:12000 --watches 99 --connections 99 --deaf 1 --radius 20016 --each 64"
)]
pub(crate) struct Watch {
    /// HOST:PORT of the server's client port
    #[argh(option, arg_name = "host:port")]
    address: String,

    /// watches, dealt out to the connections (default: 1000)
    #[argh(option, default = "1000", arg_name = "n")]
    watches: usize,

    /// connections that read all they can (default: 16)
    #[argh(option, default = "16", arg_name = "n")]
    connections: usize,

    /// connections beside them with one such watch each that never read (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    deaf: usize,

    /// connections beside them with one such watch each that read 40 KiB a second (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    slow: usize,

    /// radius of a watch in kilometers; 20016 is the whole earth (default: 5)
    #[argh(option, default = "5.0", arg_name = "km")]
    radius: f64,

    /// look at the age of every n-th push alone, so that reading costs little (default: 1)
    #[argh(option, default = "1", arg_name = "n")]
    each: u64,

    /// seconds to measure (default: 5)
    #[argh(option, default = "5.0", arg_name = "s")]
    seconds: f64,

    /// seconds before that, after all watches were filled (default: 1)
    #[argh(option, default = "1.0", arg_name = "s")]
    warmup: f64,

    /// the server's process, to measure its CPU time and memory
    #[argh(option, arg_name = "pid")]
    pid: Option<u32>,
}

/// What one connection has said so far.
#[derive(Debug)]
struct Watcher {
    stream: TcpStream,
    /// The start of a line whose rest has not come.
    partial: Vec<u8>,
    /// Watches that are still to be filled.
    unsettled: usize,
    is_slow: bool,
    last_read: Instant,
}

/// The pushes that were read.
#[derive(Debug)]
struct Pushes {
    ages: Histogram<u64>,
    each: u64,
    /// All of them.
    count: u64,
    /// Watches that were filled again.
    resets: u64,
}

impl Pushes {
    fn new(each: u64) -> Result<Pushes, String> {
        Ok(Pushes {
            ages: Histogram::new_with_bounds(1, MAX_NANOS, 3)
                .map_err(|error| format!("histogram: {error}"))?,
            each,
            count: 0,
            resets: 0,
        })
    }
}

impl Watch {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        self.check()
            .map_err(|error| Failure::Usage(format!("watch: {error}")))?;
        let result = self.measure(&mut Progress::new());
        print(&result.map_err(|error| Failure::Failed(format!("void: {error}")))?)
    }

    fn check(&self) -> Result<(), String> {
        if self.connections == 0 || self.watches < self.connections || self.each == 0 {
            return Err("--connections and --each must be at least 1, and --watches as many as --connections".to_owned());
        }
        if self.watches.div_ceil(self.connections) > MAX_OF_CONNECTION {
            return Err(format!(
                "a connection has {MAX_OF_CONNECTION} watches at most"
            ));
        }
        if !(self.radius > 0.0 && self.radius <= 20_016.0 && self.seconds >= 0.1) {
            return Err(
                "--radius must be over 0 and up to 20016, --seconds at least 0.1".to_owned(),
            );
        }
        Ok(())
    }

    /// Measures, and returns the text of the result.
    fn measure(&self, progress: &mut Progress) -> Result<String, String> {
        process::raise_descriptor_limit();
        let process = self.pid.map(|pid| pid.to_string());
        let holding = || process.as_deref().map(process::holding).transpose();
        let before = holding()?;
        let fault = |error: rustix::io::Errno| format!("epoll: {error}");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(fault)?;
        let addresses = net::resolve(&self.address)?;
        let mut watchers = Vec::new();
        // Those without a share of the watches have one each.
        for index in 0..self.connections + self.slow + self.deaf {
            let numbers = match index < self.connections {
                true => (index..self.watches).step_by(self.connections),
                false => (index..index + 1).step_by(1),
            };
            let is_read = index < self.connections + self.slow;
            let unsettled = if is_read { numbers.len() } else { 0 };
            let watcher = Watcher {
                stream: self.begin(&addresses, numbers)?,
                partial: Vec::new(),
                unsettled,
                is_slow: index >= self.connections,
                last_read: Instant::now(),
            };
            if index < self.connections {
                net::watch(&epoll, &watcher.stream, index as u64, epoll::EventFlags::IN)
                    .map_err(|error| format!("epoll: {error}"))?;
            }
            watchers.push(watcher);
        }
        let began = Instant::now();
        let warmup = Duration::from_secs_f64(self.warmup);
        let seconds = Duration::from_secs_f64(self.seconds);
        let mut settled = None;
        let mut opened = None;
        let mut pushes = Pushes::new(self.each)?;
        let mut events: Vec<epoll::Event> = Vec::with_capacity(watchers.len());
        let mut buffer = vec![0; READ_BYTES];
        loop {
            net::wait(&epoll, &mut events, WAIT_NANOS)?;
            for event in events.drain(..) {
                watchers[event.data.u64() as usize].read(&mut buffer, &mut pushes)?;
            }
            for watcher in &mut watchers[self.connections..self.connections + self.slow] {
                if watcher.last_read.elapsed() >= SLOW_PAUSE {
                    watcher.read(&mut buffer[..SLOW_BYTES], &mut pushes)?;
                }
            }
            let now = Instant::now();
            let filled = watchers[..self.connections]
                .iter()
                .filter(|watcher| watcher.unsettled == 0)
                .count();
            progress.show(|| {
                format!(
                    "{filled} connections filled, {} pushes",
                    grouped(pushes.count)
                )
            });
            if settled.is_none() && filled == self.connections {
                settled = Some(now);
            }
            let Some(settled) = settled else {
                if now - began > FILL_LIMIT {
                    return Err(format!("{filled} connections were filled within 60 s"));
                }
                continue;
            };
            match &opened {
                None if now - settled >= warmup => {
                    pushes = Pushes::new(self.each)?;
                    opened = Some((now, holding()?, process::cpu_nanos("self")?));
                }
                Some((opened, held, own)) if now - *opened >= seconds => {
                    let took = (now - *opened).as_secs_f64();
                    let own = process::cpu_nanos("self")? - own;
                    let mut out = self.text(&pushes, took, own);
                    if let (Some(before), Some(held), Some(end)) = (before, held, holding()?) {
                        let cpu = (end.cpu_nanos - held.cpu_nanos) as f64;
                        out += &format!(
                            "server CPU  {:.2} cores, {} a push\nserver RSS  {} KiB before the watches, {} KiB at the end\n",
                            cpu / 1e9 / took,
                            duration(cpu / pushes.count.max(1) as f64),
                            grouped(before.kib),
                            grouped(end.kib)
                        );
                    }
                    return Ok(out);
                }
                _ => {}
            }
        }
    }

    /// Connects, and begins the watches of those numbers.
    fn begin(
        &self,
        addresses: &[std::net::SocketAddr],
        numbers: impl Iterator<Item = usize>,
    ) -> Result<TcpStream, String> {
        let mut stream =
            net::connect(addresses).map_err(|error| format!("can't connect: {error}"))?;
        say_hello(&stream)?;
        let lines: String = numbers
            .map(|number| watch_line(number, self.radius))
            .collect();
        // The lines of all watches of a connection fit into a socket that nothing was written to.
        let written = stream.write(lines.as_bytes());
        match written {
            Ok(bytes) if bytes == lines.len() => Ok(stream),
            Ok(_) => Err("a new socket takes less than the lines of the watches".to_owned()),
            Err(error) => Err(format!("can't write: {error}")),
        }
    }

    fn text(&self, pushes: &Pushes, seconds: f64, own: u64) -> String {
        let at = |quantile: f64| duration(pushes.ages.value_at_quantile(quantile) as f64);
        format!(
            "watches     {} of {} km, {} connections, {} slow, {} that never read\n\
             pushes      {} /s, {} watches were filled again\n\
             age         p50 {}, p90 {}, p99 {}, p99.9 {}, worst {}\n\
             reader      {:.2} cores\n",
            grouped(self.watches as u64),
            self.radius,
            grouped(self.connections as u64),
            self.slow,
            self.deaf,
            grouped((pushes.count as f64 / seconds) as u64),
            grouped(pushes.resets),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            duration(pushes.ages.max() as f64),
            own as f64 / 1e9 / seconds
        )
    }
}

/// The line that begins a watch around the client of that number.
fn watch_line(number: usize, radius: f64) -> String {
    let (latitude, longitude) = town_of(number);
    format!("WATCH w{number} {latitude:+010.6}{longitude:+011.6} {radius}\n")
}

impl Watcher {
    /// Reads once.
    fn read(&mut self, buffer: &mut [u8], pushes: &mut Pushes) -> Result<(), String> {
        self.last_read = Instant::now();
        let bytes = match (&self.stream).read(buffer) {
            Ok(0) => return Err("the server closed a connection with watches".to_owned()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(format!("a connection broke: {error}")),
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.lines(&buffer[..bytes], now.as_nanos() as u64, pushes)
    }

    /// Takes the lines that came at that time, in nanoseconds since the epoch.
    fn lines(&mut self, input: &[u8], now: u64, pushes: &mut Pushes) -> Result<(), String> {
        let mut rest = input;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, behind) = (&rest[..end], &rest[end + 1..]);
            rest = behind;
            if self.partial.is_empty() {
                self.line(line, now, pushes)?;
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, now, pushes)?;
            }
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Counts a line.
    fn line(&mut self, line: &[u8], now: u64, pushes: &mut Pushes) -> Result<(), String> {
        match line.first() {
            Some(b'M' | b'E' | b'L') if !line.starts_with(b"ERR") => {
                pushes.count += 1;
                if !self.is_slow && pushes.count.is_multiple_of(pushes.each) {
                    let time = report_time(line)
                        .ok_or_else(|| format!("no time in: {}", line.escape_ascii()))?;
                    let age = now.saturating_sub(time).max(1);
                    pushes.ages.saturating_record(age);
                }
            }
            Some(b'W' | b'I' | b'G') => {}
            Some(b'R') => pushes.resets += 1,
            // A watch that is filled again settles again.
            Some(b'S') => self.unsettled = self.unsettled.saturating_sub(1),
            _ => return Err(format!("a wrong line: {}", line.escape_ascii())),
        }
        Ok(())
    }
}

/// Returns the time of the report in a push, in nanoseconds since the epoch.
fn report_time(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let (seconds, nanos) = text.rsplit_once(' ')?.1.split_once('.')?;
    let nanos = (nanos.len() == 9).then(|| nanos.parse::<u64>().ok())??;
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + nanos)
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
