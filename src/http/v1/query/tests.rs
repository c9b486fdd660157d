//! Tests of the parameters of a query: well-formed ones, and a table of faulty ones with their codes.

use super::*;

#[track_caller]
fn faults<T: std::fmt::Debug>(
    parse: impl Fn(&str) -> Result<T, Fault>,
    cases: &[(&str, Code, &str)],
) {
    for (query, code, words) in cases {
        let fault = parse(query).expect_err(query);
        assert_eq!(fault.code, *code, "{query}: {}", fault.text);
        assert!(fault.text.contains(words), "{query}: {}", fault.text);
    }
}

/// Texts that are no number of any parameter.
const NO_NUMBERS: [&str; 24] = [
    "",
    "x",
    "NaN",
    "nan",
    "inf",
    "-inf",
    "infinity",
    "1e5",
    "1E1",
    "1e-3",
    "0x10",
    "1_000",
    "1,5",
    ".5",
    "5.",
    "--1",
    "+-1",
    "1-",
    "%201",
    "1%20",
    "1%00",
    "%ff",
    "1.2.3",
    "1.00000000000000000000000000000000000000000000000000000000000",
];

#[test]
fn a_text_is_decoded_or_refused() {
    for (text, expected) in [
        ("kiwi", Some(&b"kiwi"[..])),
        ("", Some(b"")),
        ("a%2Fb%2fc", Some(b"a/b/c")),
        ("%00%ff%25", Some(b"\x00\xff%")),
        ("a+b", Some(b"a+b")),
        ("\u{6771}%E4%BA%AC", Some("東京".as_bytes())),
        ("%", None),
        ("%2", None),
        ("%zz", None),
        ("%2g", None),
        ("%%20", None),
        ("%+1", None),
        ("%\u{e9}1", None),
    ] {
        assert_eq!(decode(text).as_deref(), expected, "{text}");
    }
}

#[test]
fn an_id_in_a_path_is_any_that_can_report() {
    assert_eq!(path_id("%F0%9F%A5%9D%00").unwrap(), b"\xf0\x9f\xa5\x9d\x00");
    assert_eq!(path_id(&"%41".repeat(255)).unwrap(), [b'A'; 255]);
    faults(
        path_id,
        &[
            ("", Code::Client, "1 to 255 bytes"),
            (&"%41".repeat(256), Code::Client, "1 to 255 bytes"),
            ("a%20b", Code::Client, "white space"),
            ("a%0Ab", Code::Client, "white space"),
            ("a/b", Code::Client, "%2F"),
            ("a%2", Code::Client, "two hexadecimal digits"),
        ],
    );
    assert_eq!(require_none("", "/v1/clients/ID"), Ok(()));
    faults(
        |query| require_none(query, "/v1/clients/ID"),
        &[("x", Code::Syntax, "no parameter x")],
    );
}

#[test]
fn nearby_has_a_center_a_radius_and_a_limit() {
    let position = |latitude, longitude| {
        Center::Position(Position {
            latitude,
            longitude,
        })
    };
    for (query, center, radius_km, limit) in [
        (
            "lat=34.06893&lon=-118.445127&radius=10",
            position(34.06893, -118.445127),
            10.0,
            20,
        ),
        (
            "limit=1000&radius=20016&lon=%2B180&lat=-90.000",
            position(-90.0, 180.0),
            20_016.0,
            1_000,
        ),
        (
            "&lat=+0&&lon=-0.0&radius=0.001&limit=001&",
            position(0.0, 0.0),
            0.001,
            1,
        ),
        (
            "client=a+b%ff&radius=1&limit=7",
            Center::Client(b"a+b\xff".to_vec()),
            1.0,
            7,
        ),
    ] {
        let expected = Nearby {
            center,
            radius_km,
            limit,
        };
        assert_eq!(Nearby::parse(query), Ok(expected), "{query}");
    }
    faults(
        Nearby::parse,
        &[
            ("", Code::Syntax, "lat is missing"),
            ("lat=1", Code::Syntax, "lon is missing"),
            ("lon=1&radius=1", Code::Syntax, "lat is missing"),
            (
                "lat=1&lon=1",
                Code::Syntax,
                "radius is missing; ask /v1/nearby?lat=LAT",
            ),
            ("client=a", Code::Syntax, "radius is missing"),
            (
                "lat=1&lon=1&client=a&radius=1",
                Code::Syntax,
                "either lat and lon, or client",
            ),
            (
                "lon=1&client=a&radius=1",
                Code::Syntax,
                "either lat and lon, or client",
            ),
            (
                "lat=1&lat=1&lon=1&radius=1",
                Code::Syntax,
                "lat is given twice",
            ),
            (
                "lat=1&lon=1&radius=1&bound=1",
                Code::Syntax,
                "no parameter bound",
            ),
            (
                "lat=1&lon=1&radius=1&Lat=1",
                Code::Syntax,
                "no parameter Lat",
            ),
            ("lat=1&lon=1&radius=1&=1", Code::Syntax, "no parameter"),
            (
                "lat=%zz&lon=1&radius=1",
                Code::Syntax,
                "lat is not percent-encoded",
            ),
            (
                "lat=90.00000000000000001&lon=1&radius=1",
                Code::Location,
                "from -90 to 90",
            ),
            (
                "lat=1&lon=-180.1&radius=1",
                Code::Location,
                "from -180 to 180",
            ),
            ("lat=91&lon=1&radius=x", Code::Location, "lat must be"),
            ("lat=1&lon=1&radius=0", Code::Radius, "over 0, up to 20016"),
            ("lat=1&lon=1&radius=0.000", Code::Radius, "over 0"),
            ("lat=1&lon=1&radius=-1", Code::Radius, "over 0"),
            ("lat=1&lon=1&radius=+1", Code::Radius, "over 0"),
            (
                "lat=1&lon=1&radius=20016.0000000001",
                Code::Radius,
                "up to 20016",
            ),
            (
                "lat=1&lon=1&radius=1&limit=0",
                Code::Bound,
                "from 1 to 1000",
            ),
            (
                "lat=1&lon=1&radius=1&limit=1001",
                Code::Bound,
                "from 1 to 1000",
            ),
            (
                "lat=1&lon=1&radius=1&limit=5.0",
                Code::Bound,
                "whole number",
            ),
            ("lat=1&lon=1&radius=1&limit=-1", Code::Bound, "whole number"),
            (
                "lat=1&lon=1&radius=1&limit=99999999999999999999999",
                Code::Bound,
                "whole number",
            ),
            ("client=&radius=1", Code::Client, "1 to 255 bytes"),
            ("client=a%20b&radius=1", Code::Client, "white space"),
        ],
    );
    for text in NO_NUMBERS {
        for (name, code) in [
            ("lat", Code::Location),
            ("lon", Code::Location),
            ("radius", Code::Radius),
            ("limit", Code::Bound),
        ] {
            let pair = |other: &str| match other == name {
                true => format!("{name}={text}"),
                false => format!("{other}=1"),
            };
            let query = ["lat", "lon", "radius", "limit"].map(pair).join("&");
            assert_eq!(Nearby::parse(&query).unwrap_err().code, code, "{query}");
        }
    }
}

#[test]
fn a_box_has_four_edges() {
    let parsed = Within::parse("south=-1&west=170&north=1.5&east=-170&limit=3").unwrap();
    let expected = Within {
        rectangle: Rectangle {
            south: -1.0,
            west: 170.0,
            north: 1.5,
            east: -170.0,
        },
        limit: 3,
    };
    assert_eq!(parsed, expected);
    assert_eq!(
        Within::parse("south=1&west=1&north=1&east=1")
            .unwrap()
            .limit,
        20
    );
    faults(
        Within::parse,
        &[
            ("", Code::Syntax, "south is missing"),
            ("south=1&west=1&north=1", Code::Syntax, "east is missing"),
            (
                "south=1&west=1&north=1&east=1&radius=1",
                Code::Syntax,
                "no parameter radius",
            ),
            (
                "south=2&west=1&north=1&east=1",
                Code::Location,
                "south=2 is north of north=1",
            ),
            (
                "south=1&west=181&north=1&east=1",
                Code::Location,
                "west must be",
            ),
            (
                "south=1&west=1&north=91&east=1",
                Code::Location,
                "north must be",
            ),
            (
                "south=1&west=1&north=1&east=1&limit=x",
                Code::Bound,
                "whole number",
            ),
        ],
    );
    for text in NO_NUMBERS {
        let query = format!("south=1&west={text}&north=1&east=1");
        assert_eq!(
            Within::parse(&query).unwrap_err().code,
            Code::Location,
            "{query}"
        );
    }
}

#[test]
fn watches_are_of_an_area_or_of_a_client_and_each_begins_with_its_name() {
    let area = |latitude, longitude, radius_km| {
        Target::Area(Circle {
            center: Position {
                latitude,
                longitude,
            },
            radius_km,
        })
    };
    let watch = |name: &str, target| Watch {
        name: name.to_owned(),
        target,
    };
    let client = |id: &[u8]| Target::Client(id.to_vec());
    for (query, expected) in [
        (
            "lat=1&lon=2&radius=3",
            vec![watch("watch", area(1.0, 2.0, 3.0))],
        ),
        ("client=%ff", vec![watch("watch", client(b"\xff"))]),
        (
            "lat=1&lon=2&radius=3&name=%C3%A9",
            vec![watch("é", area(1.0, 2.0, 3.0))],
        ),
        (
            "name=a&lat=1&lon=2&radius=3&name=b&client=c",
            vec![watch("a", area(1.0, 2.0, 3.0)), watch("b", client(b"c"))],
        ),
    ] {
        assert_eq!(Watch::parse_all(query), Ok(expected), "{query}");
    }
    let long = format!("client=a&name={}", "x".repeat(65));
    faults(
        Watch::parse_all,
        &[
            ("", Code::Syntax, "lat is missing"),
            ("lat=1&lon=2", Code::Syntax, "radius is missing"),
            ("client=a&radius=1", Code::Syntax, "a client has no radius"),
            (
                "client=a&lat=1",
                Code::Syntax,
                "either lat and lon, or client",
            ),
            ("client=a&client=b", Code::Syntax, "client is given twice"),
            ("name=a&name=b&client=b", Code::Syntax, "lat is missing"),
            ("client=a&limit=1", Code::Syntax, "no parameter limit"),
            (
                "name=a&client=a&name=a&client=b",
                Code::Name,
                "two watches have the name a",
            ),
            ("name=&client=a", Code::Name, "1 to 64 bytes"),
            ("name=%ff&client=a", Code::Name, "UTF-8"),
            ("name=a%20b&client=a", Code::Name, "white space"),
            (&long, Code::Name, "1 to 64 bytes"),
            ("lat=1&lon=2&radius=20017", Code::Radius, "up to 20016"),
            ("client=a%20b", Code::Client, "white space"),
        ],
    );
}
