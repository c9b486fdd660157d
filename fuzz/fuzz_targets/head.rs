//! The head of an HTTP request must be read whatever bytes come, and alike however they are cut.

#![no_main]

use herd::http::head::{Hosts, MAX_HEAD_BYTES, Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let hosts = Hosts::new(["herd.example".to_owned()]);
    let whole = parse(bytes, &hosts);
    if let Parsed::Request(request) = &whole {
        assert!(request.path.starts_with('/'));
        assert!(bytes.len() >= "GET / HTTP/1.0\n\n".len());
        // What comes behind the head changes nothing.
        let more = [bytes, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"].concat();
        assert_eq!(parse(&more, &hosts), whole);
    }
    if bytes.len() >= MAX_HEAD_BYTES {
        assert_ne!(whole, Parsed::Partial);
    }
    // A beginning is not judged otherwise once more has come.
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        match parse(&bytes[..cut], &hosts) {
            Parsed::Partial => {}
            Parsed::Request(request) => assert_eq!(Parsed::Request(request), whole),
            Parsed::Refused(_) => assert!(matches!(whole, Parsed::Refused(_))),
        }
    }
});
