//! Which record of every client the viewers have, while there are few clients.

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::frame::{Frame, Lists, Mode};
use super::origins::Origins;
use super::text::{write_client, write_gone};
use crate::model::record::RecordView;
use crate::model::time::Timestamp;

/// The record of a client that was sent last.
#[derive(Debug)]
struct Sent {
    origin: u32,
    /// Number of the last scan that has shown the client.
    scan: u32,
    epoch: u64,
    sequence: u64,
}

/// The clients as they were sent last.
#[derive(Debug, Default)]
pub(super) struct Clients {
    sent: HashMap<Box<[u8]>, Sent, RandomState>,
    origins: Origins,
    scan: u32,
    /// Records that the scan has shown so far.
    records: usize,
    /// Whether the scan renders all clients besides those that have changed.
    wants_whole: bool,
    changed: Vec<u8>,
    whole: Vec<u8>,
}

impl Clients {
    /// Begins a scan.
    pub(super) fn begin(&mut self, wants_whole: bool) {
        self.scan = self.scan.wrapping_add(1);
        self.records = 0;
        self.wants_whole = wants_whole;
        self.changed.clear();
        self.whole.clear();
    }

    /// Takes a record of the scan, each client's once. It runs under a lock of the cache.
    pub(super) fn see(&mut self, record: &RecordView<'_>) {
        self.records += 1;
        let is_changed = self.update(record);
        let begin = self.whole.len();
        if self.wants_whole {
            self.whole.push(b',');
            write_client(record, &mut self.whole);
        }
        if is_changed && self.wants_whole {
            self.changed.extend_from_slice(&self.whole[begin..]);
        } else if is_changed {
            self.changed.push(b',');
            write_client(record, &mut self.changed);
        }
    }

    /// Remembers the record as sent. Returns whether it was not.
    fn update(&mut self, record: &RecordView<'_>) -> bool {
        let Clients {
            sent,
            origins,
            scan,
            ..
        } = self;
        let new = |origins: &mut Origins| {
            let origin = origins.number(record.origin);
            origins.count(origin);
            Sent {
                origin: origin as u32,
                scan: *scan,
                epoch: record.epoch,
                sequence: record.sequence,
            }
        };
        match sent.entry_ref(record.client) {
            EntryRef::Occupied(mut entry) => {
                let sent = entry.get_mut();
                sent.scan = *scan;
                let is_same = sent.sequence == record.sequence
                    && sent.epoch == record.epoch
                    && origins.name(sent.origin as usize) == record.origin;
                if !is_same {
                    *sent = new(origins);
                }
                !is_same
            }
            EntryRef::Vacant(entry) => {
                entry.insert(new(origins));
                true
            }
        }
    }

    /// Ends the scan. Returns the frame of the changes, if there are any, and the whole frame if it
    /// was asked for.
    pub(super) fn end(&mut self, at: Timestamp) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let mut gone = Vec::new();
        if self.sent.len() > self.records {
            let scan = self.scan;
            self.sent.retain(|client, sent| {
                let is_gone = sent.scan != scan;
                if is_gone {
                    gone.push(b',');
                    write_gone(client, &mut gone);
                }
                !is_gone
            });
        }
        let mut reports = Vec::new();
        self.origins.take_counts(&mut reports);
        let frame = Frame {
            at,
            mode: Mode::Clients,
            records: self.records,
        };
        let lists = Lists {
            clients: &self.changed,
            gone: &gone,
            reports: &reports,
            ..Lists::default()
        };
        let changes = (!lists.is_empty()).then(|| frame.render(false, lists));
        let lists = Lists {
            clients: &self.whole,
            ..Lists::default()
        };
        let whole = self.wants_whole.then(|| frame.render(true, lists));
        // Of all clients it is as large as the frame itself.
        self.whole = Vec::new();
        (changes, whole)
    }
}
