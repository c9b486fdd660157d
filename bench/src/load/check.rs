//! Checks of replies, cheap enough for a million a second.
//!
//! A reply's line is compared with its known parts without a search for its end. A JSON is
//! parsed once; the same bytes for the same place need no second look.

use serde_json::Value;

use super::workload::{LOCATIONS, Pending, REPORT_BYTES};
use super::{Wire, towns};

/// Decimals of a difference.
const DECIMALS: usize = 9;

/// Bytes without an end of line that can be no reply's beginning any more.
const MAX_LINE_BYTES: usize = 4096;

/// Replies of Redis to a GEOADD of one member: it was known, or is new.
const ADDED: [&[u8]; 2] = [b":0\r\n", b":1\r\n"];

/// Bytes of a wrong reply that are shown.
const SHOWN_BYTES: usize = 300;

/// Checks the replies of one server.
#[derive(Debug)]
pub(crate) struct Checker {
    /// `AT server `, learned from the first reply.
    start: Vec<u8>,
    /// For each location the last JSON that was found right, with the LFs that end it.
    places: Vec<Vec<u8>>,
    bound: usize,
    wire: Wire,
}

impl Checker {
    /// For a server with this protocol, and inquiries of this bound.
    pub(crate) fn new(wire: Wire, bound: u8) -> Checker {
        Checker {
            start: Vec::new(),
            places: vec![Vec::new(); LOCATIONS],
            bound: usize::from(bound),
            wire,
        }
    }

    /// Returns the number of bytes of the reply at the start of `input`, or `None` if it is incomplete.
    pub(crate) fn check(
        &mut self,
        wanted: &Pending,
        input: &[u8],
    ) -> Result<Option<usize>, String> {
        if wanted.nearby {
            return towns::answer(self.wire, input, self.bound);
        }
        if self.wire == Wire::Redis {
            return match input.get(..ADDED[0].len()) {
                Some(reply) if ADDED.contains(&reply) => Ok(Some(reply.len())),
                Some(_) => Err(wrong(wanted, input)),
                None => Ok(None),
            };
        }
        if self.wire == Wire::Echo {
            let (name, bytes) = (b"IAMAT ", b"IAMAT ".len() + REPORT_BYTES);
            return match input.get(..bytes) {
                Some(line) if line.starts_with(name) && line.ends_with(&wanted.report) => {
                    Ok(Some(bytes))
                }
                Some(_) => Err(wrong(wanted, input)),
                None => Ok(None),
            };
        }
        if self.start.is_empty() && !self.learn(input) {
            return line_without_end(wanted, input);
        }
        let Some(line) = self.line_bytes(input) else {
            return line_without_end(wanted, input);
        };
        if input[line - REPORT_BYTES..line] != wanted.report {
            return Err(wrong(wanted, input));
        }
        if !wanted.whatsat {
            return Ok(Some(line));
        }
        let body = &input[line..];
        let known = &self.places[usize::from(wanted.location)];
        if !known.is_empty() && body.starts_with(known) {
            return Ok(Some(line + known.len()));
        }
        let Some(end) = body.windows(2).position(|pair| pair == b"\n\n") else {
            return Ok(None);
        };
        check_places(&body[..end], self.bound)
            .map_err(|error| format!("{error}\n    got       {}", shown(input)))?;
        self.places[usize::from(wanted.location)] = body[..end + 2].to_vec();
        Ok(Some(line + end + 2))
    }

    /// Returns the end of the line if it has the right form: `AT server difference ` and as many
    /// bytes as a report has.
    fn line_bytes(&self, input: &[u8]) -> Option<usize> {
        let difference = input.strip_prefix(&self.start[..])?;
        let (b'+' | b'-', digits) = difference.split_first()? else {
            return None;
        };
        let whole = digits
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let decimals = digits.get(whole + 1..whole + 1 + DECIMALS)?;
        let right = whole > 0
            && digits[whole] == b'.'
            && decimals.iter().all(u8::is_ascii_digit)
            && digits.get(whole + 1 + DECIMALS) == Some(&b' ');
        let end = self.start.len() + 1 + whole + 1 + DECIMALS + 1 + REPORT_BYTES;
        (right && end <= input.len()).then_some(end)
    }

    fn learn(&mut self, input: &[u8]) -> bool {
        let Some(rest) = input.strip_prefix(b"AT ") else {
            return false;
        };
        match rest.iter().position(|&byte| byte == b' ' || byte == b'\n') {
            Some(name) if name > 0 && rest[name] == b' ' => {
                self.start = input[..b"AT ".len() + name + 1].to_vec();
                true
            }
            _ => false,
        }
    }
}

/// A line that does not match is incomplete, or wrong.
fn line_without_end(wanted: &Pending, input: &[u8]) -> Result<Option<usize>, String> {
    if input.len() < MAX_LINE_BYTES && !input.contains(&b'\n') {
        Ok(None)
    } else {
        Err(wrong(wanted, input))
    }
}

fn wrong(wanted: &Pending, input: &[u8]) -> String {
    let end = input.iter().position(|&byte| byte == b'\n');
    let line = &input[..end.map_or(input.len(), |end| end + 1)];
    format!(
        "a wrong reply\n    expected  AT ... {}\n    got       {}",
        wanted.report.escape_ascii(),
        shown(line)
    )
}

fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if bytes.len() > SHOWN_BYTES {
        " ..."
    } else {
        ""
    };
    format!("{}{more}", start.escape_ascii())
}

fn check_places(body: &[u8], bound: usize) -> Result<(), String> {
    let json: Value =
        serde_json::from_slice(body).map_err(|error| format!("no JSON of places: {error}"))?;
    let results = json.get("results").and_then(Value::as_array);
    let results = results.ok_or("a JSON without `results`")?.len();
    if results > bound {
        return Err(format!("{results} places, expected at most {bound}"));
    }
    match json.get("status").and_then(Value::as_str) {
        Some("OK" | "ZERO_RESULTS") => Ok(()),
        Some(status) => Err(format!("places have failed: status `{status}`")),
        None => Err("a JSON without `status`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan;
    use super::super::workload::Workload;
    use super::*;

    const NONE: &str = "{\"html_attributions\":[],\"results\":[],\"status\":\"ZERO_RESULTS\"}\n\n";

    fn pending(whatsat: bool) -> Pending {
        let mut load = Workload::new(&plan("--clients 1"));
        let mut share = load.share(0);
        let mut pending = load.request(&mut share, 0, 0, &mut Vec::new());
        pending.whatsat = whatsat;
        pending
    }

    fn reply(pending: &Pending, places: &str) -> Vec<u8> {
        let start = &b"AT Ball +0.000000120 "[..];
        [start, &pending.report, places.as_bytes()].concat()
    }

    /// Feeds growing parts of a reply: none but the whole is one.
    #[track_caller]
    fn check_parts(checker: &mut Checker, wanted: &Pending, reply: &[u8]) {
        for length in 0..reply.len() {
            assert_eq!(
                checker.check(wanted, &reply[..length]),
                Ok(None),
                "{length}"
            );
        }
        assert_eq!(checker.check(wanted, reply), Ok(Some(reply.len())));
        let more = [reply, b"AT B"].concat();
        assert_eq!(checker.check(wanted, &more), Ok(Some(reply.len())));
    }

    #[test]
    fn whole_replies_are_found() {
        let mut checker = Checker::new(Wire::Herd, 1);
        let wanted = pending(false);
        check_parts(&mut checker, &wanted, &reply(&wanted, ""));
        let wanted = pending(true);
        check_parts(&mut checker, &wanted, &reply(&wanted, NONE));
        // Known by now, and then another one for the same place.
        check_parts(&mut checker, &wanted, &reply(&wanted, NONE));
        let one = "{\"html_attributions\":[],\n\"results\":[{}],\"status\":\"OK\"}\n\n";
        check_parts(&mut checker, &wanted, &reply(&wanted, one));
    }

    #[test]
    fn an_echo_sends_back_the_line() {
        let wanted = pending(false);
        let line = [b"IAMAT ", &wanted.report[..]].concat();
        let mut checker = Checker::new(Wire::Echo, 0);
        assert_eq!(checker.check(&wanted, &line), Ok(Some(line.len())));
        assert_eq!(checker.check(&wanted, &line[..9]), Ok(None));
        assert!(checker.check(&wanted, &reply(&wanted, "")).is_err());
    }

    #[test]
    fn redis_says_whether_a_member_is_new() {
        let wanted = pending(false);
        let mut checker = Checker::new(Wire::Redis, 0);
        assert_eq!(checker.check(&wanted, b":1\r\n:0"), Ok(Some(4)));
        assert_eq!(checker.check(&wanted, b":0\r\n"), Ok(Some(4)));
        assert_eq!(checker.check(&wanted, b":0\r"), Ok(None));
        for wrong in [&b":2\r\n"[..], b"-ERR wrong number\r\n"] {
            assert!(checker.check(&wanted, wrong).is_err());
        }
    }

    #[track_caller]
    fn check_wrong(whatsat: bool, places: &str, change: impl Fn(&mut Vec<u8>), expected: &str) {
        let first = pending(false);
        let mut checker = Checker::new(Wire::Herd, 0);
        assert!(checker.check(&first, &reply(&first, "")).is_ok());
        let wanted = Pending { whatsat, ..first };
        let mut reply = reply(&wanted, places);
        change(&mut reply);
        let error = checker.check(&wanted, &reply).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn every_wrong_byte_is_found() {
        let whole = reply(&pending(false), "").len();
        for at in 0..whole {
            check_wrong(false, "", |reply| reply[at] = b'#', "a wrong reply");
        }
    }

    #[test]
    fn other_lines_are_wrong() {
        let become_ = |text: &'static [u8]| move |reply: &mut Vec<u8>| *reply = text.to_vec();
        check_wrong(false, "", become_(b"? IAMAT x\n"), "a wrong reply");
        check_wrong(false, "", become_(b"\n"), "a wrong reply");
        check_wrong(false, "", become_(&[b'x'; 5_000]), "a wrong reply");
        check_wrong(false, "", |reply| drop(reply.drain(8..9)), "a wrong reply");
    }

    #[test]
    fn wrong_places_are_found() {
        let one = "{\"html_attributions\":[],\"results\":[{}],\"status\":\"OK\"}\n\n";
        check_wrong(true, one, |_| {}, "1 places, expected at most 0");
        check_wrong(true, "{}\n\n", |_| {}, "without `results`");
        check_wrong(true, "hello\n\n", |_| {}, "no JSON");
        let failed = NONE.replace("ZERO_RESULTS", "UNKNOWN_ERROR");
        check_wrong(true, &failed, |_| {}, "status `UNKNOWN_ERROR`");
    }
}
