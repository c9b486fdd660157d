//! The shared pool: an idle connection holds no worker.
//!
//! All sockets are registered, edge-triggered, with one epoll instance, and the workers share it as
//! leader and followers. A free worker becomes the poller: it blocks in the wait, takes the
//! connections that are ready, and gives each a turn itself before it polls again. Others sleep.
//! They are woken only when a poll brought more than one worker should handle, since a wake-up
//! costs more than a turn: one hot worker that shares its wake-up among many requests beats
//! several.
//!
//! Where turns turn out expensive, each is worth a wake-up of its own: as many workers as there are
//! processors poll side by side, each takes one connection at a time, and the kernel wakes as many
//! as it needs. With one poller there, eight clients that sent sixteen `WHATSAT` at a time kept one
//! processor busy and left the other idle, for 0.7 of the throughput.
//!
//! A connection is either in its slot, where no worker uses it, or with the worker that runs its
//! turn, so a session needs no lock. An event on its socket meanwhile is noted in the slot, and
//! the connection gets another turn. In a wait it is in its slot too, so that its deadlines hold.
//!
//! A worker in a turn does not poll, and a turn can stall with the disk. So one thread, the watch,
//! looks every few milliseconds whether somebody else should.

mod state;

use std::io;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::cost::CostMeter;
use super::unsent::UnsentReplies;
use super::{Dispatch, STOP_TIMEOUT};
use crate::client::connection::Connection;
use crate::client::services::Services;
use crate::client::session::end::EndReason;
use crate::client::session::pending::{Pending, Released};
use crate::client::session::pushes::{SessionWaker, WakeSession};
use crate::client::session::{Scratch, TurnResult};
use crate::logging::throttle::LogThrottle;
use crate::model::time::Tick;
use crate::thread::{next_piece, waiting};
use state::{Slot, SlotState, State, event_data, event_key};

/// Events taken from the kernel by one poll; the next poll takes the rest.
const EVENTS: usize = 256;

/// Assumed cost of a turn before the first measurement: that of a report.
const INITIAL_TURN_COST: Duration = Duration::from_micros(6);

/// Turns run from the queue before the next poll, so that connections which keep the queue full
/// can't keep the others out.
const TURNS_PER_POLL: usize = 64;

/// Interval at which the pool looks whether a long turn keeps others waiting. A turn takes
/// microseconds, unless the disk stalls.
const WATCH_INTERVAL: Duration = Duration::from_millis(10);

/// Number of such looks in a row that find the pool idle; past this the next event is waited for.
const IDLE_CHECKS: u32 = 10;

/// Time between two warnings of clients that had to go.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Data of the event that only wakes a poller.
const WAKE: u64 = u64::MAX;

/// Events on a client's socket that epoll reports.
const INPUT: EventFlags = EventFlags::IN
    .union(EventFlags::PRI)
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// State that the workers share.
#[derive(Debug)]
pub(super) struct Shared {
    services: Arc<Services>,
    epoll: OwnedFd,
    wake: OwnedFd,
    state: Mutex<State>,
    followers: Condvar,
    watch: Condvar,
    /// Warnings of clients that had to go since all together had too many replies to take.
    excess: Mutex<LogThrottle>,
}

impl Shared {
    /// Creates a pool without connections.
    pub(super) fn new(services: &Arc<Services>) -> io::Result<Shared> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &wake,
            EventData::new_u64(WAKE),
            EventFlags::IN | EventFlags::ET,
        )?;
        Ok(Shared {
            services: Arc::clone(services),
            epoll,
            wake,
            state: Mutex::new(State {
                turn_cost: INITIAL_TURN_COST,
                processors: thread::available_parallelism().map_or(1, NonZero::get),
                unsent: UnsentReplies::new(services.max_unsent_bytes),
                ..State::default()
            }),
            followers: Condvar::new(),
            watch: Condvar::new(),
            excess: Mutex::default(),
        })
    }

    /// Runs a turn of the connection in that slot.
    fn serve<'a>(
        self: &'a Arc<Shared>,
        mut state: MutexGuard<'a, State>,
        key: usize,
        scratch: &mut Scratch,
        meter: &mut CostMeter,
    ) -> MutexGuard<'a, State> {
        next_piece();
        state.turns_since_poll += 1;
        state.turns += 1;
        if let Some(cost) = meter.count_turn() {
            // Half of it is the former value, so that a few outliers do not decide.
            state.turn_cost = (state.turn_cost + cost) / 2;
            self.wake_helper(&mut state);
        }
        let slot = &mut state.slots[key];
        slot.state = SlotState::Running;
        scratch.waker.key = event_key(key, slot.generation);
        let end_reported = slot.end_reported;
        let urgent_reported = std::mem::take(&mut slot.urgent_reported);
        let is_excess = std::mem::take(&mut slot.is_excess);
        let released = slot.released.take();
        let unsent = slot.unsent_deadline.take();
        let Some(mut connection) = slot.connection.take() else {
            return state;
        };
        if let Some(deadline) = unsent {
            state.unsent.remove(key, deadline);
        }
        drop(state);

        if end_reported {
            connection.session.report_end();
        }
        if urgent_reported {
            connection.session.report_urgent();
        }
        if let Some(released) = released
            && !connection.resume(*released, &self.services)
        {
            return self.remove(self.state.lock(), key, connection, None);
        }
        let result = if is_excess {
            self.warn_of_excess(1);
            connection.abandon(&self.services)
        } else {
            connection.turn(scratch, &self.services)
        };
        self.put_back(key, connection, result)
    }

    /// Counts connections that had to go, and warns of them if that is due.
    fn warn_of_excess(&self, new: u64) {
        let mut excess = self.excess.lock();
        if !excess.record(new, Instant::now(), WARNING_INTERVAL) {
            return;
        }
        let count = excess.take_count();
        drop(excess);
        let limit = self.services.max_unsent_bytes;
        warn!(
            "{count} clients with untaken replies disconnected: all clients together left over {limit} bytes (--max-unsent-bytes)"
        );
    }

    /// Puts a connection back into its slot after a turn, and starts the wait that it needs.
    fn put_back<'a>(
        self: &'a Arc<Shared>,
        key: usize,
        mut connection: Box<Connection>,
        result: TurnResult,
    ) -> MutexGuard<'a, State> {
        let deadline = connection.session.deadline(&self.services);
        let unsent = connection.session.unsent_bytes();
        let pending = match result {
            TurnResult::Blocked => connection.session.take_pending(),
            _ => None,
        };
        let mut state = self.state.lock();
        if let TurnResult::Ended(_) = result {
            return self.remove(state, key, connection, None);
        }
        let slot = &mut state.slots[key];
        if unsent > 0 && !slot.reports_output {
            slot.reports_output = true;
            let (data, interest) = (event_data(key, slot.generation), INPUT | EventFlags::OUT);
            if let Err(error) = epoll::modify(&self.epoll, &connection.stream, data, interest) {
                return self.remove(state, key, connection, Some(error));
            }
        }
        let generation = slot.generation;
        slot.connection = Some(connection);
        slot.deadline = deadline;
        let has_more = match result {
            TurnResult::Again => true,
            // Until its wait is over there is no more to do than to send replies and to keep deadlines.
            TurnResult::Blocked => {
                slot.released.is_some() || (unsent > 0 && slot.state == SlotState::RunningWithEvent)
            }
            _ => slot.state == SlotState::RunningWithEvent,
        };
        slot.state = match result {
            _ if has_more => SlotState::Queued,
            TurnResult::Blocked => SlotState::Waiting,
            _ => SlotState::Idle,
        };
        if has_more {
            state.queue.push_back(key);
        }
        state.next_deadline = state.next_deadline.min(deadline);
        if unsent > 0 {
            state.slots[key].unsent_deadline = Some(deadline);
            state.unsent.add(key, deadline, unsent);
            state.queue_excess();
        }
        let Some(pending) = pending else {
            return state;
        };
        drop(state);
        self.start_wait(key, generation, pending);
        self.state.lock()
    }

    /// Removes the slot of a connection, and closes and logs it without the lock.
    fn remove<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        key: usize,
        connection: Box<Connection>,
        error: Option<rustix::io::Errno>,
    ) -> MutexGuard<'a, State> {
        state.slots.remove(key);
        drop(state);
        if let Some(error) = error {
            warn!("client {} dropped: {error}", connection.session.client());
        }
        drop(connection);
        self.state.lock()
    }

    /// Starts the wait of the connection in that slot, which is queued for a turn once the wait is
    /// over. No worker is blocked. The result is dropped if the connection has ended by then.
    fn start_wait(self: &Arc<Shared>, key: usize, generation: u32, wait: Pending) {
        let shared = Arc::clone(self);
        let done = move |released: Box<Released>| {
            let mut state = shared.state.lock();
            let Some(slot) = state.slot(key, generation) else {
                return;
            };
            slot.released = Some(released);
            if slot.state == SlotState::Waiting {
                slot.state = SlotState::Queued;
                state.queue.push_back(key);
                shared.wake_for_queue(&mut state);
            }
        };
        wait.start(&self.services, done);
    }

    /// Waits for events for at most `timeout`, and queues the connections that are ready.
    fn poll<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        events: &mut [MaybeUninit<Event>],
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let max_events = if state.is_expensive() { 1 } else { EVENTS };
        state.pollers += 1;
        drop(state);
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as _,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let events = &mut events[..max_events];
        let waited = waiting(|| epoll::wait(&self.epoll, events, timeout.as_ref()));
        let ready = match waited {
            Ok((ready, _)) => ready,
            Err(error) => {
                debug_assert_eq!(error, rustix::io::Errno::INTR);
                &mut []
            }
        };
        let mut state = self.state.lock();
        state.pollers -= 1;
        state.turns_since_poll = 0;
        for event in &*ready {
            let (data, flags) = (event.data.u64(), event.flags);
            if data != WAKE {
                state.note_event(data, flags);
            }
        }
        if !ready.is_empty() && state.watch_sleeps {
            state.watch_sleeps = false;
            self.watch.notify_one();
        }
        self.wake_helper(&mut state);
        state
    }

    /// Wakes a worker if there is more in the queue than one should do alone.
    fn wake_helper(&self, state: &mut State) {
        if state.wants_help() {
            self.wake_follower(state);
        }
    }

    /// Wakes a sleeping worker. Returns whether there was one.
    fn wake_follower(&self, state: &mut State) -> bool {
        let sleeps = state.sleeping > 0;
        if sleeps {
            state.sleeping -= 1;
            self.followers.notify_one();
        }
        sleeps
    }

    fn wake_all_followers(&self, state: &mut State) {
        state.sleeping = 0;
        self.followers.notify_all();
    }

    fn wake_poller(&self) {
        // It only fails if the counter is full, and then the poller has been woken.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Wakes a worker for a queue that was not filled by one. Without a poller, a worker is running
    /// and checks the queue next.
    fn wake_for_queue(&self, state: &mut State) {
        if state.pollers > 0 && !self.wake_follower(state) {
            self.wake_poller();
        }
    }

    fn wake_all(&self, state: &mut State) {
        self.wake_all_followers(state);
        self.wake_poller();
        state.watch_sleeps = false;
        self.watch.notify_one();
    }
}

impl WakeSession for Shared {
    /// A queue that has something in it has a worker, or somebody who wakes one.
    fn wake(&self, key: u64) {
        let mut state = self.state.lock();
        let was_empty = state.queue.is_empty();
        state.note_event(key, EventFlags::empty());
        if was_empty && !state.queue.is_empty() {
            self.wake_for_queue(&mut state);
            if std::mem::take(&mut state.watch_sleeps) {
                self.watch.notify_one();
            }
        }
    }
}

impl Dispatch for Shared {
    fn enter(&self, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        if let Err(error) = connection.stream.set_nonblocking(true) {
            warn!("client {} refused: {error}", connection.session.client());
            return Err(connection);
        }
        let deadline = connection.session.deadline(&self.services);
        let mut state = self.state.lock();
        if state.stopping {
            return Err(connection);
        }
        state.last_generation = state.last_generation.wrapping_add(1);
        let generation = state.last_generation;
        let entry = state.slots.vacant_entry();
        let data = event_data(entry.key(), generation);
        if let Err(error) = epoll::add(&self.epoll, &connection.stream, data, INPUT) {
            drop(state);
            warn!("client {} refused: {error}", connection.session.client());
            return Err(connection);
        }
        entry.insert(Slot {
            state: SlotState::Idle,
            generation,
            end_reported: false,
            urgent_reported: false,
            reports_output: false,
            is_excess: false,
            deadline,
            unsent_deadline: None,
            released: None,
            connection: Some(connection),
        });
        state.next_deadline = state.next_deadline.min(deadline);
        Ok(())
    }

    fn sweep(&self, now: Tick) {
        self.warn_of_excess(0);
        let mut state = self.state.lock();
        if state.stopping {
            let drop_time = *state.drop_time.get_or_insert(now.after(STOP_TIMEOUT));
            if now >= drop_time {
                state.queue.clear();
                let dropped = state.take_idle();
                self.wake_all(&mut state);
                drop(state);
                for connection in dropped {
                    connection.note_end(EndReason::Stopping, &self.services);
                }
                return;
            }
        }
        if now >= state.next_deadline && state.queue_overdue(now) {
            self.wake_for_queue(&mut state);
        }
    }

    fn busy(&self) -> usize {
        self.state.lock().busy()
    }

    /// Looks every [`WATCH_INTERVAL`] whether a long turn keeps others waiting, and wakes a worker for
    /// them. Sleeps while the pool is idle.
    fn watch(&self) {
        let mut state = self.state.lock();
        let (mut turns, mut idle_checks) = (state.turns, 0);
        while !state.stopping || !state.slots.is_empty() {
            if idle_checks < IDLE_CHECKS {
                waiting(|| self.watch.wait_for(&mut state, WATCH_INTERVAL));
            } else {
                state.watch_sleeps = true;
                waiting(|| self.watch.wait(&mut state));
            }
            let is_same = state.turns == turns;
            turns = state.turns;
            idle_checks = match is_same && state.is_idle() {
                true => idle_checks + 1,
                false => 0,
            };
            if is_same && state.is_unattended() && !self.wake_follower(&mut state) {
                self.wake_poller();
            }
        }
    }

    fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.queue_where(|slot| slot.state == SlotState::Idle);
        self.wake_all(&mut state);
    }

    /// Runs the turns in the queue; polls when it is empty; sleeps when there are pollers enough.
    fn work(self: Arc<Shared>, _: usize) {
        let pool: Weak<dyn WakeSession> = Arc::<Shared>::downgrade(&self);
        let mut scratch = Scratch::new(&self.services.counts, SessionWaker::new(pool));
        let mut events = vec![MaybeUninit::uninit(); EVENTS];
        let mut meter = CostMeter::new();
        let mut state = self.state.lock();
        state.workers += 1;
        loop {
            let poll_due = state.turns_since_poll >= TURNS_PER_POLL && state.pollers == 0;
            match state.queue.pop_front() {
                Some(key) if poll_due => {
                    state.queue.push_front(key);
                    state = self.poll(state, &mut events, Some(Duration::ZERO));
                }
                Some(key) => state = self.serve(state, key, &mut scratch, &mut meter),
                None if state.stopping && state.slots.is_empty() => {
                    state.workers -= 1;
                    self.wake_all(&mut state);
                    return;
                }
                None if state.pollers >= state.max_pollers() => {
                    state.sleeping += 1;
                    // The waking thread counts it as awake at once.
                    waiting(|| self.followers.wait(&mut state));
                    self.wake_helper(&mut state);
                }
                None => state = self.poll(state, &mut events, None),
            }
        }
    }
}
