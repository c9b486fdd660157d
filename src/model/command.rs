//! The grammar of the client protocol: parses a line to a command.
//!
//! Parsing borrows from the line and allocates nothing. Checks that depend on a clock or on stored
//! data (a time too far ahead, an unknown client) are made where commands are executed.

use crate::model::decimal::{Decimal, MAX_FIELD_BYTES};
use crate::model::fields::fields;
use crate::model::grid::Point;
use crate::model::time::Timestamp;

/// Maximum length of a client id in bytes; a longer one makes its line invalid.
pub(crate) const MAX_CLIENT_BYTES: usize = 255;

/// Maximum radius of a `WHATSAT` in kilometers.
pub(crate) const MAX_RADIUS_KM: u64 = 50;

/// Maximum number of places that a `WHATSAT` can request.
pub(crate) const MAX_BOUND: u64 = 20;

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command<'a> {
    /// A report of a client's location.
    Iamat(Report<'a>),
    /// An inquiry for the places near a client.
    Whatsat(Inquiry<'a>),
}

/// The fields of an `IAMAT`, as received; each of them is echoed byte for byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report<'a> {
    /// Client id: 1 to 255 bytes that are not white space.
    pub client: &'a [u8],
    /// Latitude and longitude, as sent.
    pub location: &'a [u8],
    /// Time of the client, as sent.
    pub time_text: &'a [u8],
    /// Time of the client.
    pub time: Timestamp,
}

/// The fields of a `WHATSAT`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inquiry<'a> {
    /// Id of the client whose surroundings are searched.
    pub client: &'a [u8],
    /// Radius in kilometers, 0 to 50.
    pub radius: Decimal<'a>,
    /// Maximum number of places, 0 to 20.
    pub bound: u8,
}

/// Reasons for which a line is not a command. Clients receive only `? ` and their line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The first field is not the name of a command, or there is none.
    UnknownCommand,
    /// The command has too few or too many fields.
    FieldCount,
    /// The client id is longer than 255 bytes.
    Client,
    /// The location is not in the form of ISO 6709, or out of range.
    Location,
    /// The time is not a POSIX time with at most nine decimals.
    Time,
    /// The radius is not a decimal number from 0 to 50.
    Radius,
    /// The bound is not an integer from 0 to 20.
    Bound,
}

impl<'a> Command<'a> {
    /// Parses a line without its ending.
    pub fn parse(line: &'a [u8]) -> Result<Command<'a>, Invalid> {
        let mut fields = fields(line);
        let name = fields.next().ok_or(Invalid::UnknownCommand)?;
        if name != b"IAMAT" && name != b"WHATSAT" {
            return Err(Invalid::UnknownCommand);
        }
        let mut field = || fields.next().ok_or(Invalid::FieldCount);
        let (client, second, third) = (field()?, field()?, field()?);
        if fields.next().is_some() {
            return Err(Invalid::FieldCount);
        }
        if client.len() > MAX_CLIENT_BYTES {
            return Err(Invalid::Client);
        }
        if name == b"IAMAT" {
            if Point::parse(second).is_none() {
                return Err(Invalid::Location);
            }
            Ok(Command::Iamat(Report {
                client,
                location: second,
                time_text: third,
                time: Timestamp::parse(third).ok_or(Invalid::Time)?,
            }))
        } else {
            Ok(Command::Whatsat(Inquiry {
                client,
                radius: number(second, MAX_RADIUS_KM).ok_or(Invalid::Radius)?,
                bound: whole_number(third, MAX_BOUND)
                    .and_then(|bound| u8::try_from(bound).ok())
                    .ok_or(Invalid::Bound)?,
            }))
        }
    }
}

/// Parses a decimal number of at most `limit`.
pub(crate) fn number(text: &[u8], limit: u64) -> Option<Decimal<'_>> {
    let decimal = Decimal::parse(text)?;
    (text.len() <= MAX_FIELD_BYTES && decimal.at_most(limit)).then_some(decimal)
}

/// Parses an integer of at most `limit`.
pub(crate) fn whole_number(text: &[u8], limit: u64) -> Option<u64> {
    // A number with a point is not an integer, even if only zeros follow.
    if text.contains(&b'.') {
        return None;
    }
    number(text, limit)?.integer_part()
}

#[cfg(test)]
#[path = "../../tests/support/inverse.rs"]
mod inverse;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fields::is_white_space;
    use inverse::assert_inverse;
    use proptest::prelude::*;

    #[track_caller]
    fn check(line: &[u8], expected: Result<&[u8], Invalid>) {
        let got = Command::parse(line).map(|command| inverse::written(&command));
        assert_eq!(
            got.as_deref().map_err(|invalid| *invalid),
            expected,
            "{}",
            line.escape_ascii()
        );
    }

    #[test]
    fn valid_commands_are_parsed_and_written() {
        check(
            b"IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 1479413884.392014450",
            Ok(b"IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 1479413884.392014450"),
        );
        check(
            b"WHATSAT kiwi.cs.ucla.edu 10 5",
            Ok(b"WHATSAT kiwi.cs.ucla.edu 10 5"),
        );
        check(
            b"\x0b\x0c WHATSAT\t\ta\r 0.50   020 \t",
            Ok(b"WHATSAT a 0.50 20"),
        );
        check(
            b"IAMAT \xff\x00\xf0\x9f\xa5\x9d +0-0 0",
            Ok(b"IAMAT \xff\x00\xf0\x9f\xa5\x9d +0-0 0"),
        );
    }

    #[test]
    fn invalid_lines_have_their_reason() {
        check(b"", Err(Invalid::UnknownCommand));
        check(b" \t", Err(Invalid::UnknownCommand));
        check(b"iamat a +0+0 0", Err(Invalid::UnknownCommand));
        check(b"AT Ball +0.0 a +0+0 0", Err(Invalid::UnknownCommand));
        check(b"IAMAT", Err(Invalid::FieldCount));
        check(b"IAMAT a +0+0", Err(Invalid::FieldCount));
        check(b"IAMAT a +0+0 0 0", Err(Invalid::FieldCount));
        check(b"IAMAT a 0+0 0", Err(Invalid::Location));
        check(b"IAMAT a +0+0 -1", Err(Invalid::Time));
        check(b"WHATSAT a -1 5", Err(Invalid::Radius));
        check(b"WHATSAT a 50.1 5", Err(Invalid::Radius));
        check(b"WHATSAT a 1e1 5", Err(Invalid::Radius));
        check(b"WHATSAT a 10 21", Err(Invalid::Bound));
        check(b"WHATSAT a 10 -1", Err(Invalid::Bound));
        check(b"WHATSAT a 10 5.0", Err(Invalid::Bound));
        check(
            b"WHATSAT a 00000000000000000000000000000000000000010 1",
            Err(Invalid::Radius),
        );
    }

    #[test]
    fn a_client_id_has_at_most_255_bytes() {
        let line = |bytes: usize| [b"WHATSAT ", "x".repeat(bytes).as_bytes(), b" 1 1"].concat();
        assert!(Command::parse(&line(255)).is_ok());
        assert_eq!(Command::parse(&line(256)), Err(Invalid::Client));
    }

    /// Ids of any bytes that are not white space.
    fn id() -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_map(|byte| if is_white_space(byte) { b'_' } else { byte });
        prop::collection::vec(byte, 1..=MAX_CLIENT_BYTES)
    }

    /// One or more bytes of white space.
    fn space() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b" \t\r\n\x0b\x0c".to_vec()), 1..4)
    }

    /// Valid commands with arbitrary white space.
    fn valid_line() -> impl Strategy<Value = Vec<u8>> {
        let degrees = "[+-][0-8]?[0-9](\\.[0-9]{1,6})?[+-]1?[0-7][0-9](\\.[0-9]{1,6})?";
        let iamat = (Just("IAMAT"), id(), degrees, "[0-9]{1,10}(\\.[0-9]{1,9})?");
        let whatsat = (
            Just("WHATSAT"),
            id(),
            "[0-4]?[0-9](\\.[0-9]{1,9})?",
            "0{0,3}1?[0-9]",
        );
        (prop_oneof![iamat, whatsat], space(), space()).prop_map(
            |((name, id, second, third), between, around)| {
                let line =
                    [name.as_bytes(), &id, second.as_bytes(), third.as_bytes()].join(&between[..]);
                [&around[..], &line, &around].concat()
            },
        )
    }

    proptest! {
        #[test]
        fn every_valid_line_is_parsed_and_written_back(line in valid_line()) {
            prop_assert!(Command::parse(&line).is_ok());
            assert_inverse(&line);
        }

        #[test]
        fn writing_is_the_inverse_of_parsing_for_changed_lines(mut line in valid_line(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let at = at.index(line.len());
            line[at] = byte;
            assert_inverse(&line);
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(line in prop::collection::vec(any::<u8>(), 0..5_000)) {
            assert_inverse(&line);
        }
    }
}
