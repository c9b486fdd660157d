//! Check of the variants' protocol: one that does not pass the transcripts is not timed.

use std::path::Path;
use std::thread;

use super::fleet::{Fleet, Workplace};
use super::scenario::Entry;
use super::variant::{self, Variant};
use herd_conformance::{Extra, Transcript};

/// Folder of the transcripts.
const SCRIPTS: &str = "tests/scripts";

/// Clients that the transcripts have at a time, at most.
const CLIENTS: usize = 256;

/// Runs all transcripts against each variant; returns the name and the reason of each that fails. Most of the time
/// of the slow transcripts is spent waiting, so all variants are at it at once.
pub(crate) fn failing(
    workplace: &Workplace,
    variants: &[&str],
) -> Result<Vec<(String, String)>, String> {
    let transcripts = herd_conformance::transcripts(Path::new(SCRIPTS), &[Extra::Slow])?;
    thread::scope(|scope| {
        let checks: Vec<_> = variants
            .iter()
            .filter(|name| variant::wire(name).is_none())
            .map(|name| (*name, scope.spawn(|| check(workplace, name, &transcripts))))
            .collect();
        let mut failing = Vec::new();
        for (name, check) in checks {
            let result = check
                .join()
                .unwrap_or_else(|_| Err("its check panicked".to_owned()));
            if let Err(error) = result {
                failing.push((name.to_owned(), error));
            }
        }
        Ok(failing)
    })
}

fn check(workplace: &Workplace, name: &str, transcripts: &[Transcript]) -> Result<(), String> {
    let variant = Variant::new(&Entry::plain(name), None, CLIENTS)?;
    let fleet = Fleet::start(workplace, variant, &["Alone"])?;
    let address = fleet.client(0).to_string();
    let failures: Vec<String> = transcripts
        .iter()
        .filter_map(|transcript| transcript.run(&address).err())
        .collect();
    match &failures[..] {
        [] => Ok(()),
        [first, ..] => Err(format!(
            "{} of {} transcripts failed; the first: {first}",
            failures.len(),
            transcripts.len()
        )),
    }
}
