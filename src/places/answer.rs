//! The JSON shape of every answer: that of Google's Places Nearby Search, so that clients need not
//! know the provider.
//!
//! Answers are written straight into the reply, since a tree of JSON values would sort keys and
//! rewrite numbers. Two newlines end a reply, so nothing here writes two in a row, and runs of
//! newlines in a provider's JSON are collapsed.

use serde_json::value::RawValue;

/// Outcome of a search, as one of Google's status words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlacesStatus {
    /// There are results.
    Ok,
    /// The search succeeded and found nothing.
    ZeroResults,
    /// The provider rejected the request as invalid.
    InvalidRequest,
    /// A quota or a limit on calls is used up.
    OverQueryLimit,
    /// The provider rejected this server, mostly for its API key.
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

    /// Returns the status as it is sent.
    pub(super) const fn text(self) -> &'static str {
        match self {
            PlacesStatus::Ok => "OK",
            PlacesStatus::ZeroResults => "ZERO_RESULTS",
            PlacesStatus::InvalidRequest => "INVALID_REQUEST",
            PlacesStatus::OverQueryLimit => "OVER_QUERY_LIMIT",
            PlacesStatus::RequestDenied => "REQUEST_DENIED",
            PlacesStatus::UnknownError => "UNKNOWN_ERROR",
        }
    }

    /// Parses a status as it is sent.
    pub(super) fn parse(text: &str) -> Option<PlacesStatus> {
        PlacesStatus::ALL
            .into_iter()
            .find(|status| status.text() == text)
    }
}

/// The list of credits of an answer without results.
const NO_CREDIT: &[u8] = b"[]";

/// Writes an answer into a reply, result by result.
#[derive(Debug)]
pub(super) struct AnswerWriter<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> AnswerWriter<'a> {
    /// Begins an answer. `credit` is the text of a JSON list, which becomes `html_attributions`
    /// unchanged: a provider's list has to go through [`write_normalized`] first.
    pub(super) fn begin(credit: &[u8], out: &'a mut Vec<u8>) -> AnswerWriter<'a> {
        out.extend_from_slice(br#"{"html_attributions":"#);
        out.extend_from_slice(credit);
        out.extend_from_slice(b",\n\"results\":[");
        AnswerWriter {
            out,
            is_empty: true,
        }
    }

    /// Begins the next result and returns the output, to which the caller appends its JSON text.
    pub(super) fn result(&mut self) -> &mut Vec<u8> {
        let separator: &[u8] = if self.is_empty { b"\n" } else { b",\n" };
        self.out.extend_from_slice(separator);
        self.is_empty = false;
        self.out
    }

    /// Ends the answer of a search that succeeded, with the provider's message if it sent one.
    pub(super) fn finish(self, message: Option<&str>) {
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

/// Appends the answer of a search that found nothing.
pub(super) fn write_zero_results(out: &mut Vec<u8>) {
    AnswerWriter::begin(NO_CREDIT, out).finish(None);
}

/// Appends the answer of a search that failed. The message says what the client can do.
pub(super) fn write_failure(status: PlacesStatus, message: &str, out: &mut Vec<u8>) {
    write_end(
        status,
        Some(message),
        AnswerWriter::begin(NO_CREDIT, out).out,
    );
}

/// Appends a text as a JSON string.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    // Every string has a JSON text, and writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends a provider's JSON text with each run of newlines collapsed into one, and none at either
/// end.
///
/// This changes no string: newlines are escaped within JSON strings. A carriage return before a
/// newline is part of it.
pub(super) fn write_normalized(json: &[u8], out: &mut Vec<u8>) {
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
pub(super) struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> ObjectWriter<'a> {
    /// Begins an object.
    pub(super) fn begin(out: &'a mut Vec<u8>) -> ObjectWriter<'a> {
        out.push(b'{');
        ObjectWriter {
            out,
            is_empty: true,
        }
    }

    /// Begins a field and returns the output, to which the caller appends its value. The name is
    /// written without escapes.
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

    /// Writes a field whose value is a JSON text from the provider.
    pub(super) fn json(&mut self, name: &str, json: &str) {
        write_normalized(json.as_bytes(), self.field(name));
    }

    /// Writes a field whose value is a JSON text from the provider, if it sent one.
    pub(super) fn optional(&mut self, name: &str, json: Option<&RawValue>) {
        if let Some(json) = json {
            self.json(name, json.get());
        }
    }

    /// Writes a field whose value is a string.
    pub(super) fn string(&mut self, name: &str, text: &str) {
        write_string(text, self.field(name));
    }

    /// Ends the object.
    pub(super) fn finish(self) {
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
                let mut answer = AnswerWriter::begin(b"[\"A\"]", out);
                answer.result().extend_from_slice(b"{\"name\":1}");
                answer.result().extend_from_slice(b"{\"name\":2}");
                answer.finish(None);
            },
            "{\"html_attributions\":[\"A\"],\n\"results\":[\n{\"name\":1},\n{\"name\":2}\n],\n\"status\":\"OK\"}",
            &json!({"html_attributions": ["A"], "results": [{"name": 1}, {"name": 2}], "status": "OK"}),
        );
        check(
            |out| {
                let mut answer = AnswerWriter::begin(b"[]", out);
                answer.result().extend_from_slice(b"{}");
                answer.finish(Some("Old API."));
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
    fn runs_of_newlines_are_collapsed() {
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
        let mut object = ObjectWriter::begin(&mut out);
        object.string("name", "a \"b\"");
        object.json("types", "[\n\n1]");
        ObjectWriter::begin(object.field("geometry")).finish();
        object.finish();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"name\":\"a \\\"b\\\"\",\"types\":[\n1],\"geometry\":{}}"
        );
    }
}
