//! Runs in which clients are forgotten and records expire: with absences longer than `forget-after`, lost
//! folders, clocks that are wrong, and a `forget-after` that changes. A step is a minute.
//!
//! A run is good if no server ever shows of a client what is older than a tombstone that it held, if at the end
//! nobody who was forgotten is shown, and if every report that is well alive is held by all.

mod verdict;

use std::collections::HashMap;
use std::time::Duration;

use herd::model::age::is_longer;
use herd::model::command::Command;
use herd::model::record::RecordView;
use herd::replica::{ForgetOutcome, Outcome};

use super::rules::Without;
use super::simulation::record::Record;
use super::simulation::{Disk, SECOND, SERVERS, Simulation, neighbors, records};

/// Time of a step.
const STEP: u64 = 60 * SECOND;

/// Steps of a run before everything heals; nothing is reported in the last of them.
const STEPS: usize = 420;
const LAST_REPORT: usize = 330;

/// The two ages: an absence may be longer than the first.
const SHORT: Option<Duration> = Some(Duration::from_secs(60 * 60));
const LONG: Option<Duration> = Some(Duration::from_secs(2_000 * 60));

/// Clients, each with one device.
const CLIENTS: usize = 40;

/// Capacity of a link's queue in groups.
const QUEUE: usize = 8;

/// Time by which servers may disagree on whether a record lives: 120 s, and clocks that differ.
const EDGE: u64 = 300 * SECOND;

/// An acknowledged report or wish to be forgotten.
struct Event {
    at: u64,
    origin: usize,
    record: Record,
}

/// The plan for a server.
#[derive(Clone, Default)]
struct Plan {
    /// Step at which it comes back.
    back: usize,
    /// Step at which its clock is right again.
    right: Option<usize>,
    /// Its clock has gone wrong, and its links stay until a neighbor's next sign of life.
    is_closing: bool,
    /// Step at which it is given the other age.
    change: Option<usize>,
    /// The age that was last in force, as its folder keeps it.
    kept: Option<Duration>,
    /// Epoch before which its folder was lost.
    lost: u64,
    /// The greatest tombstone that it ever held of each client.
    held: HashMap<Vec<u8>, Record>,
}

pub(super) struct Forgetting {
    simulation: Simulation,
    step: usize,
    plans: Vec<Plan>,
    /// The server that is away for long.
    absent: Option<usize>,
    /// Step from which on the age is changed, and the age.
    change: Option<usize>,
    target: Option<Duration>,
    /// Some servers keep the longer age for good.
    is_mixed: bool,
    /// When a server was given a longer age last.
    lengthened: u64,
    log: HashMap<Vec<u8>, Vec<Event>>,
    /// The first time that a server has shown what it had forgotten.
    regression: Option<String>,
}

/// Runs the simulation once. Returns what is wrong at the end, if anything is.
pub(super) fn fault_of_run(seed: u64, without: Without) -> Option<String> {
    let mut run = Forgetting::new(seed, without);
    while run.step < STEPS {
        run.step();
    }
    run.heal();
    run.fault()
}

impl Forgetting {
    fn new(seed: u64, without: Without) -> Forgetting {
        let mut simulation = Simulation::new(seed, without, QUEUE);
        simulation.forgets = true;
        simulation.ahead = [0; SERVERS];
        let choices = &mut simulation.choices;
        let begins_long = choices.below(10) < 3;
        let change = (choices.below(4) > 0).then(|| 110 + choices.below(220));
        let absent = (choices.below(10) < 6).then(|| choices.below(SERVERS));
        let is_mixed = begins_long && choices.below(2) == 0;
        let (age, target) = match begins_long {
            true => (LONG, SHORT),
            false => (SHORT, LONG),
        };
        let mut run = Forgetting {
            simulation,
            step: 0,
            plans: vec![Plan::default(); SERVERS],
            absent,
            change,
            target: if change.is_some() { target } else { age },
            is_mixed,
            lengthened: 0,
            log: HashMap::new(),
            regression: None,
        };
        for server in 0..SERVERS {
            run.plans[server].kept = age;
            run.simulation.servers[server].replica.set_forget_after(age);
            run.wobble(server);
        }
        run
    }

    fn below(&mut self, limit: usize) -> usize {
        self.simulation.choices.below(limit)
    }

    /// Returns whether something happens that does so in that many of a thousand cases.
    fn happens(&mut self, thousandths: usize) -> bool {
        self.below(1_000) < thousandths
    }

    fn is_up(&self, server: usize) -> bool {
        self.simulation.servers[server].up
    }

    fn any_up(&mut self) -> Option<usize> {
        let server = self.below(SERVERS);
        self.is_up(server).then_some(server)
    }

    fn lengthens(&self) -> bool {
        self.target == LONG
    }

    /// Returns whether a longer age is being put in force: nothing else befalls a server meanwhile.
    fn is_calm(&self) -> bool {
        let is_behind = |plan: &Plan| plan.change.is_some() && plan.kept != self.target;
        self.lengthens()
            && self.simulation.without != Without::LengtheningTogether
            && self.plans.iter().any(is_behind)
    }

    /// Sets a clock that is right within half a minute.
    fn wobble(&mut self, server: usize) {
        let seconds = [-30, 0, 30][self.below(3)];
        self.simulation.ahead[server] = seconds * SECOND.cast_signed();
        self.plans[server].right = None;
    }

    fn step(&mut self) {
        self.step += 1;
        self.simulation.now += STEP;
        self.change_age();
        for server in 0..SERVERS {
            self.live(server);
        }
        if self.step < LAST_REPORT {
            self.use_clients();
        }
        for _ in 0..12 {
            let (server, link) = (self.below(SERVERS), self.below(2));
            self.use_link(server, link);
        }
        for server in 0..SERVERS {
            if self.is_up(server) && self.happens(300) {
                self.sweep(server);
            }
        }
    }

    /// Begins to change the age when that is due: shorter at any time, longer when all servers are up,
    /// have right clocks and are equal.
    fn change_age(&mut self) {
        let is_due = self.change.is_some_and(|step| self.step >= step);
        if !is_due || self.plans.iter().any(|plan| plan.change.is_some()) {
            return;
        }
        let all_up = (0..SERVERS).all(|server| self.is_up(server));
        if self.lengthens() && self.simulation.without != Without::LengtheningTogether {
            if !all_up {
                return;
            }
            (0..SERVERS).for_each(|server| self.wobble(server));
            self.simulation.settle();
        }
        for server in 0..SERVERS {
            // Those that keep the longer age are neighbors.
            if !self.is_mixed || server > 2 {
                self.plans[server].change = Some(self.step + self.below(30));
            }
        }
    }

    /// A mishap of a server.
    fn live(&mut self, server: usize) {
        let step = self.step;
        if !self.is_up(server) {
            if step >= self.plans[server].back {
                self.come_back(server);
            }
            return;
        }
        if std::mem::take(&mut self.plans[server].is_closing) {
            self.close_links(server);
        }
        let is_due = self.plans[server].change.is_some_and(|due| step >= due);
        if is_due && self.plans[server].kept != self.target {
            if self.lengthens() {
                self.stop(server);
                self.come_back(server);
            } else {
                self.set_age(server, self.target);
            }
        }
        if self.is_calm() {
            return;
        }
        let up = (0..SERVERS).filter(|&other| self.is_up(other)).count();
        if self.absent == Some(server) && step == 105 {
            let away = [40, 80, 120, 180][self.below(4)];
            self.leave(server, away);
        } else if up > 2 && self.happens(8) {
            let away = [1, 5, 30, 90][self.below(4)];
            self.leave(server, away);
            if self.absent != Some(server) && self.happens(300) {
                self.lose_folder(server);
            }
        } else if self.happens(4) {
            // Two hours, or two days. No two are wrong alike: neighbors that are confirm each other, and
            // no rule helps against that.
            let seconds = [-2, 2, 48][self.below(3)] * 3_600 + 100 * i64::try_from(server).unwrap();
            self.simulation.ahead[server] = seconds * SECOND.cast_signed();
            self.plans[server].right = Some(step + 2 + self.below(20));
            self.plans[server].is_closing = self.below(2) == 0;
            if !self.plans[server].is_closing {
                self.close_links(server);
            }
        } else if match self.plans[server].right {
            Some(right) => step >= right,
            None => self.happens(20),
        } {
            self.wobble(server);
        }
        if self.happens(50) {
            self.compact(server);
        }
        if self.happens(30) {
            self.simulation.servers[server].replica.prune_vector();
        }
    }

    fn close_links(&mut self, server: usize) {
        for link in 0..2 {
            self.simulation.disconnect(server, link);
        }
        for other in neighbors(server) {
            let links = &self.simulation.servers[other].links;
            let link = links.iter().position(|link| link.to == server).unwrap();
            self.simulation.disconnect(other, link);
        }
    }

    /// Ends a server until it comes back.
    fn leave(&mut self, server: usize, steps: usize) {
        self.stop(server);
        self.plans[server].back = self.step + steps;
    }

    /// Ends a server. Its journal has everything that it held.
    fn stop(&mut self, server: usize) {
        self.journal(server);
        let state = &mut self.simulation.servers[server];
        state.disk.held = state.replica.vector();
        self.simulation.end(server);
        // All that it had yet to read of a server that has lost its folder is lost too.
        self.give_up_what_nobody_holds();
    }

    /// Brings the records to the journal. What was dropped from memory stays there.
    fn journal(&mut self, server: usize) {
        let purges = self.simulation.without == Without::TombstonesUntilDeath;
        let clock = self.simulation.clock(server).as_nanos();
        let state = &mut self.simulation.servers[server];
        for (client, record) in records(&state.replica) {
            let is_greater = |old: &Record| record.view().order(&old.view()).is_gt();
            if state.disk.records.get(&client).is_none_or(is_greater) {
                state.disk.records.insert(client, record);
            }
        }
        if purges {
            let is_young = |record: &Record| {
                let view = record.view();
                !view.is_tombstone() || view.time.as_nanos() + 15 * STEP > clock
            };
            state.disk.records.retain(|_, record| is_young(record));
        }
        // Before anything is dropped.
        for (client, record) in records(&state.replica) {
            if record.view().is_tombstone() {
                self.plans[server].held.insert(client, record);
            }
        }
    }

    /// Compacts the journal: what was dropped is gone.
    fn compact(&mut self, server: usize) {
        self.sweep(server);
        let state = &mut self.simulation.servers[server];
        state.disk.records = records(&state.replica);
    }

    /// The folder of a server that is down is lost.
    fn lose_folder(&mut self, server: usize) {
        let state = &mut self.simulation.servers[server];
        state.disk = Disk::default();
        self.plans[server].lost = state.epoch + 1;
        // Without it, a start has no memory.
        self.plans[server].kept = None;
        self.plans[server].held.clear();
        self.give_up_what_nobody_holds();
    }

    /// Reports that were in lost folders and that nobody else holds are lost for good.
    fn give_up_what_nobody_holds(&mut self) {
        let mut greatest: HashMap<Vec<u8>, Record> = HashMap::new();
        let mut hold = |record: Record| {
            let view = record.view();
            let known = greatest.get(view.client);
            if known.is_none_or(|known| view.order(&known.view()).is_gt()) {
                greatest.insert(view.client.to_vec(), record.clone());
            }
        };
        for server in &self.simulation.servers {
            if server.up {
                records(&server.replica).into_values().for_each(&mut hold);
            } else {
                server.disk.records.values().cloned().for_each(&mut hold);
            }
            let unread = server.links.iter().flat_map(|link| &link.unread);
            let lines = unread.flat_map(|(_, lines)| lines);
            let lines = lines.flat_map(|lines| lines.split(|&byte| byte == b'\n'));
            lines
                .filter_map(RecordView::parse_line)
                .for_each(|view| hold(Record::new(&view)));
        }
        let plans = &self.plans;
        let dead = self.simulation.now - LONG.unwrap().as_nanos() as u64;
        self.log.retain(|client, events| {
            events.retain(|event| {
                let view = event.record.view();
                let is_held = greatest
                    .get(client)
                    .is_some_and(|known| known.view().order(&view).is_ge());
                is_held || view.epoch >= plans[event.origin].lost || view.time.as_nanos() < dead
            });
            !events.is_empty()
        });
    }

    /// Starts a server that is down.
    fn come_back(&mut self, server: usize) {
        let without = self.simulation.without;
        let wanted = match self.plans[server].change.is_some() {
            true => self.target,
            false if self.lengthens() && self.change.is_some() => SHORT,
            false if self.change.is_some() => LONG,
            false => self.target,
        };
        let kept = self.plans[server].kept;
        let lengthens = kept.is_some() && is_longer(wanted, kept);
        if lengthens {
            self.lengthened = self.simulation.now;
            // An operator who looks at the status sees a wrong clock.
            self.wobble(server);
        }
        self.simulation.restart(server, QUEUE);
        let clock = self.simulation.clock(server);
        let is_late = self.plans[server].change.is_some_and(|due| self.step > due);
        let state = &mut self.simulation.servers[server];
        if lengthens {
            let drops = match without {
                Without::ExpiredLostByLengthening => false,
                Without::LengtheningTogether => !is_late,
                _ => true,
            };
            state
                .replica
                .lose_claims(kept.unwrap(), drops, clock)
                .unwrap();
            if without == Without::ClaimsLostByLengthening {
                state.replica.restore_vector(&state.disk.held);
            }
            state.disk.records = records(&state.replica);
        }
        self.set_age(server, wanted);
    }

    fn set_age(&mut self, server: usize, age: Option<Duration>) {
        self.plans[server].kept = age;
        self.simulation.servers[server]
            .replica
            .set_forget_after(age);
    }

    /// Returns whether a linked neighbor confirms a server's clock: links between others are closed, or
    /// about to be.
    fn is_clock_confirmed(&self, server: usize) -> bool {
        if self.plans[server].is_closing {
            return false;
        }
        let links = &self.simulation.servers[server].links;
        links
            .iter()
            .any(|link| link.connected && self.is_up(link.to))
    }

    /// Drops dead records, and checks what is shown.
    fn sweep(&mut self, server: usize) {
        self.check(server);
        self.journal(server);
        let clock = self.simulation.clock(server);
        let replica = &self.simulation.servers[server].replica;
        if self.is_clock_confirmed(server) || self.simulation.without == Without::ConfirmedClock {
            replica.trust_clock(clock);
        }
        replica.drop_dead(clock, || true);
    }

    /// Notes whether a server shows of a client what is older than what it once held.
    fn check(&mut self, server: usize) {
        let clock = self.simulation.clock(server);
        let replica = &self.simulation.servers[server].replica;
        for (client, held) in &self.plans[server].held {
            let held = held.view();
            let older = replica.locate(client, clock, |shown| {
                let shown = shown.filter(|shown| shown.order(&held).is_lt())?;
                Some(format!("{shown:?}"))
            });
            if let Some(shown) = older {
                let step = self.step;
                self.regression.get_or_insert_with(|| {
                    format!("in step {step} server {server} had held {held:?}, and shows {shown}")
                });
            }
        }
    }

    fn use_clients(&mut self) {
        let (step, chance) = (self.step, self.below(100));
        let (reports, forgets) = match step {
            60..104 => (80, 85),
            0..106 => (5, 85),
            _ => (5, 40),
        };
        let Some(server) = self.any_up() else {
            return;
        };
        let client = format!("client-{}", self.below(CLIENTS));
        if chance < reports {
            self.report(server, &client);
        } else if chance < forgets {
            self.forget(server, &client);
        }
    }

    fn report(&mut self, server: usize, client: &str) {
        // A device's clock may lead.
        let ahead = [0, 0, 0, 250][self.below(4)];
        let seconds = self.simulation.now / SECOND + ahead;
        let line = format!("IAMAT {client} +{}+1 {seconds}", self.below(80));
        let Ok(Command::Iamat(report)) = Command::parse(line.as_bytes()) else {
            panic!("{line}");
        };
        let (clock, mut outcomes) = (self.simulation.clock(server), Vec::new());
        let replica = &self.simulation.servers[server].replica;
        replica.report(&[report], clock, &mut outcomes);
        if outcomes == [Outcome::Stored] {
            let stored = replica.locate(client.as_bytes(), clock, |stored| {
                stored.as_ref().map(Record::new)
            });
            self.note(server, client, stored.unwrap());
        }
    }

    fn forget(&mut self, server: usize, client: &str) {
        // One with a wrong clock would forget the client for days to come.
        if self.plans[server].right.is_some() {
            return;
        }
        let clock = self.simulation.clock(server);
        let state = &self.simulation.servers[server];
        let leads = state.replica.locate(client.as_bytes(), clock, |stored| {
            stored.is_some_and(|stored| stored.time >= clock)
        });
        let time = if leads && self.simulation.without == Without::TombstoneBehindRecord {
            // It loses to the record, here and everywhere.
            clock
        } else {
            match state.replica.forget(client.as_bytes(), clock).0 {
                ForgetOutcome::Forgotten(time) => time,
                outcome => panic!("{outcome:?}"),
            }
        };
        let origin = state.replica.name().as_bytes();
        let tombstone = RecordView::tombstone(client.as_bytes(), time, origin, state.epoch, 0);
        let tombstone = Record::new(&tombstone);
        self.note(server, client, tombstone);
    }

    fn note(&mut self, origin: usize, client: &str, record: Record) {
        let event = Event {
            at: self.simulation.now,
            origin,
            record,
        };
        let events = self.log.entry(client.as_bytes().to_vec()).or_default();
        events.push(event);
    }

    fn use_link(&mut self, server: usize, link: usize) {
        if !self.is_up(server) {
            return;
        }
        if self.happens(15) && !self.is_calm() {
            let state = &mut self.simulation.servers[server].links[link];
            state.possible = !state.possible;
            if !state.possible {
                self.simulation.disconnect(server, link);
            }
        }
        if !self.simulation.servers[server].links[link].connected {
            self.simulation.connect(server, link);
        }
        if self.happens(400) {
            self.simulation.servers[server].replica.send_markers();
        }
        for _ in 0..self.below(12) {
            self.simulation.send(server, link);
        }
        for _ in 0..self.below(40) {
            self.simulation.receive(server, link);
        }
    }

    /// Restores everything, completes the change of the age, and runs until nothing is left to do.
    fn heal(&mut self) {
        self.simulation.healed = true;
        for server in 0..SERVERS {
            self.wobble(server);
        }
        if self.change.is_some() {
            let first = if self.is_mixed { 3 } else { 0 };
            for plan in &mut self.plans[first..] {
                plan.change.get_or_insert(self.step);
            }
        }
        for server in 0..SERVERS {
            if self.is_up(server) && self.plans[server].kept != self.target && self.lengthens() {
                self.stop(server);
            }
            if !self.is_up(server) {
                self.come_back(server);
            }
            if self.plans[server].change.is_some() {
                self.set_age(server, self.target);
            }
        }
        self.simulation.settle();
        for server in 0..SERVERS {
            self.simulation.servers[server].replica.send_markers();
        }
        self.simulation.settle();
        (0..SERVERS).for_each(|server| self.check(server));
    }
}
