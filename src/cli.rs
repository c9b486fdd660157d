//! The command line: raw flags in, a checked configuration out, or a sentence on what is wrong.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;
use herd::config::keys::{KeyError, KeyErrorKind, KeyFile, Step};
use herd::config::topology::Topology;
use herd::config::{
    Ack, Config, DEFAULT_DIGEST_INTERVAL, DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_RECORDS,
    DEFAULT_WORKERS, MAX_WORKERS, PoolKind,
};
use herd::places::Places;
use herd::places::atlas::Atlas;
use herd::places::google::Google;
use herd::places::google_legacy::GoogleLegacy;
use herd::places::http::{Options, SetupError};
use herd::places::key::ApiKey;
use herd::places::overpass::Overpass;
use herd::places::remote::{DEFAULT_PLACES_WORKERS, MAX_PLACES_WORKERS, Remote, Settings};
use herd::places::upstream::Upstream;
use herd::status::Survey;
use log::LevelFilter;

/// The key file, unless told otherwise.
const KEY_FILE: &str = "herd.key";

/// Holds the key for Google's services.
const KEY_VARIABLE: &str = "GOOGLE_PLACES_API_KEY";

/// An application server herd: equal servers that keep the latest location of every client,
/// flood it to each other, and answer what is near.
#[derive(Debug, FromArgs)]
#[argh(help_triggers("-h", "--help"))]
pub(crate) struct Arguments {
    /// print the version and exit
    #[argh(switch, short = 'V')]
    pub(crate) version: bool,

    #[argh(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What is to be done.
#[derive(Debug, FromArgs)]
#[argh(subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one in a process, and argh makes no boxed one"
)]
pub(crate) enum Command {
    Serve(Serve),
    Check(Check),
    Status(Status),
    Key(Key),
}

/// Run one server of the herd, until SIGTERM or SIGINT.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "serve",
    help_triggers("-h", "--help"),
    note = "SIGHUP has the servers file and the key file read again: neighbors come, go and move, and new
links use the new keys. A file that is bad, or changes this server's own addresses, is refused,
with the reason in the log, and what was read before stays in force."
)]
pub(crate) struct Serve {
    /// which server of servers.txt this is
    #[argh(positional, arg_name = "NAME")]
    name: String,

    /// who the servers are (default: servers.txt)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"servers.txt\")")]
    servers: PathBuf,

    /// where the server keeps its records, in DIR/NAME (default: data)
    #[argh(option, arg_name = "DIR", default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,

    /// when a report is acknowledged: memory (kept, written later), journal (with the kernel:
    /// survives a crash of the server; the default) or disk (survives the loss of power)
    #[argh(
        option,
        arg_name = "memory|journal|disk",
        default = "Ack::Journal",
        from_str_fn(ack)
    )]
    ack: Ack,

    /// where NAME.log is written (default: logs)
    #[argh(option, arg_name = "DIR", default = "PathBuf::from(\"logs\")")]
    pub(crate) log_dir: PathBuf,

    /// the herd's key, made if it is missing (default: herd.key beside the servers file)
    #[argh(option, arg_name = "FILE")]
    key_file: Option<PathBuf>,

    /// how the workers wait for clients: dedicated (a worker keeps a client until it closes) or shared
    /// (a silent client holds no worker; the default, needs Linux)
    #[argh(
        option,
        arg_name = "dedicated|shared",
        default = "PoolKind::default()",
        from_str_fn(discipline)
    )]
    pool: PoolKind,

    /// threads that serve clients (default: 4)
    #[argh(
        option,
        arg_name = "N",
        default = "DEFAULT_WORKERS",
        from_str_fn(workers)
    )]
    workers: usize,

    /// who is asked what is near: atlas (offline; the default), google (Places API New) or
    /// google-legacy, both with a key in GOOGLE_PLACES_API_KEY, or overpass (OpenStreetMap)
    #[argh(
        option,
        arg_name = "atlas|google|google-legacy|overpass",
        default = "Provider::Atlas",
        from_str_fn(provider)
    )]
    places: Provider,

    /// another endpoint for the places provider: its whole URL (a proxy, a mirror)
    #[argh(option, arg_name = "URL")]
    places_url: Option<String>,

    /// threads that call the places provider, and so calls at a time (default: 8)
    #[argh(
        option,
        arg_name = "N",
        default = "DEFAULT_PLACES_WORKERS",
        from_str_fn(places_workers)
    )]
    places_workers: usize,

    /// calls to the places provider in a minute at most (default: no cap)
    #[argh(option, arg_name = "N", from_str_fn(positive))]
    places_calls_per_minute: Option<usize>,

    /// another local address to bind this server's two ports on
    #[argh(option, arg_name = "IP")]
    bind: Option<IpAddr>,

    /// clients at a time (default: the limit of open files less 256)
    #[argh(option, arg_name = "N", from_str_fn(positive))]
    max_clients: Option<usize>,

    /// clients whose location is kept; new ones beyond are refused (default: 10000000)
    #[argh(
        option,
        arg_name = "N",
        default = "DEFAULT_MAX_RECORDS",
        from_str_fn(positive)
    )]
    max_records: usize,

    /// seconds after which a silent client is closed (default: 600)
    #[argh(
        option,
        arg_name = "SECONDS",
        default = "DEFAULT_IDLE_TIMEOUT",
        from_str_fn(seconds)
    )]
    idle_timeout: Duration,

    /// how much is logged: error, warn, info (every line received and sent; the default) or debug
    #[argh(
        option,
        arg_name = "error|warn|info|debug",
        default = "LevelFilter::Info",
        from_str_fn(level)
    )]
    pub(crate) log_level: LevelFilter,
}

/// Check servers.txt and print what it says.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "check", help_triggers("-h", "--help"))]
pub(crate) struct Check {
    /// the file to check (default: servers.txt)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"servers.txt\")")]
    servers: PathBuf,
}

/// Ask every server how it is: records, links, and whether all hold the same.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "status",
    help_triggers("-h", "--help"),
    note = "The servers are asked over their peer ports, with the herd's key. Each has 2 s to answer.

Of a link, LAG is how many records the neighbor has yet to apply, as of its last word, which is at
most a second old; QUEUED are those of them that are not yet sent, BYTES their size; RESYNCS is how
often the neighbor was sent what it lacked, DIVERGED in how many of 256 parts of the records it was
found to differ. REFUSED counts connections between servers, in either direction, that a server
refused or broke off for what came over them. The digest is of the records that were received more than 10 s ago; where
digests differ the servers are asked twice, and what is changing at that moment does not count.

Exit codes: 0 all servers are up, linked and equal; 1 they are not; 2 bad usage, or a bad servers
or key file.",
    example = "{command_name}\n{command_name} --servers /etc/herd/servers.txt --key-file /etc/herd/herd.key"
)]
pub(crate) struct Status {
    /// who the servers are (default: servers.txt)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"servers.txt\")")]
    servers: PathBuf,

    /// the herd's key, which must be there (default: herd.key beside the servers file)
    #[argh(option, arg_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl Status {
    /// Asks them.
    pub(crate) fn survey(&self) -> Result<Survey, String> {
        let topology = load(&self.servers)?;
        let path = key_file(self.key_file.as_deref(), &self.servers);
        let keys = KeyFile::load(&path).map_err(|error| match error.kind {
            KeyErrorKind::Missing => format!(
                "{}: there is no such file; the servers answer only who has the key that they run with (see --key-file)",
                path.display()
            ),
            _ => error.to_string(),
        })?;
        Ok(Survey::take(&topology, &keys))
    }
}

/// The key file that is meant: the named one, or the one beside the servers file.
fn key_file(named: Option<&Path>, servers: &Path) -> PathBuf {
    match named {
        Some(path) => path.to_owned(),
        None => servers.with_file_name(KEY_FILE),
    }
}

/// Make or change the key that lets servers speak as servers of one herd. All of them need the
/// same file, which only its owner may read (mode 600).
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "key",
    help_triggers("-h", "--help"),
    note = "To change a herd's key while it runs, do this three times: {command_name} rotate; give
the file to every server; send each SIGHUP, or restart them one after another. The first time
makes the new key known, the second takes it into use, the third forgets the old
one. No link is refused meanwhile, as long as every server has read one file before
the next is made."
)]
pub(crate) struct Key {
    #[argh(subcommand)]
    command: KeyCommand,
}

/// What is to be done about the key.
#[derive(Debug, FromArgs)]
#[argh(subcommand)]
enum KeyCommand {
    New(KeyNew),
    Rotate(KeyRotate),
}

/// Make a key file for a new herd; an existing file is left as it is.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "new", help_triggers("-h", "--help"))]
struct KeyNew {
    /// the file to make (default: herd.key)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(KEY_FILE)")]
    key_file: PathBuf,
}

/// Take the next of the three steps that change the key of a running herd.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "rotate", help_triggers("-h", "--help"))]
struct KeyRotate {
    /// the file to change (default: herd.key)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(KEY_FILE)")]
    key_file: PathBuf,
}

impl Key {
    /// Does it, and says what is to be done next.
    pub(crate) fn run(&self) -> Result<String, KeyError> {
        let (path, said) = match &self.command {
            KeyCommand::New(KeyNew { key_file }) => {
                KeyFile::create(key_file)?;
                let said = "a key for a new herd. Copy it to every server's machine, mode 600";
                (key_file, said)
            }
            KeyCommand::Rotate(KeyRotate { key_file }) => {
                let said = match KeyFile::rotate(key_file)? {
                    Step::NextAccepted => {
                        "step 1 of 3: a new key is accepted beside the old one. Give the file to all servers and send them SIGHUP, then run herd key rotate again"
                    }
                    Step::PreviousAccepted => {
                        "step 2 of 3: the new key is used, the old one still accepted. Give the file to all servers and send them SIGHUP, then run herd key rotate again"
                    }
                    Step::One => {
                        "step 3 of 3: the old key is gone. Give the file to all servers and send them SIGHUP"
                    }
                };
                (key_file, said)
            }
        };
        Ok(format!("{}: {said}\n", path.display()))
    }
}

/// How reading the command line ended, where not with arguments.
#[derive(Debug)]
pub(crate) enum Early {
    /// Help was asked for; this is it.
    Help(String),
    /// It can't be understood; this is why.
    Usage(String),
}

/// Reads the command line.
pub(crate) fn parse(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> Result<Arguments, Early> {
    let mut words = Vec::new();
    for argument in arguments.skip(1) {
        let word = argument
            .into_string()
            .map_err(|word| Early::Usage(format!("{} is not UTF-8 text", word.display())))?;
        // `--flag=value` is what many type, and argh only knows two words.
        match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                words.extend([flag.to_owned(), value.to_owned()]);
            }
            _ => words.push(word),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Arguments::from_args(&["herd"], &words).map_err(|early| match early.status {
        Ok(()) => Early::Help(early.output),
        Err(()) => Early::Usage(early.output),
    })
}

impl Serve {
    /// What the two files say by now. A key file that is missing now is not made: the servers
    /// that are up have another one.
    pub(crate) fn reread(&self) -> Result<(Topology, KeyFile), String> {
        let topology = load(&self.servers)?;
        let keys = KeyFile::load(&key_file(self.key_file.as_deref(), &self.servers));
        Ok((topology, keys.map_err(|error| error.to_string())?))
    }

    /// What the flags come to.
    pub(crate) fn config(&self) -> Result<Config, String> {
        let topology = load(&self.servers)?;
        let Some(server) = topology.server(&self.name) else {
            let names: Vec<_> = topology
                .servers()
                .iter()
                .map(|server| server.name.as_str())
                .collect();
            let (file, names) = (self.servers.display(), names.join(", "));
            return Err(format!(
                "{file} names no server {}; it names {names}",
                self.name
            ));
        };
        if self.pool == PoolKind::Shared && !cfg!(target_os = "linux") {
            return Err("--pool shared needs Linux; use --pool dedicated".to_owned());
        }
        let keys = KeyFile::load_or_create(&key_file(self.key_file.as_deref(), &self.servers));
        Ok(Config {
            server: server.clone(),
            keys: keys.map_err(|error| error.to_string())?,
            bind: self.bind,
            pool: self.pool,
            workers: self.workers,
            max_clients: self.max_clients,
            max_records: self.max_records,
            idle_timeout: self.idle_timeout,
            data_dir: Some(self.data_dir.clone()),
            ack: self.ack,
            digest_interval: DEFAULT_DIGEST_INTERVAL,
            topology,
        })
    }
}

/// Where places come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    Atlas,
    Google,
    GoogleLegacy,
    Overpass,
}

impl Serve {
    /// The places provider on the network that the flags name, if they name one.
    pub(crate) fn upstream(&self) -> Result<Option<Box<dyn Upstream>>, String> {
        let options = Options {
            url: self.places_url.clone(),
            roots: None,
        };
        let upstream: Result<Box<dyn Upstream>, SetupError> = match self.places {
            Provider::Atlas if self.places_url.is_some() => {
                return Err("--places-url has no meaning with --places atlas".to_owned());
            }
            Provider::Atlas => return Ok(None),
            Provider::Google => Google::new(key()?, &options).map(|google| Box::new(google) as _),
            Provider::GoogleLegacy => {
                GoogleLegacy::new(key()?, &options).map(|google| Box::new(google) as _)
            }
            Provider::Overpass => Overpass::new(&options).map(|overpass| Box::new(overpass) as _),
        };
        upstream.map(Some).map_err(|error| error.to_string())
    }

    /// Who answers what is near; makes the threads that call an upstream.
    pub(crate) fn places(&self, upstream: Option<Box<dyn Upstream>>) -> io::Result<Places> {
        let Some(upstream) = upstream else {
            return Ok(Places::Atlas(Atlas::new()));
        };
        let calls = self.places_calls_per_minute;
        let settings = Settings {
            workers: self.places_workers,
            calls_per_minute: calls.map(|calls| u32::try_from(calls).unwrap_or(u32::MAX)),
        };
        Remote::start(upstream, settings).map(Places::Remote)
    }
}

/// The key for Google. It is in the environment because flags are shown to every user of the
/// machine.
fn key() -> Result<ApiKey, String> {
    let text = std::env::var(KEY_VARIABLE).unwrap_or_default();
    ApiKey::new(&text).ok_or_else(|| {
        format!(
            "{KEY_VARIABLE} is not set: --places google and google-legacy need an API key there, in the environment"
        )
    })
}

impl Check {
    /// What the file says, as text.
    pub(crate) fn report(&self) -> Result<String, String> {
        let topology = load(&self.servers)?;
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
            report +=
                &format!("warning: no flood from {first} reaches {rest}: the herd is in parts\n");
        }
        report += &format!(
            "{}: good, servers: {}\n",
            self.servers.display(),
            topology.servers().len()
        );
        Ok(report)
    }
}

fn load(path: &Path) -> Result<Topology, String> {
    Topology::load(path).map_err(|error| error.to_string())
}

fn discipline(text: &str) -> Result<PoolKind, String> {
    match text {
        "dedicated" => Ok(PoolKind::Dedicated),
        "shared" => Ok(PoolKind::Shared),
        _ => Err("it is either dedicated or shared".to_owned()),
    }
}

fn ack(text: &str) -> Result<Ack, String> {
    match text {
        "memory" => Ok(Ack::Memory),
        "journal" => Ok(Ack::Journal),
        "disk" => Ok(Ack::Disk),
        _ => Err("it is one of memory, journal and disk".to_owned()),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers @ 1..=MAX_WORKERS) => Ok(workers),
        _ => Err(format!("it must be a number from 1 to {MAX_WORKERS}")),
    }
}

fn provider(text: &str) -> Result<Provider, String> {
    match text {
        "atlas" => Ok(Provider::Atlas),
        "google" => Ok(Provider::Google),
        "google-legacy" => Ok(Provider::GoogleLegacy),
        "overpass" => Ok(Provider::Overpass),
        _ => Err("it is one of atlas, google, google-legacy and overpass".to_owned()),
    }
}

fn places_workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers @ 1..=MAX_PLACES_WORKERS) => Ok(workers),
        _ => Err(format!(
            "it must be a number from 1 to {MAX_PLACES_WORKERS}"
        )),
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
        // A year stands for ever here, and keeps sums of times far from their end.
        Ok(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be a whole number of seconds from 1 to 31536000".to_owned()),
    }
}

fn level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        _ => Err("it is one of error, warn, info and debug".to_owned()),
    }
}
