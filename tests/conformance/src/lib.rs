//! Runs transcripts of the client protocol against any server that speaks it.
//!
//! A transcript needs only an address, so the same files test this server, its variants and
//! anything else that implements the protocol. At the end of each transcript every connection
//! that is still open is half-closed and must end in order without another byte, so every
//! transcript also checks that nothing unrequested is sent. `tests/scripts/README.md` describes
//! the format.

mod connection;
mod matcher;
mod script;
mod template;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use connection::{Connection, DEADLINE, Trouble};
use matcher::{Known, escape};
use script::{Action, Step};
use template::Values;

/// A subfolder of transcripts that do not hold for every server or at every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Those that take as long as the server's own time limits.
    Slow,
    /// Those of the second dialect.
    Dialect2,
}

impl Extra {
    fn folder(self) -> &'static str {
        match self {
            Extra::Slow => "slow",
            Extra::Dialect2 => "dialect2",
        }
    }
}

/// A parsed transcript, ready to run.
#[derive(Clone, Debug)]
pub struct Transcript {
    file: String,
    steps: Vec<Step>,
}

/// Reads the transcripts of a folder (`*.txt`), sorted by name, followed by those of its subfolders
/// in `extra`. Errors name the file and, for a syntax error, the line.
pub fn transcripts(folder: &Path, extra: &[Extra]) -> Result<Vec<Transcript>, String> {
    let mut transcripts = read_folder(folder)?;
    for extra in extra {
        transcripts.extend(read_folder(&folder.join(extra.folder()))?);
    }
    if transcripts.is_empty() {
        return Err(format!("{}: no transcript (*.txt)", folder.display()));
    }
    Ok(transcripts)
}

fn read_folder(folder: &Path) -> Result<Vec<Transcript>, String> {
    let fault = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| fault(folder, error))? {
        let path = entry.map_err(|error| fault(folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            files.push(path);
        }
    }
    files.sort();
    let mut transcripts = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(|error| fault(&path, error))?;
        transcripts.push(Transcript::parse(&path.display().to_string(), &text)?);
    }
    Ok(transcripts)
}

impl Transcript {
    /// Parses a transcript; the error names file and line.
    fn parse(file: &str, text: &str) -> Result<Transcript, String> {
        let steps = script::parse(text).map_err(|error| format!("{file}:{error}"))?;
        Ok(Transcript {
            file: file.to_owned(),
            steps,
        })
    }

    /// Path of the transcript's file.
    pub fn name(&self) -> &str {
        &self.file
    }

    /// Runs the transcript against `HOST:PORT`; the error says where and how the server differs.
    pub fn run(&self, address: &str) -> Result<(), String> {
        let mut run = Run::new(address);
        let mut last = 0;
        for step in &self.steps {
            last = step.line;
            run.step(step)
                .map_err(|error| format!("{}:{}: {error}", self.file, step.line))?;
        }
        run.end()
            .map_err(|error| format!("{}:{last}: after the last step, {error}", self.file))
    }
}

/// One run of one transcript.
struct Run<'a> {
    address: &'a str,
    values: Values,
    known: Known,
    connections: BTreeMap<String, Connection>,
}

impl Run<'_> {
    fn new(address: &str) -> Run<'_> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Run {
            address,
            values: Values {
                now: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
                // A hasher's keys are random, and randomness is all that is needed here.
                unique: format!("{:016x}", RandomState::new().build_hasher().finish()),
            },
            known: Known::default(),
            connections: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let name = &step.connection;
        let mut connection = match self.connections.remove(name) {
            Some(connection) => connection,
            None => Connection::open(self.address)
                .map_err(|error| format!("{name}: can't connect to {}: {error}", self.address))?,
        };
        let open = self
            .act(&step.action, &mut connection)
            .map_err(|error| format!("{name}: {error}"))?;
        if open {
            self.connections.insert(name.clone(), connection);
        }
        Ok(())
    }

    /// Performs one step; returns whether the connection stays open.
    fn act(&mut self, action: &Action, connection: &mut Connection) -> Result<bool, String> {
        match action {
            Action::Send { text, piece } => connection
                .send(&text.bytes(&self.values), *piece)
                .map_err(|error| format!("can't send: {error}"))?,
            Action::Expect(text) => {
                for expected in text.lines(&self.values) {
                    let got = connection.line();
                    if !matches!(&got, Ok(line) if self.known.matches(&expected, line)) {
                        let expected = format!("{}\\n", self.known.show(&expected));
                        let line_end = |line: Vec<u8>| [&line[..], b"\n"].concat();
                        return Err(differs(&expected, got.map(line_end), connection));
                    }
                }
            }
            Action::Places { at_most, status } => match connection.paragraph() {
                Ok(body) => {
                    matcher::check_places(&body, *at_most, status.as_deref()).map_err(|error| {
                        let expected = format!("a JSON of at most {at_most} places: {error}");
                        differs(&expected, Ok(body), connection)
                    })?;
                }
                Err(trouble) => {
                    let expected = format!("a JSON of at most {at_most} places, then \\n\\n");
                    return Err(differs(&expected, Err(trouble), connection));
                }
            },
            Action::Once => {
                if !connection.unread().is_empty() {
                    return Err(differs("nothing yet", Err(Trouble::NotOnce), connection));
                }
                connection.once();
            }
            Action::Silent(millis) => {
                connection.receive_until(Instant::now() + Duration::from_millis(*millis));
                let over = connection.over().cloned();
                if over.is_some() || !connection.unread().is_empty() {
                    let expected = format!("silence for {millis} ms");
                    return Err(differs(
                        &expected,
                        Err(over.unwrap_or(Trouble::Late)),
                        connection,
                    ));
                }
            }
            Action::Finish => connection
                .finish()
                .map_err(|error| format!("can't half-close: {error}"))?,
            Action::End(within) => {
                let within = within.map_or(DEADLINE, Duration::from_secs);
                expect_end(connection, within)?;
                return Ok(false);
            }
            Action::Close => return Ok(false),
        }
        Ok(true)
    }

    /// Half-closes all open connections; only the end of the stream may follow.
    fn end(&mut self) -> Result<(), String> {
        for (name, connection) in &mut self.connections {
            // Half-closing fails if the server has already closed; the end arrives all the same.
            let _ = connection.finish();
            expect_end(connection, DEADLINE).map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(())
    }
}

fn expect_end(connection: &mut Connection, within: Duration) -> Result<(), String> {
    let trouble = connection.end(within);
    if trouble == Trouble::Ended && connection.unread().is_empty() {
        return Ok(());
    }
    Err(differs("the end of the stream", Err(trouble), connection))
}

/// Describes a failure: the expected and the received text.
fn differs(expected: &str, got: Result<Vec<u8>, Trouble>, connection: &Connection) -> String {
    let got = match got {
        Ok(bytes) => escape(&bytes),
        Err(trouble) if connection.unread().is_empty() => format!("({trouble})"),
        Err(trouble) => format!("{} (then {trouble})", escape(connection.unread())),
    };
    format!("not as expected\n    expected  {expected}\n    got       {got}")
}

#[cfg(test)]
mod tests;
