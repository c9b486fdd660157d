//! Texts from outside as they may be shown to clients, in the log and on a terminal.

use std::fmt::{self, Write};

/// Displays a text on one line, in any script. Escapes backslashes, control characters, and invisible
/// characters that could change how the rest of a line looks, such as those that reverse its
/// direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrintableText<'a>(pub(crate) &'a str);

/// Returns whether a character is displayed as something else, or changes how others are displayed.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\\' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl PrintableText<'_> {
    /// Returns at most `limit` characters of the displayed text. `…` is the last one of a text that
    /// is longer; no escape sequence is cut in two.
    pub(crate) fn shortened(self, limit: usize) -> String {
        let (mut shown, mut length, mut end) = (String::new(), 0, 0);
        for character in self.0.chars() {
            length += displayed(character).count();
            if length > limit {
                shown.truncate(end);
                shown.push('…');
                break;
            }
            shown.extend(displayed(character));
            // Where a longer text is cut, there is room for the last character.
            if length < limit {
                end = shown.len();
            }
        }
        shown
    }
}

/// Returns the characters that a character is displayed as.
fn displayed(character: char) -> impl Iterator<Item = char> {
    let escape = is_deceptive(character).then(|| character.escape_default());
    let plain = escape.is_none().then_some(character);
    escape.into_iter().flatten().chain(plain)
}

impl fmt::Display for PrintableText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .flat_map(displayed)
            .try_for_each(|character| f.write_char(character))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_displayed_on_one_line() {
        for (text, expected) in [
            ("Schlüssel \"x\" für 東京", "Schlüssel \"x\" für 東京"),
            ("a\r\n2026 ERROR b\t\0", r"a\r\n2026 ERROR b\t\u{0}"),
            ("\u{1b}[31m\u{9b}2J\u{7f}", r"\u{1b}[31m\u{9b}2J\u{7f}"),
            ("a\u{2028}b\u{2029}\u{85}", r"a\u{2028}b\u{2029}\u{85}"),
            (
                "\u{202e}txt.exe\u{2066}\u{feff}",
                r"\u{202e}txt.exe\u{2066}\u{feff}",
            ),
            (r"\n", r"\\n"),
        ] {
            assert_eq!(PrintableText(text).to_string(), expected);
            assert_eq!(PrintableText(text).shortened(100), expected);
        }
    }

    #[test]
    fn a_text_is_shortened_between_escape_sequences() {
        for (text, expected) in [
            ("", ""),
            ("12345678", "12345678"),
            ("123456789", "1234567…"),
            ("123456\n", r"123456\n"),
            ("1234567\n", "1234567…"),
            ("123456\n9", "123456…"),
            ("\u{1b}345", r"\u{1b}3…"),
            ("\u{202e}9", "…"),
            ("éééééééé", "éééééééé"),
            ("ééééééééé", "ééééééé…"),
        ] {
            assert_eq!(PrintableText(text).shortened(8), expected, "{text:?}");
        }
    }
}
