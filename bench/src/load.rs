//! `herd-bench load`: puts load on one server and measures throughput, latency and CPU time.
//!
//! This file owns the options and their limits; the run is in `engine`.

mod background;
mod check;
mod connection;
mod engine;
mod outcome;
mod towns;
mod workload;

use std::net::SocketAddr;
use std::path::PathBuf;

use argh::FromArgs;

use crate::progress::Progress;
use crate::{Failure, csv, net, parse, print, process};
pub(crate) use engine::{Measured, Session};
pub(crate) use towns::{degrees as town_of, say_hello};
pub(crate) use workload::client_id;

/// Descriptors that a run needs beside its connections: epoll, standard streams, files.
const OTHER_DESCRIPTORS: u64 = 32;

/// Longest run, in seconds: a day.
const MAX_SECONDS: f64 = 86_400.0;

/// Highest rate of an open loop: beyond it a nanosecond clock can't distinguish requests well.
const MAX_RATE: f64 = 10_000_000.0;

/// Put load on a server and check every reply.
///
/// Closed loop (the default): each connection keeps `--depth` requests in flight; this finds
/// the capacity. Open loop (`--rate`): requests leave at fixed times, whatever the server does,
/// and latency counts from the intended time; this finds the latency under a given load. A
/// wrong, missing or reordered reply makes the run void: exit code 1 and no result.
#[derive(Clone, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "load",
    help_triggers("-h", "--help", "help"),
    example = "{command_name} --address 127.0.0.1:12000 --connections 64 --depth 16",
    example = "{command_name} --address 127.0.0.1:12000 --connections 64 --rate 50000 --whatsat 10 --pid 4711 --csv runs.csv"
)]
pub(crate) struct Load {
    /// HOST:PORT of the server's client port
    #[argh(option, arg_name = "host:port")]
    address: String,

    /// connections that make requests (default: 1)
    #[argh(option, default = "1", arg_name = "n")]
    connections: usize,

    /// requests in flight on each connection in a closed loop (default: 1)
    #[argh(option, arg_name = "n")]
    depth: Option<usize>,

    /// seconds to measure (default: 5)
    #[argh(option, default = "5.0", arg_name = "s")]
    seconds: f64,

    /// seconds of the same load before that, not measured (default: 1)
    #[argh(option, default = "1.0", arg_name = "s")]
    warmup: f64,

    /// open loop: requests a second over all connections
    #[argh(option, arg_name = "r")]
    rate: Option<f64>,

    /// connections beside them that send nothing; the server must keep them (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    idle: usize,

    /// connections beside them that send a byte a second; half of them never finish a line and
    /// must be closed for it (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    drip: usize,

    /// connections beside them that send all they can and never read (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    deaf: usize,

    /// end after this number of requests, as many on each connection, if the time is not over before
    #[argh(option, arg_name = "n")]
    requests: Option<u64>,

    /// the server is a bare echo, as in bench/variants/echo: every line must come back as it was
    /// sent
    #[argh(switch)]
    echo: bool,

    /// the server is Redis: a report is a GEOADD, and must be answered with the number of members
    /// that it has added, 0 or 1
    #[argh(switch)]
    redis: bool,

    /// different client ids, dealt out to the connections (default: 10000, or as many as
    /// connections if those are more)
    #[argh(option, arg_name = "k")]
    clients: Option<usize>,

    /// percent of requests that are WHATSAT, the others IAMAT (default: 0)
    #[argh(option, default = "0.0", arg_name = "percent")]
    whatsat: f64,

    /// percent of requests that ask for the clients nearest to where one is, NEARBY in the second
    /// dialect or GEOSEARCH with --redis; needs --towns, a bound, and clients that have reported before
    /// (default: 0)
    #[argh(option, default = "0.0", arg_name = "percent")]
    nearby: f64,

    /// clients are in 200 towns, four of five, and do not move
    #[argh(switch)]
    towns: bool,

    /// bound of a WHATSAT or NEARBY: places or clients at most, 0 to 20 (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    bound: u8,

    /// radius of a WHATSAT or NEARBY in kilometers, 0 to 50 (default: 10)
    #[argh(option, default = "String::from(\"10\")", arg_name = "km")]
    radius: String,

    /// the server's process, to measure its CPU time per request and its memory
    #[argh(option, arg_name = "pid")]
    pid: Option<u32>,

    /// a name of the run, for text and CSV
    #[argh(option, default = "String::new()", arg_name = "text")]
    label: String,

    /// append the result to this file, with a header if it is new
    #[argh(option, arg_name = "file")]
    csv: Option<PathBuf>,
}

/// Protocol of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// The herd's client protocol.
    Herd,
    /// A bare echo of every line.
    Echo,
    /// RESP, Redis's protocol.
    Redis,
}

/// The options of a run, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    options: Load,
    addresses: Vec<SocketAddr>,
    depth: usize,
    wire: Wire,
    clients: usize,
    process: Option<String>,
}

impl Load {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let plan = self
            .plan(process::raise_descriptor_limit())
            .map_err(|error| Failure::Usage(format!("load: {error}")))?;
        let result = measure(plan.clone(), &mut Progress::new());
        let measured = result.map_err(|error| Failure::Failed(format!("void: {error}")))?;
        print(&outcome::text(&plan, &measured))?;
        if let Some(path) = &plan.options.csv {
            csv::append(path, &outcome::cells(&plan, &measured)).map_err(Failure::Failed)?;
        }
        Ok(())
    }

    /// Checks the options; `descriptors` is the limit of open files of this process.
    fn plan(self, descriptors: u64) -> Result<Plan, String> {
        let within = |name: &str, value: f64, low: f64, high: f64| {
            if value >= low && value <= high {
                Ok(())
            } else {
                Err(format!("--{name} {value}: must be {low} to {high}"))
            }
        };
        within("seconds", self.seconds, 0.1, MAX_SECONDS)?;
        within("warmup", self.warmup, 0.0, MAX_SECONDS)?;
        within("whatsat", self.whatsat, 0.0, 100.0)?;
        within("nearby", self.nearby, 0.0, 100.0 - self.whatsat)?;
        within("bound", f64::from(self.bound), 0.0, 20.0)?;
        let radius = self.radius.parse().ok();
        let radius =
            radius.filter(|_| self.radius.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        match radius {
            Some(radius) => within("radius", radius, 0.0, 50.0)?,
            None => return Err(format!("--radius {}: no number", self.radius)),
        }
        if let Some(rate) = self.rate {
            within("rate", rate, 1.0, MAX_RATE)?;
            if self.depth.is_some() {
                return Err("--depth is for a closed loop, --rate for an open one".to_owned());
            }
        }
        let depth = self.depth.unwrap_or(1);
        if depth == 0 || self.connections == 0 {
            return Err("--connections and --depth must be at least 1".to_owned());
        }
        let wire = match (self.echo, self.redis) {
            (false, false) => Wire::Herd,
            (true, false) => Wire::Echo,
            (false, true) => Wire::Redis,
            (true, true) => return Err("it is --echo or --redis".to_owned()),
        };
        if self.nearby > 0.0 && (!self.towns || self.bound == 0 || wire == Wire::Echo) {
            return Err("--nearby needs --towns and a --bound, and no --echo".to_owned());
        }
        if wire != Wire::Herd && self.whatsat > 0.0 {
            return Err("--whatsat has no meaning with --echo and --redis".to_owned());
        }
        if wire != Wire::Herd && self.drip + self.deaf > 0 {
            return Err("--drip and --deaf know the herd's protocol alone".to_owned());
        }
        let total = self.connections + self.idle + self.drip + self.deaf;
        let needed = total as u64 + OTHER_DESCRIPTORS;
        if needed > descriptors {
            return Err(format!(
                "{total} connections need {needed} descriptors, the limit is {descriptors} (ulimit -Hn)"
            ));
        }
        let clients = self.clients.unwrap_or(self.connections.max(10_000));
        if clients < self.connections {
            return Err(format!(
                "--clients {clients}: fewer than connections; each needs one of its own, or \
                 the last report can't be known"
            ));
        }
        let process = self.pid.map(|pid| pid.to_string());
        if let Some(process) = &process {
            process::cpu_nanos(process).map_err(|error| format!("--pid: {error}"))?;
        }
        Ok(Plan {
            addresses: net::resolve(&self.address)?,
            depth,
            wire,
            clients,
            process,
            options: self,
        })
    }
}

/// Makes the connections of a load with these options of its command line.
pub(crate) fn open(options: &str, progress: &mut Progress) -> Result<Session, String> {
    let load: Load = parse("load", options)?;
    Session::open(load.plan(process::raise_descriptor_limit())?, progress)
}

/// Runs a plan in one turn. The error is the reason why the run is void.
fn measure(plan: Plan, progress: &mut Progress) -> Result<Measured, String> {
    let warmup = plan.options.warmup;
    Session::open(plan, progress)?.turn(warmup, progress)
}

#[cfg(test)]
#[path = "load/tests.rs"]
mod tests;
