//! The publisher: matches changes with watches, and wakes those who have something to take.
//!
//! It works in rounds, so that a busy server wakes it once a round and not once a report, and it
//! wakes one connection only so often: between two wake-ups the newest of each client counts.

use std::cmp::{Ordering as Order, Reverse};
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::select;
use log::warn;

use super::Watches;
use super::connection::{Connection, State};
use crate::metrics::Cell;
use crate::replica::feed::{Change, Taken};
use crate::thread::{self, Stop, Stopper, next_piece, stop_pair, waiting};

/// Pause after a round that had changes.
const ROUND: Duration = Duration::from_millis(1);

/// Shortest time from one wake-up of a connection to the next.
const WAKE_INTERVAL: Duration = Duration::from_millis(4);

/// The same of a connection with a wide watch, to which nearly every report is something new.
const WIDE_WAKE_INTERVAL: Duration = Duration::from_millis(25);

/// Time between the wake-ups of two such connections: all of them have something new at the same
/// moment, and their batches one after the other would hold up everybody else's turns.
const WIDE_SPACING: Duration = Duration::from_micros(250);

/// Changes that are looked at while the list of watches is locked.
const CHUNK: usize = 256;

/// The thread of the publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Publisher {
    /// Starts the thread.
    pub(crate) fn start(watches: &Arc<Watches>) -> io::Result<Publisher> {
        let (stopper, stop) = stop_pair();
        let watches = Arc::clone(watches);
        let thread = thread::spawn("watch", move || run(&watches, &stop))?;
        Ok(Publisher { stopper, thread })
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        self.stopper.stop();
        let _ = self.thread.join();
    }
}

/// A connection that is to be woken at that time.
struct Due(Instant, Arc<Connection>);

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.0 == other.0
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Order {
        self.0.cmp(&other.0)
    }
}

/// The wake-ups to come.
#[derive(Default)]
pub(super) struct Wakes {
    /// All of them, the next first.
    due: BinaryHeap<Reverse<Due>>,
    /// The last of a connection with a wide watch.
    last_wide: Option<Instant>,
}

impl Wakes {
    /// Schedules the wake-up of a connection that has something to take, unless it will be woken or
    /// has not taken everything anyway.
    fn schedule(&mut self, connection: &Arc<Connection>, state: &mut State, now: Instant) {
        if state.is_scheduled || state.is_awake {
            return;
        }
        state.is_scheduled = true;
        let interval = match state.is_wide {
            true => WIDE_WAKE_INTERVAL,
            false => WAKE_INTERVAL,
        };
        let mut due = state.woken.map_or(now, |woken| now.max(woken + interval));
        if state.is_wide {
            due = self
                .last_wide
                .map_or(due, |last| due.max(last + WIDE_SPACING));
            self.last_wide = Some(due);
        }
        self.due.push(Reverse(Due(due, Arc::clone(connection))));
    }

    /// Wakes those whose time has come. Returns the time until the next.
    pub(super) fn wake(&mut self, now: Instant) -> Option<Duration> {
        loop {
            let Reverse(next) = self.due.peek()?;
            if next.0 > now {
                return Some(next.0 - now);
            }
            let Reverse(Due(_, connection)) = self.due.pop()?;
            {
                let mut state = connection.state.lock();
                state.is_scheduled = false;
                state.is_awake = true;
                state.woken = Some(now);
            }
            (connection.wake)();
            next_piece();
        }
    }
}

fn run(watches: &Watches, stop: &Stop) {
    let mut wakes = Wakes::default();
    loop {
        let pause = wakes.wake(Instant::now());
        let woken = watches.replica.feed().woken();
        let has_changes = waiting(|| match pause {
            None => select! {
                recv(woken) -> _ => Some(true),
                recv(stop.channel()) -> _ => None,
            },
            Some(pause) => select! {
                recv(woken) -> _ => Some(true),
                recv(stop.channel()) -> _ => None,
                default(pause) => Some(false),
            },
        });
        match has_changes {
            None => return,
            Some(false) => {}
            Some(true) => {
                watches.publish(&mut wakes, Instant::now());
                wakes.wake(Instant::now());
                if stop.wait(ROUND) {
                    return;
                }
            }
        }
    }
}

impl Watches {
    /// Looks at all changes in the feed, and wakes nobody.
    #[cfg(test)]
    pub(crate) fn publish_all(&self) {
        self.publish(&mut Wakes::default(), Instant::now());
    }

    /// Looks at all changes in the feed.
    pub(super) fn publish(&self, wakes: &mut Wakes, now: Instant) {
        let Taken {
            changes,
            has_overflowed,
        } = self.replica.feed().take();
        if has_overflowed {
            self.reset_all(wakes, now);
        }
        for chunk in changes.chunks(CHUNK) {
            self.mark(chunk, wakes, now);
            if let Some(last) = chunk.last() {
                self.published.store(last.number, Ordering::Release);
            }
            next_piece();
        }
    }

    /// Leaves the marks of some changes.
    fn mark(&self, changes: &[Change], wakes: &mut Wakes, now: Instant) {
        let registry = self.registry.read();
        for (number, connection) in registry.wide() {
            let mut state = connection.state.lock();
            for change in changes {
                self.apply(&mut state, number, change);
            }
            if state.has_news() {
                wakes.schedule(connection, &mut state, now);
            }
        }
        for change in changes {
            for (number, connection) in registry.near(change) {
                let mut state = connection.state.lock();
                if self.apply(&mut state, number, change) {
                    wakes.schedule(connection, &mut state, now);
                }
            }
        }
    }

    /// Marks a change for a watch. Returns whether there is something new to take.
    fn apply(&self, state: &mut State, number: u32, change: &Change) -> bool {
        let is_new = state.apply(number, change);
        if state.marks() > self.max_marks {
            self.reset(state);
        }
        is_new
    }

    fn reset(&self, state: &mut State) {
        if let Some(dropped) = state.reset() {
            self.counts.resets.add(1);
            self.counts.dropped.add(dropped as u64);
        }
    }

    /// Has all watches filled again, after changes were lost.
    fn reset_all(&self, wakes: &mut Wakes, now: Instant) {
        warn!("more changes than can be told of: all watches are filled again");
        let registry = self.registry.read();
        for connection in registry.connections() {
            let mut state = connection.state.lock();
            self.reset(&mut state);
            wakes.schedule(connection, &mut state, now);
        }
    }
}
