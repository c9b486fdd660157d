//! A neighbor that starts without records, and a server that restarts with all of its own.
//!
//! One of two neighbors is filled while the other does not run. Then the other is started, and a
//! sample of the clients is queried again and again until it knows them all: that is the copy.
//! In the end it must know every single client.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::fleet::{Fleet, Workplace};
use super::measure;
use super::record::{Cell, Figure, figure};
use super::variant::Variant;
use crate::load::client_id;
use crate::net;
use crate::progress::Progress;

/// Clients that are queried while the copy runs: a resolution of 0.1 %.
const SAMPLE: usize = 1_000;

/// Between two rounds of queries: short beside a copy, long beside a round.
const PAUSE: Duration = Duration::from_millis(3);

/// Longest time of a copy.
const LIMIT: Duration = Duration::from_secs(120);

/// Queries in flight when every client is queried.
const BATCH: usize = 500;

/// Fills one server, starts its neighbor, and then restarts the first one.
pub(crate) fn measure(
    cell: &Cell<'_>,
    workplace: &Workplace,
    progress: &mut Progress,
) -> Result<Vec<Figure>, String> {
    let variant = Variant::new(cell.entry, None, cell.clients())?;
    let mut fleet = Fleet::new(workplace, variant, &["Full", "Empty"])?;
    fleet.start_member(0)?;
    measure::fill(cell, &fleet, progress)?;
    let clients = cell.scenario.clients;
    // A server may be ready only once it has the records.
    let began = Instant::now();
    fleet.start_member(1)?;
    progress.show(|| "copying".to_owned());
    let mut figures = copy(fleet.client(1), clients, began)?;
    let all: Vec<usize> = (0..clients).collect();
    let missing = unknown(&mut Asker::connect(fleet.client(1))?, &all)?;
    if !missing.is_empty() {
        return Err(format!(
            "{} of {clients} clients were not copied",
            missing.len()
        ));
    }
    // The others keep no records across a restart. Its neighbor goes on, so that the herd is not
    // waited for.
    if fleet.variant().is_herd() {
        fleet.stop_member(0)?;
        let began = Instant::now();
        fleet.start_member(0)?;
        let mut asker = Asker::connect(fleet.client(0))?;
        let unknown_one = unknown(&mut asker, &[clients - 1])?;
        let restart = began.elapsed();
        if !unknown_one.is_empty() || !unknown(&mut asker, &all)?.is_empty() {
            return Err("clients were lost by a restart".to_owned());
        }
        figures.push(figure("restart", restart.as_nanos() as f64));
    }
    Ok(figures)
}

/// Asks for a sample of the clients again and again, until a server knows them all. Returns the time
/// since its start, and the records a second since the first of them was seen.
fn copy(address: SocketAddr, clients: usize, began: Instant) -> Result<Vec<Figure>, String> {
    let size = SAMPLE.min(clients);
    let mut missing: Vec<usize> = (0..size).map(|part| part * clients / size).collect();
    let mut asker = Asker::connect(address)?;
    let mut first = None;
    loop {
        missing = unknown(&mut asker, &missing)?;
        let now = began.elapsed();
        if missing.len() < size && first.is_none() {
            first = Some((now, missing.len()));
        }
        if missing.is_empty() {
            // Where the first look found all of them, they came since the start.
            let (since, left) = first
                .filter(|(_, left)| *left > 0)
                .unwrap_or((Duration::ZERO, size));
            let records = left as f64 / size as f64 * clients as f64;
            return Ok(vec![
                figure("copy", now.as_nanos() as f64),
                figure("apply_rate", records / (now - since).as_secs_f64()),
            ]);
        }
        if now > LIMIT {
            return Err(format!(
                "{} clients are not known after {} s",
                missing.len(),
                LIMIT.as_secs()
            ));
        }
        thread::sleep(PAUSE);
    }
}

/// Those of the clients that a server does not know.
fn unknown(asker: &mut Asker, clients: &[usize]) -> Result<Vec<usize>, String> {
    let mut unknown = Vec::new();
    for batch in clients.chunks(BATCH) {
        asker.ask(batch)?;
        for &client in batch {
            if !asker.is_known(client)? {
                unknown.push(client);
            }
        }
    }
    Ok(unknown)
}

/// A connection that asks where clients are.
struct Asker {
    stream: BufReader<TcpStream>,
    line: Vec<u8>,
}

impl Asker {
    fn connect(address: SocketAddr) -> Result<Asker, String> {
        let stream = net::connect_blocking(&[address], LIMIT)
            .map_err(|error| format!("{address}: {error}"))?;
        Ok(Asker {
            stream: BufReader::new(stream),
            line: Vec::new(),
        })
    }

    fn ask(&mut self, clients: &[usize]) -> Result<(), String> {
        let mut lines = Vec::new();
        for &client in clients {
            lines.extend_from_slice(b"WHATSAT ");
            lines.extend_from_slice(&client_id(client));
            lines.extend_from_slice(b" 0 0\n");
        }
        self.stream
            .get_mut()
            .write_all(&lines)
            .map_err(|error| format!("can't ask: {error}"))
    }

    /// Reads the next reply, which must be about this client.
    fn is_known(&mut self, client: usize) -> Result<bool, String> {
        let id = client_id(client);
        self.read_line()?;
        let about = self.line.split(|&byte| byte == b' ').nth(3) == Some(&id[..]);
        if self.line.starts_with(b"? WHATSAT ") {
            return Ok(false);
        }
        if !self.line.starts_with(b"AT ") || !about {
            return Err(format!("a wrong reply: {}", self.line.escape_ascii()));
        }
        while self.line != b"\n" {
            self.read_line()?;
        }
        Ok(true)
    }

    fn read_line(&mut self) -> Result<(), String> {
        self.line.clear();
        match self.stream.read_until(b'\n', &mut self.line) {
            Ok(1..) => Ok(()),
            Ok(0) => Err("the server closed the connection".to_owned()),
            Err(error) => Err(format!("no reply: {error}")),
        }
    }
}
