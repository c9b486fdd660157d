//! OpenStreetMap through the Overpass API: no key, and no guaranteed service level.
//!
//! Overpass returns elements in the order of type and id, so more elements are requested than the
//! client wants, and ranked here. The public instance allows about 10,000 requests a day and is not
//! meant as an application's back end: a server that needs more uses an instance of its own through
//! `--places-url`.

mod tags;

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{AnswerWriter, ObjectWriter, write_string};
use super::failure::{Failure, sentence};
use super::http::{Client, Options, Response, SetupError, write_url_encoded};
use super::upstream::{Circle, Request, Upstream, without_leading_zeros};
use tags::Tags;

/// The public instance.
const URL: &str = "https://overpass-api.de/api/interpreter";

/// Maximum number of elements in a response: 1,000 take about 0.4 MB of the limit of 2 MiB. If
/// more lie within the radius, Overpass omits those with the greatest ids, ways and relations
/// first.
const MAX_ELEMENTS: usize = 1_000;

/// The attribution that OpenStreetMap's license requires.
const CREDIT: &[u8] = "[\"© OpenStreetMap contributors\"]".as_bytes();

/// OpenStreetMap through the Overpass API.
#[derive(Debug)]
pub struct Overpass {
    client: Client,
}

impl Overpass {
    /// Creates the provider. Opens no connection yet.
    pub fn new(options: &Options) -> Result<Overpass, SetupError> {
        let client = Client::new(URL, options)?;
        Ok(Overpass { client })
    }
}

impl Upstream for Overpass {
    fn fetch(&self, request: &Request, timeout: Duration) -> Result<Vec<u8>, Failure> {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let response = self.client.post(&headers, &form(request), timeout)?;
        read_answer(&response, request)
    }

    fn name(&self) -> &'static str {
        "overpass"
    }

    fn abort(&self) {
        self.client.abort();
    }

    /// The Open Database License permits storing the data.
    fn may_cache(&self) -> bool {
        true
    }
}

/// Returns the search in Overpass QL.
fn query(request: &Request) -> String {
    format!(
        r#"[out:json][timeout:25];nwr(around:{},{},{})[name][~"^(amenity|shop|tourism|leisure|aeroway|railway)$"~"."];out center tags {MAX_ELEMENTS};"#,
        request.meters,
        without_leading_zeros(&request.latitude),
        without_leading_zeros(&request.longitude),
    )
}

/// Returns the body of a request.
fn form(request: &Request) -> String {
    let mut form = "data=".to_owned();
    write_url_encoded(query(request).as_bytes(), &mut form);
    form
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    elements: Vec<Element<'a>>,
    remark: Option<String>,
}

/// A node has a location of its own; ways and relations have that of their center.
#[derive(Deserialize)]
struct Element<'a> {
    #[serde(rename = "type")]
    kind: String,
    id: u64,
    #[serde(borrow)]
    lat: Option<&'a RawValue>,
    lon: Option<&'a RawValue>,
    center: Option<Center<'a>>,
    #[serde(default)]
    tags: Tags,
}

#[derive(Deserialize)]
struct Center<'a> {
    #[serde(borrow)]
    lat: &'a RawValue,
    lon: &'a RawValue,
}

/// A place within the radius.
struct Place<'a> {
    element: &'a Element<'a>,
    name: &'a str,
    /// Latitude and longitude with Overpass's bytes.
    location: (&'a str, &'a str),
    distance: f64,
}

fn read_answer(response: &Response, request: &Request) -> Result<Vec<u8>, Failure> {
    if response.status != 200 {
        return Err(http_failure(response.status));
    }
    let page: Page<'_> = response.json()?;
    if let Some(remark) = page.remark.filter(|remark| remark.contains("error")) {
        return Err(Failure::Reported(sentence(
            Some(&remark),
            None,
            "",
            "Try a smaller radius, or again later.",
        )));
    }
    let circle = request.circle();
    let mut places: Vec<Place<'_>> = page
        .elements
        .iter()
        .filter_map(|element| element.place(&circle))
        .collect();
    // The sort is stable: places of equal prominence and distance keep Overpass's order.
    places.sort_by(|one, other| {
        let prominence = |place: &Place<'_>| place.element.tags.prominence();
        prominence(other)
            .cmp(&prominence(one))
            .then(one.distance.total_cmp(&other.distance))
    });
    let mut out = Vec::new();
    let credit: &[u8] = if places.is_empty() { b"[]" } else { CREDIT };
    let mut answer = AnswerWriter::begin(credit, &mut out);
    for place in places.iter().take(request.bound()) {
        place.write(answer.result());
    }
    answer.finish(None);
    Ok(out)
}

/// Returns the failure for an HTTP status of Overpass, whose body is HTML for human readers.
fn http_failure(status: u16) -> Failure {
    match status {
        400 => Failure::BadRequest(
            "Overpass can't parse the query (HTTP 400). Check --places-url.".to_owned(),
        ),
        406 => Failure::Denied(
            "Overpass rejects this application's User-Agent (HTTP 406). Use an instance of your own with --places-url."
                .to_owned(),
        ),
        429 => Failure::Quota(
            "Overpass received too many requests from this address (HTTP 429). Try again later, or use an instance of your own with --places-url."
                .to_owned(),
        ),
        status => Failure::from_http(status),
    }
}

impl Element<'_> {
    /// Returns the element as a place; `None` without a name, or outside the circle.
    fn place(&self, circle: &Circle) -> Option<Place<'_>> {
        let name = self.tags.name.as_deref()?;
        if !matches!(&*self.kind, "node" | "way" | "relation") {
            return None;
        }
        let (lat, lon) = match &self.center {
            Some(center) => (center.lat, center.lon),
            None => (self.lat?, self.lon?),
        };
        let location = (lat.get(), lon.get());
        let distance = circle.distance(location.0.parse().ok()?, location.1.parse().ok()?)?;
        Some(Place {
            element: self,
            name,
            location,
            distance,
        })
    }
}

impl Place<'_> {
    /// Writes the place as a result. The `scope` says that Google does not know the `place_id`.
    fn write(&self, out: &mut Vec<u8>) {
        let mut result = ObjectWriter::begin(out);
        let mut geometry = ObjectWriter::begin(result.field("geometry"));
        let mut location = ObjectWriter::begin(geometry.field("location"));
        location.json("lat", self.location.0);
        location.json("lng", self.location.1);
        location.finish();
        geometry.finish();
        result.string("name", self.name);
        let Element { kind, id, tags, .. } = self.element;
        result.string("place_id", &format!("osm:{kind}/{id}"));
        result.string("scope", "APP");
        let types = result.field("types");
        for (number, name) in tags.types().iter().enumerate() {
            types.push(if number == 0 { b'[' } else { b',' });
            write_string(name, types);
        }
        types.push(b']');
        if let Some(vicinity) = tags.vicinity() {
            result.string("vicinity", &vicinity);
        }
        result.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const OK: &str = include_str!("../../tests/fixtures/places/overpass_ok.json");
    const TIMEOUT: &str = include_str!("../../tests/fixtures/places/overpass_timeout_200.json");

    fn read(status: u16, body: &str, request: &Request) -> Result<Vec<u8>, Failure> {
        let body = body.as_bytes().to_vec();
        read_answer(&Response { status, body }, request)
    }

    fn campus() -> Request {
        Request::of("+34.068930-118.445127", "10", 20)
    }

    #[test]
    fn requests_are_in_overpass_ql() {
        assert_eq!(
            query(&Request::of("+034.068930-118.445127", "0.5", 5)),
            r#"[out:json][timeout:25];nwr(around:500,34.068930,-118.445127)[name][~"^(amenity|shop|tourism|leisure|aeroway|railway)$"~"."];out center tags 1000;"#
        );
        let form = form(&campus());
        assert!(
            form.starts_with("data=%5Bout%3Ajson%5D%5Btimeout%3A25%5D%3Bnwr%28around%3A10000%2C")
        );
        assert!(form.is_ascii() && !form.contains([' ', '+', ';']));
    }

    #[test]
    fn results_have_googles_shape() {
        let reply = String::from_utf8(read(200, OK, &campus()).unwrap()).unwrap();
        assert_eq!(
            reply,
            concat!(
                "{\"html_attributions\":[\"© OpenStreetMap contributors\"],\n\"results\":[\n",
                r#"{"geometry":{"location":{"lat":34.0708,"lng":-118.4468}},"name":"Fixture University","#,
                r#""place_id":"osm:way/2002","scope":"APP","#,
                r#""types":["university","point_of_interest","establishment"]},"#,
                "\n",
                r#"{"geometry":{"location":{"lat":34.0689,"lng":-118.4452}},"name":"Fixture Cafe","#,
                r#""place_id":"osm:node/1001","scope":"APP","#,
                r#""types":["cafe","point_of_interest","establishment"],"#,
                r#""vicinity":"1 Fixture Way, Los Angeles"}"#,
                "\n],\n\"status\":\"OK\"}",
            )
        );
        serde_json::from_str::<Value>(&reply).unwrap();
    }

    /// Checks the ids of the places that a client gets, in order.
    #[track_caller]
    fn check(elements: &Value, request: &Request, expected: &[&str]) {
        let body = json!({ "elements": elements }).to_string();
        let reply = read(200, &body, request).unwrap();
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        let ids: Vec<&str> = reply["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|place| place["place_id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected);
        let credits = reply["html_attributions"].as_array().unwrap().len();
        assert_eq!(credits, usize::from(!ids.is_empty()));
    }

    fn node(id: u32, longitude: f64, tags: Value) -> Value {
        json!({"type": "node", "id": id, "lat": 0, "lon": longitude, "tags": tags})
    }

    #[test]
    fn results_are_ranked_by_prominence_then_distance() {
        let elements = json!([
            node(
                1,
                0.001,
                json!({"name": "a", "amenity": "bench", "wikidata": "Q1"})
            ),
            node(2, 0.003, json!({"name": "b", "shop": "bakery"})),
            node(3, 0.002, json!({"name": "c", "amenity": "cafe"})),
            node(4, 0.004, json!({"name": "d", "railway": "station"})),
            node(
                5,
                0.005,
                json!({"name": "e", "shop": "bakery", "wikipedia": "en:E"})
            ),
            node(
                6,
                0.006,
                json!({"name": "f", "tourism": "museum", "wikidata": "Q6"})
            ),
        ]);
        let order = [6, 5, 4, 3, 2, 1].map(|id| format!("osm:node/{id}"));
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        check(&elements, &Request::of("+0+0", "10", 20), &order);
        check(&elements, &Request::of("+0+0", "10", 2), &order[..2]);
        // A thousandth of a degree is 111 m.
        check(
            &elements,
            &Request::of("+0+0", "0.4", 20),
            &["osm:node/3", "osm:node/2", "osm:node/1"],
        );
        check(&elements, &Request::of("+0+1", "10", 20), &[]);
    }

    #[test]
    fn elements_that_are_not_places_are_dropped() {
        let elements = json!([
            {"type": "node", "id": 1, "lat": 0, "lon": 0},
            {"type": "node", "id": 2, "lat": 0, "lon": 0, "tags": {"amenity": "cafe"}},
            {"type": "way", "id": 3, "tags": {"name": "c"}},
            {"type": "count", "id": 4, "lat": 0, "lon": 0, "tags": {"name": "d"}},
            {"type": "relation", "id": 5, "center": {"lat": 0, "lon": 0}, "tags": {"name": "e"}},
        ]);
        check(
            &elements,
            &Request::of("+0+0", "10", 20),
            &["osm:relation/5"],
        );
        check(&json!([]), &Request::of("+0+0", "10", 20), &[]);
    }

    #[test]
    fn failures_are_distinguished() {
        for (http, body, expected) in [
            (
                200,
                TIMEOUT,
                Failure::Reported("runtime error: Query timed out in \"query\" at line 1 after 2 seconds. Try a smaller radius, or again later.".into()),
            ),
            (
                400,
                "<html>",
                Failure::BadRequest("Overpass can't parse the query (HTTP 400). Check --places-url.".into()),
            ),
            (
                406,
                "<html>",
                Failure::Denied("Overpass rejects this application's User-Agent (HTTP 406). Use an instance of your own with --places-url.".into()),
            ),
            (
                429,
                "<html>",
                Failure::Quota("Overpass received too many requests from this address (HTTP 429). Try again later, or use an instance of your own with --places-url.".into()),
            ),
            (504, "<html>", Failure::Http(504)),
            (302, "", Failure::Http(302)),
            (200, "<?xml version=\"1.0\"?>", Failure::Malformed("it is HTML or XML, not JSON")),
            (200, "{}", Failure::Malformed("its JSON is not in the provider's format")),
            (200, "oops", Failure::Malformed("it is not JSON")),
            (200, &OK[..OK.len() / 2], Failure::Truncated),
        ] {
            assert_eq!(read(http, body, &campus()), Err(expected), "{http} {body}");
        }
    }
}
