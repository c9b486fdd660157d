//! Rows for the files that runs are compared from.
//!
//! Rows are appended, so a loop over servers collects one table. A file whose header differs
//! is refused: its columns would mean something else.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

/// Appends a row of named cells; a new or empty file gets the names as its header.
pub(crate) fn append(path: &Path, cells: &[(&str, String)]) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)
        .map_err(fault)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(fault)?;
    let header = row(cells.iter().map(|(name, _)| *name));
    let values = row(cells.iter().map(|(_, value)| value.as_str()));
    let new = match text.lines().next() {
        None => format!("{header}\n{values}\n"),
        Some(first) if first == header => format!("{values}\n"),
        Some(_) => return Err(format!("{}: other columns than this run's", path.display())),
    };
    file.write_all(new.as_bytes()).map_err(fault)
}

/// A line of these cells, without its end.
pub(crate) fn row<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let cells: Vec<String> = cells.map(quoted).collect();
    cells.join(",")
}

/// A cell as RFC 4180 has it.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// A cell that may be empty.
pub(crate) fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_gather_under_one_header() {
        let name = format!("herd-bench-csv-{}.csv", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let cell = |text: &str| [("a", text.to_owned()), ("b", "2".to_owned())];
        append(&path, &cell("1")).expect("a new file");
        append(&path, &cell("x, \"y\"")).expect("a second row");
        let error = append(&path, &[("c", String::new())]).expect_err("another header");
        assert!(error.contains("other columns"), "{error}");
        let text = std::fs::read_to_string(&path).expect("the file");
        assert_eq!(text, "a,b\n1,2\n\"x, \"\"y\"\"\",2\n");
        std::fs::remove_file(&path).expect("the file");
    }
}
