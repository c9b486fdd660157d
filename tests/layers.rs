//! The floors of the design: a module imports only from its own floor's parts or from below.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor, lowest first. What is not listed here fails the test. The design's lowest
/// floor, values without I/O, is several here: values are made of values.
const FLOORS: [&[&str]; 12] = [
    &[
        "decimal",
        "fields",
        "keys",
        "limits",
        "outbox",
        "printable",
        "shutdown",
        "sync",
    ],
    &["geo", "time"],
    &["command", "topology"],
    &["config", "record"],
    &["digest", "vector"],
    &["flood", "journal", "locations", "places"],
    &["herd"],
    &["durability"],
    &["session"],
    &["link", "pool"],
    &["links", "listener", "logging", "status"],
    &["server"],
];

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("{module} has no floor; see tests/layers.rs"))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a file names after `crate::`, its tests aside.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split("};").next().unwrap(),
            None => rest.split([';', '\n', '(', '<', ' ']).next().unwrap(),
        };
        let mut depth = 0;
        let mut name = String::new();
        for c in list.chars().chain([',']) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let module = name.trim().split("::").next().unwrap().to_owned();
                    if module.starts_with(|c: char| c.is_ascii_lowercase()) {
                        found.insert(module);
                    }
                    name.clear();
                    continue;
                }
                _ => {}
            }
            if depth == 0 {
                name.push(c);
            }
        }
    }
    found
}

#[test]
fn imports_only_go_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut checked = 0;
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let first = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let module = first.trim_end_matches(".rs");
        // The program itself may use all of the library.
        if ["main", "cli", "lib"].contains(&module) || file.ends_with("tests.rs") {
            continue;
        }
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if import == module {
                continue;
            }
            checked += 1;
            let allowed = floor(&import) < floor(module);
            assert!(
                allowed,
                "{} imports {import}, which is not below {module}",
                inside.display()
            );
        }
    }
    assert!(
        checked > 30,
        "only {checked} imports were found: the search is broken"
    );
}

#[test]
fn only_the_edges_touch_the_network() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let inside = file
            .strip_prefix(&src)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let edge = ["listener", "session", "link", "pool", "server", "places"]
            .iter()
            .any(|module| inside.starts_with(module));
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for socket in ["TcpStream", "TcpListener", "UdpSocket"] {
            assert!(edge || !code.contains(socket), "{inside} uses {socket}");
        }
        let below_session = ["herd", "locations", "flood", "command", "record"]
            .iter()
            .any(|module| inside.starts_with(module));
        for clock in ["SystemTime::now", "Instant::now", "Timestamp::now"] {
            assert!(
                !below_session || !code.contains(clock),
                "{inside} reads a clock"
            );
        }
    }
}
