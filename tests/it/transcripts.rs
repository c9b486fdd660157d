//! Every transcript of `tests/scripts`, under both of the pool's disciplines.

#[allow(
    dead_code,
    missing_debug_implementations,
    unreachable_pub,
    reason = "the runner is the bench crate's, and this program uses a part of it"
)]
#[path = "../../bench/src/transcript.rs"]
mod transcript;

use std::path::Path;

use crate::support::alone;
use herd::config::PoolKind;

fn every_story_holds(pool: PoolKind) {
    // A story has several clients at once, and under seats each needs a worker.
    let server = alone(|config| (config.pool, config.workers) = (pool, 64));
    let address = &server.client_address().to_string();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let stories = transcript::stories(&scripts, true).unwrap();
    assert!(stories.len() > 20, "only {} stories", stories.len());
    let failures: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = stories
            .iter()
            // Slow stories wait for deadlines, so all run at the same time.
            .map(|story| scope.spawn(move || story.run(address).err()))
            .collect();
        running
            .into_iter()
            .filter_map(|story| story.join().unwrap())
            .collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    server.stop();
}

#[test]
fn in_the_shared_pool() {
    every_story_holds(PoolKind::Shared);
}

#[test]
fn in_the_dedicated_pool() {
    every_story_holds(PoolKind::Dedicated);
}
