//! Compares a reply with the expected text.
//!
//! Values that the server chooses (its name, a difference) are checked for their form, remembered,
//! and must repeat where the transcript says so. Nothing is remembered from a line that differs.

use std::collections::HashMap;

use serde_json::Value;

use super::template::{Token, Wildcard};

/// Largest deviation of a difference from the one that a transcript expects, in seconds: the time of a
/// slow run, and the difference of two machines' clocks.
const DIFFERENCE_TOLERANCE_SECONDS: f64 = 5.0;

/// Digits of a difference behind its point.
const DIFFERENCE_DECIMALS: usize = 9;

/// Bytes of a long line that a failure shows at its start, and half as many at its end.
const SHOWN_BYTES: usize = 160;

/// Values chosen by the server that a run has seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    server: Option<Vec<u8>>,
    differences: HashMap<String, Vec<u8>>,
}

impl Known {
    /// Returns whether `got` is the expected line; if so, remembers the server's values in it.
    pub(crate) fn matches(&mut self, expected: &[Token], got: &[u8]) -> bool {
        let mut server = self.server.clone();
        let mut differences = Vec::new();
        let mut rest = got;
        for token in expected {
            match token {
                Token::Bytes(bytes) => match rest.strip_prefix(&bytes[..]) {
                    Some(behind) => rest = behind,
                    None => return false,
                },
                Token::Wildcard(Wildcard::Text) => {
                    let is_shown = |byte: &u8| (b' '..=b'~').contains(byte);
                    if rest.is_empty() || !rest.iter().all(is_shown) {
                        return false;
                    }
                    rest = b"";
                }
                Token::Wildcard(wildcard) => {
                    let end = rest.iter().position(|byte| is_white_space(*byte));
                    let (field, behind) = rest.split_at(end.unwrap_or(rest.len()));
                    rest = behind;
                    match wildcard {
                        Wildcard::Text => {}
                        Wildcard::Time if !is_time(field) => return false,
                        Wildcard::Time => {}
                        Wildcard::Server => {
                            if field.is_empty() || *server.get_or_insert(field.to_vec()) != field {
                                return false;
                            }
                        }
                        Wildcard::Difference { about, name } => {
                            if !is_difference(field, *about) {
                                return false;
                            }
                            if let Some(name) = name {
                                if self
                                    .differences
                                    .get(name)
                                    .is_some_and(|known| known != field)
                                {
                                    return false;
                                }
                                differences.push((name.clone(), field.to_vec()));
                            }
                        }
                    }
                }
            }
        }
        if !rest.is_empty() {
            return false;
        }
        self.server = server;
        self.differences.extend(differences);
        true
    }

    /// The expected line as a failure shows it, with the known values filled in.
    pub(crate) fn show(&self, expected: &[Token]) -> String {
        let mut out = String::new();
        for token in expected {
            match token {
                Token::Bytes(bytes) => out.push_str(&escape(bytes)),
                Token::Wildcard(Wildcard::Time) => out.push_str("{time}"),
                Token::Wildcard(Wildcard::Text) => out.push_str("{text}"),
                Token::Wildcard(Wildcard::Server) => match &self.server {
                    Some(server) => out.push_str(&escape(server)),
                    None => out.push_str("{server}"),
                },
                Token::Wildcard(Wildcard::Difference { about, name }) => {
                    let known = name.as_ref().and_then(|name| self.differences.get(name));
                    match (known, about) {
                        (Some(known), _) => out.push_str(&escape(known)),
                        (None, Some(about)) => out.push_str(&format!("{{difference~{about}}}")),
                        (None, None) => out.push_str("{difference}"),
                    }
                }
            }
        }
        out
    }
}

/// White space as the protocol has it.
fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)
}

/// A sign, digits, a point and nine decimals; near `about` if that is given.
fn is_difference(field: &[u8], about: Option<i64>) -> bool {
    let digits = field
        .strip_prefix(b"+")
        .or_else(|| field.strip_prefix(b"-"));
    if !digits.is_some_and(is_time) {
        return false;
    }
    about.is_none_or(|about| {
        let value = String::from_utf8_lossy(field).parse::<f64>();
        value.is_ok_and(|value| (value - about as f64).abs() <= DIFFERENCE_TOLERANCE_SECONDS)
    })
}

/// Digits, a point and nine decimals.
fn is_time(digits: &[u8]) -> bool {
    let Some(point) = digits.iter().position(|&byte| byte == b'.') else {
        return false;
    };
    let (whole, decimals) = (&digits[..point], &digits[point + 1..]);
    let plain = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    plain(whole) && plain(decimals) && decimals.len() == DIFFERENCE_DECIMALS
}

/// Checks a JSON of places, without the two LFs that end it.
pub(crate) fn check_places(
    body: &[u8],
    at_most: usize,
    status: Option<&str>,
) -> Result<(), String> {
    if body.starts_with(b"\n") {
        return Err("an empty line before the JSON".to_owned());
    }
    let json: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
    let Value::Object(fields) = &json else {
        return Err("a JSON that is no object".to_owned());
    };
    if !fields.get("html_attributions").is_some_and(Value::is_array) {
        return Err("no list `html_attributions`".to_owned());
    }
    let results = fields.get("results").and_then(Value::as_array);
    let results = results.ok_or("no list `results`")?;
    if results.len() > at_most {
        return Err(format!("{} results, at most {at_most}", results.len()));
    }
    if !results.iter().all(Value::is_object) {
        return Err("a result that is no object".to_owned());
    }
    let got = fields.get("status").and_then(Value::as_str);
    let got = got.ok_or("no text `status`")?;
    if let Some(status) = status
        && got != status
    {
        return Err(format!("status `{got}`, expected `{status}`"));
    }
    let message = fields.get("error_message").and_then(Value::as_str);
    match got {
        "OK" if results.is_empty() => Err("status `OK` without a result".to_owned()),
        "OK" => Ok(()),
        _ if !results.is_empty() => Err(format!("status `{got}` beside results")),
        "ZERO_RESULTS" => Ok(()),
        "UNKNOWN_ERROR" | "OVER_QUERY_LIMIT" | "REQUEST_DENIED" | "INVALID_REQUEST" => {
            if message.is_some_and(|message| !message.is_empty()) {
                Ok(())
            } else {
                Err(format!("status `{got}` without an `error_message`"))
            }
        }
        _ => Err(format!("status `{got}` is none of Google's")),
    }
}

/// Bytes as a transcript would write them; the middle of a long line is left out and counted.
pub(crate) fn escape(bytes: &[u8]) -> String {
    if bytes.len() > 2 * SHOWN_BYTES {
        let (start, rest) = bytes.split_at(SHOWN_BYTES);
        let (middle, end) = rest.split_at(rest.len() - SHOWN_BYTES / 2);
        return format!(
            "{} ...{} more bytes... {}",
            escape(start),
            middle.len(),
            escape(end)
        );
    }
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            0 => out.push_str(r"\0"),
            b'\n' => out.push_str(r"\n"),
            b'\r' => out.push_str(r"\r"),
            b'\t' => out.push_str(r"\t"),
            b'\\' | b'{' | b'}' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!(r"\x{byte:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::template::{Template, Values};
    use super::*;

    fn line(text: &str) -> Vec<Token> {
        let values = Values {
            now: 1_000,
            unique: "u".to_owned(),
        };
        let template = Template::parse(text).expect(text).with_line_end();
        template.lines(&values).remove(0)
    }

    #[track_caller]
    fn check(expected: &str, got: &[u8], matches: bool) {
        let text = got.escape_ascii();
        assert_eq!(
            Known::default().matches(&line(expected), got),
            matches,
            "{expected}: {text}"
        );
    }

    #[test]
    fn bytes_match_themselves_alone() {
        check("? x", b"? x", true);
        check("? x", b"? y", false);
        check("? x", b"? x ", false);
        check("? x", b"? x\r", false);
        check("? x ", b"? x", false);
        check("? x", b"?  x", false);
        check("? x", b" ? x", false);
        check(r"? \xff\0", b"? \xff\0", true);
        check(r"? \xff", b"? \xfe", false);
        check("", b"", true);
        check("", b"x", false);
    }

    #[test]
    fn a_difference_has_a_sign_and_nine_decimals() {
        check("{difference}", b"+0.263873386", true);
        check("{difference}", b"-1479413884.000000120", true);
        for wrong in [
            "0.263873386",
            "+.263873386",
            "+0.26387338",
            "+0.2638733860",
            "+0",
            "+0.",
            "",
            "+0.26387338x",
            "+-0.263873386",
            "+1e3.000000000",
        ] {
            check("{difference}", wrong.as_bytes(), false);
        }
    }

    #[test]
    fn a_difference_may_have_to_be_near() {
        check("{difference~0}", b"-0.100000000", true);
        check("{difference~10}", b"+10.900000000", true);
        check("{difference~10}", b"-10.900000000", false);
        check("{difference~10}", b"+20.000000000", false);
    }

    #[test]
    fn a_servers_name_is_remembered() {
        let mut known = Known::default();
        assert!(!known.matches(&line("AT {server} x"), b"AT Ball y"));
        assert!(known.matches(&line("AT {server} x"), b"AT Welsh x"));
        assert!(known.matches(&line("AT {server} x"), b"AT Welsh x"));
        assert!(!known.matches(&line("AT {server} x"), b"AT Ball x"));
        assert!(!known.matches(&line("AT {server} x"), b"AT  x"));
        assert_eq!(known.show(&line("AT {server} x")), "AT Welsh x");
    }

    #[test]
    fn a_named_difference_is_remembered() {
        let mut known = Known::default();
        assert!(known.matches(&line("{difference:a}"), b"+0.000000001"));
        assert!(known.matches(&line("{difference:a}"), b"+0.000000001"));
        assert!(!known.matches(&line("{difference:a}"), b"+0.000000002"));
        assert!(known.matches(&line("{difference:b}"), b"+0.000000002"));
        assert!(known.matches(&line("{difference}"), b"+0.000000003"));
        assert_eq!(
            known.show(&line("{difference:a} {difference~5}")),
            "+0.000000001 {difference~5}"
        );
    }

    #[track_caller]
    fn check_json(body: &str, status: Option<&str>, expected: Result<(), &str>) {
        let got = check_places(body.as_bytes(), 1, status);
        match (got, expected) {
            (Ok(()), Ok(())) => {}
            (Err(got), Err(expected)) if got.contains(expected) => {}
            (got, expected) => panic!("{body}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn places_have_their_shape() {
        let json = |results: &str, status: &str, more: &str| {
            format!(
                "{{\"html_attributions\":[],\n\"results\":{results},\"status\":\"{status}\"{more}}}"
            )
        };
        let message = ",\"error_message\":\"wait\"";
        check_json(&json("[{}]", "OK", ""), None, Ok(()));
        check_json(&json("[{}]", "OK", ""), Some("OK"), Ok(()));
        check_json(
            &json("[]", "ZERO_RESULTS", ""),
            Some("ZERO_RESULTS"),
            Ok(()),
        );
        check_json(&json("[]", "UNKNOWN_ERROR", message), None, Ok(()));
        check_json(&json("[{},{}]", "OK", ""), None, Err("at most 1"));
        check_json(&json("[1]", "OK", ""), None, Err("no object"));
        check_json(&json("[]", "OK", ""), None, Err("without a result"));
        check_json(
            &json("[{}]", "ZERO_RESULTS", ""),
            None,
            Err("beside results"),
        );
        check_json(
            &json("[{}]", "OK", ""),
            Some("ZERO_RESULTS"),
            Err("expected `ZERO_RESULTS`"),
        );
        check_json(
            &json("[]", "UNKNOWN_ERROR", ""),
            None,
            Err("without an `error_message`"),
        );
        check_json(&json("[]", "FINE", ""), None, Err("none of Google's"));
        check_json(&json("{}", "OK", ""), None, Err("`results`"));
        check_json(
            "{\"results\":[],\"status\":\"OK\"}",
            None,
            Err("html_attributions"),
        );
        check_json(
            "{\"html_attributions\":[],\"results\":[]}",
            None,
            Err("`status`"),
        );
        check_json("[]", None, Err("no object"));
        check_json("{", None, Err("no JSON"));
        check_json("", None, Err("no JSON"));
        check_json(
            &format!("\n{}", json("[{}]", "OK", "")),
            None,
            Err("empty line"),
        );
    }

    #[test]
    fn long_lines_are_shortened() {
        let shown = escape(&[b'x'; 4_096]);
        assert!(
            shown.len() < 300 && shown.contains("...3856 more bytes..."),
            "{shown}"
        );
        assert_eq!(escape(b"a\0\r\n\t\xff\\{}"), r"a\0\r\n\t\xff\\\{\}");
    }
}
