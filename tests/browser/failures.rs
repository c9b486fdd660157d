//! Servers that end and return, as the page of another server and their own shows it.

use std::time::Duration;

use serde_json::json;

use super::page::{DESK, PATIENCE, Page, SHOWN, Site, can_browse, figure};
use crate::support::fleet::Fleet;

/// Text with the maximum of some times.
fn longest(times: &[Duration]) -> String {
    let longest = times.iter().max().unwrap();
    format!("at most {:.2} s of {}", longest.as_secs_f64(), times.len())
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn every_killed_server_is_shown_and_its_return_too() {
    if !can_browse("killed servers") {
        return;
    }
    let mut site = Site::start(Fleet::ring("page-kills", &[]));
    let welsh = site.index("Welsh");
    let others: Vec<_> = (0..site.fleet.len())
        .filter(|&server| server != welsh)
        .collect();
    let page = Page::open(&site, welsh, DESK);
    let (mut down, mut back) = (Vec::new(), Vec::new());
    // Each of the others, two at once that are no neighbors of each other, and all four.
    let pair: Vec<_> = ["Ball", "Holiday"].map(|name| site.index(name)).to_vec();
    let mut rounds: Vec<_> = others.iter().map(|&server| vec![server]).collect();
    rounds.extend([pair, others]);
    for servers in rounds {
        site.kill(&servers);
        down.push(page.await_states(&site, &servers, "down", SHOWN));
        for &server in &servers {
            page.await_text("#banner", site.fleet.name(server), SHOWN);
        }
        site.restart(&servers);
        back.push(page.await_states(&site, &servers, "ok", SHOWN));
    }
    page.assert_quiet();

    // The page's own server, at which the page can no longer ask.
    site.kill(&[welsh]);
    down.push(page.await_connection("lost", SHOWN));
    page.await_text("#connection", "has not answered since", SHOWN);
    // All that the page knows is of then, and says so.
    page.await_text("#status[data-stale]", "when last connected", PATIENCE);
    site.restart(&[welsh]);
    back.push(page.await_connection("live", SHOWN));
    page.await_text("#connection", "was restarted", PATIENCE);
    let is_now = "!document.querySelector('#status[data-stale]')";
    page.browser.wait_until(PATIENCE, is_now);
    let all: Vec<_> = (0..site.fleet.len()).collect();
    page.await_states(&site, &all, "ok", PATIENCE);
    // The browser itself logs each request that found no server.
    let mut console = page.browser.console();
    console.retain(|line| !line.contains("net::ERR_"));
    assert_eq!(console, [""; 0]);
    page.assert_own_origin();
    figure("a killed server is shown", longest(&down));
    figure(
        "the return of a killed server is shown, from its readiness",
        longest(&back),
    );
}

#[test]
#[ignore = "long: ./test.sh --slow"]
fn the_banner_says_that_a_server_is_alone() {
    if !can_browse("the banner") {
        return;
    }
    let mut site = Site::start(Fleet::pair("page-banner", &[]));
    let page = Page::open(&site, 0, DESK);
    let is_hidden = "!document.querySelector('#banner').checkVisibility()";
    page.browser.wait_until(PATIENCE, is_hidden);
    site.kill(&[1]);
    page.await_states(&site, &[1], "down", SHOWN);
    // From 2 s after the last link went down.
    page.await_states(&site, &[0], "alone", PATIENCE);
    page.await_text("#banner", "no neighbor is linked", PATIENCE);
    let (state, reason) = site.fleet.problems(0).remove(0);
    assert_eq!(state, herd::health::State::Alone);
    page.await_text("#banner", reason.split(" (").next().unwrap(), PATIENCE);
    // The server that is alone knows since when; that the other is down this page has seen.
    let other = site.fleet.name(1);
    page.await_text("#banner li", &format!("{other}: no answer"), PATIENCE);
    let begins = "return ['is alone', 'no answer'].map((words) => {
        const items = [...document.querySelectorAll('#banner li')];
        return items.find((item) => item.textContent.includes(words)).textContent.includes('seen since');
    });";
    assert_eq!(page.browser.run(begins, &[]), json!([false, true]));
    site.restart(&[1]);
    page.await_states(&site, &[0, 1], "ok", SHOWN);
    page.browser.wait_until(PATIENCE, is_hidden);
    page.assert_quiet();
}
