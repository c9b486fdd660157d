//! The atlas: an offline gazetteer compiled into the server, so that `WHATSAT` needs no key and
//! no network.
//!
//! It contains airports, heliports and localities (GeoNames, OurAirports; see `make.py`), but no
//! restaurants or shops. `build.rs` lays out its index, which is part of the binary: nothing is
//! read, built or allocated at start, and all servers of a machine share its pages. Places are
//! ranked by weight and distance: by distance alone, the twenty nearest to a city campus may all be
//! helipads on roofs; by weight alone, an airport 17 km away comes before the city around one.

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
    pub(crate) fn nearby(&self, center: &Position, radius_km: f64, bound: u8, out: &mut Vec<u8>) {
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

    #[test]
    fn the_first_place_is_the_one_that_a_person_would_name() {
        let spots: &[(&str, &str, f64, &[&str])] = &[
            (
                "UCLA",
                "+34.068930-118.445127",
                10.0,
                &[
                    "Brentwood",
                    "Sawtelle",
                    "Bel Air",
                    "Beverly Hills",
                    "Santa Monica",
                ],
            ),
            (
                "UCLA",
                "+34.068930-118.445127",
                50.0,
                &[
                    "Los Angeles",
                    "Los Angeles International Airport",
                    "Brentwood",
                    "Sawtelle",
                    "Bel Air",
                ],
            ),
            (
                "Tokyo Station",
                "+35.6812+139.7671",
                10.0,
                &["Tokyo", "Chūō", "Minato City", "Chiyoda", "Taito"],
            ),
            (
                "Tokyo Station",
                "+35.6812+139.7671",
                50.0,
                &["Tokyo", "Chūō", "Minato City", "Chiyoda", "Taito"],
            ),
            (
                "Shibuya",
                "+35.6580+139.7016",
                10.0,
                &["Tokyo", "Shibuya", "Meguro", "Setagaya", "Shinjuku"],
            ),
            (
                "Trafalgar Square",
                "+51.5080-0.1281",
                10.0,
                &[
                    "London",
                    "City of Westminster",
                    "Islington",
                    "Soho",
                    "St James's",
                ],
            ),
            (
                "Trafalgar Square",
                "+51.5080-0.1281",
                50.0,
                &[
                    "London",
                    "City of Westminster",
                    "Islington",
                    "Soho",
                    "St James's",
                ],
            ),
            (
                "Heathrow, terminal 2",
                "+51.4700-0.4515",
                10.0,
                &[
                    "London Heathrow Airport",
                    "Feltham",
                    "Hayes",
                    "Stanwell",
                    "Hounslow",
                ],
            ),
            (
                "Heathrow, terminal 2",
                "+51.4700-0.4515",
                50.0,
                &[
                    "London Heathrow Airport",
                    "London",
                    "Feltham",
                    "Hayes",
                    "Stanwell",
                ],
            ),
            (
                "Notre-Dame",
                "+48.8530+2.3499",
                50.0,
                &[
                    "Paris",
                    "Paris 05 Panthéon",
                    "Paris 13 Gobelins",
                    "Paris 04 Hôtel-de-Ville",
                    "Paris 11 Popincourt",
                ],
            ),
            (
                "Berlin, Mitte",
                "+52.5200+13.4050",
                10.0,
                &[
                    "Berlin",
                    "Mitte",
                    "Kreuzberg",
                    "Prenzlauer Berg",
                    "Friedrichshain",
                ],
            ),
            (
                "Nairobi",
                "-1.2864+36.8172",
                10.0,
                &[
                    "Nairobi",
                    "Pumwani",
                    "Nairobi Wilson Airport",
                    "Moi Air Base",
                    "Imara Daima Estate",
                ],
            ),
            (
                "Reykjavik",
                "+64.1466-21.9426",
                10.0,
                &[
                    "Reykjavík",
                    "Reykjavik Airport",
                    "Kópavogur",
                    "Seltjarnarnes",
                    "Hafnarfjörður",
                ],
            ),
            (
                "Times Square",
                "+40.7580-73.9855",
                50.0,
                &[
                    "New York City",
                    "Manhattan",
                    "Times Square",
                    "Hell's Kitchen",
                    "Upper West Side",
                ],
            ),
            (
                "JFK, terminal 4",
                "+40.6441-73.7822",
                50.0,
                &[
                    "John F Kennedy International Airport",
                    "Queens",
                    "New York City",
                    "Brooklyn",
                    "Jamaica",
                ],
            ),
            (
                "Zurich, main station",
                "+47.3779+8.5403",
                10.0,
                &[
                    "Zürich",
                    "Zürich Airport",
                    "Zürich (Kreis 4) / Aussersihl",
                    "Zürich (Kreis 6)",
                    "Zürich (Kreis 4) / Langstrasse",
                ],
            ),
            (
                "Giverny, a village",
                "+49.0758+1.5339",
                10.0,
                &[
                    "Giverny",
                    "Vernon",
                    "Limetz-Villez",
                    "Bonnières-sur-Seine",
                    "Saint-Marcel",
                ],
            ),
            (
                "Giverny, a village",
                "+49.0758+1.5339",
                50.0,
                &[
                    "Giverny",
                    "Vernon",
                    "Limetz-Villez",
                    "Mantes-la-Jolie",
                    "Bonnières-sur-Seine",
                ],
            ),
            (
                "Versailles",
                "+48.8049+2.1204",
                50.0,
                &[
                    "Versailles",
                    "Le Chesnay",
                    "Paris",
                    "Paris-Orly Airport",
                    "Saint-Quentin-en-Yvelines",
                ],
            ),
            (
                "the South Pole",
                "-90+0",
                10.0,
                &["South Pole Station Airport", "Jack F. Paulus Skiway"],
            ),
            (
                "Taveuni, east of the date line",
                "-16.7+179.95",
                50.0,
                &[
                    "Matei Airport",
                    "Rabi Island Airport",
                    "Laucala Island Airport",
                ],
            ),
            (
                "Taveuni, west of the date line",
                "-16.7-179.95",
                50.0,
                &[
                    "Matei Airport",
                    "Rabi Island Airport",
                    "Laucala Island Airport",
                ],
            ),
        ];
        for &(spot, location, radius_km, expected) in spots {
            let five = ask(location, radius_km, 5);
            assert_eq!(names(&five), expected, "{spot}, {radius_km} km");
            let one = ask(location, radius_km, 1);
            assert_eq!(names(&one), expected[..1], "{spot}, {radius_km} km");
        }
    }

    #[test]
    fn a_city_comes_before_an_airport_that_is_as_far_away() {
        for (location, city, airport) in [
            (
                "+34.068930-118.445127",
                "Los Angeles",
                "Los Angeles International Airport",
            ),
            (
                "+35.6812+139.7671",
                "Tokyo",
                "Tokyo Haneda International Airport",
            ),
        ] {
            let answer = ask(location, 20.0, 20);
            let names = names(&answer);
            let rank = |wanted: &str| names.iter().position(|&name| name == wanted);
            assert!(
                rank(city).unwrap() < rank(airport).unwrap_or(20),
                "{names:?}"
            );
        }
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
