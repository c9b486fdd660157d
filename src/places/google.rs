//! Google's Places API (New): Nearby Search, mapped to the shape of the legacy one.
//!
//! Numbers and texts go out as Google wrote them; only their names and their nesting change.
//! The field mask decides what a call costs: rating, price level and opening hours put it among
//! the dearer ones ("Enterprise"), as they are part of the legacy shape.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Answer, Object};
use super::failure::{Failure, sentence};
use super::http::{Client, Options, Response, SetupError};
use super::key::ApiKey;
use super::upstream::{Circle, Request, Upstream, without_leading_zeros};

/// Where Google serves it.
pub const URL: &str = "https://places.googleapis.com/v1/places:searchNearby";

/// The fields asked for; without a mask Google refuses the request.
const FIELD_MASK: &str = "places.id,places.displayName,places.location,places.viewport,\
    places.types,places.businessStatus,places.plusCode,places.shortFormattedAddress,\
    places.formattedAddress,places.iconMaskBaseUri,places.iconBackgroundColor,places.rating,\
    places.userRatingCount,places.priceLevel,places.currentOpeningHours.openNow";

/// Google's Places API (New).
#[derive(Debug)]
pub struct Google {
    client: Client,
    key: ApiKey,
}

impl Google {
    /// The provider.
    pub fn new(key: ApiKey, options: &Options) -> Result<Google, SetupError> {
        let client = Client::new(URL, options)?;
        Ok(Google { client, key })
    }
}

impl Upstream for Google {
    fn fetch(&self, request: &Request, timeout: Duration) -> Result<Vec<u8>, Failure> {
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Goog-Api-Key", self.key.reveal()),
            ("X-Goog-FieldMask", FIELD_MASK),
        ];
        let response = self.client.post(&headers, &query(request), timeout)?;
        answer(&response, request).map_err(|failure| failure.redacted(&self.key))
    }

    fn cut(&self) {
        self.client.cut();
    }

    /// Google's terms bar keeping content.
    fn may_cache(&self) -> bool {
        false
    }
}

/// The request's body. Popularity is the order closest to the legacy interface's prominence.
fn query(request: &Request) -> String {
    format!(
        r#"{{"maxResultCount":{},"rankPreference":"POPULARITY","locationRestriction":{{"circle":{{"center":{{"latitude":{},"longitude":{}}},"radius":{}}}}}}}"#,
        request.bound(),
        without_leading_zeros(request.latitude()),
        without_leading_zeros(request.longitude()),
        request.meters(),
    )
}

/// An answer or an error; with no place near it is `{}`.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    places: Vec<Place<'a>>,
    error: Option<Refusal>,
}

/// <https://cloud.google.com/apis/design/errors>
#[derive(Deserialize)]
struct Refusal {
    code: u16,
    message: Option<String>,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    display_name: Option<Text<'a>>,
    #[serde(borrow)]
    location: Option<Point<'a>>,
    #[serde(borrow)]
    viewport: Option<Viewport<'a>>,
    #[serde(borrow)]
    types: Option<&'a RawValue>,
    #[serde(borrow)]
    business_status: Option<&'a RawValue>,
    #[serde(borrow)]
    plus_code: Option<PlusCode<'a>>,
    #[serde(borrow)]
    short_formatted_address: Option<&'a RawValue>,
    #[serde(borrow)]
    formatted_address: Option<&'a RawValue>,
    #[serde(borrow)]
    icon_mask_base_uri: Option<&'a RawValue>,
    #[serde(borrow)]
    icon_background_color: Option<&'a RawValue>,
    #[serde(borrow)]
    rating: Option<&'a RawValue>,
    #[serde(borrow)]
    user_rating_count: Option<&'a RawValue>,
    price_level: Option<String>,
    #[serde(borrow)]
    current_opening_hours: Option<OpeningHours<'a>>,
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// Google leaves out what is zero: a place on the equator has no latitude.
#[derive(Deserialize)]
struct Point<'a> {
    #[serde(borrow)]
    latitude: Option<&'a RawValue>,
    #[serde(borrow)]
    longitude: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Viewport<'a> {
    #[serde(borrow)]
    low: Point<'a>,
    #[serde(borrow)]
    high: Point<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlusCode<'a> {
    #[serde(borrow)]
    global_code: Option<&'a RawValue>,
    #[serde(borrow)]
    compound_code: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpeningHours<'a> {
    #[serde(borrow)]
    open_now: Option<&'a RawValue>,
}

fn answer(response: &Response, request: &Request) -> Result<Vec<u8>, Failure> {
    let page: Page<'_> = match response.json() {
        Ok(page) => page,
        Err(failure) if response.status == 200 => return Err(failure),
        Err(_) => return Err(Failure::from_http(response.status)),
    };
    if let Some(error) = page.error {
        return Err(refusal(&error));
    }
    if response.status != 200 {
        return Err(Failure::from_http(response.status));
    }
    let circle = request.circle();
    let mut out = Vec::with_capacity(response.body.len());
    let mut answer = Answer::begin(b"[]", &mut out);
    let near = page.places.iter().filter(|place| is_near(place, &circle));
    for place in near.take(request.bound()) {
        write_place(place, answer.result());
    }
    answer.end(None);
    Ok(out)
}

fn refusal(error: &Refusal) -> Failure {
    let message = error.message.as_deref();
    let is_key_bad = error
        .details
        .iter()
        .any(|detail| detail.reason.as_deref() == Some("API_KEY_INVALID"));
    match error.code {
        401 | 403 => Failure::Denied(denial(message)),
        400 if is_key_bad => Failure::Denied(denial(message)),
        429 => Failure::Quota(sentence(
            message,
            "Google's quota is used up.",
            "Try again later, or raise the project's quota.",
        )),
        400 => Failure::BadRequest(sentence(
            message,
            "Google calls the request invalid.",
            "Check --places-url.",
        )),
        500..=599 => Failure::Reported(sentence(
            message,
            "Google could not process the request.",
            "Try again later.",
        )),
        code => Failure::Http(code),
    }
}

fn denial(message: Option<&str>) -> String {
    sentence(
        message,
        "Google denied the request.",
        "Check the API key, and that its project may use the Places API (New).",
    )
}

/// Whether a place tells where it is and lies within the radius.
fn is_near(place: &Place<'_>, circle: &Circle) -> bool {
    let degrees = |number: &str| number.parse().unwrap_or(f64::NAN);
    place.location.as_ref().is_some_and(|location| {
        let (latitude, longitude) = location.texts();
        circle
            .distance(degrees(latitude), degrees(longitude))
            .is_some()
    })
}

impl Point<'_> {
    /// Latitude and longitude as Google wrote them.
    fn texts(&self) -> (&str, &str) {
        (
            self.latitude.map_or("0", RawValue::get),
            self.longitude.map_or("0", RawValue::get),
        )
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (latitude, longitude) = self.texts();
        let mut point = Object::begin(out);
        point.json("lat", latitude);
        point.json("lng", longitude);
        point.end();
    }
}

/// Writes a place with the legacy interface's names, in its order.
fn write_place(place: &Place<'_>, out: &mut Vec<u8>) {
    let mut result = Object::begin(out);
    let optional = |result: &mut Object<'_>, name, json: Option<&RawValue>| {
        if let Some(json) = json {
            result.json(name, json.get());
        }
    };
    optional(&mut result, "business_status", place.business_status);
    if let Some(location) = &place.location {
        let mut geometry = Object::begin(result.field("geometry"));
        location.write(geometry.field("location"));
        if let Some(viewport) = &place.viewport {
            let mut corners = Object::begin(geometry.field("viewport"));
            viewport.high.write(corners.field("northeast"));
            viewport.low.write(corners.field("southwest"));
            corners.end();
        }
        geometry.end();
    }
    optional(
        &mut result,
        "icon_background_color",
        place.icon_background_color,
    );
    optional(&mut result, "icon_mask_base_uri", place.icon_mask_base_uri);
    let name = place.display_name.as_ref().and_then(|name| name.text);
    optional(&mut result, "name", name);
    let open_now = place.current_opening_hours.as_ref();
    if let Some(open_now) = open_now.and_then(|hours| hours.open_now) {
        let mut hours = Object::begin(result.field("opening_hours"));
        hours.json("open_now", open_now.get());
        hours.end();
    }
    optional(&mut result, "place_id", place.id);
    if let Some(code) = &place.plus_code {
        let mut codes = Object::begin(result.field("plus_code"));
        optional(&mut codes, "compound_code", code.compound_code);
        optional(&mut codes, "global_code", code.global_code);
        codes.end();
    }
    if let Some(level) = place.price_level.as_deref().and_then(price_level) {
        result.json("price_level", level);
    }
    optional(&mut result, "rating", place.rating);
    result.string("scope", "GOOGLE");
    optional(&mut result, "types", place.types);
    optional(&mut result, "user_ratings_total", place.user_rating_count);
    let vicinity = place.short_formatted_address.or(place.formatted_address);
    optional(&mut result, "vicinity", vicinity);
    result.end();
}

/// The legacy interface's number; `None` where the level is unspecified.
fn price_level(level: &str) -> Option<&'static str> {
    Some(match level {
        "PRICE_LEVEL_FREE" => "0",
        "PRICE_LEVEL_INEXPENSIVE" => "1",
        "PRICE_LEVEL_MODERATE" => "2",
        "PRICE_LEVEL_EXPENSIVE" => "3",
        "PRICE_LEVEL_VERY_EXPENSIVE" => "4",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
