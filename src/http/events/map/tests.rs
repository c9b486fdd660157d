//! Frames applied to a model of the page, which must then show what the replica has.

use super::*;
use crate::model::command::Command;
use crate::model::geo::Position;
use crate::model::record::RecordView;
use crate::replica::outbox::{LinkId, NeighborStart};
use crate::replica::{ForgetOutcome, Outcome};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

const SERVERS: [&str; 3] = ["Ball", "Welsh", "a \"server\""];

const AT: Timestamp = Timestamp::from_nanos(1_700_000_000_123_456_789);

/// A record as the page sees it: latitude, longitude, milliseconds and server.
type Shown = (f64, f64, u64, String);

/// The state of a page.
#[derive(Clone, Debug, Default, PartialEq)]
struct Page {
    mode: String,
    records: u64,
    clients: BTreeMap<Vec<u8>, Shown>,
    cells: BTreeMap<(i64, i64), u64>,
}

impl Page {
    /// Applies a frame as the page does. Returns its counts of reports.
    fn apply(&mut self, frame: &[u8]) -> BTreeMap<String, u64> {
        let frame: Value = serde_json::from_slice(frame).unwrap();
        if frame["reset"] == true {
            *self = Page::default();
            self.mode = frame["mode"].as_str().unwrap().to_owned();
        }
        assert_eq!(frame["mode"], self.mode.as_str());
        assert_eq!(frame["at"], 1_700_000_000_123_u64);
        self.records = frame["records"].as_u64().unwrap();
        for client in list(&frame["gone"]) {
            self.clients.remove(&id(client)).unwrap();
        }
        for client in list(&frame["clients"]) {
            let number = |name: &str| client[name].as_f64().unwrap();
            let time = client["time"].as_u64().unwrap();
            let server = client["server"].as_str().unwrap().to_owned();
            let shown = (number("lat"), number("lon"), time, server);
            self.clients.insert(id(client), shown);
        }
        for cell in list(&frame["cells"]) {
            let corner = (cell[0].as_i64().unwrap(), cell[1].as_i64().unwrap());
            match cell[2].as_u64().unwrap() {
                0 => drop(self.cells.remove(&corner).unwrap()),
                count => drop(self.cells.insert(corner, count)),
            }
        }
        let reports = frame["reports"].as_object().into_iter().flatten();
        reports
            .map(|(server, count)| (server.clone(), count.as_u64().unwrap()))
            .collect()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn id(client: &Value) -> Vec<u8> {
    let text = client.as_str().or_else(|| client["client"].as_str());
    text.map(|text| text.as_bytes().to_vec())
        .unwrap_or_else(|| {
            STANDARD
                .decode(client["client_base64"].as_str().unwrap())
                .unwrap()
        })
}

/// A record of the model.
#[derive(Clone, Debug)]
struct Put {
    location: String,
    time: u64,
    origin: &'static str,
    epoch: u64,
    sequence: u64,
}

type Model = BTreeMap<Vec<u8>, Put>;

fn replica(model: &Model) -> Replica {
    let replica = Replica::new("Ball", 1, 1_000);
    let from = NeighborStart {
        link: LinkId(0),
        epoch: 1,
    };
    for (client, put) in model {
        let adopted = replica.adopt(&[view(client, put)], from, AT);
        assert_eq!(adopted, 1);
    }
    replica
}

fn view<'a>(client: &'a [u8], put: &'a Put) -> RecordView<'a> {
    RecordView {
        client,
        location: put.location.as_bytes(),
        time_text: b"1",
        time: Timestamp::from_nanos(put.time * 1_000_000),
        received: Timestamp::from_nanos(put.time * 1_000_000),
        origin: put.origin.as_bytes(),
        epoch: put.epoch,
        sequence: put.sequence,
    }
}

fn expected(model: &Model, mode: &str) -> Page {
    let mut page = Page {
        mode: mode.to_owned(),
        records: model.len() as u64,
        ..Page::default()
    };
    for (client, put) in model {
        let position = Position::parse(put.location.as_bytes()).unwrap();
        let (latitude, longitude) = (position.latitude, position.longitude);
        if mode == "clients" {
            let shown = (latitude, longitude, put.time, put.origin.to_owned());
            page.clients.insert(client.clone(), shown);
        } else {
            let cell = |degrees: f64, last: f64| degrees.floor().min(last) as i64;
            let corner = (cell(latitude, 89.0), cell(longitude, 179.0));
            *page.cells.entry(corner).or_default() += 1;
        }
    }
    page
}

#[derive(Clone, Debug)]
enum Step {
    Report(u8, Put),
    Remove(u8),
    /// A scan, at which a page may be opened.
    Scan(bool),
}

fn client(number: u8) -> Vec<u8> {
    match number % 4 {
        0 => vec![0xff, number],
        1 => format!("\"{number}\\\u{1}é").into_bytes(),
        _ => format!("client-{number}").into_bytes(),
    }
}

fn put() -> impl Strategy<Value = Put> {
    // Few places and numbers, so that equal ones meet.
    let degrees = "[+-]0{0,2}[0-3](\\.[05]{1,2})?[+-]0{0,2}(180|[0-2])(\\.0)?";
    let server = prop::sample::select(&SERVERS[..]);
    let numbers = (0..3u64, 0..6u64, 0..3u64);
    (degrees, numbers, server).prop_map(|(location, (epoch, sequence, time), origin)| Put {
        location,
        time,
        origin,
        epoch,
        sequence,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..16u8, put()).prop_map(|(client, put)| Step::Report(client, put)),
        2 => (0..16u8).prop_map(Step::Remove),
        3 => any::<bool>().prop_map(Step::Scan),
    ]
}

const THRESHOLDS: Thresholds = Thresholds {
    grid: 8,
    clients: 5,
};

/// Numbers by which a record is known.
fn numbers(put: &Put) -> (&'static str, u64, u64) {
    (put.origin, put.epoch, put.sequence)
}

fn run(steps: Vec<Step>) {
    let mut map = Map::new(THRESHOLDS);
    let (mut model, mut sent) = (Model::new(), Model::new());
    let mut first: Option<Page> = None;
    let mut is_grid = false;
    for step in steps.into_iter().chain([Step::Scan(true)]) {
        match step {
            Step::Report(number, put) => {
                // Of one start no two records have the same number.
                let is_taken = model.values().any(|other| numbers(other) == numbers(&put));
                // The map knows a record by its numbers only.
                let before = sent.values().find(|other| numbers(other) == numbers(&put));
                if !is_taken && before.is_none() {
                    model.insert(client(number), put);
                }
            }
            Step::Remove(number) => {
                model.remove(&client(number));
            }
            Step::Scan(opens) => {
                let replica = replica(&model);
                let frames = map.scan(&replica, AT, opens, || true);
                let was_grid = is_grid;
                is_grid =
                    model.len() > THRESHOLDS.grid || was_grid && model.len() > THRESHOLDS.clients;
                let expected = expected(&model, if is_grid { "grid" } else { "clients" });
                let is_new = first.is_none() || was_grid != is_grid;
                let page = first.get_or_insert_default();
                let reports = frames.changes.map(|frame| page.apply(&frame));
                assert_eq!(page, &expected);
                assert_eq!(frames.whole.is_some(), opens || is_new && !is_grid);
                if let Some(whole) = frames.whole {
                    let mut page = Page::default();
                    assert_eq!(page.apply(&whole), BTreeMap::new());
                    assert_eq!(page, expected);
                }
                if !is_grid && !is_new {
                    let mut changed = BTreeMap::new();
                    for (client, put) in &model {
                        let before = sent.get(client).map(numbers);
                        if before != Some(numbers(put)) {
                            *changed.entry(put.origin.to_owned()).or_insert(0) += 1;
                        }
                    }
                    let is_gone = sent.keys().any(|client| !model.contains_key(client));
                    assert_eq!(reports.is_some(), is_gone || !changed.is_empty());
                    assert_eq!(reports.unwrap_or_default(), changed);
                }
                sent = model.clone();
                let again = map.scan(&replica, AT, false, || true);
                assert_eq!(again.changes.map(String::from_utf8), None);
            }
        }
    }
}

proptest! {
    #[test]
    fn frames_lead_to_the_newest_state(steps in prop::collection::vec(step(), 0..80)) {
        run(steps);
    }
}

fn of(origin: &'static str, sequence: u64, location: &str) -> Put {
    Put {
        location: location.to_owned(),
        time: 1,
        origin,
        epoch: 1,
        sequence,
    }
}

#[test]
fn the_mode_changes_at_two_numbers() {
    let mut map = Map::new(THRESHOLDS);
    let mut modes = Vec::new();
    for records in [8, 9, 8, 6, 5, 8, 9, 5] {
        let model: Model = (0..records)
            .map(|number| (client(number), of("Ball", u64::from(number) + 1, "+1+1")))
            .collect();
        let frames = map.scan(&replica(&model), AT, true, || true);
        let whole: Value = serde_json::from_slice(&frames.whole.unwrap()).unwrap();
        let changes: Value = serde_json::from_slice(&frames.changes.unwrap()).unwrap();
        assert_eq!(whole["mode"], changes["mode"]);
        modes.push((whole["mode"] == "grid", changes["reset"] == true));
    }
    assert_eq!(
        modes,
        [
            (false, true),
            (true, true),
            (true, false),
            (true, false),
            (false, true),
            (false, false),
            (true, true),
            (false, true),
        ]
    );
}

#[test]
fn a_grid_counts_the_reports_that_the_vector_covers() {
    let mut map = Map::new(THRESHOLDS);
    let mut page = Page::default();
    let model: Model = (0..10)
        .map(|number| (client(number), of("Welsh", u64::from(number) + 1, "+1+1")))
        .collect();
    let replica = replica(&model);
    let report = |client: &str, time: u64| {
        let line = format!("IAMAT {client} +1.5+1.5 {time}");
        let Ok(Command::Iamat(report)) = Command::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        replica.report(&[report], AT, &mut Vec::new());
    };
    let mark = |sequence| {
        let mut marker = Vector::default();
        marker.advance(b"Welsh", 1, sequence);
        replica.advance(&marker);
    };
    mark(10);
    // Nobody knows how old those of the first frame are.
    let first = map.scan(&replica, AT, false, || true).changes.unwrap();
    assert_eq!(page.apply(&first), BTreeMap::new());
    assert!(map.reports(&replica, AT).is_none());
    // Within its cell, or without a scan.
    for takes_scan in [true, false] {
        for time in [1, 2] {
            report("own", time + 2 * u64::from(!takes_scan));
        }
        mark(if takes_scan { 17 } else { 20 });
        let changes = match takes_scan {
            true => map.scan(&replica, AT, false, || true).changes,
            false => map.reports(&replica, AT),
        };
        let reports = page.apply(&changes.unwrap());
        let welsh = if takes_scan { 7 } else { 3 };
        let expected = [("Ball".to_owned(), 2), ("Welsh".to_owned(), welsh)];
        assert_eq!(reports, expected.into());
    }
    assert!(map.scan(&replica, AT, false, || true).changes.is_none());
    assert_eq!(page.records, 11);
}

#[test]
fn a_scan_that_is_ended_has_no_frames() {
    let mut map = Map::new(THRESHOLDS);
    let model = Model::from([(client(2), of("Ball", 1, "+1+1"))]);
    let frames = map.scan(&replica(&model), AT, true, || false);
    assert!(frames.changes.is_none() && frames.whole.is_none());
    let frames = map.scan(&replica(&model), AT, true, || true);
    assert!(frames.changes.is_some() && frames.whole.is_some());
}

#[test]
fn clients_that_are_forgotten_or_expire_are_gone_in_both_modes() {
    const AGE: Duration = Duration::from_secs(3_600);
    let all_as_cells = Thresholds {
        grid: 0,
        clients: 0,
    };
    for thresholds in [THRESHOLDS, all_as_cells] {
        let replica = Replica::new("Ball", 1, 1_000);
        replica.set_forget_after(Some(AGE));
        let seconds = AT.as_nanos() / 1_000_000_000 - AGE.as_secs();
        // The first is too old within a second, the others a second later.
        for (client, after) in [("old", 1), ("kiwi", 2), ("moa", 2)] {
            let line = format!("IAMAT {client} +1.5+1.5 {}", seconds + after);
            let Ok(Command::Iamat(report)) = Command::parse(line.as_bytes()) else {
                panic!("{line}")
            };
            let mut outcomes = Vec::new();
            replica.report(&[report], AT, &mut outcomes);
            assert_eq!(outcomes, [Outcome::Stored]);
        }
        let mut map = Map::new(thresholds);
        let mut page = Page::default();
        // Whether a scan is due, and the clients that the page has then.
        let mut shown = |after: Duration| {
            let now = Timestamp::from_nanos(AT.as_nanos() + after.as_nanos() as u64);
            let has_expired = map.has_expired(&replica, now);
            if let Some(frame) = map.scan(&replica, now, false, || true).changes {
                let mut frame: Value = serde_json::from_slice(&frame).unwrap();
                frame["at"] = 1_700_000_000_123_u64.into();
                page.apply(frame.to_string().as_bytes());
            }
            let in_cells = page.cells.values().sum::<u64>() as usize;
            (has_expired, page.records, page.clients.len() + in_cells)
        };
        let millis = Duration::from_millis;
        assert_eq!(shown(millis(0)), (false, 3, 3));
        assert_eq!(shown(millis(800)), (false, 3, 3));
        // The replica has not changed.
        assert_eq!(shown(millis(1_000)), (true, 2, 2));
        assert_eq!(shown(millis(1_500)), (false, 2, 2));
        let (outcome, _) = replica.forget(b"kiwi", AT);
        assert!(matches!(outcome, ForgetOutcome::Forgotten(_)));
        assert_eq!(shown(millis(1_600)), (false, 1, 1));
        assert_eq!(shown(millis(2_000)), (true, 0, 0));
        assert_eq!(shown(millis(9_000)), (false, 0, 0));
    }
}
