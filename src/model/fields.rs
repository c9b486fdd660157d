//! Cuts lines into fields.

/// Bytes a server's name may have.
pub const MAX_NAME_BYTES: usize = 64;

/// Whether a byte separates fields: space, tab, CR, LF, FF or VT.
pub const fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0c | 0x0b)
}

/// Whether there is any byte that separates fields.
pub fn has_white_space(text: &[u8]) -> bool {
    text.iter().any(|&byte| is_white_space(byte))
}

/// Splits a line into its fields.
pub fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| is_white_space(byte))
        .filter(|field| !field.is_empty())
}

/// Splits a line of exactly `N` fields with single spaces between them, as this program writes its
/// own; in a third of the time. `None` for any other; what is in the fields is not looked at.
pub fn split_exactly<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let mut split = [&line[..0]; N];
    let mut start = 0;
    let mut ends = memchr::memchr_iter(b' ', line).chain([line.len()]);
    for field in &mut split {
        let end = ends.next()?;
        *field = &line[start..end];
        start = end + 1;
    }
    (ends.next().is_none() && split.iter().all(|field| !field.is_empty())).then_some(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_white_space_separates_any_fields() {
        let line = b"  a\tb\x0b\x0cc\x01\xff \r";
        let got: Vec<&[u8]> = fields(line).collect();
        assert_eq!(got, [&b"a"[..], b"b", b"c\x01\xff"]);
        assert_eq!(fields(b" ").next(), None);
        assert!(has_white_space(b"a\x0b") && !has_white_space(b"a\x01\xff"));
    }

    #[test]
    fn lines_of_our_own_have_single_spaces() {
        assert_eq!(split_exactly(b"a bc d"), Some([&b"a"[..], b"bc", b"d"]));
        for line in ["", "a", "a b", "a  b", " a b", "a b ", "a b c d", "a b  c"] {
            assert_eq!(split_exactly::<3>(line.as_bytes()), None, "{line}");
        }
    }
}
