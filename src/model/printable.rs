//! Untrusted bytes and addresses as text for a log line: safely, and at low cost.
//!
//! An escaped byte costs about as much as a plain one: each is looked up in a table and copied.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};

/// Number of bytes that [`Shortened`] shows.
pub(crate) const SHOWN_BYTES: usize = 256;

/// Displays bytes as text, with backslashes and all bytes outside printable ASCII escaped: so no
/// client can forge a log line, and every byte can be recovered.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

/// Displays bytes as [`Printable`] does, at most [`SHOWN_BYTES`] of them; behind the first ones of a
/// longer text is its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortened<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(f, |text| escape(self.0, text))
    }
}

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(f, |text| escape_shortened(self.0, text))
    }
}

fn display(f: &mut fmt::Formatter<'_>, write: impl FnOnce(&mut Vec<u8>)) -> fmt::Result {
    let mut text = Vec::new();
    write(&mut text);
    // Printable ASCII is UTF-8.
    f.write_str(std::str::from_utf8(&text).unwrap_or_default())
}

/// Appends what [`Printable`] displays.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    // Nearly all lines are plain.
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
        return;
    }
    for part in bytes.chunks(PART_BYTES) {
        let (mut text, mut end) = ([0; PART_BYTES * MAX_ESCAPE_BYTES], 0);
        for &byte in part {
            let (escaped, length) = ESCAPED[usize::from(byte)];
            text[end..end + MAX_ESCAPE_BYTES].copy_from_slice(&escaped);
            end += usize::from(length);
        }
        out.extend_from_slice(&text[..end]);
    }
}

/// Appends what [`Shortened`] displays.
pub(crate) fn escape_shortened(bytes: &[u8], out: &mut Vec<u8>) {
    escape(&bytes[..bytes.len().min(SHOWN_BYTES)], out);
    if bytes.len() > SHOWN_BYTES {
        out.extend_from_slice(format!("... ({} bytes)", bytes.len()).as_bytes());
    }
}

/// Bytes that are escaped before they are appended.
const PART_BYTES: usize = 256;

/// Bytes of the longest escape, `\x00`.
const MAX_ESCAPE_BYTES: usize = 4;

/// Text of each byte, and its length.
static ESCAPED: [([u8; MAX_ESCAPE_BYTES], u8); 256] = escapes();

const fn escapes() -> [([u8; MAX_ESCAPE_BYTES], u8); 256] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut table = [([0; MAX_ESCAPE_BYTES], 0); 256];
    let mut at = 0;
    while at < table.len() {
        let byte = at as u8;
        table[at] = match byte {
            b'\t' => (*b"\\t  ", 2),
            b'\n' => (*b"\\n  ", 2),
            b'\r' => (*b"\\r  ", 2),
            b'\\' => (*b"\\\\  ", 2),
            b' '..=b'~' => ([byte, 0, 0, 0], 1),
            _ => (*b"\\x  ", 4),
        };
        if table[at].1 == 4 {
            table[at].0[2] = HEX[at >> 4];
            table[at].0[3] = HEX[at & 0xf];
        }
        at += 1;
    }
    table
}

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

/// Appends an address.
pub(crate) fn push_address(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(address) => {
            let mut text = [0; MAX_ADDRESS_BYTES];
            let start = write_address(address, &mut text);
            out.extend_from_slice(&text[start..]);
        }
        SocketAddr::V6(_) => out.extend_from_slice(address.to_string().as_bytes()),
    }
}

/// Bytes of `255.255.255.255:65535`.
const MAX_ADDRESS_BYTES: usize = 21;

/// Writes an address to the end of `text`, and returns the index of its first byte. The `Display` of
/// [`SocketAddr`] takes five times as long.
fn write_address(address: SocketAddrV4, text: &mut [u8; MAX_ADDRESS_BYTES]) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_displayed() {
        for text in [
            "0.0.0.0:0",
            "127.0.0.1:12000",
            "255.255.255.255:65535",
            "10.20.100.9:80",
            "[::1]:12000",
        ] {
            let mut out = Vec::new();
            push_address(text.parse().expect("an address"), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn every_byte_is_displayed_and_no_line_can_be_forged() {
        let shown = Printable(b"a \"b\"\\\n\r\t\0\x1b\x7f\xff\xf0\x9f~").to_string();
        assert_eq!(shown, r#"a "b"\\\n\r\t\x00\x1b\x7f\xff\xf0\x9f~"#);
        assert_eq!(Printable(b"").to_string(), "");
        let every: Vec<u8> = (0..=255).collect();
        let long = every.repeat(3);
        let shown = Printable(&long).to_string();
        assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let once = Printable(&every).to_string();
        assert_eq!(shown, once.repeat(3));
        let distinct: std::collections::BTreeSet<_> = every
            .iter()
            .map(|byte| Printable(&[*byte]).to_string())
            .collect();
        assert_eq!(distinct.len(), every.len());
    }

    #[test]
    fn a_long_line_is_cut_and_its_length_is_said() {
        let shown = |bytes: &[u8]| Shortened(bytes).to_string();
        assert_eq!(shown(b"kiwi\0"), r"kiwi\x00");
        assert_eq!(shown(&[b'x'; SHOWN_BYTES]), "x".repeat(SHOWN_BYTES));
        let expected = r"\x00".repeat(SHOWN_BYTES) + "... (4000 bytes)";
        assert_eq!(shown(&[0; 4_000]), expected);
    }
}
