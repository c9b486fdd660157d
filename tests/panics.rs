//! A panic in the middle of a session: its cost, and what is logged.
//!
//! The panic is raised by the test's own logger, which every session calls with the lines that it
//! refuses; so the server needs no hook for it. A process has one logger, so this is a separate test
//! program.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::sync::Mutex;

use herd::config::PoolKind;
use support::{Client, alone, report};

/// A line with this word makes a session panic.
const TRIGGER: &str = "detonate";

/// Workers of the pools; more sessions than that panic.
const WORKERS: usize = 2;

struct ErrorLog(Mutex<Vec<String>>);

static ERRORS: ErrorLog = ErrorLog(Mutex::new(Vec::new()));

impl log::Log for ErrorLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        if record.level() == log::Level::Error {
            self.0.lock().unwrap().push(line);
        } else {
            assert!(!line.contains(TRIGGER), "boom");
        }
    }

    fn flush(&self) {}
}

impl ErrorLog {
    fn count(&self, what: &[&str]) -> usize {
        let lines = self.0.lock().unwrap();
        let matches = |line: &&String| what.iter().all(|part| line.contains(part));
        lines.iter().filter(matches).count()
    }
}

#[test]
fn a_panic_costs_one_connection_and_no_worker() {
    log::set_logger(&ERRORS).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    herd::logging::log_panics();
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        ERRORS.0.lock().unwrap().clear();
        let server = alone(|config| {
            (config.pool, config.workers, config.max_clients) = (pool, WORKERS, Some(3));
        });
        let mut steady = Client::connect(server.client_address());
        assert_eq!(steady.ask("a"), "? a");
        for number in 0..4 * WORKERS {
            let mut client = Client::connect(server.client_address());
            // A report before it in the same turn, which takes locks, changes nothing.
            client.send(format!("{}\n{TRIGGER} {number}\n", report("kiwi", "+1+1")));
            assert!(client.is_closed(), "{pool:?}: the client was answered");
        }
        // The connections were released, or these would be rejected; and every worker still serves.
        let mut others: Vec<_> = (0..WORKERS - 1)
            .map(|_| Client::connect(server.client_address()))
            .collect();
        for client in others.iter_mut().chain([&mut steady]) {
            let line = report("banana", "+2+2");
            assert!(client.ask(&line).starts_with("AT Alford "));
        }
        assert_eq!(
            ERRORS.count(&["panic in thread worker-", "panics.rs:", "boom"]),
            4 * WORKERS
        );
        assert_eq!(
            ERRORS.count(&["gone: internal error (session panicked)"]),
            4 * WORKERS
        );
        server.stop();
    }
}
