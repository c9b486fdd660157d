//! The format of a transcript: one step a line, each naming its connection.
//!
//! `tests/scripts/README.md` describes the format for authors; this module parses it.
//! A transcript with a syntax error is rejected as a whole, before anything is sent.

use std::collections::HashMap;

use super::template::Template;

/// Default time of `silent`, in milliseconds.
const SILENCE_MILLIS: u64 = 100;

/// One line of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Line number in the file, from 1.
    pub(crate) line: usize,
    /// The connection's name; its first step opens it.
    pub(crate) connection: String,
    /// Action to perform.
    pub(crate) action: Action,
}

/// Action of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Sends bytes in one write, or in pieces of `piece` bytes with a moment between them.
    Send {
        /// Text to send.
        text: Template,
        /// Bytes in a piece.
        piece: Option<usize>,
    },
    /// Expects lines.
    Expect(Template),
    /// Expects a JSON of places and the two LFs behind it.
    Places {
        /// Results at most.
        at_most: usize,
        /// Its `status`, if that is known.
        status: Option<String>,
    },
    /// From here to the next step that sends, all replies must come with a single read.
    Once,
    /// Expects silence for this many milliseconds.
    Silent(u64),
    /// Stops sending: half-closes.
    Finish,
    /// Expects the orderly end of the stream, optionally within this many seconds.
    End(Option<u64>),
    /// Closes the connection immediately.
    Close,
}

/// Parses a transcript; the error starts with the line number.
pub(crate) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut over: HashMap<String, usize> = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (connection, actions) =
            parse_step(line).map_err(|error| format!("{number}: {error}"))?;
        if let Some(closed) = over.get(connection) {
            return Err(format!(
                "{number}: `{connection}` was closed in line {closed}"
            ));
        }
        for action in actions {
            if matches!(action, Action::End(_) | Action::Close) {
                over.insert(connection.to_owned(), number);
            }
            steps.push(Step {
                line: number,
                connection: connection.to_owned(),
                action,
            });
        }
    }
    if steps.is_empty() {
        return Err("1: a transcript without a step".to_owned());
    }
    Ok(steps)
}

fn parse_step(line: &str) -> Result<(&str, Vec<Action>), String> {
    if line.ends_with([' ', '\t']) {
        return Err("white space at the end of a line can't be seen: write `\\x20`".to_owned());
    }
    let (connection, rest) = line.split_once(' ').unwrap_or((line, ""));
    if !connection.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(format!("`{connection}` is no name: letters and digits"));
    }
    let (verb, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let actions = match verb {
        ">" => vec![send(text, true)?],
        ">>" => vec![send(text, false)?],
        "split" => {
            let (size, text) = text.split_once(' ').unwrap_or((text, ""));
            let size = number(size)?;
            if size == 0 {
                return Err("pieces of no bytes".to_owned());
            }
            match send(text, false)? {
                Action::Send { text, .. } => vec![Action::Send {
                    text,
                    piece: Some(size),
                }],
                other => vec![other],
            }
        }
        "<" => vec![Action::Expect(Template::parse(text)?.with_line_end())],
        "<<" => {
            let lines = Template::parse(text)?;
            if !lines.ends_a_line() {
                return Err("the text of `<<` must end in `\\n`: replies are lines".to_owned());
            }
            vec![Action::Expect(lines)]
        }
        "takes" => vec![
            send(&format!("IAMAT {text}"), true)?,
            Action::Expect(
                Template::parse(&format!("AT {{server}} {{difference}} {text}"))?.with_line_end(),
            ),
        ],
        "refuses" => vec![
            send(text, true)?,
            Action::Expect(Template::parse(&format!("? {text}"))?.with_line_end()),
        ],
        "errs" => {
            let (code, text) = text.split_once(' ').unwrap_or((text, ""));
            if code.is_empty() || !code.bytes().all(|byte| byte.is_ascii_uppercase()) {
                return Err(format!("no code: `{code}`"));
            }
            let error = format!("ERR {code} {{text}}");
            vec![
                send(text, true)?,
                Action::Expect(Template::parse(&error)?.with_line_end()),
            ]
        }
        "places" => {
            let (at_most, status) = text.split_once(' ').unwrap_or((text, ""));
            vec![Action::Places {
                at_most: number(at_most)?,
                status: (!status.is_empty()).then(|| status.to_owned()),
            }]
        }
        "silent" if text.is_empty() => vec![Action::Silent(SILENCE_MILLIS)],
        "silent" => vec![Action::Silent(number(text)?)],
        "end" => match text.strip_prefix("within ") {
            Some(seconds) => vec![Action::End(Some(number(seconds)?))],
            None => vec![bare(Action::End(None), verb, text)?],
        },
        "once" => vec![bare(Action::Once, verb, text)?],
        "finish" => vec![bare(Action::Finish, verb, text)?],
        "close" => vec![bare(Action::Close, verb, text)?],
        _ => return Err(format!("no such step: `{verb}`")),
    };
    Ok((connection, actions))
}

fn bare(action: Action, verb: &str, text: &str) -> Result<Action, String> {
    if text.is_empty() {
        Ok(action)
    } else {
        Err(format!("`{verb}` stands alone, without `{text}`"))
    }
}

fn send(text: &str, line: bool) -> Result<Action, String> {
    let mut text = Template::parse(text)?;
    if text.has_wildcards() {
        return Err(
            "only a server knows {server}, {difference}, {time} and {text}: they can't be sent"
                .to_owned(),
        );
    }
    if line {
        text = text.with_line_end();
    }
    Ok(Action::Send { text, piece: None })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("no number: `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Template {
        Template::parse(text).expect(text)
    }

    #[track_caller]
    fn check(line: &str, expected: &[Action]) {
        let steps = parse(line).expect(line);
        let actions: Vec<_> = steps.into_iter().map(|step| step.action).collect();
        assert_eq!(actions, expected);
    }

    #[track_caller]
    fn check_error(transcript: &str, expected: &str) {
        let error = parse(transcript).expect_err(transcript);
        assert!(error.contains(expected), "{transcript}: {error}");
    }

    fn sends(bytes: &str) -> Action {
        Action::Send {
            text: text(bytes),
            piece: None,
        }
    }

    #[test]
    fn every_step_is_read() {
        check("a >", &[sends(r"\n")]);
        check("a >  x", &[sends(r" x\n")]);
        check(r"a >> x\r", &[sends(r"x\r")]);
        let split = Action::Send {
            text: text(r"xyz\n"),
            piece: Some(2),
        };
        check(r"a split 2 xyz\n", &[split]);
        check("a < ? x", &[Action::Expect(text(r"? x\n"))]);
        check(r"a << 1\n2\n", &[Action::Expect(text(r"1\n2\n"))]);
        let taken = Action::Expect(text(r"AT {server} {difference} c +1+1 1\n"));
        check("a takes c +1+1 1", &[sends(r"IAMAT c +1+1 1\n"), taken]);
        let echo = Action::Expect(text(r"? x\n"));
        check("a refuses x", &[sends(r"x\n"), echo]);
        let error = Action::Expect(text(r"ERR UNKNOWN {text}\n"));
        check("a errs UNKNOWN WHERE x", &[sends(r"WHERE x\n"), error]);
        let places = |status: Option<&str>| Action::Places {
            at_most: 5,
            status: status.map(str::to_owned),
        };
        check("a places 5", &[places(None)]);
        check("a places 5 OK", &[places(Some("OK"))]);
        check("a once", &[Action::Once]);
        check("a silent", &[Action::Silent(100)]);
        check("a silent 20", &[Action::Silent(20)]);
        check("a finish", &[Action::Finish]);
        check("a end", &[Action::End(None)]);
        check("a end within 12", &[Action::End(Some(12))]);
        check("a close", &[Action::Close]);
    }

    #[test]
    fn steps_know_their_line_and_connection() {
        let steps = parse("# a transcript\n\na > x\nb2 finish\n").expect("a transcript");
        let places: Vec<_> = steps
            .iter()
            .map(|step| (step.line, step.connection.as_str()))
            .collect();
        assert_eq!(places, [(3, "a"), (4, "b2")]);
    }

    #[test]
    fn faults_name_their_line() {
        check_error("# nothing\n", "1: a transcript without a step");
        check_error("a > x\na says x", "2: no such step: `says`");
        check_error("a", "no such step");
        check_error("a > x ", "white space at the end");
        check_error("a- > x", "no name");
        check_error("a > {server}", "only a server knows");
        check_error("a refuses {difference}", "only a server knows");
        check_error("a > {time}", "only a server knows");
        check_error("a errs unknown x", "no code");
        check_error("a << x", "must end in");
        check_error("a split 0 x", "no bytes");
        check_error("a places many", "no number");
        check_error("a end soon", "stands alone");
        check_error("a end\na > x", "2: `a` was closed in line 1");
    }
}
