//! The text of a step: bytes with escapes, placeholders and repetitions.
//!
//! One grammar serves sent and expected text, so a line that is echoed reads the
//! same in both places. Values that the server chooses, such as `{server}`, are not allowed in sent
//! text.

/// Most repetitions of one chunk. A transcript that needs more is a load test.
const MAX_REPEAT: usize = 1_000_000;

/// A parsed text, its placeholders not yet filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    /// The transcript's clock, plus these seconds.
    Now(i64),
    Unique,
    /// Index, from 0, of the current repetition of the innermost chunk.
    Index,
    Wildcard(Wildcard),
    Repeat(usize, Template),
}

/// A value that the server chooses: only its form and its repetition can be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wildcard {
    /// A server's name, the same throughout a transcript.
    Server,
    /// A signed number with nine decimals.
    Difference {
        /// Expected value, within a few seconds.
        about: Option<i64>,
        /// Name under which the value is remembered; later uses of the name must match it.
        name: Option<String>,
    },
    /// A time in seconds with nine decimals.
    Time,
    /// The rest of the line, of which nothing is known but that it can be shown.
    Text,
}

/// A piece of a line with its placeholders filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A value that the server chooses.
    Wildcard(Wildcard),
}

/// Values of the placeholders in one run.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    /// Seconds since the epoch, fixed when the transcript starts: input and expected output agree
    /// even if a second ends between them.
    pub(crate) now: i64,
    /// Sixteen letters and digits that no other run uses.
    pub(crate) unique: String,
}

impl Template {
    /// Parses a text; the error describes its fault.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let mut parser = Parser {
            rest: text.as_bytes(),
        };
        let parts = parser.parts(0)?;
        if parser.rest.is_empty() {
            Ok(Template(parts))
        } else {
            Err("a `}` without its `{`; a brace itself is `\\}`".to_owned())
        }
    }

    /// The same text and an LF.
    pub(crate) fn with_line_end(mut self) -> Template {
        push_byte(&mut self.0, b'\n');
        self
    }

    /// Returns whether the server chooses a part of it.
    pub(crate) fn has_wildcards(&self) -> bool {
        self.0.iter().any(|part| match part {
            Part::Wildcard(_) => true,
            Part::Repeat(_, inner) => inner.has_wildcards(),
            _ => false,
        })
    }

    /// Returns whether its last byte is an LF.
    pub(crate) fn ends_a_line(&self) -> bool {
        match self.0.last() {
            Some(Part::Bytes(bytes)) => bytes.ends_with(b"\n"),
            Some(Part::Repeat(_, inner)) => inner.ends_a_line(),
            _ => false,
        }
    }

    /// The bytes to send.
    pub(crate) fn bytes(&self, values: &Values) -> Vec<u8> {
        let mut out = Vec::new();
        for token in self.tokens(values) {
            if let Token::Bytes(bytes) = token {
                out.extend_from_slice(&bytes);
            }
        }
        out
    }

    /// The lines to expect, without their LFs.
    pub(crate) fn lines(&self, values: &Values) -> Vec<Vec<Token>> {
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        for token in self.tokens(values) {
            let Token::Bytes(bytes) = token else {
                line.push(token);
                continue;
            };
            for (index, piece) in bytes.split(|&byte| byte == b'\n').enumerate() {
                if index > 0 {
                    lines.push(std::mem::take(&mut line));
                }
                if !piece.is_empty() {
                    line.push(Token::Bytes(piece.to_vec()));
                }
            }
        }
        if !line.is_empty() {
            lines.push(line);
        }
        lines
    }

    fn tokens(&self, values: &Values) -> Vec<Token> {
        let mut out = Vec::new();
        self.fill_in(values, 0, &mut out);
        out
    }

    fn fill_in(&self, values: &Values, index: usize, out: &mut Vec<Token>) {
        for part in &self.0 {
            match part {
                Part::Bytes(bytes) => push_token(out, bytes),
                Part::Now(offset) => push_token(out, (values.now + offset).to_string().as_bytes()),
                Part::Unique => push_token(out, values.unique.as_bytes()),
                Part::Index => push_token(out, index.to_string().as_bytes()),
                Part::Wildcard(wildcard) => out.push(Token::Wildcard(wildcard.clone())),
                Part::Repeat(count, inner) => {
                    for index in 0..*count {
                        inner.fill_in(values, index, out);
                    }
                }
            }
        }
    }
}

fn push_token(out: &mut Vec<Token>, bytes: &[u8]) {
    match out.last_mut() {
        Some(Token::Bytes(last)) => last.extend_from_slice(bytes),
        _ => out.push(Token::Bytes(bytes.to_vec())),
    }
}

fn push_byte(parts: &mut Vec<Part>, byte: u8) {
    match parts.last_mut() {
        Some(Part::Bytes(bytes)) => bytes.push(byte),
        _ => parts.push(Part::Bytes(vec![byte])),
    }
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    /// Reads up to the end, or up to the `}` that ends a chunk.
    fn parts(&mut self, depth: usize) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        while let Some((&byte, rest)) = self.rest.split_first() {
            match byte {
                b'}' => break,
                b'\\' => {
                    self.rest = rest;
                    push_byte(&mut parts, self.escape()?);
                }
                b'{' => {
                    self.rest = rest;
                    parts.push(self.placeholder(depth)?);
                }
                _ => {
                    self.rest = rest;
                    push_byte(&mut parts, byte);
                }
            }
        }
        Ok(parts)
    }

    fn escape(&mut self) -> Result<u8, String> {
        let (&byte, rest) = self
            .rest
            .split_first()
            .ok_or("a `\\` with nothing behind")?;
        self.rest = rest;
        Ok(match byte {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'0' => 0,
            b'\\' | b'{' | b'}' => byte,
            b'x' => {
                let digits = rest.get(..2).unwrap_or_default();
                let value = std::str::from_utf8(digits)
                    .ok()
                    .filter(|digits| digits.len() == 2 && !digits.starts_with('+'))
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                    .ok_or("`\\x` needs two hexadecimal digits")?;
                self.rest = &rest[2..];
                value
            }
            _ => return Err(format!("no such escape: `\\{}`", char::from(byte))),
        })
    }

    fn placeholder(&mut self, depth: usize) -> Result<Part, String> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit());
        let digits = digits.count();
        if digits > 0 && self.rest.get(digits) == Some(&b'*') {
            let count = number(&String::from_utf8_lossy(&self.rest[..digits]))?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if count > MAX_REPEAT {
                return Err(format!("at most {MAX_REPEAT} repetitions"));
            }
            self.rest = &self.rest[digits + 1..];
            let inner = self.parts(depth + 1)?;
            self.rest = self
                .rest
                .strip_prefix(b"}")
                .ok_or("a repetition without its `}`")?;
            return Ok(Part::Repeat(count, Template(inner)));
        }
        let end = self.rest.iter().position(|&byte| byte == b'}');
        let end = end.ok_or("a `{` without its `}`; a brace itself is `\\{`")?;
        let name = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest = &self.rest[end + 1..];
        named(&name, depth)
    }
}

/// A placeholder by the name between its braces.
fn named(name: &str, depth: usize) -> Result<Part, String> {
    match name {
        "server" => return Ok(Part::Wildcard(Wildcard::Server)),
        "time" => return Ok(Part::Wildcard(Wildcard::Time)),
        "text" => return Ok(Part::Wildcard(Wildcard::Text)),
        "unique" => return Ok(Part::Unique),
        "now" => return Ok(Part::Now(0)),
        "i" if depth > 0 => return Ok(Part::Index),
        "i" => return Err("`{i}` outside of a repetition".to_owned()),
        _ => {}
    }
    if let Some(offset) = name.strip_prefix("now")
        && offset.starts_with(['+', '-'])
    {
        return Ok(Part::Now(number(offset)?));
    }
    if let Some(rest) = name.strip_prefix("difference") {
        let (about, remembered) = match rest.split_once(':') {
            Some((about, name)) => (about, Some(name.to_owned())),
            None => (rest, None),
        };
        let about = match about.strip_prefix('~') {
            Some(seconds) => Some(number(seconds)?),
            None if about.is_empty() => None,
            None => return Err(format!("no such placeholder: `{{{name}}}`")),
        };
        return Ok(Part::Wildcard(Wildcard::Difference {
            about,
            name: remembered,
        }));
    }
    Err(format!("no such placeholder: `{{{name}}}`"))
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("no number: `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values {
            now: 1_000,
            unique: "u".to_owned(),
        }
    }

    #[track_caller]
    fn check_bytes(text: &str, expected: &[u8]) {
        let template = Template::parse(text).expect(text);
        assert_eq!(
            template.bytes(&values()).escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        let error = Template::parse(text).expect_err(text);
        assert!(error.contains(expected), "{text}: {error}");
    }

    #[test]
    fn escapes_stand_for_bytes() {
        check_bytes(r"a\r\n\t\0\xff\x0B\\\{\}", b"a\r\n\t\0\xff\x0b\\{}");
        check_bytes("\u{1f95d}", "\u{1f95d}".as_bytes());
    }

    #[test]
    fn placeholders_are_filled_in() {
        check_bytes("{unique}-{now} {now+299} {now-1}.5", b"u-1000 1299 999.5");
    }

    #[test]
    fn chunks_repeat_and_count() {
        check_bytes("<{3*ab}>", b"<ababab>");
        check_bytes(r"{2*{i}:{2*{i}}\n}", b"0:01\n1:01\n");
        check_bytes("{0*x}", b"");
    }

    #[test]
    fn bad_texts_are_refused() {
        check_error("{", "without its `}`");
        check_error("}", "without its `{`");
        check_error("{3*x", "without its `}`");
        check_error("{i}", "outside of a repetition");
        check_error("{servers}", "no such placeholder");
        check_error("{differences}", "no such placeholder");
        check_error("{difference~x}", "no number");
        check_error("{now+x}", "no number");
        check_error("{9999999*x}", "repetitions");
        check_error(r"\q", "no such escape");
        check_error(r"\x1", "hexadecimal");
        check_error(r"\x+1", "hexadecimal");
        check_error("a\\", "nothing behind");
    }

    #[test]
    fn lines_end_at_every_lf() {
        let template = Template::parse(r"a {server}{2*\n{i}}\n").expect("a text");
        assert_eq!(
            template.lines(&values()),
            [
                vec![
                    Token::Bytes(b"a ".to_vec()),
                    Token::Wildcard(Wildcard::Server)
                ],
                vec![Token::Bytes(b"0".to_vec())],
                vec![Token::Bytes(b"1".to_vec())],
            ]
        );
        assert!(template.ends_a_line() && template.has_wildcards());
    }

    #[test]
    fn an_empty_line_is_a_line() {
        let template = Template::parse("").expect("a text").with_line_end();
        assert_eq!(template.lines(&values()), [vec![]]);
    }

    #[test]
    fn a_difference_may_be_near_and_named() {
        let parsed = Template::parse("{difference~-10:x}").expect("a text");
        let expected = Part::Wildcard(Wildcard::Difference {
            about: Some(-10),
            name: Some("x".to_owned()),
        });
        assert_eq!(parsed, Template(vec![expected]));
    }
}
