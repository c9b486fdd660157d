//! The rules between servers, simulated: five real `Replica`s in a ring, with their real queues and
//! lines, over links and disks that a seeded driver lets fail in every way.
//!
//! What is simulated is only what is around a `Replica`: connections that come and go, queues that
//! overflow, delivery in any order across paths, crashes that fall back to what was on disk, and
//! clocks that are wrong. A run is good if at its end, with everything healed, all servers hold
//! the same records and none that was acknowledged is missing.
//!
//! To show that the simulation can fail, each rule that it can see is left out in turn, and then
//! runs do fail.

#[path = "../support/record.rs"]
mod record;

use std::collections::{BTreeMap, HashMap, VecDeque};

use herd::model::command::{Command, Report};
use herd::model::record::RecordView;
use herd::model::time::Timestamp;
use herd::model::vector::Vector;
use herd::replica::outbox::{LinkId, OutboxReceiver, Queued};
use herd::replica::{Outcome, Replica};
use record::Record;

const SERVERS: usize = 5;
const NAMES: [&str; SERVERS] = ["Alford", "Ball", "Hamilton", "Holiday", "Welsh"];
const CLIENTS: u64 = 8;

/// Groups that a link's queue holds, few enough that it overflows all the time.
const QUEUE: usize = 4;

/// Steps of a run before everything heals.
const STEPS: usize = 400;

/// A rule that is left out, by its name in `docs/replication.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A record's place in the total order: "the same or an older time stops" instead.
    TotalOrder,
    /// One judge of a time, the origin: every server judges by its own clock instead.
    OriginClock,
    /// Advancing by markers alone: a single record advances the vector too.
    VectorByMarker,
    /// The dirty mark: what overflows is dropped, and the link goes on.
    Overflow,
    /// One group in one step: the vector claims a report before it is stored.
    OneGroup,
    /// The resync on connecting: a link is live from then on, and what was before is not sent.
    Resync,
    /// Records on disk before the vector that covers them.
    DurableVector,
}

/// The generator of a run's choices: xorshift, so that a seed says all.
struct Choices(u64);

impl Choices {
    fn new(seed: u64) -> Choices {
        Choices(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// What survives a crash.
#[derive(Clone, Default)]
struct Disk {
    records: BTreeMap<Vec<u8>, Record>,
    held: Vector,
}

/// One direction between two neighbors, as its sender sees it.
struct Link {
    id: LinkId,
    outlet: OutboxReceiver,
    to: usize,
    /// Whether the network lets it be.
    possible: bool,
    connected: bool,
    /// Lines that have been written to the socket and not yet been applied.
    wire: VecDeque<Vec<u8>>,
}

struct Server {
    herd: Replica,
    up: bool,
    epoch: u64,
    links: Vec<Link>,
    disk: Disk,
    /// A report that the vector claims and that is not stored yet, under [`Without::OneGroup`].
    claimed: Option<(u64, String)>,
}

struct Simulation {
    servers: Vec<Server>,
    without: Without,
    choices: Choices,
    now: u64,
    /// The greatest acknowledged record of every client.
    acknowledged: HashMap<Vec<u8>, Record>,
    records_sent: usize,
}

const SECOND: u64 = 1_000_000_000;

fn neighbors(server: usize) -> [usize; 2] {
    [(server + SERVERS - 1) % SERVERS, (server + 1) % SERVERS]
}

fn start(server: usize, epoch: u64, queue: usize, disk: &Disk) -> Server {
    let herd = Replica::new(NAMES[server], epoch, 1_000_000);
    for record in disk.records.values() {
        herd.restore(&record.view());
    }
    herd.restore_vector(&disk.held);
    let links = neighbors(server).map(|to| {
        let (id, outlet) = herd.add_link_bounded(queue);
        Link {
            id,
            outlet,
            to,
            possible: true,
            connected: false,
            wire: VecDeque::new(),
        }
    });
    Server {
        herd,
        up: true,
        epoch,
        links: links.into(),
        disk: disk.clone(),
        claimed: None,
    }
}

fn records(herd: &Replica) -> BTreeMap<Vec<u8>, Record> {
    let mut all = BTreeMap::new();
    herd.scan(
        &mut all,
        |all, record| drop(all.insert(record.client.to_vec(), Record::new(record))),
        |_| true,
    );
    all
}

impl Simulation {
    fn new(seed: u64, without: Without, queue: usize) -> Simulation {
        let mut simulation = Simulation {
            servers: (0..SERVERS)
                .map(|server| start(server, 1, queue, &Disk::default()))
                .collect(),
            without,
            choices: Choices::new(seed),
            now: 1_000_000 * SECOND,
            acknowledged: HashMap::new(),
            records_sent: 0,
        };
        for server in 0..SERVERS {
            for link in 0..2 {
                simulation.connect(server, link);
            }
        }
        simulation
    }

    /// The clock of a server: Alford's is far behind where times are judged by it.
    fn clock(&self, server: usize) -> Timestamp {
        let behind = if server == 0 { 250 * SECOND } else { 0 };
        Timestamp::from_nanos(self.now - behind)
    }

    /// Writes what is in memory to disk.
    fn persist(&mut self, server: usize) {
        let Server { herd, disk, .. } = &mut self.servers[server];
        disk.held = herd.vector();
        // Without that rule records are written later than the vector that covers them.
        if self.without != Without::DurableVector || self.choices.below(3) == 0 {
            disk.records = records(herd);
        }
    }

    /// Dials: the neighbor says what it holds, and what it lacks goes straight to the wire.
    fn connect(&mut self, server: usize, link: usize) {
        let to = self.servers[server].links[link].to;
        if !self.servers[server].up
            || !self.servers[to].up
            || !self.servers[server].links[link].possible
        {
            return;
        }
        let held = self.servers[to].herd.vector();
        self.resync(server, link, &held);
    }

    fn resync(&mut self, server: usize, link: usize, held: &Vector) {
        let scans = self.without != Without::Resync;
        let Server { herd, links, .. } = &mut self.servers[server];
        let link = &mut links[link];
        let captured = herd.set_live(link.id);
        if !link.connected {
            link.wire.clear();
        }
        link.connected = true;
        if !scans {
            return;
        }
        let mut lines = Vec::new();
        herd.records_above(
            held,
            &mut lines,
            |lines, record| {
                let mut line = Vec::new();
                record.write_line(&mut line);
                lines.push(line);
            },
            |_| true,
        );
        self.records_sent += lines.len();
        link.wire.extend(lines);
        let mut marker = Vec::new();
        captured.write_lines("MARKER", &mut marker);
        link.wire.push_back(marker);
    }

    fn disconnect(&mut self, server: usize, link: usize) {
        let Server { herd, links, .. } = &mut self.servers[server];
        let link = &mut links[link];
        herd.set_down(link.id);
        link.connected = false;
        link.wire.clear();
    }

    /// The sender thread: takes one group from its queue to the wire.
    fn send(&mut self, server: usize, link: usize) -> bool {
        let Server { herd, links, .. } = &mut self.servers[server];
        let sender = &mut links[link];
        if !sender.connected {
            return false;
        }
        match sender.outlet.try_take() {
            Ok(Queued::Lines(lines)) => {
                self.records_sent += lines
                    .split(|&byte| byte == b'\n')
                    .filter(|line| line.starts_with(b"RECORD"))
                    .count();
                sender.wire.push_back(lines.to_vec());
            }
            Ok(Queued::Overflowed) if self.without == Without::Overflow => {
                herd.set_live(sender.id);
            }
            Ok(Queued::Overflowed) => {
                let to = sender.to;
                if self.servers[to].up {
                    let held = self.servers[to].herd.vector();
                    self.resync(server, link, &held);
                }
            }
            Err(_) => return false,
        }
        true
    }

    /// The receiver thread: applies the next lines of a wire.
    fn receive(&mut self, server: usize, link: usize) -> bool {
        let to = self.servers[server].links[link].to;
        if !self.servers[to].up {
            return false;
        }
        let Some(lines) = self.servers[server].links[link].wire.pop_front() else {
            return false;
        };
        let clock = self.clock(to);
        let receiver = &self.servers[to];
        let from = receiver
            .links
            .iter()
            .find(|link| link.to == server)
            .unwrap()
            .id;
        let mut marker = Vector::default();
        for line in lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            if let Some(record) = RecordView::parse_line(line) {
                let stored = receiver
                    .herd
                    .locate(record.client, |found| found.map(|found| found.time));
                let refused = match self.without {
                    Without::TotalOrder => stored.is_some_and(|time| record.time <= time),
                    Without::OriginClock => record.time.is_ahead_of(clock, 300),
                    _ => false,
                };
                if !refused {
                    receiver.herd.adopt(&[record], from);
                }
                if self.without == Without::VectorByMarker {
                    let mut single = Vector::default();
                    single.advance(record.origin, record.epoch, record.sequence);
                    receiver.herd.advance(&single);
                }
            } else if marker.read_line("MARKER", line).unwrap() {
                receiver.herd.advance(&std::mem::take(&mut marker));
            }
        }
        self.persist(to);
        true
    }

    /// A client reports.
    fn report(&mut self, server: usize) {
        if let Some((_, line)) = self.servers[server].claimed.take() {
            return self.store(server, &line);
        }
        let client = self.choices.below(CLIENTS as usize);
        // Times tie often, and some are ahead of a clock that is behind.
        let seconds = (self.now / SECOND) / 3 * 3 + [0, 0, 0, 100][self.choices.below(4)];
        let place = self.choices.below(80);
        let line = format!("IAMAT client-{client} +{place}+1 {seconds}");
        if self.without == Without::OneGroup {
            // The vector says that the report is held, and only the next step stores it.
            let Server { herd, epoch, .. } = &self.servers[server];
            let sequence = self.acknowledged_by(server) + 1;
            let mut claim = Vector::default();
            claim.advance(herd.name().as_bytes(), *epoch, sequence);
            herd.advance(&claim);
            self.servers[server].claimed = Some((sequence, line));
            return;
        }
        self.store(server, &line);
    }

    /// How many reports of this start a server's vector claims.
    fn acknowledged_by(&self, server: usize) -> u64 {
        let Server { herd, epoch, .. } = &self.servers[server];
        let held = herd.vector();
        let covers = |sequence: &u64| held.covers(herd.name().as_bytes(), *epoch, *sequence);
        (1..).take_while(covers).last().unwrap_or(0)
    }

    fn store(&mut self, server: usize, line: &str) {
        let report: Report<'_> = match Command::parse(line.as_bytes()).unwrap() {
            Command::Iamat(report) => report,
            other => panic!("{other:?}"),
        };
        let mut outcomes = Vec::new();
        let clock = self.clock(server);
        self.servers[server]
            .herd
            .report(&[report], clock, &mut outcomes);
        self.persist(server);
        if outcomes != [Outcome::Acknowledged] {
            return;
        }
        let stored = self.servers[server]
            .herd
            .locate(report.client, |found| found.as_ref().map(Record::new));
        let stored = stored.unwrap();
        self.acknowledged
            .entry(report.client.to_vec())
            .and_modify(|best| {
                if stored.view().order(&best.view()).is_gt() {
                    *best = stored.clone();
                }
            })
            .or_insert(stored);
    }

    fn crash(&mut self, server: usize) {
        for link in 0..2 {
            self.disconnect(server, link);
        }
        for other in neighbors(server) {
            let link = self.servers[other]
                .links
                .iter()
                .position(|link| link.to == server)
                .unwrap();
            self.disconnect(other, link);
        }
        self.servers[server].up = false;
    }

    fn restart(&mut self, server: usize, queue: usize) {
        let old = &self.servers[server];
        let possible: Vec<_> = old.links.iter().map(|link| link.possible).collect();
        let mut new = start(server, old.epoch + 1, queue, &old.disk);
        for (link, possible) in new.links.iter_mut().zip(possible) {
            link.possible = possible;
        }
        self.servers[server] = new;
    }

    fn step(&mut self) {
        self.now += SECOND;
        let (server, link) = (self.choices.below(SERVERS), self.choices.below(2));
        match self.choices.below(100) {
            0..35 if self.servers[server].up => self.report(server),
            35..60 => drop(self.send(server, link)),
            60..85 => drop(self.receive(server, link)),
            85..89 if self.servers[server].up => self.servers[server].herd.send_markers(),
            89..90 if self.servers[server].up => self.servers[server].herd.prune_vector(),
            90..94 => {
                let possible = &mut self.servers[server].links[link].possible;
                *possible = !*possible;
                if !*possible {
                    self.disconnect(server, link);
                }
            }
            94..97 if !self.servers[server].links[link].connected => self.connect(server, link),
            97..99 if self.servers[server].up => self.crash(server),
            97..100 if !self.servers[server].up => self.restart(server, QUEUE),
            _ => {}
        }
    }

    /// Lets everything work again, and runs until nothing is left to do.
    fn heal(&mut self) {
        for server in 0..SERVERS {
            if !self.servers[server].up {
                self.restart(server, QUEUE);
            }
            if let Some((_, line)) = self.servers[server].claimed.take() {
                self.store(server, &line);
            }
        }
        for _ in 0..100 {
            let mut busy = false;
            for server in 0..SERVERS {
                for link in 0..2 {
                    self.servers[server].links[link].possible = true;
                    if !self.servers[server].links[link].connected {
                        self.connect(server, link);
                        busy = true;
                    }
                    while self.send(server, link) | self.receive(server, link) {
                        busy = true;
                    }
                }
            }
            if !busy {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Whether all servers agree, and none lacks what was acknowledged.
    fn is_good(&self) -> bool {
        let first = records(&self.servers[0].herd);
        let agree = self
            .servers
            .iter()
            .all(|server| records(&server.herd) == first);
        let kept = self.acknowledged.iter().all(|(client, best)| {
            first
                .get(client)
                .is_some_and(|held| held.view().order(&best.view()).is_ge())
        });
        agree && kept
    }
}

/// Runs of the simulation, each with its own seed: 200, or the number in `HERD_SEEDS`.
fn seeds() -> u64 {
    std::env::var("HERD_SEEDS").map_or(200, |seeds| seeds.parse().unwrap())
}

/// Whether a run ends well.
fn is_run_good(seed: u64, without: Without) -> bool {
    let mut simulation = Simulation::new(seed, without, QUEUE);
    for _ in 0..STEPS {
        simulation.step();
    }
    simulation.heal();
    simulation.is_good()
}

#[test]
fn nothing_diverges_and_nothing_acknowledged_is_lost() {
    for seed in 0..seeds() {
        assert!(is_run_good(seed, Without::Nothing), "run {seed} ends badly");
    }
}

#[track_caller]
fn check_that_it_is_missed(rule: Without, runs: u64) {
    let found = (0..runs).any(|seed| !is_run_good(seed, rule));
    assert!(found, "{runs} runs without {rule:?} all end well");
}

#[test]
fn every_rule_is_missed_where_it_is_left_out() {
    check_that_it_is_missed(Without::TotalOrder, 300);
    check_that_it_is_missed(Without::OriginClock, 300);
    check_that_it_is_missed(Without::VectorByMarker, 2_000);
    check_that_it_is_missed(Without::Overflow, 300);
    check_that_it_is_missed(Without::OneGroup, 2_000);
    check_that_it_is_missed(Without::Resync, 300);
    check_that_it_is_missed(Without::DurableVector, 2_000);
}

/// The rule "No echo", and that only a greater record is forwarded, show in the number of messages.
#[test]
fn a_healthy_ring_sends_six_messages_an_update() {
    let mut simulation = Simulation::new(1, Without::Nothing, 1_000);
    simulation.heal();
    simulation.records_sent = 0;
    for update in 0..100 {
        simulation.now += 10 * SECOND;
        let line = format!("IAMAT client +1+1 {}", simulation.now / SECOND);
        simulation.store(update % SERVERS, &line);
        // Both ways around the ring at the same pace, as real links do.
        let mut busy = true;
        while busy {
            busy = false;
            for server in 0..SERVERS {
                for link in 0..2 {
                    busy |= simulation.send(server, link);
                }
            }
            for server in 0..SERVERS {
                for link in 0..2 {
                    busy |= simulation.receive(server, link);
                }
            }
        }
    }
    assert_eq!(simulation.records_sent, 600);
    assert!(simulation.is_good());
}
