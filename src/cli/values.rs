//! Values of flags: numbers, spans of time and addresses, or a reason for the user.

use std::time::Duration;

use herd::config::topology::Address;
use herd::model::age;

pub(super) fn local_address(text: &str) -> Result<Address, String> {
    Address::parse_local(text)
}

pub(super) fn host_name(text: &str) -> Result<String, String> {
    // A port behind it would never be found in the names.
    match Address::parse_local(&format!("{text}:0")) {
        Ok(address) => Ok(address.host),
        Err(_) => Err(format!(
            "{text:?} is not the name of a host; a port does not belong to it"
        )),
    }
}

pub(super) fn up_to<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MAX).contains(&number) => Ok(number),
        _ => Err(format!("it must be a number from 1 to {MAX}")),
    }
}

pub(super) fn at_least<const MIN: usize>(text: &str) -> Result<usize, String> {
    match positive(text)? {
        number if number >= MIN => Ok(number),
        _ => Err(format!("must be at least {MIN}")),
    }
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("it must be a whole number greater than 0".to_owned()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match age::seconds(text) {
        // A year amounts to no limit, and sums of times stay far from overflow.
        Some(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be digits and s, m, h or d, such as 90m, from 1s to 365d".to_owned()),
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        // A year amounts to no limit, and sums of times stay far from overflow.
        Ok(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be a whole number of seconds from 1 to 31536000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_a_unit() {
        for (text, seconds) in [
            ("1s", 1),
            ("90m", 5_400),
            ("24h", 86_400),
            ("365d", 31_536_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "24",
            "h",
            "0s",
            "-1s",
            "1.5h",
            "1 h",
            "1H",
            "366d",
            "1h30m",
            "é",
            "+1h",
            "9999999999999999999d",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
