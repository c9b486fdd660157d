//! Points, cells and covers against floats and distances.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::model::geo::Position;

fn at(latitude: f64, longitude: f64) -> Position {
    Position {
        latitude,
        longitude,
    }
}

#[track_caller]
fn check_point(text: &str, expected: Option<(u32, u32)>) {
    let got = Point::parse(text.as_bytes());
    let got = got.map(|point| (point.latitude, point.longitude));
    assert_eq!(got, expected, "{text}");
}

#[test]
fn a_location_becomes_fixed_point() {
    let middle = (90 * UNITS, 180 * UNITS);
    check_point("+0+0", Some(middle));
    check_point("-0-0.000", Some(middle));
    check_point("+0000.00000009-0.00000009", Some(middle));
    check_point("+34.068930-118.445127", Some((1_240_689_300, 615_548_730)));
    check_point(
        "+00000034.06893000000000-118",
        Some((1_240_689_300, 620_000_000)),
    );
    check_point("+90+179.9999999", Some((180 * UNITS, AROUND - 1)));
    check_point("-90.0-179.9999999", Some((0, 1)));
}

#[test]
fn both_meridians_of_180_degrees_are_one() {
    check_point("+0+180", Some((90 * UNITS, 0)));
    check_point("+0-180.000", Some((90 * UNITS, 0)));
}

#[test]
fn other_texts_are_no_points() {
    for text in ["", "+", "+1", "1", "+91+0", "-0-181"] {
        check_point(text, None);
    }
}

proptest! {
    #[test]
    fn points_and_positions_are_read_from_the_same_texts(
        text in "[+-][0-9]{0,3}(90|180)?(\\.0{0,12}[0-9]{0,9})?[+-][0-9]{0,3}(90|180)?(\\.0{0,12}[0-9]{0,9})?",
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(b"+-.0189/:e \xb0\xff".to_vec()),
    ) {
        let mut changed = text.clone().into_bytes();
        let at = at.index(changed.len());
        changed[at] = byte;
        for text in [text.as_bytes(), &changed] {
            let (point, position) = (Point::parse(text), Position::parse(text));
            prop_assert_eq!(point.is_some(), position.is_some(), "{}", text.escape_ascii());
            if let (Some(point), Some(position)) = (point, position) {
                let units = |degrees: f64| degrees * f64::from(UNITS);
                let latitude = f64::from(point.latitude) - units(position.latitude + 90.0);
                let longitude = f64::from(point.longitude) - units(position.longitude + 180.0);
                let longitude = longitude.abs().min(f64::from(AROUND) - longitude.abs());
                let error = f64::from(ERROR_UNITS) + 1e-5;
                prop_assert!(latitude.abs() <= error && longitude <= error);
            }
        }
    }
}

#[test]
fn cells_are_about_as_wide_as_high() {
    for row in 0..ROWS {
        let edges = [row, row + 1].map(|edge| {
            let degrees = f64::from(edge * CELL_UNITS) / f64::from(UNITS) - 90.0;
            degrees.to_radians().cos()
        });
        let width = f64::from(1 << halvings(row));
        let [least, most] = [
            edges[0].min(edges[1]) * width,
            edges[0].max(edges[1]) * width,
        ];
        assert!(most > 0.5 && least < 1.001, "row {row}: {least} to {most}");
        assert_eq!(
            Cell::new(row, columns(row) - 1),
            Point {
                latitude: row * CELL_UNITS,
                longitude: AROUND - 1,
            }
            .cell()
        );
    }
    assert_eq!(
        [columns(0), columns(ROWS / 2), columns(ROWS - 1)],
        [8, 7200, 8]
    );
}

/// The cells of a cover, each of which must be there once.
fn cells(cover: &Cover) -> HashSet<Cell> {
    let cells: Vec<Cell> = cover.iter().collect();
    let different: HashSet<Cell> = cells.iter().copied().collect();
    assert_eq!([different.len(), cover.len()], [cells.len(); 2]);
    different
}

#[test]
fn a_small_area_has_few_cells_everywhere() {
    for latitude in [
        0.0, 34.07, 59.93, 60.01, 75.5, 84.3, 89.0, 89.95, 90.0, -90.0, -89.93,
    ] {
        for longitude in [0.0, 12.34, 179.99, 180.0, -180.0] {
            let circle = Circle {
                center: at(latitude, longitude),
                radius_km: 10.0,
            };
            let cover = Cover::of_circle(&circle, 4_096).expect("a small cover");
            assert!(
                (1..=64).contains(&cells(&cover).len()),
                "{latitude} {longitude}: {}",
                cover.len()
            );
        }
    }
}

#[test]
fn an_area_of_too_many_cells_has_no_cover() {
    let circle = |radius_km| Circle {
        center: at(10.0, 20.0),
        radius_km,
    };
    let cover = Cover::of_circle(&circle(80.0), 1_024).expect("a cover");
    assert!(Cover::of_circle(&circle(80.0), cover.len() - 1).is_none());
    assert!(Cover::of_circle(&circle(20_016.0), 4_096).is_none());
    let all = Cover::of_circle(&circle(20_016.0), usize::MAX).expect("a cover of the earth");
    assert_eq!(all.len() as u32, (0..ROWS).map(columns).sum::<u32>());
    let earth = Rectangle {
        south: -90.0,
        west: -180.0,
        north: 90.0,
        east: 180.0,
    };
    assert!(Cover::of_rectangle(&earth, 4_096).is_none());
    let cover = Cover::of_rectangle(&earth, usize::MAX).expect("a cover of the earth");
    assert_eq!(cover.len(), all.len());
    let nowhere = Rectangle {
        south: 1.0,
        north: 0.0,
        ..earth
    };
    assert_eq!(
        Cover::of_rectangle(&nowhere, 0).map(|cover| cover.len()),
        Some(0)
    );
}

/// Returns whether a cover has a cell, without making them all.
fn has(cover: &Cover, cell: Cell) -> bool {
    cover.spans.iter().any(|span| {
        let columns = columns(span.row);
        let column = cell.0.wrapping_sub(Cell::new(span.row, 0).0);
        column < columns && (column + columns - span.first) % columns < span.cells
    })
}

fn latitude() -> impl Strategy<Value = f64> {
    prop_oneof![
        -90.0..=90.0,
        Just(90.0),
        Just(-90.0),
        Just(0.0),
        Just(0.1),
        89.8..=90.0,
        -60.1..=-59.9,
    ]
}

fn longitude() -> impl Strategy<Value = f64> {
    prop_oneof![
        -180.0..=180.0,
        Just(180.0),
        Just(-180.0),
        Just(0.1),
        179.8..=180.0,
        -180.0..=-179.8,
    ]
}

fn radius() -> impl Strategy<Value = f64> {
    prop_oneof![0.0..1e-6, 0.0..1.0, 0.0..100.0, 0.0..500.0, 0.0..3_000.0]
}

/// The point that lies `part` of the way from the middle to the edge, in a direction of a full turn.
fn on_the_way(circle: &Circle, part: f64, turn: f64) -> Position {
    let angle = part * circle.radius_km / EARTH_RADIUS_KM;
    let (sin, cos) = circle.center.latitude.to_radians().sin_cos();
    let bearing = turn * std::f64::consts::TAU;
    let sine = (sin * angle.cos() + cos * angle.sin() * bearing.cos()).clamp(-1.0, 1.0);
    let east = (bearing.sin() * angle.sin() * cos).atan2(angle.cos() - sin * sine);
    let longitude = circle.center.longitude + east.to_degrees();
    let longitude = (longitude + 540.0).rem_euclid(360.0) - 180.0;
    at(sine.asin().to_degrees(), longitude)
}

fn text(position: &Position, digits: usize) -> String {
    let Position {
        latitude,
        longitude,
    } = position;
    format!("{latitude:+.digits$}{longitude:+.digits$}")
}

proptest! {
    #[test]
    fn a_cover_has_the_cell_of_every_point_of_its_circle(
        latitude in latitude(), longitude in longitude(), radius_km in radius(),
        part in prop_oneof![0.0..=1.0, Just(1.0)], turn in 0.0..=1.0, digits in 0..13usize,
    ) {
        let circle = Circle { center: at(latitude, longitude), radius_km };
        let text = text(&on_the_way(&circle, part, turn), digits);
        let position = Position::parse(text.as_bytes()).expect("a location");
        prop_assume!(circle.contains(&position));
        let cover = Cover::of_circle(&circle, usize::MAX).expect("no limit");
        let cell = Cell::of_location(text.as_bytes()).expect("a location");
        prop_assert!(has(&cover, cell), "{circle:?} {text}");
    }

    #[test]
    fn a_cover_has_the_cell_of_every_point_of_its_box(
        south in latitude(), north in latitude(), west in longitude(), east in longitude(),
        latitude in latitude(), longitude in longitude(), part in 0.0..=1.0, choice in 0..4, digits in 0..13usize,
    ) {
        let rectangle = Rectangle { south: south.min(north), west, north: south.max(north), east };
        let latitude = match choice {
            0 => latitude,
            1 => rectangle.south,
            2 => rectangle.north,
            _ => rectangle.south + part * (rectangle.north - rectangle.south),
        };
        let longitude = match choice {
            0 => longitude,
            1 => west,
            2 => east,
            _ => west + part * (east - west),
        };
        let text = text(&at(latitude, longitude), digits);
        let position = Position::parse(text.as_bytes()).expect("a location");
        prop_assume!(rectangle.contains(&position));
        let cover = Cover::of_rectangle(&rectangle, usize::MAX).expect("no limit");
        let cell = Cell::of_location(text.as_bytes()).expect("a location");
        prop_assert!(has(&cover, cell), "{rectangle:?} {text}");
    }
}
