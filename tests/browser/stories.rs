//! A user at the page: looks, clicks, searches, and uses keys.

use serde_json::{Value, json};

use super::page::{DESK, PATIENCE, Page, Position, SHOWN, Site, can_browse};
use super::webdriver::{ENTER, ESCAPE, RIGHT, TAB, stroke};
use crate::support::fleet::Fleet;
use crate::support::process::wait_for;

/// Positions in the ocean, where no border or name is drawn near a point.
const OCEAN: Position = (-35.3, -111.7);
const OTHER_OCEAN: Position = (-28.7, 77.3);

/// A position on land with places around it.
const TOWN: Position = (34.068_93, -118.445_127);

/// The part of the world that the map shows.
#[derive(Clone, Copy, PartialEq)]
struct View {
    /// Point of the window at which latitude and longitude are 0.
    origin: (f64, f64),
    /// Pixels of 10 degrees of longitude.
    scale: f64,
}

impl View {
    #[track_caller]
    fn of(page: &Page) -> View {
        let (origin, east) = (page.point((0.0, 0.0)), page.point((0.0, 10.0)));
        View {
            origin,
            scale: east.0 - origin.0,
        }
    }

    /// Waits until the view is as wanted and the map is at rest.
    #[track_caller]
    fn await_other(page: &Page, what: &str, is_wanted: impl Fn(View) -> bool) -> View {
        let mut now = View::of(page);
        wait_for(what, PATIENCE, || {
            let last = std::mem::replace(&mut now, View::of(page));
            last == now && is_wanted(now)
        });
        now
    }
}

/// The atlas' names of places near a position.
fn places(site: &Site, server: usize, (latitude, longitude): Position) -> Vec<String> {
    let path = format!("/places?lat={latitude}&lon={longitude}&radius=20&limit=5");
    let answer = site.get(server, &path);
    let name = |place: &Value| place["name"].as_str().unwrap().to_owned();
    answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(name)
        .collect()
}

#[test]
fn the_page_shows_reports_and_the_end_and_return_of_a_server() {
    if !can_browse("the page in a browser") {
        return;
    }
    let mut site = Site::start(Fleet::ring("page", &[]));
    let (alford, ball, welsh) = (
        site.index("Alford"),
        site.index("Ball"),
        site.index("Welsh"),
    );
    let page = Page::open(&site, welsh, DESK);

    // Reported to another server than the page's.
    let empty = page.colors(OCEAN);
    site.report(alford, "kiwi.cs.ucla.edu", OCEAN);
    page.await_client("kiwi.cs.ucla.edu", OCEAN);
    page.await_colors(OCEAN, &empty, false);
    // Its flood has lit links on its way.
    page.browser.wait_until(
        PATIENCE,
        "document.querySelector('[data-link][data-floods]')",
    );
    site.report(ball, "kiwi.cs.ucla.edu", TOWN);
    page.await_client("kiwi.cs.ucla.edu", TOWN);
    page.await_colors(OCEAN, &empty, true);

    site.kill(&[ball]);
    page.await_states(&site, &[ball], "down", SHOWN);
    page.await_text("#banner", "Ball", SHOWN);
    site.restart(&[ball]);
    page.await_states(&site, &[ball], "ok", SHOWN);
    let gone = "!document.querySelector('#banner').checkVisibility()";
    page.browser.wait_until(PATIENCE, gone);

    let (x, y) = page.point(TOWN);
    page.browser.click(x, y);
    page.await_text("#near", "kiwi.cs.ucla.edu", PATIENCE);
    for name in places(&site, welsh, TOWN).iter().take(2) {
        page.await_text("#near", name, PATIENCE);
    }
    let distances = "return [...document.querySelectorAll('#near-places li')].map((item) => Number(item.dataset.km))";
    let distances = page.browser.run(distances, &[]);
    let distances: Vec<f64> = serde_json::from_value(distances).unwrap();
    assert!(
        distances.len() > 1 && distances.is_sorted(),
        "nearest first: {distances:?}"
    );

    page.browser
        .run("document.querySelector('#search').focus()", &[]);
    page.browser.keys(&format!("kiwi.cs.ucla.edu{ENTER}"));
    page.await_text("#search-result", "kiwi.cs.ucla.edu", PATIENCE);
    page.await_text("#search-now", "34.06893° N, 118.44513° W", PATIENCE);
    page.await_text("#search-now", "ago at Ball", PATIENCE);
    // The text about a client that was found follows it.
    site.report(alford, "kiwi.cs.ucla.edu", OCEAN);
    page.await_text("#search-now", "35.30000° S, 111.70000° W", PATIENCE);
    page.await_text("#search-now", "ago at Alford", PATIENCE);
    page.await_text("#search-reports tr", "35.30000° S, 111.70000° W", PATIENCE);
    page.assert_quiet();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn a_page_that_finds_no_seat_says_why() {
    if !can_browse("a page without a seat") {
        return;
    }
    let site = Site::start(Fleet::alone("page-seats", &[]));
    let mut viewers: Vec<_> = (0..16).map(|_| site.view(0)).collect();
    let page = Page::visit(&site, 0, DESK);
    page.await_connection("lost", PATIENCE);
    page.await_text("#connection", "16 pages are open already", PATIENCE);
    let text = "return document.querySelector('#connection').textContent";
    let text = page.browser.run(text, &[]);
    assert!(!text.as_str().unwrap().contains("is of then"), "{text}");
    viewers.pop();
    page.await_connection("live", PATIENCE);
    page.await_text("#whole", "the herd is whole", PATIENCE);
    // The browser itself logs each answer that is an error.
    let mut console = page.browser.console();
    console.retain(|line| !line.contains("status of 503"));
    assert_eq!(console, [""; 0]);
    page.assert_own_origin();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn a_moving_client_moves_on_the_map() {
    if !can_browse("a moving client") {
        return;
    }
    let site = Site::start(Fleet::pair("page-moves", &[]));
    let page = Page::open(&site, 0, DESK);
    let empty = [OCEAN, OTHER_OCEAN].map(|at| page.colors(at));
    for round in 0..3 {
        for (here, there) in [(0, 1), (1, 0)] {
            let at = [OCEAN, OTHER_OCEAN][here];
            site.report(round % 2, "kiwi", at);
            page.await_client("kiwi", at);
            page.await_colors(at, &empty[here], false);
            page.await_colors([OCEAN, OTHER_OCEAN][there], &empty[there], true);
        }
    }
    page.assert_quiet();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn search_finds_a_client_and_its_last_reports() {
    if !can_browse("the search") {
        return;
    }
    let site = Site::start(Fleet::pair("page-search", &[]));
    let page = Page::open(&site, 0, DESK);
    for at in [OCEAN, OTHER_OCEAN, TOWN] {
        site.report(1, "kiwi.cs.ucla.edu", at);
        page.await_client("kiwi.cs.ucla.edu", at);
    }
    // A client's name is shown as it is, whatever it holds.
    let odd = "<b>&amp;\u{e9}";
    site.report(1, odd, OCEAN);
    page.await_client(odd, OCEAN);
    let search = |text: &str| {
        page.browser
            .run("document.querySelector('#search').select()", &[]);
        page.browser.keys(&format!("{text}{ENTER}"));
    };
    search("kiwi.cs.ucla.edu");
    page.await_text("#search-result", "kiwi.cs.ucla.edu", PATIENCE);
    for latitude in ["34.06", "-35.3", "-28.7"] {
        // A minus sign may be written as one, as a hyphen, or in words.
        page.await_text("#search-result", latitude.trim_start_matches('-'), PATIENCE);
    }
    // It is marked, and where it was put the map shows it.
    let map = "const { left, top, right, bottom } = document.querySelector('#map').getBoundingClientRect();
        return [left, top, right, bottom]";
    let edges = page.browser.run(map, &[]);
    let edge = |index: usize| edges[index].as_f64().unwrap();
    let (x, y) = page.point(TOWN);
    assert!(
        edge(0) < x && x < edge(2) && edge(1) < y && y < edge(3),
        "{x} {y} {edges}"
    );

    search(odd);
    page.await_text("#search-result", odd, PATIENCE);
    search("nobody.at.all");
    page.browser.wait_until(
        PATIENCE,
        "(text => text.trim() && !text.includes('kiwi'))(document.querySelector('#search-result').innerText)",
    );

    // Of many that begin alike the first are listed, in order.
    for number in (1..=12).rev() {
        let client = format!("moa-{number}");
        site.report(0, &client, OCEAN);
        page.await_client(&client, OCEAN);
    }
    search("moa-");
    page.await_text("#search-text", "first 10 of 12", PATIENCE);
    page.await_text("#search-text", "type more of the id", PATIENCE);
    let listed = "return [...document.querySelectorAll('#search-matches li')].map((item) => item.textContent)";
    let first: Vec<_> = (1..=10).map(|number| format!("moa-{number}")).collect();
    assert_eq!(page.browser.run(listed, &[]), json!(first));
    page.assert_quiet();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn the_page_is_used_by_keys_alone() {
    if !can_browse("the page by keys") {
        return;
    }
    let site = Site::start(Fleet::pair("page-keys", &[]));
    let page = Page::open(&site, 0, DESK);
    site.report(1, "kiwi", OCEAN);
    page.await_client("kiwi", OCEAN);
    let browser = &page.browser;

    // Tab reaches everything that a mouse can use, and each stop is to be seen.
    let count = "window.controls = [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]')]
            .filter((element) => element.checkVisibility({ visibilityProperty: true }) && !element.disabled);
        window.reached = new Set();
        document.activeElement.blur();
        return controls.length;";
    let controls = browser.run(count, &[]).as_u64().unwrap();
    assert!(controls >= 2, "the map and the search: {controls}");
    for _ in 0..controls + 2 {
        browser.keys(TAB);
        let stop = "const stop = document.activeElement, style = getComputedStyle(stop);
            reached.add(stop);
            const marked = style.outlineStyle !== 'none' || style.boxShadow !== 'none';
            return stop === document.body || marked ? null : stop.outerHTML.slice(0, 100);";
        assert_eq!(
            browser.run(stop, &[]),
            Value::Null,
            "focused without a mark"
        );
    }
    let missed = "return controls.filter((element) => !reached.has(element)).map((element) => element.outerHTML.slice(0, 100))";
    assert_eq!(browser.run(missed, &[]), json!([]), "not reached by Tab");

    browser.run("document.querySelector('#map').focus()", &[]);
    let start = View::of(&page);
    browser.keys("++");
    let zoomed = View::await_other(&page, "+ zooms in", |now| now.scale > 1.2 * start.scale);
    browser.keys(RIGHT);
    View::await_other(&page, "an arrow pans", |now| {
        (now.origin.0 - zoomed.origin.0).abs() > 5.0
    });
    browser.keys("-");
    View::await_other(&page, "- zooms out", |now| now.scale < 0.95 * zoomed.scale);
    browser.keys("0");
    View::await_other(&page, "0 shows the world", |now| {
        (now.scale / start.scale - 1.0).abs() < 0.01
    });
    let shown = "document.querySelector('#near').checkVisibility()";
    browser.keys(ENTER);
    browser.wait_until(PATIENCE, shown);
    browser.keys(ESCAPE);
    browser.wait_until(PATIENCE, &format!("!{shown}"));
    page.assert_quiet();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn the_map_moves_by_mouse_and_by_touch() {
    if !can_browse("gestures on the map") {
        return;
    }
    let site = Site::start(Fleet::alone("page-gestures", &[]));
    let page = Page::open(&site, 0, DESK);
    let browser = &page.browser;
    let middle = "const { left, top, width, height } = document.querySelector('#map').getBoundingClientRect();
        return [left + width / 2, top + height / 2];";
    let middle = browser.run(middle, &[]);
    let (x, y) = (middle[0].as_f64().unwrap(), middle[1].as_f64().unwrap());
    let start = View::of(&page);
    let turns = json!([{ "type": "scroll", "x": x.round() as i64, "y": y.round() as i64, "deltaX": 0, "deltaY": -600 }]);
    browser.act(&[json!({ "type": "wheel", "id": "wheel", "actions": turns })]);
    let mut last = View::await_other(&page, "the wheel zooms in", |now| {
        now.scale > 1.2 * start.scale
    });
    for kind in ["mouse", "touch"] {
        let points = [(x, y), (x - 40.0, y + 5.0), (x - 80.0, y + 10.0)];
        browser.act(&[stroke(kind, kind, &points)]);
        let moved = View::await_other(&page, &format!("a {kind} drags the map"), |now| {
            (now.origin.0 - last.origin.0 + 80.0).abs() < 25.0
        });
        assert!(
            (moved.scale / last.scale - 1.0).abs() < 0.01,
            "{kind}: zoomed"
        );
        last = moved;
    }
    let finger = |id: &str, side: f64| {
        stroke(
            id,
            "touch",
            &[
                (x + 40.0 * side, y),
                (x + 70.0 * side, y),
                (x + 120.0 * side, y),
            ],
        )
    };
    browser.act(&[finger("left", -1.0), finger("right", 1.0)]);
    View::await_other(&page, "two fingers zoom in", |now| {
        now.scale > 1.5 * last.scale
    });
    let shown = "document.querySelector('#near').checkVisibility()";
    assert_eq!(
        browser.run(&format!("return {shown}"), &[]),
        false,
        "a drag is no click"
    );
    page.assert_quiet();
}
