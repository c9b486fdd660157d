//! Bytes and addresses of strangers, made safe and cheap for a log line.

use std::fmt::{self, Write};
use std::net::SocketAddr;

/// Shows bytes as text with everything outside printable ASCII, and the backslash, escaped; so
/// nothing that a client sends can forge a log line, and every byte can be told.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |&byte: &u8| (b' '..=b'~').contains(&byte) & (byte != b'\\');
        let mut rest = self.0;
        // Nearly all lines are; looking at all bytes, not at each up to the first that is not,
        // takes a fraction of the time.
        if rest.iter().fold(true, |all, byte| all & plain(byte)) {
            return f.write_str(std::str::from_utf8(rest).unwrap_or_default());
        }
        while !rest.is_empty() {
            let run = rest
                .iter()
                .position(|byte| !plain(byte))
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
        f.write_str(std::str::from_utf8(&text[start..]).unwrap_or_default())
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
    fn shows_every_byte_and_forges_no_line() {
        let shown = Printable(b"a \"b\"\\\n\r\0\xff\xf0\x9f~").to_string();
        assert_eq!(shown, r#"a "b"\\\n\r\x00\xff\xf0\x9f~"#);
        assert_eq!(Printable(b"").to_string(), "");
    }
}
