//! Faults injected into real processes: disks, links, servers and clocks that fail, and malicious
//! clients.
//!
//! All tests use one criterion for survival: `WHATSAT` at every server finds every acknowledged report,
//! with its time or, where a reply may have been lost, a later one.
//!
//! Each test has a short form, which runs with all other tests, and a long form (`HERD_FAULTS=long`,
//! `./test.sh --faults`) that repeats the fault more often and prints its figures behind `measured:`. A
//! test that lacks a permission or a tool prints `skipped:` and the reason.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

mod faults {
    mod clients;
    mod crash;
    mod descriptors;
    mod disk;
    mod flood;
    mod forget;
    mod forgetting;
    mod form;
    mod http;
    mod journal;
    mod links;
    mod names;
    mod neighbors;
    mod partition;
    mod sessions;
    mod states;
    mod storage;
    mod store;
    mod strangers;
    mod threads;
}
