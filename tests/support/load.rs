//! Clients that report without end and remember what was acknowledged: the oracle of every test
//! that something must survive.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::support::process::wait_for;
use crate::support::{Client, report};

/// The last acknowledged reply of each client.
pub type Acknowledged = HashMap<String, String>;

/// How hard one connection presses.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Clients that it reports for, in turn.
    pub clients: usize,
    /// Reports in one write.
    pub burst: usize,
    /// Time between the replies of one burst and the next.
    pub pause: Duration,
}

/// As much as goes.
pub const FULL: Pace = Pace {
    clients: 50,
    burst: 16,
    pause: Duration::ZERO,
};

/// Some hundred reports a second, which leave the machine to others.
pub const STEADY: Pace = Pace {
    clients: 50,
    burst: 4,
    pause: Duration::from_millis(5),
};

/// One connection's reports.
pub struct Load {
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Ended>,
}

/// How a load ended, apart from what was acknowledged.
#[derive(Default)]
pub struct Ended {
    /// From a burst's write to its last reply.
    pub round_trips: Vec<Duration>,
    /// Replies other than an `AT` line.
    pub refused: u64,
    /// Why the connection broke, if it did.
    pub broken: Option<String>,
}

impl Ended {
    /// That part of the round trips, 0 to 1, took no longer.
    pub fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.round_trips.clone();
        sorted.sort();
        sorted[((sorted.len() - 1) as f64 * part) as usize]
    }
}

impl Load {
    /// Begins to report for clients `prefix-0` and so on.
    pub fn start(address: SocketAddr, prefix: &str, pace: Pace) -> Load {
        let acknowledged = Arc::<Mutex<Acknowledged>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        let names: Vec<_> = (0..pace.clients).map(|i| format!("{prefix}-{i}")).collect();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let thread = std::thread::spawn(move || {
            let mut ended = Ended::default();
            let mut reader = BufReader::new(stream);
            let mut turn = names.iter().cycle();
            while !stopped.load(Ordering::Relaxed) {
                let clients: Vec<_> = turn.by_ref().take(pace.burst).collect();
                let sent = Instant::now();
                if let Err(error) = burst(&mut reader, &clients, &shared, &mut ended.refused) {
                    ended.broken = Some(error.to_string());
                    break;
                }
                ended.round_trips.push(sent.elapsed());
                std::thread::park_timeout(pace.pause);
            }
            ended
        });
        Load {
            acknowledged,
            stop,
            thread,
        }
    }

    /// What has been acknowledged by now.
    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.lock().clone()
    }

    /// Waits until all its clients have been acknowledged.
    pub fn warm_up(&self, pace: Pace) {
        wait_for("a load's first round", Duration::from_secs(20), || {
            self.acknowledged.lock().len() >= pace.clients
        });
    }

    /// Ends a load whose server has lived on; nothing may have gone wrong.
    #[track_caller]
    pub fn finish(self) -> (Acknowledged, Ended) {
        self.stop.store(true, Ordering::Relaxed);
        let (acknowledged, ended) = self.end();
        assert_eq!(ended.broken, None, "the connection broke");
        assert_eq!(ended.refused, 0, "reports were refused");
        (acknowledged, ended)
    }

    /// Waits for the end of a load whose server was killed.
    pub fn end(self) -> (Acknowledged, Ended) {
        let ended = self.thread.join().unwrap();
        let acknowledged = std::mem::take(&mut *self.acknowledged.lock());
        (acknowledged, ended)
    }
}

fn burst(
    reader: &mut BufReader<TcpStream>,
    clients: &[&String],
    acknowledged: &Mutex<Acknowledged>,
    refused: &mut u64,
) -> std::io::Result<()> {
    let lines: String = clients
        .iter()
        .map(|client| report(client, "+1+1") + "\n")
        .collect();
    reader.get_mut().write_all(lines.as_bytes())?;
    for client in clients {
        let mut reply = String::new();
        reader.read_line(&mut reply)?;
        let Some(reply) = reply.strip_suffix('\n') else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        if reply.starts_with("AT ") {
            let mut acknowledged = acknowledged.lock();
            match acknowledged.get_mut(*client) {
                Some(last) => reply.clone_into(last),
                None => drop(acknowledged.insert((*client).clone(), reply.to_owned())),
            }
        } else {
            *refused += 1;
        }
    }
    Ok(())
}

/// Loads with the same pace, one for each address.
pub fn loads(
    addresses: impl IntoIterator<Item = SocketAddr>,
    prefix: &str,
    pace: Pace,
) -> Vec<Load> {
    let start = |(index, address)| Load::start(address, &format!("{prefix}-{index}"), pace);
    addresses.into_iter().enumerate().map(start).collect()
}

/// A line's time; all have as many digits, so they compare as text.
pub fn time(line: &str) -> &str {
    line.rsplit(' ').next().unwrap()
}

/// What a server does not hold of it: neither the acknowledged line nor, since a report may be
/// stored whose reply was lost, a later one.
pub fn missing(address: SocketAddr, acknowledged: &Acknowledged) -> Vec<String> {
    let held = Client::connect(address).whatsat_all(acknowledged.keys().map(String::as_str));
    acknowledged
        .iter()
        .zip(held)
        .filter(|((_, reply), held)| !held.starts_with("AT ") || time(held) < time(reply))
        .map(|((_, reply), held)| format!("{reply}: held is {held}"))
        .collect()
}

/// Waits until a server holds all of it; how long that took.
#[track_caller]
pub fn await_held(address: SocketAddr, acknowledged: &Acknowledged, limit: Duration) -> Duration {
    let start = Instant::now();
    loop {
        let missing = missing(address, acknowledged);
        if missing.is_empty() {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < limit,
            "{address} still lacks {} of {} after {limit:?}: {}",
            missing.len(),
            acknowledged.len(),
            missing[0]
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Asserts that a server holds all of it now.
#[track_caller]
pub fn assert_held(address: SocketAddr, acknowledged: &Acknowledged) {
    let missing = missing(address, acknowledged);
    assert!(
        missing.is_empty(),
        "{address} lost {} of {}: {}",
        missing.len(),
        acknowledged.len(),
        missing[0]
    );
}
