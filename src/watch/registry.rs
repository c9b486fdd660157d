//! Which watches there are, and which of them a change may concern.
//!
//! A watch of a small area lies in the cells that its circle may reach. One of a large area lies on
//! a list that every change is matched with, so there are few of those.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::area::Scope;
use super::connection::Connection;
use crate::model::grid::{Cell, Cover};
use crate::replica::Replica;
use crate::replica::cache::ClientHash;
use crate::replica::feed::{Change, Interest};

/// Watches of a server.
pub(super) const MAX_WATCHES: usize = 100_000;

/// Wide watches of a server.
pub(super) const MAX_WIDE: usize = 256;

/// Entries of watches in cells, of a server: each takes some 30 bytes.
const MAX_ENTRIES: usize = 4 << 20;

/// Numbers of watches in one place.
type Numbers = SmallVec<[u32; 2]>;

/// All watches of a server, by their numbers and by place.
#[derive(Debug, Default)]
pub(super) struct Registry {
    watches: Slab<Arc<Connection>>,
    wide: Vec<u32>,
    cells: HashMap<Cell, Numbers>,
    entries: usize,
    clients: HashMap<u64, Numbers>,
}

/// Where a watch lies.
enum Place<'a> {
    Wide,
    Cells(&'a Cover),
    Client(ClientHash),
}

impl Place<'_> {
    fn of<'a>(scope: &'a Scope, replica: &Replica) -> Place<'a> {
        match scope {
            Scope::Client(client) => Place::Client(replica.key(client)),
            Scope::Area(area) => match &area.cover {
                Some(cells) => Place::Cells(cells),
                None => Place::Wide,
            },
        }
    }

    fn interest(&self) -> Interest<'_> {
        match self {
            Place::Wide => Interest::Everywhere,
            Place::Cells(cells) => Interest::Cells(cells),
            Place::Client(client) => Interest::Client(*client),
        }
    }
}

impl Registry {
    /// Returns the number of watches.
    pub(super) fn len(&self) -> usize {
        self.watches.len()
    }

    /// Adds a watch, and has the feed note what concerns it. Returns its number and whether it is a
    /// wide one; `None` if the server has too many.
    pub(super) fn add(
        &mut self,
        connection: &Arc<Connection>,
        scope: &Scope,
        replica: &Replica,
    ) -> Option<(u32, bool)> {
        let place = Place::of(scope, replica);
        let has_room = match &place {
            Place::Wide => self.wide.len() < MAX_WIDE,
            Place::Cells(cells) => self.entries + cells.len() <= MAX_ENTRIES,
            Place::Client(_) => true,
        };
        if self.len() >= MAX_WATCHES || !has_room {
            return None;
        }
        // There are never more than fit.
        let number = self.watches.insert(Arc::clone(connection)) as u32;
        match &place {
            Place::Wide => self.wide.push(number),
            Place::Cells(cells) => {
                self.entries += cells.len();
                for cell in cells.iter() {
                    self.cells.entry(cell).or_default().push(number);
                }
            }
            Place::Client(client) => {
                let numbers = self.clients.entry(client.bits()).or_default();
                numbers.push(number);
            }
        }
        replica.feed().add(&place.interest());
        Some((number, matches!(place, Place::Wide)))
    }

    /// Removes a watch.
    pub(super) fn remove(&mut self, number: u32, scope: &Scope, replica: &Replica) {
        let place = Place::of(scope, replica);
        replica.feed().remove(&place.interest());
        self.watches.remove(number as usize);
        match &place {
            Place::Wide => self.wide.retain(|other| *other != number),
            Place::Cells(cells) => {
                self.entries -= cells.len();
                for cell in cells.iter() {
                    remove_from(&mut self.cells, &cell, number);
                }
            }
            Place::Client(client) => remove_from(&mut self.clients, &client.bits(), number),
        }
    }

    /// Returns the wide watches, which every change may concern.
    pub(super) fn wide(&self) -> impl Iterator<Item = (u32, &Arc<Connection>)> {
        self.of(&self.wide)
    }

    /// Returns the other watches that a change may concern; some of them twice.
    pub(super) fn near(&self, change: &Change) -> impl Iterator<Item = (u32, &Arc<Connection>)> {
        let cells = change.cells.iter().flatten();
        let in_cells = cells.filter_map(|cell| self.cells.get(cell));
        let of_client = self.clients.get(&change.client.bits());
        in_cells
            .chain(of_client)
            .flat_map(|numbers| self.of(numbers))
    }

    /// Returns the connections of all watches; those of several watches more than once.
    pub(super) fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.watches.iter().map(|(_, connection)| connection)
    }

    fn of<'a>(&'a self, numbers: &'a [u32]) -> impl Iterator<Item = (u32, &'a Arc<Connection>)> {
        numbers
            .iter()
            .map(|number| (*number, &self.watches[*number as usize]))
    }
}

fn remove_from<K: Eq + std::hash::Hash>(places: &mut HashMap<K, Numbers>, key: &K, number: u32) {
    if let Some(numbers) = places.get_mut(key) {
        numbers.retain(|other| *other != number);
        if numbers.is_empty() {
            places.remove(key);
        }
    }
}
