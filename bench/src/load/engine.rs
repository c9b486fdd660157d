//! The run itself: one thread, one epoll, all connections.
//!
//! Closed loop: each connection keeps its depth in flight, and a reply makes the next request.
//! Open loop: requests leave at their intended times, and latency counts from those, so that a
//! server that stalls can't hide the requests it kept from being sent. A turn measures the time
//! between the end of its warm-up and the end of its sending; after that it waits for
//! every reply that is due. Connections outlive a turn: what 8,000 of them took to make need not
//! be spent for each.

use std::net::TcpStream;
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::fd::OwnedFd;

use super::background::{self, BackgroundClients};
use super::check::Checker;
use super::connection::Connection;
use super::workload::Workload;
use super::{Plan, Wire, towns};
use crate::figures::grouped;
use crate::net;
use crate::process;
use crate::progress::Progress;

/// Nanoseconds without any reply, though some are due, after which a run is void.
const STALL_NANOS: u64 = 10_000_000_000;

/// Longest time that a server may take to accept all connections, and the pause between two checks.
const ACCEPT_LIMIT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(2);

/// Descriptors of connections that went before, which a server may close meanwhile.
const SPARE_DESCRIPTORS: usize = 8;

/// Requests without a reply after which an open loop is void: the rate is beyond the server.
const MAX_BACKLOG: u64 = 1_000_000;

/// Requests that an open loop sends before it looks for replies again.
const OPEN_BATCH: u64 = 64;

/// Nanoseconds of one wait at most: how late the end of a run may be noticed.
const MAX_WAIT_NANOS: u64 = 20_000_000;

/// Longest time that a histogram can hold, in nanoseconds; a longer one counts as this.
const MAX_NANOS: u64 = 3_600_000_000_000;

/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;

/// Readiness events of one wait.
const MAX_EVENTS: usize = 1024;

/// Number of an idle connection in its events: it has no index.
const IDLE: u64 = u64::MAX;

/// Result of a turn.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Seconds from the end of the warm-up to the end of sending.
    pub(crate) seconds: f64,
    /// Replies that came within them.
    pub(crate) replies: u64,
    /// Nanoseconds from request to reply.
    pub(crate) latency: Histogram<u64>,
    /// Nanoseconds by which requests of an open loop left late; empty for a closed loop.
    pub(crate) lateness: Histogram<u64>,
    /// Number of times that the server has closed a misbehaving client, in the whole run.
    pub(crate) dropped: u64,
    /// CPU time of the server in those seconds.
    pub(crate) server_cpu_nanos: Option<u64>,
    /// CPU time of this generator in them.
    pub(crate) own_cpu_nanos: u64,
    /// Memory of the server in KiB before any connection, with all of them idle, at the end.
    pub(crate) server_kib: Option<[u64; 3]>,
}

/// Connections to a server, and their state.
#[derive(Debug)]
pub(crate) struct Session {
    plan: Plan,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Held open, never used.
    _idle: Vec<TcpStream>,
    background: BackgroundClients,
    load: Workload,
    checker: Checker,
    /// Memory of the server in KiB before any connection and with all of them idle.
    kib: Option<(u64, u64)>,
    /// All times are nanoseconds since then.
    start: Instant,
    /// All requests and replies.
    sent: u64,
    received: u64,
    last_reply: u64,
    /// When this turn began, or the last one ended, and what had been sent until it began.
    begin: u64,
    sent_before: u64,
    /// Replies between the warm-up's end and the end of sending.
    counted: u64,
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
}

fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, MAX_NANOS, 3).map_err(|error| format!("histogram: {error}"))
}

/// Waits until the server has this number of descriptors: the kernel makes connections before the
/// server knows of them, and accepting them is work that must not be measured.
fn wait_accepted(process: &str, wanted: usize) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let open = process::descriptors(process)?;
        if open + SPARE_DESCRIPTORS >= wanted {
            return Ok(());
        }
        if start.elapsed() > ACCEPT_LIMIT {
            return Err(format!(
                "the server has {open} descriptors after 10 s, and {wanted} are needed for all \
                 connections"
            ));
        }
        thread::sleep(ACCEPT_PAUSE);
    }
}

impl Session {
    /// Makes all connections of a plan, and waits until the server has accepted them.
    pub(crate) fn open(plan: Plan, progress: &mut Progress) -> Result<Session, String> {
        let options = &plan.options;
        if options.rate.is_some() {
            // By default the kernel may end a wait 50 µs late, which an open loop would count as
            // latency. Where it can't be set, the result shows how late requests left.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
        let process = plan.process.as_deref();
        let before = process.map(process::resident_kib).transpose()?;
        let open = process.map(process::descriptors).transpose()?;
        let fault = |error: std::io::Error| format!("epoll: {error}");
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| fault(error.into()))?;
        let load = Workload::new(&plan);
        let (mut connections, mut idle) = (Vec::new(), Vec::new());
        let total = options.idle + options.connections;
        for number in 0..total {
            let stream = net::connect(&plan.addresses).map_err(|error| {
                let (number, address) = (number + 1, &options.address);
                format!("connection {number} of {total} to {address}: {error}")
            })?;
            if options.nearby > 0.0 && plan.wire == Wire::Herd {
                towns::say_hello(&stream)?;
            }
            let index = number.checked_sub(options.idle);
            let data = index.map_or(IDLE, |index| index as u64);
            net::watch(&epoll, &stream, data, epoll::EventFlags::IN).map_err(fault)?;
            match index {
                None => idle.push(stream),
                Some(index) => connections.push(Connection::new(stream, load.share(index))),
            }
            progress.show(|| format!("{} of {total} connections", number + 1));
        }
        let mut background = BackgroundClients::new(&plan.addresses);
        for number in 0..options.drip + options.deaf {
            background
                .add(&epoll, number < options.drip)
                .map_err(|error| format!("bad client {}: {error}", number + 1))?;
            progress.show(|| format!("{} bad clients", number + 1));
        }
        if let (Some(process), Some(open)) = (process, open) {
            wait_accepted(process, open + total)?;
        }
        let connected = process.map(process::resident_kib).transpose()?;
        Ok(Session {
            checker: Checker::new(plan.wire, options.bound),
            kib: before.zip(connected),
            plan,
            epoll,
            connections,
            _idle: idle,
            background,
            load,
            start: Instant::now(),
            sent: 0,
            received: 0,
            last_reply: 0,
            begin: 0,
            sent_before: 0,
            counted: 0,
            latency: histogram()?,
            lateness: histogram()?,
        })
    }

    /// One turn: `warmup` seconds of load that are not counted, then those of the plan.
    pub(crate) fn turn(
        &mut self,
        warmup: f64,
        progress: &mut Progress,
    ) -> Result<Measured, String> {
        let now = self.now();
        self.background.pause(now - self.begin);
        (self.begin, self.last_reply, self.sent_before) = (now, now, self.sent);
        self.counted = 0;
        let readings = self.drive(warmup, progress)?;
        self.begin = self.now();
        let process = self.plan.process.as_deref();
        let end = process.map(process::resident_kib).transpose()?;
        let (opened, closed) = readings
            .filter(|(opened, closed)| closed.now > opened.now)
            .ok_or("nothing was measured: the requests ended within the warm-up, or this program got no CPU time")?;
        let server_cpu = opened.server_cpu.zip(closed.server_cpu);
        Ok(Measured {
            seconds: (closed.now - opened.now) as f64 / 1e9,
            replies: self.counted,
            latency: std::mem::replace(&mut self.latency, histogram()?),
            lateness: std::mem::replace(&mut self.lateness, histogram()?),
            dropped: self.background.dropped(),
            server_cpu_nanos: server_cpu.map(|(opened, closed)| closed - opened),
            own_cpu_nanos: closed.own_cpu - opened.own_cpu,
            server_kib: self
                .kib
                .zip(end)
                .map(|((before, connected), end)| [before, connected, end]),
        })
    }

    /// The loop. Returns the readings at both ends of the measured time.
    fn drive(
        &mut self,
        warmup: f64,
        progress: &mut Progress,
    ) -> Result<Option<(Reading, Reading)>, String> {
        let warm = self.begin + (warmup * 1e9) as u64;
        let mut end = warm + (self.plan.options.seconds * 1e9) as u64;
        let (mut opened, mut closed) = (None, None);
        let mut events: Vec<epoll::Event> = Vec::with_capacity(MAX_EVENTS);
        let mut buffer = vec![0; READ_BYTES];
        if self.plan.options.rate.is_none() {
            self.fill()?;
        }
        loop {
            let now = self.now();
            let requests = self.plan.options.requests;
            if requests.is_some_and(|most| self.sent >= most) {
                end = end.min(now.max(warm));
            }
            let process = self.plan.process.as_deref();
            if opened.is_none() && now >= warm {
                opened = Some(Reading::take(process, now)?);
            }
            if closed.is_none() && now >= end {
                closed = Some(Reading::take(process, now)?);
            }
            let counting = opened.is_some() && closed.is_none();
            let sending = now < end;
            if !sending && self.sent == self.received {
                break;
            }
            self.check_stall(now)?;
            let mut wait = MAX_WAIT_NANOS;
            if sending && let Some(rate) = self.plan.options.rate {
                wait = self.send_due(rate, now, warm)?.min(wait);
            }
            wait = self.background.drip(now)?.min(wait);
            net::wait(&self.epoll, &mut events, wait)?;
            for event in events.drain(..) {
                self.ready(&event, warm, counting, end, &mut buffer)?;
            }
            progress.show(|| self.describe(warm, end));
        }
        Ok(opened.zip(closed))
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The closed loop's beginning: as many requests as it keeps in flight.
    fn fill(&mut self) -> Result<(), String> {
        for index in 0..self.connections.len() {
            let now = self.now();
            for _ in 0..self.requests_left(index).min(self.plan.depth as u64) {
                self.connections[index].request(&mut self.load, now, now);
                self.sent += 1;
            }
            self.flush(index)?;
        }
        Ok(())
    }

    /// Sends the requests that an open loop's schedule has due. Returns the nanoseconds until the next is.
    fn send_due(&mut self, rate: f64, now: u64, warm: u64) -> Result<u64, String> {
        let (begin, before) = (self.begin, self.sent_before);
        let due_at = |number: u64| begin + ((number - before) as f64 * 1e9 / rate) as u64;
        for _ in 0..OPEN_BATCH {
            let at = due_at(self.sent);
            if at > now {
                return Ok(at - now);
            }
            let index = (self.sent % self.connections.len() as u64) as usize;
            if self.requests_left(index) == 0 {
                return Ok(u64::MAX);
            }
            self.connections[index].request(&mut self.load, now, at);
            self.sent += 1;
            self.flush(index)?;
            if at >= warm {
                self.lateness
                    .saturating_record(self.now().saturating_sub(at));
            }
        }
        Ok(0)
    }

    fn ready(
        &mut self,
        event: &epoll::Event,
        warm: u64,
        counting: bool,
        end: u64,
        buffer: &mut [u8],
    ) -> Result<(), String> {
        if event.data.u64() == IDLE {
            return Err("the server sent something to an idle connection, or closed it".to_owned());
        }
        let flags = event.flags;
        if event.data.u64() >= background::FIRST {
            let (number, now) = (event.data.u64(), self.now());
            return self.background.ready(&self.epoll, number, flags, now);
        }
        let index = event.data.u64() as usize;
        if flags.contains(epoll::EventFlags::OUT) {
            self.flush(index)?;
        }
        let readable = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if !flags.intersects(readable) {
            return Ok(());
        }
        let connection = &mut self.connections[index];
        let Some(input) = connection.read(buffer)? else {
            return Ok(());
        };
        let now = self.start.elapsed().as_nanos() as u64;
        let latency = &mut self.latency;
        let mut replies = 0;
        connection.replies(&mut self.checker, input, |request| {
            replies += 1;
            if request.at >= warm {
                latency.saturating_record(now - request.at);
            }
        })?;
        self.received += replies;
        self.last_reply = now;
        if counting {
            self.counted += replies;
        }
        if self.plan.options.rate.is_none() && now < end {
            let requests = replies.min(self.requests_left(index));
            let connection = &mut self.connections[index];
            for _ in 0..requests {
                connection.request(&mut self.load, now, now);
            }
            self.sent += requests;
            self.flush(index)?;
        }
        Ok(())
    }

    /// Returns the number of requests that a connection may still send. All have the same number, or a fast one would
    /// report its clients again before a slow one has reported its own.
    fn requests_left(&self, index: usize) -> u64 {
        let connections = self.connections.len() as u64;
        let most = self.plan.options.requests.map_or(u64::MAX, |requests| {
            (requests + connections - 1 - index as u64) / connections
        });
        most.saturating_sub(self.connections[index].requests())
    }

    /// Writes the requests of a connection, and watches for writability if some are left.
    fn flush(&mut self, index: usize) -> Result<(), String> {
        let connection = &mut self.connections[index];
        let (before, all) = connection
            .flush()
            .map_err(|error| format!("a connection broke: {error}"))?;
        if before != all {
            let flags = if all {
                epoll::EventFlags::IN
            } else {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            };
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &connection.stream, data, flags)
                .map_err(|error| format!("epoll: {error}"))?;
        }
        Ok(())
    }

    fn check_stall(&self, now: u64) -> Result<(), String> {
        let missing = self.sent - self.received;
        if missing > 0 && now.saturating_sub(self.last_reply) > STALL_NANOS {
            return Err(format!("no reply for 10 s, {} missing", grouped(missing)));
        }
        if self.plan.options.rate.is_some() && missing > MAX_BACKLOG {
            return Err(format!(
                "{} replies missing: the server can't keep up with this rate",
                grouped(missing)
            ));
        }
        Ok(())
    }

    fn describe(&self, warm: u64, end: u64) -> String {
        let now = self.now();
        let since = |begin: u64| (now - begin) as f64 / 1e9;
        let seconds = since(self.begin);
        let phase = match now {
            now if now < warm => "warming up",
            now if now < end => "measuring",
            _ => "waiting for the last replies",
        };
        format!(
            "{phase}: {seconds:.1} of {:.1} s, {} replies, {} /s on average",
            (end - self.begin) as f64 / 1e9,
            grouped(self.received),
            grouped((self.received as f64 / since(0)) as u64),
        )
    }
}

/// Readings at one end of the measured time.
#[derive(Debug)]
struct Reading {
    now: u64,
    server_cpu: Option<u64>,
    own_cpu: u64,
}

impl Reading {
    fn take(process: Option<&str>, now: u64) -> Result<Reading, String> {
        Ok(Reading {
            now,
            server_cpu: process.map(process::cpu_nanos).transpose()?,
            own_cpu: process::cpu_nanos("self")?,
        })
    }
}
