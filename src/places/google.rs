//! Google's Places API (New): Nearby Search, mapped to the shape of the legacy one.
//!
//! Numbers and texts keep Google's bytes; only field names and nesting change. The field mask
//! determines the price of a call: rating, price level and opening hours, which are part of the
//! legacy shape, put it into a more expensive class ("Enterprise").

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{AnswerWriter, ObjectWriter, PlacesStatus};
use super::failure::Failure;
use super::google_common::{Interface, parse};
use super::http::{Client, Options, Response, SetupError};
use super::key::ApiKey;
use super::upstream::{Circle, Request, Upstream, without_leading_zeros};

/// Google's own endpoint.
const URL: &str = "https://places.googleapis.com/v1/places:searchNearby";

/// Requested fields; Google rejects a request without a mask.
const FIELD_MASK: &str = "places.id,places.displayName,places.location,places.viewport,\
    places.types,places.businessStatus,places.plusCode,places.shortFormattedAddress,\
    places.formattedAddress,places.iconMaskBaseUri,places.iconBackgroundColor,places.rating,\
    places.userRatingCount,places.priceLevel,places.currentOpeningHours.openNow";

const NEW: Interface = Interface {
    name: "Places API (New)",
    retry_advice: "Try again later.",
};

/// Google's Places API (New).
#[derive(Debug)]
pub struct Google {
    client: Client,
    key: ApiKey,
}

impl Google {
    /// Creates the provider. Opens no connection yet.
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
        read_answer(&response, request, &self.key)
    }

    fn name(&self) -> &'static str {
        "google"
    }

    fn abort(&self) {
        self.client.abort();
    }

    /// Google's terms forbid storing content.
    fn may_cache(&self) -> bool {
        false
    }
}

/// Returns the body of a request. Popularity is the order closest to the legacy interface's
/// prominence.
fn query(request: &Request) -> String {
    format!(
        r#"{{"maxResultCount":{},"rankPreference":"POPULARITY","locationRestriction":{{"circle":{{"center":{{"latitude":{},"longitude":{}}},"radius":{}}}}}}}"#,
        request.bound(),
        without_leading_zeros(&request.latitude),
        without_leading_zeros(&request.longitude),
        request.meters,
    )
}

/// A successful response or an error; `{}` if there is no place within the radius.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    places: Vec<Place<'a>>,
    error: Option<ApiError>,
}

/// An error in the format of <https://cloud.google.com/apis/design/errors>.
#[derive(Deserialize)]
struct ApiError {
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
    display_name: Option<Text<'a>>,
    location: Option<Point<'a>>,
    viewport: Option<Viewport<'a>>,
    types: Option<&'a RawValue>,
    business_status: Option<&'a RawValue>,
    plus_code: Option<PlusCode<'a>>,
    short_formatted_address: Option<&'a RawValue>,
    formatted_address: Option<&'a RawValue>,
    icon_mask_base_uri: Option<&'a RawValue>,
    icon_background_color: Option<&'a RawValue>,
    rating: Option<&'a RawValue>,
    user_rating_count: Option<&'a RawValue>,
    price_level: Option<String>,
    current_opening_hours: Option<OpeningHours<'a>>,
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// Coordinates. Google omits a zero: a place on the equator has no latitude.
#[derive(Deserialize)]
struct Point<'a> {
    #[serde(borrow)]
    latitude: Option<&'a RawValue>,
    longitude: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Viewport<'a> {
    #[serde(borrow)]
    low: Point<'a>,
    high: Point<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlusCode<'a> {
    #[serde(borrow)]
    global_code: Option<&'a RawValue>,
    compound_code: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpeningHours<'a> {
    #[serde(borrow)]
    open_now: Option<&'a RawValue>,
}

fn read_answer(response: &Response, request: &Request, key: &ApiKey) -> Result<Vec<u8>, Failure> {
    let page: Page<'_> = parse(response)?;
    if let Some(error) = page.error {
        let status = error.status().ok_or(Failure::Http(error.code))?;
        NEW.check(status, error.message.as_deref(), key)?;
    }
    if response.status != 200 {
        return Err(Failure::from_http(response.status));
    }
    let circle = request.circle();
    let mut out = Vec::with_capacity(response.body.len());
    let mut answer = AnswerWriter::begin(b"[]", &mut out);
    let near = page.places.iter().filter(|place| is_near(place, &circle));
    for place in near.take(request.bound()) {
        write_place(place, answer.result());
    }
    answer.finish(None);
    Ok(out)
}

impl ApiError {
    /// Returns the legacy interface's status for the error; `None` if there is none.
    fn status(&self) -> Option<PlacesStatus> {
        let is_key_invalid = || {
            self.details
                .iter()
                .any(|detail| detail.reason.as_deref() == Some("API_KEY_INVALID"))
        };
        match self.code {
            401 | 403 => Some(PlacesStatus::RequestDenied),
            400 if is_key_invalid() => Some(PlacesStatus::RequestDenied),
            400 => Some(PlacesStatus::InvalidRequest),
            429 => Some(PlacesStatus::OverQueryLimit),
            500..=599 => Some(PlacesStatus::UnknownError),
            _ => None,
        }
    }
}

/// Returns whether a place has a location within the radius.
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
    /// Returns latitude and longitude with Google's bytes.
    fn texts(&self) -> (&str, &str) {
        (
            self.latitude.map_or("0", RawValue::get),
            self.longitude.map_or("0", RawValue::get),
        )
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (latitude, longitude) = self.texts();
        let mut point = ObjectWriter::begin(out);
        point.json("lat", latitude);
        point.json("lng", longitude);
        point.finish();
    }
}

/// Writes a place with the field names of the legacy interface, in its order.
fn write_place(place: &Place<'_>, out: &mut Vec<u8>) {
    let mut result = ObjectWriter::begin(out);
    result.optional("business_status", place.business_status);
    if let Some(location) = &place.location {
        let mut geometry = ObjectWriter::begin(result.field("geometry"));
        location.write(geometry.field("location"));
        if let Some(viewport) = &place.viewport {
            let mut corners = ObjectWriter::begin(geometry.field("viewport"));
            viewport.high.write(corners.field("northeast"));
            viewport.low.write(corners.field("southwest"));
            corners.finish();
        }
        geometry.finish();
    }
    result.optional("icon_background_color", place.icon_background_color);
    result.optional("icon_mask_base_uri", place.icon_mask_base_uri);
    let name = place.display_name.as_ref().and_then(|name| name.text);
    result.optional("name", name);
    let open_now = place.current_opening_hours.as_ref();
    if let Some(open_now) = open_now.and_then(|hours| hours.open_now) {
        let mut hours = ObjectWriter::begin(result.field("opening_hours"));
        hours.json("open_now", open_now.get());
        hours.finish();
    }
    result.optional("place_id", place.id);
    if let Some(code) = &place.plus_code {
        let mut codes = ObjectWriter::begin(result.field("plus_code"));
        codes.optional("compound_code", code.compound_code);
        codes.optional("global_code", code.global_code);
        codes.finish();
    }
    if let Some(level) = place.price_level.as_deref().and_then(price_level) {
        result.json("price_level", level);
    }
    result.optional("rating", place.rating);
    result.string("scope", "GOOGLE");
    result.optional("types", place.types);
    result.optional("user_ratings_total", place.user_rating_count);
    let vicinity = place.short_formatted_address.or(place.formatted_address);
    result.optional("vicinity", vicinity);
    result.finish();
}

/// Returns the legacy interface's number; `None` for an unspecified level.
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
