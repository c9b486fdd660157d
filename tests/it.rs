//! Integration tests that need no process of their own: servers inside this process, the program as
//! child processes, and the simulation of the rules between servers.
//!
//! Tests run in parallel, so none of them may change what belongs to the whole process: its logger,
//! environment, limits or working directory. Tests that must are programs of their own:
//! `panics.rs` installs a logger, `interleavings.rs` brings its own scheduler. `faults.rs` is
//! separate because `./test.sh --faults` builds it optimized and runs it one test at a time.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

mod it {
    mod audit;
    mod check;
    mod dialect2;
    #[cfg(target_os = "linux")]
    mod door;
    mod durability;
    #[cfg(all(target_os = "linux", debug_assertions))]
    mod ends;
    mod flood;
    #[cfg(target_os = "linux")]
    mod http;
    mod links;
    #[cfg(target_os = "linux")]
    mod logs;
    mod metrics;
    mod places;
    #[cfg(target_os = "linux")]
    mod pool;
    mod program;
    mod reload;
    mod replication;
    mod server;
    mod status;
    mod transcripts;
    #[cfg(target_os = "linux")]
    mod v1;
    mod watches;
}
