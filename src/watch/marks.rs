//! The marks of one connection: which clients have changed for which of its watches.
//!
//! A mark remembers whether the watcher last knew the client inside, and the newest record: of many
//! changes that a slow watcher has not taken, it is told of one. Marks are taken in the order in
//! which they were made.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::replica::cache::ClientHash;
use crate::replica::feed::{Change, unpack};

/// A client that has changed for a watch.
#[derive(Debug)]
pub(super) struct Mark {
    /// Number of the watch.
    pub(super) watch: u32,
    /// The watcher last knew the client inside.
    pub(super) was_inside: bool,
    /// The client is inside now.
    pub(super) is_inside: bool,
    client: ClientHash,
    /// The newest record, packed; a tombstone if the client is gone.
    pub(super) record: Arc<[u8]>,
}

/// The marks, oldest first.
#[derive(Debug, Default)]
pub(super) struct Marks {
    queue: VecDeque<Mark>,
    /// Numbers of the marks, by watch and client.
    index: HashTable<u32>,
    /// Number of the oldest mark.
    first: u32,
}

impl Marks {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Notes a change that begins or ends inside. Returns whether it is a new mark.
    pub(super) fn set(&mut self, watch: u32, change: &Change, was: bool, is: bool) -> bool {
        let Marks {
            queue,
            index,
            first,
        } = self;
        let at = |number: u32| number.wrapping_sub(*first) as usize;
        let client = change.record().client;
        let entry = index.entry(
            hash(watch, change.client),
            |number| {
                let mark = &queue[at(*number)];
                mark.watch == watch && unpack(&mark.record).client == client
            },
            |number| hash_of(&queue[at(*number)]),
        );
        match entry {
            Entry::Occupied(entry) => {
                let mark = &mut queue[at(*entry.get())];
                mark.is_inside = is;
                mark.record = Arc::clone(&change.record);
                false
            }
            Entry::Vacant(entry) => {
                entry.insert(first.wrapping_add(queue.len() as u32));
                queue.push_back(Mark {
                    watch,
                    was_inside: was,
                    is_inside: is,
                    client: change.client,
                    record: Arc::clone(&change.record),
                });
                true
            }
        }
    }

    /// Returns the oldest mark.
    pub(super) fn front(&self) -> Option<&Mark> {
        self.queue.front()
    }

    /// Removes the oldest mark.
    pub(super) fn pop(&mut self) {
        let Some(mark) = self.queue.pop_front() else {
            return;
        };
        let number = self.first;
        if let Ok(entry) = self
            .index
            .find_entry(hash_of(&mark), |other| *other == number)
        {
            entry.remove();
        }
        self.first = number.wrapping_add(1);
        if self.queue.is_empty() {
            // A connection that has taken everything owns no memory for marks.
            *self = Marks::default();
        }
    }

    /// Removes the marks of a watch.
    pub(super) fn remove_watch(&mut self, watch: u32) {
        if self.queue.iter().all(|mark| mark.watch != watch) {
            return;
        }
        let queue = std::mem::take(self).queue;
        for mark in queue.into_iter().filter(|mark| mark.watch != watch) {
            let number = self.queue.len() as u32;
            self.queue.push_back(mark);
            let Marks { queue, index, .. } = self;
            let hash = hash_of(&queue[number as usize]);
            index.insert_unique(hash, number, |number| hash_of(&queue[*number as usize]));
        }
    }
}

fn hash_of(mark: &Mark) -> u64 {
    hash(mark.watch, mark.client)
}

fn hash(watch: u32, client: ClientHash) -> u64 {
    client.bits() ^ u64::from(watch).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
