//! A page made from rows that are known.

use super::*;
use crate::run::record::{Cell, Record, figure};

const SCENARIO: &str = r#"
about = "A test."
kind = "load"
rounds = 3
variants = [{ name = "herd" }, { name = "herd-dedicated" }, { name = "tokio" }, { name = "node" }]
connections = [8, 64]
[[targets]]
what = "throughput against tokio"
metric = "throughput"
of = "herd"
to = "tokio"
at-least = 1.1
[[targets]]
what = "throughput against node"
metric = "throughput"
of = "herd"
to = "node"
at-least = 1.5
connections = [64]
[[targets]]
what = "latency"
metric = "latency_p99"
of = "herd"
at-most = 200_000.0
connections = [8]
"#;

#[test]
fn a_page_tells_targets_losses_and_voids() {
    let folder = std::env::temp_dir().join(format!("herd-bench-summary-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("test.toml"), SCENARIO).expect("a scenario");
    let scenarios = crate::run::scenario::read(&folder, &[], false).expect("a scenario");
    let scenario = &scenarios[0];
    let mut record = Record::create(&folder.join("results.csv")).expect("a record");
    // Connections, variant, throughput of the rounds.
    for (connections, name, rounds) in [
        (8, "herd", [100.0, 60.0, 115.0]),
        (8, "herd-dedicated", [50.0, 25.0, 50.0]),
        (8, "tokio", [100.0, 50.0, 100.0]),
        (64, "herd", [90.0, 80.0, 45.0]),
        (64, "tokio", [100.0, 100.0, 50.0]),
    ] {
        let points = scenario.points();
        let point = points.iter().find(|point| point.connections == connections);
        let entry = scenario.variants.iter().find(|entry| entry.name == name);
        for (round, value) in rounds.into_iter().enumerate() {
            let cell = Cell {
                scenario,
                point: point.expect("a point"),
                entry: entry.expect("a variant"),
                round: round + 1,
                rate: None,
            };
            let figures = vec![
                figure("throughput", value * 1e3),
                figure("latency_p99", 250e3),
            ];
            record.add(&cell, Ok(figures)).expect("rows");
            if name == "tokio" && connections == 8 && round == 0 {
                let node = Cell {
                    point: &points[1],
                    entry: &scenario.variants[3],
                    ..cell
                };
                let error = "a wrong reply\n    got  `x|y`".to_owned();
                record.add(&node, Err(error)).expect("a void row");
            }
        }
    }
    let left_out = BTreeMap::from([("twisted".to_owned(), "no Python".to_owned())]);
    let text = Summary {
        title: "test",
        quick: false,
        machine: &[("cores", "2".to_owned())],
        scenarios: &scenarios,
        rows: &record.rows,
        left_out: &left_out,
    }
    .text();
    for expected in [
        "- cores: 2\n",
        "- twisted: no Python\n",
        "| test | throughput against tokio | 8 conn., depth 1 | ≥ 1.10 | 1.15 | 1.07 to 1.17 | 1.00 to 1.20 (3) | 0.50 | held |\n",
        "| test | throughput against tokio | 64 conn., depth 1 | ≥ 1.10 | 0.90 | 0.85 to 0.90 | 0.80 to 0.90 (3) |  | **missed** |\n",
        "| test | throughput against node | 64 conn., depth 1 | ≥ 1.50 | | | | | void: node: a wrong reply got `x\\|y` |\n",
        "| test | latency | 8 conn., depth 1 | ≤ 200 µs | 250 µs |",
        "- test, tokio's throughput: 0.90 at 64 conn., depth 1 (0.85 to 0.90)\n",
        "- test, tokio's throughput: 1.15 at 8 conn., depth 1 (1.07 to 1.17)\n",
        "0 comparisons are level",
        "- test, node, 64 conn., depth 1: a wrong reply",
        "| throughput | herd | herd-dedicated | tokio | node |\n",
        "| 64 conn., depth 1 | 80,000 /s |  | 100,000 /s | void |\n",
    ] {
        assert!(text.contains(expected), "{expected}\nis not in\n{text}");
    }
    assert!(text.find("loses").expect("losses") < text.find("0.90 at 64").expect("a loss"));
    let csv = std::fs::read_to_string(folder.join("results.csv")).expect("the rows");
    assert!(
        csv.contains("\ntest,herd,1,8,1,,,0,10000,throughput,100000,1/s,\n"),
        "{csv}"
    );
    assert!(
        csv.contains("test,node,1,64,1,,,0,10000,void,1,,a wrong reply got `x|y`\n"),
        "{csv}"
    );
    std::fs::remove_dir_all(&folder).expect("the folder");
}
