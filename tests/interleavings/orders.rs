//! Tries a property in many orders of threads, and reports of it.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

/// Orders tried for each property by each scheduler, and the time limit for them: a machine that is
/// busy or slow tries fewer.
const ORDERS: usize = 2_000;
const TIME: Duration = Duration::from_millis(1_000);

/// Time limit for a fault to be noticed; the first order that shows it ends the search. On a busy
/// machine a second was too short once.
const NOTICE_TIME: Duration = Duration::from_secs(20);

/// Orders between two checks of the clock.
const AT_ONCE: usize = 50;

/// Points at which priorities change, in each order of the second scheduler.
const PCT_DEPTH: usize = 3;

/// Tries orders until there were enough or the time limit is reached; returns their number.
fn try_orders<S: Scheduler + 'static>(
    scheduler: impl Fn(usize) -> S,
    most: usize,
    limit: Duration,
    property: fn(),
) -> usize {
    let start = Instant::now();
    let mut orders = 0;
    while orders < most && start.elapsed() < limit {
        let mut config = Config::new();
        config.stack_size = 256 << 10;
        config.failure_persistence = FailurePersistence::Print;
        config.silence_warnings = true;
        orders += Runner::new(scheduler(AT_ONCE), config).run(property);
    }
    orders
}

/// Checks that the property holds in all orders that are tried.
pub fn holds(what: &str, property: fn()) {
    let start = Instant::now();
    // `./test.sh --slow` sets more orders.
    let wanted = std::env::var("HERD_ORDERS").map_or(ORDERS, |orders| orders.parse().unwrap());
    let limit = TIME.mul_f64(wanted as f64 / ORDERS as f64);
    let by_priority = |orders| PctScheduler::new(PCT_DEPTH, orders);
    let orders = try_orders(RandomScheduler::new, wanted, limit, property)
        + try_orders(by_priority, wanted, limit, property);
    let seconds = start.elapsed().as_secs_f64();
    say(&format!(
        "test {what} ... ok, {orders} orders in {seconds:.1} s"
    ));
}

/// Checks that the property fails in some order.
pub fn is_noticed(what: &str, property: fn()) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let tried = catch_unwind(AssertUnwindSafe(|| {
        try_orders(RandomScheduler::new, usize::MAX, NOTICE_TIME, property);
    }));
    std::panic::set_hook(hook);
    assert!(tried.is_err(), "not noticed: {what}");
    say(&format!("test noticed: {what} ... ok"));
}

pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
