//! Clients that report continuously and remember which reports were acknowledged: the oracle of every
//! test in which acknowledged reports must survive.

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

/// The last acknowledged reply, by client.
pub type Acknowledged = HashMap<String, String>;

/// Rate of one connection's reports.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Number of clients that the connection reports for, in turn.
    pub clients: usize,
    /// Number of reports in one write.
    pub burst: usize,
    /// Time between the replies of one burst and the next burst.
    pub pause: Duration,
}

/// As fast as the server replies.
pub const FULL: Pace = Pace {
    clients: 50,
    burst: 16,
    pause: Duration::ZERO,
};

/// Some hundred reports a second, which leave most of the machine to other processes.
pub const STEADY: Pace = Pace {
    clients: 50,
    burst: 4,
    pause: Duration::from_millis(5),
};

/// A connection that reports on a thread of its own.
pub struct Load {
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Ended>,
}

/// The outcome of a load, apart from its acknowledged reports.
#[derive(Default)]
pub struct Ended {
    /// Times from a burst's write to its last reply.
    pub round_trips: Vec<Duration>,
    /// Number of replies other than an `AT` line.
    pub refused: u64,
    /// The error that broke the connection, if any.
    pub broken: Option<String>,
}

impl Ended {
    /// Quantile of the round trips; `part` is from 0 to 1.
    pub fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.round_trips.clone();
        sorted.sort();
        sorted[((sorted.len() - 1) as f64 * part) as usize]
    }
}

impl Load {
    /// Starts to report for the clients `prefix-0`, `prefix-1` and so on.
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

    /// Replies acknowledged so far.
    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.lock().clone()
    }

    /// Waits until every client has an acknowledged report.
    pub fn warm_up(&self, pace: Pace) {
        wait_for("a load's first round", Duration::from_secs(20), || {
            self.acknowledged.lock().len() >= pace.clients
        });
    }

    /// Ends a load whose server is still running. Panics if the connection broke or a report was
    /// refused.
    #[track_caller]
    pub fn finish(self) -> (Acknowledged, Ended) {
        self.stop.store(true, Ordering::Relaxed);
        let (acknowledged, ended) = self.end();
        assert_eq!(ended.broken, None, "the connection broke");
        assert_eq!(ended.refused, 0, "reports were refused");
        (acknowledged, ended)
    }

    /// Waits for the end of a load whose server has ended.
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

/// Starts a load of the same pace for each address.
pub fn loads(
    addresses: impl IntoIterator<Item = SocketAddr>,
    prefix: &str,
    pace: Pace,
) -> Vec<Load> {
    let start = |(index, address)| Load::start(address, &format!("{prefix}-{index}"), pace);
    addresses.into_iter().enumerate().map(start).collect()
}

/// Time field of a line. All have the same number of digits, so they compare as text.
pub fn time(line: &str) -> &str {
    line.rsplit(' ').next().unwrap()
}

/// Acknowledged reports that a server lacks: it has neither the acknowledged line nor a later one.
/// A later one is good because a report may be stored whose reply was lost.
pub fn missing(address: SocketAddr, acknowledged: &Acknowledged) -> Vec<String> {
    let held = Client::connect(address).whatsat_all(acknowledged.keys().map(String::as_str));
    acknowledged
        .iter()
        .zip(held)
        .filter(|((_, reply), held)| !held.starts_with("AT ") || time(held) < time(reply))
        .map(|((_, reply), held)| format!("{reply}: held is {held}"))
        .collect()
}

/// Waits until a server holds all acknowledged reports. Returns how long that took.
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

/// Asserts that a server holds all acknowledged reports now.
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
