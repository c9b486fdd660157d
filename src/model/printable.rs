//! Bytes and addresses of strangers, made safe and cheap for a log line.

use std::fmt::{self, Write};
use std::net::{SocketAddr, SocketAddrV4};

use arrayvec::ArrayVec;

/// Shows bytes as text with everything outside printable ASCII, and the backslash, escaped; so
/// nothing that a client sends can forge a log line, and every byte can be told.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

/// Whether no byte has to be escaped. Looking at all, not at each up to the first that has to be,
/// takes a fraction of the time.
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
        // Nearly all lines are.
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

/// Shows a client's address as its own `Display` does, for the lines that every request logs: that
/// takes five times as long.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub SocketAddr);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SocketAddr::V4(address) = self.0 else {
            return self.0.fmt(f);
        };
        // From its end: `255.255.255.255:65535` at most.
        let mut text = [0; 21];
        let start = write_address(address, &mut text);
        f.write_str(std::str::from_utf8(&text[start..]).unwrap_or_default())
    }
}

/// Writes an address to the end of `text`, and says where it begins.
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

/// Bytes of a line, and of what is said before it, that are shown in one piece; longer ones come in several.
const PIECE_BYTES: usize = 512;

/// Shows a line with whom it came from or went to, mostly as one piece of text: a logger passes
/// each piece on through several layers.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// What the line did: `received from client`.
    pub what: &'static str,
    /// Who was on the other side.
    pub client: Client,
    /// The line.
    pub line: Printable<'a>,
}

impl Exchange<'_> {
    /// Writes all of it to `piece`, unless it has to be escaped or is too long.
    fn write_piece(&self, piece: &mut ArrayVec<u8, PIECE_BYTES>) -> bool {
        let SocketAddr::V4(address) = self.client.0 else {
            return false;
        };
        let line = self.line.0;
        if !is_plain(line) || self.what.len() + line.len() > PIECE_BYTES - 24 {
            return false;
        }
        let mut text = [0; 21];
        let start = write_address(address, &mut text);
        [self.what.as_bytes(), b" ", &text[start..], b": ", line]
            .iter()
            .all(|part| piece.try_extend_from_slice(part).is_ok())
    }
}

impl fmt::Display for Exchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut piece = ArrayVec::new();
        if self.write_piece(&mut piece)
            && let Ok(piece) = std::str::from_utf8(&piece)
        {
            return f.write_str(piece);
        }
        write!(f, "{} {}: {}", self.what, self.client, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_look_as_ever() {
        for text in [
            "0.0.0.0:0",
            "127.0.0.1:12000",
            "255.255.255.255:65535",
            "10.20.100.9:80",
            "[::1]:12000",
        ] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(Client(address).to_string(), address.to_string());
        }
    }

    #[test]
    fn an_exchange_in_one_piece_looks_like_one_in_many() {
        let long = [b'x'; PIECE_BYTES];
        for address in ["10.20.100.9:80", "[::1]:12000"] {
            let client = Client(address.parse().expect("an address"));
            for line in [b"IAMAT kiwi".as_slice(), b"", b"\\ \n", &long, &long[50..]] {
                let what = "sent to client";
                let line = Printable(line);
                let exchange = Exchange { what, client, line };
                let expected = format!("{what} {address}: {line}");
                assert_eq!(exchange.to_string(), expected);
            }
        }
    }

    #[test]
    fn shows_every_byte_and_forges_no_line() {
        let shown = Printable(b"a \"b\"\\\n\r\0\xff\xf0\x9f~").to_string();
        assert_eq!(shown, r#"a "b"\\\n\r\x00\xff\xf0\x9f~"#);
        assert_eq!(Printable(b"").to_string(), "");
    }
}
