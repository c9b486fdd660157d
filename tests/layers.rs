//! The structure of `src`: imports run downward between folders, files form no circle, and only the
//! edges touch sockets and clocks.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules by floor, lowest first. A module may import from lower floors only. A module
/// that is not listed fails the test.
const FLOORS: [&[&str]; 10] = [
    &["disk", "exit", "metrics", "model", "sync"],
    &["thread"],
    &["config", "logging"],
    &["health", "places", "store"],
    &["replica"],
    &["listener", "poller", "watch"],
    &["client", "link"],
    &["status"],
    &["http"],
    &["server"],
];

/// The program itself may use all of the library.
const PROGRAM: [&str; 3] = ["cli", "lib", "main"];

/// A source file as a module: `link::sender::feed`, and `link::sender` for its `mod.rs`.
struct Module {
    path: PathBuf,
    /// The whole file without its comments.
    code: String,
    /// The code without the test module at its end, and nothing for a file of tests.
    product: String,
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All modules of `src` by name.
fn modules() -> BTreeMap<String, Module> {
    let root = source_root();
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    let module = |path: PathBuf| {
        let inside = path.strip_prefix(&root).unwrap().with_extension("");
        let parts: Vec<_> = inside.iter().map(|part| part.to_str().unwrap()).collect();
        let is_test = inside
            .iter()
            .any(|part| part.to_str().unwrap().ends_with("tests"));
        let name = parts.join("::");
        let name = name.strip_suffix("::mod").unwrap_or(&name).to_owned();
        let code = without_comments(&fs::read_to_string(&path).unwrap());
        let product = if is_test {
            String::new()
        } else {
            without_tests(&code)
        };
        (
            name,
            Module {
                path: inside,
                code,
                product,
            },
        )
    };
    paths.into_iter().map(module).collect()
}

fn without_comments(text: &str) -> String {
    let kept = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// Drops the module of tests, which ends a file where there is one.
fn without_tests(code: &str) -> String {
    let end = code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len());
    code[..end].to_owned()
}

/// Every path that the code of `module` names from `crate` or from `super`, as segments from the
/// root of the crate.
fn paths(module: &str, is_folder: bool, code: &str) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let own: Vec<String> = module.split("::").map(str::to_owned).collect();
    for (start, keyword) in [("crate::", "crate"), ("super::", "super")] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let mut base = if keyword == "crate" {
                Vec::new()
            } else {
                own.clone()
            };
            let mut rest = &code[at..];
            while let Some(tail) = rest.strip_prefix("super::") {
                base.pop();
                rest = tail;
            }
            let rest = rest.strip_prefix("crate::").unwrap_or(rest);
            expand(&base, rest, &mut found);
        }
    }
    // A folder's own file names its children without a prefix.
    if is_folder {
        for line in code.lines().map(str::trim) {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            if let Some(path) = line.strip_prefix("use ")
                && path.starts_with(|c: char| c.is_ascii_lowercase())
            {
                expand(&own, path, &mut found);
            }
        }
    }
    found
}

/// Adds the paths of a use tree, `a::{b, c::D}`, that starts at `base`.
fn expand(base: &[String], tree: &str, found: &mut BTreeSet<Vec<String>>) {
    let mut path = base.to_vec();
    let mut rest = tree;
    loop {
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut start) = (0, 0);
            for (at, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    ',' if depth == 0 => {
                        expand(&path, list[start..at].trim(), found);
                        start = at + 1;
                    }
                    '}' if depth == 0 => {
                        expand(&path, list[start..at].trim(), found);
                        return;
                    }
                    '}' => depth -= 1,
                    _ => {}
                }
            }
            return;
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
        }
        match rest[end..].strip_prefix("::") {
            Some(tail) if end > 0 => rest = tail,
            _ => break,
        }
    }
    found.insert(path);
}

/// The module that a path leads into: the longest prefix that is a file.
fn resolve<'a>(path: &[String], all: &'a BTreeMap<String, Module>) -> Option<&'a str> {
    (1..=path.len())
        .rev()
        .find_map(|length| all.get_key_value(&path[..length].join("::")))
        .map(|(name, _)| name.as_str())
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|modules| modules.contains(&top(module)))
        .unwrap_or_else(|| panic!("{module} has no floor; see tests/layers.rs"))
}

fn imports(
    name: &str,
    module: &Module,
    code: &str,
    all: &BTreeMap<String, Module>,
) -> BTreeSet<String> {
    let is_folder = module.path.ends_with("mod");
    paths(name, is_folder, code)
        .iter()
        .filter_map(|path| resolve(path, all))
        .filter(|import| *import != name)
        .map(str::to_owned)
        .collect()
}

#[test]
fn imports_run_downward() {
    let all = modules();
    let mut checked = 0;
    for (name, module) in &all {
        if PROGRAM.contains(&top(name)) {
            continue;
        }
        for import in imports(name, module, &module.code, &all) {
            if top(&import) == top(name) {
                continue;
            }
            checked += 1;
            assert!(
                floor(&import) < floor(name),
                "{} imports {import}, which is not on a lower floor",
                module.path.display()
            );
        }
    }
    assert!(
        checked > 100,
        "only {checked} imports were found: the search is broken"
    );
}

/// A file may name what its folder's own file defines, since that file owns it; any other pair of
/// files that need each other is one concept in two files, or two in one.
#[test]
fn files_form_no_circle() {
    let all = modules();
    let graph: BTreeMap<&str, BTreeSet<String>> = all
        .iter()
        .map(|(name, module)| {
            let mut found = imports(name, module, &module.product, &all);
            found.retain(|import| !name.starts_with(&format!("{import}::")));
            // A folder's own file needs its files, however it names them.
            let is_child = |other: &&String| {
                other
                    .rsplit_once("::")
                    .is_some_and(|(folder, _)| folder == name)
            };
            found.extend(all.keys().filter(is_child).cloned());
            (name.as_str(), found)
        })
        .collect();
    // Peel off what needs nothing that is left; what remains is circles and what leads into them.
    let mut left: BTreeSet<&str> = graph.keys().copied().collect();
    while let Some(free) = left.iter().copied().find(|name| {
        graph[name]
            .iter()
            .all(|import| !left.contains(import.as_str()))
    }) {
        left.remove(free);
    }
    assert!(left.is_empty(), "circles among these files: {left:?}");
}

#[test]
fn only_the_edges_touch_sockets_and_clocks() {
    for (name, module) in modules() {
        let top = top(&name);
        let network = [
            "listener", "poller", "client", "link", "http", "server", "places", "status", "main",
        ]
        .contains(&top);
        for socket in ["TcpStream", "TcpListener", "UdpSocket"] {
            assert!(
                network || !module.product.contains(socket),
                "{name} uses {socket}"
            );
        }
        let clockless = top == "model" && name != "model::time"
            || top == "replica" && name != "replica::open" && name != "replica::upkeep";
        for clock in ["SystemTime::now", "Instant::now", "Timestamp::now"] {
            assert!(
                !clockless || !module.product.contains(clock),
                "{name} reads a clock"
            );
        }
    }
}

#[test]
fn files_stay_at_one_concern() {
    for (name, module) in modules() {
        let lines = fs::read_to_string(source_root().join(module.path.with_extension("rs")));
        let lines = lines.unwrap().lines().count();
        assert!(lines <= 600, "{name} has {lines} lines");
    }
}

#[test]
fn the_search_sees_every_form_of_import() {
    let check = |module: &str, is_folder: bool, code: &str, expected: &[&str]| {
        let found: Vec<_> = paths(module, is_folder, code)
            .iter()
            .map(|path| path.join("::"))
            .collect();
        assert_eq!(found, expected, "{code}");
    };
    check(
        "a::b",
        false,
        "use crate::{c, d::{E, f::G}};",
        &["c", "d::E", "d::f::G"],
    );
    check(
        "a::b",
        false,
        "let x = super::c::D::new();",
        &["a::c::D::new"],
    );
    check("a::b", false, "use super::super::c::D;", &["c::D"]);
    check("a", true, "pub use b::C;", &["a::b::C"]);
    check("a", false, "use std::crate_name::x;", &[]);
}
