//! The layout of the page on a desk and on a phone, in light and dark, and its pictures.

use super::page::{DESK, PATIENCE, Page, Position, SHOWN, Site, can_browse, pictures};
use super::webdriver::ENTER;
use crate::support::fleet::Fleet;

const SIZES: [(u32, u32); 2] = [(360, 800), DESK];

/// Towns on all continents, with their clients around them.
const TOWNS: [(&str, f64, f64); 24] = [
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
];

/// Clients with their positions.
type Clients = Vec<(String, Position)>;

/// Clients around towns: closer to the town's center than to its edge, in a spiral.
fn townspeople(each: usize) -> Clients {
    let mut all = Vec::new();
    for (town, latitude, longitude) in TOWNS {
        for number in 0..each {
            let distance = 7.0 * (number as f64 / each as f64).powi(2);
            let angle = 2.4 * number as f64;
            let at = (
                latitude + distance * angle.sin(),
                (longitude + distance * angle.cos() + 540.0).rem_euclid(360.0) - 180.0,
            );
            all.push((format!("{town}-{number}.example.com"), at));
        }
    }
    all
}

/// A herd of five with some hundred clients, and the page of Welsh.
fn open(label: &str) -> (Site, Page, Clients) {
    let site = Site::start(Fleet::ring(label, &[]));
    let clients = townspeople(20);
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
                // A frame later the page has taken the size over.
                page.browser
                    .wait_until(PATIENCE, &format!("innerWidth === {width}"));
                page.browser.run("window.drawn = false; requestAnimationFrame(() => requestAnimationFrame(() => { drawn = true; }));", &[]);
                page.browser.wait_until(PATIENCE, "drawn");
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
    site.restart(&[ball]);
    page.await_states(&site, &[ball], "ok", SHOWN);
    show_near(&page, &clients[0]);
    page.browser
        .run("document.querySelector('#search').focus()", &[]);
    page.browser.keys(&format!("{}{ENTER}", clients[5].0));
    page.await_text("#search-result", &clients[5].0, PATIENCE);
    check("near");
    page.assert_quiet();
}

/// The picture of docs/page.md, which says how it gets from `target/page` there.
#[test]
#[ignore = "long: ./test.sh --slow"]
fn the_picture_for_the_documentation_is_small() {
    if !can_browse("the picture") {
        return;
    }
    let (site, page, mut clients) = open("page-picture");
    let center = clients
        .iter()
        .position(|(name, _)| name.starts_with("zurich-0."))
        .unwrap();
    show_near(&page, &clients[center]);
    // Some seconds of reports, for the figures to have lines.
    for _ in 0..40 {
        clients
            .iter_mut()
            .for_each(|(_, (latitude, _))| *latitude += 0.004);
        site.report_all(&clients);
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
    let picture = pictures().join("page.png");
    page.browser.screenshot(&picture);
    let length = std::fs::metadata(&picture).unwrap().len();
    assert!(length < 200_000, "{length} bytes");
    page.assert_quiet();
}
