//! Parses any bytes as a client's line and as a neighbor's: there is no panic, and writing is the
//! inverse of parsing.

#![no_main]

use herd::model::command::Command;
use herd::model::record::RecordView;
use herd::model::vector::Vector;
use inverse::assert_inverse;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/inverse.rs"]
mod inverse;

fuzz_target!(|line: &[u8]| {
    assert_inverse(line);
    if let Some(view) = RecordView::parse_line(line) {
        let mut packed = Vec::new();
        view.pack(&mut packed);
        assert_eq!(RecordView::unpack(&mut &packed[..]), Some(view));
        let mut written = Vec::new();
        view.write_line(&mut written);
        assert_eq!(RecordView::parse_line(written.trim_ascii_end()), Some(view));
    }
    let _ = Vector::default().read_line("VECTOR", line);
});
