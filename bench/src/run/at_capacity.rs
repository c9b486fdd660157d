//! Connections that come and go, and a server without room for more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::fleet::Fleet;
use super::record::{Cell, Figure, figure};
use crate::progress::Progress;
use crate::{churn, process};

/// Connections of a churn that come first: what an allocator keeps is there after them.
const FIRST_CONNECTIONS: &str = "10000";

/// Clients that have their place when the room is used up.
const INSIDE: usize = 100;

/// The flag that gives room for so many.
pub(crate) const ROOM_FLAG: &str = "--max-clients";

/// A client that is refused tries again so often in a second, for so long.
const POLITE_RATE: &str = "10";
const POLITE_COUNT: &str = "30";

/// Clients that are refused as fast as they come.
const RUSH_COUNT: &str = "200";

/// Clients that connect at once and wait.
const BURST: usize = 500;

/// How long the server's CPU time is watched while they wait.
const BURST_TIME: Duration = Duration::from_secs(3);

/// How long anything that must come may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes connections that close and connections that reset; nothing of them may stay behind.
pub(crate) fn churn(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    let count = cell.scenario.count.to_string();
    for (kind, names) in [
        ("close", ["close_rate", "close_descriptors", "close_memory"]),
        ("reset", ["reset_rate", "reset_descriptors", "reset_memory"]),
    ] {
        run(
            fleet,
            &["--kind", kind, "--count", FIRST_CONNECTIONS],
            progress,
        )?;
        let churn = run(fleet, &["--kind", kind, "--count", &count], progress)?;
        let ((before, _), settled) = churn.holdings.ok_or("what the server held is unknown")?;
        let grown = |before: u64, after: u64| after as f64 - before as f64;
        let rate = cell.scenario.count as f64 / churn.took.as_secs_f64();
        figures.extend([
            figure(names[0], rate),
            figure(
                names[1],
                grown(before.descriptors as u64, settled.descriptors as u64),
            ),
            figure(names[2], grown(before.kib, settled.kib) * 1024.0),
        ]);
    }
    Ok(figures)
}

fn run(
    fleet: &Fleet,
    options: &[&str],
    progress: &mut Progress,
) -> Result<churn::Weathered, String> {
    let [address, process] = [fleet.client(0).to_string(), fleet.process(0)?.to_string()];
    let mut all = vec!["--address", &address, "--pid", &process];
    all.extend(options);
    fleet.workplace().note(&format!(
        "target/release/herd-bench churn {}",
        all.join(" ")
    ));
    churn::measure(&all, progress)
}

/// Uses up a server's room: by its own limit where it has that flag, else by its descriptors. Then
/// refused clients must be told so, politely and cheaply, and room that is free again be used.
pub(crate) fn full(
    cell: &Cell<'_>,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let (address, process) = (fleet.client(0), fleet.process(0)?);
    let id = process.to_string();
    let mut inside = Vec::new();
    for _ in 0..INSIDE {
        inside.push(greet(address)?.ok_or("refused, though there is room")?);
    }
    if !cell.entry.flags.iter().any(|flag| flag == ROOM_FLAG) {
        // The limit is set on the running process, below what it has admitted already, which its
        // own counting does not foresee: the listener itself meets the lack.
        let used = Some(process::descriptors(&id)? as u64);
        let limit = Rlimit {
            current: used,
            maximum: used,
        };
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        prlimit(pid, Resource::Nofile, limit).map_err(|error| format!("prlimit: {error}"))?;
        // Numbers below that may be free yet.
        while let Some(client) = greet(address)? {
            inside.push(client);
        }
    }
    let polite = [
        "--kind",
        "full",
        "--count",
        POLITE_COUNT,
        "--rate",
        POLITE_RATE,
    ];
    let polite = run(fleet, &polite, progress)?;
    let rush = run(fleet, &["--kind", "full", "--count", RUSH_COUNT], progress)?;
    let cores = |outcome: &churn::Weathered| -> Result<f64, String> {
        let ((before, after), _) = outcome.holdings.ok_or("the server's CPU time is unknown")?;
        Ok((after.cpu_nanos - before.cpu_nanos) as f64 / outcome.took.as_nanos() as f64)
    };
    let mut background = Vec::new();
    for _ in 0..BURST {
        background.push(connect(address)?);
    }
    let (began, before) = (Instant::now(), process::cpu_nanos(&id)?);
    thread::sleep(BURST_TIME);
    let waited = (process::cpu_nanos(&id)? - before) as f64 / began.elapsed().as_nanos() as f64;
    drop(background);
    inside.truncate(inside.len() / 2);
    let freed = Instant::now();
    // A connection that breaks was one of the refused: the next is asked for at once.
    while !matches!(greet(address), Ok(Some(_))) {
        if freed.elapsed() > PATIENCE {
            return Err("room that is free again is not used".to_owned());
        }
    }
    Ok(vec![
        figure("refusing_cpu", cores(&polite)?),
        figure("rush_cpu", cores(&rush)?),
        figure("burst_cpu", waited),
        figure("recovery", freed.elapsed().as_nanos() as f64),
    ])
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| format!("{address}: {error}"))
}

/// A client that is served, or `None` if there is no room for it.
fn greet(address: SocketAddr) -> Result<Option<TcpStream>, String> {
    let fault = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(fault)?;
    stream.write_all(b"hello\n").map_err(fault)?;
    let mut reply = Vec::new();
    let mut buffer = [0; 100];
    while !reply.ends_with(b"\n") {
        match stream.read(&mut buffer).map_err(fault)? {
            0 => break,
            read => reply.extend_from_slice(&buffer[..read]),
        }
    }
    match &reply[..] {
        b"? hello\n" => Ok(Some(stream)),
        churn::FULL => Ok(None),
        other => Err(format!("a client was told \"{}\"", other.escape_ascii())),
    }
}
