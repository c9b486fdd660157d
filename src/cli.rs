//! The command line: converts raw flags to a checked configuration, or to an error for the user.
//!
//! The types here hold the flags as `argh` reads them; their doc comments are the text of `--help`.
//! Defaults and bounds come from the modules that use the values. `check` and `key` are the commands of
//! those names, `places` has the flags about places, `values` reads numbers and addresses, and `hint` says what a misspelt word may have been meant for.

mod check;
mod hint;
mod key;
mod places;
mod values;

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::{EarlyExit, FromArgValue, FromArgs};
use check::CheckArguments;
use herd::config::keys::{KeyError, KeyErrorKind, KeyFile};
use herd::config::topology::{Address, Topology};
use herd::config::{
    Ack, Config, DEFAULT_COMPACT_WITHIN, DEFAULT_DIGEST_INTERVAL, DEFAULT_IDLE_TIMEOUT,
    DEFAULT_MAX_RECORDS, DEFAULT_MAX_UNSENT_BYTES, DEFAULT_WORKERS, HttpConfig, MAX_WORKERS,
    MIN_MAX_UNSENT_BYTES, PoolKind,
};
use herd::disk::Readers;
use herd::logging;
use herd::places::remote::{DEFAULT_PLACES_WORKERS, MAX_PLACES_WORKERS};
use herd::status::Survey;
use key::KeyArguments;
use log::LevelFilter;
use places::{CallLimit, Provider};
use values::{at_least, duration, host_name, local_address, positive, seconds, up_to};

/// Default name of the key file.
const KEY_FILE: &str = "herd.key";

/// An application server herd: equal servers that keep the latest location of every client, flood
/// it to each other, and list the places near a client.
#[derive(Debug, FromArgs)]
#[argh(help_triggers("-h", "--help"))]
pub(crate) struct Arguments {
    /// print the version and exit
    #[argh(switch, short = 'V')]
    pub(crate) version: bool,

    #[argh(subcommand)]
    pub(crate) subcommand: Option<Subcommand>,
}

/// The subcommands.
#[derive(Debug, FromArgs)]
#[argh(subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "a process has one, and argh supports no boxed variants"
)]
pub(crate) enum Subcommand {
    Serve(ServeArguments),
    Check(CheckArguments),
    Status(StatusArguments),
    Key(KeyArguments),
}

/// Run one server of the herd, until SIGTERM or SIGINT.
#[derive(Clone, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "serve",
    help_triggers("-h", "--help"),
    note = "SIGHUP makes the server read the servers file and the key file again: neighbors are added, removed
and moved, and new links use the new keys. An invalid file, or one that changes this server's own
addresses, is refused: the log has the reason, and the current configuration stays. SIGHUP and SIGUSR1
make it open its log files again."
)]
pub(crate) struct ServeArguments {
    /// name of the server, as in servers.txt
    #[argh(positional, arg_name = "NAME")]
    name: String,

    /// file that lists the servers (default: servers.txt)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"servers.txt\")")]
    servers: PathBuf,

    /// directory of the server's records, DIR/NAME (default: data)
    #[argh(option, arg_name = "DIR", default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,

    /// when a report is acknowledged: memory (written to the journal later), journal (written to
    /// the kernel: survives a crash of the server; the default) or disk (survives the loss of
    /// power)
    #[argh(option, arg_name = "memory|journal|disk", default = "Ack::Journal")]
    ack: Ack,

    /// take a forget-after from the servers file that is longer than the last one, which could bring
    /// back what was forgotten: for one start of each server, with all of them up and equal by herd
    /// status
    #[argh(switch)]
    lengthen_forget_after: bool,

    /// time within which the location of a client that was forgotten is gone from the journal, which is
    /// compacted for that: digits and s, m, h or d, such as 90m (default: 24h)
    #[argh(
        option,
        arg_name = "DURATION",
        default = "DEFAULT_COMPACT_WITHIN",
        from_str_fn(duration)
    )]
    compact_within: Duration,

    /// let the group read the data folder and the logs too (modes 640 and 750 instead of 600 and
    /// 700)
    #[argh(switch)]
    group_readable: bool,

    /// directory of the log, NAME.log (default: logs)
    #[argh(option, arg_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// log to standard output instead of files: - is the only value
    #[argh(option, arg_name = "-", from_str_fn(dash))]
    log: Option<Stdout>,

    /// log every line received from and sent to clients, and every record from and to neighbors, to
    /// NAME.lines.log: the positions of all clients
    #[argh(switch)]
    log_lines: bool,

    /// file with the herd's key; created if it is missing and all servers have loopback addresses
    /// (default: herd.key beside the servers file)
    #[argh(option, arg_name = "FILE")]
    key_file: Option<PathBuf>,

    /// how the workers wait for clients: dedicated (a worker keeps a client until it closes) or
    /// shared (a silent client holds no worker; the default, needs Linux)
    #[argh(option, arg_name = "dedicated|shared", default = "PoolKind::default()")]
    pool: PoolKind,

    /// threads that serve clients (default: 4)
    #[argh(
        option,
        arg_name = "N",
        default = "DEFAULT_WORKERS",
        from_str_fn(up_to::<MAX_WORKERS>)
    )]
    workers: usize,

    /// provider of nearby places: atlas (offline; the default), google (Places API New) or
    /// google-legacy, both with a key in GOOGLE_PLACES_API_KEY, or overpass (OpenStreetMap)
    #[argh(
        option,
        arg_name = "atlas|google|google-legacy|overpass",
        default = "Provider::Atlas"
    )]
    places: Provider,

    /// complete URL of another endpoint of the places provider (a proxy or a mirror)
    #[argh(option, arg_name = "URL")]
    places_url: Option<String>,

    /// threads that call the places provider, and so its maximum number of calls at a time
    /// (default: 8)
    #[argh(
        option,
        arg_name = "N",
        default = "DEFAULT_PLACES_WORKERS",
        from_str_fn(up_to::<MAX_PLACES_WORKERS>)
    )]
    places_workers: usize,

    /// maximum number of calls to the places provider in a minute, or unlimited (default: 10 for
    /// google and google-legacy, which bill each call, unlimited for overpass)
    #[argh(option, arg_name = "N|unlimited")]
    places_calls_per_minute: Option<CallLimit>,

    /// local address on which to bind this server's two ports, instead of those in the servers file
    #[argh(option, arg_name = "IP")]
    bind: Option<IpAddr>,

    /// address of the HTTP port: health, metrics, status, and the live page, on which everybody who can
    /// reach it sees where all clients are. PORT alone is one of 127.0.0.1, port 0 a free one
    /// (default: no HTTP port)
    #[argh(option, arg_name = "[HOST:]PORT", from_str_fn(local_address))]
    http: Option<Address>,

    /// name by which browsers and programs may address the HTTP port, besides IP addresses, localhost
    /// and the host of --http; can be given several times
    #[argh(option, arg_name = "NAME", from_str_fn(host_name))]
    http_host: Vec<String>,

    /// where the server can't listen on the address of --http, use a free port of 127.0.0.1, or else
    /// start without an HTTP port
    #[argh(switch)]
    http_optional: bool,

    /// maximum number of clients at a time (default: as many as the limit of open files allows)
    #[argh(option, arg_name = "N", from_str_fn(positive))]
    max_clients: Option<usize>,

    /// maximum number of clients of one address (of one /64 network for IPv6) at a time (default: no
    /// limit)
    #[argh(option, arg_name = "N", from_str_fn(positive))]
    max_clients_per_address: Option<usize>,

    /// maximum bytes of replies that clients have not taken, in all; past it the connection is closed
    /// whose replies have waited longest (default: 268435456)
    #[argh(
        option,
        arg_name = "BYTES",
        default = "DEFAULT_MAX_UNSENT_BYTES",
        from_str_fn(at_least::<MIN_MAX_UNSENT_BYTES>)
    )]
    max_unsent_bytes: usize,

    /// maximum number of clients that are known or were forgotten; more are refused (default: 10000000)
    #[argh(
        option,
        arg_name = "N",
        default = "DEFAULT_MAX_RECORDS",
        from_str_fn(positive)
    )]
    max_records: usize,

    /// seconds after which the connection of a silent client is closed (default: 600)
    #[argh(
        option,
        arg_name = "SECONDS",
        default = "DEFAULT_IDLE_TIMEOUT",
        from_str_fn(seconds)
    )]
    idle_timeout: Duration,

    /// lowest level that is logged: error, warn, info (the default) or debug (also clients that come
    /// and go, and the reason for each refused line). Start, stop, reload, and what is lost and
    /// comes back are logged at every level
    #[argh(option, arg_name = "error|warn|info|debug", default = "LogLevel::Info")]
    log_level: LogLevel,
}

/// Print the status of every server: its records, its links, and whether all servers hold the same.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "status",
    help_triggers("-h", "--help"),
    note = "The status is requested over the servers' peer ports, with the herd's key. Each server has 2 s to
answer.

STATE is ok, or the worst of what is wrong with the server; all of it is beneath its line, with the
reasons. REFUSED LINKS counts connections between servers, in either direction, that a server
refused or closed for a protocol error. KEYS has the beginning of a hash of the key that it uses, and
of another that it accepts; it is the same at all servers. The digest covers the records that were
received more than 10 s ago; if digests differ, the servers are asked twice, and differences that
change in between do not count.

For a link, LAG is the age of the oldest record that the neighbor has not confirmed; confirmations
come once a second. QUEUED is the number of records that are not sent yet, BYTES their size; RESYNCS
counts how often the neighbor was sent the records that it lacked; DIVERGED is the number of
buckets, of 256, in which its records were found to differ. LAST ERROR is shown while the link is
not live, and for 10 s after.

Exit codes: 0 all servers are up, ok, linked and equal; 1 they are not; 2 bad usage, or an invalid
servers or key file.",
    example = "{command_name}\n{command_name} --json\n{command_name} --servers /etc/herd/servers.txt --key-file /etc/herd/herd.key"
)]
pub(crate) struct StatusArguments {
    /// file that lists the servers (default: servers.txt)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"servers.txt\")")]
    servers: PathBuf,

    /// file with the herd's key, which must exist (default: herd.key beside the servers file)
    #[argh(option, arg_name = "FILE")]
    key_file: Option<PathBuf>,

    /// print one line of JSON instead of tables
    #[argh(switch)]
    json: bool,
}

impl StatusArguments {
    /// Returns the output for a survey.
    pub(crate) fn shown(&self, survey: &Survey) -> String {
        match self.json {
            true => survey.to_json() + "\n",
            false => survey.to_string(),
        }
    }

    /// Requests and compares the status of all servers.
    pub(crate) fn survey(&self) -> Result<Survey, Box<dyn Error>> {
        let topology = Topology::load(&self.servers)?;
        let path = key_file(self.key_file.as_deref(), &self.servers);
        let keys = match KeyFile::load(&path) {
            Err(KeyError { path, kind: KeyErrorKind::Missing }) => return Err(format!(
                "{}: there is no such file; the servers answer only with the key that they run with (see --key-file)",
                path.display()
            ).into()),
            loaded => loaded?,
        };
        Ok(Survey::take(&topology, &keys))
    }
}

/// Returns the named key file, or the one beside the servers file.
fn key_file(named: Option<&Path>, servers: &Path) -> PathBuf {
    match named {
        Some(path) => path.to_owned(),
        None => servers.with_file_name(KEY_FILE),
    }
}

/// Parses the command line. Exits early with the help that was requested, or with the reason why
/// the command line is invalid.
pub(crate) fn parse(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> Result<Arguments, EarlyExit> {
    let mut words = Vec::new();
    for argument in arguments.skip(1) {
        let word = argument
            .into_string()
            .map_err(|word| format!("{} is not UTF-8 text", word.display()))?;
        // `--flag=value` is common, but argh only supports two words.
        match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                words.extend([flag.to_owned(), value.to_owned()]);
            }
            _ => words.push(word),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut arguments =
        Arguments::from_args(&["herd"], &words).map_err(|exit| match exit.status {
            Ok(()) => exit,
            Err(()) => hint::complete(&exit.output, &words).into(),
        })?;
    if let Some(Subcommand::Serve(serve)) = &mut arguments.subcommand {
        serve.make_absolute();
    }
    Ok(arguments)
}

impl ServeArguments {
    /// Makes all paths absolute: what a server says of them is read elsewhere and later, and a server
    /// that was started in the wrong directory shows it.
    fn make_absolute(&mut self) {
        let optional = self.key_file.iter_mut().chain(&mut self.log_dir);
        for path in [&mut self.servers, &mut self.data_dir]
            .into_iter()
            .chain(optional)
        {
            *path = absolute(path);
        }
    }

    /// Returns the server's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file that lists the servers.
    pub(crate) fn servers(&self) -> &Path {
        &self.servers
    }

    /// Reads the servers file and the key file again. A key file that is missing now is not
    /// created: the running servers use another one.
    pub(crate) fn read_again(&self) -> Result<(Topology, KeyFile), Box<dyn Error>> {
        let topology = Topology::load(&self.servers)?;
        let path = key_file(self.key_file.as_deref(), &self.servers);
        let keys = KeyFile::load(&path).map_err(|error| match error.kind {
            // A new key would be another herd's.
            KeyErrorKind::Missing => format!(
                "{}: there is no such file; copy the key file of the herd there",
                path.display()
            ),
            _ => error.to_string(),
        })?;
        Ok((topology, keys))
    }

    /// Returns the checked configuration, and what this start makes new: a key, an empty data folder.
    /// That is as it should be at a first start only, so the user is to see it.
    pub(crate) fn config(&self) -> Result<(Config, Vec<String>), Box<dyn Error>> {
        let topology = Topology::load(&self.servers)?;
        let Some(server) = topology.server(&self.name) else {
            let names: Vec<_> = topology
                .servers()
                .iter()
                .map(|server| server.name.as_str())
                .collect();
            let (file, name, names) = (self.servers.display(), &self.name, names.join(", "));
            return Err(format!("{file} names no server {name}; it names {names}").into());
        };
        if self.pool == PoolKind::Shared && !cfg!(target_os = "linux") {
            return Err("--pool shared needs Linux; use --pool dedicated".into());
        }
        let path = key_file(self.key_file.as_deref(), &self.servers);
        let (keys, is_new) = if topology.is_on_one_machine() {
            KeyFile::load_or_create(&path)?
        } else {
            (existing_key(&path)?, false)
        };
        let mut news = Vec::new();
        if is_new {
            news.push(format!(
                "created a new key file {}, for a new herd",
                path.display()
            ));
        }
        news.extend(new_folder(&self.data_dir.join(&self.name)));
        let config = Config {
            server: server.clone(),
            keys,
            bind: self.bind,
            pool: self.pool,
            workers: self.workers,
            max_clients: self.max_clients,
            max_clients_per_address: self.max_clients_per_address,
            max_unsent_bytes: self.max_unsent_bytes,
            max_records: self.max_records,
            idle_timeout: self.idle_timeout,
            data_dir: Some(self.data_dir.clone()),
            ack: self.ack,
            may_lengthen_forget_after: self.lengthen_forget_after,
            compact_within: self.compact_within,
            readers: self.readers(),
            digest_interval: DEFAULT_DIGEST_INTERVAL,
            http: self.http()?,
            topology,
        };
        Ok((config, news))
    }
}

/// Says that a server's data folder is new, if it is.
fn new_folder(folder: &Path) -> Option<String> {
    let path = folder.display();
    match std::fs::read_dir(folder) {
        Ok(mut entries) => entries
            .next()
            .is_none()
            .then(|| format!("the data folder {path} was empty: no records yet")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("created a new data folder {path}: no records yet"))
        }
        // The journal will say more.
        Err(_) => None,
    }
}

/// Reads the key file of a herd on several machines. Each of them would create a key of its own.
fn existing_key(path: &Path) -> Result<KeyFile, Box<dyn Error>> {
    match KeyFile::load(path) {
        Err(KeyError {
            path,
            kind: KeyErrorKind::Missing,
        }) => Err(missing_key(&path).into()),
        loaded => Ok(loaded?),
    }
}

/// Standard output, as the place of the log.
#[derive(Clone, Debug)]
struct Stdout;

fn dash(text: &str) -> Result<Stdout, String> {
    match text {
        "-" => Ok(Stdout),
        _ => Err("it must be - for standard output; --log-dir names a folder for files".to_owned()),
    }
}

/// Says how a herd on several machines comes to the key file that is missing.
fn missing_key(path: &Path) -> String {
    let path = absolute(path);
    let path = path.display();
    format!(
        "{path}: there is no such file, and no key is created for a herd whose addresses are not all loopback: \
         run herd key new --key-file {path} on one machine, and copy the file to the others, mode 600"
    )
}

/// Makes a path independent of the current directory, for a message that is read elsewhere.
fn absolute(path: &Path) -> PathBuf {
    // It fails for an empty path, or without a current directory.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Levels of the log.
#[derive(Clone, Copy, Debug, FromArgValue)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl ServeArguments {
    /// Returns the settings of the log.
    pub(crate) fn log(&self) -> Result<logging::Settings, String> {
        let folder = match (&self.log, &self.log_dir) {
            (Some(Stdout), Some(_)) => {
                return Err("--log - and --log-dir exclude each other".to_owned());
            }
            (Some(Stdout), None) => None,
            (None, Some(folder)) => Some(folder.clone()),
            (None, None) => Some(absolute(Path::new("logs"))),
        };
        Ok(logging::Settings {
            name: self.name.clone(),
            folder,
            level: match self.log_level {
                LogLevel::Error => LevelFilter::Error,
                LogLevel::Warn => LevelFilter::Warn,
                LogLevel::Info => LevelFilter::Info,
                LogLevel::Debug => LevelFilter::Debug,
            },
            lines: self.log_lines,
            readers: self.readers(),
        })
    }

    /// Returns the settings of the HTTP port.
    fn http(&self) -> Result<Option<HttpConfig>, String> {
        let Some(address) = &self.http else {
            let flag = match (&*self.http_host, self.http_optional) {
                ([], false) => return Ok(None),
                ([], true) => "--http-optional",
                _ => "--http-host",
            };
            return Err(format!("{flag} needs --http, the address of the HTTP port"));
        };
        Ok(Some(HttpConfig {
            address: address.clone(),
            is_optional: self.http_optional,
            hosts: self.http_host.clone(),
        }))
    }

    /// Returns the users that may read the server's files.
    fn readers(&self) -> Readers {
        if self.group_readable {
            Readers::Group
        } else {
            Readers::Owner
        }
    }
}
