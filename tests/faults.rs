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

#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/proxy.rs"]
mod proxy;
mod support;

#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/crash.rs"]
mod crash;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/flood.rs"]
mod flood;
#[path = "faults/form.rs"]
mod form;
#[path = "faults/neighbors.rs"]
mod neighbors;
#[path = "faults/partition.rs"]
mod partition;
#[path = "faults/store.rs"]
mod store;
#[path = "faults/strangers.rs"]
mod strangers;
