//! Writing a command is the inverse of parsing it. Shared by the property tests of the grammar and
//! the fuzz target, each of which has `Command` in scope.

use super::Command;

/// Returns the command as a line without its ending; single spaces separate the fields.
pub(super) fn written(command: &Command<'_>) -> Vec<u8> {
    match command {
        Command::Iamat(report) => {
            [b"IAMAT", report.client, report.location, report.time_text].join(&b' ')
        }
        Command::Whatsat(inquiry) => {
            let mut radius = inquiry.radius.integer.to_vec();
            if !inquiry.radius.fraction.is_empty() {
                radius.push(b'.');
                radius.extend_from_slice(inquiry.radius.fraction);
            }
            let bound = inquiry.bound.to_string();
            [b"WHATSAT", inquiry.client, &radius, bound.as_bytes()].join(&b' ')
        }
    }
}

/// Panics unless writing and parsing are inverse on `line`: a command is written as a line that
/// parses to the same command, and every field keeps its bytes.
pub(super) fn assert_inverse(line: &[u8]) {
    let Ok(command) = Command::parse(line) else {
        return;
    };
    let written = written(&command);
    assert_eq!(Command::parse(&written), Ok(command));
    // The bound comes last, and writing it drops its leading zeros.
    let kept = match command {
        Command::Iamat(_) => 4,
        Command::Whatsat(_) => 3,
    };
    let fields = |line| <[u8]>::split(line, |byte| b" \t\r\n\x0b\x0c".contains(byte));
    let read = fields(line).filter(|field| !field.is_empty());
    assert!(read.take(kept).eq(fields(&written).take(kept)));
}
