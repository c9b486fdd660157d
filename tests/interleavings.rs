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
#[path = "support/record.rs"]
mod record;
#[path = "interleavings/sync.rs"]
mod sync;
#[path = "interleavings/watcher.rs"]
mod watcher;

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner, thread as threads};

use broken::{Broken, Fault};
use model::command::{Command, Report};
use model::record::RecordView;
use model::time::Timestamp;
use model::vector::Vector;
use record::Record;
use replica::outbox::{LinkId, NeighborStart, OutboxReceiver, QUEUE_BATCHES, Queued};
use replica::{ForgetOutcome, Replica};
use watcher::{Seen, Watcher};

/// The server that takes the reports.
const ORIGIN: &[u8] = b"Ball";

/// Time at which all reports are received; their own times are a few seconds.
const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

/// Orders tried for each property by each scheduler, and the time limit for them: a machine that is
/// busy or slow tries fewer.
const ORDERS: usize = 2_000;
const TIME: Duration = Duration::from_millis(1_000);

/// Time limit for a fault to be noticed; the first order that shows it ends the search. On a busy
/// machine a second was too short once.
const NOTICE_TIME: Duration = Duration::from_secs(20);

/// Orders between two checks of the clock.
const AT_ONCE: usize = 50;

/// Points at which priorities change, in each order of the second scheduler.
const PCT_DEPTH: usize = 3;

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

/// Clients are forgotten while they report, one of them with a clock that leads: a tombstone is later
/// than all that was stored before it, so what is queued for a neighbor is greater every time.
fn a_tombstone_is_later_than_what_it_forgets(server: Arc<impl Server + 'static>) {
    let (link, outbox) = server.add_link(QUEUE_BATCHES);
    server.set_live(NeighborStart { link, epoch: 1 });
    let forgetter = Arc::clone(&server);
    let forgetter = threads::spawn(move || {
        forgetter.forget(b"a", NOW);
        forgetter.forget(b"b", NOW);
    });
    let reporters = [
        reporter(&server, vec![("a", 1), ("b", 999), ("a", 1_001)]),
        reporter(&server, vec![("a", 1_200), ("a", 1_300)]),
    ];
    reporters
        .into_iter()
        .for_each(|reporter| reporter.join().unwrap());
    forgetter.join().unwrap();
    let mut last: HashMap<Vec<u8>, Record> = HashMap::new();
    while let Ok(Queued::Lines(lines)) = outbox.try_take() {
        for line in lines.strip_suffix(b"\n").unwrap().split(|&b| b == b'\n') {
            let view = RecordView::parse_line(line).unwrap();
            let former = last.insert(view.client.to_vec(), Record::new(&view));
            if let Some(former) = former {
                assert!(view.order(&former.view()).is_gt(), "{view:?} {former:?}");
            }
        }
    }
    // The last that was queued is what is stored: the newest wins.
    server.all_above(&Vector::default(), &mut |view| {
        assert_eq!(last.get(view.client).map(Record::view).as_ref(), Some(view));
    });
    assert!(last[&b"b"[..]].view().is_tombstone());
}

/// A neighbor's record comes while its client is forgotten: forgotten it stays, unless the record is
/// later than the tombstone. The counts follow.
fn a_forgotten_client_stays_forgotten() {
    let server = sound();
    let (from, _outbox) = server.add_link();
    let (other, outbox) = server.add_link();
    let mut neighbor = Neighbor::default();
    neighbor.resync(&*server, other, Order::LiveThenScan);
    send_report(&*server, "a", 1);
    let adopter = Arc::clone(&server);
    let adopter = threads::spawn(move || {
        for (client, seconds, sequence) in [("a", 999, 1), ("b", 999, 2), ("b", 1_001, 3)] {
            let text = seconds.to_string();
            let record = RecordView {
                client: client.as_bytes(),
                location: b"+2+2",
                time_text: text.as_bytes(),
                time: Timestamp::from_nanos(seconds * 1_000_000_000),
                received: NOW,
                origin: b"Welsh",
                epoch: 1,
                sequence,
            };
            let link = NeighborStart {
                link: from,
                epoch: 1,
            };
            adopter.adopt(&[record], link, NOW);
        }
    });
    Server::forget(&*server, b"a", NOW);
    assert!(server.locate(b"a", NOW, |found| found.is_none()));
    Server::forget(&*server, b"b", NOW);
    adopter.join().unwrap();
    assert!(server.locate(b"a", NOW, |found| found.is_none()));
    let is_known = server.locate(b"b", NOW, |found| found.is_some());
    let tombstones = 1 + usize::from(!is_known);
    assert_eq!((server.len(), server.tombstones()), (2, tombstones));
    assert!(!neighbor.drain(&outbox, false));
    neighbor.check(&*server);
}

/// The dead are dropped while their clients report: nothing is taken that lives, and the counts follow.
fn a_sweep_takes_the_dead_only() {
    let server = sound();
    let (link, _outbox) = server.add_link();
    send_report(&*server, "a", 1);
    send_report(&*server, "b", 1);
    server.set_forget_after(Some(Duration::from_secs(100)));
    server.trust_clock(NOW);
    let reporters = reporter(&server, vec![("a", 999)]);
    let sweeper = Arc::clone(&server);
    let sweeper = threads::spawn(move || sweeper.drop_dead(NOW, || true));
    let tombstone = RecordView::tombstone(b"b", NOW, b"Welsh", 1, 1);
    server.adopt(&[tombstone], NeighborStart { link, epoch: 1 }, NOW);
    reporters.join().unwrap();
    assert!(sweeper.join().unwrap() <= 2);
    let time = server.locate(b"a", NOW, |found| found.map(|view| view.time));
    assert_eq!(time, Some(Timestamp::from_nanos(999_000_000_000)));
    assert_eq!((server.len(), server.tombstones()), (2, 1));
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

/// Clients report while a watch is filled, and one of them is forgotten: the filling and the changes
/// together tell of each state once, and end with the newest.
fn a_filling_and_the_changes_tell_of_each_state_once(seen: Seen) {
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

/// Tries orders until there were enough or the time limit is reached; returns their number.
fn try_orders<S: Scheduler + 'static>(
    scheduler: impl Fn(usize) -> S,
    most: usize,
    limit: Duration,
    property: fn(),
) -> usize {
    let start = Instant::now();
    let mut orders = 0;
    while orders < most && start.elapsed() < limit {
        let mut config = Config::new();
        config.stack_size = 256 << 10;
        config.failure_persistence = FailurePersistence::Print;
        config.silence_warnings = true;
        orders += Runner::new(scheduler(AT_ONCE), config).run(property);
    }
    orders
}

/// Checks that the property holds in all orders that are tried.
fn holds(what: &str, property: fn()) {
    let start = Instant::now();
    // `./test.sh --slow` sets more orders.
    let wanted = std::env::var("HERD_ORDERS").map_or(ORDERS, |orders| orders.parse().unwrap());
    let limit = TIME.mul_f64(wanted as f64 / ORDERS as f64);
    let by_priority = |orders| PctScheduler::new(PCT_DEPTH, orders);
    let orders = try_orders(RandomScheduler::new, wanted, limit, property)
        + try_orders(by_priority, wanted, limit, property);
    let seconds = start.elapsed().as_secs_f64();
    say(&format!(
        "test {what} ... ok, {orders} orders in {seconds:.1} s"
    ));
}

/// Checks that the property fails in some order.
fn is_noticed(what: &str, property: fn()) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let tried = catch_unwind(AssertUnwindSafe(|| {
        try_orders(RandomScheduler::new, usize::MAX, NOTICE_TIME, property);
    }));
    std::panic::set_hook(hook);
    assert!(tried.is_err(), "not noticed: {what}");
    say(&format!("test noticed: {what} ... ok"));
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
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
