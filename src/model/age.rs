//! Ages of records: how `servers.txt` writes the age at which they are forgotten, and how it is told to
//! people.

use std::time::Duration;

/// Units in seconds, the largest first: letter, and name in words.
const UNITS: [(u64, char, &str); 4] = [
    (86_400, 'd', "day"),
    (3_600, 'h', "hour"),
    (60, 'm', "minute"),
    (1, 's', "second"),
];

/// Maximum number of seconds: a hundred years. Times in nanoseconds stay far from overflow.
const MAX_SECONDS: u64 = 36_500 * 86_400;

/// Splits a text into its digits and what is behind them.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// Reads a span of time, digits and one of the letters s, m, h and d, in seconds: `u64::MAX` for one that
/// is longer, `None` for a text of another form.
pub fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = split(text);
    let is_unit = |(_, letter, _): &&(u64, char, &str)| unit.chars().eq([*letter]);
    let (seconds, ..) = UNITS.iter().find(is_unit)?;
    let is_number = !number.is_empty();
    // Digits that can't be read are too many.
    is_number.then(|| number.parse().unwrap_or(u64::MAX).saturating_mul(*seconds))
}

/// Reads an age, which is a span of time.
///
/// # Errors
///
/// Returns the reason in words, which continue a sentence that begins with the text.
pub fn parse(text: &str) -> Result<Duration, String> {
    match seconds(text) {
        None => {
            let (number, unit) = split(text);
            Err(advice(number, unit))
        }
        Some(0) => Err(
            "would forget every report at once; leave the line out to forget nothing".to_owned(),
        ),
        Some(total) if total <= MAX_SECONDS => Ok(Duration::from_secs(total)),
        Some(_) => Err(format!(
            "is more than {} days; leave the line out to forget nothing",
            MAX_SECONDS / 86_400
        )),
    }
}

/// Returns why a number with that unit, either of which may be missing or something else, is no age.
fn advice(number: &str, unit: &str) -> String {
    let form = "is not an age, which is digits and s, m, h or d without a space";
    let lower = unit.to_ascii_lowercase();
    let meant = match lower.as_str() {
        _ if number.is_empty() => None,
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "d" | "day" | "days" => Some("d"),
        _ => None,
    };
    let weeks = number
        .parse()
        .ok()
        .and_then(|weeks: u64| weeks.checked_mul(7));
    match (meant, lower.as_str(), weeks) {
        (Some(letter), ..) => format!("{form}: {number}{letter}"),
        (None, "w" | "week" | "weeks", Some(days)) => format!("{form}: {days}d"),
        (None, "", _) if !number.is_empty() => {
            format!("{form}: {number}d for days, {number}h for hours")
        }
        _ if number.is_empty() && ["never", "none", "off", "no"].contains(&&*lower) => {
            format!("{form}; leave the line out to forget nothing")
        }
        _ => format!("{form}, such as 30d"),
    }
}

/// Returns an age in words, in the largest unit of which it is a whole number: `never` for none.
pub fn in_words(age: Option<Duration>) -> String {
    let Some(age) = age else {
        return "never".to_owned();
    };
    let seconds = age.as_secs();
    let unit = UNITS.iter().find(|(unit, ..)| seconds % unit == 0);
    // Every number is a whole number of seconds.
    let (unit, _, name) = unit.unwrap_or(&UNITS[3]);
    match seconds / unit {
        1 => format!("1 {name}"),
        number => format!("{number} {name}s"),
    }
}

/// Returns whether the first age is later than the second, where none means never.
pub fn is_longer(one: Option<Duration>, other: Option<Duration>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one > other,
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_and_told_in_words() {
        for (text, seconds, words) in [
            ("30d", 2_592_000, "30 days"),
            ("1d", 86_400, "1 day"),
            ("24h", 86_400, "1 day"),
            ("36h", 129_600, "36 hours"),
            ("90m", 5_400, "90 minutes"),
            ("60m", 3_600, "1 hour"),
            ("007s", 7, "7 seconds"),
            ("36500d", MAX_SECONDS, "36500 days"),
        ] {
            let age = parse(text).unwrap();
            assert_eq!((age.as_secs(), &*in_words(Some(age))), (seconds, words));
        }
        assert_eq!(in_words(None), "never");
    }

    #[test]
    fn what_is_no_age_is_told_the_right_one() {
        let form = "is not an age, which is digits and s, m, h or d without a space";
        for (text, advice) in [
            ("30days", ": 30d"),
            ("12H", ": 12h"),
            ("5min", ": 5m"),
            ("2w", ": 14d"),
            ("30", ": 30d for days, 30h for hours"),
            ("never", "; leave the line out to forget nothing"),
            ("", ", such as 30d"),
            ("d", ", such as 30d"),
            ("-1d", ", such as 30d"),
            ("1.5d", ", such as 30d"),
            ("1d12h", ", such as 30d"),
            ("\u{663}d", ", such as 30d"),
        ] {
            assert_eq!(
                parse(text).unwrap_err(),
                format!("{form}{advice}"),
                "{text}"
            );
        }
        assert!(parse("0d").unwrap_err().starts_with("would forget every"));
        for long in ["36501d", "99999999999999999999d", "18446744073709551615h"] {
            assert!(parse(long).unwrap_err().starts_with("is more than 36500"));
        }
    }

    #[test]
    fn never_is_the_longest() {
        let (one, two) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(2)));
        for (a, b, longer) in [
            (one, two, false),
            (two, one, true),
            (one, one, false),
            (None, one, true),
            (one, None, false),
            (None, None, false),
        ] {
            assert_eq!(is_longer(a, b), longer, "{a:?} {b:?}");
        }
    }
}
