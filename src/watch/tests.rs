//! Watches against a model: whatever happens in which order, a watcher ends with the truth, and is
//! never told a thing that makes no sense to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::publisher::Wakes;
use super::*;
use crate::model::command::{Command, Report};
use crate::model::geo::Position;
use crate::model::record::RecordView;
use crate::replica::{ForgetOutcome, Outcome};

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000_000_000);

/// Bytes of a batch that everything fits into.
const LARGE: usize = 64 << 10;

fn report_line(line: &str) -> Report<'_> {
    match Command::parse(line.as_bytes()) {
        Ok(Command::Iamat(report)) => report,
        other => panic!("{line}: {other:?}"),
    }
}

fn circle(latitude: f64, longitude: f64, radius_km: f64) -> Circle {
    Circle {
        center: Position {
            latitude,
            longitude,
        },
        radius_km,
    }
}

/// A watch as its watcher knows it.
#[derive(Debug)]
struct View {
    /// The circle, or the client.
    target: Result<Circle, String>,
    is_reset: bool,
    is_settled: bool,
    /// Location and time of each client that is inside.
    inside: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
}

/// A connection and all that its watcher has been told.
struct Watcher {
    subscription: Subscription,
    views: HashMap<Vec<u8>, View>,
}

impl Watcher {
    fn new(watches: &Arc<Watches>) -> Watcher {
        Watcher {
            subscription: watches.subscribe(Box::new(|| {})),
            views: HashMap::new(),
        }
    }

    fn watch_circle(&mut self, name: &str, circle: Circle) -> Result<(), WatchError> {
        self.add(name, Target::Area(circle), Ok(circle))
    }

    fn watch_client(&mut self, name: &str, client: &str) -> Result<(), WatchError> {
        let target = Target::Client(client.as_bytes().into());
        self.add(name, target, Err(client.to_owned()))
    }

    fn add(
        &mut self,
        name: &str,
        target: Target,
        shown: Result<Circle, String>,
    ) -> Result<(), WatchError> {
        self.subscription.watch(name.as_bytes(), target)?;
        let view = View {
            target: shown,
            is_reset: false,
            is_settled: false,
            inside: BTreeMap::new(),
        };
        self.views.insert(name.into(), view);
        Ok(())
    }

    fn unwatch(&mut self, name: &str) -> bool {
        self.views.remove(name.as_bytes());
        self.subscription.unwatch(name.as_bytes())
    }

    /// Takes a batch, and checks that each push makes sense to the watcher. Returns whether there
    /// is more.
    fn take(&mut self, max_bytes: usize) -> bool {
        let views = &mut self.views;
        let mut bytes = 0;
        let more = self.subscription.take(NOW, max_bytes, &mut |push| {
            bytes += line_bytes(&push);
            told(views, push);
        });
        assert!(bytes <= max_bytes, "{bytes} bytes of {max_bytes}");
        more
    }

    fn take_all(&mut self) {
        for _ in 0..100_000 {
            if !self.take(LARGE) {
                assert!(!self.subscription.has_news());
                return;
            }
        }
        panic!("no end");
    }

    /// Asserts that the watcher knows what is true.
    fn check(&self, replica: &Replica) {
        for (name, view) in &self.views {
            let mut truth = BTreeMap::new();
            let horizon = replica.horizon(NOW);
            replica.scan(
                &mut truth,
                |truth, record| {
                    let Some(position) = Position::parse(record.location) else {
                        return;
                    };
                    let is_inside = match &view.target {
                        Ok(circle) => circle.contains(&position),
                        Err(client) => record.client == client.as_bytes(),
                    };
                    if is_inside && !horizon.is_dead(record.time) {
                        truth.insert(record.client.to_vec(), state_of(record));
                    }
                },
                |_| true,
            );
            assert!(view.is_settled, "{name:?}");
            assert_eq!(view.inside, truth, "{name:?} {:?}", view.target);
        }
    }
}

fn state_of(record: &RecordView<'_>) -> (Vec<u8>, u64) {
    (record.location.to_vec(), record.time.as_nanos())
}

fn line_bytes(push: &Push<'_>) -> usize {
    let mut at = Vec::new();
    let name = match push {
        Push::Inside { name, record }
        | Push::Enter { name, record }
        | Push::Move { name, record }
        | Push::Leave { name, record } => {
            record.write_at_line(&mut at);
            name
        }
        Push::Gone { name, client } => {
            at.extend_from_slice(client);
            name
        }
        Push::Reset { name } | Push::Settled { name, .. } => name,
    };
    "INSIDE  ".len() + name.len() + at.len()
}

fn told(views: &mut HashMap<Vec<u8>, View>, push: Push<'_>) {
    let shown = format!("{push:?}");
    let name = match push {
        Push::Reset { name } | Push::Settled { name, .. } | Push::Gone { name, .. } => name,
        Push::Inside { name, .. }
        | Push::Enter { name, .. }
        | Push::Move { name, .. }
        | Push::Leave { name, .. } => name,
    };
    let Some(view) = views.get_mut(name) else {
        panic!("no such watch: {shown}");
    };
    if let Push::Reset { .. } = push {
        view.is_reset = true;
        view.is_settled = false;
        view.inside.clear();
        return;
    }
    assert!(view.is_reset, "{shown}");
    let is_area = view.target.is_ok();
    let inside = &mut view.inside;
    match push {
        Push::Reset { .. } => {}
        Push::Settled { clients, .. } => {
            assert!(!view.is_settled, "{shown}");
            assert_eq!(inside.len(), clients);
            view.is_settled = true;
        }
        Push::Inside { record, .. } => {
            assert!(!view.is_settled, "{shown}");
            let before = inside.insert(record.client.to_vec(), state_of(&record));
            assert_eq!(before, None, "{shown}");
        }
        Push::Enter { record, .. } => {
            assert!(is_area, "{shown}");
            let before = inside.insert(record.client.to_vec(), state_of(&record));
            assert_eq!(before, None, "{shown}");
        }
        Push::Move { record, .. } => {
            let before = inside.insert(record.client.to_vec(), state_of(&record));
            assert!(before.is_some() || !is_area, "{shown}");
            assert!(before.is_none_or(|(_, time)| time < record.time.as_nanos()));
        }
        Push::Leave { record, .. } => {
            assert!(is_area, "{shown}");
            assert!(inside.remove(record.client).is_some(), "{shown}");
        }
        Push::Gone { client, .. } => {
            assert!(inside.remove(client).is_some(), "{shown}");
        }
    }
}

/// A replica, its watches, and a clock for reports.
struct Fixture {
    replica: Arc<Replica>,
    watches: Arc<Watches>,
    wakes: Wakes,
    seconds: u64,
}

impl Fixture {
    fn new(max_marks: usize) -> Fixture {
        let replica = Arc::new(Replica::new("Ball", 1, 100_000));
        Fixture {
            watches: Arc::new(Watches::with_max_marks(&replica, max_marks)),
            replica,
            wakes: Wakes::default(),
            seconds: 0,
        }
    }

    fn report(&mut self, client: &str, location: &str) {
        self.seconds += 1;
        let line = format!("IAMAT {client} {location} {}", self.seconds);
        let mut outcomes = Vec::new();
        self.replica
            .report(&[report_line(&line)], NOW, &mut outcomes);
        assert_eq!(outcomes, [Outcome::Stored], "{line}");
    }

    /// Forgets a client; a tombstone is never older than the reports of this test.
    fn forget(&self, client: &str) {
        let at = Timestamp::from_nanos(1);
        let (outcome, _) = self.replica.forget(client.as_bytes(), at);
        assert!(matches!(outcome, ForgetOutcome::Forgotten(_)));
    }

    fn publish(&mut self) {
        self.watches.publish(&mut self.wakes, Instant::now());
    }
}

/// Centers of circles, around which clients report.
const PLACES: [(f64, f64); 6] = [
    (90.0, 0.0),
    (-89.99, 77.0),
    (0.02, 180.0),
    (-16.5, -179.99),
    (34.0689, -118.4451),
    (0.0, 0.0),
];

fn random_location(random: &mut fastrand::Rng) -> String {
    let (latitude, longitude) = PLACES[random.usize(..PLACES.len())];
    let near = |random: &mut fastrand::Rng| (random.f64() - 0.5) * 0.3;
    let latitude = (latitude + near(random)).clamp(-90.0, 90.0);
    let longitude = match latitude.abs() > 89.0 {
        true => random.f64() * 360.0,
        false => longitude + near(random) + 360.0,
    };
    let longitude = (longitude + 180.0).rem_euclid(360.0) - 180.0;
    format!("{latitude:+.6}{longitude:+.6}")
}

fn random_circle(random: &mut fastrand::Rng) -> Circle {
    let (latitude, longitude) = PLACES[random.usize(..PLACES.len())];
    let radius = [1.0, 5.0, 10.0, 20.0, 1_000.0, 20_016.0][random.usize(..6)];
    circle(latitude, longitude, radius)
}

/// Runs one random interleaving of everything. Returns how often watches were filled again.
fn run(seed: u64, max_marks: usize) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut fixture = Fixture::new(max_marks);
    let mut watchers: Vec<_> = (0..3).map(|_| Watcher::new(&fixture.watches)).collect();
    let clients: Vec<_> = (0..30).map(|number| format!("client-{number}")).collect();
    let names = ["a", "b", "c"];
    for _ in 0..400 {
        let client = &clients[random.usize(..clients.len())];
        let count = watchers.len();
        let watcher = &mut watchers[random.usize(..count)];
        let name = names[random.usize(..names.len())];
        match random.u32(..100) {
            0..45 => fixture.report(client, &random_location(&mut random)),
            45..52 => fixture.forget(client),
            52..62 => fixture.publish(),
            62..90 => {
                let max_bytes = [150, 300, 1_000, LARGE][random.usize(..4)];
                watcher.take(max_bytes);
            }
            90..96 if !watcher.views.contains_key(name.as_bytes()) => {
                let added = match random.bool() {
                    true => watcher.watch_circle(name, random_circle(&mut random)),
                    false => watcher.watch_client(name, client),
                };
                assert_eq!(added, Ok(()));
            }
            96..98 => {
                let is_known = watcher.views.contains_key(name.as_bytes());
                assert_eq!(watcher.unwatch(name), is_known);
            }
            98 => *watcher = Watcher::new(&fixture.watches),
            _ => {}
        }
    }
    fixture.publish();
    for watcher in &mut watchers {
        watcher.take_all();
        watcher.check(&fixture.replica);
    }
    drop(watchers);
    assert_eq!(fixture.watches.len(), 0);
    assert!(!fixture.replica.feed().is_watched());
    fixture.watches.counts().resets.get()
}

#[test]
fn any_order_ends_with_the_truth_and_each_push_makes_sense() {
    for seed in 0..400 {
        let tried = std::panic::catch_unwind(|| run(seed, 10_000));
        assert!(tried.is_ok(), "seed {seed}");
    }
}

#[test]
fn so_does_a_connection_that_overflows() {
    let mut resets = 0;
    for seed in 0..200 {
        let tried = std::panic::catch_unwind(|| run(seed, 3));
        let Ok(more) = tried else {
            panic!("seed {seed}");
        };
        resets += more;
    }
    assert!(resets > 200, "{resets} resets");
}

#[test]
fn a_feed_that_overflows_has_all_watches_filled_again() {
    let mut fixture = Fixture::new(10_000);
    let mut watcher = Watcher::new(&fixture.watches);
    watcher
        .watch_circle("all", circle(0.0, 0.0, 20_016.0))
        .expect("a watch");
    watcher.take_all();
    for number in 0..70_000 {
        fixture.report(&format!("client-{}", number % 500), "+1+1");
    }
    fixture.forget("client-1");
    fixture.publish();
    watcher.take_all();
    watcher.check(&fixture.replica);
    assert!(!watcher.subscription.is_empty());
    assert_eq!(fixture.watches.counts().resets.get(), 1);
}

#[test]
fn records_that_were_dead_at_the_filling_come_as_new() {
    let mut fixture = Fixture::new(10_000);
    fixture.report("dead", "+0+0");
    fixture.report("living", "+0+0");
    let age = NOW.as_nanos() - 1_500_000_000;
    fixture
        .replica
        .set_forget_after(Some(std::time::Duration::from_nanos(age)));
    let mut watcher = Watcher::new(&fixture.watches);
    watcher
        .watch_circle("here", circle(0.0, 0.0, 5.0))
        .expect("a watch");
    watcher.watch_client("dead", "dead").expect("a watch");
    watcher.take_all();
    watcher.check(&fixture.replica);
    fixture.report("dead", "+0+0");
    fixture.publish();
    watcher.take_all();
    watcher.check(&fixture.replica);
}

#[test]
fn records_that_expire_are_gone() {
    let mut fixture = Fixture::new(10_000);
    fixture.report("old", "+0+0");
    let mut watcher = Watcher::new(&fixture.watches);
    watcher
        .watch_circle("here", circle(0.0, 0.0, 5.0))
        .expect("a watch");
    watcher.watch_client("old", "old").expect("a watch");
    watcher.take_all();
    fixture.seconds += 200;
    fixture.report("new", "+0+0");
    // The first is dead, and has been for more than the 120 s after which it is dropped.
    let age = NOW.as_nanos() - 150_000_000_000;
    let replica = &fixture.replica;
    replica.set_forget_after(Some(std::time::Duration::from_nanos(age)));
    replica.trust_clock(NOW);
    assert_eq!(replica.drop_dead(NOW, || true), 1);
    fixture.publish();
    watcher.take_all();
    watcher.check(&fixture.replica);
    assert_eq!(watcher.views[&b"here"[..]].inside.len(), 1);
}

#[test]
fn a_watcher_that_reads_slowly_is_told_of_the_newest_of_each() {
    let mut fixture = Fixture::new(10_000);
    let mut watcher = Watcher::new(&fixture.watches);
    watcher
        .watch_circle("here", circle(0.0, 0.0, 50.0))
        .expect("a watch");
    watcher.take_all();
    for step in 0..100 {
        fixture.report("a", &format!("+0.{step:03}+0"));
        // It comes and leaves again, which nobody has to know.
        fixture.report("b", "+0+0");
        fixture.report("b", "+9+9");
        fixture.publish();
    }
    let mut pushes = Vec::new();
    let more = watcher.subscription.take(NOW, LARGE, &mut |push| {
        pushes.push(format!("{push:?}"));
        told(&mut watcher.views, push);
    });
    assert!(!more && pushes.len() == 1, "{pushes:?}");
    watcher.check(&fixture.replica);
}

#[test]
fn limits_are_kept_and_watches_end_with_their_connection() {
    let fixture = Fixture::new(10_000);
    let mut watcher = Watcher::new(&fixture.watches);
    for number in 0..64 {
        let added = watcher.watch_circle(&number.to_string(), circle(1.0, 1.0, 5.0));
        assert_eq!(added, Ok(()));
    }
    let more = watcher.watch_circle("more", circle(1.0, 1.0, 5.0));
    assert_eq!(more, Err(WatchError::Busy));
    assert_eq!(watcher.watch_client("7", "a"), Err(WatchError::NameInUse));
    assert!(watcher.unwatch("7") && !watcher.unwatch("7"));
    assert_eq!(watcher.watch_client("7", "a"), Ok(()));
    let mut wide: Vec<_> = (0..5).map(|_| Watcher::new(&fixture.watches)).collect();
    let all = circle(0.0, 0.0, 20_016.0);
    for number in 0..256 {
        let added = wide[number / 60].watch_circle(&number.to_string(), all);
        assert_eq!(added, Ok(()), "{number}");
    }
    assert_eq!(wide[4].watch_circle("more", all), Err(WatchError::Busy));
    assert_eq!(wide[4].watch_circle("less", circle(0.0, 0.0, 50.0)), Ok(()));
    wide.pop();
    let mut again = Watcher::new(&fixture.watches);
    assert_eq!(again.watch_circle("more", all), Ok(()));
    drop((watcher, wide, again));
    assert_eq!(fixture.watches.len(), 0);
}

#[test]
fn a_watcher_is_woken_once_until_it_has_taken_everything() {
    let mut fixture = Fixture::new(10_000);
    let woken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&woken);
    let wake = Box::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let mut subscription = fixture.watches.subscribe(wake);
    let target = Target::Area(circle(0.0, 0.0, 5.0));
    assert_eq!(subscription.watch(b"here", target), Ok(()));
    while subscription.take(NOW, LARGE, &mut |_| {}) {}
    let begin = Instant::now();
    let mut later = begin;
    for round in 1..4 {
        for _ in 0..3 {
            fixture.report("a", "+0+0");
            fixture.publish();
            later += std::time::Duration::from_secs(1);
            fixture.wakes.wake(later);
        }
        assert_eq!(woken.load(Ordering::Relaxed), round);
        while subscription.take(NOW, LARGE, &mut |_| {}) {}
    }
    // The next wake-up comes no sooner than the interval allows.
    fixture.report("a", "+0+0");
    let woken_at = later - std::time::Duration::from_secs(2);
    fixture.watches.publish(&mut fixture.wakes, woken_at);
    assert!(fixture.wakes.wake(woken_at).is_some());
    assert_eq!(woken.load(Ordering::Relaxed), 3);
}
