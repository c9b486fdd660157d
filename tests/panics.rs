//! A panic in the middle of a session: what it costs, and what is told of it.
//!
//! The panic comes from the test's own logger, which every session calls with the lines that it
//! reads; so the server needs no hook for it. A logger is the whole process's, hence a test
//! program of its own.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::sync::Mutex;

use herd::config::PoolKind;
use support::{Client, alone, report};

/// What makes a session panic.
const TRIGGER: &str = "detonate";

/// Workers of the pools; more sessions than that are broken.
const WORKERS: usize = 2;

struct Mine(Mutex<Vec<String>>);

static MINE: Mine = Mine(Mutex::new(Vec::new()));

impl log::Log for Mine {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        if record.level() == log::Level::Error {
            self.0.lock().unwrap().push(line);
        } else {
            assert!(!line.contains(TRIGGER) || line.starts_with("sent"), "boom");
        }
    }

    fn flush(&self) {}
}

impl Mine {
    fn count(&self, what: &[&str]) -> usize {
        let lines = self.0.lock().unwrap();
        let matches = |line: &&String| what.iter().all(|part| line.contains(part));
        lines.iter().filter(matches).count()
    }
}

#[test]
fn a_panic_costs_one_connection_and_no_worker() {
    log::set_logger(&MINE).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    herd::logging::log_panics();
    for pool in [PoolKind::Dedicated, PoolKind::Shared] {
        MINE.0.lock().unwrap().clear();
        let server = alone(|config| {
            (config.pool, config.workers, config.max_clients) = (pool, WORKERS, Some(3));
        });
        let mut bystander = Client::connect(server.client_address());
        assert_eq!(bystander.ask("a"), "? a");
        for number in 0..4 * WORKERS {
            let mut unlucky = Client::connect(server.client_address());
            // What comes before in the same turn, and holds locks on its way, changes nothing.
            unlucky.send(format!("{}\n{TRIGGER} {number}\n", report("kiwi", "+1+1")));
            assert!(unlucky.is_closed(), "{pool:?}: it was answered");
        }
        // Places were given back, or these would be refused; and every worker still serves.
        let mut others: Vec<_> = (0..WORKERS - 1)
            .map(|_| Client::connect(server.client_address()))
            .collect();
        for client in others.iter_mut().chain([&mut bystander]) {
            let line = report("banana", "+2+2");
            assert!(client.ask(&line).starts_with("AT Alford "));
        }
        assert_eq!(
            MINE.count(&["panic in thread worker-", "panics.rs:", "boom"]),
            4 * WORKERS
        );
        assert_eq!(
            MINE.count(&["gone: internal error (session panicked)"]),
            4 * WORKERS
        );
        server.stop();
    }
}
