//! One connection's watches: what they have been told, and what is still to be told.

use std::fmt;
use std::time::Instant;

use parking_lot::Mutex;

use super::area::Scope;
use super::filling::Filling;
use super::marks::Marks;
use super::push::Push;
use crate::model::geo::Position;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::replica::Replica;
use crate::replica::cache::{HashPosition, PieceRead};
use crate::replica::feed::{Change, unpack};
use crate::replica::forget::Horizon;

/// Records of one piece of a filling: read under one lock, in well under a millisecond.
const PIECE_RECORDS: usize = 512;

/// Records that one call looks at, about, whatever they are.
const MAX_LOOKED: usize = 4_096;

/// Cost of a piece, in records looked at.
const PIECE_COST: usize = 16;

/// Bytes of a push beside its name and its record's packed bytes: no line is longer.
const PUSH_BYTES: usize = 32;

/// A connection that watches, shared by its owner and the publisher.
pub(super) struct Connection {
    pub(super) state: Mutex<State>,
    /// Called when there is something to take; never under a lock of this room.
    pub(super) wake: Box<dyn Fn() + Send + Sync>,
}

impl Connection {
    pub(super) fn new(wake: Box<dyn Fn() + Send + Sync>) -> Connection {
        Connection {
            state: Mutex::default(),
            wake,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// News of one connection: all that its watches have been told, and all that is still to be told.
#[derive(Debug, Default)]
pub(super) struct State {
    watches: Vec<Watch>,
    marks: Marks,
    /// Records that were read for the filling of a watch, and are told before anything else.
    read: Option<Read>,
    /// The owner was woken, and has not taken everything since.
    pub(super) is_awake: bool,
    /// The publisher is going to wake the owner.
    pub(super) is_scheduled: bool,
    /// The owner was last woken at that moment.
    pub(super) woken: Option<Instant>,
    /// Set if a watch lies on the list of wide ones.
    pub(super) is_wide: bool,
}

/// One watch.
#[derive(Debug)]
struct Watch {
    number: u32,
    name: Box<[u8]>,
    scope: Scope,
    progress: Progress,
    filling: Filling,
    /// Records that were dead when the filling began do not count.
    hidden: Horizon,
    /// Number of the last change that was looked at: one may come by two ways.
    last_change: u64,
    /// Clients that the watcher knows to be inside.
    inside: usize,
}

/// Progress of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing was told yet.
    New,
    /// The filling has begun.
    Filling,
    /// The filling is over.
    Settled,
}

/// Packed records, of which those before `told` were told.
#[derive(Debug)]
struct Read {
    watch: u32,
    records: Vec<u8>,
    told: usize,
}

/// The bytes that a call may still show.
struct Room(usize);

impl Room {
    /// Takes what a push needs. Returns whether there was room for it.
    fn take(&mut self, name: &[u8], record_bytes: usize) -> bool {
        let bytes = PUSH_BYTES + name.len() + record_bytes;
        let has_room = bytes <= self.0;
        if has_room {
            self.0 -= bytes;
        }
        has_room
    }
}

/// Where a call of [`State::take`] reads from and shows to.
pub(super) struct Taking<'a> {
    pub(super) replica: &'a Replica,
    /// All changes up to this number have been looked at by the publisher.
    pub(super) published: u64,
    pub(super) now: Timestamp,
    pub(super) show: &'a mut dyn FnMut(Push<'_>),
}

impl State {
    /// Returns the number of watches.
    pub(super) fn len(&self) -> usize {
        self.watches.len()
    }

    /// Returns whether there is a watch of that name.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.watches.iter().any(|watch| *watch.name == *name)
    }

    /// Returns whether there is something to take.
    pub(super) fn has_news(&self) -> bool {
        let is_filling = |watch: &Watch| watch.progress != Progress::Settled;
        self.read.is_some() || !self.marks.is_empty() || self.watches.iter().any(is_filling)
    }

    /// Adds a watch of that number, which is to be filled.
    pub(super) fn add(&mut self, number: u32, name: &[u8], scope: Scope) {
        self.watches.push(Watch {
            number,
            name: name.into(),
            scope,
            progress: Progress::New,
            filling: Filling::default(),
            hidden: Horizon::default(),
            last_change: 0,
            inside: 0,
        });
    }

    /// Removes the watch of that name, and returns its number and scope.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<(u32, Scope)> {
        let index = self.watches.iter().position(|watch| *watch.name == *name)?;
        let Watch { number, scope, .. } = self.watches.remove(index);
        self.marks.remove_watch(number);
        self.read.take_if(|read| read.watch == number);
        Some((number, scope))
    }

    /// Removes all watches.
    pub(super) fn clear(&mut self) -> Vec<(u32, Scope)> {
        self.marks = Marks::default();
        self.read = None;
        let watches = std::mem::take(&mut self.watches).into_iter();
        watches.map(|watch| (watch.number, watch.scope)).collect()
    }

    /// Has all watches filled again. Returns the number of marks that were dropped; `None` if nothing
    /// was told yet of any watch.
    pub(super) fn reset(&mut self) -> Option<usize> {
        if self
            .watches
            .iter()
            .all(|watch| watch.progress == Progress::New)
        {
            return None;
        }
        let dropped = self.marks.len();
        self.marks = Marks::default();
        self.read = None;
        for watch in &mut self.watches {
            watch.progress = Progress::New;
            watch.filling = Filling::default();
        }
        Some(dropped)
    }

    /// Marks what a change means for a watch. Returns whether it is a new mark.
    pub(super) fn apply(&mut self, number: u32, change: &Change) -> bool {
        let Some(watch) = self.watches.iter_mut().find(|one| one.number == number) else {
            return false;
        };
        let position = change.client.position();
        if change.number <= watch.last_change || !watch.filling.counts(position, change.number) {
            return false;
        }
        watch.last_change = change.number;
        let (was, is) = watch.scope.judge(change, watch.hidden);
        (was || is) && self.marks.set(number, change, was, is)
    }

    /// Returns the number of marks.
    pub(super) fn marks(&self) -> usize {
        self.marks.len()
    }

    /// Shows up to `max_bytes` of pushes. Returns whether there are more.
    pub(super) fn take(&mut self, taking: &mut Taking<'_>, max_bytes: usize) -> bool {
        let mut room = Room(max_bytes);
        let mut looked = 0;
        while looked < MAX_LOOKED {
            // In this order: a mark is of a client that has been told of before.
            if !self.show_read(taking, &mut room) || !self.show_marks(taking, &mut room) {
                return true;
            }
            let is_filling = |watch: &&mut Watch| watch.progress != Progress::Settled;
            let Some(watch) = self.watches.iter_mut().find(is_filling) else {
                self.is_awake = false;
                return false;
            };
            if !watch.begin(taking, &mut room) {
                return true;
            }
            if watch.filling.is_over() {
                if !watch.settle(taking, &mut room) {
                    return true;
                }
            } else {
                let (records, piece) = watch.read(taking);
                looked += piece + PIECE_COST;
                self.read = records;
            }
        }
        true
    }

    /// Shows the records that were read. Returns whether there was room for all of them.
    fn show_read(&mut self, taking: &mut Taking<'_>, room: &mut Room) -> bool {
        let Some(read) = &mut self.read else {
            return true;
        };
        let number = read.watch;
        if let Some(watch) = self.watches.iter_mut().find(|one| one.number == number) {
            while read.told < read.records.len() {
                let record = unpack(&read.records[read.told..]);
                let bytes = record.packed_bytes();
                if !room.take(&watch.name, bytes) {
                    return false;
                }
                watch.inside += 1;
                read.told += bytes;
                let name = &*watch.name;
                (taking.show)(Push::Inside { name, record });
            }
        }
        self.read = None;
        true
    }

    /// Shows the marks. Returns whether there was room for all of them.
    fn show_marks(&mut self, taking: &mut Taking<'_>, room: &mut Room) -> bool {
        while let Some(mark) = self.marks.front() {
            let number = mark.watch;
            if let Some(watch) = self.watches.iter_mut().find(|one| one.number == number) {
                let record = unpack(&mark.record);
                if !room.take(&watch.name, record.packed_bytes()) {
                    return false;
                }
                watch.show(record, mark.was_inside, mark.is_inside, taking);
            }
            self.marks.pop();
        }
        true
    }
}

impl Watch {
    /// Announces the filling, if it has not begun. Returns whether there was room.
    fn begin(&mut self, taking: &mut Taking<'_>, room: &mut Room) -> bool {
        if self.progress != Progress::New {
            return true;
        }
        if !room.take(&self.name, 0) {
            return false;
        }
        self.progress = Progress::Filling;
        self.inside = 0;
        self.hidden = taking.replica.horizon(taking.now);
        (taking.show)(Push::Reset { name: &self.name });
        true
    }

    /// Announces the end of the filling. Returns whether there was room.
    fn settle(&mut self, taking: &mut Taking<'_>, room: &mut Room) -> bool {
        let has_room = room.take(&self.name, 0);
        if has_room {
            self.progress = Progress::Settled;
            (taking.show)(Push::Settled {
                name: &self.name,
                clients: self.inside,
            });
        }
        has_room
    }

    /// Reads the next piece of the filling. Also returns how many records it looked at.
    fn read(&mut self, taking: &Taking<'_>) -> (Option<Read>, usize) {
        let (scope, hidden) = (&self.scope, self.hidden);
        let mut records = Vec::new();
        let mut look = |record: &RecordView<'_>| {
            let position =
                Position::parse(record.location).filter(|_| !hidden.is_dead(record.time));
            if position.is_some_and(|position| scope.holds(&position)) {
                record.pack(&mut records);
            }
        };
        let piece = match scope {
            Scope::Client(client) => PieceRead {
                last_change: taking.replica.with_last_change(client, |found| {
                    found.iter().for_each(&mut look);
                }),
                end: HashPosition::END,
                looked: 1,
            },
            Scope::Area(area) => {
                let (from, cover) = (self.filling.next(), area.cover.as_ref());
                taking.replica.piece(from, PIECE_RECORDS, cover, look)
            }
        };
        let looked = piece.looked;
        self.filling.advance(piece, taking.published);
        let is_some = !records.is_empty();
        let read = is_some.then_some(Read {
            watch: self.number,
            records,
            told: 0,
        });
        (read, looked)
    }

    /// Shows what a mark means now.
    fn show(&mut self, record: RecordView<'_>, was: bool, is: bool, taking: &mut Taking<'_>) {
        let name = &*self.name;
        let push = match (was, is) {
            (true, false) if record.is_tombstone() => Push::Gone {
                name,
                client: record.client,
            },
            (true, false) => Push::Leave { name, record },
            (false, true) if self.scope.is_area() => Push::Enter { name, record },
            (_, true) => Push::Move { name, record },
            (false, false) => return,
        };
        self.inside = self.inside + usize::from(is) - usize::from(was);
        (taking.show)(push);
    }
}
