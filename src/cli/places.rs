//! The flags of `herd serve` about places: the provider, its limits and its key.

use std::error::Error;
use std::io;

use argh::FromArgValue;
use herd::places::Places;
use herd::places::atlas::Atlas;
use herd::places::google::Google;
use herd::places::google_legacy::GoogleLegacy;
use herd::places::http::Options;
use herd::places::key::ApiKey;
use herd::places::overpass::Overpass;
use herd::places::remote::{DEFAULT_BILLED_CALLS_PER_MINUTE, Remote, Settings};
use herd::places::upstream::Upstream;
use log::{info, warn};

use super::ServeArguments;

/// Environment variable with the API key for Google's services.
const KEY_VARIABLE: &str = "GOOGLE_PLACES_API_KEY";

/// Providers of nearby places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromArgValue)]
pub(super) enum Provider {
    Atlas,
    Google,
    #[argh(name = "google-legacy")]
    GoogleLegacy,
    Overpass,
}

impl Provider {
    /// Returns whether it bills each call, to the holder of a key that is sent with it.
    fn is_billed(self) -> bool {
        matches!(self, Provider::Google | Provider::GoogleLegacy)
    }
}

/// A limit on the calls to a provider per minute.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallLimit {
    Calls(u32),
    Unlimited,
}

impl FromArgValue for CallLimit {
    fn from_arg_value(text: &str) -> Result<CallLimit, String> {
        match text.parse() {
            Ok(calls @ 1..) => Ok(CallLimit::Calls(calls)),
            _ if text == "unlimited" => Ok(CallLimit::Unlimited),
            _ => Err("it must be a whole number greater than 0, or unlimited".to_owned()),
        }
    }
}

impl ServeArguments {
    /// Returns the places provider on the network that the flags name; `None` for the atlas.
    pub(crate) fn upstream(&self) -> Result<Option<Box<dyn Upstream>>, Box<dyn Error>> {
        let options = self.places_options();
        Ok(Some(match self.places {
            Provider::Atlas if self.places_url.is_some() => {
                return Err("--places-url cannot be used with --places atlas".into());
            }
            Provider::Atlas => return Ok(None),
            Provider::Google => Box::new(Google::new(api_key()?, &options)?),
            Provider::GoogleLegacy => Box::new(GoogleLegacy::new(api_key()?, &options)?),
            Provider::Overpass => Box::new(Overpass::new(&options)?),
        }))
    }

    fn places_options(&self) -> Options {
        Options {
            url: self.places_url.clone(),
            roots: None,
        }
    }

    /// Returns the source of nearby places; starts the threads that call an upstream. Logs what it
    /// may cost, and warns if the key can be read on its way.
    pub(crate) fn places(&self, upstream: Option<Box<dyn Upstream>>) -> io::Result<Places> {
        let Some(upstream) = upstream else {
            return Ok(Places::Atlas(Atlas));
        };
        let is_billed = self.places.is_billed();
        let calls_per_minute = match self.places_calls_per_minute {
            Some(CallLimit::Calls(calls)) => Some(calls),
            Some(CallLimit::Unlimited) => None,
            None => is_billed.then_some(DEFAULT_BILLED_CALLS_PER_MINUTE),
        };
        let limit = calls_per_minute.map_or("unlimited".to_owned(), |calls| calls.to_string());
        let price = if is_billed { ", each is billed" } else { "" };
        info!("places: calls per minute: {limit}{price}");
        if is_billed && self.places_options().is_readable_on_the_way() {
            warn!(
                "--places-url is plain http: the API key and the positions of clients can be read on their way; use https"
            );
        }
        let settings = Settings {
            workers: self.places_workers,
            calls_per_minute,
        };
        Remote::start(upstream, settings).map(Places::Remote)
    }
}

/// Reads the key for Google. It is in the environment because flags are visible to every user of
/// the machine.
fn api_key() -> Result<ApiKey, String> {
    let text = std::env::var_os(KEY_VARIABLE).unwrap_or_default();
    if text.to_string_lossy().trim().is_empty() {
        return Err(format!(
            "{KEY_VARIABLE} is not set: --places google and google-legacy need an API key there, in the environment"
        ));
    }
    text.to_str().and_then(ApiKey::new).ok_or_else(|| {
        format!(
            "{KEY_VARIABLE} is not a key: it has white space, a line break or other characters that no key has"
        )
    })
}
