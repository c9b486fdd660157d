//! A survey as JSON. A change of what a field means, or a field that goes, has a new version; fields
//! may be added.

use serde::Serialize;

use super::{Answer, Survey};
use crate::link::status::ServerStatus;
use crate::model::time::Timestamp;

/// Version of the format.
const VERSION: u32 = 1;

/// A herd.
#[derive(Serialize)]
struct Herd<'a> {
    version: u32,
    /// Nanoseconds since 1970, by the clock of the machine that asked.
    at: Timestamp,
    whole: bool,
    /// Problems besides those that the servers report of themselves, in words.
    problems: &'a [String],
    /// Parts of the records, of 256, that change too fast to be compared.
    moving: usize,
    servers: Vec<Server<'a>>,
}

/// A server of it, in the order of `servers.txt`.
#[derive(Serialize)]
struct Server<'a> {
    name: &'a str,
    up: bool,
    /// Why it has not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    /// Hash of its records, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(flatten)]
    status: Option<&'a ServerStatus>,
}

/// Returns the JSON text.
pub(super) fn write(survey: &Survey) -> String {
    let herd = Herd {
        version: VERSION,
        at: survey.now,
        whole: survey.is_whole(),
        problems: &survey.problems,
        moving: survey.moving,
        servers: survey.answers.iter().map(server).collect(),
    };
    // A map whose keys are no strings is the only thing that can't be written.
    serde_json::to_string(&herd).unwrap_or_default()
}

fn server(answer: &Answer) -> Server<'_> {
    let status = answer.result.as_ref().ok();
    let digest = status.and_then(|status| status.digest.as_ref());
    Server {
        name: &answer.name,
        up: status.is_some(),
        error: answer.result.as_ref().err().map(String::as_str),
        digest: digest.map(|digest| format!("{:016x}", digest.total())),
        status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survey_has_all_servers() {
        let answer = |name: &str, result| Answer {
            name: name.to_owned(),
            result,
        };
        let survey = Survey {
            now: Timestamp::from_nanos(5),
            answers: vec![
                answer("Ball", Ok(ServerStatus::default())),
                answer("Welsh", Err("no answer within 2 s".to_owned())),
            ],
            problems: vec!["Welsh: no answer within 2 s".to_owned()],
            differing: Vec::new(),
            moving: 0,
        };
        assert_eq!(
            survey.to_json(),
            r#"{"version":1,"at":5,"whole":false,"problems":["Welsh: no answer within 2 s"],"moving":0,"servers":[{"name":"Ball","up":true,"state":"ok","problems":[],"release":"","keys":[],"forget_after_s":null,"records":0,"tombstones":0,"epoch":0,"uptime_ms":0,"clients":0,"connections_ended":{},"lines_refused":{},"refused":0,"links":{}},{"name":"Welsh","up":false,"error":"no answer within 2 s"}]}"#
        );
    }
}
