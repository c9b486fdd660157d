//! The lobby: a connection that has nothing to say holds no worker.
//!
//! All sockets are registered, edge-triggered, with one epoll instance. The free workers take
//! turns there: one, the leader, blocks in the wait, takes all that are ready, and gives each a
//! turn itself before it waits again. Others sleep. They are woken only when a wait brought
//! more than one worker should handle, since a wake-up costs more than a turn: one hot worker
//! that shares its wake-up among many requests beats several.
//!
//! Where turns turn out dear, each is worth a wake-up of its own: as many workers as there are
//! processors wait side by side, each takes one connection at a time, and the kernel wakes whom
//! it needs. With one leader there, eight clients that ask for places with sixteen requests each
//! kept one processor busy and left the other idle, for 0.7 of the throughput.
//!
//! A connection is either in its slot (nobody works on it) or with the worker that has its
//! turn, so a session needs no lock. What happens on its socket meanwhile is noted in the slot,
//! and the connection gets another turn.

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
use rustix::time::{ClockId, clock_gettime};
use slab::Slab;

use super::{Connection, STOP_PATIENCE};
use crate::client::session::{Pending, Scratch, Services, TurnResult};
use crate::model::time::Tick;

/// Events taken from the kernel at once; what is beyond is taken with the next wait.
const EVENTS: usize = 256;

/// Work that one worker does alone; with more than that before it, it wakes another, if there is a
/// processor for it. To be woken and to sleep again costs about 10 us of CPU time, and takes 30 to
/// 50 us. So of 200 us it is a twentieth, and the last of them are served earlier.
const HELP_THRESHOLD: Duration = Duration::from_micros(200);

/// A turn that costs more is dear: more than twice what it costs to wake a worker for it.
const EXPENSIVE: Duration = Duration::from_micros(30);

/// Turns that a worker gives between two looks at what a turn costs.
const TURNS_PER_LOOK: u32 = 32;

/// What a turn is taken to cost before anybody has looked: that of a report.
const FIRST_COST: Duration = Duration::from_micros(6);

/// Turns given from the queue before the kernel is asked again, so that connections which keep
/// it full can't keep the others out.
const TURNS_PER_HARVEST: usize = 64;

/// Names the event that only wakes the leader.
const WAKE: u64 = u64::MAX;

/// What happens on a client's socket and is to be reported.
const INPUT: EventFlags = EventFlags::IN
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// In its slot, waiting for its socket.
    Idle,
    /// In its slot and in the queue for a turn.
    Queued,
    /// With a worker.
    Served,
    /// With a worker, and something has happened on its socket since the turn began.
    ServedAndReady,
}

#[derive(Debug)]
struct Slot {
    place: SlotState,
    /// Tells this connection's events from those of the slot's earlier tenants.
    generation: u32,
    /// Whether the client's end of input has been announced.
    end_announced: bool,
    /// Whether room for output is reported too; from the first write that would have blocked.
    reports_output: bool,
    deadline: Tick,
    /// `None` while a worker has it.
    connection: Option<Box<Connection>>,
}

#[derive(Debug)]
struct State {
    slots: Slab<Slot>,
    /// Who is to have a turn.
    queue: VecDeque<usize>,
    /// Turns given since the kernel was last asked.
    turns: usize,
    /// Turns given in all, and how many that were when [`Shared::wake_if_stalled`] last looked.
    given: u64,
    watched: u64,
    /// What a turn costs of late.
    cost: Duration,
    /// Workers at the kernel's queue.
    leaders: usize,
    workers: usize,
    sleeping: usize,
    /// Workers that can run at the same time.
    processors: usize,
    generations: u32,
    stopping: bool,
    /// Once the pool stops: when those who have not taken their replies are dropped.
    patience_ends: Option<Tick>,
}

/// What a worker's turns cost it: CPU time, waiting at the kernel's queue and waking up included.
/// Time that it waited for a processor does not count: where those are short, a second worker
/// makes it worse.
#[derive(Debug)]
struct Pace {
    turns: u32,
    looked: Duration,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            turns: 0,
            looked: cpu_time(),
        }
    }

    /// Counts a turn; now and then, what one of the last ones cost.
    fn count(&mut self) -> Option<Duration> {
        self.turns += 1;
        if self.turns < TURNS_PER_LOOK {
            return None;
        }
        let before = std::mem::replace(&mut self.looked, cpu_time());
        let turns = std::mem::take(&mut self.turns);
        Some(self.looked.saturating_sub(before) / turns)
    }
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().unwrap_or_default()
}

/// What the workers share.
#[derive(Debug)]
pub struct Shared {
    services: Arc<Services>,
    epoll: OwnedFd,
    wake: OwnedFd,
    state: Mutex<State>,
    followers: Condvar,
}

impl Shared {
    /// An empty lobby.
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
                slots: Slab::new(),
                queue: VecDeque::new(),
                turns: 0,
                given: 0,
                watched: 0,
                cost: FIRST_COST,
                leaders: 0,
                workers: 0,
                sleeping: 0,
                processors: thread::available_parallelism().map_or(1, NonZero::get),
                generations: 0,
                stopping: false,
                patience_ends: None,
            }),
            followers: Condvar::new(),
        })
    }

    pub(super) fn enter(&self, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        if let Err(error) = connection.stream.set_nonblocking(true) {
            warn!("client {} refused: {error}", connection.session.client());
            return Err(connection);
        }
        let mut state = self.state.lock();
        if state.stopping {
            return Err(connection);
        }
        state.generations = state.generations.wrapping_add(1);
        let generation = state.generations;
        let entry = state.slots.vacant_entry();
        let data = event_data(entry.key(), generation);
        if let Err(error) = epoll::add(&self.epoll, &connection.stream, data, INPUT) {
            drop(state);
            warn!("client {} refused: {error}", connection.session.client());
            return Err(connection);
        }
        entry.insert(Slot {
            place: SlotState::Idle,
            generation,
            end_announced: false,
            reports_output: false,
            deadline: connection.session.deadline(&self.services),
            connection: Some(connection),
        });
        Ok(())
    }

    /// A worker's life: give turns; with none to give, lead; with a leader there, sleep.
    pub(super) fn work(self: &Arc<Shared>) {
        let mut scratch = Scratch::default();
        let mut events = vec![MaybeUninit::uninit(); EVENTS];
        let mut pace = Pace::new();
        let mut state = self.state.lock();
        state.workers += 1;
        loop {
            let overdue = state.turns >= TURNS_PER_HARVEST && state.leaders == 0;
            match state.queue.pop_front() {
                Some(key) if overdue => {
                    state.queue.push_front(key);
                    state = self.lead(state, &mut events, Some(Duration::ZERO));
                }
                Some(key) => state = self.serve(state, key, &mut scratch, &mut pace),
                None if state.stopping && state.slots.is_empty() => {
                    state.workers -= 1;
                    self.wake_followers(&mut state);
                    self.wake_leader();
                    return;
                }
                None if state.leaders >= state.max_pollers() => {
                    state.sleeping += 1;
                    // Who wakes it counts it as awake at once.
                    self.followers.wait(&mut state);
                    self.share(&mut state);
                }
                None => state = self.lead(state, &mut events, None),
            }
        }
    }

    /// Gives the connection of that slot its turn.
    fn serve<'a>(
        self: &'a Arc<Shared>,
        mut state: MutexGuard<'a, State>,
        key: usize,
        scratch: &mut Scratch,
        pace: &mut Pace,
    ) -> MutexGuard<'a, State> {
        state.turns += 1;
        state.given += 1;
        if let Some(cost) = pace.count() {
            // Half of it is what came before, so that a few odd turns are not the whole tale.
            state.cost = (state.cost + cost) / 2;
            self.share(&mut state);
        }
        let slot = &mut state.slots[key];
        slot.place = SlotState::Served;
        let end_announced = slot.end_announced;
        let Some(mut connection) = slot.connection.take() else {
            return state;
        };
        drop(state);

        if end_announced {
            connection.session.announce_end();
        }
        let after = connection.turn(scratch, &self.services);
        if after == TurnResult::Blocked
            && let Some(errand) = connection.session.take_pending()
        {
            self.send_on(key, connection, errand);
            return self.state.lock();
        }
        let deadline = connection.session.deadline(&self.services);

        let mut state = self.state.lock();
        if let TurnResult::Closed(_) = after {
            state.slots.remove(key);
            drop(state);
            drop(connection);
            return self.state.lock();
        }
        let slot = &mut state.slots[key];
        if after == TurnResult::Output && !slot.reports_output {
            slot.reports_output = true;
            let (data, interest) = (event_data(key, slot.generation), INPUT | EventFlags::OUT);
            if let Err(error) = epoll::modify(&self.epoll, &connection.stream, data, interest) {
                warn!("client {} dropped: {error}", connection.session.client());
                state.slots.remove(key);
                return state;
            }
        }
        slot.connection = Some(connection);
        slot.deadline = deadline;
        if after == TurnResult::Again || slot.place == SlotState::ServedAndReady {
            slot.place = SlotState::Queued;
            state.queue.push_back(key);
        } else {
            slot.place = SlotState::Idle;
        }
        state
    }

    /// Wakes a worker if those in the queue wait behind a turn that does not end.
    pub(super) fn wake_if_stalled(&self) {
        let mut state = self.state.lock();
        let stuck = !state.queue.is_empty() && state.given == state.watched;
        state.watched = state.given;
        if stuck {
            self.wake_follower(&mut state);
        }
    }

    /// Hands a connection over until its errand is done. To the lobby it is as if a worker had it,
    /// and no worker waits.
    fn send_on(self: &Arc<Shared>, key: usize, mut connection: Box<Connection>, errand: Pending) {
        let lobby = Arc::clone(self);
        let done = move |outcome: &[u8]| {
            let resumed = connection.resume(outcome, &lobby.services);
            let mut state = lobby.state.lock();
            if !resumed {
                state.slots.remove(key);
                lobby.wake_if_done(&mut state);
                drop(state);
                return drop(connection);
            }
            let slot = &mut state.slots[key];
            slot.connection = Some(connection);
            slot.place = SlotState::Queued;
            state.queue.push_back(key);
            lobby.wake_for(&mut state);
        };
        self.services.run(errand, Box::new(done));
    }

    /// Waits at the kernel's queue, for at most `timeout`, and queues who is ready.
    fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        events: &mut [MaybeUninit<Event>],
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let most = if state.is_expensive() { 1 } else { EVENTS };
        state.leaders += 1;
        drop(state);
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as _,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let ready = match epoll::wait(&self.epoll, &mut events[..most], timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(error) => {
                debug_assert_eq!(error, rustix::io::Errno::INTR);
                &mut []
            }
        };
        let mut state = self.state.lock();
        state.leaders -= 1;
        state.turns = 0;
        for event in &*ready {
            let (data, flags) = (event.data.u64(), event.flags);
            if data != WAKE {
                let hung_up = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
                state.ready(data, flags.intersects(hung_up));
            }
        }
        self.share(&mut state);
        state
    }

    /// Wakes a worker if there is more in the queue than one should do alone.
    fn share(&self, state: &mut State) {
        if state.wants_help() {
            self.wake_follower(state);
        }
    }

    /// Wakes a worker that sleeps, if there is one.
    fn wake_follower(&self, state: &mut State) -> bool {
        let sleeps = state.sleeping > 0;
        if sleeps {
            state.sleeping -= 1;
            self.followers.notify_one();
        }
        sleeps
    }

    /// Wakes all of them.
    fn wake_followers(&self, state: &mut State) {
        state.sleeping = 0;
        self.followers.notify_all();
    }

    pub(super) fn sweep(&self, now: Tick) {
        let mut state = self.state.lock();
        if state.stopping {
            let ends = *state.patience_ends.get_or_insert(now.after(STOP_PATIENCE));
            if now >= ends {
                state.queue.clear();
                state.slots.retain(|_, slot| slot.connection.is_none());
                self.wake_followers(&mut state);
                self.wake_leader();
                return;
            }
        }
        if state.queue_idle(|slot| now >= slot.deadline) {
            self.wake_for(&mut state);
        }
    }

    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.queue_idle(|_| true);
        self.wake_followers(&mut state);
        self.wake_leader();
    }

    /// Sees to it that somebody looks at a queue that was not filled by a worker. Where nobody
    /// leads there is one at work, who looks at it next.
    fn wake_for(&self, state: &mut State) {
        if state.leaders > 0 && !self.wake_follower(state) {
            self.wake_leader();
        }
    }

    /// Ends the workers if the last connection of a stopping pool has gone without one of them.
    fn wake_if_done(&self, state: &mut State) {
        if state.stopping && state.slots.is_empty() {
            self.wake_followers(state);
            self.wake_leader();
        }
    }

    fn wake_leader(&self) {
        // It only fails if the counter is full, and then the leader has been woken.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl State {
    /// Whether turns cost so much that each is worth a wake-up.
    fn is_expensive(&self) -> bool {
        self.cost > EXPENSIVE
    }

    /// How many workers may wait at the kernel's queue.
    fn max_pollers(&self) -> usize {
        if self.is_expensive() {
            self.processors
        } else {
            1
        }
    }

    /// Whether there is work for another worker, one to do it, and a processor for it. More
    /// workers than processors take those from each other in the middle of their turns: with four
    /// on one, 1,000 connections at depth 16 cost 2 to 5 % more CPU.
    fn wants_help(&self) -> bool {
        let awake = self.workers - self.sleeping;
        // The first in the queue is for the one who asks.
        let others = self.queue.len().saturating_sub(1);
        let work = self
            .cost
            .saturating_mul(others.try_into().unwrap_or(u32::MAX));
        let helps = if self.is_expensive() {
            awake < self.processors
        } else {
            awake - self.leaders < self.processors && work > HELP_THRESHOLD
        };
        self.sleeping > 0 && helps
    }

    /// Queues the idle connections that `choose` picks; whether there is one.
    fn queue_idle(&mut self, choose: impl Fn(&Slot) -> bool) -> bool {
        let before = self.queue.len();
        for (key, slot) in &mut self.slots {
            if slot.place == SlotState::Idle && choose(slot) {
                slot.place = SlotState::Queued;
                self.queue.push_back(key);
            }
        }
        self.queue.len() > before
    }

    /// Notes that something has happened on a socket. An event may come late, for a connection
    /// that has gone.
    fn ready(&mut self, data: u64, end_announced: bool) {
        let (key, generation) = (data as u32 as usize, (data >> 32) as u32);
        let Some(slot) = self
            .slots
            .get_mut(key)
            .filter(|slot| slot.generation == generation)
        else {
            return;
        };
        slot.end_announced |= end_announced;
        match slot.place {
            SlotState::Idle => {
                slot.place = SlotState::Queued;
                self.queue.push_back(key);
            }
            SlotState::Served => slot.place = SlotState::ServedAndReady,
            SlotState::Queued | SlotState::ServedAndReady => {}
        }
    }
}

/// What an event carries: the slot, and whose it was when the event was asked for.
fn event_data(key: usize, generation: u32) -> EventData {
    // There are never more slots than descriptors, whose numbers fit.
    EventData::new_u64(u64::from(generation) << 32 | key as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four workers on two processors; so many sleep, wait at the kernel's queue, and have work.
    fn state(sleeping: usize, leaders: usize, queued: usize, cost: Duration) -> State {
        State {
            slots: Slab::new(),
            queue: (0..queued).collect(),
            turns: 0,
            given: 0,
            watched: 0,
            cost,
            leaders,
            workers: 4,
            sleeping,
            processors: 2,
            generations: 0,
            stopping: false,
            patience_ends: None,
        }
    }

    #[test]
    fn cheap_turns_are_one_workers_until_they_are_many() {
        let cost = Duration::from_micros(5);
        assert_eq!(state(3, 1, 0, cost).max_pollers(), 1);
        // The leader has come back with 41 or 42 connections, and does one of them at once.
        assert!(!state(3, 0, 41, cost).wants_help());
        assert!(state(3, 0, 42, cost).wants_help());
    }

    #[test]
    fn dear_turns_are_worth_a_worker_each() {
        let cost = Duration::from_micros(50);
        assert_eq!(state(3, 1, 0, cost).max_pollers(), 2);
        assert!(state(3, 0, 0, cost).wants_help());
        assert!(state(3, 1, 0, cost).wants_help());
        // Two are awake already, at work or waiting for it.
        assert!(!state(2, 0, 99, cost).wants_help());
        assert!(!state(2, 1, 99, cost).wants_help());
    }

    #[test]
    fn no_more_workers_are_woken_than_there_are_processors() {
        let cost = Duration::from_micros(5);
        assert!(!state(2, 0, 999, cost).wants_help());
        // One of these two waits at the kernel's queue, and does not see this one.
        assert!(state(2, 1, 999, cost).wants_help());
        // There is nobody to wake.
        assert!(!state(0, 3, 999, cost).wants_help());
    }

    #[test]
    fn what_a_turn_costs_is_looked_at_now_and_then() {
        let mut pace = Pace::new();
        for _ in 1..TURNS_PER_LOOK {
            assert_eq!(pace.count(), None);
        }
        let before = cpu_time();
        while cpu_time() - before < EXPENSIVE * TURNS_PER_LOOK {}
        assert!(pace.count().is_some_and(|cost| cost >= EXPENSIVE));
        assert_eq!(pace.count(), None);
    }
}
