//! Tests of the grammar of the second dialect: each command, each fault and its field, and that writing
//! a request is the inverse of parsing it.

use super::*;
use crate::model::fields::is_white_space;
use inverse::{assert_inverse_request, written_request};
use proptest::prelude::*;

#[track_caller]
fn check(line: &str, expected: &str) {
    let got = Request::parse(line.as_bytes()).map(|request| written_request(&request));
    let written = got.as_deref().map(String::from_utf8_lossy);
    assert_eq!(written.as_deref(), Ok(expected), "{line}");
}

#[track_caller]
fn check_fault(line: &str, verb: Verb, kind: FaultKind<'_>) {
    let verb = Some(verb);
    assert_eq!(
        Request::parse(line.as_bytes()),
        Err(Fault { verb, kind }),
        "{line}"
    );
}

#[test]
fn each_command_is_parsed_and_written() {
    for line in [
        "IAMAT kiwi +34.068930-118.445127 1479413884.392014450",
        "WHATSAT kiwi 0.50 20",
        "WHERE kiwi",
        "NEARBY +34-118 10.5 1000",
        "NEARBY kiwi 20016 1",
        "NEARBY 34-118 1 1",
        "WITHIN +33-119 +35-117 100",
        "WITHIN +33+170 +33-170 1",
        "FORGET kiwi",
        "WATCH towers +34-118 0.1",
        "WATCH kiwi +34-118",
        "WATCH w kiwi",
        "UNWATCH w",
        "PING",
        "PING pong",
        "AUTH secret",
    ] {
        check(line, line);
    }
    check(
        "  NEARBY\t\x0b+34-118  010 \r 0001 ",
        "NEARBY +34-118 010 1",
    );
}

#[test]
fn faults_have_their_field() {
    use FaultKind as F;
    let nothing = |name: &'static [u8]| {
        let kind = F::NoCommand(name);
        Err(Fault { verb: None, kind })
    };
    for name in ["", "iamat", "AT", "HELLO", "RECORD"] {
        assert_eq!(Request::parse(name.as_bytes()), nothing(name.as_bytes()));
    }
    check_fault("IAMAT a +0+0", Verb::Iamat, F::FieldCount(2));
    check_fault("IAMAT a +0+0 1 1 1", Verb::Iamat, F::FieldCount(5));
    check_fault("WHERE", Verb::Where, F::FieldCount(0));
    check_fault("FORGET a b", Verb::Forget, F::FieldCount(2));
    check_fault("WATCH a", Verb::Watch, F::FieldCount(1));
    check_fault("WATCH a b c d", Verb::Watch, F::FieldCount(4));
    check_fault("PING a b", Verb::Ping, F::FieldCount(2));
    check_fault("AUTH", Verb::Auth, F::FieldCount(0));
    check_fault("IAMAT a 0+0 x", Verb::Iamat, F::Location(b"0+0"));
    check_fault("IAMAT a +0+0 x", Verb::Iamat, F::Time(b"x"));
    check_fault("WHATSAT a 50.1 99", Verb::Whatsat, F::Radius(b"50.1"));
    check_fault("WHATSAT a 1 21", Verb::Whatsat, F::Bound(b"21"));
    check_fault("NEARBY +91+0 0 0", Verb::Nearby, F::Location(b"+91+0"));
    for radius in ["0", "0.000", "20016.1", "-1", "x", "1e3"] {
        let line = format!("NEARBY a {radius} 0");
        check_fault(&line, Verb::Nearby, F::Radius(radius.as_bytes()));
    }
    for bound in ["0", "1001", "1.0", "-1", "x"] {
        let line = format!("NEARBY a 1 {bound}");
        check_fault(&line, Verb::Nearby, F::Bound(bound.as_bytes()));
        let line = format!("WITHIN +1+1 +2+2 {bound}");
        check_fault(&line, Verb::Within, F::Bound(bound.as_bytes()));
    }
    check_fault("WITHIN a +1+1 0", Verb::Within, F::Location(b"a"));
    check_fault("WITHIN +1+1 a 0", Verb::Within, F::Location(b"a"));
    let corners = F::Corners(b"+2+1", b"+1+2");
    check_fault("WITHIN +2+1 +1+2 0", Verb::Within, corners);
    check_fault("WATCH w a 1", Verb::Watch, F::Location(b"a"));
    check_fault("WATCH w +1+1 0", Verb::Watch, F::Radius(b"0"));
}

#[test]
fn ids_and_names_have_their_limits() {
    let line = |start: &str, bytes: usize, end: &str| format!("{start}{}{end}", "x".repeat(bytes));
    let long = "x".repeat(256);
    let client = FaultKind::Client(long.as_bytes());
    for (verb, start, end) in [
        (Verb::Iamat, "IAMAT ", " bad bad"),
        (Verb::Whatsat, "WHATSAT ", " bad bad"),
        (Verb::Where, "WHERE ", ""),
        (Verb::Nearby, "NEARBY ", " bad bad"),
        (Verb::Forget, "FORGET ", ""),
        (Verb::Watch, "WATCH w ", ""),
    ] {
        check_fault(&line(start, 256, end), verb, client);
    }
    check(&line("WHERE ", 255, ""), &line("WHERE ", 255, ""));
    let name = FaultKind::Name(&long.as_bytes()[..65]);
    check_fault(&line("WATCH ", 65, " a"), Verb::Watch, name);
    check_fault(&line("UNWATCH ", 65, ""), Verb::Unwatch, name);
    check(&line("UNWATCH ", 64, ""), &line("UNWATCH ", 64, ""));
}

#[test]
fn a_time_in_form_is_ahead_or_in_another_unit() {
    for (time, is_ahead) in [
        ("18446744073.709551616", true),
        ("99999999999.999999999", true),
        ("100000000000", false),
        ("1479413884392", false),
        ("1479413884392014450", false),
        ("99999999999.9999999999", false),
        ("20000000000.", false),
        ("99999999999999999999999", false),
    ] {
        let text = time.as_bytes();
        let fault = match is_ahead {
            true => FaultKind::Ahead(text),
            false => FaultKind::Time(text),
        };
        check_fault(&format!("IAMAT a +1+1 {time}"), Verb::Iamat, fault);
    }
}

/// Fields of any bytes that are not white space.
fn word(max_bytes: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if is_white_space(byte) { b'_' } else { byte });
    prop::collection::vec(byte, 1..=max_bytes)
}

/// One or more bytes of white space.
fn space() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b" \t\r\n\x0b\x0c".to_vec()), 1..4)
}

/// Valid requests with arbitrary white space.
fn valid_line() -> impl Strategy<Value = Vec<u8>> {
    let text = |pattern: &'static str| pattern.prop_map(String::into_bytes);
    let location = || text("[+-][0-8]?[0-9](\\.[0-9]{1,6})?[+-]1?[0-7][0-9](\\.[0-9]{1,6})?");
    let radius = || text("(1?[0-9]){1,2}[1-9](\\.[0-9]{1,9})?");
    let bound = || text("0{0,3}[1-9][0-9]{0,2}");
    let id = || {
        word(MAX_CLIENT_BYTES).prop_map(|mut id| {
            // Not the shape of a location.
            id[0] = b'i';
            id
        })
    };
    let name = || word(MAX_WATCH_NAME_BYTES);
    let of = |verb: &'static str| Just(verb.as_bytes().to_vec());
    let line = prop_oneof![
        (
            of("IAMAT"),
            id(),
            location(),
            text("[0-9]{1,10}(\\.[0-9]{1,9})?")
        )
            .prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        (of("WHATSAT"), id(), text("[0-4]?[0-9]"), text("0?1?[0-9]"))
            .prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        (
            of("NEARBY"),
            prop_oneof![id(), location().boxed()],
            radius(),
            bound()
        )
            .prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        (of("WITHIN"), text("-[0-8]?[0-9]\\+1"), location(), bound()).prop_filter_map(
            "corners",
            |(a, b, c, d)| {
                let latitude = |text: &[u8]| Position::parse(text).map(|place| place.latitude);
                (latitude(&b) <= latitude(&c)).then(|| vec![a, b, c, d])
            }
        ),
        (of("WATCH"), name(), location(), radius()).prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        (of("WATCH"), name(), id()).prop_map(|(a, b, c)| vec![a, b, c]),
        (prop_oneof![of("WHERE"), of("FORGET")], id()).prop_map(|(a, b)| vec![a, b]),
        (of("UNWATCH"), name()).prop_map(|(a, b)| vec![a, b]),
        (prop_oneof![of("PING"), of("AUTH")], word(300)).prop_map(|(a, b)| vec![a, b]),
        of("PING").prop_map(|a| vec![a]),
    ];
    (line, space(), space()).prop_map(|(fields, between, around)| {
        let line = fields.join(&between[..]);
        [&around[..], &line, &around].concat()
    })
}

proptest! {
    #[test]
    fn every_valid_line_is_parsed_and_written_back(line in valid_line()) {
        prop_assert!(Request::parse(&line).is_ok(), "{}", line.escape_ascii());
        assert_inverse_request(&line);
    }

    #[test]
    fn writing_is_the_inverse_of_parsing_for_changed_lines(mut line in valid_line(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let at = at.index(line.len());
        line[at] = byte;
        assert_inverse_request(&line);
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic(line in prop::collection::vec(any::<u8>(), 0..5_000)) {
        assert_inverse_request(&line);
    }

    #[test]
    fn a_report_is_the_same_in_both_dialects(line in valid_line()) {
        use crate::model::command::Command;
        match (Command::parse(&line), Request::parse(&line)) {
            (Ok(Command::Iamat(one)), other) => prop_assert_eq!(other, Ok(Request::Iamat(one))),
            (Ok(Command::Whatsat(one)), other) => prop_assert_eq!(other, Ok(Request::Whatsat(one))),
            (Err(_), Ok(other)) => prop_assert!(!matches!(other, Request::Iamat(_) | Request::Whatsat(_))),
            (Err(_), Err(_)) => {}
        }
    }
}
