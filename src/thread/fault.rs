//! Faults of threads for tests, in builds with debug assertions only.
//!
//! The environment variable `HERD_THREAD_FAULT` names a thread and what happens to it at its start:
//! `NAME:panic:MILLISECONDS` lets it panic after that time, `NAME:stall` makes it wait for ever,
//! `NAME:spin` compute for ever, and `NAME:end` end at once.

use std::time::Duration;

/// Returns whether this thread is to run at all; panics, waits or computes if it is to do that.
pub(super) fn strike(name: &str) -> bool {
    let Ok(fault) = std::env::var("HERD_THREAD_FAULT") else {
        return true;
    };
    let mut parts = fault.split(':');
    if parts.next() != Some(name) {
        return true;
    }
    match (parts.next(), parts.next().map(str::parse)) {
        (Some("panic"), Some(Ok(milliseconds))) => {
            std::thread::sleep(Duration::from_millis(milliseconds));
            panic!("a fault for a test");
        }
        (Some("end"), _) => false,
        (Some("spin"), _) => loop {
            std::hint::spin_loop();
        },
        _ => loop {
            std::thread::park();
        },
    }
}
