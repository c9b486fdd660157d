//! The servers at which records were reported, by number, and how many records of each have changed.

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::http::json::write_name;
use crate::model::time::write_u64;

/// Names of servers in the order in which they were first seen.
#[derive(Debug, Default)]
pub(super) struct Origins {
    numbers: HashMap<Box<[u8]>, usize, RandomState>,
    origins: Vec<Origin>,
}

#[derive(Debug)]
struct Origin {
    name: Box<[u8]>,
    /// Number of its records that have changed since the last frame.
    changed: u64,
}

impl Origins {
    /// Returns the number of a server.
    pub(super) fn number(&mut self, name: &[u8]) -> usize {
        match self.numbers.entry_ref(name) {
            EntryRef::Occupied(entry) => *entry.get(),
            EntryRef::Vacant(entry) => {
                let number = self.origins.len();
                entry.insert(number);
                self.origins.push(Origin {
                    name: name.into(),
                    changed: 0,
                });
                number
            }
        }
    }

    /// Returns the name of a server.
    pub(super) fn name(&self, number: usize) -> &[u8] {
        &self.origins[number].name
    }

    /// Counts a record that has changed.
    pub(super) fn count(&mut self, number: usize) {
        self.origins[number].changed += 1;
    }

    /// Appends the counts as members of an object, each behind a comma, and counts from 0 again.
    pub(super) fn take_counts(&mut self, out: &mut Vec<u8>) {
        for origin in &mut self.origins {
            let changed = std::mem::take(&mut origin.changed);
            if changed > 0 {
                out.push(b',');
                write_name(&origin.name, out);
                out.push(b':');
                write_u64(changed, out);
            }
        }
    }
}
