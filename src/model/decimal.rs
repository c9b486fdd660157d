//! Unsigned decimal numbers: those of clients, with an optional fraction, and whole numbers.
//!
//! A client's text is kept and compared digit by digit. A float would round
//! `90.00000000000000000001` into range, so the limit would not be exact. The build script compiles
//! this module too.

/// Maximum length of a numeric field in bytes; a longer one makes its line invalid.
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
    /// Parses `DIGITS` or `DIGITS.DIGITS`; signs, exponents and bare points are refused.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Decimal<'a>> {
        let mut point = None;
        for (index, byte) in text.iter().enumerate() {
            match byte {
                b'0'..=b'9' => {}
                b'.' if point.is_none() => point = Some(index),
                _ => return None,
            }
        }
        let end = point.unwrap_or(text.len());
        let fraction = &text[point.map_or(end, |point| point + 1)..];
        let valid = end > 0 && (point.is_none() || !fraction.is_empty());
        valid.then_some(Decimal {
            text,
            integer: &text[..end],
            fraction,
        })
    }

    /// Returns whether the number is at most `limit`, compared exactly.
    pub(crate) fn at_most(&self, limit: u64) -> bool {
        match self.integer_part() {
            Some(integer) if integer < limit => true,
            Some(integer) if integer == limit => self.fraction.iter().all(|&digit| digit == b'0'),
            _ => false,
        }
    }

    /// Returns the integer part; `None` if it does not fit.
    pub(crate) fn integer_part(&self) -> Option<u64> {
        parse_u64(self.integer)
    }

    /// Returns the nearest float.
    pub(crate) fn to_f64(self) -> f64 {
        std::str::from_utf8(self.text)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(f64::INFINITY)
    }
}

/// Parses a whole number of plain digits, eight of them at a time. Returns `None` for any other
/// text, and for a number that does not fit.
#[inline]
pub(crate) fn parse_u64(text: &[u8]) -> Option<u64> {
    // Every number of 19 digits fits.
    if text.len() > 19 {
        return parse_long(text);
    }
    let (words, tail) = text.as_chunks::<8>();
    let mut value = 0;
    for word in words {
        value = value * 100_000_000 + parse_eight(u64::from_le_bytes(*word))?;
    }
    for byte in tail {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    (!text.is_empty()).then_some(value)
}

/// Parses a number of any length digit by digit.
fn parse_long(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Parses eight digits, the first in the lowest byte.
#[inline]
fn parse_eight(word: u64) -> Option<u64> {
    const EACH: u64 = u64::MAX / 255;
    // Digits are 0x30 to 0x39: the upper half of each byte is 3, and stays so when 6 is added.
    let upper = word & (EACH * 0xf0);
    let raised = word.wrapping_add(EACH * 6) & (EACH * 0xf0);
    if upper != EACH * 0x30 || raised != upper {
        return None;
    }
    Some(sum_eight(word - EACH * 0x30))
}

/// Returns the number of eight digits, each a byte, the first in the lowest: adds up pairs, then pairs of
/// pairs.
#[inline]
fn sum_eight(digits: u64) -> u64 {
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours * 10_000 + (fours >> 32)) & 0xffff_ffff
}

/// Returns the digits of a text from `begin` on, up to eight: how many they are, and before that, the number
/// that they are with zeros behind them up to eight digits.
#[inline]
pub(crate) fn first_eight(text: &[u8], begin: usize) -> (u32, usize) {
    const EACH: u64 = u64::MAX / 255;
    let behind = text.get(begin..).unwrap_or_default();
    let word = match (behind.first_chunk(), text.last_chunk()) {
        (Some(word), _) => u64::from_le_bytes(*word),
        (None, Some(last)) if !behind.is_empty() => {
            u64::from_le_bytes(*last) >> (64 - 8 * behind.len())
        }
        _ => {
            let bytes = behind.iter().rev();
            bytes.fold(0, |word, &byte| word << 8 | u64::from(byte))
        }
    };
    // A byte becomes its digit, and anything else over 9, which 0x76 carries to the eighth bit. A carry
    // out of a byte changes only those behind the first that is no digit.
    let digits = word ^ (EACH * 0x30);
    let others = (digits.wrapping_add(EACH * 0x76) | digits) & (EACH * 0x80);
    let count = others.trailing_zeros() / 8;
    let kept = match count {
        8 => digits,
        count => digits & ((1 << (8 * count)) - 1),
    };
    (sum_eight(kept) as u32, count as usize)
}

/// Returns the last `N` decimal digits of `value`, with leading zeros: the fraction of a
/// fixed-point number.
pub(crate) fn fixed_digits<const N: usize>(mut value: u64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    digits
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
    fn whole_numbers_of_any_length_are_parsed() {
        for number in [
            0,
            7,
            12_345_678,
            908_172_635,
            1_479_413_884_655_887_836,
            u64::MAX,
        ] {
            for zeros in 0..24 {
                let text = format!("{}{number}", "0".repeat(zeros));
                assert_eq!(parse_u64(text.as_bytes()), Some(number), "{text}");
            }
        }
        for text in ["", "18446744073709551616", "99999999999999999999999"] {
            assert_eq!(parse_u64(text.as_bytes()), None, "{text}");
        }
        for byte in 0..=u8::MAX {
            for length in [1, 8, 9, 19, 20, 21] {
                for place in 0..length {
                    let mut text = vec![b'0'; length];
                    text[place] = byte;
                    let expected = std::str::from_utf8(&text)
                        .ok()
                        .filter(|_| byte != b'+')
                        .and_then(|text| text.parse().ok());
                    assert_eq!(parse_u64(&text), expected, "{}", text.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn other_texts_than_plain_numbers_are_refused() {
        for text in [
            "", ".", "1.", ".5", "+1", "-1", "1e3", "1,5", "0x1", "NaN", "inf", "1.2.3", " 1",
        ] {
            check(text, 50, None);
        }
    }
}
