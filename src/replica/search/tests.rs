//! Searches against brute force over all records.

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::command::Report;
use crate::model::geo::distance_km;

/// Records whose ids the tests choose from.
const CLIENTS: u8 = 40;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

/// Nearest clients by brute force: the model of [`Replica::nearby`].
fn brute_nearby(
    replica: &Replica,
    circle: &Circle,
    bound: usize,
    left_out: Option<&[u8]>,
) -> Vec<(f64, Vec<u8>)> {
    let mut found: Vec<_> = living(replica)
        .into_iter()
        .map(|(client, position)| (distance_km(&circle.center, &position), client))
        .filter(|(km, client)| *km <= circle.radius_km && Some(&client[..]) != left_out)
        .collect();
    found.sort_by(|one, other| one.0.total_cmp(&other.0).then_with(|| one.1.cmp(&other.1)));
    found.truncate(bound);
    found
}

/// Clients in a box by brute force: the model of [`Replica::within`] without a bound.
fn brute_within(replica: &Replica, rectangle: &Rectangle) -> HashSet<Vec<u8>> {
    let living = living(replica).into_iter();
    let inside = living.filter(|(_, position)| rectangle.contains(position));
    inside.map(|(client, _)| client).collect()
}

/// All clients that are neither forgotten nor expired.
fn living(replica: &Replica) -> Vec<(Vec<u8>, Position)> {
    let horizon = replica.horizon(NOW);
    let mut living = Vec::new();
    replica.scan(
        &mut living,
        |living, record| {
            if !record.is_tombstone() && !horizon.is_dead(record.time) {
                let position = Position::parse(record.location).expect("a location");
                living.push((record.client.to_vec(), position));
            }
        },
        |_| true,
    );
    living
}

#[track_caller]
fn check_nearby(replica: &Replica, circle: &Circle, bound: usize, left_out: Option<&[u8]>) {
    let hits = replica.nearby(circle, bound, left_out, NOW);
    let got: Vec<_> = hits
        .iter()
        .map(|(km, record)| (km, record.client.to_vec()))
        .collect();
    let expected = brute_nearby(replica, circle, bound, left_out);
    assert_eq!(got, expected, "{circle:?}, {bound}");
}

#[track_caller]
fn check_within(replica: &Replica, rectangle: &Rectangle, bound: usize) {
    let hits = replica.within(rectangle, bound, NOW);
    let got: Vec<_> = hits
        .iter()
        .map(|(_, record)| record.client.to_vec())
        .collect();
    let expected = brute_within(replica, rectangle);
    let different: HashSet<_> = got.iter().cloned().collect();
    assert_eq!(got.len(), different.len(), "repeated");
    assert_eq!(
        got.len(),
        bound.min(expected.len()),
        "{rectangle:?}, {bound}"
    );
    assert!(different.is_subset(&expected), "{rectangle:?}");
}

fn store(replica: &Replica, client: &[u8], location: &str, time: u64) {
    let text = time.to_string();
    let report = Report {
        client,
        location: location.as_bytes(),
        time_text: text.as_bytes(),
        time: Timestamp::from_nanos(time),
    };
    replica.report(&[report], NOW, &mut Vec::new());
}

/// A change of a replica.
#[derive(Clone, Debug)]
enum Step {
    Report(u8, String),
    Forget(u8),
    /// A report that has expired by [`NOW`].
    Old(u8, String),
}

fn latitude() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..20_000).prop_map(|offset| format!("+34.{:06}", 60_000 + offset)),
        2 => (-90.0..=90.0).prop_map(|degrees: f64| format!("{degrees:+.9}")),
        1 => (89.9..=90.0).prop_map(|degrees: f64| format!("{degrees:+.6}")),
        1 => prop::sample::select(vec![
            "+90", "-90", "-90.000", "+0", "-0", "+0.1", "-0.10", "+0.09999999999999", "-89.99999999999",
            "+59.99999999", "+60.0", "+34.07", "+0034.07", "+1",
        ]).prop_map(str::to_owned),
    ]
}

fn longitude() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..20_000).prop_map(|offset| format!("-118.{:06}", 440_000 + offset)),
        2 => (-180.0..=180.0).prop_map(|degrees: f64| format!("{degrees:+.9}")),
        1 => (179.9..=180.0, any::<bool>()).prop_map(|(degrees, east): (f64, _)| {
            format!("{}{degrees:.7}", if east { '+' } else { '-' })
        }),
        1 => prop::sample::select(vec![
            "+180", "-180", "-180.0000", "+179.99999999999", "-179.99999999999", "+0", "-0.0", "+0.1",
            "-0.1000000000001", "-118.45", "+00118.45", "+1",
        ]).prop_map(str::to_owned),
    ]
}

fn location() -> impl Strategy<Value = String> {
    (latitude(), longitude()).prop_map(|(latitude, longitude)| latitude + &longitude)
}

fn position() -> impl Strategy<Value = Position> {
    location().prop_map(|text| Position::parse(text.as_bytes()).expect("a location"))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..CLIENTS, location()).prop_map(|(client, location)| Step::Report(client, location)),
        1 => (0..CLIENTS).prop_map(Step::Forget),
        1 => (0..CLIENTS, location()).prop_map(|(client, location)| Step::Old(client, location)),
    ];
    prop::collection::vec(step, 0..150)
}

fn client(number: u8) -> Vec<u8> {
    format!("client-{number}").into_bytes()
}

/// Makes a replica in which the records of [`Step::Old`] have expired.
fn replica(steps: &[Step]) -> Replica {
    let now = NOW.as_nanos();
    let replica = Replica::new("Ball", 1, 10_000_000);
    for (number, step) in steps.iter().enumerate() {
        let number = number as u64;
        match step {
            Step::Report(id, location) => store(&replica, &client(*id), location, now / 2 + number),
            Step::Old(id, location) => store(&replica, &client(*id), location, 1 + number),
            Step::Forget(id) => {
                replica.forget(&client(*id), Timestamp::from_nanos(now / 2 + number));
            }
        }
    }
    replica.set_forget_after(Some(Duration::from_nanos(now - now / 4)));
    replica
}

fn radius() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(1e-9),
        0.0..0.01,
        0.0..3.0,
        0.0..60.0,
        0.0..2_000.0,
        20_000.0..=20_016.0,
        Just(20_016.0),
    ]
}

fn bound() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 1..6usize, Just(1_001)]
}

proptest! {
    #[test]
    fn the_nearest_are_those_of_brute_force(
        steps in steps(), center in position(), radius_km in radius(), bound in bound(),
        left_out in prop::option::of(0..CLIENTS),
    ) {
        let left_out = left_out.map(client);
        let circle = Circle { center, radius_km };
        check_nearby(&replica(&steps), &circle, bound, left_out.as_deref());
    }

    #[test]
    fn those_in_a_box_are_those_of_brute_force(
        steps in steps(), one in position(), other in position(), bound in bound(),
    ) {
        let rectangle = Rectangle {
            south: one.latitude.min(other.latitude),
            west: one.longitude,
            north: one.latitude.max(other.latitude),
            east: other.longitude,
        };
        check_within(&replica(&steps), &rectangle, bound);
    }
}

/// A replica with clients in two towns, around the pole, at the antimeridian and anywhere.
fn crowded(clients: u32) -> Replica {
    let mut random = fastrand::Rng::with_seed(15);
    let replica = Replica::new("Ball", 1, 10_000_000);
    for number in 0..clients {
        let near = |random: &mut fastrand::Rng, middle: f64, most: f64| {
            (middle + (random.f64() - 0.5) * 0.3).min(most)
        };
        let (latitude, longitude) = match number % 10 {
            0..6 => (
                near(&mut random, 34.07, 90.0),
                near(&mut random, -118.45, 180.0),
            ),
            6 => (34.07, -118.45),
            7 => (near(&mut random, 89.9, 90.0), random.f64() * 360.0 - 180.0),
            8 => (
                near(&mut random, 0.0, 90.0),
                near(&mut random, 179.95, 180.0),
            ),
            _ => (random.f64() * 180.0 - 90.0, random.f64() * 360.0 - 180.0),
        };
        let digits = random.usize(3..9);
        let location = format!("{latitude:+.digits$}{longitude:+.digits$}");
        store(
            &replica,
            format!("client-{number}").as_bytes(),
            &location,
            1 + u64::from(number),
        );
    }
    replica
}

fn at(latitude: f64, longitude: f64) -> Position {
    Position {
        latitude,
        longitude,
    }
}

#[test]
fn searches_among_many_are_exact() {
    let replica = crowded(4_000);
    for center in [
        at(34.07, -118.45),
        at(34.2, -118.3),
        at(90.0, 0.0),
        at(89.95, -77.0),
        at(0.0, 180.0),
        at(0.01, -179.99),
        at(12.0, 34.0),
    ] {
        for radius_km in [0.001, 1.0, 10.0, 50.0, 700.0, 20_016.0] {
            let circle = Circle { center, radius_km };
            for bound in [20, 1_000] {
                check_nearby(&replica, &circle, bound, None);
            }
        }
        for size in [0.01, 0.5, 20.0] {
            let rectangle = Rectangle {
                south: center.latitude - size,
                west: (center.longitude - size + 540.0).rem_euclid(360.0) - 180.0,
                north: (center.latitude + size).min(90.0),
                east: (center.longitude + size + 540.0).rem_euclid(360.0) - 180.0,
            };
            for bound in [1, 1_000, 100_000] {
                check_within(&replica, &rectangle, bound);
            }
        }
    }
}
