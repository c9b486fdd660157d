//! Whether a variant speaks the protocol: what does not pass the transcripts is not timed.

use std::path::Path;
use std::thread;

use super::fleet::{Fleet, Workplace};
use super::scenario::Entry;
use super::variant::{self, Variant};
use crate::transcript::{self, Story};

/// Where the stories are.
const SCRIPTS: &str = "tests/scripts";

/// Clients that the stories have at a time, at most.
const CLIENTS: usize = 256;

/// Runs all stories against each variant; for each that fails, its name and why. Most of the time
/// of the slow stories is spent waiting, so all variants are at it at once.
pub(crate) fn failing(
    workplace: &Workplace,
    variants: &[&str],
) -> Result<Vec<(String, String)>, String> {
    let stories = transcript::stories(Path::new(SCRIPTS), true)?;
    thread::scope(|scope| {
        let checks: Vec<_> = variants
            .iter()
            .filter(|name| variant::wire(name).is_none())
            .map(|name| (*name, scope.spawn(|| check(workplace, name, &stories))))
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

fn check(workplace: &Workplace, name: &str, stories: &[Story]) -> Result<(), String> {
    let variant = Variant::new(&Entry::plain(name), None, CLIENTS)?;
    let fleet = Fleet::start(workplace, variant, &["Alone"])?;
    let address = fleet.client(0).to_string();
    let failures: Vec<String> = stories
        .iter()
        .filter_map(|story| story.run(&address).err())
        .collect();
    match &failures[..] {
        [] => Ok(()),
        [first, ..] => Err(format!(
            "{} of {} transcripts failed; the first: {first}",
            failures.len(),
            stories.len()
        )),
    }
}
