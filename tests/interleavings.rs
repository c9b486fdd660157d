//! The apply lock, the outboxes and the change feed under thread interleavings that shuttle's schedulers choose.
//!
//! The replica, its cache and its outboxes are compiled here a second time, from the same files,
//! with the primitives of `tests/interleavings/sync.rs` in place of those of `src/sync.rs`. Each
//! property is checked thousands of times, each time in another order; and each is shown to fail
//! with a replica that is broken on purpose.

#![allow(
    dead_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_imports,
    clippy::all,
    clippy::unwrap_used,
    reason = "whole modules of the server are compiled of which only parts are used; their lints \
              are checked in the library; and in a test a panic is the report"
)]

#[path = "../src"]
mod server {
    pub mod config;
    pub mod disk;
    pub mod exit;
    pub mod logging;
    pub mod metrics;
    pub mod model;
    pub mod replica;
    pub mod store;
    pub mod thread;
}
use server::{config, disk, exit, logging, metrics, model, replica, store, thread};

#[path = "interleavings/broken.rs"]
mod broken;
#[path = "../src/watch/filling.rs"]
mod filling;
#[path = "interleavings/forgetting.rs"]
mod forgetting;
#[path = "interleavings/orders.rs"]
mod orders;
#[path = "support/record.rs"]
mod record;
#[path = "interleavings/sync.rs"]
mod sync;
#[path = "interleavings/watcher.rs"]
mod watcher;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use shuttle::thread as threads;

use broken::{Broken, Fault};
use forgetting::{
    a_forgotten_client_stays_forgotten, a_sweep_takes_the_dead_only,
    a_tombstone_is_later_than_what_it_forgets,
};
use model::command::{Command, Report};
use model::record::RecordView;
use model::time::Timestamp;
use model::vector::Vector;
use orders::{holds, is_noticed, say};
use record::Record;
use replica::outbox::{LinkId, NeighborStart, OutboxReceiver, QUEUE_BATCHES, Queued};
use replica::{ForgetOutcome, Replica};
use watcher::{Seen, a_filling_and_the_changes_tell_of_each_state_once};

/// The server that takes the reports.
const ORIGIN: &[u8] = b"Ball";

/// Time at which all reports are received; their own times are a few seconds.
const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

/// The server under test: the real replica, or a broken one.
trait Server: Send + Sync {
    fn report(&self, report: &Report<'_>, received: Timestamp);
    fn forget(&self, client: &[u8], now: Timestamp);
    fn add_link(&self, groups: usize) -> (LinkId, OutboxReceiver);
    fn set_live(&self, to: NeighborStart) -> Vector;
    fn set_down(&self, link: LinkId);
    fn vector(&self) -> Vector;
    fn send_markers(&self);
    fn all_above(&self, vector: &Vector, show: &mut dyn FnMut(&RecordView<'_>));
}

impl Server for Replica {
    fn report(&self, report: &Report<'_>, received: Timestamp) {
        Replica::report(self, &[*report], received, &mut Vec::new());
    }

    fn forget(&self, client: &[u8], now: Timestamp) {
        let outcome = Replica::forget(self, client, now);
        assert!(matches!(outcome, (ForgetOutcome::Forgotten(_), None)));
    }

    fn add_link(&self, groups: usize) -> (LinkId, OutboxReceiver) {
        self.add_link_bounded(groups)
    }

    fn set_live(&self, to: NeighborStart) -> Vector {
        Replica::set_live(self, to)
    }

    fn set_down(&self, link: LinkId) {
        Replica::set_down(self, link);
    }

    fn vector(&self) -> Vector {
        Replica::vector(self)
    }

    fn send_markers(&self) {
        Replica::send_markers(self);
    }

    fn all_above(&self, vector: &Vector, show: &mut dyn FnMut(&RecordView<'_>)) {
        let mut records = Vec::new();
        self.records_above(
            vector,
            NOW,
            &mut records,
            |records, view| records.push(Record::new(view)),
            |_| true,
        );
        records.iter().for_each(|record| show(&record.view()));
    }
}

/// The real replica.
fn sound() -> Arc<Replica> {
    Arc::new(Replica::new("Ball", 1, 100))
}

fn send_report(server: &dyn Server, client: &str, time: u64) {
    let line = format!("IAMAT {client} +1+1 {time}");
    match Command::parse(line.as_bytes()) {
        Ok(Command::Iamat(report)) => server.report(&report, NOW),
        other => panic!("{other:?}"),
    }
}

/// Starts a thread that reports.
fn reporter(
    server: &Arc<impl Server + 'static>,
    reports: Vec<(&'static str, u64)>,
) -> threads::JoinHandle<()> {
    let server = Arc::clone(server);
    threads::spawn(move || {
        for (client, time) in reports {
            send_report(&*server, client, time);
        }
    })
}

/// Returns the sequence number up to which a vector claims the origin's reports.
fn claimed(vector: &Vector) -> u64 {
    (1..)
        .take_while(|&sequence| vector.covers(ORIGIN, 1, sequence))
        .count() as u64
}

/// A neighbor: the records and the vector that it has been sent.
#[derive(Default)]
struct Neighbor {
    held: HashMap<Vec<u8>, Record>,
    sequences: BTreeSet<u64>,
    vector: Vector,
    /// Epoch of its start.
    epoch: u64,
}

impl Neighbor {
    fn start(&self, link: LinkId) -> NeighborStart {
        let epoch = self.epoch.max(1);
        NeighborStart { link, epoch }
    }

    fn take(&mut self, view: &RecordView<'_>) {
        if view.origin == ORIGIN {
            self.sequences.insert(view.sequence);
        }
        let held = self.held.get(view.client);
        if held.is_none_or(|held| view.order(&held.view()).is_gt()) {
            self.held.insert(view.client.to_vec(), Record::new(view));
        }
    }

    /// Takes all queued lines; returns whether the queue had overflowed. With `whole`, no report
    /// replaces another, so every report that a marker covers must have arrived.
    fn drain(&mut self, outbox: &OutboxReceiver, whole: bool) -> bool {
        while let Ok(queued) = outbox.try_take() {
            let Queued::Lines(lines) = queued else {
                return true;
            };
            for line in lines
                .strip_suffix(b"\n")
                .unwrap()
                .split(|&byte| byte == b'\n')
            {
                match RecordView::parse_line(line) {
                    Some(view) => self.take(&view),
                    None => self.mark(line, whole),
                }
            }
        }
        false
    }

    fn mark(&mut self, line: &[u8], whole: bool) {
        assert_eq!(self.vector.read_line("MARKER", line), Some(true));
        let claimed = claimed(&self.vector);
        if whole {
            let all = (1..=claimed).all(|sequence| self.sequences.contains(&sequence));
            assert!(
                all,
                "{claimed} are claimed, but only {:?} arrived",
                self.sequences
            );
        }
    }

    /// Sends the records that the neighbor lacks, as the link's sender does.
    fn resync(&mut self, server: &dyn Server, link: LinkId, order: Order) {
        let above = self.vector.clone();
        let mut captured = Vector::default();
        if order == Order::LiveThenScan {
            captured = server.set_live(self.start(link));
        }
        server.all_above(&above, &mut |view| self.take(view));
        if order == Order::ScanThenLive {
            captured = server.set_live(self.start(link));
        }
        self.vector.merge(&captured);
    }

    /// Asserts that it holds the same records as the server.
    fn check(&self, server: &dyn Server) {
        let mut clients = 0;
        server.all_above(&Vector::default(), &mut |view| {
            clients += 1;
            let held = self.held.get(view.client).map(Record::view);
            assert_eq!(held.as_ref(), Some(view));
        });
        assert_eq!(self.held.len(), clients);
    }
}

/// When a link begins to queue: before the cache is scanned for it, or, too late, after.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    LiveThenScan,
    ScanThenLive,
}

/// The vector never covers a report that is not stored, and in the end all; numbers have no gap.
fn nothing_is_claimed_that_is_not_stored(server: Arc<impl Server + 'static>) {
    let reporters = [
        reporter(&server, vec![("a", 1), ("b", 2), ("c", 3)]),
        reporter(&server, vec![("d", 1), ("e", 2)]),
    ];
    let stored = |server: &dyn Server| {
        let mut sequences = BTreeSet::new();
        server.all_above(&Vector::default(), &mut |view| {
            assert!(sequences.insert(view.sequence), "a number occurs twice");
        });
        sequences
    };
    for _ in 0..3 {
        let claimed = claimed(&server.vector());
        let stored = stored(&*server);
        let all = (1..=claimed).all(|sequence| stored.contains(&sequence));
        assert!(all, "{claimed} are claimed, but only {stored:?} are stored");
    }
    reporters
        .into_iter()
        .for_each(|reporter| reporter.join().unwrap());
    assert_eq!(stored(&*server), (1..=5).collect());
    assert_eq!(claimed(&server.vector()), 5);
}

/// A marker is queued behind all reports that it covers, and each report is queued once.
fn a_marker_is_behind_what_it_covers(server: Arc<impl Server + 'static>) {
    let (link, outbox) = server.add_link(QUEUE_BATCHES);
    let mut neighbor = Neighbor::default();
    neighbor.resync(&*server, link, Order::LiveThenScan);
    let timer = Arc::clone(&server);
    let timer = threads::spawn(move || {
        timer.send_markers();
        timer.send_markers();
    });
    let reporters = [
        reporter(&server, vec![("a", 1), ("b", 2)]),
        reporter(&server, vec![("c", 1), ("d", 2)]),
    ];
    assert!(!neighbor.drain(&outbox, true));
    reporters
        .into_iter()
        .for_each(|reporter| reporter.join().unwrap());
    timer.join().unwrap();
    server.send_markers();
    assert!(!neighbor.drain(&outbox, true));
    assert_eq!(claimed(&neighbor.vector), 4);
    neighbor.check(&*server);
}

/// A link that comes up, overflows, goes down and comes up again while clients report misses
/// nothing in the end.
fn a_resync_and_the_queue_miss_nothing(
    server: Arc<impl Server + 'static>,
    groups: usize,
    order: Order,
) {
    let (link, outbox) = server.add_link(groups);
    let mut neighbor = Neighbor::default();
    let reporters = [
        reporter(&server, vec![("a", 1), ("b", 4), ("a", 5)]),
        reporter(&server, vec![("b", 2), ("a", 3), ("c", 6)]),
    ];
    for _ in 0..2 {
        neighbor.resync(&*server, link, order);
        if neighbor.drain(&outbox, false) {
            neighbor.resync(&*server, link, order);
        }
        // The queue is lost with the connection.
        server.set_down(link);
    }
    neighbor.resync(&*server, link, order);
    reporters
        .into_iter()
        .for_each(|reporter| reporter.join().unwrap());
    while neighbor.drain(&outbox, false) {
        neighbor.resync(&*server, link, order);
    }
    neighbor.check(&*server);
}

/// Reports and a neighbor's records of one client: no older one ever replaces a newer one, and
/// the winner is sent over each link but the one that it came from.
fn the_newest_wins_in_any_order() {
    let server = sound();
    let (from, source_outbox) = server.add_link();
    let (other, other_outbox) = server.add_link();
    let mut source = Neighbor::default();
    let mut neighbor = Neighbor::default();
    source.resync(&*server, from, Order::LiveThenScan);
    neighbor.resync(&*server, other, Order::LiveThenScan);
    let records: Vec<Record> = [(2, 1), (4, 2)]
        .into_iter()
        .map(|(seconds, sequence)| {
            let text = seconds.to_string();
            Record::new(&RecordView {
                client: b"a",
                location: b"+2+2",
                time_text: text.as_bytes(),
                time: Timestamp::from_nanos(seconds * 1_000_000_000),
                received: NOW,
                origin: b"Welsh",
                epoch: 1,
                sequence,
            })
        })
        .collect();
    records
        .iter()
        .for_each(|record| source.take(&record.view()));
    let adopter = Arc::clone(&server);
    let adopter = threads::spawn(move || {
        for record in &records {
            adopter.adopt(
                &[record.view()],
                NeighborStart {
                    link: from,
                    epoch: 1,
                },
                NOW,
            );
        }
    });
    let reporters = [
        reporter(&server, vec![("a", 1), ("a", 5)]),
        reporter(&server, vec![("a", 3), ("a", 4)]),
    ];
    let mut last: Option<Record> = None;
    for _ in 0..4 {
        let now = server.locate(b"a", NOW, |found| found.map(|view| Record::new(&view)));
        let is_older = match (&last, &now) {
            (Some(last), Some(now)) => now.view().order(&last.view()).is_lt(),
            (last, now) => last.is_some() && now.is_none(),
        };
        assert!(!is_older, "{now:?} after {last:?}");
        last = now;
    }
    adopter.join().unwrap();
    reporters
        .into_iter()
        .for_each(|reporter| reporter.join().unwrap());
    for (neighbor, outbox) in [
        (&mut source, &source_outbox),
        (&mut neighbor, &other_outbox),
    ] {
        assert!(!neighbor.drain(outbox, false));
        neighbor.check(&*server);
    }
    let time = server.locate(b"a", NOW, |found| found.map(|view| view.time));
    assert_eq!(time, Some(Timestamp::from_nanos(5_000_000_000)));
}

/// A neighbor returns without its data while the records of its old connection are still being
/// applied, markers among them: it gets all of them back. `epoch` is the start that the server
/// takes the records for; 1 is right.
fn a_neighbor_that_returns_empty_gets_back_what_its_old_connection_brings(epoch: u64) {
    let server = sound();
    let (link, outlet) = server.add_link();
    let mut old = Neighbor::default();
    old.resync(&*server, link, Order::LiveThenScan);
    let records: Vec<Record> = (1..=3)
        .map(|sequence| {
            let client = [b'a' + u8::try_from(sequence).unwrap()];
            Record::new(&RecordView {
                client: &client,
                location: b"+2+2",
                time_text: b"1",
                time: Timestamp::from_nanos(1_000_000_000),
                received: NOW,
                origin: b"Welsh",
                epoch: 1,
                sequence,
            })
        })
        .collect();
    let reader = Arc::clone(&server);
    let reader = threads::spawn(move || {
        for record in &records {
            reader.adopt(&[record.view()], NeighborStart { link, epoch }, NOW);
            let mut marker = Vector::default();
            marker.advance(b"Welsh", 1, record.view().sequence);
            reader.advance(&marker);
        }
        reader.send_markers();
    });
    // The sender notices the end of the old connection, and connects again.
    server.set_down(link);
    let mut new = Neighbor {
        epoch: 2,
        ..Neighbor::default()
    };
    new.resync(&*server, link, Order::LiveThenScan);
    reader.join().unwrap();
    assert!(!new.drain(&outlet, false));
    new.check(&*server);
}

fn broken(fault: Fault) -> Arc<Broken> {
    Arc::new(Broken::new(Some(fault)))
}

fn main() {
    holds("nothing is claimed that is not stored", || {
        nothing_is_claimed_that_is_not_stored(sound());
    });
    holds("a marker is behind what it covers", || {
        a_marker_is_behind_what_it_covers(sound());
    });
    holds("a resync and the queue miss nothing", || {
        a_resync_and_the_queue_miss_nothing(sound(), QUEUE_BATCHES, Order::LiveThenScan);
    });
    holds("a queue that overflows misses nothing", || {
        a_resync_and_the_queue_miss_nothing(sound(), 1, Order::LiveThenScan);
    });
    holds("the newest wins in any order", the_newest_wins_in_any_order);
    holds("a replaced connection hands everything over", || {
        a_neighbor_that_returns_empty_gets_back_what_its_old_connection_brings(1);
    });
    holds("a tombstone is later than what it forgets", || {
        a_tombstone_is_later_than_what_it_forgets(sound());
    });
    holds(
        "a forgotten client stays forgotten",
        a_forgotten_client_stays_forgotten,
    );
    holds("a sweep takes the dead only", a_sweep_takes_the_dead_only);

    holds("a filling and the changes tell of each state once", || {
        a_filling_and_the_changes_tell_of_each_state_once(Seen::Exactly);
    });

    // Below, the fault must be noticed, and not the small replica that has it.
    holds("the small replica", || {
        let server = || Arc::new(Broken::new(None));
        nothing_is_claimed_that_is_not_stored(server());
        a_marker_is_behind_what_it_covers(server());
        a_resync_and_the_queue_miss_nothing(server(), 1, Order::LiveThenScan);
        a_tombstone_is_later_than_what_it_forgets(server());
    });
    say("panics from here on come from replicas that are broken on purpose");
    is_noticed("a claim before the store", || {
        nothing_is_claimed_that_is_not_stored(broken(Fault::ClaimedBeforeStored));
    });
    is_noticed("a number assigned before it is used", || {
        nothing_is_claimed_that_is_not_stored(broken(Fault::NumberedBeforehand));
    });
    is_noticed("a tombstone's time chosen before it is stored", || {
        a_tombstone_is_later_than_what_it_forgets(broken(Fault::ForgotBeforehand));
    });
    is_noticed("a report queued after the lock is released", || {
        a_marker_is_behind_what_it_covers(broken(Fault::QueuedAfterRelease));
    });
    is_noticed("a link that begins to queue after the scan", || {
        a_resync_and_the_queue_miss_nothing(sound(), QUEUE_BATCHES, Order::ScanThenLive);
    });
    is_noticed(
        "a filling that does not know which changes it has seen",
        || {
            a_filling_and_the_changes_tell_of_each_state_once(Seen::Nothing);
        },
    );
    is_noticed("a filling that takes the last change for seen", || {
        a_filling_and_the_changes_tell_of_each_state_once(Seen::Everything);
    });
    is_noticed("records of an old start taken for the new one's", || {
        a_neighbor_that_returns_empty_gets_back_what_its_old_connection_brings(2);
    });
}
