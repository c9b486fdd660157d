//! Suggestions for unknown words of the command line.
//!
//! The words are taken from the text of `--help`, so that there is no second list of them.

use argh::FromArgs;

use super::Arguments;

/// Beginning of the message of `argh` about an unknown word.
const UNKNOWN: &str = "Unrecognized argument: ";

/// Maximum number of letters that differ in a word that is suggested.
const MAX_EDITS: usize = 2;

/// Completes the reason why a command line is refused: with the word that an unknown one resembles,
/// and where the right ones are listed.
pub(super) fn complete(reason: &str, words: &[&str]) -> String {
    let reason = reason.trim_end();
    let command: Vec<&str> = commands(words);
    let path: Vec<&str> = ["herd"]
        .into_iter()
        .chain(command.iter().copied())
        .collect();
    let help = format!("see {} --help", path.join(" "));
    let Some(unknown) = reason.strip_prefix(UNKNOWN) else {
        return format!("{reason}\n{help}");
    };
    let known = known_words(&command);
    let (kind, known): (_, Vec<&String>) = if unknown.starts_with('-') {
        (
            "option",
            known.iter().filter(|word| word.starts_with('-')).collect(),
        )
    } else {
        (
            "command",
            known.iter().filter(|word| !word.starts_with('-')).collect(),
        )
    };
    let nearest = known
        .iter()
        .map(|word| (edits(unknown, word), word))
        .filter(|&(edits, word)| edits <= MAX_EDITS && edits < word.trim_start_matches('-').len())
        .min_by_key(|&(edits, _)| edits);
    let what = match kind {
        "command" if known.is_empty() => format!("{} takes no argument {unknown}", path.join(" ")),
        _ => format!("{} has no {kind} {unknown}", path.join(" ")),
    };
    match nearest {
        Some((_, word)) => format!("{what}; did you mean {word}? ({help})"),
        None => format!("{what}; {help}"),
    }
}

/// Returns the commands at the beginning of the line, as far as they exist.
fn commands<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut path: Vec<&str> = Vec::new();
    for word in words {
        if !known_words(&path).iter().any(|known| known == word) || word.starts_with('-') {
            break;
        }
        path.push(word);
    }
    path
}

/// Returns the commands and options that the help for a command lists.
fn known_words(command: &[&str]) -> Vec<String> {
    let words: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
    let Err(help) = Arguments::from_args(&["herd"], &words) else {
        return Vec::new();
    };
    let mut known = Vec::new();
    let mut is_list = false;
    for line in help.output.lines() {
        if !line.starts_with(' ') {
            is_list = matches!(line, "Options:" | "Commands:");
            continue;
        }
        // A description that goes on is indented further.
        let is_entry = line.starts_with("  ") && !line.starts_with("   ");
        if is_list && is_entry {
            // `-h, --help        display usage information`
            let entry = line.trim_start().split("  ").next().unwrap_or_default();
            known.extend(entry.split(", ").map(str::to_owned));
        }
    }
    known
}

/// Number of letters to insert, remove, replace or exchange with the next, to make one word of the
/// other.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Two lines of the table are looked back at, and a word is short: the whole table is kept.
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(table[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    table[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested() {
        for (line, expected) in [
            (
                "chekc",
                "herd has no command chekc; did you mean check? (see herd --help)",
            ),
            (
                "sevre Ball",
                "herd has no command sevre; did you mean serve? (see herd --help)",
            ),
            ("frolic", "herd has no command frolic; see herd --help"),
            (
                "--verzion",
                "herd has no option --verzion; did you mean --version? (see herd --help)",
            ),
            (
                "check --sevrers x",
                "herd check has no option --sevrers; did you mean --servers? (see herd check --help)",
            ),
            (
                "key rotat",
                "herd key has no command rotat; did you mean rotate? (see herd key --help)",
            ),
            (
                "key new --keyfile x",
                "herd key new has no option --keyfile; did you mean --key-file? (see herd key new --help)",
            ),
            (
                "check x",
                "herd check takes no argument x; see herd check --help",
            ),
            (
                "serve A B",
                "herd serve takes no argument B; see herd serve --help",
            ),
            (
                "check --servers",
                "No value provided for option '--servers'.\nsee herd check --help",
            ),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let refused = Arguments::from_args(&["herd"], &words).expect_err("refused");
            assert_eq!(complete(&refused.output, &words), expected, "{line}");
        }
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, expected) in [
            ("check", "check", 0),
            ("chekc", "check", 1),
            ("chck", "check", 1),
            ("cheeck", "check", 1),
            ("shack", "check", 2),
            ("", "key", 3),
        ] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
            assert_eq!(edits(b, a), expected, "{b} {a}");
        }
    }
}
