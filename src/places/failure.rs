//! The failures of a call to a places provider, and the messages that clients get for them.
//!
//! A variant determines the status of the reply, and whether the failure counts toward opening the
//! circuit breaker. Texts from outside enter a failure through [`quote`], so none contains the API
//! key, a second line, or anything that a terminal would obey: they go to clients and to the log.

use std::borrow::Cow;
use std::fmt;

use super::answer::PlacesStatus;
use super::key::ApiKey;
use crate::model::text::PrintableText;

/// Maximum number of characters of a text from outside, escaped; the rest is cut off.
const MAX_QUOTED_CHARS: usize = 400;

/// A failed call. Texts are complete sentences for the client unless noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The provider rejects this server: no key, an invalid one, or one without access to the interface.
    Denied(String),
    /// A quota of the provider, or a limit of this server on calls to it, is used up.
    Quota(String),
    /// The provider rejected the request as invalid.
    BadRequest(String),
    /// The provider reported a failure on its side, or keeps failing and is not called.
    Reported(String),
    /// No complete response within the timeout.
    Timeout,
    /// No connection: name lookup, refusal, no route, TLS. The text is the cause, not a sentence.
    Connect(String),
    /// The connection or the JSON text ended before the response was complete.
    Truncated,
    /// The response is longer than 2 MiB.
    TooLarge,
    /// An HTTP status without further information: redirects, which are not followed, 404, 5xx.
    Http(u16),
    /// The response is not JSON, or not in the provider's format. The text is the cause, not a
    /// sentence.
    Malformed(&'static str),
    /// The server is stopping and aborted the call.
    Stopped,
}

impl Failure {
    /// Returns the `status` of the reply.
    pub(super) fn status(&self) -> PlacesStatus {
        match self {
            Failure::Denied(_) => PlacesStatus::RequestDenied,
            Failure::Quota(_) => PlacesStatus::OverQueryLimit,
            Failure::BadRequest(_) => PlacesStatus::InvalidRequest,
            _ => PlacesStatus::UnknownError,
        }
    }

    /// Returns whether the failure counts toward opening the circuit breaker. Denials, quotas and
    /// bad requests do not: the provider works, and would answer the same again.
    pub(super) fn counts_against_breaker(&self) -> bool {
        !matches!(
            self,
            Failure::Denied(_) | Failure::Quota(_) | Failure::BadRequest(_) | Failure::Stopped
        )
    }

    /// Returns the failure for an HTTP status whose body gives no reason.
    pub(super) fn from_http(status: u16) -> Failure {
        match status {
            400 => Failure::BadRequest(
                "The places provider rejected the request as invalid (HTTP 400). Check --places and --places-url."
                    .to_owned(),
            ),
            401 | 403 => Failure::Denied(format!(
                "The places provider denies access (HTTP {status}). Check the API key and --places-url."
            )),
            429 => Failure::Quota(
                "The places provider's quota is used up (HTTP 429). Try again later.".to_owned(),
            ),
            _ => Failure::Http(status),
        }
    }
}

/// Displays the `error_message` of the reply: the cause and what to do.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Denied(text)
            | Failure::Quota(text)
            | Failure::BadRequest(text)
            | Failure::Reported(text) => f.write_str(text),
            Failure::Timeout => {
                f.write_str("The places provider did not answer in time. Try again later.")
            }
            Failure::Connect(why) => write!(
                f,
                "The places provider can't be reached: {why}. Try again later; if the problem persists, check the server's network and --places-url."
            ),
            Failure::Truncated => {
                f.write_str("The places provider's answer was incomplete. Try again.")
            }
            Failure::TooLarge => {
                f.write_str("The places provider's answer is too long. Try a smaller radius.")
            }
            Failure::Http(status @ 300..=399) => write!(
                f,
                "The places provider answered with a redirect (HTTP {status}), which is not followed. Set --places-url to its new location."
            ),
            Failure::Http(status @ 400..=499) => write!(
                f,
                "The places provider refused the request (HTTP {status}). Check --places-url."
            ),
            Failure::Http(status) => {
                write!(
                    f,
                    "The places provider failed (HTTP {status}). Try again later."
                )
            }
            Failure::Malformed(why) => write!(
                f,
                "The places provider's answer can't be read: {why}. Try again later; if the problem persists, check --places-url."
            ),
            Failure::Stopped => f.write_str("This server is stopping. Ask another one."),
        }
    }
}

impl std::error::Error for Failure {}

/// Returns a text from outside as it may be shown to clients and in the log: first without the key
/// that the provider was sent, then escaped, at last cut to [`MAX_QUOTED_CHARS`].
pub(super) fn quote(text: &str, key: Option<&ApiKey>) -> String {
    let text = text.trim();
    let text = match key {
        Some(key) => Cow::Owned(key.redact(text)),
        None => Cow::Borrowed(text),
    };
    PrintableText(&text).shortened(MAX_QUOTED_CHARS)
}

/// Returns a provider's message, quoted, or `default` if it sent none, as a sentence, followed by
/// advice. `key` is the one that the provider was sent.
pub(super) fn sentence(
    message: Option<&str>,
    key: Option<&ApiKey>,
    default: &str,
    advice: &str,
) -> String {
    let message = message.map(|message| quote(message, key));
    let message = message.filter(|message| !message.is_empty());
    let message = message.as_deref().unwrap_or(default);
    let end = if message.ends_with(['.', '!', '?', '…']) {
        ""
    } else {
        "."
    };
    format!("{message}{end} {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use PlacesStatus::*;

    #[track_caller]
    fn check(failure: Failure, status: PlacesStatus, counts: bool, message: &str) {
        assert_eq!(failure.to_string(), message);
        assert_eq!(failure.to_string(), message);
        assert_eq!(failure.status(), status, "{message}");
        assert_eq!(failure.counts_against_breaker(), counts, "{message}");
    }

    #[test]
    fn messages_say_what_to_do() {
        check(
            Failure::Denied("No. Check it.".into()),
            RequestDenied,
            false,
            "No. Check it.",
        );
        check(
            Failure::Quota("Wait.".into()),
            OverQueryLimit,
            false,
            "Wait.",
        );
        check(
            Failure::BadRequest("What?".into()),
            InvalidRequest,
            false,
            "What?",
        );
        check(Failure::Reported("Oh.".into()), UnknownError, true, "Oh.");
        check(
            Failure::Timeout,
            UnknownError,
            true,
            "The places provider did not answer in time. Try again later.",
        );
        check(
            Failure::Connect("connection refused".into()),
            UnknownError,
            true,
            "The places provider can't be reached: connection refused. Try again later; if the problem persists, check the server's network and --places-url.",
        );
        check(
            Failure::Truncated,
            UnknownError,
            true,
            "The places provider's answer was incomplete. Try again.",
        );
        check(
            Failure::TooLarge,
            UnknownError,
            true,
            "The places provider's answer is too long. Try a smaller radius.",
        );
        check(
            Failure::Http(302),
            UnknownError,
            true,
            "The places provider answered with a redirect (HTTP 302), which is not followed. Set --places-url to its new location.",
        );
        check(
            Failure::Http(404),
            UnknownError,
            true,
            "The places provider refused the request (HTTP 404). Check --places-url.",
        );
        check(
            Failure::Http(504),
            UnknownError,
            true,
            "The places provider failed (HTTP 504). Try again later.",
        );
        check(
            Failure::Malformed("it is HTML"),
            UnknownError,
            true,
            "The places provider's answer can't be read: it is HTML. Try again later; if the problem persists, check --places-url.",
        );
        check(
            Failure::Stopped,
            UnknownError,
            false,
            "This server is stopping. Ask another one.",
        );
    }

    #[test]
    fn http_statuses_map_to_places_statuses() {
        for (status, expected) in [
            (400, InvalidRequest),
            (401, RequestDenied),
            (403, RequestDenied),
            (429, OverQueryLimit),
            (302, UnknownError),
            (404, UnknownError),
            (500, UnknownError),
            (504, UnknownError),
        ] {
            assert_eq!(Failure::from_http(status).status(), expected, "{status}");
        }
    }

    #[test]
    fn a_providers_message_becomes_a_sentence() {
        for (message, expected) in [
            (Some("The key is invalid. "), "The key is invalid. Do."),
            (Some("runtime error"), "runtime error. Do."),
            (Some(" "), "It failed. Do."),
            (None, "It failed. Do."),
        ] {
            assert_eq!(sentence(message, None, "It failed", "Do."), expected);
        }
        let long = sentence(Some(&"é".repeat(3_000_000)), None, "", "Do.");
        assert_eq!(long.chars().count(), MAX_QUOTED_CHARS + " Do.".len());
        assert!(long.ends_with("é… Do."), "{long}");
    }

    #[test]
    fn a_providers_message_forges_no_line_and_reaches_no_terminal() {
        let message = "No.\n2026-11-26 ERROR \u{1b}[2Jthe disk failed\r\u{9b}1m\u{2028}";
        let shown = sentence(Some(message), None, "", "Do.");
        assert_eq!(
            shown,
            r"No.\n2026-11-26 ERROR \u{1b}[2Jthe disk failed\r\u{9b}1m. Do."
        );
        // Escape sequences count, and none is cut in two.
        let long = quote(&"\u{1b}".repeat(1_000), None);
        assert_eq!(
            long.chars().filter(|&c| c == '\\').count(),
            MAX_QUOTED_CHARS / 6
        );
        assert!(long.ends_with("}…"), "{long}");
    }

    #[test]
    fn a_key_is_redacted_before_the_message_is_cut() {
        let text = "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY";
        let key = ApiKey::new(text).unwrap();
        // The cut falls behind each of the key's characters once.
        for shown in 0..=text.len() {
            let before = " ".repeat(MAX_QUOTED_CHARS - shown - 1);
            for encoded in [text, &text.replace('-', "%2D"), &text.replace('-', "%2d")] {
                let message = format!("x{before}{encoded} is invalid");
                let quoted = quote(&message, Some(&key));
                assert!(!quoted.contains(&text[..1]), "{quoted}");
                assert!(quoted.chars().count() <= MAX_QUOTED_CHARS);
            }
        }
        assert_eq!(
            quote("the key AIzaSyD-9t is invalid", Some(&key)),
            "the key (key) is invalid"
        );
    }
}
