//! Finds the lines in the bytes of a client, and enforces their maximum length.

/// Maximum bytes of a line without its ending; past this the connection is closed.
pub(super) const MAX_LINE_BYTES: usize = 4096;

/// The beginning of the input that has not been answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A whole line without its ending; with it, the line takes up `taken` bytes of input.
    Line { line: &'a [u8], taken: usize },
    /// The beginning of a line that is too long.
    TooLong(&'a [u8]),
    /// No whole line yet.
    Unfinished,
}

/// Finds the first line of `input`. A line ends in LF; a CR right before it belongs to the ending.
/// Once the client's input has `ended`, the rest is a line without an ending.
pub(super) fn next_line(input: &[u8], ended: bool) -> Next<'_> {
    // The longest line allowed, its CR, and its LF.
    let window = &input[..input.len().min(MAX_LINE_BYTES + 2)];
    let (line, taken) = match memchr::memchr(b'\n', window) {
        Some(end) => {
            let line = &window[..end];
            (line.strip_suffix(b"\r").unwrap_or(line), end + 1)
        }
        None if ended && !input.is_empty() => (input, input.len()),
        None => {
            // One byte over the limit may yet turn out to be the CR of an ending.
            let line = window.strip_suffix(b"\r").unwrap_or(window);
            if line.len() > MAX_LINE_BYTES {
                return Next::TooLong(&input[..MAX_LINE_BYTES]);
            }
            return Next::Unfinished;
        }
    };
    if line.len() > MAX_LINE_BYTES {
        return Next::TooLong(&input[..MAX_LINE_BYTES]);
    }
    Next::Line { line, taken }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &[u8], ended: bool, expected: Next<'_>) {
        assert_eq!(
            next_line(input, ended),
            expected,
            "{}",
            input.escape_ascii()
        );
    }

    #[test]
    fn finds_endings() {
        check(b"", false, Next::Unfinished);
        check(b"", true, Next::Unfinished);
        check(b"ab", false, Next::Unfinished);
        check(b"ab\r", false, Next::Unfinished);
        check(
            b"ab\ncd",
            false,
            Next::Line {
                line: b"ab",
                taken: 3,
            },
        );
        check(
            b"ab\r\n",
            false,
            Next::Line {
                line: b"ab",
                taken: 4,
            },
        );
        check(
            b"ab\r\r\n",
            false,
            Next::Line {
                line: b"ab\r",
                taken: 5,
            },
        );
        check(
            b"\n\n",
            false,
            Next::Line {
                line: b"",
                taken: 1,
            },
        );
        check(
            b"ab",
            true,
            Next::Line {
                line: b"ab",
                taken: 2,
            },
        );
        check(
            b"ab\r",
            true,
            Next::Line {
                line: b"ab\r",
                taken: 3,
            },
        );
    }

    #[test]
    fn a_line_has_a_limit() {
        let full = [b'x'; MAX_LINE_BYTES];
        let with = |ending: &[u8]| [&full[..], ending].concat();
        let whole = |ending: usize| Next::Line {
            line: &full,
            taken: MAX_LINE_BYTES + ending,
        };
        check(&full, false, Next::Unfinished);
        check(&with(b"\n"), false, whole(1));
        check(&with(b"\r\n"), false, whole(2));
        check(&with(b"\r"), false, Next::Unfinished);
        check(&full, true, whole(0));
        check(&with(b"x"), false, Next::TooLong(&full));
        check(&with(b"x\n"), false, Next::TooLong(&full));
        check(&with(b"\rx"), false, Next::TooLong(&full));
        check(&with(b"\r\r\n"), false, Next::TooLong(&full));
        check(&with(b"\r"), true, Next::TooLong(&full));
        check(&with(&[b' '; MAX_LINE_BYTES]), true, Next::TooLong(&full));
    }
}
