//! Prometheus' text format 0.0.4: families of samples, each family once.

use std::fmt::{Display, Write};

use crate::metrics::{HistogramSnapshot, upper_bound_nanos};

/// Kind of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that rises and falls.
    Gauge,
}

/// A text that grows.
#[derive(Debug)]
pub(super) struct Text(String);

impl Text {
    /// Creates an empty text with room for that number of bytes.
    pub(super) fn with_capacity(bytes: usize) -> Text {
        Text(String::with_capacity(bytes))
    }

    /// Returns the text.
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// Begins a family. `help` is one line without a backslash.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.begin(
            name,
            match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            },
            help,
        );
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Appends a sample of the family that was begun last.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        let mut separator = '{';
        for (label, text) in labels {
            self.put(format_args!("{separator}{label}=\""));
            escape(text, &mut self.0);
            self.0.push('"');
            separator = ',';
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }

    /// Appends a counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help);
        self.sample(name, &[], value);
    }

    /// Appends a gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, Kind::Gauge, help);
        self.sample(name, &[], value);
    }

    /// Appends a histogram in seconds.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &HistogramSnapshot) {
        self.begin(name, "histogram", help);
        let buckets = format!("{name}_bucket");
        let mut count = 0;
        for (bucket, more) in histogram.buckets().iter().enumerate() {
            count += more;
            let bound = match upper_bound_nanos(bucket) {
                Some(nanos) => (nanos as f64 / 1e9).to_string(),
                None => "+Inf".to_owned(),
            };
            self.sample(&buckets, &[("le", &*bound)], count);
        }
        let sum = histogram.sum().as_secs_f64();
        self.sample(&format!("{name}_sum"), &[], sum);
        self.sample(&format!("{name}_count"), &[], count);
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.0.write_fmt(text);
    }
}

/// Appends a label's value as it stands between quotes.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_form_of_the_format() {
        let mut text = Text::with_capacity(0);
        text.gauge("a", "Help.", 1);
        text.family("b_total", Kind::Counter, "More.");
        text.sample("b_total", &[("x", "a\\b\"c\nd"), ("y", "é")], 2);
        text.sample("b_total", &[], 0.25);
        let expected = "# HELP a Help.\n# TYPE a gauge\na 1\n\
            # HELP b_total More.\n# TYPE b_total counter\n\
            b_total{x=\"a\\\\b\\\"c\\nd\",y=\"é\"} 2\nb_total 0.25\n";
        assert_eq!(text.into_string(), expected);
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut histogram = HistogramSnapshot::default();
        for nanos in [500, 2_000, 1_500_000_000, u64::from(u32::MAX) << 8] {
            histogram.observe(nanos);
        }
        let mut text = Text::with_capacity(0);
        text.histogram("h", "Help.", &histogram);
        let text = text.into_string();
        for line in [
            "# TYPE h histogram",
            "h_bucket{le=\"0.000001\"} 1",
            "h_bucket{le=\"0.000002\"} 2",
            "h_bucket{le=\"1.048576\"} 2",
            "h_bucket{le=\"2.097152\"} 3",
            "h_bucket{le=\"134.217728\"} 3",
            "h_bucket{le=\"+Inf\"} 4",
            "h_sum 1101.01163002",
            "h_count 4",
        ] {
            assert!(
                text.lines().any(|one| one.starts_with(line)),
                "{line}: {text}"
            );
        }
    }
}
