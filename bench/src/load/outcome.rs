//! What a run found, as text for people and as a row for tables.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Plan;
use super::engine::Measured;
use crate::figures::{duration, grouped};

/// The latencies that are told, and their names.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// A result as aligned lines.
pub(crate) fn text(plan: &Plan, measured: &Measured) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<12}{value}");
    };
    let replies = measured.replies.max(1) as f64;
    if !plan.label.is_empty() {
        line("label", plan.label.clone());
    }
    line("address", plan.address.clone());
    let load = match plan.rate {
        Some(rate) => format!("open loop, {} /s", grouped(rate as u64)),
        None => format!("closed loop, depth {}", plan.depth),
    };
    line(
        "load",
        format!(
            "{} connections, {} idle, {load}",
            grouped(plan.connections as u64),
            grouped(plan.idle as u64)
        ),
    );
    if plan.drip + plan.deaf > 0 {
        line(
            "beside",
            format!(
                "{} that drip, {} that never read; let go of {} times",
                grouped(plan.drip as u64),
                grouped(plan.deaf as u64),
                grouped(measured.dropped)
            ),
        );
    }
    line(
        "requests",
        format!(
            "{} clients, {} % WHATSAT (radius {}, bound {})",
            grouped(plan.clients as u64),
            plan.whatsat_percent,
            plan.radius,
            plan.bound
        ),
    );
    line(
        "replies",
        format!(
            "{} /s: {} in {:.2} s, all right",
            grouped((measured.replies as f64 / measured.seconds) as u64),
            grouped(measured.replies),
            measured.seconds
        ),
    );
    let latency = &measured.latency;
    let mut shown = String::new();
    for (name, quantile) in QUANTILES {
        let value = latency.value_at_quantile(quantile);
        let _ = write!(shown, "{name} {}, ", duration(value as f64));
    }
    line(
        "latency",
        format!("{shown}worst {}", duration(latency.max() as f64)),
    );
    if let Some(cpu) = measured.server_cpu_nanos {
        line(
            "server CPU",
            format!(
                "{} a request, {:.2} cores",
                duration(cpu as f64 / replies),
                cpu as f64 / 1e9 / measured.seconds
            ),
        );
    }
    if let Some([before, connected, end]) = measured.server_kib {
        line(
            "server RSS",
            format!(
                "{} KiB before, {} KiB connected, {} KiB at the end",
                grouped(before),
                grouped(connected),
                grouped(end)
            ),
        );
    }
    let own = measured.own_cpu_nanos as f64 / 1e9 / measured.seconds;
    let late = if plan.rate.is_some() {
        format!(
            ", requests left p99 {} late, worst {}",
            duration(measured.lateness.value_at_quantile(0.99) as f64),
            duration(measured.lateness.max() as f64)
        )
    } else {
        String::new()
    };
    line("generator", format!("{own:.2} cores{late}"));
    out
}

/// A result as named cells.
pub(crate) fn cells(plan: &Plan, measured: &Measured) -> Vec<(&'static str, String)> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let latency = &measured.latency;
    let optional = |value: Option<String>| value.unwrap_or_default();
    let replies = measured.replies.max(1) as f64;
    let kib = |index: usize| optional(measured.server_kib.map(|kib| kib[index].to_string()));
    let at = |quantile: f64| latency.value_at_quantile(quantile).to_string();
    vec![
        ("unix_time", since_epoch.as_secs().to_string()),
        ("label", plan.label.clone()),
        ("address", plan.address.clone()),
        ("connections", plan.connections.to_string()),
        ("idle", plan.idle.to_string()),
        ("drip", plan.drip.to_string()),
        ("deaf", plan.deaf.to_string()),
        (
            "depth",
            optional(plan.rate.is_none().then(|| plan.depth.to_string())),
        ),
        ("rate", optional(plan.rate.map(|rate| rate.to_string()))),
        ("clients", plan.clients.to_string()),
        ("whatsat_percent", plan.whatsat_percent.to_string()),
        ("radius", plan.radius.clone()),
        ("bound", plan.bound.to_string()),
        ("seconds", format!("{:.3}", measured.seconds)),
        ("replies", measured.replies.to_string()),
        (
            "replies_per_second",
            format!("{:.0}", measured.replies as f64 / measured.seconds),
        ),
        ("latency_mean_ns", format!("{:.0}", latency.mean())),
        ("latency_p50_ns", at(0.5)),
        ("latency_p90_ns", at(0.9)),
        ("latency_p99_ns", at(0.99)),
        ("latency_p999_ns", at(0.999)),
        ("latency_worst_ns", latency.max().to_string()),
        (
            "server_cpu_ns_per_request",
            optional(
                measured
                    .server_cpu_nanos
                    .map(|cpu| format!("{:.0}", cpu as f64 / replies)),
            ),
        ),
        (
            "server_cores",
            optional(
                measured
                    .server_cpu_nanos
                    .map(|cpu| format!("{:.3}", cpu as f64 / 1e9 / measured.seconds)),
            ),
        ),
        ("server_kib_before", kib(0)),
        ("server_kib_connected", kib(1)),
        ("server_kib_end", kib(2)),
        (
            "generator_cores",
            format!(
                "{:.3}",
                measured.own_cpu_nanos as f64 / 1e9 / measured.seconds
            ),
        ),
        (
            "late_p99_ns",
            optional(
                plan.rate
                    .is_some()
                    .then(|| measured.lateness.value_at_quantile(0.99).to_string()),
            ),
        ),
    ]
}
