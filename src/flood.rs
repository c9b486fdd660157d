//! Who must hear of what: one outbox for every neighbor, and which of them are live.
//!
//! A link that is down queues nothing, since the cache itself is what it is fed from when it
//! comes back. An outbox that is full is cleared and its link marked dirty, which stops queueing
//! too, until the sender has asked the neighbor what it holds and begun to send the rest from
//! the cache. So a slow or dead neighbor costs a bounded amount of memory, and no record.
//!
//! All of this is plain data: the apply lock that owns it is what makes a change here, in the
//! cache and in the numbering one step.

use std::sync::Arc;

use crate::outbox::{Inlet, LinkId, Outlet, outbox};

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
    state: State,
    inlet: Inlet,
}

/// The outboxes of all neighbors.
#[derive(Debug, Default)]
pub struct Flood {
    links: Vec<Link>,
}

impl Flood {
    /// Adds a neighbor, down at first, and hands out its queue of at most `groups` groups.
    pub fn add(&mut self, groups: usize) -> (LinkId, Outlet) {
        let (inlet, outlet) = outbox(groups);
        self.links.push(Link {
            state: State::Down,
            inlet,
        });
        (LinkId(self.links.len() - 1), outlet)
    }

    /// Begins to queue for a link, from an empty queue.
    pub fn set_live(&mut self, id: LinkId) {
        self.links[id.0].inlet.clear();
        self.links[id.0].state = State::Live;
    }

    /// Stops queueing for a link, and lets go of what is queued.
    pub fn set_down(&mut self, id: LinkId) {
        self.links[id.0].state = State::Down;
        self.links[id.0].inlet.clear();
    }

    /// Whether anybody but `source` is live: if not, there is nothing to write lines for.
    pub fn has_listeners(&self, source: Option<LinkId>) -> bool {
        self.links
            .iter()
            .enumerate()
            .any(|(index, link)| link.state == State::Live && source != Some(LinkId(index)))
    }

    /// Queues lines for every live link but the one that they came from. Never waits.
    pub fn hand_over(&mut self, lines: &Arc<[u8]>, source: Option<LinkId>) {
        for (index, link) in self.links.iter_mut().enumerate() {
            if link.state == State::Live && source != Some(LinkId(index)) {
                let pushed = link.inlet.push(lines);
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
    use crate::outbox::{QUEUE_BYTES, QUEUE_GROUPS, Queued};

    fn lines(text: &str) -> Arc<[u8]> {
        Arc::from(text.as_bytes())
    }

    #[track_caller]
    fn check(outlet: &Outlet, expected: &[&str]) {
        let mut got = Vec::new();
        while let Ok(queued) = outlet.try_take() {
            got.push(match queued {
                Queued::Lines(lines) => String::from_utf8_lossy(&lines).into_owned(),
                Queued::Overflowed => "overflowed".to_owned(),
            });
        }
        assert_eq!(got, expected);
        assert_eq!(outlet.queued_bytes(), 0);
    }

    #[test]
    fn only_live_links_other_than_the_source_hear() {
        let mut flood = Flood::default();
        let (a, outlet_a) = flood.add(QUEUE_GROUPS);
        let (b, outlet_b) = flood.add(QUEUE_GROUPS);
        let (c, outlet_c) = flood.add(QUEUE_GROUPS);
        flood.set_live(a);
        assert!(flood.has_listeners(None));
        assert!(!flood.has_listeners(Some(a)));
        flood.set_live(b);
        flood.hand_over(&lines("one"), Some(a));
        flood.hand_over(&lines("two"), None);
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
            flood.hand_over(&lines(text), None);
        }
        assert!(!flood.has_listeners(None));
        check(&outlet, &["overflowed"]);
        flood.set_live(slow);
        flood.hand_over(&lines("five"), None);
        check(&outlet, &["five"]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut flood = Flood::default();
        let (slow, outlet) = flood.add(QUEUE_GROUPS);
        flood.set_live(slow);
        let big: Arc<[u8]> = vec![b'x'; QUEUE_BYTES / 2].into();
        flood.hand_over(&big, None);
        flood.hand_over(&big, None);
        assert!(flood.has_listeners(None));
        flood.hand_over(&big, None);
        check(&outlet, &["overflowed"]);
    }

    #[test]
    fn a_dead_neighbor_holds_nothing() {
        let mut flood = Flood::default();
        let (dead, outlet) = flood.add(QUEUE_GROUPS);
        flood.set_live(dead);
        flood.hand_over(&lines("one"), None);
        flood.set_down(dead);
        flood.hand_over(&lines("two"), None);
        check(&outlet, &[]);
    }
}
