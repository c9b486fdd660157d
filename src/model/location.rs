//! Texts that are meant as a location: which shape a field has, and what one without its signs would be.

use arrayvec::ArrayVec;

use crate::model::decimal::{Decimal, MAX_FIELD_BYTES};
use crate::model::grid::Point;

/// Returns whether a text is sign, number, sign, number, in range or not: it can only be meant as a
/// location.
pub(crate) fn has_shape(text: &[u8]) -> bool {
    let Some((number, rest)) = after_sign(text).map(split_number) else {
        return false;
    };
    let second = after_sign(rest).and_then(Decimal::parse);
    Decimal::parse(number).is_some() && second.is_some()
}

/// Returns the location that a text means whose signs are missing, or which has a separator between its
/// numbers: `+34.06-118.4` for `34.06,-118.4`. `None` for any other text.
pub(crate) fn with_signs(text: &[u8]) -> Option<ArrayVec<u8, MAX_FIELD_BYTES>> {
    let (latitude, rest) = split_number(after_sign(text).unwrap_or(text));
    let behind = rest.strip_prefix(b",").or_else(|| rest.strip_prefix(b";"));
    let rest = match behind {
        Some(behind) => behind,
        None => after_sign(rest).map(|_| rest)?,
    };
    let longitude = after_sign(rest).unwrap_or(rest);
    let sign = |text: &[u8]| if text.starts_with(b"-") { b"-" } else { b"+" };
    let mut right = ArrayVec::new();
    for part in [&sign(text)[..], latitude, sign(rest), longitude] {
        right.try_extend_from_slice(part).ok()?;
    }
    (Point::parse(&right).is_some() && right[..] != *text).then_some(right)
}

/// Returns the rest of a text that begins with a sign.
fn after_sign(text: &[u8]) -> Option<&[u8]> {
    let (sign, rest) = text.split_first()?;
    matches!(sign, b'+' | b'-').then_some(rest)
}

/// Splits a text behind the digits and points at its beginning.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let end = text.iter().position(|byte| !is_number(byte));
    text.split_at(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_known_by_its_shape_in_range_or_not() {
        let long = format!("+1.{}+1", "0".repeat(60));
        for text in ["+34.06-118.4", "+91+0", "-0-181", "+999+999.5", &long] {
            assert!(has_shape(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "+",
            "+1",
            "+1+",
            "++1",
            "+1+1+1",
            "+1.+1",
            "+.1+1",
            "+1+1e1",
            "1+1",
            "+1,+1",
            "kiwi",
            "+49-30-1234",
        ] {
            assert!(!has_shape(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn missing_signs_are_filled_in() {
        for (text, right) in [
            ("34.06-118.4", "+34.06-118.4"),
            ("34.06+118.4", "+34.06+118.4"),
            ("34.06,-118.4", "+34.06-118.4"),
            ("34.06,118.4", "+34.06+118.4"),
            ("-34.06;118.4", "-34.06+118.4"),
            ("+34.06,-118.4", "+34.06-118.4"),
            ("-34.06,118.4", "-34.06+118.4"),
        ] {
            let got = with_signs(text.as_bytes()).expect(text);
            assert_eq!(String::from_utf8_lossy(&got), right, "{text}");
        }
        let long = format!("1.{}-1", "0".repeat(40));
        for text in [
            "",
            "kiwi",
            "34.06",
            "34.06118.4",
            "91-118",
            "34-181",
            "1-2-3",
            "34.06,",
            ",1",
            "1.,2",
            "+34-118",
            "1:2",
            &long,
        ] {
            assert_eq!(with_signs(text.as_bytes()), None, "{text}");
        }
    }
}
