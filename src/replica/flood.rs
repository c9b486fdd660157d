//! Who must hear of what: one outbox for every neighbor, and which of them are live.
//!
//! A link that is down queues nothing, since the cache itself is what it is fed from when it
//! comes back. An outbox that is full is cleared and its link marked dirty, which stops queueing
//! too, until the sender has asked the neighbor what it holds and begun to send the rest from
//! the cache. So a slow or dead neighbor costs a bounded amount of memory, and no record.
//!
//! All of this is plain data: the apply lock that owns it is what makes a change here, in the
//! cache and in the numbering one step.

use crate::replica::outbox::{Batch, LinkId, OutboxReceiver, OutboxSender, outbox};

/// Whether a link takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected.
    Down,
    /// Connected, and everything since the last resync has been queued.
    Live,
    /// Connected, but what overflowed is missing.
    Dirty,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    state: State,
    inlet: OutboxSender,
}

/// The outboxes of all neighbors.
#[derive(Debug, Default)]
pub struct Flood {
    links: Vec<Link>,
    /// How many there have ever been, so that no two have the same id: a record on its way from
    /// a neighbor that is gone must not be taken for one from its successor.
    added: usize,
}

impl Flood {
    /// Adds a neighbor, down at first, and hands out its queue of at most `groups` groups.
    pub fn add(&mut self, groups: usize) -> (LinkId, OutboxReceiver) {
        let (inlet, outlet) = outbox(groups);
        let id = LinkId(self.added);
        self.added += 1;
        self.links.push(Link {
            id,
            state: State::Down,
            inlet,
        });
        (id, outlet)
    }

    /// Lets go of a neighbor and its queue.
    pub fn remove(&mut self, id: LinkId) {
        self.links.retain(|link| link.id != id);
    }

    /// Begins to queue for a link, from an empty queue.
    pub fn set_live(&mut self, id: LinkId) {
        self.set(id, State::Live);
    }

    /// Stops queueing for a link, and lets go of what is queued.
    pub fn set_down(&mut self, id: LinkId) {
        self.set(id, State::Down);
    }

    fn set(&mut self, id: LinkId, state: State) {
        if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
            link.inlet.clear();
            link.state = state;
        }
    }

    /// Whether anybody but `source` is live: if not, there is nothing to write lines for.
    pub fn has_subscribers(&self, source: Option<LinkId>) -> bool {
        self.links
            .iter()
            .any(|link| link.state == State::Live && source != Some(link.id))
    }

    /// Queues lines for every live link but the one that they came from. Never waits.
    pub fn publish(&mut self, group: &Batch, source: Option<LinkId>) {
        for link in &mut self.links {
            if link.state == State::Live && source != Some(link.id) {
                let pushed = link.inlet.push(group);
                if pushed.is_err() {
                    link.state = State::Dirty;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::outbox::{Depth, QUEUE_BYTES, QUEUE_GROUPS, Queued};

    fn lines(text: &str) -> Batch {
        Batch::new(text.into(), 1)
    }

    #[track_caller]
    fn check(outlet: &OutboxReceiver, expected: &[&str]) {
        let mut got = Vec::new();
        while let Ok(queued) = outlet.try_take() {
            got.push(match queued {
                Queued::Lines(lines) => String::from_utf8_lossy(&lines).into_owned(),
                Queued::Overflowed => "overflowed".to_owned(),
            });
        }
        assert_eq!(got, expected);
        let Depth { bytes, records, .. } = outlet.gauge().depth();
        assert_eq!((bytes, records), (0, 0));
    }

    #[test]
    fn only_live_links_other_than_the_source_hear() {
        let mut flood = Flood::default();
        let (a, outlet_a) = flood.add(QUEUE_GROUPS);
        let (b, outlet_b) = flood.add(QUEUE_GROUPS);
        let (c, outlet_c) = flood.add(QUEUE_GROUPS);
        flood.set_live(a);
        assert!(flood.has_subscribers(None));
        assert!(!flood.has_subscribers(Some(a)));
        flood.set_live(b);
        flood.publish(&lines("one"), Some(a));
        flood.publish(&lines("two"), None);
        flood.set_live(c);
        flood.set_down(c);
        check(&outlet_a, &["two"]);
        check(&outlet_b, &["one", "two"]);
        check(&outlet_c, &[]);
    }

    #[test]
    fn a_full_queue_is_cleared_and_stays_silent_until_the_resync() {
        let mut flood = Flood::default();
        let (slow, outlet) = flood.add(2);
        flood.set_live(slow);
        for text in ["one", "two", "three", "four"] {
            flood.publish(&lines(text), None);
        }
        assert!(!flood.has_subscribers(None));
        assert!(outlet.gauge().depth().overflowed);
        check(&outlet, &["overflowed"]);
        flood.set_live(slow);
        assert!(!outlet.gauge().depth().overflowed);
        flood.publish(&lines("five"), None);
        check(&outlet, &["five"]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut flood = Flood::default();
        let (slow, outlet) = flood.add(QUEUE_GROUPS);
        flood.set_live(slow);
        let big = Batch::new(vec![b'x'; QUEUE_BYTES / 2], 1);
        flood.publish(&big, None);
        flood.publish(&big, None);
        assert!(flood.has_subscribers(None));
        flood.publish(&big, None);
        check(&outlet, &["overflowed"]);
    }

    #[test]
    fn a_dead_neighbor_holds_nothing() {
        let mut flood = Flood::default();
        let (dead, outlet) = flood.add(QUEUE_GROUPS);
        flood.set_live(dead);
        flood.publish(&lines("one"), None);
        flood.set_down(dead);
        flood.publish(&lines("two"), None);
        check(&outlet, &[]);
    }

    #[test]
    fn what_waits_is_counted() {
        let mut flood = Flood::default();
        let (link, outlet) = flood.add(QUEUE_GROUPS);
        flood.set_live(link);
        flood.publish(&Batch::new(b"one\ntwo\n".to_vec(), 2), None);
        flood.publish(&Batch::new(b"marker\n".to_vec(), 0), None);
        let depth = |groups, bytes, records| Depth {
            groups,
            bytes,
            records,
            overflowed: false,
        };
        assert_eq!(outlet.gauge().depth(), depth(2, 15, 2));
        outlet.try_take().unwrap();
        assert_eq!(outlet.gauge().depth(), depth(1, 7, 0));
        flood.set_down(link);
        assert_eq!(outlet.gauge().depth(), depth(0, 0, 0));
    }

    #[test]
    fn who_comes_later_is_not_taken_for_who_is_gone() {
        let mut flood = Flood::default();
        let (gone, outlet_gone) = flood.add(QUEUE_GROUPS);
        flood.set_live(gone);
        flood.remove(gone);
        let (new, outlet) = flood.add(QUEUE_GROUPS);
        flood.set_live(new);
        flood.set_live(gone);
        flood.publish(&lines("one"), Some(gone));
        check(&outlet, &["one"]);
        check(&outlet_gone, &[]);
    }
}
