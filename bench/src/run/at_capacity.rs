//! Connections that come and go, and a server that is full.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::fleet::Fleet;
use super::record::{Cell, Figure, figure};
use crate::churn::{Churn, Outcome};
use crate::net::{self, PATIENCE};
use crate::progress::Progress;
use crate::{parse, process};

/// Connections of a churn that come first: memory that an allocator keeps is there after them.
const FIRST_CONNECTIONS: u64 = 10_000;

/// Clients that are connected before the server is full.
const INSIDE: usize = 100;

/// The flag that limits the clients of a herd.
const LIMIT_FLAG: &str = "--max-clients";

/// A refused client that tries again ten times a second.
const POLITE: &str = "--kind full --count 30 --rate 10";

/// Refused clients that come as fast as they can.
const RUSH: &str = "--kind full --count 200";

/// Clients that connect at once and wait.
const BURST: usize = 500;

/// Time for which the server's CPU time is measured while they wait.
const BURST_TIME: Duration = Duration::from_secs(3);

/// Makes connections that close and connections that reset; the server must keep nothing of them.
pub(crate) fn churn(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    let count = cell.scenario.count;
    for (kind, names) in [
        ("close", ["close_rate", "close_descriptors", "close_memory"]),
        ("reset", ["reset_rate", "reset_descriptors", "reset_memory"]),
    ] {
        let mut run = |count| run(fleet, &format!("--kind {kind} --count {count}"), progress);
        run(FIRST_CONNECTIONS)?;
        let churn = run(count)?;
        let [before, _, settled] = churn.holdings.ok_or("the server's resources are unknown")?;
        let grown = |before: u64, after: u64| after as f64 - before as f64;
        let descriptors = grown(before.descriptors as u64, settled.descriptors as u64);
        figures.extend([
            figure(names[0], count as f64 / churn.took.as_secs_f64()),
            figure(names[1], descriptors),
            figure(names[2], grown(before.kib, settled.kib) * 1024.0),
        ]);
    }
    Ok(figures)
}

fn run(fleet: &Fleet, options: &str, progress: &mut Progress) -> Result<Outcome, String> {
    let churn: Churn = parse("churn", &fleet.options("churn", options)?)?;
    churn.measure(progress)
}

/// Fills a server: up to its own limit where it has that flag, else until its descriptors are used
/// up. Then it must refuse clients politely and cheaply, and accept others once some have left.
pub(crate) fn full(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let (addresses, process) = ([fleet.client(0)], fleet.process(0)?);
    let mut inside = Vec::new();
    for _ in 0..INSIDE {
        inside.push(net::greet(&addresses)?.ok_or("refused, though the server is not full")?);
    }
    if !cell.entry.flags.iter().any(|flag| flag == LIMIT_FLAG) {
        use_up_descriptors(&process)?;
        // Numbers below that may be free yet.
        while let Some(client) = net::greet(&addresses)? {
            inside.push(client);
        }
    }
    let mut refuse = |options| -> Result<f64, String> {
        let outcome = run(fleet, options, progress)?;
        let [before, after, _] = outcome.holdings.ok_or("the server's CPU time is unknown")?;
        Ok((after.cpu_nanos - before.cpu_nanos) as f64 / outcome.took.as_nanos() as f64)
    };
    let (polite, rush) = (refuse(POLITE)?, refuse(RUSH)?);
    let connect = |_| TcpStream::connect_timeout(&addresses[0], PATIENCE);
    let waiting: Vec<TcpStream> = (0..BURST)
        .map(connect)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: {error}", addresses[0]))?;
    let (began, before) = (Instant::now(), process::cpu_nanos(&process)?);
    thread::sleep(BURST_TIME);
    let cpu_nanos = process::cpu_nanos(&process)? - before;
    let burst = cpu_nanos as f64 / began.elapsed().as_nanos() as f64;
    drop(waiting);
    inside.truncate(inside.len() / 2);
    let freed = Instant::now();
    // A connection that breaks was one of the refused: the next attempt follows at once.
    while !matches!(net::greet(&addresses), Ok(Some(_))) {
        if freed.elapsed() > PATIENCE {
            return Err("no client is accepted though others have left".to_owned());
        }
    }
    Ok(vec![
        figure("refusing_cpu", polite),
        figure("rush_cpu", rush),
        figure("burst_cpu", burst),
        figure("recovery", freed.elapsed().as_nanos() as f64),
    ])
}

/// Limits the descriptors of a process to those that it has.
///
/// The limit is set on the running process, below the number of clients that it has admitted already,
/// which its own counting does not foresee: the listener itself runs out of descriptors.
fn use_up_descriptors(process: &str) -> Result<(), String> {
    let used = Some(process::descriptors(process)? as u64);
    let limit = Rlimit {
        current: used,
        maximum: used,
    };
    let pid = process.parse().ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Nofile, limit).map_err(|error| format!("prlimit: {error}"))?;
    Ok(())
}
