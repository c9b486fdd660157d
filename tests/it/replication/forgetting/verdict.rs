//! The judgement of a run of forgetting at its end.

use std::collections::BTreeMap;

use super::{EDGE, Event, Forgetting, SHORT};
use crate::it::replication::rules::Without;
use crate::it::replication::simulation::record::Record;
use crate::it::replication::simulation::{SERVERS, records};

impl Forgetting {
    /// Returns what is wrong at the end of the run.
    pub(super) fn fault(&self) -> Option<String> {
        if self.regression.is_some() {
            return self.regression.clone();
        }
        // Those of another age are compared with each other only.
        let age = |server: usize| self.plans[server].kept.unwrap();
        let dead = self.simulation.now - age(0).as_nanos() as u64;
        let all_held: Vec<_> = (0..SERVERS)
            .filter(|&server| age(server) == age(0))
            .map(|server| records(&self.simulation.servers[server].replica))
            .collect();
        self.log
            .iter()
            .find_map(|(client, events)| self.fault_of(client, events, dead, &all_held))
    }

    fn fault_of(
        &self,
        client: &[u8],
        events: &[Event],
        dead: u64,
        all_held: &[BTreeMap<Vec<u8>, Record>],
    ) -> Option<String> {
        let simulation = &self.simulation;
        let best = match simulation.without {
            Without::TombstoneBehindRecord => events.iter().max_by_key(|event| event.at),
            _ => events
                .iter()
                .max_by(|one, other| one.record.view().order(&other.record.view())),
        };
        let best = best.unwrap().record.view();
        let shown = |server: usize| {
            let clock = simulation.clock(server);
            let replica = &simulation.servers[server].replica;
            replica.locate(client, clock, |shown| shown.as_ref().map(Record::new))
        };
        if best.is_tombstone() {
            // While ages differ, a tombstone that a server cut off from all others made may expire there
            // before it has met what it forgets.
            let short = SHORT.unwrap().as_nanos() as u64;
            if self.is_mixed && best.time.as_nanos() < simulation.now - short + EDGE {
                return None;
            }
            let shown = (0..SERVERS).find_map(|server| Some((server, shown(server)?)));
            return shown.map(|(server, shown)| {
                let shown = shown.view();
                format!("forgotten by {best:?}, and at {server} there is {shown:?}")
            });
        }
        let held: Vec<_> = all_held.iter().map(|held| held.get(client)).collect();
        // A record that has expired by the shorter age may have been dropped by the only server that had it.
        let short = SHORT.unwrap().as_nanos() as u64;
        let expired = match self.is_mixed {
            true => simulation.now - short,
            false => self.lengthened.saturating_sub(short),
        };
        let is_alive = best.time.as_nanos() >= dead.max(expired) + EDGE;
        let has_best =
            |held: &Option<&Record>| held.is_some_and(|held| held.view().order(&best).is_ge());
        if is_alive && !held.iter().all(has_best) {
            return Some(format!("alive and not held by all: {best:?}, but {held:?}"));
        }
        let is_settled = |record: &&Record| record.view().time.as_nanos() >= dead + EDGE;
        let any = held.iter().flatten().copied().find(is_settled);
        let differs = any.is_some() && held.iter().any(|held| *held != any);
        differs.then(|| format!("not equal: {held:?}"))
    }
}
