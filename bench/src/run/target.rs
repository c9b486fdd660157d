//! What a scenario's figures are wanted to be.

use serde::Deserialize;

use super::point::Point;
use super::statistics::Spread;

/// How far from level two figures may be on a machine that is shared: 0.97 counts as 1.
const NOISE: f64 = 0.03;

/// A wanted figure: of one variant, or of one against another.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Target {
    /// What is wanted, in words.
    pub(crate) what: String,
    pub(crate) metric: String,
    /// Whose figure it is, and whose it is divided by, if it is a ratio.
    pub(crate) of: String,
    pub(crate) to: Option<String>,
    bound: Bound,
    filter: Filter,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Which points it holds for; all, where nothing is said.
#[derive(Clone, Debug, Default)]
struct Filter {
    connections: Vec<usize>,
    depth: Vec<usize>,
    idle: Vec<usize>,
    fraction: Option<f64>,
}

/// A target as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    what: String,
    metric: String,
    of: String,
    to: Option<String>,
    at_least: Option<f64>,
    at_most: Option<f64>,
    #[serde(default)]
    connections: Vec<usize>,
    #[serde(default)]
    depth: Vec<usize>,
    #[serde(default)]
    idle: Vec<usize>,
    fraction: Option<f64>,
}

impl TryFrom<Raw> for Target {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Target, String> {
        let bound = match (raw.at_least, raw.at_most) {
            (Some(least), None) => Bound::AtLeast(least),
            (None, Some(most)) => Bound::AtMost(most),
            _ => return Err("a target has either `at-least` or `at-most`".to_owned()),
        };
        Ok(Target {
            what: raw.what,
            metric: raw.metric,
            of: raw.of,
            to: raw.to,
            bound,
            filter: Filter {
                connections: raw.connections,
                depth: raw.depth,
                idle: raw.idle,
                fraction: raw.fraction,
            },
        })
    }
}

impl Target {
    /// The variants that it is about.
    pub(crate) fn variants(&self) -> impl Iterator<Item = &str> {
        [Some(self.of.as_str()), self.to.as_deref()]
            .into_iter()
            .flatten()
    }

    /// Whether it says anything of a point.
    pub(crate) fn is_for(&self, point: &Point) -> bool {
        let Filter {
            connections,
            depth,
            idle,
            fraction,
        } = &self.filter;
        let among = |list: &[usize], value| list.is_empty() || list.contains(&value);
        among(connections, point.connections)
            && among(depth, point.depth)
            && among(idle, point.idle)
            // Nothing is the fraction of an unloaded server.
            && fraction.is_none_or(|wanted| wanted == point.fraction.unwrap_or(0.0))
    }

    /// What is wanted, as `≥ 1.1` or `≤ 200 µs`; `show` writes a figure.
    pub(crate) fn wanted(&self, show: impl Fn(f64) -> String) -> String {
        match self.bound {
            Bound::AtLeast(least) => format!("≥ {}", show(least)),
            Bound::AtMost(most) => format!("≤ {}", show(most)),
        }
    }

    /// Whether the median of what was measured is as wanted.
    pub(crate) fn judge(&self, measured: &Spread) -> &'static str {
        // Only a ratio of one means that two are level.
        let noise = match self.to {
            Some(_) if self.bound == Bound::AtLeast(1.0) || self.bound == Bound::AtMost(1.0) => {
                NOISE
            }
            _ => 0.0,
        };
        let (held, exactly) = match self.bound {
            Bound::AtLeast(least) => (measured.median >= least - noise, measured.median >= least),
            Bound::AtMost(most) => (measured.median <= most + noise, measured.median <= most),
        };
        match (held, exactly) {
            (true, true) => "held",
            (true, false) => "held (level)",
            _ => "**missed**",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(rest: &str) -> Target {
        let text = format!("what = 'x'\nmetric = 'throughput'\nof = 'herd'\n{rest}");
        toml::from_str(&text).expect("a target")
    }

    #[track_caller]
    fn check(rest: &str, median: f64, expected: &str) {
        let measured = Spread::of(&[median]).expect("a figure");
        assert_eq!(target(rest).judge(&measured), expected, "{rest}: {median}");
    }

    #[test]
    fn figures_are_judged() {
        check("to = 'tokio'\nat-least = 1.0", 1.0, "held");
        check("to = 'tokio'\nat-least = 1.0", 0.98, "held (level)");
        check("to = 'tokio'\nat-least = 1.0", 0.96, "**missed**");
        check("to = 'tokio'\nat-least = 1.1", 1.09, "**missed**");
        check("to = 'tokio'\nat-most = 1.0", 1.02, "held (level)");
        check("to = 'tokio'\nat-most = 1.0", 1.04, "**missed**");
        check("at-most = 1.0", 1.02, "**missed**");
        check("at-least = 40000.0", 41e3, "held");
    }

    #[test]
    fn points_are_chosen() {
        let point = Point {
            connections: 8,
            depth: 16,
            fraction: None,
            workers: None,
            idle: 0,
        };
        assert!(target("at-least = 1.0").is_for(&point));
        assert!(target("at-least = 1.0\nconnections = [8, 64]\ndepth = [16]").is_for(&point));
        assert!(!target("at-least = 1.0\ndepth = [1]").is_for(&point));
        assert!(target("at-least = 1.0\nfraction = 0.0").is_for(&point));
        assert!(!target("at-least = 1.0\nfraction = 0.5").is_for(&point));
    }
}
