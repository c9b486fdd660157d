//! Records that are known, written and read again.

use super::*;
use crate::run::record::{Cell, Record, figure};

const SCENARIO: &str = r#"
about = "A test."
kind = "load"
rounds = 3
variants = [{ name = "herd" }, { name = "beside", runs = "herd", idle = 9 }]
connections = [8, 64]
slowest-of = ["herd"]
fraction = [0.5]
[[targets]]
what = "p99 beside"
metric = "latency_p99"
of = "beside"
to = "herd"
at-most = 1.1
connections = [8]
[[targets]]
what = "p99 beside"
metric = "latency_p99"
of = "beside"
to = "herd"
at-most = 1.1
"#;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("herd-bench-compare-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("test.toml"), SCENARIO).expect("a scenario");
        Folder(folder)
    }

    fn scenarios(&self) -> Vec<Scenario> {
        scenario::read(&self.0, &[], false).expect("a scenario")
    }

    /// A record in which the second variant has these multiples of what the first has.
    fn record(&self, ratios: [[f64; 3]; 2], rate: f64) -> Rows {
        let scenarios = self.scenarios();
        let scenario = &scenarios[0];
        let path = self.0.join("results.csv");
        let mut record = Record::create(&path).expect("a record");
        for (point, ratios) in scenario.points().iter().zip(ratios) {
            for (round, ratio) in ratios.into_iter().enumerate() {
                for (entry, ratio) in scenario.variants.iter().zip([1.0, ratio]) {
                    let (round, rate) = (round + 1, Some(rate));
                    let cell = Cell {
                        scenario,
                        point,
                        entry,
                        round,
                        rate,
                    };
                    let figures = vec![figure("latency_p99", ratio * 1e6 * round as f64)];
                    let result = if ratio == 0.0 {
                        Err("wrong, \"x\"".to_owned())
                    } else {
                        Ok(figures)
                    };
                    record.add(&cell, result).expect("rows");
                }
            }
        }
        Rows::read(&path, &scenarios).expect("what was written")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("the folder");
    }
}

#[test]
fn ratios_are_compared_by_their_medians() {
    let folder = Folder::new("medians");
    // The rates of an open loop are each run's own.
    let first = folder.record([[1.0, 9.0, 2.0], [1.0, 1.0, 1.0]], 100.0);
    let second = folder.record([[2.1, 0.1, 2.1], [1.2, 1.2, 1.2]], 200.0);
    let compared = compare(&folder.scenarios(), [&first, &second]);
    let agree: Vec<bool> = compared.iter().map(Compared::agree).collect();
    assert_eq!(agree, [true, false]);
    let text = table(&compared);
    for expected in [
        "| test | p99 beside | 8 conn., 50 % of capacity | 2.00 | 1.50 to 5.50 | 2.10 | 1.10 to 2.10 | 1.05 | |\n",
        "| test | p99 beside | 64 conn., 50 % of capacity | 1.00 | 1.00 to 1.00 | 1.20 | 1.20 to 1.20 | 1.20 | **apart** |\n",
    ] {
        assert!(text.contains(expected), "{expected}\nis not in\n{text}");
    }
}

#[test]
fn a_ratio_that_one_record_lacks_does_not_agree() {
    let folder = Folder::new("lacks");
    let first = folder.record([[1.0; 3], [1.0; 3]], 100.0);
    let second = folder.record([[1.0; 3], [1.0, 0.0, 1.0]], 100.0);
    let void = second.void("test", "beside", &folder.scenarios()[0].points()[1]);
    assert_eq!(void, Some("wrong, \"x\""));
    let compared = compare(&folder.scenarios(), [&first, &second]);
    let agree: Vec<bool> = compared.iter().map(Compared::agree).collect();
    assert_eq!(agree, [true, false]);
    assert!(table(&compared).contains("| none | | "));
    assert!(compare(&folder.scenarios(), [&Rows::default(), &Rows::default()]).is_empty());
}
