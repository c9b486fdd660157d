//! Many clients: how soon the page shows 10,000, and what it shows of too many for points.

use std::time::Duration;

use serde_json::Value;

use super::page::{DESK, PATIENCE, Page, Position, Site, can_browse, figure, spread};
use super::webdriver::ENTER;
use crate::support::fleet::Fleet;

/// Number of clients that are points.
const CLIENTS: usize = 10_000;

/// Number of clients that are more than the page shows as points, 20,000.
const CROWD: usize = 20_500;

/// Clients spread over the world.
fn clients(count: usize) -> Vec<(String, Position)> {
    let name = |(index, at)| (format!("client-{index}"), at);
    spread(count).into_iter().enumerate().map(name).collect()
}

/// Limit of the first paint and of the first clients. The aim is a second, on a quiet machine and with
/// an optimized server.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
#[ignore = "long: ./test.sh --slow"]
fn ten_thousand_clients_are_soon_on_the_map() {
    if !can_browse("10,000 clients") {
        return;
    }
    let site = Site::start(Fleet::ring("page-speed", &[]));
    let clients = clients(CLIENTS);
    site.report_all(&clients);
    let page = Page::open(&site, 0, DESK);
    page.await_client(&clients[CLIENTS - 1].0, clients[CLIENTS - 1].1);
    let marked = "performance.getEntriesByName('first-clients').length";
    page.browser.wait_until(PATIENCE, marked);
    // Opened once to warm up the browser, which had just started.
    page.browser.run("location.reload()", &[]);
    page.browser.wait_until(PATIENCE, marked);
    for (what, entry) in [
        ("first paint", "first-contentful-paint"),
        ("first clients", "first-clients"),
    ] {
        let script = format!("return performance.getEntriesByName('{entry}')[0].startTime");
        let Value::Number(taken) = page.browser.run(&script, &[]) else {
            panic!("there is no {entry}");
        };
        let taken = Duration::from_secs_f64(taken.as_f64().unwrap() / 1e3);
        figure(
            &format!("{what} of the page with {CLIENTS} clients"),
            format!("{:.2} s", taken.as_secs_f64()),
        );
        assert!(taken < LIMIT, "{what}: {taken:?}");
    }
    page.assert_quiet();
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn too_many_clients_are_shown_as_cells() {
    if !can_browse("cells for many clients") {
        return;
    }
    let site = Site::start(Fleet::pair("page-cells", &[]));
    let all = clients(CROWD);
    let (first, rest) = all.split_at(CROWD - 1_000);
    site.report_all(first);
    let page = Page::open(&site, 0, DESK);
    let shown = |mode: &str, count: usize| {
        format!("herd.counts().mode === '{mode}' && herd.counts().clients === {count}")
    };
    page.browser
        .wait_until(PATIENCE, &shown("clients", first.len()));
    // The page changes its form while it is open.
    let at = (-35.5, -111.5);
    let empty = page.colors(at);
    site.report_all(rest);
    page.browser.wait_until(PATIENCE, &shown("grid", CROWD));
    let crowd: Vec<_> = (0..500)
        .map(|index| (format!("crowd-{index}"), at))
        .collect();
    site.report_all(&crowd);
    page.browser
        .wait_until(PATIENCE, &shown("grid", CROWD + crowd.len()));
    page.await_colors(at, &empty, false);
    // A single client is found all the same: the server is asked for it.
    page.browser
        .run("document.querySelector('#search').focus()", &[]);
    page.browser.keys(&format!("client-1{ENTER}"));
    page.await_text("#search-now", "reported", PATIENCE);
    page.browser
        .run("document.querySelector('#map').focus()", &[]);
    page.browser.keys("0");
    page.await_frame();
    let (x, y) = page.point(at);
    page.browser.click(x, y);
    page.await_text("#near", "clients in this cell", PATIENCE);
    page.assert_quiet();
}
