//! The state of the shared pool: its connections, its queue, and how many workers are awake.
//!
//! Everything here happens under the pool's lock, and no call blocks.

use std::collections::VecDeque;
use std::time::Duration;

use rustix::event::epoll::{EventData, EventFlags};
use slab::Slab;

use crate::client::connection::Connection;
use crate::client::pool::unsent::UnsentReplies;
use crate::client::session::pending::Released;
use crate::model::time::Tick;

/// Queued work that one worker does alone; past this it wakes another, if there is a processor for
/// it. Waking and sleeping again cost about 10 µs of CPU time, a twentieth of this, and take 30 to
/// 50 µs, so the last of the waiting connections are served earlier than by one worker.
const HELP_THRESHOLD: Duration = Duration::from_micros(200);

/// Cost past which a turn is expensive: more than twice the cost of waking a worker for it.
const EXPENSIVE_TURN: Duration = Duration::from_micros(30);

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// In its slot, waiting for an event on its socket.
    Idle,
    /// In its slot and in the queue for a turn.
    Queued,
    /// In its slot, in a wait that the session needs before its next turn.
    Waiting,
    /// With a worker.
    Running,
    /// The same, and an event has arrived meanwhile; another turn follows.
    RunningWithEvent,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    /// Distinguishes this connection's events from those of the slot's earlier connections.
    pub(super) generation: u32,
    /// Set once the client's end of input was reported.
    pub(super) end_reported: bool,
    /// Set once urgent data was reported, until the next turn.
    pub(super) urgent_reported: bool,
    /// Set if writable events are reported too: from the first write that would have blocked.
    pub(super) reports_output: bool,
    /// Set if the connection's next turn ends it, since its replies have waited longest.
    pub(super) is_excess: bool,
    pub(super) deadline: Tick,
    /// The deadline under which its replies are in [`State::unsent`].
    pub(super) unsent_deadline: Option<Tick>,
    /// The result of a wait, until the next turn.
    pub(super) released: Option<Box<Released>>,
    /// `None` while running.
    pub(super) connection: Option<Box<Connection>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) slots: Slab<Slot>,
    /// Keys of the slots whose connections wait for a turn.
    pub(super) queue: VecDeque<usize>,
    /// Replies that clients have not taken.
    pub(super) unsent: UnsentReplies,
    /// No deadline of a slot is earlier.
    pub(super) next_deadline: Tick,
    /// Turns started since the last poll.
    pub(super) turns_since_poll: usize,
    /// Turns started in all.
    pub(super) turns: u64,
    /// Set while the watch waits for a poll to return with events.
    pub(super) watch_sleeps: bool,
    /// Recent cost of a turn.
    pub(super) turn_cost: Duration,
    /// Workers blocked in a poll.
    pub(super) pollers: usize,
    pub(super) workers: usize,
    pub(super) sleeping: usize,
    /// Workers that can run at the same time.
    pub(super) processors: usize,
    pub(super) last_generation: u32,
    pub(super) stopping: bool,
    /// Once the pool stops: the time at which clients that have not taken their replies are dropped.
    pub(super) drop_time: Option<Tick>,
}

impl State {
    /// Returns whether each turn costs enough to be worth a wake-up.
    pub(super) fn is_expensive(&self) -> bool {
        self.turn_cost > EXPENSIVE_TURN
    }

    /// Returns the maximum number of workers that poll at the same time.
    pub(super) fn max_pollers(&self) -> usize {
        if self.is_expensive() {
            self.processors
        } else {
            1
        }
    }

    /// Returns whether there is work for another worker, a worker to do it, and a processor for it.
    /// More workers than processors take those from each other in the middle of their turns: with
    /// four on one, 1,000 connections at depth 16 cost 2 to 5 % more CPU.
    pub(super) fn wants_help(&self) -> bool {
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

    /// Returns the number of workers that neither sleep nor poll.
    pub(super) fn busy(&self) -> usize {
        self.workers - self.sleeping - self.pollers
    }

    /// Returns whether there is nothing to do for any worker.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.busy() == 0
    }

    /// Returns whether events or connections in the queue wait for a worker.
    pub(super) fn is_unattended(&self) -> bool {
        !self.queue.is_empty() || (self.pollers == 0 && self.workers > 0)
    }

    /// Returns the slot if it still belongs to the same connection.
    pub(super) fn slot(&mut self, key: usize, generation: u32) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(key);
        slot.filter(|slot| slot.generation == generation)
    }

    /// Queues the connections that `choose` selects. Returns whether there is one.
    pub(super) fn queue_where(&mut self, choose: impl Fn(&Slot) -> bool) -> bool {
        let before = self.queue.len();
        for (key, slot) in &mut self.slots {
            if choose(slot) {
                slot.state = SlotState::Queued;
                self.queue.push_back(key);
            }
        }
        self.queue.len() > before
    }

    /// Queues the connections whose deadline has passed. Returns whether there is one.
    pub(super) fn queue_overdue(&mut self, now: Tick) -> bool {
        let waits = |slot: &Slot| matches!(slot.state, SlotState::Idle | SlotState::Waiting);
        let queued = self.queue_where(|slot| waits(slot) && now >= slot.deadline);
        let rest = self.slots.iter().filter(|(_, slot)| waits(slot));
        // Those that have or await a turn are noted after it.
        self.next_deadline = rest
            .map(|(_, slot)| slot.deadline)
            .min()
            .unwrap_or(Tick(u64::MAX));
        queued
    }

    /// Queues the connections that have to go since all clients together have too many replies to
    /// take.
    pub(super) fn queue_excess(&mut self) {
        while let Some(key) = self.unsent.remove_excess() {
            let slot = &mut self.slots[key];
            slot.unsent_deadline = None;
            slot.is_excess = true;
            if slot.state != SlotState::Queued {
                slot.state = SlotState::Queued;
                self.queue.push_back(key);
            }
        }
    }

    /// Removes the slots of the connections that have no turn now, and returns the connections.
    #[expect(clippy::vec_box, reason = "they are moved, not made")]
    pub(super) fn take_idle(&mut self) -> Vec<Box<Connection>> {
        let mut taken = Vec::new();
        self.slots.retain(|_, slot| {
            let connection = slot.connection.take();
            let keep = connection.is_none();
            taken.extend(connection);
            keep
        });
        taken
    }

    /// Notes an event on a socket, or with no flags a wake-up. It may come late, for a connection that was removed.
    pub(super) fn note_event(&mut self, data: u64, flags: EventFlags) {
        let (key, generation) = (data as u32 as usize, (data >> 32) as u32);
        let Some(slot) = self.slot(key, generation) else {
            return;
        };
        slot.end_reported |=
            flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        slot.urgent_reported |= flags.contains(EventFlags::PRI);
        match slot.state {
            SlotState::Idle => {
                slot.state = SlotState::Queued;
                self.queue.push_back(key);
            }
            // The turn after the wait reads on by itself.
            SlotState::Waiting if slot.unsent_deadline.is_some() => {
                slot.state = SlotState::Queued;
                self.queue.push_back(key);
            }
            SlotState::Running => slot.state = SlotState::RunningWithEvent,
            SlotState::Waiting | SlotState::Queued | SlotState::RunningWithEvent => {}
        }
    }
}

/// Returns the data of a connection's events: its slot and its generation.
pub(super) fn event_data(key: usize, generation: u32) -> EventData {
    EventData::new_u64(event_key(key, generation))
}

/// Returns the same as a number.
pub(super) fn event_key(key: usize, generation: u32) -> u64 {
    // There are never more slots than descriptors, whose numbers fit.
    u64::from(generation) << 32 | key as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four workers on two processors, of which some sleep, poll, and have work queued.
    fn state(sleeping: usize, pollers: usize, queued: usize, turn_cost: Duration) -> State {
        State {
            queue: (0..queued).collect(),
            turn_cost,
            pollers,
            workers: 4,
            sleeping,
            processors: 2,
            ..State::default()
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
