//! The live page in a real browser, with servers as processes: headless Chromium, driven over WebDriver.
//!
//! One story runs with all other tests. The longer ones are ignored there; `./test.sh --slow` runs them
//! one at a time and prints their figures behind `measured:`. Without a browser a story prints
//! `skipped:` and the reason. Screenshots are written to `target/page`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

mod browser {
    mod driver;
    mod failures;
    mod layout;
    mod page;
    mod speed;
    mod stories;
    mod watches;
    mod webdriver;
}
