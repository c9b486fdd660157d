//! Untrusted bytes and addresses, formatted for a log line: safely, and at low cost.

use std::fmt::{self, Write};
use std::net::{SocketAddr, SocketAddrV4};

use arrayvec::ArrayVec;

/// Displays bytes as text, with backslashes and all bytes outside printable ASCII escaped: so no
/// client can forge a log line, and every byte can be recovered.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

/// Returns whether no byte has to be escaped. Checking all bytes without an early exit takes a
/// fraction of the time.
fn is_plain(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .fold(true, |all, byte| all & is_printable(byte))
}

fn is_printable(&byte: &u8) -> bool {
    (b' '..=b'~').contains(&byte) & (byte != b'\\')
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        // Nearly all lines are plain.
        if is_plain(rest) {
            return f.write_str(std::str::from_utf8(rest).unwrap_or_default());
        }
        while !rest.is_empty() {
            let run = rest
                .iter()
                .position(|byte| !is_printable(byte))
                .unwrap_or(rest.len());
            // Printable ASCII is UTF-8.
            f.write_str(std::str::from_utf8(&rest[..run]).unwrap_or_default())?;
            if let Some(&byte) = rest.get(run) {
                for escaped in std::ascii::escape_default(byte) {
                    f.write_char(char::from(escaped))?;
                }
            }
            rest = rest.get(run + 1..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Writes an address, of which `255.255.255.255:65535` is the longest, to the end of `text`, and
/// returns the index of its first byte. The `Display` of [`SocketAddr`] takes five times as long.
fn write_address(address: SocketAddrV4, text: &mut [u8; 21]) -> usize {
    let mut start = text.len();
    let mut number = |mut value: u16, before: u8| {
        loop {
            start -= 1;
            text[start] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        if before != 0 {
            start -= 1;
            text[start] = before;
        }
    };
    let [a, b, c, d] = address.ip().octets().map(u16::from);
    number(address.port(), b':');
    number(d, b'.');
    number(c, b'.');
    number(b, b'.');
    number(a, 0);
    start
}

/// Maximum length in bytes of a line, with the text before it, that is displayed in one piece;
/// longer ones are displayed in several.
const PIECE_BYTES: usize = 512;

/// Displays a line that was received from or sent to a client, mostly as one piece of text: a
/// logger passes each piece through several layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoggedLine<'a> {
    /// Direction: `received from client` or `sent to client`.
    pub(crate) direction: &'static str,
    /// The client.
    pub(crate) client: SocketAddr,
    /// The line.
    pub(crate) line: &'a [u8],
}

impl fmt::Display for LoggedLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece unless the line must be escaped or is too long, or the address is not IPv4.
        if let SocketAddr::V4(address) = self.client
            && is_plain(self.line)
            && self.direction.len() + self.line.len() <= PIECE_BYTES - 24
        {
            let (mut text, mut piece) = ([0; 21], ArrayVec::<u8, PIECE_BYTES>::new());
            let start = write_address(address, &mut text);
            let direction = self.direction.as_bytes();
            let fits = [direction, b" ", &text[start..], b": ", self.line]
                .iter()
                .all(|part| piece.try_extend_from_slice(part).is_ok());
            if fits && let Ok(piece) = std::str::from_utf8(&piece) {
                return f.write_str(piece);
            }
        }
        let line = Printable(self.line);
        write!(f, "{} {}: {line}", self.direction, self.client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_in_one_piece_and_in_several() {
        let long = [b'x'; PIECE_BYTES];
        for address in [
            "0.0.0.0:0",
            "127.0.0.1:12000",
            "255.255.255.255:65535",
            "10.20.100.9:80",
            "[::1]:12000",
        ] {
            let client = address.parse().expect("an address");
            for line in [b"IAMAT kiwi".as_slice(), b"", b"\\ \n", &long, &long[50..]] {
                let direction = "sent to client";
                let logged = LoggedLine {
                    direction,
                    client,
                    line,
                };
                let expected = format!("{direction} {address}: {}", Printable(line));
                assert_eq!(logged.to_string(), expected);
            }
        }
    }

    #[test]
    fn every_byte_is_displayed_and_no_line_can_be_forged() {
        let shown = Printable(b"a \"b\"\\\n\r\0\xff\xf0\x9f~").to_string();
        assert_eq!(shown, r#"a "b"\\\n\r\x00\xff\xf0\x9f~"#);
        assert_eq!(Printable(b"").to_string(), "");
    }
}
