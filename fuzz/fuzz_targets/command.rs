//! Any bytes as a client's line, and as a neighbor's: no panic, and printing and parsing are
//! inverse.

#![no_main]

use herd::model::command::assert_inverse;
use herd::model::record::{Record, RecordView};
use herd::model::vector::Vector;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    assert_inverse(line);
    if let Some(view) = RecordView::parse_line(line) {
        assert_eq!(Record::new(&view).view(), view);
        let mut printed = Vec::new();
        view.write_line(&mut printed);
        assert_eq!(RecordView::parse_line(printed.trim_ascii_end()), Some(view));
    }
    let _ = Vector::default().read_line("VECTOR", line);
});
