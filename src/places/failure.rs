//! Why a call to a places provider brought no answer, and what a client is told of it.
//!
//! Variants are what callers branch on: what to reply, and whether the provider is unwell, which
//! opens the circuit breaker. No text here ever holds the API key.

use std::fmt;

use super::answer::{PlacesStatus, write_failure};
use super::key::ApiKey;

/// Characters of a provider's own words that a client gets to see; the rest is cut off.
const MAX_QUOTED_CHARS: usize = 400;

/// Why a call brought no answer. Texts are whole sentences, fit for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The provider refuses us: no key, a bad one, or one that may not use this interface.
    Denied(String),
    /// The provider's quota is used up.
    Quota(String),
    /// The provider could not make sense of the request.
    BadRequest(String),
    /// The provider says that it failed.
    Reported(String),
    /// No answer within the time given.
    Timeout,
    /// No connection: name lookup, refusal, no route, TLS. Says which; no whole sentence.
    Connect(String),
    /// The connection ended before the answer did.
    Truncated,
    /// The answer is longer than is read, [`MAX_ANSWER_BYTES`](super::http::MAX_ANSWER_BYTES).
    TooLarge,
    /// An HTTP status that says no more: redirects, which are not followed, 404, 5xx.
    Http(u16),
    /// The answer is not JSON, or not in the provider's format. Says which; no whole sentence.
    Garbage(&'static str),
    /// The server stops, and ended the call.
    Stopped,
}

impl Failure {
    /// The `status` of the reply.
    pub fn status(&self) -> PlacesStatus {
        match self {
            Failure::Denied(_) => PlacesStatus::RequestDenied,
            Failure::Quota(_) => PlacesStatus::OverQueryLimit,
            Failure::BadRequest(_) => PlacesStatus::InvalidRequest,
            _ => PlacesStatus::UnknownError,
        }
    }

    /// The `error_message` of the reply: what happened and what to do.
    pub fn message(&self) -> String {
        match self {
            Failure::Denied(text)
            | Failure::Quota(text)
            | Failure::BadRequest(text)
            | Failure::Reported(text) => text.clone(),
            Failure::Timeout => {
                "The places provider did not answer in time. Try again later.".to_owned()
            }
            Failure::Connect(why) => format!(
                "The places provider can't be reached: {why}. Try again later; if it stays, check the server's network and --places-url."
            ),
            Failure::Truncated => "The places provider's answer broke off. Try again.".to_owned(),
            Failure::TooLarge => {
                "The places provider's answer is too long. Try a smaller radius.".to_owned()
            }
            Failure::Http(status @ 300..=399) => format!(
                "The places provider redirects (HTTP {status}), which is not followed. Set --places-url to where it is."
            ),
            Failure::Http(status @ 400..=499) => format!(
                "The places provider refused the request (HTTP {status}). Check --places-url."
            ),
            Failure::Http(status) => {
                format!("The places provider failed (HTTP {status}). Try again later.")
            }
            Failure::Garbage(why) => format!(
                "The places provider's answer can't be read: {why}. Try again later; if it stays, check --places-url."
            ),
            Failure::Stopped => "This server is stopping. Ask another one.".to_owned(),
        }
    }

    /// Whether the failure tells that the provider is unwell. Refusals and quotas do not: it
    /// answers, and would go on so.
    pub fn counts_against_breaker(&self) -> bool {
        !matches!(
            self,
            Failure::Denied(_) | Failure::Quota(_) | Failure::BadRequest(_) | Failure::Stopped
        )
    }

    /// Appends the reply's JSON text.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_failure(self.status(), &self.message(), out);
    }

    /// What a bare HTTP status means, where the body does not say.
    pub(super) fn from_http(status: u16) -> Failure {
        match status {
            400 => Failure::BadRequest(
                "The places provider calls the request bad (HTTP 400). Check --places and --places-url."
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

    /// The same with the key blotted out, should the provider have repeated it.
    pub(super) fn redacted(self, key: &ApiKey) -> Failure {
        match self {
            Failure::Denied(text) => Failure::Denied(key.redact(&text)),
            Failure::Quota(text) => Failure::Quota(key.redact(&text)),
            Failure::BadRequest(text) => Failure::BadRequest(key.redact(&text)),
            Failure::Reported(text) => Failure::Reported(key.redact(&text)),
            other => other,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Failure {}

/// A provider's own words as a sentence, or the given ones where it has none, then what to do.
pub(super) fn sentence(words: Option<&str>, otherwise: &str, advice: &str) -> String {
    let words = words.map(str::trim).filter(|words| !words.is_empty());
    let words: String = words
        .unwrap_or(otherwise)
        .chars()
        .take(MAX_QUOTED_CHARS)
        .collect();
    let end = if words.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    format!("{words}{end} {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use PlacesStatus::*;

    #[track_caller]
    fn check(failure: Failure, status: PlacesStatus, unwell: bool, message: &str) {
        assert_eq!(failure.message(), message);
        assert_eq!(failure.to_string(), message);
        assert_eq!(failure.status(), status, "{message}");
        assert_eq!(failure.counts_against_breaker(), unwell, "{message}");
        let mut out = Vec::new();
        failure.write(&mut out);
        let reply: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(reply["status"], status.text());
        assert_eq!(reply["error_message"], message);
        assert_eq!(reply["results"], serde_json::json!([]));
    }

    #[test]
    fn clients_are_told_what_to_do() {
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
            "The places provider can't be reached: connection refused. Try again later; if it stays, check the server's network and --places-url.",
        );
        check(
            Failure::Truncated,
            UnknownError,
            true,
            "The places provider's answer broke off. Try again.",
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
            "The places provider redirects (HTTP 302), which is not followed. Set --places-url to where it is.",
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
            Failure::Garbage("it is HTML"),
            UnknownError,
            true,
            "The places provider's answer can't be read: it is HTML. Try again later; if it stays, check --places-url.",
        );
        check(
            Failure::Stopped,
            UnknownError,
            false,
            "This server is stopping. Ask another one.",
        );
    }

    #[test]
    fn bare_http_statuses_have_a_meaning() {
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
    fn a_providers_words_become_a_sentence() {
        for (words, expected) in [
            (Some("The key is invalid. "), "The key is invalid. Do."),
            (Some("runtime error"), "runtime error. Do."),
            (Some(" "), "It failed. Do."),
            (None, "It failed. Do."),
        ] {
            assert_eq!(sentence(words, "It failed", "Do."), expected);
        }
        let long = sentence(Some(&"é".repeat(3_000_000)), "", "Do.");
        assert_eq!(long.chars().count(), MAX_QUOTED_CHARS + ". Do.".len());
    }
}
