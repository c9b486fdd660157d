//! `herd-bench churn`: connections that come and go as fast as they can.
//!
//! Nothing that a server holds for a client may outlive it, so descriptors and memory must be
//! the same before and after, and a good client must be served within 10 s when it is over.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use argh::{FromArgValue, FromArgs};
use rustix::net::sockopt;

use crate::figures::{duration, grouped};
use crate::net::{self, FULL, PATIENCE};
use crate::process::{self, Holding};
use crate::progress::Progress;
use crate::{Failure, print};

/// Connections between two readings of the server's descriptors.
const LOOK_EVERY: u64 = 500;

/// End of each connection.
#[derive(Clone, Copy, Debug, FromArgValue, PartialEq, Eq)]
enum Kind {
    Close,
    Reset,
    Full,
}

/// Connect and go, again and again.
///
/// Afterwards a good client must be served within 10 s, and with `--pid` the server must have
/// as many descriptors as before. With `--kind full` the server is expected to be full: it must
/// refuse every connection with a reply and an orderly end, not by a reset.
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
    #[argh(option, default = "Kind::Close", arg_name = "close|reset|full")]
    kind: Kind,

    /// connections a second, at most (default: as many as possible)
    #[argh(option, arg_name = "r")]
    rate: Option<f64>,

    /// the server's process, to read its descriptors, memory and CPU time
    #[argh(option, arg_name = "pid")]
    pid: Option<u32>,
}

/// Result of a churn.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the first connection to the last.
    pub(crate) took: Duration,
    /// Time that a good client took after it.
    calm: Duration,
    /// Highest number of descriptors that was seen.
    most: usize,
    /// Resources of the server before, at the end, and once it had closed all connections.
    pub(crate) holdings: Option<[Holding; 3]>,
}

impl Churn {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let usage = |error: String| Failure::Usage(format!("churn: {error}"));
        net::resolve(&self.address).map_err(usage)?;
        if self.rate.is_some_and(|rate| rate.is_nan() || rate < 1.0) {
            return Err(usage("--rate must be at least 1".to_owned()));
        }
        let result = self.measure(&mut Progress::new());
        let outcome = result.map_err(|error| Failure::Failed(format!("void: {error}")))?;
        print(&self.text(&outcome))
    }

    /// Makes the connections. The error is the reason why the result is void.
    pub(crate) fn measure(&self, progress: &mut Progress) -> Result<Outcome, String> {
        let addresses = net::resolve(&self.address)?;
        let process = self.pid.map(|pid| pid.to_string());
        let look = || process.as_deref().map(process::holding).transpose();
        let is_full = self.kind == Kind::Full;
        if !is_full {
            good_client(&addresses)?;
        }
        let before = look()?;
        let mut most = before.map_or(0, |before| before.descriptors);
        let start = Instant::now();
        for number in 0..self.count {
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(number as f64 / rate);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            self.one(&addresses, number)?;
            if number % LOOK_EVERY == 0
                && let Some(process) = &process
            {
                most = most.max(process::descriptors(process)?);
            }
            progress.show(|| format!("{} of {} connections", number + 1, self.count));
        }
        let took = start.elapsed();
        let after = look()?;
        let mut calm = Duration::ZERO;
        if !is_full {
            calm = good_client(&addresses)?;
            if let (Some(process), Some(before)) = (&process, before) {
                process::settle(process, before.descriptors, PATIENCE)?;
            }
        }
        let settled = if is_full { after } else { look()? };
        let holdings = before.zip(after).zip(settled);
        Ok(Outcome {
            took,
            calm,
            most,
            holdings: holdings.map(|((before, after), settled)| [before, after, settled]),
        })
    }

    fn text(&self, outcome: &Outcome) -> String {
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
        if let Some([before, after, settled]) = outcome.holdings {
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
        let mut stream = net::connect_blocking(addresses, PATIENCE).map_err(fault)?;
        match self.kind {
            Kind::Close => {}
            Kind::Reset => {
                sockopt::set_socket_linger(&stream, Some(Duration::ZERO))
                    .map_err(|error| fault(error.into()))?;
            }
            Kind::Full => {
                // One that speaks first is where a careless close loses the refusal.
                if number.is_multiple_of(2) {
                    let _ = stream.write_all(b"hello\n");
                }
                let mut reply = Vec::new();
                stream.read_to_end(&mut reply).map_err(fault)?;
                if reply != FULL {
                    let reply = reply.escape_ascii();
                    return Err(format!(
                        "connection {} was answered \"{reply}\"",
                        number + 1
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A good client: the time from its connecting to the right reply.
fn good_client(addresses: &[SocketAddr]) -> Result<Duration, String> {
    let start = Instant::now();
    net::greet(addresses)?.ok_or("a good client was refused")?;
    Ok(start.elapsed())
}
