//! An answer, with the header fields that every one has.

use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::head::{Method, Refusal};

/// Fields of every answer: a page of this server loads nothing from elsewhere, is in no frame, and no
/// other site reads an answer. There is no CORS.
const SAFETY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
X-Content-Type-Options: nosniff\r\n\
Referrer-Policy: no-referrer\r\n\
Cross-Origin-Resource-Policy: same-origin\r\n";

/// Form of `Date` (RFC 9110, section 5.6.7).
const DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// Type of plain text.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// Type of JSON.
pub(super) const JSON: &str = "application/json";

/// Type of a stream of events.
pub(super) const EVENTS: &str = "text/event-stream";

/// A body.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Part of the program.
    Static(&'static [u8]),
    /// A text that several answers have.
    Shared(Arc<str>),
    /// Those of this answer.
    Owned(Vec<u8>),
}

impl Body {
    fn bytes(&self) -> &[u8] {
        match self {
            Body::Static(bytes) => bytes,
            Body::Shared(text) => text.as_bytes(),
            Body::Owned(bytes) => bytes,
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Response {
    /// Status code.
    pub(super) status: u16,
    /// Type of the body.
    pub(super) content_type: &'static str,
    /// The body.
    pub(super) body: Body,
    /// Further fields, each with its line ending.
    pub(super) fields: String,
}

impl Response {
    /// Returns an answer with a text, which ends with a line feed.
    pub(super) fn text(status: u16, text: impl Into<String>) -> Response {
        Response::new(status, TEXT, Body::Owned((text.into() + "\n").into_bytes()))
    }

    /// Returns an answer that nobody may keep.
    pub(super) fn new(status: u16, content_type: &'static str, body: Body) -> Response {
        Response {
            status,
            content_type,
            body,
            fields: "Cache-Control: no-store\r\n".to_owned(),
        }
    }

    /// Returns the answer to a request that is refused.
    pub(super) fn refusal(refusal: Refusal) -> Response {
        let mut response = Response::text(refusal.status(), refusal.reason());
        if refusal == Refusal::Method {
            response.fields += "Allow: GET, HEAD\r\n";
        }
        response
    }

    /// Returns the answer while something is not to be had, after which a client may try again.
    pub(super) fn unavailable(text: impl Into<String>) -> Response {
        let mut response = Response::text(503, text);
        response.fields += "Retry-After: 1\r\n";
        response
    }

    /// Returns all bytes to send.
    pub(super) fn to_bytes(&self, method: Method) -> Vec<u8> {
        let body = self.body.bytes();
        let mut head = head(self.status, self.content_type, &self.fields);
        // A 304 has no body, and says nothing of the one that the client has; a stream has no end.
        if self.status != 304 && self.content_type != EVENTS {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "Connection: close\r\n\r\n";
        let mut bytes = head.into_bytes();
        if method == Method::Get {
            bytes.extend_from_slice(body);
        }
        bytes
    }
}

/// Returns the head of an answer that ends only with its connection: of a stream of events.
pub(super) fn stream_head() -> Vec<u8> {
    let fields = "Cache-Control: no-store\r\n";
    let head = head(200, EVENTS, fields) + "\r\n";
    head.into_bytes()
}

fn head(status: u16, content_type: &str, fields: &str) -> String {
    let reason = reason(status);
    // The format has nothing that a time can lack.
    let date = OffsetDateTime::now_utc().format(DATE).unwrap_or_default();
    format!(
        "HTTP/1.1 {status} {reason}\r\nDate: {date}\r\nContent-Type: {content_type}\r\n{SAFETY}{fields}"
    )
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_length_and_no_more_than_its_head_for_head() {
        let response = Response::text(200, "ok");
        let get = String::from_utf8(response.to_bytes(Method::Get)).unwrap();
        let head = String::from_utf8(response.to_bytes(Method::Head)).unwrap();
        assert!(get.starts_with("HTTP/1.1 200 OK\r\nDate: "), "{get}");
        assert!(
            get.contains("\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"),
            "{get}"
        );
        assert_eq!(head, get.strip_suffix("ok\n").unwrap());
        for field in SAFETY.lines() {
            assert!(get.contains(&format!("\r\n{field}\r\n")), "{field}");
        }
        let stream = Response::new(200, EVENTS, Body::Static(b"")).to_bytes(Method::Head);
        let stream = String::from_utf8(stream).unwrap();
        assert!(!stream.contains("Content-Length"), "{stream}");
        let date = get.lines().nth(1).unwrap();
        assert_eq!(
            date.len(),
            "Date: Sun, 06 Nov 1994 08:49:37 GMT".len(),
            "{date}"
        );
    }

    #[test]
    fn every_status_that_is_sent_has_its_reason() {
        let refusals = [
            Refusal::Malformed(""),
            Refusal::Body,
            Refusal::Method,
            Refusal::TooLarge,
            Refusal::Version,
            Refusal::Misdirected,
            Refusal::Late,
        ];
        for status in refusals
            .map(Refusal::status)
            .into_iter()
            .chain([200, 304, 404, 503])
        {
            assert_ne!(reason(status), "Error", "{status}");
        }
        let method = Response::refusal(Refusal::Method).to_bytes(Method::Get);
        assert!(
            String::from_utf8(method)
                .unwrap()
                .contains("\r\nAllow: GET, HEAD\r\n")
        );
    }
}
