//! The layout of the page on a desk and on a phone, in light and dark, and its pictures.

use std::time::Duration;

use super::page::{DESK, PATIENCE, Page, Position, SHOWN, Site, can_browse, pictures};
use super::webdriver::ENTER;
use crate::support::fleet::Fleet;

/// Width of the picture for the documentation.
const PICTURE_WIDTH: u32 = 1300;

/// Sizes at which the layout is checked: a phone's and a desk's.
const SIZES: [(u32, u32); 2] = [(360, 800), DESK];

/// A town with few clients and few places around it.
const ISLAND: &str = "hanga-roa";

/// Towns on all continents, with their clients around them.
const TOWNS: [(&str, f64, f64); 25] = [
    ("los-angeles", 34.05, -118.24),
    ("new-york", 40.71, -74.0),
    ("mexico-city", 19.43, -99.13),
    ("bogota", 4.71, -74.07),
    ("lima", -12.05, -77.04),
    ("sao-paulo", -23.55, -46.63),
    ("buenos-aires", -34.6, -58.38),
    ("reykjavik", 64.15, -21.94),
    ("london", 51.51, -0.13),
    ("lisbon", 38.72, -9.14),
    ("zurich", 47.37, 8.54),
    ("oslo", 59.91, 10.75),
    ("istanbul", 41.01, 28.98),
    ("cairo", 30.04, 31.24),
    ("lagos", 6.52, 3.38),
    ("nairobi", -1.29, 36.82),
    ("cape-town", -33.92, 18.42),
    ("mumbai", 19.08, 72.88),
    ("almaty", 43.24, 76.89),
    ("bangkok", 13.76, 100.5),
    ("beijing", 39.9, 116.41),
    ("tokyo", 35.68, 139.69),
    ("sydney", -33.87, 151.21),
    ("auckland", -36.85, 174.76),
    (ISLAND, -27.15, -109.43),
];

/// Clients with their positions.
type Clients = Vec<(String, Position)>;

/// Some clients of each town, the first at its center and the others around it.
fn townspeople() -> Clients {
    let mut random = fastrand::Rng::with_seed(5);
    let mut all = Vec::new();
    for (town, latitude, longitude) in TOWNS {
        let count = if town == ISLAND {
            3
        } else {
            random.usize(2..40)
        };
        for number in 0..count {
            let distance = if number == 0 {
                0.0
            } else {
                11.0 * random.f64().powi(3)
            };
            let angle = std::f64::consts::TAU * random.f64();
            let east = longitude + distance * angle.cos();
            let at = (
                latitude + 0.8 * distance * angle.sin(),
                (east + 540.0).rem_euclid(360.0) - 180.0,
            );
            all.push((format!("{town}-{number}.example.com"), at));
        }
    }
    all
}

/// A herd of five with some hundred clients, and the page of Welsh.
fn open(label: &str) -> (Site, Page, Clients) {
    let site = Site::start(Fleet::ring(label, &[]));
    let clients = townspeople();
    site.report_all(&clients);
    let page = Page::open(&site, site.index("Welsh"), DESK);
    let (name, at) = clients.last().unwrap();
    page.await_client(name, *at);
    (site, page, clients)
}

/// Opens the list of what is near a client.
fn show_near(page: &Page, (client, at): &(String, Position)) {
    page.browser.run(
        "document.querySelector('#map').scrollIntoView({ block: 'center' })",
        &[],
    );
    let (x, y) = page.point(*at);
    page.browser.click(x, y);
    page.await_text("#near", client, PATIENCE);
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn nothing_overlaps_on_a_desk_and_on_a_phone() {
    if !can_browse("the layout") {
        return;
    }
    let (mut site, page, clients) = open("page-layout");
    let ball = site.index("Ball");
    let check = |what: &str| {
        for (width, height) in SIZES {
            page.browser.resize(width, height);
            for scheme in ["light", "dark"] {
                page.browser.prefer(scheme);
                page.browser
                    .wait_until(PATIENCE, &format!("innerWidth === {width}"));
                page.await_frame();
                let form = format!("{what}-{scheme}-{width}");
                page.browser.run("scrollTo(0, 0)", &[]);
                page.browser
                    .screenshot(&pictures().join(format!("{form}.png")));
                page.assert_layout(&form);
            }
        }
    };
    check("whole");
    site.kill(&[ball]);
    page.await_states(&site, &[ball], "down", SHOWN);
    page.await_text("#banner", "Ball", SHOWN);
    check("down");
    page.browser
        .run("document.querySelector('details').open = true", &[]);
    check("tables");
    page.browser.resize(360, 800);
    page.await_text("#tables-hint", "sideways", PATIENCE);
    // An error in few lines, not in one for each word.
    let tallest = "return Math.max(...[...document.querySelectorAll('details tr')].map((row) => row.offsetHeight))";
    let tallest = page.browser.run(tallest, &[]).as_u64().unwrap();
    assert!(tallest <= 100, "a row of {tallest} px");
    page.browser
        .run("document.querySelector('details').scrollIntoView()", &[]);
    page.browser
        .screenshot(&pictures().join("tables-rows-360.png"));
    page.browser
        .run("document.querySelector('details').open = false", &[]);
    site.restart(&[ball]);
    page.await_states(&site, &[ball], "ok", SHOWN);
    show_near(&page, &clients[0]);
    page.browser
        .run("document.querySelector('#search').focus()", &[]);
    page.browser.keys(&format!("{}{ENTER}", clients[5].0));
    page.await_text("#search-result", &clients[5].0, PATIENCE);
    check("near");
    // All of a report is in sight on a phone too.
    page.browser.resize(360, 800);
    page.await_frame();
    let is_whole = "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)(document.querySelector('#search-reports'))";
    page.browser.wait_until(PATIENCE, is_whole);
    page.assert_quiet();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn the_label_of_a_client_stays_on_the_map() {
    if !can_browse("the label on the map") {
        return;
    }
    let site = Site::start(Fleet::alone("page-label", &[]));
    let page = Page::open(&site, 0, SIZES[0]);
    let load =
        "import('/page/label.js').then(({ placeLabel }) => { window.placeLabel = placeLabel; })";
    page.browser.run(load, &[]);
    page.browser.wait_until(PATIENCE, "window.placeLabel");
    // Labels from a letter to more than the map has room for, at marks all over it.
    let outside = "const context = document.createElement('canvas').getContext('2d');
        context.font = '600 13px system-ui, sans-serif';
        const measure = (text) => context.measureText(text).width;
        const { clientWidth: width, clientHeight: height } = document.querySelector('#map');
        const outside = [];
        for (const text of ['x', 'los-angeles-5.example.com', 'wide-'.repeat(6) + 'end', 'long-'.repeat(50)]) {
            for (let x = 0; x <= width; x += 4) for (let y = 0; y <= height; y += 4) {
                const label = placeLabel(text, { x, y }, { width, height }, measure);
                const right = label.left + measure(label.text);
                const isInside = label.left >= 0 && right <= width && label.line >= 12 && label.line <= height - 4;
                if (!isInside || !label.text.startsWith(text.slice(0, 1))) outside.push({ x, y, ...label });
            }
        }
        return outside.slice(0, 3);";
    let outside = page.browser.run(outside, &[]);
    assert_eq!(outside, serde_json::json!([]));
    let gone = "return placeLabel('kiwi', { x: -20, y: 5 }, { width: 300, height: 150 }, () => 30)";
    assert!(page.browser.run(gone, &[]).is_null(), "no mark, no label");
    page.assert_quiet();
}

/// The picture of docs/page.md, which has the command that makes it of this one.
#[test]
#[ignore = "long: ./test.sh --slow"]
fn a_picture_for_the_documentation() {
    if !can_browse("the picture") {
        return;
    }
    let (site, page, mut clients) = open("page-picture");
    page.browser.resize(PICTURE_WIDTH, DESK.1);
    page.await_frame();
    let is_center = |(name, _): &&(String, Position)| name.starts_with(&format!("{ISLAND}-0."));
    show_near(&page, clients.iter().find(is_center).unwrap());
    // Half a minute in which some clients move and ask, for the figures to have lines.
    let mut random = fastrand::Rng::with_seed(6);
    let welsh = site.index("Welsh");
    let mut asking: Vec<_> = (0..12).map(|_| site.fleet.client(welsh)).collect();
    for _ in 0..300 {
        let mut some = Vec::new();
        for (name, (latitude, longitude)) in &mut clients {
            if random.u8(..10) == 0 {
                *latitude += 0.2 * (random.f64() - 0.5);
                *longitude = (*longitude + 0.2 * (random.f64() - 0.5)).clamp(-180.0, 180.0);
                some.push((name.clone(), (*latitude, *longitude)));
            }
        }
        site.report_all(&some);
        for client in asking.iter_mut().take(random.usize(1..12)) {
            client.whatsat(&clients[0].0);
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    // The whole page, down to its end.
    let height = page
        .browser
        .run("scrollTo(0, 0); return document.body.scrollHeight", &[]);
    page.browser.resize(
        PICTURE_WIDTH,
        u32::try_from(height.as_u64().unwrap()).unwrap(),
    );
    page.await_frame();
    page.browser.screenshot(&pictures().join("page.png"));
    page.assert_layout("the picture");
    page.assert_quiet();
}
