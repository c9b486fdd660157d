//! Requests to Google, and answers from its responses.

use super::*;
use serde_json::{Value, json};

const OK: &str = include_str!("../../../tests/fixtures/places/google_new_ok.json");
const BAD_KEY: &str = include_str!("../../../tests/fixtures/places/google_new_badkey.json");
const NO_MASK: &str = include_str!("../../../tests/fixtures/places/google_new_nomask.json");
const REQUEST: &str = include_str!("../../../tests/fixtures/places/google_new_request.json");

fn read(status: u16, body: &str, request: &Request) -> Result<Vec<u8>, Failure> {
    let body = body.as_bytes().to_vec();
    let key = ApiKey::new("SECRET+1").unwrap();
    read_answer(&Response { status, body }, request, &key)
}

fn campus() -> Request {
    Request::of("+34.068930-118.445127", "10", 20)
}

#[test]
fn requests_are_in_googles_format() {
    assert_eq!(
        query(&campus()),
        r#"{"maxResultCount":20,"rankPreference":"POPULARITY","locationRestriction":{"circle":{"center":{"latitude":34.068930,"longitude":-118.445127},"radius":10000}}}"#
    );
    let got: Value = serde_json::from_str(&query(&campus())).unwrap();
    let mut expected: Value = serde_json::from_str(REQUEST).unwrap();
    expected["rankPreference"] = json!("POPULARITY");
    expected["locationRestriction"]["circle"]["radius"] = json!(10000);
    assert_eq!(got, expected);

    // JSON allows no leading zeros.
    let odd: Value = serde_json::from_str(&query(&Request::of("-00.5+000", "0.0005", 1))).unwrap();
    assert_eq!(
        odd["locationRestriction"]["circle"],
        json!({"center": {"latitude": -0.5, "longitude": 0}, "radius": 0.5})
    );
    assert!(!FIELD_MASK.contains(' '));
}

#[test]
fn results_have_the_legacy_shape() {
    let reply = String::from_utf8(read(200, OK, &campus()).unwrap()).unwrap();
    assert_eq!(
        reply,
        concat!(
            "{\"html_attributions\":[],\n\"results\":[\n",
            r#"{"business_status":"OPERATIONAL","#,
            r#""geometry":{"location":{"lat":34.0700012,"lng":-118.4440034},"#,
            r#""viewport":{"northeast":{"lat":34.07135,"lng":-118.44265},"southwest":{"lat":34.06865,"lng":-118.44535}}},"#,
            r##""icon_background_color":"#7B9EB0","##,
            r#""icon_mask_base_uri":"https://maps.gstatic.com/mapfiles/place_api/icons/v2/school_pinlet","#,
            r#""name":"Fixture Hall","place_id":"FIXTURE_PLACE_0001","#,
            r#""plus_code":{"compound_code":"3HC4+X9 Los Angeles, CA, USA","global_code":"85633HC4+X9"},"#,
            r#""price_level":1,"rating":4.5,"scope":"GOOGLE","#,
            r#""types":["university", "point_of_interest", "establishment"],"#,
            r#""user_ratings_total":12,"vicinity":"1 Fixture Way, Los Angeles, CA 90095, USA"}"#,
            "\n],\n\"status\":\"OK\"}",
        )
    );
    serde_json::from_str::<Value>(&reply).unwrap();
}

/// Checks the results for a list of places.
#[track_caller]
fn check(places: &Value, request: &Request, expected: &Value) {
    let body = serde_json::to_string_pretty(&json!({ "places": places })).unwrap();
    let reply = read(200, &body, request).unwrap();
    assert!(!reply.windows(2).any(|pair| pair == b"\n\n"));
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(&reply["results"], expected);
    let is_empty = expected.as_array().unwrap().is_empty();
    let status = if is_empty { "ZERO_RESULTS" } else { "OK" };
    assert_eq!(reply["status"], status);
}

#[test]
fn fields_that_google_omits_are_omitted() {
    // A place on the equator has no latitude, and a closed place has `false`.
    check(
        &json!([
            {
                "id": "a",
                "location": {"longitude": 0.0001},
                "currentOpeningHours": {"openNow": false},
                "priceLevel": "PRICE_LEVEL_UNSPECIFIED",
                "shortFormattedAddress": "Here",
                "formattedAddress": "Here, there",
            },
            {"id": "nowhere"},
            {"id": "words", "location": {"latitude": "0", "longitude": "0"}},
        ]),
        &Request::of("+0+0", "1", 20),
        &json!([{
            "geometry": {"location": {"lat": 0, "lng": 0.0001}},
            "opening_hours": {"open_now": false},
            "place_id": "a",
            "scope": "GOOGLE",
            "vicinity": "Here",
        }]),
    );
}

#[test]
fn radius_and_bound_are_enforced() {
    let places: Vec<Value> = (0..30)
        .map(|at| json!({"id": at.to_string(), "location": {"latitude": 0.001 * f64::from(at)}}))
        .collect();
    let count = |radius_km: &str, bound: u8| -> usize {
        let body = json!({ "places": places }).to_string();
        let reply = read(200, &body, &Request::of("+0+0", radius_km, bound)).unwrap();
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        reply["results"].as_array().unwrap().len()
    };
    assert_eq!(count("50", 20), 20);
    assert_eq!(count("50", 3), 3);
    // A thousandth of a degree is 111 m.
    assert_eq!(count("1", 20), 9);
}

#[test]
fn an_empty_response_is_zero_results() {
    let reply = read(200, "{}", &campus()).unwrap();
    let mut zero = Vec::new();
    crate::places::answer::write_zero_results(&mut zero);
    assert_eq!(reply, zero);
    check(&json!([]), &campus(), &json!([]));
}

#[test]
fn price_levels_are_numbers() {
    for (level, expected) in [
        ("PRICE_LEVEL_FREE", Some("0")),
        ("PRICE_LEVEL_INEXPENSIVE", Some("1")),
        ("PRICE_LEVEL_MODERATE", Some("2")),
        ("PRICE_LEVEL_EXPENSIVE", Some("3")),
        ("PRICE_LEVEL_VERY_EXPENSIVE", Some("4")),
        ("PRICE_LEVEL_UNSPECIFIED", None),
    ] {
        assert_eq!(price_level(level), expected);
    }
}

#[test]
fn failures_are_distinguished() {
    let failed = |code: u16, message: &str| {
        json!({"error": {"code": code, "message": message, "status": "X"}}).to_string()
    };
    for (http, body, expected) in [
        (
            400,
            BAD_KEY.to_owned(),
            Failure::Denied("API key not valid. Please pass a valid API key. Check the API key, and that its project may use the Places API (New).".into()),
        ),
        (
            403,
            failed(403, ""),
            Failure::Denied("Google denied the request. Check the API key, and that its project may use the Places API (New).".into()),
        ),
        (
            400,
            NO_MASK.to_owned(),
            Failure::BadRequest("FieldMask is a required parameter. (fixture). Check --places-url.".into()),
        ),
        (
            429,
            failed(429, "Quota exceeded"),
            Failure::Quota("Quota exceeded. Try again later, or raise the project's quota.".into()),
        ),
        (
            503,
            failed(503, "The service is unavailable."),
            Failure::Reported("The service is unavailable. Try again later.".into()),
        ),
        (404, failed(404, "Not found"), Failure::Http(404)),
        (500, "<html>".into(), Failure::Http(500)),
        (404, "<html>".into(), Failure::Http(404)),
        (302, String::new(), Failure::Http(302)),
        (500, "{}".into(), Failure::Http(500)),
        (200, "<html>".into(), Failure::Malformed("it is HTML or XML, not JSON")),
        (200, "garbage".into(), Failure::Malformed("it is not JSON")),
        (200, "[]x".into(), Failure::Malformed("its JSON is not in the provider's format")),
        (200, r#"{"places": 7}"#.into(), Failure::Malformed("its JSON is not in the provider's format")),
        (200, OK[..300].into(), Failure::Truncated),
        (200, String::new(), Failure::Truncated),
    ] {
        assert_eq!(read(http, &body, &campus()), Err(expected), "{http} {body}");
    }
    assert_eq!(
        read(429, "<html>", &campus()).unwrap_err().status(),
        crate::places::answer::PlacesStatus::OverQueryLimit
    );
}
