//! The command `herd key`: creates and rotates the key file.

use std::path::PathBuf;

use argh::FromArgs;
use herd::config::keys::{KeyError, KeyFile, Rotation};

use super::KEY_FILE;

/// Create or change the key by which the servers of a herd identify each other. All of them need
/// the same file, which only its owner may read (mode 600).
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "key",
    help_triggers("-h", "--help"),
    note = "To change the key of a running herd, do this three times: {command_name} rotate; copy
the file to every server; send each SIGHUP, or restart them one after another. The first time
adds the new key, the second uses it, the third removes the old one. No link is refused meanwhile,
as long as every server has read one file before the next is created."
)]
pub(crate) struct KeyArguments {
    #[argh(subcommand)]
    subcommand: KeySubcommand,
}

/// The subcommands of `herd key`.
#[derive(Debug, FromArgs)]
#[argh(subcommand)]
enum KeySubcommand {
    New(KeyNewArguments),
    Rotate(KeyRotateArguments),
}

/// Create a key file for a new herd; an existing file is left as it is.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "new", help_triggers("-h", "--help"))]
struct KeyNewArguments {
    /// file to create (default: herd.key)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(KEY_FILE)")]
    key_file: PathBuf,
}

/// Take the next of the three steps that change the key of a running herd.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "rotate", help_triggers("-h", "--help"))]
struct KeyRotateArguments {
    /// file to change (default: herd.key)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(KEY_FILE)")]
    key_file: PathBuf,
}

impl KeyArguments {
    /// Creates or rotates the key, and returns a text that says what to do next.
    pub(crate) fn run(&self) -> Result<String, KeyError> {
        let (path, next) = match &self.subcommand {
            KeySubcommand::New(KeyNewArguments { key_file }) => {
                KeyFile::create(key_file)?;
                let next = "a key for a new herd. Copy it to every server's machine, mode 600";
                (key_file, next)
            }
            KeySubcommand::Rotate(KeyRotateArguments { key_file }) => {
                let next = match KeyFile::rotate(key_file)? {
                    Rotation::NextAccepted(_) => {
                        "step 1 of 3: a new key is accepted beside the old one. Copy the file to all servers and send them SIGHUP, then run herd key rotate again"
                    }
                    Rotation::PreviousAccepted(_) => {
                        "step 2 of 3: the new key is used, the old one still accepted. Copy the file to all servers and send them SIGHUP, then run herd key rotate again"
                    }
                    Rotation::Idle => {
                        "step 3 of 3: the old key is removed. Copy the file to all servers and send them SIGHUP"
                    }
                };
                (key_file, next)
            }
        };
        Ok(format!("{}: {next}\n", path.display()))
    }
}
