//! Why a question is not answered: the codes of the line protocol's second dialect, as JSON.

use crate::http::json::write_string;
use crate::http::response::{Body, JSON, Response};

/// Reason for which there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// A path that there is not.
    NoPath,
    /// A parameter is unknown, missing or given twice, or badly encoded.
    Syntax,
    /// It is not a client's id.
    Client,
    /// It is not a latitude or a longitude.
    Location,
    /// It is not a radius.
    Radius,
    /// It is not a number of clients.
    Bound,
    /// It is not the name of a watch, or another has it.
    Name,
    /// No client of that id has reported, or it was forgotten.
    Unknown,
    /// The server may not have heard of it yet.
    Starting,
    /// A limit is reached.
    Busy,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::NoPath | Code::Syntax => "SYNTAX",
            Code::Client => "CLIENT",
            Code::Location => "LOCATION",
            Code::Radius => "RADIUS",
            Code::Bound => "BOUND",
            Code::Name => "NAME",
            Code::Unknown => "UNKNOWN",
            Code::Starting => "STARTING",
            Code::Busy => "BUSY",
        }
    }

    fn status(self) -> u16 {
        match self {
            Code::NoPath | Code::Unknown => 404,
            Code::Starting | Code::Busy => 503,
            _ => 400,
        }
    }
}

/// A reason with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) text: String,
}

impl Fault {
    /// Makes one.
    pub(super) fn new(code: Code, text: impl Into<String>) -> Fault {
        Fault {
            code,
            text: text.into(),
        }
    }

    /// Returns the answer.
    pub(super) fn response(&self) -> Response {
        let mut json = b"{\"error\":{\"code\":".to_vec();
        write_string(self.code.name(), &mut json);
        json.extend_from_slice(b",\"text\":");
        write_string(&self.text, &mut json);
        json.extend_from_slice(b"}}");
        let mut response = Response::new(self.code.status(), JSON, Body::Owned(json));
        if self.code.status() == 503 {
            response.fields += "Retry-After: 1\r\n";
        }
        response
    }
}
