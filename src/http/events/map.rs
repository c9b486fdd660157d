//! The clients as the viewers have them: each of them, or where there are many, a grid of counts.

use std::time::Duration;

use super::clients::Clients;
use super::frame::Mode;
use super::grid::Grid;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::replica::Replica;

/// Longest wait for the vector.
const VECTOR_LIMIT: Duration = Duration::from_millis(5);

/// Numbers of records at which the mode changes. They are apart, so that a number that goes up and
/// down does not change it each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    /// Above this the clients become a grid.
    pub(super) grid: usize,
    /// From this down the grid becomes clients.
    pub(super) clients: usize,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            grid: 20_000,
            clients: 18_000,
        }
    }
}

#[derive(Debug)]
enum State {
    /// No scan yet.
    Unknown,
    Clients(Clients),
    Grid(Grid),
}

/// Frames of a scan.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// For viewers that have had all frames before: what has changed, if anything has.
    pub(super) changes: Option<Vec<u8>>,
    /// For the others.
    pub(super) whole: Option<Vec<u8>>,
}

/// The clients as they were sent last: those that are alive, and were not forgotten.
#[derive(Debug)]
pub(super) struct Map {
    thresholds: Thresholds,
    state: State,
    /// Earliest time of a record that the last scan has shown as alive.
    oldest: Option<Timestamp>,
}

impl Map {
    /// A map that no viewer has.
    pub(super) fn new(thresholds: Thresholds) -> Map {
        Map {
            thresholds,
            state: State::Unknown,
            oldest: None,
        }
    }

    /// Returns whether a client that was sent has expired since, which is no change to the replica.
    pub(super) fn has_expired(&self, replica: &Replica, at: Timestamp) -> bool {
        let horizon = replica.horizon(at);
        self.oldest.is_some_and(|oldest| horizon.is_dead(oldest))
    }

    /// Compares the replica's records with those sent last, which they then are. The whole frame is
    /// rendered if it is wanted. `go_on` is called now and then, and ends the scan by returning
    /// `false`; then there is no frame.
    pub(super) fn scan(
        &mut self,
        replica: &Replica,
        at: Timestamp,
        wants_whole: bool,
        mut go_on: impl FnMut() -> bool,
    ) -> Frames {
        let is_new = self.change_mode(replica.clients());
        let horizon = replica.horizon(at);
        let mut oldest: Option<Timestamp> = None;
        let mut is_alive = |record: &RecordView<'_>| {
            let is_alive = !record.is_tombstone() && !horizon.is_dead(record.time);
            if is_alive {
                oldest = Some(oldest.map_or(record.time, |oldest| oldest.min(record.time)));
            }
            is_alive
        };
        let mut ended = false;
        let between = |ended: &mut bool| {
            *ended = !go_on();
            !*ended
        };
        let frames = match &mut self.state {
            State::Unknown => Frames::default(),
            State::Clients(clients) => {
                clients.begin(wants_whole || is_new);
                let see = |_: &mut bool, record: &RecordView<'_>| {
                    if is_alive(record) {
                        clients.see(record);
                    }
                };
                replica.scan(&mut ended, see, between);
                let (changes, whole) = clients.end(at);
                let changes = if is_new { whole.clone() } else { changes };
                Frames { changes, whole }
            }
            State::Grid(grid) => {
                grid.begin();
                let see = |_: &mut bool, record: &RecordView<'_>| {
                    if is_alive(record) {
                        grid.see(record);
                    }
                };
                replica.scan(&mut ended, see, between);
                let changes = grid.end(at, vector(replica));
                let whole = wants_whole.then(|| grid.whole(at)).flatten();
                Frames { changes, whole }
            }
        };
        self.oldest = oldest;
        if ended {
            self.state = State::Unknown;
            return Frames::default();
        }
        frames
    }

    /// Returns the frame of the reports since the last frame, where a scan does not tell them.
    pub(super) fn reports(&mut self, replica: &Replica, at: Timestamp) -> Option<Vec<u8>> {
        match &mut self.state {
            State::Grid(grid) => grid.reports(at, vector(replica)),
            State::Unknown | State::Clients(_) => None,
        }
    }

    /// Returns the whole frame as it was sent last, if that takes no scan.
    pub(super) fn whole(&self, at: Timestamp) -> Option<Vec<u8>> {
        match &self.state {
            State::Grid(grid) => grid.whole(at),
            State::Unknown | State::Clients(_) => None,
        }
    }

    /// Takes the mode for a number of clients. Returns whether it is another than before.
    fn change_mode(&mut self, records: usize) -> bool {
        let (before, most) = match &self.state {
            State::Unknown => (None, self.thresholds.grid),
            State::Clients(_) => (Some(Mode::Clients), self.thresholds.grid),
            State::Grid(_) => (Some(Mode::Grid), self.thresholds.clients),
        };
        let mode = if records > most {
            Mode::Grid
        } else {
            Mode::Clients
        };
        let is_new = before != Some(mode);
        if is_new {
            self.state = match mode {
                Mode::Clients => State::Clients(Clients::default()),
                Mode::Grid => State::Grid(Grid::new()),
            };
        }
        is_new
    }
}

/// Returns the replica's vector, unless the disk does not answer: then there are no reports either.
fn vector(replica: &Replica) -> Option<Vector> {
    replica.vector_within(VECTOR_LIMIT)
}

#[cfg(test)]
#[path = "map/tests.rs"]
mod tests;
