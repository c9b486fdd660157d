//! Writing a request of the second dialect is the inverse of parsing it. Shared by the property tests of
//! the grammar and the fuzz target, each of which has the types of a request in scope.

use super::{Center, Decimal, Request, WatchTarget};

/// Returns the request as a line without its ending; single spaces separate the fields.
pub(super) fn written_request(request: &Request<'_>) -> Vec<u8> {
    match request {
        Request::Iamat(report) => {
            [b"IAMAT", report.client, report.location, report.time_text].join(&b' ')
        }
        Request::Whatsat(inquiry) => {
            let bound = inquiry.bound.to_string();
            let radius = decimal(&inquiry.radius);
            [b"WHATSAT", inquiry.client, &radius, bound.as_bytes()].join(&b' ')
        }
        Request::Where(client) => [b"WHERE", *client].join(&b' '),
        Request::Nearby {
            center,
            radius,
            bound,
        } => {
            let center = match center {
                Center::Place(place) => place.text,
                Center::Client(client) => client,
            };
            let bound = bound.to_string();
            [b"NEARBY", center, &decimal(radius), bound.as_bytes()].join(&b' ')
        }
        Request::Within {
            south_west,
            north_east,
            bound,
        } => {
            let bound = bound.to_string();
            let (south_west, north_east) = (south_west.text, north_east.text);
            [b"WITHIN", south_west, north_east, bound.as_bytes()].join(&b' ')
        }
        Request::Forget(client) => [b"FORGET", *client].join(&b' '),
        Request::Watch { name, target } => match target {
            WatchTarget::Area { center, radius } => {
                [b"WATCH", *name, center.text, &decimal(radius)].join(&b' ')
            }
            WatchTarget::Client(client) => [b"WATCH", *name, *client].join(&b' '),
        },
        Request::Unwatch(name) => [b"UNWATCH", *name].join(&b' '),
        Request::Ping(None) => b"PING".to_vec(),
        Request::Ping(Some(word)) => [b"PING", *word].join(&b' '),
        Request::Auth(token) => [b"AUTH", *token].join(&b' '),
    }
}

fn decimal(number: &Decimal<'_>) -> Vec<u8> {
    let mut text = number.integer.to_vec();
    if !number.fraction.is_empty() {
        text.push(b'.');
        text.extend_from_slice(number.fraction);
    }
    text
}

/// Panics unless writing and parsing are inverse on `line`: a request is written as a line that
/// parses to the same request, and every field keeps its bytes.
pub(super) fn assert_inverse_request(line: &[u8]) {
    let Ok(request) = Request::parse(line) else {
        return;
    };
    let written = written_request(&request);
    assert_eq!(Request::parse(&written), Ok(request));
    // A bound comes last, and writing it drops its leading zeros.
    let kept = match request {
        Request::Whatsat(_) | Request::Nearby { .. } | Request::Within { .. } => 3,
        _ => 4,
    };
    let fields = |line| <[u8]>::split(line, |byte| b" \t\r\n\x0b\x0c".contains(byte));
    let read = fields(line).filter(|field| !field.is_empty());
    assert!(read.take(kept).eq(fields(&written).take(kept)));
}
