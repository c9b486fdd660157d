//! Unsigned decimal numbers as clients write them: digits with an optional fraction.
//!
//! The text is kept and compared digit by digit. A float would round
//! `90.00000000000000000001` into range, and a limit that rounds is not a limit.

/// Bytes that a field made of numbers may have; a longer one makes its line invalid.
pub const MAX_FIELD_BYTES: usize = 40;

/// An unsigned decimal number, split at its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal<'a> {
    text: &'a [u8],
    /// Digits before the point, at least one.
    pub integer: &'a [u8],
    /// Digits after the point: none if there is no point, else at least one.
    pub fraction: &'a [u8],
}

impl<'a> Decimal<'a> {
    /// Reads `DIGITS` or `DIGITS.DIGITS`; no sign, no exponent, no bare point.
    pub fn parse(text: &'a [u8]) -> Option<Decimal<'a>> {
        let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        let (integer, fraction) = match text.iter().position(|&byte| byte == b'.') {
            None => (text, &text[text.len()..]),
            Some(point) => {
                let fraction = &text[point + 1..];
                if !digits(fraction) {
                    return None;
                }
                (&text[..point], fraction)
            }
        };
        digits(integer).then_some(Decimal {
            text,
            integer,
            fraction,
        })
    }

    /// Whether the number is at most `limit`, exactly.
    pub fn at_most(&self, limit: u64) -> bool {
        match self.integer_part() {
            Some(integer) if integer < limit => true,
            Some(integer) if integer == limit => self.fraction.iter().all(|&digit| digit == b'0'),
            _ => false,
        }
    }

    /// The whole part; `None` where it does not fit.
    pub fn integer_part(&self) -> Option<u64> {
        self.integer.iter().try_fold(0u64, |value, &digit| {
            value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
    }

    /// Appends the number as it was written.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text);
    }

    /// The nearest float.
    pub fn to_f64(&self) -> f64 {
        std::str::from_utf8(self.text)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(f64::INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, limit: u64, expected: Option<bool>) {
        let got = Decimal::parse(text.as_bytes()).map(|decimal| decimal.at_most(limit));
        assert_eq!(got, expected, "{text} at most {limit}");
    }

    #[test]
    fn compares_digit_by_digit() {
        check("0", 50, Some(true));
        check("50", 50, Some(true));
        check("50.000", 50, Some(true));
        check("050", 50, Some(true));
        check("50.00000000000000000000000000001", 50, Some(false));
        check("49.99999999999999999999999999999", 50, Some(true));
        check("99999999999999999999999999999999", 50, Some(false));
    }

    #[test]
    fn refuses_what_is_not_a_plain_number() {
        for text in [
            "", ".", "1.", ".5", "+1", "-1", "1e3", "1,5", "0x1", "NaN", "inf", "1.2.3", " 1",
        ] {
            check(text, 50, None);
        }
    }
}
