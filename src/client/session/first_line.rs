//! The first line of a connection, which tells the language that its client speaks.

use crate::model::fields::fields;

/// Number of the second dialect.
pub(super) const DIALECT: &str = "2";

/// First bytes of a TLS handshake: a record of type handshake, of major version 3.
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// The language that the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The first line will tell.
    Undecided,
    /// That of all clients that do not ask for another.
    First,
    /// The one that is asked for with `HELLO 2`.
    Second,
}

/// Returns whether a line asks for the second dialect.
pub(super) fn is_hello(line: &[u8]) -> bool {
    fields(line).eq([b"HELLO", DIALECT.as_bytes()])
}

/// Returns whether a line is the first of an HTTP request.
pub(super) fn is_http(line: &[u8]) -> bool {
    line.ends_with(b" HTTP/1.0") || line.ends_with(b" HTTP/1.1")
}

/// Returns whether input begins with a TLS handshake.
pub(super) fn is_tls(input: &[u8]) -> bool {
    input.starts_with(TLS_HANDSHAKE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_line_asks_for_the_second_dialect() {
        for line in ["HELLO 2", " HELLO\t2 ", "HELLO\x0b2\r"] {
            assert!(is_hello(line.as_bytes()), "{line}");
        }
        for line in ["", "HELLO", "HELLO 1", "HELLO 2 2", "HELLO 02", "hello 2"] {
            assert!(!is_hello(line.as_bytes()), "{line}");
        }
    }
}
