//! Parses any bytes as a client's line, in either dialect, and as a neighbor's: there is no panic, and
//! writing is the inverse of parsing.

#![no_main]

use herd::model::command::Command;
use herd::model::decimal::Decimal;
use herd::model::record::RecordView;
use herd::model::request::{Center, Request, WatchTarget};
use herd::model::vector::Vector;
use inverse::assert_inverse;
use inverse_request::assert_inverse_request;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/inverse.rs"]
mod inverse;

#[path = "../../tests/support/inverse_request.rs"]
mod inverse_request;

fuzz_target!(|line: &[u8]| {
    assert_inverse(line);
    assert_inverse_request(line);
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
