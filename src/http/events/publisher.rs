//! The publisher's thread: when it looks at what, and which viewers get which events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use log::debug;

use super::figures::History;
use super::map::{Frames, Map, Thresholds};
use super::{Herd, Newcomer, Servers, Sources};
use crate::http::json::{write_event, write_string};
use crate::http::viewer::{Closed, Viewer};
use crate::model::time::{Timestamp, write_u64};
use crate::poller::Poller;
use crate::thread::Stop;

/// Version of the events.
const VERSION: u64 = 1;

/// Interval of frames, and at which the herd is looked at.
const TICK: Duration = Duration::from_millis(250);

/// Time within which a viewer must have taken an event.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Interval of the figures.
const SECOND: Duration = Duration::from_secs(1);

/// The pause from one scan to the next is at least this many times the CPU time of the first: a scan
/// of a few thousand records fits into a tick, and one of millions takes no more of a processor.
const PAUSE_PER_COST: u32 = 40;

/// Bytes of beginnings that have still to be taken, of all viewers together, up to which one more is
/// made. With ids of the greatest length one has 30 MB, and each viewer's is another.
pub(super) const MAX_BEGINNINGS: usize = 64 << 20;

/// A viewer and how far it has come.
struct Seated {
    /// Id of its connection with the poller.
    id: u64,
    viewer: Viewer,
    /// It has had its whole frame.
    is_admitted: bool,
}

/// State of the thread.
pub(super) struct Run {
    sources: Sources,
    newcomers: Receiver<Newcomer>,
    stop: Stop,
    poller: Poller,
    last_id: u64,
    viewers: Vec<Seated>,
    max_beginnings: usize,
    map: Map,
    /// Commits of the replica before the last scan; `None` before the first.
    scanned: Option<usize>,
    next_scan: Instant,
    next_tick: Instant,
    next_second: Instant,
    last_second: Instant,
    history: History,
    servers: Servers,
    herd: Option<Herd>,
}

impl Run {
    pub(super) fn new(
        sources: Sources,
        max_beginnings: usize,
        newcomers: Receiver<Newcomer>,
        stop: Stop,
        poller: Poller,
    ) -> Run {
        let now = Instant::now();
        let history = History::new((sources.totals)());
        Run {
            sources,
            newcomers,
            stop,
            poller,
            last_id: 0,
            viewers: Vec::new(),
            max_beginnings,
            map: Map::new(Thresholds::default()),
            scanned: None,
            next_scan: now,
            next_tick: now,
            next_second: now + SECOND,
            last_second: now,
            history,
            servers: Servers::default(),
            herd: None,
        }
    }

    /// Publishes until the stop signal.
    pub(super) fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            let pause = self.next_wake().saturating_duration_since(Instant::now());
            let ids = self.viewers.iter().map(|seated| seated.id);
            self.poller.wait(Some(pause), ids, &mut ready);
            if self.stop.is_set() {
                return;
            }
            let now = Instant::now();
            self.serve(&ready, now);
            ready.clear();
            self.take_newcomers(now);
            self.publish(now);
            self.watch();
        }
    }

    /// Returns the moment at which there is something to do, whatever the viewers do.
    fn next_wake(&self) -> Instant {
        let deadlines = self
            .viewers
            .iter()
            .filter_map(|seated| seated.viewer.deadline());
        let tick = (!self.viewers.is_empty()).then_some(self.next_tick);
        deadlines
            .chain(tick)
            .fold(self.next_second, |earliest, next| earliest.min(next))
    }

    /// Reads from and writes to the viewers that are ready, and closes those that are too slow.
    fn serve(&mut self, ready: &[u64], now: Instant) {
        self.keep(|seated| {
            let viewer = &mut seated.viewer;
            if ready.contains(&seated.id) {
                viewer.read()?;
                viewer.write(now)?;
            }
            viewer.check(now)
        });
    }

    /// Has each connection watched for what its viewer needs.
    fn watch(&mut self) {
        for Seated { id, viewer, .. } in &mut self.viewers {
            if let Err(error) = viewer.wait_in(&self.poller, *id) {
                debug!("a viewer of /events can't be watched: {error}");
            }
        }
    }

    /// Keeps the viewers for which `serve` succeeds.
    fn keep(&mut self, mut serve: impl FnMut(&mut Seated) -> Result<(), Closed>) {
        self.viewers.retain_mut(|seated| {
            serve(seated)
                .inspect_err(|reason| debug!("a viewer of /events is closed: {reason}"))
                .is_ok()
        });
    }

    /// Sends their heads to the connections that have come.
    fn take_newcomers(&mut self, now: Instant) {
        while let Ok(newcomer) = self.newcomers.try_recv() {
            let mut viewer = Viewer::new(newcomer.stream, TAKEN_WITHIN, newcomer.seat);
            self.last_id += 1;
            let id = self.last_id;
            if self.poller.add(viewer.stream(), id).is_ok()
                && viewer.begin(newcomer.head.into(), now).is_ok()
            {
                self.viewers.push(Seated {
                    id,
                    viewer,
                    is_admitted: false,
                });
            }
        }
    }

    /// Sends the events that are due.
    fn publish(&mut self, now: Instant) {
        let mut events = Vec::new();
        let at = Timestamp::now();
        if now >= self.next_second {
            self.count(now, at);
            if !self.viewers.is_empty() {
                self.look_at_servers(&mut events);
                write_event("figures", &mut events, |out| self.history.write_last(out));
            }
        }
        let mut beginning = None;
        if now >= self.next_tick && !self.viewers.is_empty() {
            self.next_tick = now + TICK;
            beginning = self.tick(now, at, &mut events);
        }
        if !events.is_empty() {
            let events: Arc<[u8]> = events.into();
            self.keep(|seated| match seated.is_admitted {
                true => seated.viewer.send(Arc::clone(&events), now),
                false => Ok(()),
            });
        }
        if let Some(beginning) = beginning {
            let beginning: Arc<[u8]> = beginning.into();
            self.keep(
                |seated| match std::mem::replace(&mut seated.is_admitted, true) {
                    true => Ok(()),
                    false => seated.viewer.begin(Arc::clone(&beginning), now),
                },
            );
        }
    }

    /// Adds the figures of the second that has passed.
    fn count(&mut self, now: Instant, at: Timestamp) {
        let elapsed = now - self.last_second;
        self.history.add((self.sources.totals)(), elapsed, at);
        self.last_second = now;
        self.next_second += SECOND;
        if self.next_second <= now {
            // The machine has slept, or a scan took long.
            self.next_second = now + SECOND;
        }
    }

    /// Appends the events of a tick for the viewers that are admitted. Returns those for the others,
    /// if they can be admitted now.
    fn tick(&mut self, now: Instant, at: Timestamp, events: &mut Vec<u8>) -> Option<Vec<u8>> {
        let is_new = |seated: &Seated| !seated.is_admitted;
        let untaken = |seated: &Seated| seated.viewer.beginning();
        // Otherwise they wait, for as long as a viewer may take for its beginning.
        let has_room = self.viewers.iter().map(untaken).sum::<usize>() < self.max_beginnings;
        let has_newcomers = has_room && self.viewers.iter().any(is_new);
        if has_newcomers {
            self.look_at_servers(events);
        }
        let frames = self.frames(now, at, has_newcomers);
        if let Some(changes) = frames.changes {
            write_event("frame", events, |out| out.extend_from_slice(&changes));
        }
        self.look_at_herd(events);
        let whole = frames.whole.filter(|_| has_newcomers)?;
        let mut beginning = Vec::with_capacity(whole.len() + (128 << 10));
        let history = Some(&self.history);
        write_event("hello", &mut beginning, |out| {
            write_hello(&self.servers, history, out);
        });
        write_event("frame", &mut beginning, |out| out.extend_from_slice(&whole));
        if let Some((_, herd)) = &self.herd {
            write_event("herd", &mut beginning, |out| {
                out.extend_from_slice(herd.as_bytes());
            });
        }
        Some(beginning)
    }

    /// Returns the frames of a scan, if one is due and of use; else those that take none.
    fn frames(&mut self, now: Instant, at: Timestamp, has_newcomers: bool) -> Frames {
        let replica = &self.sources.replica;
        let commits = replica.commits();
        let whole = has_newcomers.then(|| self.map.whole(at)).flatten();
        let is_of_use = self.scanned != Some(commits)
            || self.map.has_expired(replica, at)
            || has_newcomers && whole.is_none();
        if now < self.next_scan || !is_of_use {
            return Frames {
                changes: self.map.reports(replica, at),
                whole,
            };
        }
        let begin = cpu_time();
        let stop = &self.stop;
        let frames = self.map.scan(replica, at, has_newcomers, || !stop.is_set());
        let cost = cpu_time().saturating_sub(begin);
        self.scanned = Some(commits);
        self.next_scan = now + TICK.max(cost * PAUSE_PER_COST);
        frames
    }

    /// Appends `hello` if the servers are others than before.
    fn look_at_servers(&mut self, events: &mut Vec<u8>) {
        let servers = (self.sources.servers)();
        if servers != self.servers {
            self.servers = servers;
            write_event("hello", events, |out| write_hello(&self.servers, None, out));
        }
    }

    /// Appends `herd` if there is a new survey.
    fn look_at_herd(&mut self, events: &mut Vec<u8>) {
        let Some((number, herd)) = (self.sources.herd)() else {
            self.herd = None;
            return;
        };
        if self.herd.as_ref().is_none_or(|(last, _)| *last != number) {
            write_event("herd", events, |out| out.extend_from_slice(herd.as_bytes()));
            self.herd = Some((number, herd));
        }
    }
}

/// Appends the JSON of `hello`.
fn write_hello(servers: &Servers, history: Option<&History>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"version\":");
    write_u64(VERSION, out);
    out.extend_from_slice(b",\"server\":");
    write_string(&servers.name, out);
    out.extend_from_slice(b",\"release\":");
    write_string(&servers.release, out);
    out.extend_from_slice(b",\"epoch\":");
    write_u64(servers.epoch, out);
    out.extend_from_slice(b",\"servers\":[");
    for (index, (name, neighbors)) in servers.servers.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"name\":");
        write_string(name, out);
        out.extend_from_slice(b",\"neighbors\":[");
        for (index, neighbor) in neighbors.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(neighbor, out);
        }
        out.extend_from_slice(b"]}");
    }
    out.push(b']');
    if let Some(history) = history {
        out.extend_from_slice(b",\"history\":");
        history.write_all(out);
    }
    out.push(b'}');
}

/// Returns the CPU time of this thread: a scan that waits for a processor costs no more for that.
#[cfg(unix)]
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap_or_default()
}

/// Returns a time that is not less than the CPU time.
#[cfg(not(unix))]
fn cpu_time() -> Duration {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
