//! Splits lines into fields: those of clients at any white space, those of servers at single
//! spaces.

/// Maximum length of a server's name in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// Returns whether a byte separates fields: space, tab, CR, LF, FF or VT.
pub(crate) const fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0c | 0x0b)
}

/// Returns whether any byte separates fields.
pub(crate) fn has_white_space(text: &[u8]) -> bool {
    text.iter().any(|&byte| is_white_space(byte))
}

/// Splits a line at white space into its fields.
pub(crate) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| is_white_space(byte))
        .filter(|field| !field.is_empty())
}

/// Splits a line of exactly `N` fields with single spaces between them, as servers write their
/// lines; takes a third of the time of [`fields`]. Returns `None` for any other line; the contents
/// of the fields are not checked.
pub(crate) fn split_exactly<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
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
    fn any_white_space_separates_fields() {
        let line = b"  a\tb\x0b\x0cc\x01\xff \r";
        let got: Vec<&[u8]> = fields(line).collect();
        assert_eq!(got, [&b"a"[..], b"b", b"c\x01\xff"]);
        assert_eq!(fields(b" ").next(), None);
        assert!(has_white_space(b"a\x0b") && !has_white_space(b"a\x01\xff"));
    }

    #[test]
    fn exact_splitting_accepts_single_spaces_only() {
        assert_eq!(split_exactly(b"a bc d"), Some([&b"a"[..], b"bc", b"d"]));
        for line in ["", "a", "a b", "a  b", " a b", "a b ", "a b c d", "a b  c"] {
            assert_eq!(split_exactly::<3>(line.as_bytes()), None, "{line}");
        }
    }
}
