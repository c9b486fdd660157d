//! The parts that Google's two interfaces share: parsing a response, and the failures that it
//! reports.

use serde::Deserialize;

use super::answer::PlacesStatus;
use super::failure::{Failure, sentence};
use super::http::Response;
use super::key::ApiKey;

/// One of the two interfaces, with the words in which its failures differ.
pub(super) struct Interface {
    /// Name in Google's console.
    pub(super) name: &'static str,
    /// Advice after a failure on Google's side.
    pub(super) retry_advice: &'static str,
}

/// Parses a response. The body says more than the HTTP status, whatever that is, unless it can't
/// be parsed.
pub(super) fn parse<'a, T: Deserialize<'a>>(response: &'a Response) -> Result<T, Failure> {
    response.json().map_err(|failure| match response.status {
        200 => failure,
        status => Failure::from_http(status),
    })
}

impl Interface {
    /// Returns the failure that a status and its message report, if they report one.
    pub(super) fn check(
        &self,
        status: PlacesStatus,
        message: Option<&str>,
        key: &ApiKey,
    ) -> Result<(), Failure> {
        let sentence = |default: &str, advice: &str| sentence(message, Some(key), default, advice);
        Err(match status {
            PlacesStatus::Ok | PlacesStatus::ZeroResults => return Ok(()),
            PlacesStatus::RequestDenied => Failure::Denied(sentence(
                "Google denied the request.",
                &format!(
                    "Check the API key, and that its project may use the {}.",
                    self.name
                ),
            )),
            PlacesStatus::OverQueryLimit => Failure::Quota(sentence(
                "Google's quota is used up.",
                "Try again later, or raise the project's quota.",
            )),
            PlacesStatus::InvalidRequest => Failure::BadRequest(sentence(
                "Google rejected the request as invalid.",
                "Check --places-url.",
            )),
            PlacesStatus::UnknownError => Failure::Reported(sentence(
                "Google could not process the request.",
                self.retry_advice,
            )),
        })
    }
}
