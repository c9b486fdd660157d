//! The atlas: an offline gazetteer compiled into the server, so that `WHATSAT` needs no key and
//! no network.
//!
//! It contains airports, heliports and localities (GeoNames, OurAirports; see `make.py`), but no
//! restaurants or shops. `build.rs` lays out its index, which is part of the binary: nothing is
//! read, built or allocated at start, and all servers of a machine share its pages. Places are
//! ranked by prominence, as by Google's default, and not by distance: the twenty places nearest to
//! a city campus may all be helipads on roofs.

mod format;
mod hits;
#[cfg(test)]
mod layout;
mod search;

use super::answer::{AnswerWriter, write_zero_results};
use crate::model::decimal::fixed_digits;
use crate::model::geo::Position;
use crate::model::time::write_u64;
use format::Class;
use hits::Hit;
use search::Index;

static INDEX: Index<'static> = Index::new(
    include_bytes!(concat!(env!("OUT_DIR"), "/atlas.nodes")),
    include_bytes!(concat!(env!("OUT_DIR"), "/atlas.places")),
    include_bytes!(concat!(env!("OUT_DIR"), "/atlas.text")),
);

/// Credits of the sources; GeoNames' license requires the credit and the link.
const CREDIT: &[u8] = br#"["Places from <a href=\"https://www.geonames.org/\">GeoNames</a> (<a href=\"https://creativecommons.org/licenses/by/4.0/\">CC BY 4.0</a>)","Airports from <a href=\"https://ourairports.com/\">OurAirports</a>"]"#;

/// Bytes reserved for an answer in addition to its results.
const FRAME_BYTES: usize = CREDIT.len() + 64;

/// Bytes reserved for one result; a longer one makes the output grow.
const RESULT_BYTES: usize = 256;

/// The offline places provider.
#[derive(Clone, Copy, Debug, Default)]
pub struct Atlas;

impl Atlas {
    /// Appends the places within `radius_km` of `center` as a JSON text in the shape of Google's
    /// Nearby Search, one result per line, no newline at the end.
    ///
    /// There are at most 20 results, whatever the bound. The `scope` says that only this application
    /// knows the `place_id`.
    pub(super) fn nearby(&self, center: &Position, radius_km: f64, bound: u8, out: &mut Vec<u8>) {
        let hits = INDEX.search(center, radius_km, usize::from(bound));
        let hits = hits.as_slice();
        if hits.is_empty() {
            write_zero_results(out);
            return;
        }
        out.reserve(FRAME_BYTES + hits.len() * RESULT_BYTES);
        let mut answer = AnswerWriter::begin(CREDIT, out);
        for hit in hits {
            write_result(&INDEX, hit, answer.result());
        }
        answer.finish(None);
    }
}

fn write_result(index: &Index<'_>, hit: &Hit, out: &mut Vec<u8>) {
    let place = index.place(hit.index);
    let (source, types): (&[u8], &[u8]) = match index.node(hit.index).class {
        Class::Airport => (
            b"ourairports:",
            br#""airport","point_of_interest","establishment""#,
        ),
        Class::Helipad => (b"ourairports:", br#""point_of_interest","establishment""#),
        Class::Locality => (b"geonames:", br#""locality","political""#),
    };
    out.extend_from_slice(br#"{"geometry":{"location":{"lat":"#);
    write_degrees(place.latitude, out);
    out.extend_from_slice(br#","lng":"#);
    write_degrees(place.longitude, out);
    out.extend_from_slice(br#"}},"name":""#);
    out.extend_from_slice(index.text(place.name));
    out.extend_from_slice(br#"","place_id":""#);
    out.extend_from_slice(source);
    write_u64(u64::from(place.id), out);
    out.extend_from_slice(br#"","scope":"APP","types":["#);
    out.extend_from_slice(types);
    out.extend_from_slice(br#"],"vicinity":""#);
    out.extend_from_slice(index.text(place.vicinity));
    out.extend_from_slice(br#""}"#);
}

/// Writes microdegrees as decimal degrees, with as many decimals as they need and at least one.
fn write_degrees(microdegrees: i32, out: &mut Vec<u8>) {
    if microdegrees < 0 {
        out.push(b'-');
    }
    write_u64(u64::from(microdegrees.unsigned_abs() / 1_000_000), out);
    out.push(b'.');
    let decimals: [u8; 6] = fixed_digits(u64::from(microdegrees.unsigned_abs() % 1_000_000));
    let last = decimals.iter().rposition(|&digit| digit != b'0');
    out.extend_from_slice(&decimals[..=last.unwrap_or(0)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Returns the answer to a query, parsed from its JSON.
    #[track_caller]
    fn ask(location: &str, radius_km: f64, bound: u8) -> Value {
        let center = Position::parse(location.as_bytes()).unwrap();
        let mut out = b"AT\n".to_vec();
        Atlas.nearby(&center, radius_km, bound, &mut out);
        let text = std::str::from_utf8(&out).unwrap();
        let text = text.strip_prefix("AT\n").unwrap();
        assert!(!text.contains("\n\n") && !text.ends_with('\n'), "{text}");
        let answer: Value = serde_json::from_str(text).unwrap();
        let results = answer["results"].as_array().unwrap();
        assert!(results.len() <= usize::from(bound));
        let status = if results.is_empty() {
            "ZERO_RESULTS"
        } else {
            "OK"
        };
        assert_eq!(answer["status"], status);
        answer
    }

    fn names(answer: &Value) -> Vec<&str> {
        let results = answer["results"].as_array().unwrap();
        results
            .iter()
            .map(|result| result["name"].as_str().unwrap())
            .collect()
    }

    /// Checks the first results of an answer.
    #[track_caller]
    fn check(location: &str, radius_km: f64, expected: &[&str]) {
        let answer = ask(location, radius_km, expected.len() as u8);
        assert_eq!(names(&answer), expected, "{location}");
    }

    #[test]
    fn known_places_come_first() {
        check(
            "+34.068930-118.445127",
            10.0,
            &["Santa Monica Municipal Airport", "Santa Monica", "Mid-City"],
        );
        check(
            "+34.068930-118.445127",
            50.0,
            &[
                "Los Angeles International Airport",
                "Santa Monica Municipal Airport",
            ],
        );
        check("+51.5074-0.1278", 10.0, &["London", "Islington"]);
        check("+51.5074-0.1278", 50.0, &["London Heathrow Airport"]);
        check("+35.6895+139.69171", 10.0, &["Tokyo", "Setagaya"]);
        check(
            "+35.6895+139.69171",
            50.0,
            &["Tokyo Haneda International Airport"],
        );
        check(
            "-1.28333+36.81667",
            10.0,
            &["Nairobi Wilson Airport", "Moi Air Base", "Nairobi"],
        );
        let answer = ask("+34.068930-118.445127", 50.0, 20);
        assert!(names(&answer).contains(&"Los Angeles"));
    }

    #[test]
    fn results_have_googles_shape() {
        let answer = ask("+33.942501-118.407997", 1.0, 1);
        let expected = serde_json::json!([{
            "geometry": { "location": { "lat": 33.942501, "lng": -118.407997 } },
            "name": "Los Angeles International Airport",
            "place_id": "ourairports:3632",
            "scope": "APP",
            "types": ["airport", "point_of_interest", "establishment"],
            "vicinity": "Los Angeles, California, United States (LAX)",
        }]);
        assert_eq!(answer["results"], expected);
        let credit = answer["html_attributions"].to_string();
        for word in [
            "GeoNames",
            "CC BY 4.0",
            "creativecommons.org/licenses/by/4.0",
            "OurAirports",
        ] {
            assert!(credit.contains(word), "{credit}");
        }

        let answer = ask("+34.05223-118.24368", 20.0, 20);
        let results = answer["results"].as_array().unwrap();
        let city = results
            .iter()
            .find(|result| result["name"] == "Los Angeles")
            .unwrap();
        assert_eq!(city["types"], serde_json::json!(["locality", "political"]));
        assert_eq!(city["place_id"], "geonames:5368361");
        assert_eq!(city["vicinity"], "California, United States");
    }

    #[test]
    fn a_result_takes_one_line() {
        let center = Position::parse(b"+51.5074-0.1278").unwrap();
        let mut out = Vec::new();
        Atlas.nearby(&center, 10.0, 7, &mut out);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 + 7 + 2);
        assert!(
            lines[2..9]
                .iter()
                .all(|line| line.starts_with(r#"{"geometry""#))
        );
    }

    #[test]
    fn both_sides_of_the_date_line_agree() {
        for (latitude, least) in [
            ("-16.7", 2),
            ("+66.0", 0),
            ("+68.9", 0),
            ("+0", 0),
            ("+90", 0),
        ] {
            let east = ask(&format!("{latitude}+180"), 50.0, 20);
            let west = ask(&format!("{latitude}-180"), 50.0, 20);
            assert_eq!(east, west);
            assert!(names(&east).len() >= least, "{east}");
        }
        // Islands of Fiji lie on both sides of the line.
        for location in ["-16.7+179.95", "-16.7-179.95"] {
            let answer = ask(location, 50.0, 20);
            let results = answer["results"].as_array().unwrap();
            let is_east =
                |result: &Value| result["geometry"]["location"]["lng"].as_f64() > Some(0.0);
            assert!(results.iter().any(is_east), "{answer}");
            assert!(!results.iter().all(is_east), "{answer}");
        }
    }

    #[test]
    fn the_poles_can_be_searched() {
        for longitude in ["+0", "+180", "-77.25"] {
            let answer = ask(&format!("-90{longitude}"), 10.0, 20);
            assert_eq!(names(&answer)[0], "South Pole Station Airport");
            let location = &answer["results"][0]["geometry"]["location"];
            assert_eq!(location["lat"], -90.0);
            assert!(names(&ask(&format!("+90{longitude}"), 50.0, 20)).is_empty());
        }
    }

    #[test]
    fn no_place_within_the_radius_is_an_answer() {
        for (location, radius_km, bound) in [
            ("-48.876667-123.393333", 50.0, 20),
            ("+0+0", 50.0, 20),
            ("+34.068930-118.445127", 10.0, 0),
            ("+34.068930-118.445127", 0.0, 20),
        ] {
            let answer = ask(location, radius_km, bound);
            assert_eq!(answer["results"], serde_json::json!([]), "{location}");
        }
    }

    #[test]
    fn every_string_is_json() {
        for index in 0..INDEX.len() {
            let place = INDEX.place(index);
            for offset in [place.name, place.vicinity] {
                let quoted = [b"\"", INDEX.text(offset), b"\""].concat();
                serde_json::from_slice::<String>(&quoted).unwrap();
            }
        }
    }

    #[test]
    fn degrees_keep_every_digit() {
        for (microdegrees, expected) in [
            (0, "0.0"),
            (-90_000_000, "-90.0"),
            (34_015_800, "34.0158"),
            (-118_450_996, "-118.450996"),
            (-500, "-0.0005"),
            (1, "0.000001"),
            (179_999_999, "179.999999"),
            (100_000, "0.1"),
            (10_000_000, "10.0"),
        ] {
            let mut out = Vec::new();
            write_degrees(microdegrees, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
