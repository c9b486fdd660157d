//! Bytes from strangers, made safe for a log line.

use std::fmt::{self, Write};

/// Shows bytes as text with everything outside printable ASCII, and the backslash, escaped; so
/// nothing that a client sends can forge a log line, and every byte can be told.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |&byte: &u8| (byte.is_ascii_graphic() || byte == b' ') && byte != b'\\';
        let mut rest = self.0;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_every_byte_and_forges_no_line() {
        let shown = Printable(b"a \"b\"\\\n\r\0\xff\xf0\x9f~").to_string();
        assert_eq!(shown, r#"a "b"\\\n\r\x00\xff\xf0\x9f~"#);
        assert_eq!(Printable(b"").to_string(), "");
    }
}
