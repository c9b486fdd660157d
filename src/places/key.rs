//! The API key: a secret that is sent to its provider and appears nowhere else.

use std::fmt;

/// Text that replaces a key.
const REDACTED: &str = "(key)";

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

    /// Returns the text with every occurrence of the key replaced.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(&*self.0, REDACTED)
    }
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
    fn keys_are_valid_in_a_header() {
        for text in ["", " \n", "a b", "a\nb", "a\0", "schlüssel"] {
            assert_eq!(ApiKey::new(text), None, "{text:?}");
        }
    }
}
