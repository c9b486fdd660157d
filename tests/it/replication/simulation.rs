//! Five servers in a ring and everything around them, driven by a seed: connections, queues, disks,
//! crashes and clocks.

#[path = "../../support/record.rs"]
pub(super) mod record;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use herd::model::age::is_longer;
use herd::model::command::{Command, Report};
use herd::model::record::RecordView;
use herd::model::time::Timestamp;
use herd::model::vector::Vector;
use herd::replica::Replica;
use herd::replica::outbox::{LinkId, NeighborStart, OutboxReceiver, Queued};
use record::Record;

use super::rules::Without;

pub(super) const SERVERS: usize = 5;
const NAMES: [&str; SERVERS] = ["Alford", "Ball", "Hamilton", "Holiday", "Welsh"];
const CLIENTS: u64 = 16;

/// Capacity of a link's queue in groups, small enough that it often overflows.
pub(super) const QUEUE: usize = 4;

/// Times that a replaced connection is passed over for each time that it is read.
const SLOWNESS: usize = 25;

/// Generator of a run's choices: xorshift, so that the seed determines the run.
pub(super) struct Choices(u64);

impl Choices {
    pub(super) fn new(seed: u64) -> Choices {
        Choices(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// The state that survives a crash.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) records: BTreeMap<Vec<u8>, Record>,
    pub(super) held: Vector,
}

/// One direction between two neighbors, as its sender sees it.
pub(super) struct Link {
    id: LinkId,
    outbox: OutboxReceiver,
    pub(super) to: usize,
    /// True while the network allows a connection.
    pub(super) possible: bool,
    pub(super) connected: bool,
    /// Lines written to the socket and not yet applied.
    wire: VecDeque<Vec<u8>>,
    /// The same of earlier starts of this server, which crashed, each with its epoch.
    pub(super) unread: VecDeque<(u64, VecDeque<Vec<u8>>)>,
}

pub(super) struct Server {
    pub(super) replica: Replica,
    pub(super) up: bool,
    pub(super) epoch: u64,
    pub(super) links: Vec<Link>,
    pub(super) disk: Disk,
    /// A report that the vector claims and that is not stored yet, under [`Without::OneGroup`].
    claimed: Option<(u64, String)>,
}

pub(super) struct Simulation {
    pub(super) servers: Vec<Server>,
    pub(super) without: Without,
    pub(super) choices: Choices,
    pub(super) now: u64,
    /// Nanoseconds by which the servers' clocks are ahead.
    pub(super) ahead: [i64; SERVERS],
    /// The run is one of forgetting: clocks are compared by neighbors, and the disk is the run's affair.
    pub(super) forgets: bool,
    /// The greatest acknowledged record of every client.
    acknowledged: HashMap<Vec<u8>, Record>,
    pub(super) records_sent: usize,
    /// Everything works again.
    pub(super) healed: bool,
}

pub(super) const SECOND: u64 = 1_000_000_000;

/// The line that tells a neighbor at which age a server forgets records.
fn age_line(replica: &Replica) -> Vec<u8> {
    let age = replica.forget_after().map_or(0, |age| age.as_secs());
    format!("FORGET-AFTER {age}\n").into_bytes()
}

pub(super) fn neighbors(server: usize) -> [usize; 2] {
    [(server + SERVERS - 1) % SERVERS, (server + 1) % SERVERS]
}

pub(super) fn start(server: usize, epoch: u64, queue: usize, disk: &Disk) -> Server {
    let replica = Replica::new(NAMES[server], epoch, 1_000_000);
    for record in disk.records.values() {
        replica.restore(&record.view());
    }
    replica.restore_vector(&disk.held);
    let links = neighbors(server).map(|to| {
        let (id, outbox) = replica.add_link_bounded(queue);
        Link {
            id,
            outbox,
            to,
            possible: true,
            connected: false,
            wire: VecDeque::new(),
            unread: VecDeque::new(),
        }
    });
    Server {
        replica,
        up: true,
        epoch,
        links: links.into(),
        disk: disk.clone(),
        claimed: None,
    }
}

pub(super) fn records(replica: &Replica) -> BTreeMap<Vec<u8>, Record> {
    let mut all = BTreeMap::new();
    replica.scan(
        &mut all,
        |all, record| drop(all.insert(record.client.to_vec(), Record::new(record))),
        |_| true,
    );
    all
}

impl Simulation {
    pub(super) fn new(seed: u64, without: Without, queue: usize) -> Simulation {
        let mut simulation = Simulation {
            servers: (0..SERVERS)
                .map(|server| start(server, 1, queue, &Disk::default()))
                .collect(),
            without,
            choices: Choices::new(seed),
            now: 1_000_000 * SECOND,
            // Alford's is behind.
            ahead: [-250 * SECOND.cast_signed(), 0, 0, 0, 0],
            forgets: false,
            acknowledged: HashMap::new(),
            records_sent: 0,
            healed: false,
        };
        for server in 0..SERVERS {
            for link in 0..2 {
                simulation.connect(server, link);
            }
        }
        simulation
    }

    /// The clock of a server.
    pub(super) fn clock(&self, server: usize) -> Timestamp {
        Timestamp::from_nanos(self.now.saturating_add_signed(self.ahead[server]))
    }

    /// Returns whether two servers' clocks differ by so little that there is a link.
    fn do_clocks_agree(&self, one: usize, other: usize) -> bool {
        let difference = self.ahead[one].abs_diff(self.ahead[other]);
        !self.forgets || difference <= 60 * SECOND
    }

    /// The time by which a server tells the dead.
    fn death_clock(&self, server: usize) -> Timestamp {
        match self.without {
            Without::NoAdoptionOfTheDead => Timestamp::from_nanos(0),
            _ => self.clock(server),
        }
    }

    /// Writes the state in memory to disk.
    fn persist(&mut self, server: usize) {
        if self.forgets {
            return;
        }
        let Server { replica, disk, .. } = &mut self.servers[server];
        disk.held = replica.vector();
        // Without the rule, records are written later than the vector that covers them.
        if self.without != Without::DurableVector || self.choices.below(3) == 0 {
            disk.records = records(replica);
        }
    }

    /// Dials: the neighbor sends its vector, and the records that it lacks go straight to the wire.
    pub(super) fn connect(&mut self, server: usize, link: usize) {
        let to = self.servers[server].links[link].to;
        if !self.servers[server].up
            || !self.servers[to].up
            || !self.servers[server].links[link].possible
            || !self.do_clocks_agree(server, to)
        {
            return;
        }
        if self.forgets && self.without != Without::ConfirmedClock {
            for one in [server, to] {
                self.servers[one].replica.trust_clock(self.clock(one));
            }
        }
        let held = self.servers[to].replica.vector();
        self.resync(server, link, &held);
    }

    /// The start of the neighbor that a link feeds.
    fn fed(&self, server: usize, link: usize) -> NeighborStart {
        let Link { id, to, .. } = self.servers[server].links[link];
        let epoch = self.servers[to].epoch;
        NeighborStart { link: id, epoch }
    }

    fn resync(&mut self, server: usize, link: usize, held: &Vector) {
        let clock = self.death_clock(server);
        let scans = self.without != Without::Resync;
        let fed = self.fed(server, link);
        let Server { replica, links, .. } = &mut self.servers[server];
        let link = &mut links[link];
        let captured = replica.set_live(fed);
        if !link.connected {
            link.wire.clear();
        }
        link.connected = true;
        if !scans {
            return;
        }
        let mut lines = Vec::new();
        replica.records_above(
            held,
            clock,
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
        let mut marker = age_line(replica);
        captured.write_lines("MARKER", &mut marker);
        link.wire.push_back(marker);
    }

    pub(super) fn disconnect(&mut self, server: usize, link: usize) {
        let Server { replica, links, .. } = &mut self.servers[server];
        let link = &mut links[link];
        replica.set_down(link.id);
        link.connected = false;
        link.wire.clear();
    }

    /// A step of the sender thread: moves one group from the outbox to the wire.
    pub(super) fn send(&mut self, server: usize, link: usize) -> bool {
        let fed = self.fed(server, link);
        let Server { replica, links, .. } = &mut self.servers[server];
        let sender = &mut links[link];
        if !sender.connected {
            return false;
        }
        match sender.outbox.try_take() {
            Ok(Queued::Lines(lines)) => {
                self.records_sent += lines
                    .split(|&byte| byte == b'\n')
                    .filter(|line| line.starts_with(b"RECORD"))
                    .count();
                // Told before each marker, whether it has changed or not.
                let mut block = age_line(replica);
                block.extend_from_slice(&lines);
                sender.wire.push_back(block);
            }
            Ok(Queued::Overflowed) if self.without == Without::Overflow => {
                replica.set_live(fed);
            }
            Ok(Queued::Overflowed) => {
                let to = sender.to;
                if self.servers[to].up {
                    let held = self.servers[to].replica.vector();
                    self.resync(server, link, &held);
                }
            }
            Err(_) => return false,
        }
        true
    }

    /// A step of the receiver thread: applies the next lines of a wire.
    pub(super) fn receive(&mut self, server: usize, link: usize) -> bool {
        let to = self.servers[server].links[link].to;
        if !self.servers[to].up {
            return false;
        }
        let current = self.servers[server].epoch;
        let sender = &mut self.servers[server].links[link];
        sender.unread.retain(|(_, lines)| !lines.is_empty());
        // A replaced connection and the one after it are read by two threads, in any order; the old
        // one slowly, or it would be empty before the server is back.
        let old = sender.unread.front_mut();
        let taken = match old {
            Some((epoch, lines)) if self.healed || self.choices.below(SLOWNESS) == 0 => {
                lines.pop_front().map(|lines| (*epoch, lines))
            }
            _ => sender.wire.pop_front().map(|lines| (current, lines)),
        };
        let Some((mut epoch, lines)) = taken else {
            return false;
        };
        if self.without == Without::StartOfSource {
            epoch = current;
        }
        let clock = self.clock(to);
        let death_clock = self.death_clock(to);
        let receiver = &self.servers[to];
        let back = receiver.links.iter().find(|link| link.to == server);
        let from = NeighborStart {
            link: back.unwrap().id,
            epoch,
        };
        let (mut marker, mut takes_markers) = (Vector::default(), true);
        for line in lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            if let Some(record) = RecordView::parse_line(line) {
                let stored = receiver
                    .replica
                    .locate(record.client, clock, |found| found.map(|found| found.time));
                let refused = match self.without {
                    Without::TotalOrder => stored.is_some_and(|time| record.time <= time),
                    Without::OriginClock => record.time.is_ahead_of(clock, 300),
                    _ => false,
                };
                if !refused {
                    receiver.replica.adopt(&[record], from, death_clock);
                }
                if self.without == Without::VectorByMarker {
                    let mut single = Vector::default();
                    single.advance(record.origin, record.epoch, record.sequence);
                    receiver.replica.advance(&single);
                }
            } else if let Some(age) = line.strip_prefix(b"FORGET-AFTER ") {
                let age = std::str::from_utf8(age).unwrap().parse().unwrap();
                let age = (age > 0).then(|| Duration::from_secs(age));
                takes_markers = self.without == Without::MarkersByAge
                    || !is_longer(receiver.replica.forget_after(), age);
            } else if marker.read_line("MARKER", line).unwrap() {
                let marker = std::mem::take(&mut marker);
                if takes_markers {
                    receiver.replica.advance(&marker);
                }
            }
        }
        self.persist(to);
        true
    }

    /// A step of a client: a report to this server.
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
            // The vector claims the report now, and the next step stores it.
            let Server { replica, epoch, .. } = &self.servers[server];
            let sequence = self.claimed_by(server) + 1;
            let mut claim = Vector::default();
            claim.advance(replica.name().as_bytes(), *epoch, sequence);
            replica.advance(&claim);
            self.servers[server].claimed = Some((sequence, line));
            return;
        }
        self.store(server, &line);
    }

    /// Number of reports of this epoch that a server's vector claims.
    fn claimed_by(&self, server: usize) -> u64 {
        let Server { replica, epoch, .. } = &self.servers[server];
        let held = replica.vector();
        let covers = |sequence: &u64| held.covers(replica.name().as_bytes(), *epoch, *sequence);
        (1..).take_while(covers).last().unwrap_or(0)
    }

    pub(super) fn store(&mut self, server: usize, line: &str) {
        let report: Report<'_> = match Command::parse(line.as_bytes()).unwrap() {
            Command::Iamat(report) => report,
            other => panic!("{other:?}"),
        };
        let mut outcomes = Vec::new();
        let clock = self.clock(server);
        self.servers[server]
            .replica
            .report(&[report], clock, &mut outcomes);
        self.persist(server);
        if !outcomes[0].is_acknowledged() {
            return;
        }
        let stored = self.servers[server]
            .replica
            .locate(report.client, clock, |found| {
                found.as_ref().map(Record::new)
            });
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
        self.end(server);
        if self.choices.below(2) == 0 {
            self.servers[server].disk = Disk::default();
        }
        self.give_up_what_nobody_holds();
    }

    /// Ends a server and its connections.
    pub(super) fn end(&mut self, server: usize) {
        for link in 0..2 {
            // What the kernel has taken may arrive all the same, long after the server is back.
            if self.choices.below(4) > 0 {
                let epoch = self.servers[server].epoch;
                let link = &mut self.servers[server].links[link];
                let lines = std::mem::take(&mut link.wire);
                link.unread.push_back((epoch, lines));
            }
            self.disconnect(server, link);
        }
        for other in neighbors(server) {
            let link = self.servers[other]
                .links
                .iter()
                .position(|link| link.to == server)
                .unwrap();
            self.disconnect(other, link);
            self.servers[other].links[link].unread.clear();
        }
        self.servers[server].up = false;
    }

    /// Reports that were on lost disks, that nobody else holds, and that nobody is about to read are
    /// lost for good: nothing can be asked of the others.
    fn give_up_what_nobody_holds(&mut self) {
        let mut held: Vec<Record> = Vec::new();
        for other in &self.servers {
            if other.up {
                held.extend(records(&other.replica).into_values());
            } else {
                held.extend(other.disk.records.values().cloned());
            }
            for link in &other.links {
                let unread = link.unread.iter().flat_map(|(_, lines)| lines);
                // Of a server that is up: a connection that fails loses what it has not delivered,
                // and the server holds it.
                let lines = unread.flat_map(|lines| lines.split(|&byte| byte == b'\n'));
                held.extend(
                    lines.filter_map(|line| RecordView::parse_line(line).as_ref().map(Record::new)),
                );
            }
        }
        self.acknowledged.retain(|client, best| {
            held.iter()
                .filter(|held| held.view().client == client.as_slice())
                .any(|held| held.view().order(&best.view()).is_ge())
        });
    }

    pub(super) fn restart(&mut self, server: usize, queue: usize) {
        let old = &mut self.servers[server];
        let mut new = start(server, old.epoch + 1, queue, &old.disk);
        for (link, old) in new.links.iter_mut().zip(&mut old.links) {
            link.possible = old.possible;
            link.unread = std::mem::take(&mut old.unread);
        }
        self.servers[server] = new;
    }

    pub(super) fn step(&mut self) {
        self.now += SECOND;
        let (server, link) = (self.choices.below(SERVERS), self.choices.below(2));
        match self.choices.below(100) {
            0..30 if self.servers[server].up => self.report(server),
            30..60 => drop(self.send(server, link)),
            60..82 => drop(self.receive(server, link)),
            82..89 if self.servers[server].up => self.servers[server].replica.send_markers(),
            89..90 if self.servers[server].up => self.servers[server].replica.prune_vector(),
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

    /// Restores all servers and links, and runs until nothing is left to do.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        for server in 0..SERVERS {
            if !self.servers[server].up {
                self.restart(server, QUEUE);
            }
            if let Some((_, line)) = self.servers[server].claimed.take() {
                self.store(server, &line);
            }
        }
        self.settle();
    }

    /// Makes all connections, and runs until nothing is left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..100 {
            let mut busy = false;
            for server in 0..SERVERS {
                for link in 0..2 {
                    self.servers[server].links[link].possible = true;
                    if !self.servers[server].links[link].connected {
                        self.connect(server, link);
                        busy |= self.servers[server].links[link].connected;
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
        panic!("still busy after 100 rounds");
    }

    /// True if all servers hold the same records and no acknowledged one is missing.
    pub(super) fn is_good(&self) -> bool {
        let first = records(&self.servers[0].replica);
        let agree = self
            .servers
            .iter()
            .all(|server| records(&server.replica) == first);
        let kept = self.acknowledged.iter().all(|(client, best)| {
            first
                .get(client)
                .is_some_and(|held| held.view().order(&best.view()).is_ge())
        });
        agree && kept
    }
}
