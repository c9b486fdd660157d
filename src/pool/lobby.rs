//! The lobby: a connection that has nothing to say holds no worker.
//!
//! All sockets are registered, edge-triggered, with one epoll instance. The free workers take
//! turns there: one, the leader, blocks in the wait, takes all that are ready, and gives each a
//! turn itself before it waits again. Others sleep. They are woken only when a wait brought
//! more than one worker should handle, since a wake-up costs more than a turn: one hot worker
//! that shares its wake-up among many requests beats several.
//!
//! A connection is either in its slot (nobody works on it) or with the worker that has its
//! turn, so a session needs no lock. What happens on its socket meanwhile is noted in the slot,
//! and the connection gets another turn.

use std::collections::VecDeque;
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::time::{ClockId, clock_gettime};
use slab::Slab;

use super::{Connection, STOP_PATIENCE};
use crate::session::{After, Errand, Scratch, Services};
use crate::time::Tick;

/// Events taken from the kernel at once; what is beyond is taken with the next wait.
const EVENTS: usize = 256;

/// Connections with work that one worker handles alone; past this it wakes another, if there is
/// a processor for it.
const ALONE: usize = 64;

/// Turns between two looks at the clock.
const TURNS_PER_LOOK: usize = 16;

/// CPU time that those in the queue may take one worker; past this it has fallen behind, and
/// wakes another. Time that it spent waiting for a processor does not count: where those are
/// short, a second worker makes it worse.
const BEHIND: Duration = Duration::from_millis(1);

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
enum Place {
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
    place: Place,
    /// Tells this connection's events from those of the slot's earlier tenants.
    tenancy: u32,
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
    /// Turns given in all, and how many that were when [`Lobby::watch`] last looked.
    given: u64,
    watched: u64,
    /// Whether a worker is at the kernel's queue.
    led: bool,
    workers: usize,
    sleeping: usize,
    /// Workers that can run at the same time.
    processors: usize,
    tenancies: u32,
    stopping: bool,
    /// Once the pool stops: when those who have not taken their replies are dropped.
    patience_ends: Option<Tick>,
}

/// The turns that a worker gives in a row, from when it last waited.
#[derive(Debug, Default)]
struct Stint {
    turns: usize,
    /// The clock on the wall and the worker's CPU time, read when it had given some. A worker
    /// that keeps up does not get so far, and reads no clock.
    began: Option<(Instant, Duration)>,
}

impl Stint {
    /// Counts a turn; whether it is time for another worker to step in.
    fn falls_behind(&mut self) -> bool {
        self.turns += 1;
        if !self.turns.is_multiple_of(TURNS_PER_LOOK) {
            return false;
        }
        let wall = Instant::now();
        match self.began {
            None => self.began = Some((wall, cpu_time())),
            // CPU time takes a system call, and can't have passed if time has not.
            Some((began, cpu)) if wall - began > BEHIND => {
                let spent = cpu_time().saturating_sub(cpu);
                self.began = Some((wall, cpu + spent));
                return spent > BEHIND;
            }
            Some(_) => {}
        }
        false
    }
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().unwrap_or_default()
}

/// What the workers share.
#[derive(Debug)]
pub struct Lobby {
    services: Arc<Services>,
    epoll: OwnedFd,
    wake: OwnedFd,
    state: Mutex<State>,
    followers: Condvar,
}

impl Lobby {
    /// An empty lobby.
    pub(super) fn new(services: &Arc<Services>) -> io::Result<Lobby> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &wake,
            EventData::new_u64(WAKE),
            EventFlags::IN | EventFlags::ET,
        )?;
        Ok(Lobby {
            services: Arc::clone(services),
            epoll,
            wake,
            state: Mutex::new(State {
                slots: Slab::new(),
                queue: VecDeque::new(),
                turns: 0,
                given: 0,
                watched: 0,
                led: false,
                workers: 0,
                sleeping: 0,
                processors: thread::available_parallelism().map_or(1, NonZero::get),
                tenancies: 0,
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
        state.tenancies = state.tenancies.wrapping_add(1);
        let tenancy = state.tenancies;
        let entry = state.slots.vacant_entry();
        let data = event_data(entry.key(), tenancy);
        if let Err(error) = epoll::add(&self.epoll, &connection.stream, data, INPUT) {
            drop(state);
            warn!("client {} refused: {error}", connection.session.client());
            return Err(connection);
        }
        entry.insert(Slot {
            place: Place::Idle,
            tenancy,
            end_announced: false,
            reports_output: false,
            deadline: connection.session.deadline(&self.services),
            connection: Some(connection),
        });
        Ok(())
    }

    /// A worker's life: give turns; with none to give, lead; with a leader there, sleep.
    pub(super) fn work(self: &Arc<Lobby>) {
        let mut scratch = Scratch::default();
        let mut events = Vec::with_capacity(EVENTS);
        let mut stint = Stint::default();
        let mut state = self.state.lock();
        state.workers += 1;
        loop {
            let overdue = state.turns >= TURNS_PER_HARVEST && !state.led;
            match state.queue.pop_front() {
                Some(key) if overdue => {
                    state.queue.push_front(key);
                    state = self.lead(state, &mut events, Some(Duration::ZERO));
                }
                Some(key) => state = self.serve(state, key, &mut scratch, &mut stint),
                None if state.stopping && state.slots.is_empty() => {
                    state.workers -= 1;
                    self.followers.notify_all();
                    self.wake_leader();
                    return;
                }
                None if state.led => {
                    stint = Stint::default();
                    state.sleeping += 1;
                    self.followers.wait(&mut state);
                    state.sleeping -= 1;
                }
                None => {
                    stint = Stint::default();
                    state = self.lead(state, &mut events, None);
                }
            }
        }
    }

    /// Gives the connection of that slot its turn.
    fn serve<'a>(
        self: &'a Arc<Lobby>,
        mut state: MutexGuard<'a, State>,
        key: usize,
        scratch: &mut Scratch,
        stint: &mut Stint,
    ) -> MutexGuard<'a, State> {
        state.turns += 1;
        state.given += 1;
        if stint.falls_behind() && !state.queue.is_empty() && state.has_help() {
            self.followers.notify_one();
        }
        let slot = &mut state.slots[key];
        slot.place = Place::Served;
        let end_announced = slot.end_announced;
        let Some(mut connection) = slot.connection.take() else {
            return state;
        };
        drop(state);

        if end_announced {
            connection.session.announce_end();
        }
        let after = connection.turn(scratch, &self.services);
        if after == After::Errand
            && let Some(errand) = connection.session.take_errand()
        {
            self.send_on(key, connection, errand);
            return self.state.lock();
        }
        let deadline = connection.session.deadline(&self.services);

        let mut state = self.state.lock();
        if let After::Closed(_) = after {
            state.slots.remove(key);
            drop(state);
            drop(connection);
            return self.state.lock();
        }
        let slot = &mut state.slots[key];
        if after == After::Output && !slot.reports_output {
            slot.reports_output = true;
            let (data, interest) = (event_data(key, slot.tenancy), INPUT | EventFlags::OUT);
            if let Err(error) = epoll::modify(&self.epoll, &connection.stream, data, interest) {
                warn!("client {} dropped: {error}", connection.session.client());
                state.slots.remove(key);
                return state;
            }
        }
        slot.connection = Some(connection);
        slot.deadline = deadline;
        if after == After::Again || slot.place == Place::ServedAndReady {
            slot.place = Place::Queued;
            state.queue.push_back(key);
        } else {
            slot.place = Place::Idle;
        }
        state
    }

    /// Wakes a worker if those in the queue wait behind a turn that does not end.
    pub(super) fn watch(&self) {
        let mut state = self.state.lock();
        let stuck = !state.queue.is_empty() && state.given == state.watched;
        state.watched = state.given;
        if stuck && state.sleeping > 0 {
            self.followers.notify_one();
        }
    }

    /// Hands a connection over until its errand is done. To the lobby it is as if a worker had it,
    /// and no worker waits.
    fn send_on(self: &Arc<Lobby>, key: usize, mut connection: Box<Connection>, errand: Errand) {
        let lobby = Arc::clone(self);
        let done = move |outcome: &[u8]| {
            let resumed = connection.resume(outcome, &lobby.services);
            let mut state = lobby.state.lock();
            if !resumed {
                state.slots.remove(key);
                lobby.wake_if_done(&state);
                drop(state);
                return drop(connection);
            }
            let slot = &mut state.slots[key];
            slot.connection = Some(connection);
            slot.place = Place::Queued;
            state.queue.push_back(key);
            lobby.wake_for(&state);
        };
        self.services.run(errand, Box::new(done));
    }

    /// Waits at the kernel's queue, for at most `timeout`, and queues who is ready.
    fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.led = true;
        drop(state);
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as _,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        events.clear();
        if let Err(error) = epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            debug_assert_eq!(error, rustix::io::Errno::INTR);
        }
        let mut state = self.state.lock();
        state.led = false;
        state.turns = 0;
        for event in &*events {
            let (data, flags) = (event.data.u64(), event.flags);
            if data != WAKE {
                let hung_up = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
                state.ready(data, flags.intersects(hung_up));
            }
        }
        if state.queue.len() > ALONE && state.has_help() {
            self.followers.notify_one();
        }
        state
    }

    pub(super) fn sweep(&self, now: Tick) {
        let mut state = self.state.lock();
        if state.stopping {
            let ends = *state.patience_ends.get_or_insert(now.after(STOP_PATIENCE));
            if now >= ends {
                state.queue.clear();
                state.slots.retain(|_, slot| slot.connection.is_none());
                self.followers.notify_all();
                self.wake_leader();
                return;
            }
        }
        if state.queue_idle(|slot| now >= slot.deadline) {
            self.wake_for(&state);
        }
    }

    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.queue_idle(|_| true);
        self.followers.notify_all();
        self.wake_leader();
    }

    /// Sees to it that somebody looks at a queue that was not filled by a worker. Where nobody
    /// leads there is one at work, who looks at it next.
    fn wake_for(&self, state: &State) {
        if !state.led {
            return;
        }
        if state.sleeping > 0 {
            self.followers.notify_one();
        } else {
            self.wake_leader();
        }
    }

    /// Ends the workers if the last connection of a stopping pool has gone without one of them.
    fn wake_if_done(&self, state: &State) {
        if state.stopping && state.slots.is_empty() {
            self.followers.notify_all();
            self.wake_leader();
        }
    }

    fn wake_leader(&self) {
        // It only fails if the counter is full, and then the leader has been woken.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl State {
    /// Whether a worker sleeps for whom there is a processor. More that share one take it from each
    /// other in the middle of their turns: with four workers on one processor, 1,000 connections at
    /// depth 16 cost 12 % more CPU.
    fn has_help(&self) -> bool {
        let busy = self.workers - self.sleeping - usize::from(self.led);
        self.sleeping > 0 && busy < self.processors
    }

    /// Queues the idle connections that `choose` picks; whether there is one.
    fn queue_idle(&mut self, choose: impl Fn(&Slot) -> bool) -> bool {
        let before = self.queue.len();
        for (key, slot) in &mut self.slots {
            if slot.place == Place::Idle && choose(slot) {
                slot.place = Place::Queued;
                self.queue.push_back(key);
            }
        }
        self.queue.len() > before
    }

    /// Notes that something has happened on a socket. An event may come late, for a connection
    /// that has gone.
    fn ready(&mut self, data: u64, end_announced: bool) {
        let (key, tenancy) = (data as u32 as usize, (data >> 32) as u32);
        let Some(slot) = self
            .slots
            .get_mut(key)
            .filter(|slot| slot.tenancy == tenancy)
        else {
            return;
        };
        slot.end_announced |= end_announced;
        match slot.place {
            Place::Idle => {
                slot.place = Place::Queued;
                self.queue.push_back(key);
            }
            Place::Served => slot.place = Place::ServedAndReady,
            Place::Queued | Place::ServedAndReady => {}
        }
    }
}

/// What an event carries: the slot, and whose it was when the event was asked for.
fn event_data(key: usize, tenancy: u32) -> EventData {
    // There are never more slots than descriptors, whose numbers fit.
    EventData::new_u64(u64::from(tenancy) << 32 | key as u64)
}
