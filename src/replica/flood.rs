//! The flood's view of the neighbors: an outbox for each of them, and which of them are live.
//!
//! A link that is down queues nothing, since the cache itself feeds it when it comes back. An outbox
//! that is full is cleared, and its link takes no more records until the sender has asked the
//! neighbor for its vector and begun to send the rest from the cache. So a slow or dead neighbor
//! costs a bounded amount of memory, and no record.
//!
//! A record is not sent back to the start of a neighbor that it came from, since that start holds
//! it. It is sent to a later start of the same neighbor: one that came back without its data lacks
//! what is still being read from the connection of the start before.
//!
//! All of this is plain data: the apply lock that owns it makes a change here, in the cache and in
//! the numbering one step.

use crate::replica::outbox::{Batch, LinkId, NeighborStart, OutboxReceiver, OutboxSender, outbox};

#[derive(Debug)]
struct Link {
    id: LinkId,
    /// Epoch of the neighbor's start for which everything since the last resync has been queued.
    /// `None` while the link is down, and from an overflow, which shows in the outbox, to the next
    /// resync.
    live: Option<u64>,
    outbox: OutboxSender,
}

impl Link {
    /// Returns whether lines that came from `source` are queued for the link.
    fn takes_from(&self, source: Option<NeighborStart>) -> bool {
        let live = self.live.map(|epoch| NeighborStart {
            link: self.id,
            epoch,
        });
        live.is_some() && live != source
    }
}

/// The outboxes of all neighbors.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    links: Vec<Link>,
    /// Number of links ever added, so that no two have the same id: a record on its way from a
    /// neighbor that was removed must not be taken for one from its successor.
    added: usize,
}

impl Flood {
    /// Adds a neighbor that is down. Returns its queue of at most `batches` batches.
    pub(crate) fn add(&mut self, batches: usize) -> (LinkId, OutboxReceiver) {
        let (sender, receiver) = outbox(batches);
        let id = LinkId(self.added);
        self.added += 1;
        self.links.push(Link {
            id,
            live: None,
            outbox: sender,
        });
        (id, receiver)
    }

    /// Removes a neighbor and its queue.
    pub(crate) fn remove(&mut self, id: LinkId) {
        self.links.retain(|link| link.id != id);
    }

    /// Begins to queue for a start of a neighbor, from an empty queue.
    pub(crate) fn set_live(&mut self, to: NeighborStart) {
        self.set(to.link, Some(to.epoch));
    }

    /// Stops queueing for a link, and drops what is queued.
    pub(crate) fn set_down(&mut self, id: LinkId) {
        self.set(id, None);
    }

    fn set(&mut self, id: LinkId, live: Option<u64>) {
        if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
            link.outbox.clear();
            link.live = live;
        }
    }

    /// Returns whether any start of a neighbor but `source` is live: if not, no lines need be
    /// written.
    pub(crate) fn has_subscribers(&self, source: Option<NeighborStart>) -> bool {
        self.links.iter().any(|link| link.takes_from(source))
    }

    /// Queues lines for every live start of a neighbor but the one that they came from. Never
    /// waits.
    pub(crate) fn publish(&mut self, batch: &Batch, source: Option<NeighborStart>) {
        for link in &mut self.links {
            if link.takes_from(source) && link.outbox.push(batch).is_err() {
                link.live = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::outbox::{Depth, QUEUE_BATCHES, QUEUE_BYTES, Queued};

    fn lines(text: &str) -> Batch {
        Batch::new(text.into(), 1)
    }

    fn first(link: LinkId) -> NeighborStart {
        NeighborStart { link, epoch: 1 }
    }

    #[track_caller]
    fn check(outbox: &OutboxReceiver, expected: &[&str]) {
        let mut got = Vec::new();
        while let Ok(queued) = outbox.try_take() {
            got.push(match queued {
                Queued::Lines(lines) => String::from_utf8_lossy(&lines).into_owned(),
                Queued::Overflowed => "overflowed".to_owned(),
            });
        }
        assert_eq!(got, expected);
        let Depth { bytes, records, .. } = outbox.gauge().depth();
        assert_eq!((bytes, records), (0, 0));
    }

    #[test]
    fn only_live_links_other_than_the_source_get_lines() {
        let mut flood = Flood::default();
        let (a, outbox_a) = flood.add(QUEUE_BATCHES);
        let (b, outbox_b) = flood.add(QUEUE_BATCHES);
        let (c, outbox_c) = flood.add(QUEUE_BATCHES);
        flood.set_live(first(a));
        assert!(flood.has_subscribers(None));
        assert!(!flood.has_subscribers(Some(first(a))));
        flood.set_live(first(b));
        flood.publish(&lines("one"), Some(first(a)));
        flood.publish(&lines("two"), None);
        flood.set_live(first(c));
        flood.set_down(c);
        check(&outbox_a, &["two"]);
        check(&outbox_b, &["one", "two"]);
        check(&outbox_c, &[]);
    }

    #[test]
    fn a_full_queue_is_cleared_and_stays_silent_until_the_resync() {
        let mut flood = Flood::default();
        let (slow, outbox) = flood.add(2);
        flood.set_live(first(slow));
        for text in ["one", "two", "three", "four"] {
            flood.publish(&lines(text), None);
        }
        assert!(!flood.has_subscribers(None));
        assert!(outbox.gauge().depth().overflowed);
        check(&outbox, &["overflowed"]);
        flood.set_live(first(slow));
        assert!(!outbox.gauge().depth().overflowed);
        flood.publish(&lines("five"), None);
        check(&outbox, &["five"]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut flood = Flood::default();
        let (slow, outbox) = flood.add(QUEUE_BATCHES);
        flood.set_live(first(slow));
        let big = Batch::new(vec![b'x'; QUEUE_BYTES / 2], 1);
        flood.publish(&big, None);
        flood.publish(&big, None);
        assert!(flood.has_subscribers(None));
        flood.publish(&big, None);
        check(&outbox, &["overflowed"]);
    }

    #[test]
    fn a_dead_neighbor_holds_nothing() {
        let mut flood = Flood::default();
        let (dead, outbox) = flood.add(QUEUE_BATCHES);
        flood.set_live(first(dead));
        flood.publish(&lines("one"), None);
        flood.set_down(dead);
        flood.publish(&lines("two"), None);
        check(&outbox, &[]);
    }

    #[test]
    fn queued_lines_are_counted() {
        let mut flood = Flood::default();
        let (link, outbox) = flood.add(QUEUE_BATCHES);
        flood.set_live(first(link));
        flood.publish(&Batch::new(b"one\ntwo\n".to_vec(), 2), None);
        flood.publish(&Batch::new(b"marker\n".to_vec(), 0), None);
        let depth = |batches, bytes, records| Depth {
            batches,
            bytes,
            records,
            overflowed: false,
        };
        assert_eq!(outbox.gauge().depth(), depth(2, 15, 2));
        outbox.try_take().unwrap();
        assert_eq!(outbox.gauge().depth(), depth(1, 7, 0));
        flood.set_down(link);
        assert_eq!(outbox.gauge().depth(), depth(0, 0, 0));
    }

    #[test]
    fn a_new_link_is_not_taken_for_a_removed_one() {
        let mut flood = Flood::default();
        let (gone, outbox_gone) = flood.add(QUEUE_BATCHES);
        flood.set_live(first(gone));
        flood.remove(gone);
        let (new, outbox) = flood.add(QUEUE_BATCHES);
        flood.set_live(first(new));
        flood.set_live(first(gone));
        flood.publish(&lines("one"), Some(first(gone)));
        check(&outbox, &["one"]);
        check(&outbox_gone, &[]);
    }

    #[test]
    fn a_later_start_of_the_source_gets_its_lines_and_markers_behind_them() {
        let mut flood = Flood::default();
        let (link, outbox) = flood.add(QUEUE_BATCHES);
        let second = NeighborStart { link, epoch: 2 };
        flood.set_live(second);
        flood.publish(&lines("of the first start"), Some(first(link)));
        flood.publish(&lines("of the second"), Some(second));
        flood.publish(&Batch::new(b"marker".to_vec(), 0), None);
        check(&outbox, &["of the first start", "marker"]);
    }
}
