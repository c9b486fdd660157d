//! The thread that gathers what the server's state depends on, several times a second, and has it
//! judged. It waits for no disk.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{never, select};
use log::info;

use super::clock::ClockTrust;
use crate::client::limit::ConnectionLimit;
use crate::client::rejections::ClientRejections;
use crate::client::services::Services;
use crate::health::judge::{Facts, NeighborFacts, judge, old_neighbor};
use crate::health::{Health, State};
use crate::link::facts::LinkFacts;
use crate::logging::{self, EVENT};
use crate::model::time::Timestamp;
use crate::thread::{self, Liveness, Stop, Stopper};

/// Interval at which the state is judged: nothing is told later than this.
const INTERVAL: Duration = Duration::from_millis(250);

/// Maximum wait for the apply lock, which under any load is free within a few milliseconds.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Time for which dropped lines of the log count.
const DROPS_HOLD: Duration = Duration::from_millis(1_500);

/// Interval of the lines that show whether a log that failed can be written again.
const LOG_RETRY: Duration = Duration::from_millis(500);

/// The rooms that are looked at.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) links: LinkFacts,
    pub(super) services: Arc<Services>,
    pub(super) limit: ConnectionLimit,
    pub(super) rejections: ClientRejections,
    pub(super) health: Arc<Health>,
    /// Has to be looked at regularly.
    pub(super) liveness: Liveness,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Watch {
    stopper: Stopper,
    thread: JoinHandle<()>,
    ready: Stop,
}

impl Watch {
    /// Judges for the first time, and starts the thread.
    pub(super) fn start(sources: Sources) -> io::Result<Watch> {
        let (stopper, stop) = thread::stop_pair();
        let (announce, ready) = thread::stop_pair();
        let (now, wall) = (Instant::now(), Timestamp::now());
        let mut watcher = Watcher::new(sources, announce, now, wall);
        watcher.look(now, wall);
        let thread = thread::spawn("health", move || watcher.run(&stop))?;
        Ok(Watch {
            stopper,
            thread,
            ready,
        })
    }

    /// Returns the signal that clients are served and that the state says so too.
    pub(super) fn ready(&self) -> &Stop {
        &self.ready
    }

    /// Ends and joins the thread.
    pub(super) fn stop(self) {
        self.stopper.stop();
        let _ = self.thread.join();
    }
}

/// State of the thread: since when something has lasted that is a problem only after a while.
struct Watcher {
    sources: Sources,
    /// Gives the signal of [`Watch::ready`].
    announce: Stopper,
    /// When there was a link, or no neighbor, last.
    linked: Instant,
    /// When the disk answered last.
    responsive: Instant,
    /// Dropped lines of the log, and when their number changed last.
    dropped: (u64, Option<Instant>),
    log_retried: Instant,
    clock: ClockTrust,
    /// The linked neighbor that knows no tombstones, as it was logged last.
    old_neighbor: Option<String>,
}

impl Watcher {
    fn new(sources: Sources, announce: Stopper, now: Instant, wall: Timestamp) -> Watcher {
        Watcher {
            sources,
            announce,
            linked: now,
            responsive: now,
            dropped: (logging::dropped_lines(), None),
            log_retried: now,
            clock: ClockTrust::new(now, wall),
            old_neighbor: None,
        }
    }

    fn run(mut self, stop: &Stop) {
        let mut caught_up = self.sources.links.catch_up().over().channel().clone();
        loop {
            let mut is_over = false;
            thread::waiting(|| {
                select! {
                    recv(stop.channel()) -> _ => is_over = true,
                    recv(caught_up) -> _ => caught_up = never(),
                    default(INTERVAL) => {}
                }
            });
            if is_over {
                return;
            }
            let _ = self.sources.liveness.problem();
            self.look(Instant::now(), Timestamp::now());
        }
    }

    fn look(&mut self, now: Instant, wall: Timestamp) {
        let facts = self.gather(now, wall);
        self.note_old_neighbor(old_neighbor(&facts));
        let found = judge(&facts);
        let is_removed = found.iter().any(|(state, _)| *state == State::Removed);
        self.sources.services.replica.set_removed(is_removed);
        let is_starting = found.iter().any(|(state, _)| *state == State::Starting);
        self.sources.health.replace(found, now, wall);
        // Only now: a server that says that it is ready is not in state starting any more.
        if !is_starting {
            self.announce.stop();
        }
    }

    /// Tells the replica of a linked neighbor that knows no tombstones, and logs it.
    fn note_old_neighbor(&mut self, name: Option<&str>) {
        if self.old_neighbor.as_deref() == name {
            return;
        }
        if let Some(name) = name {
            info!(
                target: EVENT,
                "neighbor {name} runs an older program: clients can't be forgotten until it is upgraded"
            );
        }
        self.sources.services.replica.set_old_neighbor(name);
        self.old_neighbor = name.map(str::to_owned);
    }

    fn gather(&mut self, now: Instant, wall: Timestamp) -> Facts {
        let neighbors = self.sources.links.neighbors(now);
        let is_linked = |one: &NeighborFacts| one.is_linked;
        if neighbors.is_empty() || neighbors.iter().any(is_linked) {
            self.linked = now;
        }
        let agreed = self.sources.links.clock_agreed(now);
        let certain = self.clock.look(now, wall, neighbors.len(), agreed);
        let replica = &self.sources.services.replica;
        if let Ok(time) = certain {
            replica.trust_clock(time);
        }
        if replica.is_responsive(LOCK_WAIT) {
            self.responsive = now;
        }
        let log = self.log(now);
        let Sources {
            links,
            services,
            limit,
            rejections,
            ..
        } = &self.sources;
        let (connected, max_clients) = limit.fill();
        Facts {
            starting: links.catch_up().look(neighbors.len(), now),
            neighbors,
            is_new_key: links.is_new_key(),
            unlinked: now.saturating_duration_since(self.linked),
            forget_after: services.replica.forget_after(),
            clock_doubt: certain.err().flatten(),
            stalled: now.saturating_duration_since(self.responsive),
            journal: services.replica.journal_problem(),
            records: services.replica.len(),
            max_records: services.replica.max_records(),
            clients: rejections.problem(now, connected, max_clients),
            places: services.places.problem(now),
            log,
        }
    }

    /// Returns why lines of the log are lost.
    fn log(&mut self, now: Instant) -> Option<String> {
        let dropped = logging::dropped_lines();
        let (before, changed) = &mut self.dropped;
        if *before != dropped {
            (*before, *changed) = (dropped, Some(now));
        }
        if let Some(problem) = logging::problem() {
            // Only a line that is written shows that lines can be written.
            if now >= self.log_retried + LOG_RETRY {
                self.log_retried = now;
                info!(target: EVENT, "lines of the log were lost: {}", problem.reason);
            }
            return Some(problem.reason);
        }
        let is_recent = changed.is_some_and(|changed| now < changed + DROPS_HOLD);
        is_recent.then(|| {
            format!("lines come faster than they can be written, {dropped} were dropped so far")
        })
    }
}
