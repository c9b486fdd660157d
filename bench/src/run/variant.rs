//! The programs that can be started: the herd itself, and the folders of `bench/variants`.
//!
//! A variant's folder has three programs: `setup` installs or builds it, `version` prints a line with
//! the versions of its parts, and `serve NAME --servers FILE [--log FILE]` becomes the server, which
//! prints a line that begins with `NAME is ready`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::scenario::Entry;

/// Path of the herd's program, below the folder that this program is run in.
const HERD: &str = "target/release/herd";

/// Folder of the variants.
const FOLDER: &str = "bench/variants";

/// The command of a server.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    name: String,
    program: PathBuf,
    /// Flags of `herd serve` with their values; `None` for other programs.
    flags: Option<BTreeMap<String, String>>,
    log: bool,
}

/// The two ways in which the herd itself runs.
fn is_herd(name: &str) -> bool {
    name == "herd" || name == "herd-dedicated"
}

/// The protocol of a variant, as an option of the load; `None` for the herd's own.
pub(crate) fn wire(name: &str) -> Option<&'static str> {
    match name {
        "echo" => Some("--echo"),
        "redis" => Some("--redis"),
        _ => None,
    }
}

/// The program that runs a variant. The error says why there is none.
pub(crate) fn program(name: &str) -> Result<PathBuf, String> {
    let (path, how) = if is_herd(name) {
        (PathBuf::from(HERD), "build it with: cargo build --release")
    } else {
        let folder = Path::new(FOLDER).join(name);
        (
            folder.join("serve"),
            "each variant has a folder of its name there",
        )
    };
    path.canonicalize()
        .map_err(|error| format!("{}: {error}; {how}", path.display()))
}

/// The flags of `herd serve` for an entry: its own come last.
fn flags(
    entry: &Entry,
    workers: Option<usize>,
    clients: usize,
) -> Result<BTreeMap<String, String>, String> {
    let mut flags = BTreeMap::new();
    let mut set = |flag: &str, value: &str| flags.insert(flag.to_owned(), value.to_owned());
    set("--ack", "memory");
    set("--log-level", if entry.log { "info" } else { "warn" });
    if entry.variant() == "herd-dedicated" {
        set("--pool", "dedicated");
        // A client without a worker waits until another leaves, which no client of a run does.
        set("--workers", &clients.to_string());
    }
    if let Some(workers) = workers {
        set("--workers", &workers.to_string());
    }
    for pair in entry.flags.chunks(2) {
        let [flag, value] = pair else {
            return Err(format!("`{}`: a flag without its value", entry.name));
        };
        set(flag, value);
    }
    Ok(flags)
}

impl Variant {
    /// The variant of an entry, for this number of clients at a time.
    pub(crate) fn new(
        entry: &Entry,
        workers: Option<usize>,
        clients: usize,
    ) -> Result<Variant, String> {
        let name = entry.variant();
        let program = program(name)?;
        let flags = match is_herd(name) {
            true => Some(flags(entry, workers, clients)?),
            false if entry.flags.is_empty() => None,
            false => return Err(format!("`{}` takes no flags", entry.name)),
        };
        Ok(Variant {
            name: entry.name.clone(),
            program,
            flags,
            log: entry.log,
        })
    }

    /// Name in the results.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether it is the herd itself, which keeps a journal and reports lost log lines.
    pub(crate) fn is_herd(&self) -> bool {
        self.flags.is_some()
    }

    /// The command that becomes the server of that name, with its files in `folder`.
    pub(crate) fn command(&self, server: &str, folder: &Path) -> Vec<String> {
        let path = |name: &str| folder.join(name).display().to_string();
        let mut command = vec![self.program.display().to_string()];
        let mut add = |words: &[&str]| command.extend(words.iter().map(|word| (*word).to_owned()));
        match &self.flags {
            Some(flags) => {
                add(&["serve", server, "--servers", &path("servers.txt")]);
                add(&["--key-file", &path("herd.key")]);
                add(&["--data-dir", &path("data"), "--log-dir", &path("logs")]);
                for (flag, value) in flags {
                    add(&[flag, value]);
                }
                if self.log {
                    add(&["--log-lines"]);
                }
            }
            None => {
                add(&[server, "--servers", &path("servers.txt")]);
                if self.log {
                    add(&["--log", &path(&format!("{server}.log"))]);
                }
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entry: &Entry, workers: Option<usize>, expected: &str) {
        let flags = flags(entry, workers, 72).expect("flags");
        let flags: Vec<String> = flags.iter().map(|(k, v)| format!("{k} {v}")).collect();
        assert_eq!(flags.join(" "), expected);
    }

    #[test]
    fn an_entrys_own_flags_come_last() {
        let mut entry = Entry::plain("herd");
        check(&entry, None, "--ack memory --log-level warn");
        entry.log = true;
        entry.flags = vec!["--ack".to_owned(), "disk".to_owned()];
        check(&entry, Some(8), "--ack disk --log-level info --workers 8");
        entry.flags.pop();
        assert!(flags(&entry, None, 72).is_err());
    }

    #[test]
    fn every_client_has_a_worker() {
        let dedicated = "--ack memory --log-level warn --pool dedicated --workers";
        check(
            &Entry::plain("herd-dedicated"),
            None,
            &format!("{dedicated} 72"),
        );
        check(
            &Entry::plain("herd-dedicated"),
            Some(4),
            &format!("{dedicated} 4"),
        );
    }

    #[test]
    fn a_variants_command_has_its_log_only_if_it_is_wanted() {
        let mut variant = Variant {
            name: "node".to_owned(),
            program: PathBuf::from("/v/node/serve"),
            flags: None,
            log: false,
        };
        let folder = Path::new("/f");
        let plain = ["/v/node/serve", "Ball", "--servers", "/f/servers.txt"];
        assert_eq!(variant.command("Ball", folder), plain);
        variant.log = true;
        assert_eq!(
            variant.command("Ball", folder)[4..],
            ["--log", "/f/Ball.log"]
        );
        variant.flags = Some(BTreeMap::new());
        let last = variant.command("Ball", folder).pop();
        assert_eq!(last.as_deref(), Some("--log-lines"));
        variant.log = false;
        let last = variant.command("Ball", folder).pop();
        assert_eq!(last.as_deref(), Some("/f/logs"));
    }
}
