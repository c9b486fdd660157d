//! The text of a `servers.txt`: its encoding, its lines and its fields.
//!
//! The file is written by hand, with whatever editor there is, so that it may come as UTF-16, with a
//! byte order mark, with the line ends of an old Mac, or with characters that look like a space and
//! are none. Each of these is named as what it is. Reading goes on behind it where it can, so that
//! the other faults of the file are reported as well.

use super::super::Fault;
use crate::model::fields::is_white_space;

/// Maximum length of the file in bytes; a longer one is not a list of servers.
pub(super) const MAX_FILE_BYTES: usize = 1 << 20;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A line that has more than white space and a comment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Number in the file, from 1.
    pub(super) number: usize,
    /// Its fields; at least one.
    pub(super) fields: Vec<Field>,
}

/// A field of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) text: String,
    /// A character of it is reported, so its form needs no report of its own.
    pub(super) is_reported: bool,
}

/// Splits a file into lines and fields. What is wrong with its characters is added to `faults`.
pub(super) fn read(text: &[u8], faults: &mut Vec<Fault>) -> Vec<Line> {
    if let Some(reason) = other_encoding(text) {
        faults.push(Fault::new(0, reason));
        return Vec::new();
    }
    let text = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => {
            faults.push(Fault::new(
                1,
                "the file begins with a byte order mark (U+FEFF), which an editor put there; save it as UTF-8 without one",
            ));
            rest
        }
        None => text,
    };
    let has_line_feeds = text.contains(&b'\n');
    let has_returns = trim_returns(text).contains(&b'\r');
    let end = if has_returns && !has_line_feeds {
        faults.push(Fault::new(
            0,
            "its lines end in CR (U+000D) alone; they must end in LF or CR LF, for example by: tr '\\r' '\\n' <FILE >NEW_FILE",
        ));
        b'\r'
    } else {
        b'\n'
    };
    let lines = text.split(|&byte| byte == end).enumerate();
    lines
        .filter_map(|(index, line)| {
            let (number, mut characters) = (index + 1, Characters::default());
            let fields = characters.split(trim_returns(line));
            faults.extend(characters.faults(number));
            (!fields.is_empty()).then_some(Line { number, fields })
        })
        .collect()
}

/// Returns why this is not text in UTF-8 at all.
fn other_encoding(text: &[u8]) -> Option<String> {
    let convert = |name: &str| {
        format!(
            "is {name} text; save it as UTF-8, for example by: iconv -f {name} -t UTF-8 FILE >NEW_FILE"
        )
    };
    // The mark of UTF-32 begins with that of UTF-16.
    if text.starts_with(b"\xff\xfe\0\0") || text.starts_with(b"\0\0\xfe\xff") {
        return Some(convert("UTF-32"));
    }
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Some(convert("UTF-16"));
    }
    let zero = text.iter().position(|&byte| byte == 0)?;
    // In UTF-16 without a mark every other byte of ASCII text is zero.
    let is_zero = |parity: usize| {
        let mut bytes = text.iter().skip(parity).step_by(2).take(32);
        text.len() > 3 && bytes.all(|&byte| byte == 0)
    };
    Some(if is_zero(1) {
        convert("UTF-16LE")
    } else if is_zero(0) {
        convert("UTF-16BE")
    } else {
        format!("is not a text file: byte {} is zero", zero + 1)
    })
}

fn trim_returns(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r'] = line {
        line = rest;
    }
    line
}

/// The characters of a line that have no place in it.
#[derive(Debug, Default)]
struct Characters {
    /// Each kind once: its description, the column of the first, and how many there are.
    found: Vec<(String, usize, usize)>,
}

impl Characters {
    fn add(&mut self, column: usize, description: String) {
        match self.found.iter_mut().find(|found| found.0 == description) {
            Some((_, _, count)) => *count += 1,
            None => self.found.push((description, column, 1)),
        }
    }

    fn faults(self, line: usize) -> impl Iterator<Item = Fault> {
        self.found
            .into_iter()
            .map(move |(description, column, count)| {
                let times = if count > 1 {
                    format!(" ({count} in this line)")
                } else {
                    String::new()
                };
                Fault::new(line, format!("column {column}: {description}{times}"))
            })
    }

    /// Splits a line into its fields. Other white space than ASCII's is reported and separates all
    /// the same, since that is what its author meant; what can't be seen is left out.
    fn split(&mut self, line: &[u8]) -> Vec<Field> {
        let (mut fields, mut field, mut column) = (Vec::new(), Field::default(), 0);
        let mut in_comment = false;
        for chunk in line.utf8_chunks() {
            for character in chunk.valid().chars() {
                column += 1;
                in_comment |= character == '#';
                match character {
                    // In some editors a line ends here; then the comment hides what follows.
                    '\r' => {
                        let text = "CR (U+000D) inside a line; a line ends in LF or CR LF";
                        self.add(column, text.to_owned());
                        fields.extend(take(&mut field));
                    }
                    _ if in_comment => {}
                    _ if character.is_ascii() && is_white_space(character as u8) => {
                        fields.extend(take(&mut field));
                    }
                    '!'..='~' => field.text.push(character),
                    _ => {
                        self.add(column, describe(character));
                        if character.is_whitespace() {
                            fields.extend(take(&mut field));
                        } else if hidden_name(character).is_none() {
                            field.text.push(character);
                            field.is_reported = true;
                        }
                    }
                }
            }
            for byte in chunk.invalid() {
                column += 1;
                if !in_comment {
                    self.add(column, format!("the byte 0x{byte:02X} is not UTF-8 text"));
                    field.text.push(char::REPLACEMENT_CHARACTER);
                    field.is_reported = true;
                }
            }
        }
        fields.extend(take(&mut field));
        fields
    }
}

fn take(field: &mut Field) -> Option<Field> {
    (!field.text.is_empty()).then(|| std::mem::take(field))
}

/// Describes a character that is allowed in comments only.
fn describe(character: char) -> String {
    let code = u32::from(character);
    if character.is_whitespace() {
        let name = space_name(character);
        format!("U+{code:04X} ({name}) is not white space here; use spaces or tabs")
    } else if let Some(name) = hidden_name(character) {
        format!("U+{code:04X} ({name}), which can't be seen, is not allowed")
    } else if character.is_control() {
        format!("U+{code:04X} (a control character) is not allowed")
    } else {
        format!("U+{code:04X} ({character}) is not allowed; only ASCII characters are")
    }
}

/// Names of white space outside ASCII.
fn space_name(character: char) -> &'static str {
    match character {
        '\u{85}' => "next line",
        '\u{a0}' => "no-break space",
        '\u{1680}' => "ogham space mark",
        '\u{2000}'..='\u{200a}' => "a space of fixed width",
        '\u{2028}' => "line separator",
        '\u{2029}' => "paragraph separator",
        '\u{202f}' => "narrow no-break space",
        '\u{205f}' => "medium mathematical space",
        '\u{3000}' => "ideographic space",
        _ => "a Unicode space",
    }
}

/// Names of characters that take no room on a screen.
fn hidden_name(character: char) -> Option<&'static str> {
    Some(match character {
        '\u{ad}' => "soft hyphen",
        '\u{180e}' => "Mongolian vowel separator",
        '\u{200b}' => "zero width space",
        '\u{200c}' => "zero width non-joiner",
        '\u{200d}' => "zero width joiner",
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            "a mark of the direction of writing"
        }
        '\u{2060}' => "word joiner",
        '\u{feff}' => "byte order mark",
        _ => return None,
    })
}
