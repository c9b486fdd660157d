//! Asks all servers of the herd for their status, while somebody looks.
//!
//! One thread asks, with the server's own keys, at most once a second; everybody who looks is given
//! the same answer. A digest of all records takes each server a look at every one of them, so digests
//! are compared only as often as takes a small share of the time.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::door::Reply;
use super::response::{Body, JSON, Response};
use crate::config::keys::KeyFile;
use crate::config::topology::Topology;
use crate::status::Survey;
use crate::thread::{self, Stop, Stopper};

/// Time from the begin of one asking to that of the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// Age past which an answer is not shown as that of now: an asking takes at most 5 s.
const SHOWN_FOR: Duration = Duration::from_secs(7);

/// Time from the end of a comparison of digests to the next, as a multiple of what it took.
const DIGEST_PAUSE: u32 = 20;

/// The topology and the keys in force.
pub(super) type InForce = Box<dyn Fn() -> (Arc<Topology>, Arc<KeyFile>) + Send>;

/// The thread that asks.
#[derive(Debug)]
pub(super) struct HerdAsker {
    desk: Desk,
    stopper: Stopper,
    thread: JoinHandle<()>,
}

/// A way to ask for the herd's status.
#[derive(Clone, Debug)]
pub(super) struct Desk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    latest: Option<Latest>,
    /// Somebody looks who waits for no answer.
    is_wanted: bool,
    waiting: Vec<Reply>,
    is_stopping: bool,
}

/// An answer of the herd.
#[derive(Clone, Debug)]
struct Latest {
    number: u64,
    json: Arc<str>,
    /// Begin of the asking.
    begun: Instant,
}

impl HerdAsker {
    /// Starts the thread.
    pub(super) fn start(in_force: InForce) -> io::Result<HerdAsker> {
        let desk = Desk(Arc::default());
        let (stopper, stop) = thread::stop_pair();
        let shared = Arc::clone(&desk.0);
        let thread = thread::spawn("http-herd", move || {
            super::yield_to_clients();
            shared.run(&in_force, &stop);
        })?;
        Ok(HerdAsker {
            desk,
            stopper,
            thread,
        })
    }

    /// Returns a way to ask.
    pub(super) fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// Breaks off an asking, answers those that wait, and joins the thread.
    pub(super) fn stop(self) {
        self.stopper.stop();
        self.desk.0.state.lock().is_stopping = true;
        self.desk.0.changed.notify_all();
        let _ = self.thread.join();
    }
}

impl Desk {
    /// Sends the herd's status, now or once it is there.
    pub(super) fn send(&self, reply: Reply) {
        let mut state = self.0.state.lock();
        if state.is_stopping {
            drop(state);
            return reply.send(&Response::unavailable("the server is stopping"));
        }
        let latest = state.latest.as_ref();
        match latest.filter(|latest| latest.begun.elapsed() < INTERVAL) {
            Some(latest) => {
                let response = response(latest);
                drop(state);
                reply.send(&response);
            }
            None => {
                state.waiting.push(reply);
                self.0.changed.notify_all();
            }
        }
    }

    /// Returns the latest status as JSON, with a number that grows with each; `None` if nobody has
    /// looked in the last seconds. It is asked for again soon.
    pub(super) fn latest(&self) -> Option<(u64, Arc<str>)> {
        let mut state = self.0.state.lock();
        if !state.is_wanted {
            state.is_wanted = true;
            self.0.changed.notify_all();
        }
        let latest = state.latest.as_ref();
        let latest = latest.filter(|latest| latest.begun.elapsed() < SHOWN_FOR)?;
        Some((latest.number, Arc::clone(&latest.json)))
    }
}

fn response(latest: &Latest) -> Response {
    Response::new(200, JSON, Body::Shared(Arc::clone(&latest.json)))
}

impl Shared {
    fn run(&self, in_force: &InForce, stop: &Stop) {
        let mut survey: Option<Survey> = None;
        let mut begun: Option<Instant> = None;
        let mut digest_due = Instant::now();
        let mut number = 0;
        while let Some(waited) = self.wait(begun) {
            drop(waited);
            let now = Instant::now();
            begun = Some(now);
            let (topology, keys) = in_force();
            let taken = match &survey {
                Some(before) if now < digest_due => before.refresh(&topology, &keys, stop),
                _ => {
                    let taken = Survey::take_until(&topology, &keys, stop);
                    let end = Instant::now();
                    digest_due = end + (end - now) * DIGEST_PAUSE;
                    taken
                }
            };
            if stop.is_set() {
                // Those that were asked last have not answered.
                continue;
            }
            number += 1;
            let latest = Latest {
                number,
                json: taken.to_json().into(),
                begun: now,
            };
            survey = Some(taken);
            let response = response(&latest);
            let mut state = self.state.lock();
            state.latest = Some(latest);
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            for reply in waiting {
                reply.send(&response);
            }
        }
    }

    /// Waits until the next asking is due. `None` once the thread is to end.
    fn wait(&self, begun: Option<Instant>) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopping {
                let waiting = std::mem::take(&mut state.waiting);
                drop(state);
                for reply in waiting {
                    reply.send(&Response::unavailable("the server is stopping"));
                }
                return None;
            }
            if !state.is_wanted && state.waiting.is_empty() {
                thread::waiting(|| self.changed.wait(&mut state));
                continue;
            }
            let due = begun.map(|begun| begun + INTERVAL);
            match due.filter(|due| Instant::now() < *due) {
                Some(due) => drop(thread::waiting(|| self.changed.wait_until(&mut state, due))),
                None => {
                    state.is_wanted = false;
                    return Some(state);
                }
            }
        }
    }
}
