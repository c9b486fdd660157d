//! Google's Places Nearby Search (legacy), the interface that defines the shape of all answers.
//!
//! Results are passed on byte for byte. The radius only biases Google's search, so results outside
//! it are dropped here. Since October 2026 the interface can't be enabled for new Google projects;
//! existing projects may continue to use it. A client can request at most one page of 20 results,
//! so `next_page_token` is dropped: it would suggest pages that this server does not serve.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{AnswerWriter, PlacesStatus, write_normalized};
use super::failure::{Failure, quote};
use super::google_common::{Interface, parse};
use super::http::{Client, Options, Response, SetupError, write_url_encoded};
use super::key::ApiKey;
use super::upstream::{Circle, Request, Upstream};

/// Google's own endpoint.
const URL: &str = "https://maps.googleapis.com/maps/api/place/nearbysearch/json";

const LEGACY: Interface = Interface {
    name: "Places API (legacy)",
    retry_advice: "Try again.",
};

/// Google's Places Nearby Search (legacy).
#[derive(Debug)]
pub struct GoogleLegacy {
    client: Client,
    key: ApiKey,
}

impl GoogleLegacy {
    /// Creates the provider. Opens no connection yet. Query parameters of a URL in the options are
    /// kept.
    pub fn new(key: ApiKey, options: &Options) -> Result<GoogleLegacy, SetupError> {
        let client = Client::new(URL, options)?;
        Ok(GoogleLegacy { client, key })
    }
}

impl Upstream for GoogleLegacy {
    fn fetch(&self, request: &Request, timeout: Duration) -> Result<Vec<u8>, Failure> {
        let url = url(self.client.url(), request, &self.key);
        let response = self.client.get(&url, timeout)?;
        read_answer(&response, request, &self.key)
    }

    fn name(&self) -> &'static str {
        "google-legacy"
    }

    fn abort(&self) {
        self.client.abort();
    }

    /// Google's terms forbid storing content.
    fn may_cache(&self) -> bool {
        false
    }
}

/// Returns the URL of a request, in which the client's digits are kept.
fn url(endpoint: &str, request: &Request, key: &ApiKey) -> String {
    let separator = match endpoint.contains('?') {
        true if endpoint.ends_with(['?', '&']) => "",
        true => "&",
        false => "?",
    };
    let mut url = format!(
        "{endpoint}{separator}location={},{}&radius={}&key=",
        request.latitude, request.longitude, request.meters
    );
    write_url_encoded(key.reveal().as_bytes(), &mut url);
    url
}

#[derive(Deserialize)]
struct Page<'a> {
    status: Cow<'a, str>,
    error_message: Option<String>,
    #[serde(borrow)]
    html_attributions: Option<&'a RawValue>,
    #[serde(default)]
    results: Vec<&'a RawValue>,
}

/// The fields of a result that decide whether it lies within the radius.
#[derive(Deserialize)]
struct Place {
    geometry: Geometry,
}

#[derive(Deserialize)]
struct Geometry {
    location: Location,
}

#[derive(Deserialize)]
struct Location {
    lat: f64,
    lng: f64,
}

fn read_answer(response: &Response, request: &Request, key: &ApiKey) -> Result<Vec<u8>, Failure> {
    let page: Page<'_> = parse(response)?;
    let message = page.error_message.as_deref();
    let status =
        PlacesStatus::parse(&page.status).ok_or(Failure::Malformed("its status is unknown"))?;
    LEGACY.check(status, message, key)?;
    let circle = request.circle();
    let mut credit = Vec::new();
    let attributions = page.html_attributions.map_or("[]", RawValue::get);
    write_normalized(attributions.as_bytes(), &mut credit);
    let mut out = Vec::with_capacity(response.body.len());
    let mut answer = AnswerWriter::begin(&credit, &mut out);
    let near = page.results.iter().filter(|place| is_near(place, &circle));
    for place in near.take(request.bound()) {
        write_normalized(place.get().as_bytes(), answer.result());
    }
    let message = message.map(|message| quote(message, Some(key)));
    answer.finish(message.as_deref());
    Ok(out)
}

/// Returns whether a result has a location within the radius.
fn is_near(place: &RawValue, circle: &Circle) -> bool {
    let Ok(place) = serde_json::from_str::<Place>(place.get()) else {
        return false;
    };
    let Location { lat, lng } = place.geometry.location;
    circle.distance(lat, lng).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const OK: &str = include_str!("../../tests/fixtures/places/google_legacy_ok.json");
    const ZERO: &str = include_str!("../../tests/fixtures/places/google_legacy_zero.json");
    const DENIED: &str = include_str!("../../tests/fixtures/places/google_legacy_denied.json");
    const CAMPUS: &str = "+34.068930-118.445127";

    fn key() -> ApiKey {
        ApiKey::new("SECRET+1").unwrap()
    }

    fn read(status: u16, body: &str, request: &Request) -> Result<Vec<u8>, Failure> {
        let body = body.as_bytes().to_vec();
        read_answer(&Response { status, body }, request, &key())
    }

    #[test]
    fn url_keeps_the_clients_digits() {
        let request = Request::of(CAMPUS, "10.5", 20);
        for (endpoint, start) in [
            (URL, format!("{URL}?")),
            ("http://localhost:1/a?", "http://localhost:1/a?".to_owned()),
            (
                "http://localhost:1/a?b=c",
                "http://localhost:1/a?b=c&".to_owned(),
            ),
            (
                "http://localhost:1/a?b&",
                "http://localhost:1/a?b&".to_owned(),
            ),
        ] {
            assert_eq!(
                url(endpoint, &request, &key()),
                format!("{start}location=34.068930,-118.445127&radius=10500&key=SECRET%2B1")
            );
        }
    }

    #[test]
    fn results_keep_googles_bytes() {
        let reply = read(200, OK, &Request::of(CAMPUS, "10", 20)).unwrap();
        let reply = String::from_utf8(reply).unwrap();
        let start = OK.find("      {\n").unwrap() + 6;
        let results = &OK[start..OK.rfind("\n   ],").unwrap()];
        let results = results.replace("      },\n      {", "      },\n{");
        assert_eq!(
            reply,
            format!(
                "{{\"html_attributions\":[],\n\"results\":[\n{results}\n],\n\"status\":\"OK\"}}"
            )
        );
        let (got, sent): (Value, Value) = (
            serde_json::from_str(&reply).unwrap(),
            serde_json::from_str(OK).unwrap(),
        );
        assert_eq!(got["results"], sent["results"]);
        assert_eq!(got.get("next_page_token"), None);
        assert!(!reply.contains("\n\n"));
    }

    /// Checks the names of the places that a client gets.
    #[track_caller]
    fn check(radius_km: &str, bound: u8, expected: &[&str]) {
        let reply = read(200, OK, &Request::of(CAMPUS, radius_km, bound)).unwrap();
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        let names: Vec<&str> = reply["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|place| place["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected);
        let status = if expected.is_empty() {
            "ZERO_RESULTS"
        } else {
            "OK"
        };
        assert_eq!(reply["status"], status);
    }

    #[test]
    fn radius_and_bound_are_enforced() {
        check("10", 20, &["Fixture Hall", "Fixture Village"]);
        check("10", 1, &["Fixture Hall"]);
        // The dispatcher is 158 m away, the village 837 m.
        check("0.5", 20, &["Fixture Hall"]);
        check("0.1", 20, &[]);
    }

    #[test]
    fn bytes_that_are_not_json_are_not_passed_on() {
        for name in [
            &b"a\nb"[..],
            b"a\0b",
            b"\x1b[2J",
            b"\xff",
            b"\xc3",
            b"\\x41",
            b"a\"b",
        ] {
            for (before, after) in [
                (
                    r#"{"status": "OK", "results": [{"geometry": {"location": {"lat": 34.0689, "lng": -118.4451}}, "name": ""#,
                    r#""}]}"#,
                ),
                (r#"{"status": "OK", "html_attributions": [""#, r#""]}"#),
            ] {
                let body = [before.as_bytes(), name, after.as_bytes()].concat();
                let response = Response { status: 200, body };
                let answer = read_answer(&response, &Request::of(CAMPUS, "10", 20), &key());
                assert_eq!(
                    answer,
                    Err(Failure::Malformed("it is not JSON")),
                    "{name:?}"
                );
            }
        }
    }

    #[test]
    fn credits_and_messages_are_passed_on() {
        let body = r#"{"html_attributions": ["A",

            "B"], "results": [{"name": "Nowhere"}, 7,
            {"geometry": {"location": {"lat": "34", "lng": 0}}}],

            "status": "OK", "error_message": "Old, key SECRET+1."}"#;
        let reply = read(200, body, &Request::of(CAMPUS, "10", 20)).unwrap();
        assert_eq!(
            String::from_utf8(reply).unwrap(),
            "{\"html_attributions\":[\"A\",\n            \"B\"],\n\"results\":[],\n\"status\":\"ZERO_RESULTS\",\n\"error_message\":\"Old, key (key).\"}"
        );
        let reply = read(200, ZERO, &Request::of(CAMPUS, "10", 20)).unwrap();
        let mut zero = Vec::new();
        crate::places::answer::write_zero_results(&mut zero);
        assert_eq!(reply, zero);
    }

    #[test]
    fn failures_are_distinguished() {
        let failed = |status: &str| format!(r#"{{"results": [], "status": "{status}"}}"#);
        for (http, body, expected) in [
            (
                200,
                DENIED.to_owned(),
                Failure::Denied("The provided API key is invalid. Check the API key, and that its project may use the Places API (legacy).".into()),
            ),
            (
                403,
                failed("OVER_QUERY_LIMIT"),
                Failure::Quota("Google's quota is used up. Try again later, or raise the project's quota.".into()),
            ),
            (
                400,
                failed("INVALID_REQUEST"),
                Failure::BadRequest("Google rejected the request as invalid. Check --places-url.".into()),
            ),
            (
                500,
                failed("UNKNOWN_ERROR"),
                Failure::Reported("Google could not process the request. Try again.".into()),
            ),
            (200, failed("NOT_FOUND"), Failure::Malformed("its status is unknown")),
            (200, "{}".into(), Failure::Malformed("its JSON is not in the provider's format")),
            (200, "[1]".into(), Failure::Malformed("its JSON is not in the provider's format")),
            (200, "<html>".into(), Failure::Malformed("it is HTML or XML, not JSON")),
            (200, "\u{1}\0".into(), Failure::Malformed("it is not JSON")),
            (200, String::new(), Failure::Truncated),
            (200, OK[..OK.len() / 2].into(), Failure::Truncated),
            (503, "<html>".into(), Failure::Http(503)),
            (404, "{}".into(), Failure::Http(404)),
            (302, String::new(), Failure::Http(302)),
        ] {
            let request = Request::of(CAMPUS, "10", 20);
            assert_eq!(read(http, &body, &request), Err(expected), "{http} {body}");
        }
    }
}
