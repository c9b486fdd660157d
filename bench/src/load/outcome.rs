//! The result of a run, as text for people and as a row for tables.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Plan;
use super::engine::Measured;
use crate::csv::optional;
use crate::figures::{duration, grouped};

/// A result as aligned lines.
pub(crate) fn text(plan: &Plan, measured: &Measured) -> String {
    let options = &plan.options;
    let mut out = String::new();
    if !options.label.is_empty() {
        out += &format!("label       {}\n", options.label);
    }
    let load = match options.rate {
        Some(rate) => format!("open loop, {} /s", grouped(rate as u64)),
        None => format!("closed loop, depth {}", plan.depth),
    };
    out += &format!(
        "address     {}\nload        {} connections, {} idle, {load}\n",
        options.address,
        grouped(options.connections as u64),
        grouped(options.idle as u64)
    );
    if options.drip + options.deaf > 0 {
        out += &format!(
            "beside      {} that drip, {} that never read; closed {} times\n",
            grouped(options.drip as u64),
            grouped(options.deaf as u64),
            grouped(measured.dropped)
        );
    }
    let at = |quantile: f64| duration(measured.latency.value_at_quantile(quantile) as f64);
    out += &format!(
        "requests    {} clients, {} % WHATSAT, {} % NEARBY (radius {}, bound {})\n\
         replies     {} /s: {} in {:.2} s, all right\n\
         latency     p50 {}, p90 {}, p99 {}, p99.9 {}, worst {}\n",
        grouped(plan.clients as u64),
        options.whatsat,
        options.nearby,
        options.radius,
        options.bound,
        grouped((measured.replies as f64 / measured.seconds) as u64),
        grouped(measured.replies),
        measured.seconds,
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        duration(measured.latency.max() as f64)
    );
    let cores = |nanos: u64| nanos as f64 / 1e9 / measured.seconds;
    if let Some(cpu) = measured.server_cpu_nanos {
        out += &format!(
            "server CPU  {} a request, {:.2} cores\n",
            duration(cpu as f64 / measured.replies.max(1) as f64),
            cores(cpu)
        );
    }
    if let Some(kib) = measured.server_kib {
        let [before, connected, end] = kib.map(grouped);
        out += &format!(
            "server RSS  {before} KiB before, {connected} KiB connected, {end} KiB at the end\n"
        );
    }
    out += &format!("generator   {:.2} cores", cores(measured.own_cpu_nanos));
    if options.rate.is_some() {
        out += &format!(
            ", requests left p99 {} late, worst {}",
            duration(measured.lateness.value_at_quantile(0.99) as f64),
            duration(measured.lateness.max() as f64)
        );
    }
    out + "\n"
}

/// A result as named cells.
pub(crate) fn cells(plan: &Plan, measured: &Measured) -> Vec<(&'static str, String)> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let latency = &measured.latency;
    let options = &plan.options;
    let replies = measured.replies.max(1) as f64;
    let cores = |nanos: u64| format!("{:.3}", nanos as f64 / 1e9 / measured.seconds);
    let cpu = measured.server_cpu_nanos;
    let kib = |index: usize| optional(measured.server_kib.map(|kib| kib[index]));
    let at = |quantile: f64| latency.value_at_quantile(quantile).to_string();
    let late = (options.rate.is_some()).then(|| measured.lateness.value_at_quantile(0.99));
    let rate = measured.replies as f64 / measured.seconds;
    vec![
        ("unix_time", since_epoch.as_secs().to_string()),
        ("label", options.label.clone()),
        ("address", options.address.clone()),
        ("connections", options.connections.to_string()),
        ("idle", options.idle.to_string()),
        ("drip", options.drip.to_string()),
        ("deaf", options.deaf.to_string()),
        (
            "depth",
            optional(options.rate.is_none().then_some(plan.depth)),
        ),
        ("rate", optional(options.rate)),
        ("clients", plan.clients.to_string()),
        ("whatsat_percent", options.whatsat.to_string()),
        ("nearby_percent", options.nearby.to_string()),
        ("radius", options.radius.clone()),
        ("bound", options.bound.to_string()),
        ("seconds", format!("{:.3}", measured.seconds)),
        ("replies", measured.replies.to_string()),
        ("replies_per_second", format!("{rate:.0}")),
        ("latency_mean_ns", format!("{:.0}", latency.mean())),
        ("latency_p50_ns", at(0.5)),
        ("latency_p90_ns", at(0.9)),
        ("latency_p99_ns", at(0.99)),
        ("latency_p999_ns", at(0.999)),
        ("latency_worst_ns", latency.max().to_string()),
        (
            "server_cpu_ns_per_request",
            optional(cpu.map(|cpu| format!("{:.0}", cpu as f64 / replies))),
        ),
        ("server_cores", optional(cpu.map(cores))),
        ("server_kib_before", kib(0)),
        ("server_kib_connected", kib(1)),
        ("server_kib_end", kib(2)),
        ("generator_cores", cores(measured.own_cpu_nanos)),
        ("late_p99_ns", optional(late)),
    ]
}
