//! The one shape of every answer: that of Google's Places Nearby Search, which clients parse
//! whatever the provider.
//!
//! Written straight into the reply, since a tree of JSON values would sort keys and rewrite
//! numbers. Two newlines end a reply, so nothing here writes two in a row, and what comes from a
//! provider loses its own.

/// How a search went, in Google's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacesStatus {
    /// There are results.
    Ok,
    /// The search succeeded and found nothing.
    ZeroResults,
    /// The provider could not read the request.
    InvalidRequest,
    /// The provider answers no more for now.
    OverQueryLimit,
    /// The provider does not answer us, mostly for a key that it does not accept.
    RequestDenied,
    /// The provider failed, or could not be reached.
    UnknownError,
}

impl PlacesStatus {
    const ALL: [PlacesStatus; 6] = [
        PlacesStatus::Ok,
        PlacesStatus::ZeroResults,
        PlacesStatus::InvalidRequest,
        PlacesStatus::OverQueryLimit,
        PlacesStatus::RequestDenied,
        PlacesStatus::UnknownError,
    ];

    /// The status as it is sent.
    pub const fn text(self) -> &'static str {
        match self {
            PlacesStatus::Ok => "OK",
            PlacesStatus::ZeroResults => "ZERO_RESULTS",
            PlacesStatus::InvalidRequest => "INVALID_REQUEST",
            PlacesStatus::OverQueryLimit => "OVER_QUERY_LIMIT",
            PlacesStatus::RequestDenied => "REQUEST_DENIED",
            PlacesStatus::UnknownError => "UNKNOWN_ERROR",
        }
    }

    /// Reads a status as it is sent.
    pub fn parse(text: &str) -> Option<PlacesStatus> {
        PlacesStatus::ALL
            .into_iter()
            .find(|status| status.text() == text)
    }
}

/// What comes before the text of the list of credits.
const HEAD: &[u8] = br#"{"html_attributions":"#;

/// What comes between the credits and the first result.
const RESULTS: &[u8] = b",\n\"results\":[";

/// The list of credits where nobody is owed any.
const NO_CREDIT: &[u8] = b"[]";

/// Writes an answer into a reply, result by result.
#[derive(Debug)]
pub struct Answer<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Answer<'a> {
    /// Begins an answer. `credit` is the text of a JSON list, which becomes `html_attributions`
    /// as it is: a list of a provider's goes through [`write_normalized`] first.
    pub fn begin(credit: &[u8], out: &'a mut Vec<u8>) -> Answer<'a> {
        out.extend_from_slice(HEAD);
        out.extend_from_slice(credit);
        out.extend_from_slice(RESULTS);
        Answer {
            out,
            is_empty: true,
        }
    }

    /// Begins the next result, and gives the output that the caller appends its JSON text to.
    pub fn result(&mut self) -> &mut Vec<u8> {
        let separator: &[u8] = if self.is_empty { b"\n" } else { b",\n" };
        self.out.extend_from_slice(separator);
        self.is_empty = false;
        self.out
    }

    /// Ends an answer that succeeded, which may hold a message all the same.
    pub fn end(self, message: Option<&str>) {
        let status = if self.is_empty {
            PlacesStatus::ZeroResults
        } else {
            self.out.push(b'\n');
            PlacesStatus::Ok
        };
        write_end(status, message, self.out);
    }
}

fn write_end(status: PlacesStatus, message: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"],\n\"status\":\"");
    out.extend_from_slice(status.text().as_bytes());
    out.push(b'"');
    if let Some(message) = message {
        out.extend_from_slice(b",\n\"error_message\":");
        write_string(message, out);
    }
    out.push(b'}');
}

/// Appends the answer to a search that found nothing, which owes nobody credit.
pub fn write_zero_results(out: &mut Vec<u8>) {
    Answer::begin(NO_CREDIT, out).end(None);
}

/// Appends the answer to a search that failed. The message tells the client what to do.
pub fn write_failure(status: PlacesStatus, message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(HEAD);
    out.extend_from_slice(NO_CREDIT);
    out.extend_from_slice(RESULTS);
    write_end(status, Some(message), out);
}

/// Appends a text as a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    // A string always has a JSON text, and writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends a provider's JSON text with one newline where there was a run of them, and none at
/// either end.
///
/// No string is changed by that: within JSON strings newlines are escaped. A carriage return
/// before a newline belongs to it.
pub fn write_normalized(json: &[u8], out: &mut Vec<u8>) {
    let lines = json
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty());
    for (number, line) in lines.enumerate() {
        if number > 0 {
            out.push(b'\n');
        }
        out.extend_from_slice(line);
    }
}

/// Writes one JSON object field by field, in the order of the calls.
#[derive(Debug)]
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object {
            out,
            is_empty: true,
        }
    }

    /// Begins a field, and gives the output that the caller appends its value to. The name goes
    /// out as it is, without escapes.
    pub(super) fn field(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// Writes a field whose value is a JSON text of the provider's.
    pub(super) fn json(&mut self, name: &str, json: &str) {
        write_normalized(json.as_bytes(), self.field(name));
    }

    pub(super) fn string(&mut self, name: &str, text: &str) {
        write_string(text, self.field(name));
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(write: impl FnOnce(&mut Vec<u8>), expected: &str, value: &Value) {
        let mut out = b"AT\n".to_vec();
        write(&mut out);
        let text = std::str::from_utf8(&out[3..]).unwrap();
        assert_eq!(text, expected);
        assert_eq!(&serde_json::from_str::<Value>(text).unwrap(), value);
    }

    #[test]
    fn answers_have_googles_shape() {
        check(
            write_zero_results,
            "{\"html_attributions\":[],\n\"results\":[],\n\"status\":\"ZERO_RESULTS\"}",
            &json!({"html_attributions": [], "results": [], "status": "ZERO_RESULTS"}),
        );
        check(
            |out| {
                let mut answer = Answer::begin(b"[\"A\"]", out);
                answer.result().extend_from_slice(b"{\"name\":1}");
                answer.result().extend_from_slice(b"{\"name\":2}");
                answer.end(None);
            },
            "{\"html_attributions\":[\"A\"],\n\"results\":[\n{\"name\":1},\n{\"name\":2}\n],\n\"status\":\"OK\"}",
            &json!({"html_attributions": ["A"], "results": [{"name": 1}, {"name": 2}], "status": "OK"}),
        );
        check(
            |out| {
                let mut answer = Answer::begin(b"[]", out);
                answer.result().extend_from_slice(b"{}");
                answer.end(Some("Old API."));
            },
            "{\"html_attributions\":[],\n\"results\":[\n{}\n],\n\"status\":\"OK\",\n\"error_message\":\"Old API.\"}",
            &json!({"html_attributions": [], "results": [{}], "status": "OK", "error_message": "Old API."}),
        );
        check(
            |out| write_failure(PlacesStatus::RequestDenied, "No \"key\"\n\n", out),
            "{\"html_attributions\":[],\n\"results\":[],\n\"status\":\"REQUEST_DENIED\",\n\"error_message\":\"No \\\"key\\\"\\n\\n\"}",
            &json!({"html_attributions": [], "results": [], "status": "REQUEST_DENIED", "error_message": "No \"key\"\n\n"}),
        );
    }

    #[test]
    fn statuses_are_googles_words() {
        for status in PlacesStatus::ALL {
            assert_eq!(PlacesStatus::parse(status.text()), Some(status));
        }
        assert_eq!(PlacesStatus::parse("ok"), None);
        assert_eq!(PlacesStatus::parse("NOT_FOUND"), None);
    }

    #[test]
    fn runs_of_newlines_become_one() {
        for (json, expected) in [
            ("", ""),
            ("\n\n", ""),
            ("{}", "{}"),
            ("\n{\n\n\n}\n\n", "{\n}"),
            ("{\r\n\r\n}\r\n", "{\n}"),
            ("[1,\n  2]", "[1,\n  2]"),
            ("\"a\\n\\n\\nb\"", "\"a\\n\\n\\nb\""),
        ] {
            let mut out = Vec::new();
            write_normalized(json.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn objects_keep_the_order_of_their_fields() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.string("name", "a \"b\"");
        object.json("types", "[\n\n1]");
        Object::begin(object.field("geometry")).end();
        object.end();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"name\":\"a \\\"b\\\"\",\"types\":[\n1],\"geometry\":{}}"
        );
    }
}
