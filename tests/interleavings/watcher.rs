//! A watch of the whole earth, made of the real feed and the real progress of a filling: what it has
//! told of each client, as the room `watch` does.

use std::collections::HashMap;
use std::sync::Arc;

use shuttle::thread as threads;

use super::{NOW, Server, reporter, send_report, sound};
use crate::filling::Filling;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::replica::cache::PieceRead;
use crate::replica::feed::{Change, Interest};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// The changes that a filling takes for those which it has seen; only the first are the right ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Those that were in the shard when it was read.
    Exactly,
    /// None.
    Nothing,
    /// Those to come too, up to a number.
    Everything,
}

#[derive(Default)]
pub struct Watcher {
    state: Mutex<State>,
    /// All changes up to this number have been looked at.
    published: AtomicU64,
}

#[derive(Default)]
struct State {
    filling: Filling,
    /// The time of the newest report of each client that the watcher knows.
    known: HashMap<Vec<u8>, Timestamp>,
}

impl Watcher {
    /// Has changes noted from now on.
    pub fn begin(&self, server: &Replica) {
        server.feed().add(&Interest::Everywhere);
    }

    /// Looks at all changes in the feed.
    pub fn publish(&self, server: &Replica) {
        for change in server.feed().take().changes {
            self.state.lock().apply(&change);
            self.published.store(change.number, Ordering::Release);
        }
    }

    /// Reads the cache, a piece at a time.
    pub fn fill(&self, server: &Replica, seen: Seen) {
        loop {
            let published = self.published.load(Ordering::Acquire);
            let mut state = self.state.lock();
            if state.filling.is_over() {
                return;
            }
            state.read(server, published, seen);
        }
    }

    /// Asserts that the watcher knows the newest state of every client.
    pub fn check(&self, server: &Replica) {
        let state = self.state.lock();
        let mut known = state.known.len();
        for client in [b"a", b"b", b"c"] {
            server.with_last_change(client, |found| {
                let found = found.filter(|record| !record.is_tombstone());
                let time = state.known.get(&client[..]);
                assert_eq!(time, found.map(|record| record.time).as_ref());
                known -= usize::from(time.is_some());
            });
        }
        assert_eq!(known, 0);
    }
}

impl State {
    fn read(&mut self, server: &Replica, published: u64, seen: Seen) {
        let known = &mut self.known;
        let piece = server.piece(self.filling.next(), 512, None, |record| {
            if !record.is_tombstone() {
                let before = known.insert(record.client.to_vec(), record.time);
                assert_eq!(before, None, "told of inside, and known before");
            }
        });
        let last_change = match seen {
            Seen::Exactly => piece.last_change,
            Seen::Nothing => 0,
            Seen::Everything => piece.last_change + 1,
        };
        let piece = PieceRead {
            last_change,
            ..piece
        };
        self.filling.advance(piece, published);
    }

    fn apply(&mut self, change: &Change) {
        if !self.filling.counts(change.client.position(), change.number) {
            return;
        }
        let record = change.record();
        let after = change.after.map(|_| record.time);
        let before = change.before.map(|(_, time)| time);
        let known = match after {
            Some(time) => self.known.insert(record.client.to_vec(), time),
            None => self.known.remove(record.client),
        };
        assert_eq!(known, before, "told of a change of another state");
    }
}

/// Clients report while a watch is filled, and one of them is forgotten: the filling and the changes
/// together tell of each state once, and end with the newest.
pub fn a_filling_and_the_changes_tell_of_each_state_once(seen: Seen) {
    let server = sound();
    send_report(&*server, "a", 1);
    send_report(&*server, "b", 1);
    let watcher = Arc::new(Watcher::default());
    watcher.begin(&server);
    let reporters = reporter(&server, vec![("a", 2), ("c", 1), ("c", 2)]);
    let publisher = (Arc::clone(&watcher), Arc::clone(&server));
    let publisher = threads::spawn(move || {
        for _ in 0..2 {
            publisher.0.publish(&publisher.1);
        }
    });
    let forgetter = Arc::clone(&server);
    let forgetter = threads::spawn(move || Server::forget(&*forgetter, b"b", NOW));
    watcher.fill(&server, seen);
    for thread in [reporters, publisher, forgetter] {
        thread.join().unwrap();
    }
    watcher.publish(&server);
    watcher.check(&server);
}
