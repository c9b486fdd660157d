//! What must hold when something breaks, tested by breaking it under real processes: disks, links,
//! servers, clocks, and clients that mean no good.
//!
//! What survives is judged in one way: every report that was acknowledged is found at every server,
//! with `WHATSAT`, with that time or, where a reply may have been lost, a later one.
//!
//! Each test has a short form, which runs with all others, and a long one (`HERD_FAULTS=long`,
//! `./test.sh --faults`) that does the same more often and prints what it measured. A test that
//! needs a right or a tool that is not there says `skipped:` and why.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

mod faults {
    mod clients;
    mod crash;
    mod disk;
    mod flood;
    mod form;
    mod neighbors;
    mod partition;
    mod store;
    mod strangers;
}
