//! `herd-bench churn`: connections that come and go as fast as they can.
//!
//! Nothing that a server holds for a client may outlive it, so descriptors and memory must be
//! the same before and after, and a good client must be served at once when it is over.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;
use rustix::net::sockopt;

use crate::figures::{duration, grouped};
use crate::progress::Progress;
use crate::{Failure, net, process};

/// How long anything that must come may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries where a try can't succeed yet.
const PAUSE: Duration = Duration::from_millis(5);

/// What a client is told that there is no room for.
pub(crate) const FULL: &[u8] = b"? server full\n";

/// Descriptors that may come and go in a server for reasons of its own.
const SPARE_DESCRIPTORS: usize = 4;

/// Connections between two looks at the server's descriptors.
const LOOK_EVERY: u64 = 500;

/// How each connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Close,
    Reset,
    Full,
}

/// Connect and go, again and again.
///
/// Afterwards a good client must be served within 10 s, and with `--pid` the server must have
/// as many descriptors as before. With `--kind full` the server is expected to have no room:
/// every connection must be told so and end in order, not by a reset.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "churn",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --address 127.0.0.1:12000 --count 100000 --pid 4711"
)]
pub(crate) struct Churn {
    /// HOST:PORT of the server's client port
    #[argh(option, arg_name = "host:port")]
    address: String,

    /// connections, one after the other (default: 10000)
    #[argh(option, default = "10_000", arg_name = "n")]
    count: u64,

    /// close (the default), reset, or full (the server must refuse each)
    #[argh(
        option,
        default = "Kind::Close",
        arg_name = "close|reset|full",
        from_str_fn(kind)
    )]
    kind: Kind,

    /// at most so many connections a second (default: as many as can be)
    #[argh(option, arg_name = "r")]
    rate: Option<f64>,

    /// the server's process, to look at its descriptors, memory and CPU time
    #[argh(option, arg_name = "pid")]
    pid: Option<u32>,
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "close" => Ok(Kind::Close),
        "reset" => Ok(Kind::Reset),
        "full" => Ok(Kind::Full),
        _ => Err("it is close, reset or full".to_owned()),
    }
}

/// What a server holds, and what it has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) descriptors: usize,
    pub(crate) kib: u64,
    pub(crate) cpu_nanos: u64,
}

/// How a churn went.
#[derive(Debug)]
pub(crate) struct Weathered {
    /// From the first connection to the last.
    pub(crate) took: Duration,
    /// How long a good client waited after it.
    calm: Duration,
    /// Descriptors at most.
    most: usize,
    /// What the server held before, at the end, and once it had settled.
    pub(crate) holdings: Option<((Holding, Holding), Holding)>,
}

/// Makes the churn that these options of the command line ask for.
pub(crate) fn measure(options: &[&str], progress: &mut Progress) -> Result<Weathered, String> {
    let churn = Churn::from_args(&["churn"], options)
        .map_err(|exit| format!("churn {}: {}", options.join(" "), exit.output))?;
    churn.measure(&net::resolve(&churn.address)?, progress)
}

fn holding(process: &str) -> Result<Holding, String> {
    Ok(Holding {
        descriptors: process::descriptors(process)?,
        kib: process::resident_kib(process)?,
        cpu_nanos: process::cpu_nanos(process)?,
    })
}

impl Churn {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let usage = |error: String| Failure::Usage(format!("churn: {error}"));
        let addresses = net::resolve(&self.address).map_err(usage)?;
        if self.rate.is_some_and(|rate| rate.is_nan() || rate < 1.0) {
            return Err(usage("--rate must be at least 1".to_owned()));
        }
        let mut progress = Progress::new();
        let result = self.measure(&addresses, &mut progress);
        drop(progress);
        let outcome = result.map_err(|error| Failure::Failed(format!("void: {error}")))?;
        io::stdout()
            .write_all(self.text(&outcome).as_bytes())
            .map_err(|error| Failure::Failed(format!("can't write: {error}")))
    }

    fn measure(
        &self,
        addresses: &[SocketAddr],
        progress: &mut Progress,
    ) -> Result<Weathered, String> {
        let process = self.pid.map(|pid| pid.to_string());
        let look = || process.as_deref().map(holding).transpose();
        if self.kind != Kind::Full {
            greet(addresses)?;
        }
        let before = look()?;
        let mut most = before.map_or(0, |before| before.descriptors);
        let start = Instant::now();
        for number in 0..self.count {
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(number as f64 / rate);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            self.one(addresses, number)?;
            if number % LOOK_EVERY == 0
                && let Some(process) = &process
            {
                most = most.max(process::descriptors(process)?);
            }
            progress.show(|| format!("{} of {} connections", number + 1, self.count));
        }
        let took = start.elapsed();
        let after = look()?;
        let (calm, settled) = match (self.kind, before) {
            (Kind::Full, _) => (Duration::ZERO, after),
            (_, Some(before)) => (greet(addresses)?, Some(self.settle(before)?)),
            (_, None) => (greet(addresses)?, None),
        };
        Ok(Weathered {
            took,
            calm,
            most,
            holdings: before.zip(after).zip(settled),
        })
    }

    fn text(&self, outcome: &Weathered) -> String {
        let took = outcome.took;
        let mut out = format!(
            "churn       {} connections in {:.2} s, {} /s, {:?}\n",
            grouped(self.count),
            took.as_secs_f64(),
            grouped((self.count as f64 / took.as_secs_f64()) as u64),
            self.kind
        );
        if self.kind != Kind::Full {
            out += &format!(
                "good client answered {} after it\n",
                duration(outcome.calm.as_nanos() as f64)
            );
        }
        if let Some(((before, after), settled)) = outcome.holdings {
            let cpu = (after.cpu_nanos - before.cpu_nanos) as f64;
            out += &format!(
                "descriptors {} before, {} at most, {} after\n\
                 server RSS  {} KiB before, {} KiB after\n\
                 server CPU  {} a connection, {:.3} cores\n",
                before.descriptors,
                outcome.most,
                settled.descriptors,
                grouped(before.kib),
                grouped(settled.kib),
                duration(cpu / self.count.max(1) as f64),
                cpu / took.as_nanos() as f64
            );
        }
        out
    }

    fn one(&self, addresses: &[SocketAddr], number: u64) -> Result<(), String> {
        let fault = |error: io::Error| format!("connection {}: {error}", number + 1);
        let stream = connect(addresses).map_err(fault)?;
        match self.kind {
            Kind::Close => {}
            Kind::Reset => {
                sockopt::set_socket_linger(&stream, Some(Duration::ZERO))
                    .map_err(|error| fault(error.into()))?;
            }
            Kind::Full => {
                // One that speaks first is where a careless close loses the refusal.
                if number.is_multiple_of(2) {
                    let _ = (&stream).write_all(b"hello\n");
                }
                let mut told = Vec::new();
                (&stream).read_to_end(&mut told).map_err(fault)?;
                if told != FULL {
                    return Err(format!(
                        "connection {} was told \"{}\"",
                        number + 1,
                        told.escape_ascii()
                    ));
                }
            }
        }
        Ok(())
    }

    /// Waits until the server holds no more descriptors than before.
    fn settle(&self, before: Holding) -> Result<Holding, String> {
        let process = self.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let start = Instant::now();
        loop {
            let now = holding(&process)?;
            if now.descriptors <= before.descriptors + SPARE_DESCRIPTORS {
                return Ok(now);
            }
            if start.elapsed() > PATIENCE {
                return Err(format!(
                    "{} descriptors before, still {} after 10 s",
                    before.descriptors, now.descriptors
                ));
            }
            thread::sleep(PAUSE);
        }
    }
}

fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match net::connect(addresses) {
            Ok(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            // Ports of connections that have just been closed are not free at once.
            Err(error)
                if error.kind() == ErrorKind::AddrNotAvailable && start.elapsed() < PATIENCE =>
            {
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A good client: how long it takes from its connecting to the right answer.
fn greet(addresses: &[SocketAddr]) -> Result<Duration, String> {
    let start = Instant::now();
    let fault = |error: io::Error| format!("a good client is not served: {error}");
    let mut stream = connect(addresses).map_err(fault)?;
    stream.write_all(b"hello\n").map_err(fault)?;
    let mut reply = [0; b"? hello\n".len()];
    stream.read_exact(&mut reply).map_err(fault)?;
    if &reply != b"? hello\n" {
        return Err(format!(
            "a good client was told \"{}\"",
            reply.escape_ascii()
        ));
    }
    Ok(start.elapsed())
}
