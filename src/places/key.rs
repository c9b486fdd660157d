//! The API key: a secret that is sent to its provider and appears nowhere else.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// Text that replaces a key, or a part of one.
const REDACTED: &str = "(key)";

/// Number of consecutive characters of a key that are replaced too: a message may contain a part of
/// it only.
const PART_BYTES: usize = 8;

/// A key for a places provider. It appears in no log, no error and no reply.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Box<str>);

impl ApiKey {
    /// Creates a key from a text without the white space around it. `None` for a text that is empty
    /// or not allowed in an HTTP header, such as one of two lines.
    pub fn new(text: &str) -> Option<ApiKey> {
        let text = text.trim();
        let is_sendable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_sendable.then(|| ApiKey(text.into()))
    }

    /// Returns the key itself, for the request only.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the text with every occurrence of the key replaced, and of any part of it of
    /// [`PART_BYTES`] or more, also where they are encoded as in a URL.
    ///
    /// To be called before a text is cut: the rest of a key that was cut is not recognized if it is
    /// shorter.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut is_secret = vec![false; text.len()];
        self.mark(text.as_bytes(), |index| index..index + 1, &mut is_secret);
        let (decoded, spans) = url_decoded(text.as_bytes());
        self.mark(&decoded, |index| spans[index].clone(), &mut is_secret);
        let mut redacted = String::with_capacity(text.len());
        let mut was_secret = false;
        // A key is ASCII, so what is marked consists of whole characters.
        for (index, character) in text.char_indices() {
            match is_secret[index] {
                true if !was_secret => redacted.push_str(REDACTED),
                true => {}
                false => redacted.push(character),
            }
            was_secret = is_secret[index];
        }
        redacted
    }

    /// Marks the bytes of the text that are part of the key. `view` is the text in some encoding, and
    /// `span` returns the range of the text that a byte of it comes from.
    fn mark(&self, view: &[u8], span: impl Fn(usize) -> Range<usize>, is_secret: &mut [bool]) {
        let part = PART_BYTES.min(self.0.len());
        let parts: HashSet<&[u8]> = self.0.as_bytes().windows(part).collect();
        for (start, window) in view.windows(part).enumerate() {
            if parts.contains(window) {
                let bytes = span(start).start..span(start + part - 1).end;
                is_secret[bytes].fill(true);
            }
        }
    }
}

/// Returns the bytes with `%XX` decoded, and for each the range that it comes from.
fn url_decoded(bytes: &[u8]) -> (Vec<u8>, Vec<Range<usize>>) {
    let digit = |index: usize| {
        let byte = bytes.get(index).copied();
        byte.and_then(|byte| char::from(byte).to_digit(16))
    };
    let (mut decoded, mut spans) = (Vec::new(), Vec::new());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let encoded = match (byte, digit(index + 1), digit(index + 2)) {
            (b'%', Some(high), Some(low)) => Some((high * 16 + low) as u8),
            _ => None,
        };
        let end = index + if encoded.is_some() { 3 } else { 1 };
        decoded.push(encoded.unwrap_or(byte));
        spans.push(index..end);
        index = end;
    }
    (decoded, spans)
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::new(" SECRET-1\n").unwrap();
        assert_eq!(key.reveal(), "SECRET-1");
        assert_eq!(
            format!("{key:?} {:#?}", Some(&key)),
            "ApiKey Some(\n    ApiKey,\n)"
        );
        assert_eq!(key.redact("key=SECRET-1&SECRET-1"), "key=(key)&(key)");
    }

    #[test]
    fn parts_of_a_key_are_redacted_in_any_encoding() {
        let key = ApiKey::new("AIzaSy-39_Characters+of/a%41Key").unwrap();
        for (text, expected) in [
            ("no AIzaSy here", "no AIzaSy here"),
            ("AIzaSy-39_Characters+of/a%41Key", "(key)"),
            ("éAIzaSy-39_Ché", "é(key)é"),
            ("...Characters+...", "...(key)..."),
            (
                "key=AIzaSy-39_Characters%2Bof%2fa%2541Key&a=b",
                "key=(key)&a=b",
            ),
            ("%41IzaSy%2D39_Char", "(key)"),
            ("Characters%2", "(key)%2"),
            ("ers+of%2", "ers+of%2"),
            ("100 % of the quota %é", "100 % of the quota %é"),
            ("", ""),
        ] {
            assert_eq!(key.redact(text), expected);
        }
        let short = ApiKey::new("abc").unwrap();
        assert_eq!(short.redact("ab abc %61bc"), "ab (key) (key)");
    }

    #[test]
    fn keys_are_valid_in_a_header() {
        for text in ["", " \n", "a b", "a\nb", "a\0", "schlüssel"] {
            assert_eq!(ApiKey::new(text), None, "{text:?}");
        }
    }
}
