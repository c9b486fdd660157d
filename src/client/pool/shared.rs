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
//! the connection gets another turn.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::warn;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use slab::Slab;

use super::cost::CostMeter;
use super::{Dispatch, STOP_TIMEOUT};
use crate::client::connection::Connection;
use crate::client::services::Services;
use crate::client::session::pending::{Pending, Released};
use crate::client::session::{Scratch, TurnResult};
use crate::model::time::Tick;

/// Events taken from the kernel by one poll; the next poll takes the rest.
const EVENTS: usize = 256;

/// Queued work that one worker does alone; past this it wakes another, if there is a processor for
/// it. Waking and sleeping again cost about 10 µs of CPU time, a twentieth of this, and take 30 to
/// 50 µs, so the last of the waiting connections are served earlier than by one worker.
const HELP_THRESHOLD: Duration = Duration::from_micros(200);

/// Cost past which a turn is expensive: more than twice the cost of waking a worker for it.
const EXPENSIVE_TURN: Duration = Duration::from_micros(30);

/// Assumed cost of a turn before the first measurement: that of a report.
const INITIAL_TURN_COST: Duration = Duration::from_micros(6);

/// Turns run from the queue before the next poll, so that connections which keep the queue full
/// can't keep the others out.
const TURNS_PER_POLL: usize = 64;

/// Data of the event that only wakes a poller.
const WAKE: u64 = u64::MAX;

/// Events on a client's socket that epoll reports.
const INPUT: EventFlags = EventFlags::IN
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// In its slot, waiting for an event on its socket.
    Idle,
    /// In its slot and in the queue for a turn.
    Queued,
    /// With a worker, or in a wait between two turns.
    Running,
    /// The same, and an event has arrived meanwhile; another turn follows.
    RunningWithEvent,
}

#[derive(Debug)]
struct Slot {
    state: SlotState,
    /// Distinguishes this connection's events from those of the slot's earlier connections.
    generation: u32,
    /// Set once the client's end of input was reported.
    end_reported: bool,
    /// Set if writable events are reported too: from the first write that would have blocked.
    reports_output: bool,
    deadline: Tick,
    /// `None` while running.
    connection: Option<Box<Connection>>,
}

#[derive(Debug, Default)]
struct State {
    slots: Slab<Slot>,
    /// Keys of the slots whose connections wait for a turn.
    queue: VecDeque<usize>,
    /// Turns started since the last poll.
    turns_since_poll: usize,
    /// Turns started in all, and their number at the last [`Shared::wake_if_stalled`].
    turns: u64,
    turns_at_check: u64,
    /// Recent cost of a turn.
    turn_cost: Duration,
    /// Workers blocked in a poll.
    pollers: usize,
    workers: usize,
    sleeping: usize,
    /// Workers that can run at the same time.
    processors: usize,
    last_generation: u32,
    stopping: bool,
    /// Once the pool stops: the time at which clients that have not taken their replies are dropped.
    drop_time: Option<Tick>,
}

/// State that the workers share.
#[derive(Debug)]
pub(super) struct Shared {
    services: Arc<Services>,
    epoll: OwnedFd,
    wake: OwnedFd,
    state: Mutex<State>,
    followers: Condvar,
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
                ..State::default()
            }),
            followers: Condvar::new(),
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
        state.turns_since_poll += 1;
        state.turns += 1;
        if let Some(cost) = meter.count_turn() {
            // Half of it is the former value, so that a few outliers do not decide.
            state.turn_cost = (state.turn_cost + cost) / 2;
            self.wake_helper(&mut state);
        }
        let slot = &mut state.slots[key];
        slot.state = SlotState::Running;
        let end_reported = slot.end_reported;
        let Some(mut connection) = slot.connection.take() else {
            return state;
        };
        drop(state);

        if end_reported {
            connection.session.report_end();
        }
        let result = connection.turn(scratch, &self.services);
        if result == TurnResult::Blocked
            && let Some(pending) = connection.session.take_pending()
        {
            self.start_wait(key, connection, pending);
            return self.state.lock();
        }
        let deadline = connection.session.deadline(&self.services);

        let mut state = self.state.lock();
        if let TurnResult::Ended(_) = result {
            return self.remove(state, key, connection, None);
        }
        let slot = &mut state.slots[key];
        if result == TurnResult::NeedsOutput && !slot.reports_output {
            slot.reports_output = true;
            let (data, interest) = (event_data(key, slot.generation), INPUT | EventFlags::OUT);
            if let Err(error) = epoll::modify(&self.epoll, &connection.stream, data, interest) {
                return self.remove(state, key, connection, Some(error));
            }
        }
        slot.connection = Some(connection);
        slot.deadline = deadline;
        if result == TurnResult::Again || slot.state == SlotState::RunningWithEvent {
            slot.state = SlotState::Queued;
            state.queue.push_back(key);
        } else {
            slot.state = SlotState::Idle;
        }
        state
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

    /// Gives a connection to its wait, which queues it for a turn once it is over. No worker is
    /// blocked.
    fn start_wait(self: &Arc<Shared>, key: usize, mut connection: Box<Connection>, wait: Pending) {
        let shared = Arc::clone(self);
        let done = move |released: Released| {
            let resumed = connection.resume(released, &shared.services);
            let mut state = shared.state.lock();
            if !resumed {
                state.slots.remove(key);
                shared.wake_if_done(&mut state);
                drop(state);
                return drop(connection);
            }
            let slot = &mut state.slots[key];
            slot.connection = Some(connection);
            slot.state = SlotState::Queued;
            state.queue.push_back(key);
            shared.wake_for_queue(&mut state);
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
        let ready = match epoll::wait(&self.epoll, &mut events[..max_events], timeout.as_ref()) {
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
                let hung_up = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
                state.note_event(data, flags.intersects(hung_up));
            }
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

    /// Ends the workers if the last connection of a stopping pool was not removed by one of them.
    fn wake_if_done(&self, state: &mut State) {
        if state.stopping && state.slots.is_empty() {
            self.wake_all_followers(state);
            self.wake_poller();
        }
    }
}

impl Dispatch for Shared {
    fn enter(&self, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        if let Err(error) = connection.stream.set_nonblocking(true) {
            warn!("client {} refused: {error}", connection.session.client());
            return Err(connection);
        }
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
            reports_output: false,
            deadline: connection.session.deadline(&self.services),
            connection: Some(connection),
        });
        Ok(())
    }

    fn sweep(&self, now: Tick) {
        let mut state = self.state.lock();
        if state.stopping {
            let drop_time = *state.drop_time.get_or_insert(now.after(STOP_TIMEOUT));
            if now >= drop_time {
                state.queue.clear();
                state.slots.retain(|_, slot| slot.connection.is_none());
                self.wake_all_followers(&mut state);
                self.wake_poller();
                return;
            }
        }
        if state.queue_idle(|slot| now >= slot.deadline) {
            self.wake_for_queue(&mut state);
        }
    }

    fn wake_if_stalled(&self) {
        let mut state = self.state.lock();
        let stalled = !state.queue.is_empty() && state.turns == state.turns_at_check;
        state.turns_at_check = state.turns;
        if stalled {
            self.wake_follower(&mut state);
        }
    }

    fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.queue_idle(|_| true);
        self.wake_all_followers(&mut state);
        self.wake_poller();
    }

    /// Runs the turns in the queue; polls when it is empty; sleeps when there are pollers enough.
    fn work(self: Arc<Shared>, _: usize) {
        let mut scratch = Scratch::default();
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
                    self.wake_all_followers(&mut state);
                    self.wake_poller();
                    return;
                }
                None if state.pollers >= state.max_pollers() => {
                    state.sleeping += 1;
                    // The waking thread counts it as awake at once.
                    self.followers.wait(&mut state);
                    self.wake_helper(&mut state);
                }
                None => state = self.poll(state, &mut events, None),
            }
        }
    }
}

impl State {
    /// Returns whether each turn costs enough to be worth a wake-up.
    fn is_expensive(&self) -> bool {
        self.turn_cost > EXPENSIVE_TURN
    }

    /// Returns the maximum number of workers that poll at the same time.
    fn max_pollers(&self) -> usize {
        if self.is_expensive() {
            self.processors
        } else {
            1
        }
    }

    /// Returns whether there is work for another worker, a worker to do it, and a processor for it.
    /// More workers than processors take those from each other in the middle of their turns: with
    /// four on one, 1,000 connections at depth 16 cost 2 to 5 % more CPU.
    fn wants_help(&self) -> bool {
        let awake = self.workers - self.sleeping;
        // The calling worker takes the first in the queue itself.
        let others = self.queue.len().saturating_sub(1);
        let work = self
            .turn_cost
            .saturating_mul(others.try_into().unwrap_or(u32::MAX));
        let helps = if self.is_expensive() {
            awake < self.processors
        } else {
            awake - self.pollers < self.processors && work > HELP_THRESHOLD
        };
        self.sleeping > 0 && helps
    }

    /// Queues the idle connections that `choose` selects. Returns whether there is one.
    fn queue_idle(&mut self, choose: impl Fn(&Slot) -> bool) -> bool {
        let before = self.queue.len();
        for (key, slot) in &mut self.slots {
            if slot.state == SlotState::Idle && choose(slot) {
                slot.state = SlotState::Queued;
                self.queue.push_back(key);
            }
        }
        self.queue.len() > before
    }

    /// Notes an event on a socket. It may come late, for a connection that was removed.
    fn note_event(&mut self, data: u64, end_reported: bool) {
        let (key, generation) = (data as u32 as usize, (data >> 32) as u32);
        let Some(slot) = self
            .slots
            .get_mut(key)
            .filter(|slot| slot.generation == generation)
        else {
            return;
        };
        slot.end_reported |= end_reported;
        match slot.state {
            SlotState::Idle => {
                slot.state = SlotState::Queued;
                self.queue.push_back(key);
            }
            SlotState::Running => slot.state = SlotState::RunningWithEvent,
            SlotState::Queued | SlotState::RunningWithEvent => {}
        }
    }
}

/// Returns the data of a connection's events: its slot and its generation.
fn event_data(key: usize, generation: u32) -> EventData {
    // There are never more slots than descriptors, whose numbers fit.
    EventData::new_u64(u64::from(generation) << 32 | key as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four workers on two processors, of which some sleep, poll, and have work queued.
    fn state(sleeping: usize, pollers: usize, queued: usize, turn_cost: Duration) -> State {
        State {
            slots: Slab::new(),
            queue: (0..queued).collect(),
            turns_since_poll: 0,
            turns: 0,
            turns_at_check: 0,
            turn_cost,
            pollers,
            workers: 4,
            sleeping,
            processors: 2,
            last_generation: 0,
            stopping: false,
            drop_time: None,
        }
    }

    #[test]
    fn one_worker_runs_cheap_turns_until_they_are_many() {
        let cost = Duration::from_micros(5);
        assert_eq!(state(3, 1, 0, cost).max_pollers(), 1);
        // The poller has returned with 41 or 42 connections, and serves one of them at once.
        assert!(!state(3, 0, 41, cost).wants_help());
        assert!(state(3, 0, 42, cost).wants_help());
    }

    #[test]
    fn each_expensive_turn_is_worth_a_worker() {
        let cost = Duration::from_micros(50);
        assert_eq!(state(3, 1, 0, cost).max_pollers(), 2);
        assert!(state(3, 0, 0, cost).wants_help());
        assert!(state(3, 1, 0, cost).wants_help());
        // Two are awake already, running turns or polling.
        assert!(!state(2, 0, 99, cost).wants_help());
        assert!(!state(2, 1, 99, cost).wants_help());
    }

    #[test]
    fn no_more_workers_are_woken_than_there_are_processors() {
        let cost = Duration::from_micros(5);
        assert!(!state(2, 0, 999, cost).wants_help());
        // One of these two is blocked in a poll, and does not see the queue.
        assert!(state(2, 1, 999, cost).wants_help());
        // There is none to wake.
        assert!(!state(0, 3, 999, cost).wants_help());
    }
}
