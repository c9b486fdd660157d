//! Counts of connections, lines and turns of clients, for the server's status and its metrics.
//!
//! Each worker counts its lines and turns in cells of its own, which are added up when somebody asks.

use std::sync::Arc;

use parking_lot::Mutex;

use super::rejections::Admission;
use super::requests::{REQUEST_OUTCOMES, RequestOutcome, RequestTotals};
use super::session::end::EndCounts;
use crate::metrics::{Cell, Counter, CounterFamily, Histogram, HistogramSnapshot, OwnCounter};

/// Counts of all clients since the start.
#[derive(Debug, Default)]
pub(crate) struct ClientCounts {
    /// Connections that have ended, by reason.
    pub ends: EndCounts,
    /// Connections that were accepted or rejected.
    pub connections: Arc<CounterFamily<Admission>>,
    workers: Mutex<Vec<Arc<WorkerCounts>>>,
    /// Lines that were answered by another thread than a worker.
    late: PerOutcome<Counter>,
}

/// A cell for each outcome of a line.
#[derive(Debug)]
struct PerOutcome<C>([C; REQUEST_OUTCOMES]);

impl<C: Cell> Default for PerOutcome<C> {
    fn default() -> PerOutcome<C> {
        PerOutcome(std::array::from_fn(|_| C::default()))
    }
}

/// Counts of one worker, which alone writes them. They share no cache line with those of another.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerCounts {
    requests: PerOutcome<OwnCounter>,
    /// Time of each turn in which lines were answered, from when they had been read until the
    /// replies were written.
    pub turns: Histogram<OwnCounter>,
}

impl WorkerCounts {
    /// Counts a line.
    #[inline]
    pub(super) fn count(&self, outcome: RequestOutcome) {
        self.requests.0[outcome.index()].add(1);
    }
}

impl ClientCounts {
    /// Creates the cells of another worker.
    pub(super) fn add_worker(&self) -> Arc<WorkerCounts> {
        let worker = Arc::<WorkerCounts>::default();
        self.workers.lock().push(Arc::clone(&worker));
        worker
    }

    /// Returns the number of lines by outcome.
    pub(crate) fn requests(&self) -> RequestTotals {
        let workers = self.workers.lock();
        RequestTotals(std::array::from_fn(|index| {
            let own = workers.iter().map(|worker| worker.requests.0[index].get());
            own.sum::<u64>() + self.late.0[index].get()
        }))
    }

    /// Returns the times of the turns of all workers.
    pub(crate) fn turns(&self) -> HistogramSnapshot {
        let mut turns = HistogramSnapshot::default();
        for worker in &*self.workers.lock() {
            turns.add(&worker.turns.snapshot());
        }
        turns
    }
}

/// A question that a provider on the network answers. It is counted when it is dropped, as failed
/// unless it was [answered](Self::answered).
#[derive(Debug)]
pub(super) struct LateRequest {
    counts: Arc<ClientCounts>,
    outcome: RequestOutcome,
}

impl LateRequest {
    /// Begins to wait for the answer.
    pub(super) fn new(counts: &Arc<ClientCounts>) -> LateRequest {
        LateRequest {
            counts: Arc::clone(counts),
            outcome: RequestOutcome::PlacesFailed,
        }
    }

    /// Notes that the provider has answered.
    pub(super) fn answered(&mut self) {
        self.outcome = RequestOutcome::Answered;
    }
}

impl Drop for LateRequest {
    fn drop(&mut self) {
        self.counts.late.0[self.outcome.index()].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cells_of_all_workers_are_added_up() {
        let counts = Arc::<ClientCounts>::default();
        let workers = [counts.add_worker(), counts.add_worker()];
        for worker in &workers {
            worker.count(RequestOutcome::Answered);
            worker.turns.observe(5_000);
        }
        let mut late = LateRequest::new(&counts);
        drop(LateRequest::new(&counts));
        late.answered();
        drop(late);
        let requests = counts.requests();
        assert_eq!(requests.of(RequestOutcome::Answered), 3);
        assert_eq!(requests.of(RequestOutcome::PlacesFailed), 1);
        assert_eq!(requests.of(RequestOutcome::Stored), 0);
        assert_eq!(counts.turns().count(), 2);
    }
}
