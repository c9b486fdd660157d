//! `/places`: what is near a point of the map, by the offline atlas. No other provider is asked for a
//! page: a call of one costs money, and sends positions to others.

use super::response::{Body, JSON, Response};
use crate::model::command::{MAX_BOUND, MAX_RADIUS_KM};
use crate::model::geo::Position;
use crate::places::atlas::Atlas;

/// A search, with the bounds of a `WHATSAT`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Search {
    latitude: f64,
    longitude: f64,
    radius_km: f64,
    limit: u8,
}

/// Returns the answer to a search: the JSON text of a `WHATSAT`.
pub(super) fn answer(query: Option<&str>) -> Response {
    let search = match parse(query.unwrap_or_default()) {
        Ok(search) => search,
        Err(reason) => return Response::text(400, reason),
    };
    let location = format!("{:+.6}{:+.6}", search.latitude, search.longitude);
    let mut json = Vec::new();
    match Position::parse(location.as_bytes()) {
        Some(center) => Atlas.nearby(&center, search.radius_km, search.limit, &mut json),
        None => return Response::text(400, "lat and lon are not a position"),
    }
    Response::new(200, JSON, Body::Owned(json))
}

fn parse(query: &str) -> Result<Search, String> {
    let mut values = [None; 4];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let names = ["lat", "lon", "radius", "limit"];
        let Some(at) = names.iter().position(|known| *known == name) else {
            return Err("the parameters are lat, lon, radius (km) and limit".to_owned());
        };
        let number: f64 = value
            .parse()
            .map_err(|_| format!("{name} is not a number"))?;
        values[at] = Some(number);
    }
    let within = |name: &str, value: Option<f64>, limit: f64, least: f64| match value {
        Some(value) if value >= least && value <= limit => Ok(value),
        Some(_) => Err(format!("{name} must be from {least} to {limit}")),
        None => Err(format!("{name} is missing")),
    };
    let [latitude, longitude, radius, limit] = values;
    Ok(Search {
        latitude: within("lat", latitude, 90.0, -90.0)?,
        longitude: within("lon", longitude, 180.0, -180.0)?,
        radius_km: within("radius", radius.or(Some(10.0)), MAX_RADIUS_KM as f64, 0.0)?,
        limit: within("limit", limit.or(Some(5.0)), MAX_BOUND as f64, 0.0)? as u8,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_has_bounds_and_defaults() {
        let search = parse("lat=34.07&lon=-118.44").unwrap();
        assert_eq!(
            search,
            Search {
                latitude: 34.07,
                longitude: -118.44,
                radius_km: 10.0,
                limit: 5
            }
        );
        for (query, reason) in [
            ("", "lat is missing"),
            ("lat=1", "lon is missing"),
            ("lat=91&lon=0", "lat must be from -90 to 90"),
            ("lat=NaN&lon=0", "lat must be from -90 to 90"),
            ("lat=x&lon=0", "lat is not a number"),
            ("lat=1&lon=1&radius=51", "radius must be from 0 to 50"),
            ("lat=1&lon=1&limit=21", "limit must be from 0 to 20"),
            (
                "lat=1&lon=1&x=1",
                "the parameters are lat, lon, radius (km) and limit",
            ),
        ] {
            assert_eq!(parse(query).unwrap_err(), reason, "{query}");
        }
    }

    #[test]
    fn the_atlas_answers() {
        let response = answer(Some("lat=34.06893&lon=-118.445127&radius=10&limit=2"));
        let Body::Owned(json) = &response.body else {
            panic!("{response:?}");
        };
        let json: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["status"], "OK");
        assert_eq!(json["results"].as_array().unwrap().len(), 2);
        assert_eq!(answer(Some("lat=x")).status, 400);
    }
}
