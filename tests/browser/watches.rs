//! Watches that are drawn on the map, and clients that are forgotten.

use serde_json::{Value, json};

use super::page::{DESK, PATIENCE, Page, Position, Site, can_browse, spread};
use super::webdriver::{ENTER, ESCAPE, stroke};
use crate::support::fleet::Fleet;

/// A position in the ocean, and one at some hundred kilometers from it.
const OCEAN: Position = (-35.3, -111.7);
const OTHER_OCEAN: Position = (-28.7, 77.3);

/// Draws a circle around a position with a mouse or a finger, with a radius in pixels.
fn draw(page: &Page, kind: &str, at: Position, radius: f64) {
    press(page, "#watch-draw");
    let (x, y) = page.point(at);
    let points = [(x, y), (x + radius / 2.0, y), (x + radius, y)];
    page.browser.act(&[stroke(kind, kind, &points)]);
}

/// Presses the button of a selector.
fn press(page: &Page, selector: &str) {
    let script = "document.querySelector(arguments[0]).click()";
    page.browser.run(script, &[json!(selector)]);
}

/// Waits until a watch has that number of clients inside.
#[track_caller]
fn await_inside(page: &Page, watch: usize, clients: usize) {
    let item = format!("[data-watch=\"{watch}\"][data-inside=\"{clients}\"]");
    let shown = format!("document.querySelector({})", json!(item));
    page.browser.wait_until(PATIENCE, &shown);
}

/// Waits until that is the newest of what has happened.
#[track_caller]
fn await_event(page: &Page, words: &str) {
    page.await_text("#watch-events li:first-child", words, PATIENCE);
}

/// Asserts that no visible text of the page, no field and no suggestion has a word.
#[track_caller]
fn assert_unnamed(page: &Page, word: &str) {
    let script = "const seen = [document.body.innerText];
        for (const field of document.querySelectorAll('option, input')) seen.push(field.value);
        return seen.join('\\n').includes(arguments[0]);";
    assert_eq!(page.browser.run(script, &[json!(word)]), false, "{word}");
}

#[test]
fn a_watch_is_drawn_and_tells_who_comes_goes_and_is_forgotten() {
    if !can_browse("watches") {
        return;
    }
    let site = Site::start(Fleet::alone("page-watches", &[]));
    site.report(0, "kiwi", OCEAN);
    let page = Page::open(&site, 0, DESK);
    page.await_client("kiwi", OCEAN);
    draw(&page, "mouse", OCEAN, 40.0);
    await_inside(&page, 1, 1);
    page.await_text("[data-watch] .ids", "kiwi", PATIENCE);
    site.report(0, "moa", OCEAN);
    await_event(&page, "moa entered (watch 1)");
    await_inside(&page, 1, 2);
    site.report(0, "moa", OTHER_OCEAN);
    await_event(&page, "moa left (watch 1)");
    await_inside(&page, 1, 1);

    let (x, y) = page.point(OCEAN);
    page.browser.click(x, y);
    page.await_text("#near-clients", "kiwi", PATIENCE);
    site.forget(0, "kiwi");
    await_event(&page, "kiwi was forgotten");
    await_inside(&page, 1, 0);
    page.browser
        .wait_until(PATIENCE, "herd.client('kiwi') === null");
    page.browser.wait_until(
        PATIENCE,
        "!document.querySelector('#near').innerText.includes('kiwi')",
    );
    page.browser
        .run("document.querySelector('#search').focus()", &[]);
    page.browser.keys(&format!("kiwi{ENTER}"));
    page.await_text(
        "#search-text",
        "No client of this id has reported",
        PATIENCE,
    );
    press(&page, "[aria-label='Remove watch 1']");
    let none = "!document.querySelector('#watch-list').checkVisibility()";
    page.browser.wait_until(PATIENCE, none);
    page.assert_quiet();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn watches_are_drawn_by_mouse_by_touch_and_by_keys() {
    if !can_browse("watches by all means") {
        return;
    }
    let mut site = Site::start(Fleet::pair("page-watch-ways", &[]));
    site.report(0, "kiwi", OCEAN);
    site.report(0, "<b>&amp;", OTHER_OCEAN);
    let page = Page::open(&site, 0, DESK);
    let browser = &page.browser;
    page.await_client("kiwi", OCEAN);
    draw(&page, "mouse", OCEAN, 30.0);
    await_inside(&page, 1, 1);
    draw(&page, "touch", OTHER_OCEAN, 30.0);
    await_inside(&page, 2, 1);
    page.await_text("[data-watch=\"2\"] .ids", "<b>&amp;", PATIENCE);
    // Around the center of the map, with the radius of the form.
    browser.run(
        "document.querySelector('#watch-km').value = '20016'; document.querySelector('#map').focus()",
        &[],
    );
    browser.keys("w");
    await_inside(&page, 3, 2);
    // A click takes that radius too, and Escape ends drawing.
    let drawing = "document.querySelector('#watch-draw').getAttribute('aria-pressed') === 'true'";
    press(&page, "#watch-draw");
    browser.wait_until(PATIENCE, drawing);
    browser.keys(ESCAPE);
    browser.wait_until(PATIENCE, &format!("!({drawing})"));
    press(&page, "#watch-draw");
    let (x, y) = page.point(OCEAN);
    browser.click(x, y);
    await_inside(&page, 4, 2);
    // One client, wherever it goes.
    browser.run("document.querySelector('#search').focus()", &[]);
    browser.keys(&format!("kiwi{ENTER}"));
    page.await_text("#search-now", "35.30000° S", PATIENCE);
    press(&page, "#search-watch");
    page.await_text("[data-watch=\"5\"]", "35.30000° S", PATIENCE);
    site.report(0, "kiwi", OTHER_OCEAN);
    await_event(&page, "kiwi moved (watch 5)");
    page.await_text("[data-watch=\"5\"]", "28.70000° S", PATIENCE);
    await_inside(&page, 1, 0);
    await_inside(&page, 2, 2);
    // Each can be removed, and the others go on.
    press(&page, "[aria-label='Remove watch 2']");
    let gone = "!document.querySelector('[data-watch=\"2\"]')";
    browser.wait_until(PATIENCE, gone);
    site.report(0, "kiwi", OCEAN);
    await_inside(&page, 1, 1);
    page.assert_quiet();
    // Changes while the page's server was away are told when it is back.
    site.kill(&[0]);
    page.await_text("#watch-problem", "not connected", PATIENCE);
    site.report(1, "kiwi", OTHER_OCEAN);
    site.restart(&[0]);
    await_inside(&page, 1, 0);
    page.await_text("#watch-events", "kiwi left (watch 1)", PATIENCE);
    page.browser.wait_until(
        PATIENCE,
        "!document.querySelector('#watch-problem').textContent",
    );
    site.report(0, "moa", OCEAN);
    await_inside(&page, 1, 1);
    for (width, height) in [(360, 800), DESK] {
        browser.resize(width, height);
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            page.await_frame();
            page.assert_layout(&format!("watches in {scheme}, {width} px wide"));
        }
    }
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn a_forgotten_client_is_nowhere_on_the_page() {
    if !can_browse("a forgotten client") {
        return;
    }
    let site = Site::start(Fleet::pair("page-forget", &[]));
    let page = Page::open(&site, 0, DESK);
    let browser = &page.browser;
    let empty = page.colors(OCEAN);
    for client in ["kiwi", "kiwano"] {
        site.report(0, client, OCEAN);
        page.await_client(client, OCEAN);
    }
    let (x, y) = page.point(OCEAN);
    browser.click(x, y);
    page.await_text("#near-clients", "kiwano", PATIENCE);
    browser.run("document.querySelector('#search').focus()", &[]);
    browser.keys(&format!("kiw{ENTER}"));
    page.await_text("#search-matches", "kiwi", PATIENCE);
    // Forgotten at another server.
    site.forget(1, "kiwi");
    browser.wait_until(PATIENCE, "herd.client('kiwi') === null");
    browser.wait_until(
        PATIENCE,
        "!document.querySelector('main').innerText.includes('kiwi')",
    );
    assert_unnamed(&page, "kiwi");
    page.await_text("#near-clients", "kiwano", PATIENCE);
    // One that is shown is gone with its reports.
    browser.run("document.querySelector('#search').select()", &[]);
    browser.keys(&format!("kiwano{ENTER}"));
    page.await_text("#search-reports", "35.30000° S", PATIENCE);
    site.forget(0, "kiwano");
    page.await_text("#search-text", "is gone", PATIENCE);
    let reports = "document.querySelector('#search-reports').checkVisibility()";
    browser.wait_until(PATIENCE, &format!("!({reports})"));
    page.browser.click(x, y - 200.0);
    page.await_colors(OCEAN, &empty, true);
    // It may come back.
    site.report(0, "kiwano", OTHER_OCEAN);
    page.await_client("kiwano", OTHER_OCEAN);
    let known = |path: &str| -> Value { site.get(1, path) };
    assert_eq!(known("/v1/clients/kiwano")["client"], "kiwano");
    page.assert_quiet();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn many_clients_are_asked_for_where_the_map_is_near() {
    if !can_browse("many clients in detail") {
        return;
    }
    let site = Site::start(Fleet::alone("page-detail", &[]));
    let name = |(index, at)| (format!("client-{index}"), at);
    let clients: Vec<_> = spread(20_500).into_iter().enumerate().map(name).collect();
    site.report_all(&clients);
    site.report(0, "kiwi", OCEAN);
    let page = Page::open(&site, 0, DESK);
    let browser = &page.browser;
    browser.wait_until(PATIENCE, "herd.counts().mode === 'grid'");
    browser.run("document.querySelector('#search').focus()", &[]);
    browser.keys(&format!("kiwi{ENTER}"));
    page.await_text("#search-now", "35.30000° S", PATIENCE);
    browser.run("document.querySelector('#map').focus()", &[]);
    browser.keys("+++++");
    browser.wait_until(PATIENCE, "herd.counts().shown > 0");
    page.await_text("#map-caption", "in view are points", PATIENCE);
    let (x, y) = page.point(OCEAN);
    browser.click(x, y);
    page.await_text("#near-clients", "kiwi", PATIENCE);
    site.report(0, "moa", OCEAN);
    page.await_text("#near-clients", "kiwi", PATIENCE);
    site.forget(0, "kiwi");
    page.await_text("#search-text", "is gone", PATIENCE);
    browser.wait_until(
        PATIENCE,
        "!document.querySelector('#near').innerText.includes('kiwi')",
    );
    // The whole world is shown by counts again.
    browser.run("document.querySelector('#map').focus()", &[]);
    browser.keys("0");
    browser.wait_until(PATIENCE, "herd.counts().shown === null");
    browser.keys(ENTER);
    page.await_text("#near", "clients in this cell", PATIENCE);
    // The browser logs an answer that is 404, as of a client that is not there any more.
    let mut console = browser.console();
    console.retain(|line| !line.contains("status of 404"));
    assert_eq!(console, [""; 0]);
    page.assert_own_origin();
}
