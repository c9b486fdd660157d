//! Parses any bytes as a client's line and as a neighbor's: there is no panic, and writing is the
//! inverse of parsing.

#![no_main]

use herd::model::command::assert_inverse;
use herd::model::record::{Record, RecordView};
use herd::model::vector::Vector;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    assert_inverse(line);
    if let Some(view) = RecordView::parse_line(line) {
        assert_eq!(Record::new(&view).view(), view);
        let mut written = Vec::new();
        view.write_line(&mut written);
        assert_eq!(RecordView::parse_line(written.trim_ascii_end()), Some(view));
    }
    let _ = Vector::default().read_line("VECTOR", line);
});
