//! Figures as people read them: grouped digits, times in the unit that fits.

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Nanoseconds with three significant digits: `7.42 µs`, `123 ms`.
pub(crate) fn duration(nanos: f64) -> String {
    let (value, unit) = match nanos {
        nanos if nanos < 1e3 => return format!("{nanos:.0} ns"),
        nanos if nanos < 999.5e3 => (nanos / 1e3, "µs"),
        nanos if nanos < 999.5e6 => (nanos / 1e6, "ms"),
        nanos => (nanos / 1e9, "s"),
    };
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn durations_have_three_digits() {
        for (nanos, expected) in [
            (0.0, "0 ns"),
            (999.0, "999 ns"),
            (1_000.0, "1.00 µs"),
            (7_421.0, "7.42 µs"),
            (12_345.0, "12.3 µs"),
            (123_456.0, "123 µs"),
            (999_900.0, "1.00 ms"),
            (2.05e9, "2.05 s"),
            (100e9, "100 s"),
        ] {
            assert_eq!(duration(nanos), expected);
        }
    }
}
