//! The command line: converts raw flags to a checked configuration, or to an error for the user.
//!
//! The types here hold the flags as `argh` reads them; their doc comments are the text of `--help`.
//! Defaults and bounds come from the modules that use the values.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::{EarlyExit, FromArgValue, FromArgs};
use herd::config::keys::{KeyError, KeyErrorKind, KeyFile, Rotation};
use herd::config::topology::Topology;
use herd::config::{
    Ack, Config, DEFAULT_DIGEST_INTERVAL, DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_RECORDS,
    DEFAULT_WORKERS, MAX_WORKERS, PoolKind,
};
use herd::disk::Readers;
use herd::places::Places;
use herd::places::atlas::Atlas;
use herd::places::google::Google;
use herd::places::google_legacy::GoogleLegacy;
use herd::places::http::Options;
use herd::places::key::ApiKey;
use herd::places::overpass::Overpass;
use herd::places::remote::{
    DEFAULT_BILLED_CALLS_PER_MINUTE, DEFAULT_PLACES_WORKERS, MAX_PLACES_WORKERS, Remote, Settings,
};
use herd::places::upstream::Upstream;
use herd::status::Survey;
use log::{LevelFilter, info, warn};

/// Default name of the key file.
const KEY_FILE: &str = "herd.key";

/// Environment variable with the API key for Google's services.
const KEY_VARIABLE: &str = "GOOGLE_PLACES_API_KEY";

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
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "serve",
    help_triggers("-h", "--help"),
    note = "SIGHUP makes the server read the servers file and the key file again: neighbors are added, removed
and moved, and new links use the new keys. An invalid file, or one that changes this server's own
addresses, is refused: the log has the reason, and the current configuration stays."
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

    /// let the group read the data folder too (modes 640 and 750 instead of 600 and 700)
    #[argh(switch)]
    group_readable: bool,

    /// directory of the log, NAME.log (default: logs)
    #[argh(option, arg_name = "DIR", default = "PathBuf::from(\"logs\")")]
    pub(crate) log_dir: PathBuf,

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

    /// maximum number of clients at a time (default: as many as the limit of open files allows)
    #[argh(option, arg_name = "N", from_str_fn(positive))]
    max_clients: Option<usize>,

    /// maximum number of clients whose location is kept; more are refused (default: 10000000)
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

    /// lowest level that is logged: error, warn, info (with every line received and sent; the
    /// default) or debug
    #[argh(option, arg_name = "error|warn|info|debug", default = "LogLevel::Info")]
    log_level: LogLevel,
}

/// Check servers.txt and print its servers.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "check", help_triggers("-h", "--help"))]
pub(crate) struct CheckArguments {
    /// file to check (default: servers.txt)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"servers.txt\")")]
    servers: PathBuf,
}

/// Print the status of every server: its records, its links, and whether all servers hold the same.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "status",
    help_triggers("-h", "--help"),
    note = "The status is requested over the servers' peer ports, with the herd's key. Each server has 2 s to
answer.

For a link, LAG is the number of records that the neighbor has not applied yet, by its last
acknowledgement, which is at most a second old; QUEUED is the number of those that are not sent
yet, BYTES their size; RESYNCS counts how often the neighbor was sent the records that it lacked;
DIVERGED is the number of buckets, of 256, in which its records were found to differ. REFUSED
counts connections between servers, in either direction, that a server refused or closed for a
protocol error. The digest covers the records that were received more than 10 s ago; if digests
differ, the servers are asked twice, and differences that change in between do not count.

Exit codes: 0 all servers are up, linked and equal; 1 they are not; 2 bad usage, or an invalid
servers or key file.",
    example = "{command_name}\n{command_name} --servers /etc/herd/servers.txt --key-file /etc/herd/herd.key"
)]
pub(crate) struct StatusArguments {
    /// file that lists the servers (default: servers.txt)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"servers.txt\")")]
    servers: PathBuf,

    /// file with the herd's key, which must exist (default: herd.key beside the servers file)
    #[argh(option, arg_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl StatusArguments {
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
    Arguments::from_args(&["herd"], &words)
}

impl ServeArguments {
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

    /// Returns the checked configuration.
    pub(crate) fn config(&self) -> Result<Config, Box<dyn Error>> {
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
        let keys = if topology.is_on_one_machine() {
            KeyFile::load_or_create(&path)?
        } else {
            existing_key(&path)?
        };
        Ok(Config {
            server: server.clone(),
            keys,
            bind: self.bind,
            pool: self.pool,
            workers: self.workers,
            max_clients: self.max_clients,
            max_records: self.max_records,
            idle_timeout: self.idle_timeout,
            data_dir: Some(self.data_dir.clone()),
            ack: self.ack,
            readers: if self.group_readable {
                Readers::Group
            } else {
                Readers::Owner
            },
            digest_interval: DEFAULT_DIGEST_INTERVAL,
            topology,
        })
    }
}

/// Reads the key file of a herd on several machines. Each of them would create a key of its own.
fn existing_key(path: &Path) -> Result<KeyFile, Box<dyn Error>> {
    match KeyFile::load(path) {
        Err(KeyError {
            path,
            kind: KeyErrorKind::Missing,
        }) => {
            let path = path.display();
            Err(format!(
                "{path}: there is no such file, and no key is created for a herd whose addresses are not all \
                 loopback: run herd key new --key-file {path} on one machine, and copy the file to the others, mode 600"
            )
            .into())
        }
        loaded => Ok(loaded?),
    }
}

/// Levels of the log.
#[derive(Clone, Copy, Debug, FromArgValue)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// Providers of nearby places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromArgValue)]
enum Provider {
    Atlas,
    Google,
    #[argh(name = "google-legacy")]
    GoogleLegacy,
    Overpass,
}

impl Provider {
    /// Returns whether it bills each call, to the holder of a key that is sent with it.
    fn is_billed(self) -> bool {
        matches!(self, Provider::Google | Provider::GoogleLegacy)
    }
}

/// A limit on the calls to a provider per minute.
#[derive(Clone, Copy, Debug)]
enum CallLimit {
    Calls(u32),
    Unlimited,
}

impl FromArgValue for CallLimit {
    fn from_arg_value(text: &str) -> Result<CallLimit, String> {
        match text.parse() {
            Ok(calls @ 1..) => Ok(CallLimit::Calls(calls)),
            _ if text == "unlimited" => Ok(CallLimit::Unlimited),
            _ => Err("it must be a whole number greater than 0, or unlimited".to_owned()),
        }
    }
}

impl ServeArguments {
    /// Returns the lowest level that is logged.
    pub(crate) fn log_level(&self) -> LevelFilter {
        match self.log_level {
            LogLevel::Error => LevelFilter::Error,
            LogLevel::Warn => LevelFilter::Warn,
            LogLevel::Info => LevelFilter::Info,
            LogLevel::Debug => LevelFilter::Debug,
        }
    }

    /// Returns the places provider on the network that the flags name; `None` for the atlas.
    pub(crate) fn upstream(&self) -> Result<Option<Box<dyn Upstream>>, Box<dyn Error>> {
        let options = self.places_options();
        Ok(Some(match self.places {
            Provider::Atlas if self.places_url.is_some() => {
                return Err("--places-url cannot be used with --places atlas".into());
            }
            Provider::Atlas => return Ok(None),
            Provider::Google => Box::new(Google::new(api_key()?, &options)?),
            Provider::GoogleLegacy => Box::new(GoogleLegacy::new(api_key()?, &options)?),
            Provider::Overpass => Box::new(Overpass::new(&options)?),
        }))
    }

    fn places_options(&self) -> Options {
        Options {
            url: self.places_url.clone(),
            roots: None,
        }
    }

    /// Returns the source of nearby places; starts the threads that call an upstream. Logs what it
    /// may cost, and warns if the key can be read on its way.
    pub(crate) fn places(&self, upstream: Option<Box<dyn Upstream>>) -> io::Result<Places> {
        let Some(upstream) = upstream else {
            return Ok(Places::Atlas(Atlas));
        };
        let is_billed = self.places.is_billed();
        let calls_per_minute = match self.places_calls_per_minute {
            Some(CallLimit::Calls(calls)) => Some(calls),
            Some(CallLimit::Unlimited) => None,
            None => is_billed.then_some(DEFAULT_BILLED_CALLS_PER_MINUTE),
        };
        let limit = calls_per_minute.map_or("unlimited".to_owned(), |calls| calls.to_string());
        let price = if is_billed { ", each is billed" } else { "" };
        info!("places: calls per minute: {limit}{price}");
        if is_billed && self.places_options().is_readable_on_the_way() {
            warn!(
                "--places-url is plain http: the API key and the positions of clients can be read on their way; use https"
            );
        }
        let settings = Settings {
            workers: self.places_workers,
            calls_per_minute,
        };
        Remote::start(upstream, settings).map(Places::Remote)
    }
}

/// Reads the key for Google. It is in the environment because flags are visible to every user of
/// the machine.
fn api_key() -> Result<ApiKey, String> {
    let text = std::env::var_os(KEY_VARIABLE).unwrap_or_default();
    if text.to_string_lossy().trim().is_empty() {
        return Err(format!(
            "{KEY_VARIABLE} is not set: --places google and google-legacy need an API key there, in the environment"
        ));
    }
    text.to_str().and_then(ApiKey::new).ok_or_else(|| {
        format!(
            "{KEY_VARIABLE} is not a key: it has white space, a line break or other characters that no key has"
        )
    })
}

impl CheckArguments {
    /// Returns the servers of the file as text, with a warning if the topology is partitioned.
    pub(crate) fn report(&self) -> Result<String, Box<dyn Error>> {
        let topology = Topology::load(&self.servers)?;
        let mut report = String::new();
        for server in topology.servers() {
            let neighbors = match server.neighbors.len() {
                0 => "no neighbors".to_owned(),
                _ => format!("neighbors {}", server.neighbors.join(", ")),
            };
            let (name, client, peer) = (&server.name, &server.client, &server.peer);
            report += &format!("{name}: clients {client}, peers {peer}, {neighbors}\n");
        }
        let unreachable = topology.unreachable();
        if !unreachable.is_empty() {
            let (first, rest) = (&topology.servers()[0].name, unreachable.join(", "));
            report += &format!(
                "warning: servers unreachable from {first}: {rest} (the topology is partitioned)\n"
            );
        }
        let (file, servers) = (self.servers.display(), topology.servers().len());
        report += &format!("{file}: good, servers: {servers}\n");
        Ok(report)
    }
}

fn up_to<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MAX).contains(&number) => Ok(number),
        _ => Err(format!("it must be a number from 1 to {MAX}")),
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("it must be a whole number greater than 0".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        // A year amounts to no limit, and sums of times stay far from overflow.
        Ok(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be a whole number of seconds from 1 to 31536000".to_owned()),
    }
}
