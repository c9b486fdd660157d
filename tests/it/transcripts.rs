//! Every transcript of `tests/scripts`, under both kinds of pool.

use std::path::Path;

use crate::support::alone;
use herd::config::PoolKind;
use herd_conformance::Extra;

fn every_transcript_passes(pool: PoolKind) {
    // A transcript has several clients at once, and in the dedicated pool each needs a worker.
    let server = alone(|config| (config.pool, config.workers) = (pool, 64));
    let address = &server.client_address().to_string();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let transcripts =
        herd_conformance::transcripts(&scripts, &[Extra::Slow, Extra::Dialect2]).unwrap();
    assert!(
        transcripts.len() > 30,
        "only {} transcripts",
        transcripts.len()
    );
    let failures: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = transcripts
            .iter()
            // Slow transcripts wait for deadlines, so all run at the same time.
            .map(|transcript| scope.spawn(move || transcript.run(address).err()))
            .collect();
        running
            .into_iter()
            .filter_map(|transcript| transcript.join().unwrap())
            .collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    server.stop();
}

#[test]
fn in_the_shared_pool() {
    every_transcript_passes(PoolKind::Shared);
}

#[test]
fn in_the_dedicated_pool() {
    every_transcript_passes(PoolKind::Dedicated);
}
