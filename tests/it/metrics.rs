//! Metrics of real servers: the rules of their text, and that each thing that happens is counted once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::http;
use crate::support::{Client, PATIENCE, alone, alone_with, atlas, config, free_ring, report};
use herd::config::topology::Address;
use herd::config::{Ack, Config, HttpConfig, PoolKind};
use herd::places::Places;
use herd::places::failure::Failure;
use herd::places::remote::{Remote, Settings};
use herd::places::upstream::{Request, Upstream};
use herd::server::{Server, Sockets};

/// Has a server open its HTTP port.
fn open_http(config: &mut Config) {
    config.http = Some(HttpConfig {
        address: Address::parse_local("0").unwrap(),
        is_optional: false,
        hosts: Vec::new(),
    });
}

/// Returns the text of a server's metrics.
#[track_caller]
fn metrics(server: &Server) -> String {
    let answer = http::get(server.http_address().unwrap(), "/metrics");
    let text = answer.text().to_owned();
    let kind = answer.field("Content-Type");
    assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
    text
}

/// Values by the sample's name and labels, as they are written.
type Samples = BTreeMap<String, f64>;

/// Reads a text, and checks the rules of the format by the way.
#[track_caller]
fn parse(text: &str) -> Samples {
    assert!(text.ends_with('\n'));
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let mut family = ("", "");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!help.is_empty() && families.insert(name), "{line}");
            let kind = lines.next().unwrap();
            let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            family = (name, kind);
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap();
        let name = key.split('{').next().unwrap();
        let suffix = name.strip_prefix(family.0).unwrap();
        match family.1 {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert!(
            samples.insert(key.to_owned(), value).is_none(),
            "{line} twice"
        );
    }
    for name in text
        .lines()
        .filter_map(|line| line.strip_suffix(" histogram"))
    {
        let name = name.strip_prefix("# TYPE ").unwrap();
        let prefix = format!("{name}_bucket{{le=\"");
        let bound = |key: &str| match key.strip_prefix(&prefix)?.strip_suffix("\"}")? {
            "+Inf" => Some(f64::INFINITY),
            bound => bound.parse::<f64>().ok(),
        };
        let mut buckets: Vec<_> = samples
            .iter()
            .filter_map(|(key, value)| Some((bound(key)?, *value)))
            .collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.is_sorted_by_key(|bucket| bucket.1), "{buckets:?}");
        let (last, count) = buckets.last().unwrap();
        assert_eq!(
            (*last, *count),
            (f64::INFINITY, samples[&format!("{name}_count")])
        );
    }
    samples
}

/// Has Prometheus' own tool judge a text. It is found by the environment variable `PROMTOOL` or in `PATH`.
fn check_by_promtool(text: &str) {
    static SKIPPED: std::sync::Once = std::sync::Once::new();
    let program = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    let tool = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else {
        // Past the test harness, which hides the output of a test that passes. `./test.sh` looks for it.
        SKIPPED.call_once(|| {
            let reason = "promtool is not installed";
            let _ = writeln!(
                std::io::stderr(),
                "skipped: the check of the metrics: {reason}"
            );
        });
        return;
    };
    tool.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Repeats a scrape until `holds`.
#[track_caller]
fn await_samples(server: &Server, holds: impl Fn(&Samples) -> bool) -> Samples {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = metrics(server);
        let samples = parse(&text);
        if holds(&samples) {
            return samples;
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::yield_now();
    }
}

#[track_caller]
fn check(samples: &Samples, expected: &[(&str, f64)]) {
    for (key, value) in expected {
        assert_eq!(samples.get(*key), Some(value), "{key} in {samples:#?}");
    }
}

/// Sum of all samples of a family.
fn total(samples: &Samples, family: &str) -> f64 {
    let is_its = |key: &&String| key.split('{').next() == Some(family);
    samples.keys().filter(is_its).map(|key| samples[key]).sum()
}

#[test]
fn each_line_is_counted_once_by_command_and_outcome() {
    for pool in [PoolKind::Shared, PoolKind::Dedicated] {
        let server = alone(|config| {
            open_http(config);
            (config.pool, config.max_records) = (pool, 2);
        });
        let fresh = parse(&metrics(&server));
        check(
            &fresh,
            &[(
                "herd_requests_total{command=\"iamat\",outcome=\"stored\"}",
                0.0,
            )],
        );
        assert_eq!(total(&fresh, "herd_requests_total"), 0.0);
        let mut client = Client::connect(server.client_address());
        let kiwi = report("kiwi", "+34.0-118.4");
        let lines = [
            &kiwi,
            &kiwi,
            &report("moa", "+1+1"),
            &report("one-too-many", "+1+1"),
            "IAMAT kiwi +1+1 99999999999999999",
            "IAMAT kiwi +1+1 9999999999",
            "IAMAT kiwi +91+1 1",
            "IAMAT kiwi",
            "WHATSAT kiwi",
            "WHATSAT kiwi 51 1",
            "WHATSAT kiwi 1 21",
            "WHATSAT emu 1 1",
            "hello",
            "",
        ];
        for line in lines {
            client.send(format!("{line}\n"));
            client.line();
        }
        assert!(client.whatsat("kiwi").starts_with("AT "));
        let expected = [
            ("iamat", "stored", 2.0),
            ("iamat", "not_newer", 1.0),
            ("iamat", "full", 1.0),
            ("iamat", "bad_time", 1.0),
            ("iamat", "too_far_ahead", 1.0),
            ("iamat", "bad_location", 1.0),
            ("iamat", "field_count", 1.0),
            ("whatsat", "field_count", 1.0),
            ("whatsat", "bad_radius", 1.0),
            ("whatsat", "bad_bound", 1.0),
            ("whatsat", "unknown_client", 1.0),
            ("whatsat", "answered", 1.0),
            ("other", "unknown_command", 2.0),
        ];
        let turns = (lines.len() + 1) as f64;
        let samples = await_samples(&server, |samples| {
            samples["herd_turn_seconds_count"] >= turns
        });
        for (command, outcome, count) in expected {
            let key = format!("herd_requests_total{{command=\"{command}\",outcome=\"{outcome}\"}}");
            check(&samples, &[(&key, count)]);
        }
        assert_eq!(total(&samples, "herd_requests_total"), turns);
        check(
            &samples,
            &[
                ("herd_turn_seconds_count", turns),
                ("herd_clients", 1.0),
                ("herd_records", 2.0),
                ("herd_records_total{source=\"client\"}", 2.0),
                (
                    "herd_connections_total{door=\"client\",outcome=\"accepted\"}",
                    1.0,
                ),
                (
                    "herd_places_calls_total{provider=\"atlas\",outcome=\"ok\"}",
                    1.0,
                ),
            ],
        );
        // A worker of the dedicated pool is its client's as long as that is connected.
        let busy = f64::from(u8::from(pool == PoolKind::Dedicated));
        await_samples(&server, |samples| samples["herd_workers_busy"] == busy);
        drop(client);
        await_samples(&server, |samples| {
            samples["herd_workers_busy"] == 0.0 && samples["herd_clients"] == 0.0
        });
        check_by_promtool(&metrics(&server));
        server.stop();
    }
}

#[test]
fn states_and_rejections_are_shown() {
    let server = alone(|config| {
        open_http(config);
        (config.max_clients, config.max_records) = (Some(1), 1);
    });
    let ok = "herd_state{state=\"ok\"}";
    let states = |samples: &Samples| total(samples, "herd_state");
    await_samples(&server, |samples| {
        samples[ok] == 1.0 && states(samples) == 1.0
    });
    let mut client = Client::connect(server.client_address());
    assert!(client.ask(&report("kiwi", "+1+1")).starts_with("AT "));
    let mut second = Client::connect(server.client_address());
    assert_eq!(second.line(), "? server full");
    let samples = await_samples(&server, |samples| {
        samples["herd_state{state=\"full\"}"] == 1.0
            && samples["herd_state{state=\"refusing clients\"}"] == 1.0
    });
    assert_eq!((samples[ok], states(&samples)), (0.0, 2.0));
    check(
        &samples,
        &[
            (
                "herd_connections_total{door=\"client\",outcome=\"accepted\"}",
                1.0,
            ),
            (
                "herd_connections_total{door=\"client\",outcome=\"at_capacity\"}",
                1.0,
            ),
        ],
    );
    // A stranger at the peer port.
    let mut stranger = Client::connect(server.peer_address());
    stranger.send(b"GET / HTTP/1.1\r\n\r\n".repeat(20));
    let refused = |samples: &Samples| {
        total(samples, "herd_connections_total")
            - samples["herd_connections_total{door=\"client\",outcome=\"accepted\"}"]
            - samples["herd_connections_total{door=\"client\",outcome=\"at_capacity\"}"]
    };
    let samples = await_samples(&server, |samples| refused(samples) > 0.0);
    check(
        &samples,
        &[(
            "herd_connections_total{door=\"peer\",outcome=\"accepted\"}",
            0.0,
        )],
    );
    server.stop();
}

#[test]
fn links_the_flood_and_the_journal_are_counted() {
    let (_, sockets) = free_ring();
    let sockets: Vec<_> = sockets.into_iter().take(2).collect();
    let line = |name: &str, sockets: &Sockets, other: &str| {
        let client = sockets.clients.local_addr().unwrap();
        let peer = sockets.peers.local_addr().unwrap();
        format!("{name} {client} {peer} {other}\n")
    };
    let text = line("Alford", &sockets[0], "Ball") + &line("Ball", &sockets[1], "Alford");
    let data = std::env::temp_dir().join(format!("herd-metrics-{}", std::process::id()));
    let mut sockets = sockets.into_iter();
    let mut config_of = |name: &str, data: Option<&std::path::Path>| {
        let mut config = config(&text, name);
        open_http(&mut config);
        (config.data_dir, config.ack) = (data.map(Into::into), Ack::Disk);
        (config, sockets.next().unwrap())
    };
    let (alford, alfords) = config_of("Alford", Some(&data));
    let (ball, balls) = config_of("Ball", None);
    let first = Server::start(&alford, alfords, atlas()).unwrap();
    let second = Server::start(&ball, balls, atlas()).unwrap();
    for (server, neighbor) in [(&first, "Ball"), (&second, "Alford")] {
        let [up, lag] = ["up", "lag_seconds"]
            .map(|name| format!("herd_link_{name}{{neighbor=\"{neighbor}\"}}"));
        let resyncs = format!("herd_link_resyncs_total{{neighbor=\"{neighbor}\"}}");
        await_samples(server, |samples| {
            samples[&up] == 1.0 && samples.contains_key(&lag) && samples[&resyncs] == 1.0
        });
    }
    let before = parse(&metrics(&first));
    let mut client = Client::connect(first.client_address());
    let names = client.report_all("flooded", 100);
    let adopted = "herd_records_total{source=\"neighbor\"}";
    let samples = await_samples(&second, |samples| samples[adopted] == names.len() as f64);
    check(
        &samples,
        &[
            ("herd_records", 100.0),
            ("herd_records_total{source=\"client\"}", 0.0),
            ("herd_flood_delay_seconds_count", 100.0),
            ("herd_journal_bytes_total", 0.0),
            ("herd_journal_size_bytes", 0.0),
            ("herd_outbox_bytes{neighbor=\"Alford\"}", 0.0),
            (
                "herd_connections_total{door=\"peer\",outcome=\"accepted\"}",
                1.0,
            ),
        ],
    );
    let delay = samples["herd_flood_delay_seconds_sum"] / 100.0;
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&delay), "{delay}");
    let received = samples["herd_link_bytes_total{neighbor=\"Alford\",direction=\"received\"}"];
    assert!(received > 100.0 * 40.0, "{received}");
    let after = parse(&metrics(&first));
    let grown = |key: &str| after[key] - before[key];
    let sent = grown("herd_link_bytes_total{neighbor=\"Ball\",direction=\"sent\"}");
    assert!(sent > 100.0 * 40.0, "{sent}");
    let bytes = grown("herd_journal_bytes_total");
    assert!(bytes > 100.0 * 20.0, "{bytes}");
    assert_eq!(grown("herd_journal_size_bytes"), bytes);
    assert!(grown("herd_sync_seconds_count") > 0.0);
    check_by_promtool(&metrics(&second));
    drop(client);
    first.stop();
    await_samples(&second, |samples| {
        samples["herd_link_up{neighbor=\"Alford\"}"] == 0.0
    });
    second.stop();
    // The records of the journal are read again.
    let again = alone(|config| {
        open_http(config);
        config.data_dir = Some(data.clone());
    });
    check(
        &parse(&metrics(&again)),
        &[
            ("herd_records_total{source=\"journal\"}", 100.0),
            ("herd_records_total{source=\"client\"}", 0.0),
            ("herd_records", 100.0),
        ],
    );
    again.stop();
    std::fs::remove_dir_all(data).unwrap();
}

/// A provider that fails where the bound is 1.
#[derive(Debug)]
struct Moody;

impl Upstream for Moody {
    fn fetch(&self, request: &Request, _: Duration) -> Result<Vec<u8>, Failure> {
        match format!("{request:?}").contains("bound: 1") {
            true => Err(Failure::Truncated),
            false => Ok(b"{}".to_vec()),
        }
    }

    fn name(&self) -> &'static str {
        "moody"
    }

    fn abort(&self) {}

    fn may_cache(&self) -> bool {
        true
    }
}

#[test]
fn questions_that_a_provider_answers_are_counted_once_by_its_outcome() {
    let settings = Settings {
        workers: 2,
        calls_per_minute: None,
    };
    let places = Remote::start(Box::new(Moody), settings).map(Places::Remote);
    let server = alone_with(places.unwrap(), open_http);
    let mut client = Client::connect(server.client_address());
    assert!(client.ask(&report("kiwi", "+1+1")).starts_with("AT "));
    // The second is answered from the cache, and the last without a search.
    for bound in [2, 2, 1, 0] {
        client.send(format!("WHATSAT kiwi 10 {bound}\n"));
        while !client.line().is_empty() {}
    }
    let calls =
        |outcome| format!("herd_places_calls_total{{provider=\"moody\",outcome=\"{outcome}\"}}");
    let samples = parse(&metrics(&server));
    check(
        &samples,
        &[
            (
                "herd_requests_total{command=\"whatsat\",outcome=\"answered\"}",
                3.0,
            ),
            (
                "herd_requests_total{command=\"whatsat\",outcome=\"places_failed\"}",
                1.0,
            ),
            (&calls("ok"), 1.0),
            (&calls("cached"), 1.0),
            (&calls("truncated"), 1.0),
            (&calls("suspended"), 0.0),
        ],
    );
    assert_eq!(total(&samples, "herd_places_calls_total"), 3.0);
    check_by_promtool(&metrics(&server));
    drop(client);
    server.stop();
}
