//! Points and figures as people read them.

use crate::figures::{duration, grouped};
use crate::run::point::Point;
use crate::run::scenario::{Kind, Scenario};

/// A figure with its unit.
pub(super) fn shown(value: f64, unit: &str) -> String {
    let rounded = value.abs().round() as u64;
    let sign = if value < 0.0 && rounded > 0 { "-" } else { "" };
    match unit {
        "ns" => duration(value),
        "1/s" => format!("{} /s", grouped(rounded)),
        "bytes" if rounded >= 1 << 20 => format!("{sign}{:.1} MiB", value.abs() / 1_048_576.0),
        "bytes" => format!("{sign}{} B", grouped(rounded)),
        "cores" => format!("{:.1} %", value * 100.0),
        _ => format!("{sign}{}", grouped(rounded)),
    }
}

/// A ratio with two decimals.
pub(crate) fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

/// What tells a point from the others of its scenario.
pub(crate) fn point_words(scenario: &Scenario, point: &Point) -> String {
    let mut words = Vec::new();
    match scenario.kind {
        Kind::Load => words.push(format!("{} conn.", grouped(point.connections as u64))),
        Kind::Fill | Kind::CatchUp => {
            words.push(format!("{} clients", grouped(scenario.clients as u64)));
        }
        Kind::Flood if point.fraction.is_none() => words.push("idle".to_owned()),
        Kind::Flood => {}
        Kind::Churn => words.push(format!("{} conn.", grouped(scenario.count))),
        Kind::Full => {}
    }
    match point.fraction {
        Some(fraction) => words.push(format!("{:.0} % of capacity", fraction * 100.0)),
        None if scenario.kind == Kind::Load => words.push(format!("depth {}", point.depth)),
        None => {}
    }
    if let Some(workers) = point.workers {
        words.push(format!("{} workers", grouped(workers as u64)));
    }
    if point.idle > 0 {
        words.push(format!("{} idle", grouped(point.idle as u64)));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_their_units() {
        for (value, unit, expected) in [
            (7_421.0, "ns", "7.42 µs"),
            (123_456.4, "1/s", "123,456 /s"),
            (265.0, "bytes", "265 B"),
            (-4096.0, "bytes", "-4,096 B"),
            (210.0 * 1_048_576.0, "bytes", "210.0 MiB"),
            (0.042, "cores", "4.2 %"),
            (3.0, "", "3"),
            (-0.2, "", "0"),
        ] {
            assert_eq!(shown(value, unit), expected);
        }
    }
}
