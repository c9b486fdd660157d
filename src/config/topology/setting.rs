//! The lines of `servers.txt` that are settings of the whole herd instead of servers: `forget-after`.

use std::time::Duration;

use super::Fault;
use super::text::{Field, Line};
use crate::model::age;

/// Keyword of the line that says at which age records are forgotten.
const FORGET_AFTER: &str = "forget-after";

/// The settings, as far as they can be read.
#[derive(Default)]
pub(super) struct Settings {
    /// The age, and the number of the line that has it. A line with a fault counts too.
    forget_after: Option<(Option<Duration>, usize)>,
}

impl Settings {
    /// Takes a line, if it is a setting. Returns whether it is, or was meant to be.
    pub(super) fn take(&mut self, line: &Line, faults: &mut Vec<Fault>) -> bool {
        let keyword = line.fields[0].text.as_str();
        let mut fault = |message: String| faults.push(Fault::new(line.number, message));
        if keyword != FORGET_AFTER {
            let Some(meant) = meant(line) else {
                return false;
            };
            fault(format!(
                "{keyword:?} is not a setting; the line is: {FORGET_AFTER} {meant}"
            ));
            return true;
        }
        if let Some((_, first)) = self.forget_after {
            fault(format!("{FORGET_AFTER} is set by line {first} already"));
            return true;
        }
        let age = age_of(&line.fields[1..]).map_err(fault).ok();
        self.forget_after = Some((age, line.number));
        true
    }

    /// Returns the age at which records are forgotten, and the number of its line.
    pub(super) fn forget_after(&self) -> Option<(Duration, usize)> {
        let (age, line) = self.forget_after?;
        Some((age?, line))
    }
}

/// Reads the age behind the keyword.
fn age_of(fields: &[Field]) -> Result<Duration, String> {
    let form = format!("a line is {FORGET_AFTER} AGE, such as {FORGET_AFTER} 30d");
    match fields {
        [] => Err(format!("{FORGET_AFTER} has no age; {form}")),
        [one] => age::parse(&one.text).map_err(|reason| {
            let text = &one.text;
            format!("{FORGET_AFTER}: {text:?} {reason}")
        }),
        [number, unit] => {
            let joined = format!("{}{}", number.text, unit.text);
            match age::parse(&joined) {
                Ok(_) => Err(format!(
                    "{FORGET_AFTER}: the age is written without a space: {FORGET_AFTER} {joined}"
                )),
                // `30 days` is told that it is `30d`.
                Err(reason) => Err(format!("{FORGET_AFTER}: {joined:?} {reason}")),
            }
        }
        _ => Err(format!("{FORGET_AFTER} has more than an age; {form}")),
    }
}

/// Returns the age that a line was meant to set which is no server's: the keyword is misspelt, or joined
/// to the age.
fn meant(line: &Line) -> Option<String> {
    let mut words = line
        .fields
        .iter()
        .flat_map(|field| field.text.split(['=', ':']));
    let keyword = words.next()?.to_ascii_lowercase().replace(['-', '_'], "");
    let is_close = matches!(
        keyword.as_str(),
        "forgetafter" | "forget" | "forgetsafter" | "expireafter" | "expire" | "expiry"
    );
    // A server of such a name has addresses.
    let is_server = line
        .fields
        .get(1)
        .is_some_and(|field| field.text.contains(':'));
    if !is_close || is_server {
        return None;
    }
    let rest: String = words
        .filter(|word| !word.eq_ignore_ascii_case("after"))
        .collect();
    Some(match age::parse(&rest) {
        Ok(_) => rest,
        Err(_) => "AGE, such as 30d".to_owned(),
    })
}
