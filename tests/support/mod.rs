//! Servers and clients for tests, over real sockets of loopback: servers inside the test's process
//! here, child processes in [`process`] and, as a herd, in [`fleet`].
//!
//! Every wait has a deadline, and no two tests share a port or a folder, so they can run in parallel.

#![allow(
    dead_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test program uses a part of it, and a panic is the report"
)]

pub mod fleet;
pub mod http;
pub mod load;
pub mod process;
pub mod proxy;
pub mod strangers;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use herd::config::keys::KeyFile;
use herd::config::topology::Topology;
use herd::config::{Ack, Config, DEFAULT_COMPACT_WITHIN, DEFAULT_DIGEST_INTERVAL, PoolKind};
use herd::disk::Readers;
use herd::places::Places;
use herd::places::atlas::Atlas;
use herd::server::{Server, Sockets};

/// Time limit of a wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The key of every herd whose test is not about keys.
pub static KEYS: LazyLock<KeyFile> = LazyLock::new(|| KeyFile::generate().unwrap());

/// The report's ring.
pub const RING: [(&str, [&str; 2]); 5] = [
    ("Alford", ["Welsh", "Holiday"]),
    ("Ball", ["Welsh", "Hamilton"]),
    ("Hamilton", ["Ball", "Holiday"]),
    ("Holiday", ["Alford", "Hamilton"]),
    ("Welsh", ["Ball", "Alford"]),
];

/// Sockets on free ports for every server of the ring, and the `servers.txt` that names them.
pub fn free_ring() -> (String, Vec<Sockets>) {
    // Bound as the program does: a plain listener has a backlog of 128, and a client that finds it
    // full waits a second.
    let bind = || herd::listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let sockets: Vec<_> = RING
        .iter()
        .map(|_| Sockets {
            clients: bind().into(),
            peers: bind().into(),
        })
        .collect();
    let mut text = String::new();
    for ((name, neighbors), sockets) in RING.iter().zip(&sockets) {
        let client = sockets.clients.local_addr().unwrap();
        let peer = sockets.peers.local_addr().unwrap();
        text += &format!("{name} {client} {peer} {}\n", neighbors.join(" "));
    }
    (text, sockets)
}

/// Configuration of one server of a `servers.txt`.
pub fn config(servers: &str, name: &str) -> Config {
    let topology = Topology::parse(servers.as_bytes()).unwrap();
    Config {
        server: topology.server(name).unwrap().clone(),
        topology,
        keys: KEYS.clone(),
        bind: None,
        pool: PoolKind::default(),
        workers: 4,
        max_clients: None,
        max_clients_per_address: None,
        max_unsent_bytes: 256 << 20,
        max_records: 10_000_000,
        idle_timeout: Duration::from_secs(600),
        data_dir: None,
        ack: Ack::Journal,
        may_lengthen_forget_after: false,
        readers: Readers::Owner,
        compact_within: DEFAULT_COMPACT_WITHIN,
        digest_interval: DEFAULT_DIGEST_INTERVAL,
        http: None,
    }
}

/// Starts a server without neighbors. `change` adapts its configuration.
pub fn alone(change: impl FnOnce(&mut Config)) -> Server {
    alone_with(atlas(), change)
}

/// The offline places provider.
pub fn atlas() -> Places {
    Places::Atlas(Atlas)
}

/// [`alone`] with a places provider.
pub fn alone_with(places: Places, change: impl FnOnce(&mut Config)) -> Server {
    let (text, mut sockets) = free_ring();
    let first = text.split(" Welsh").next().unwrap();
    let mut config = config(first, "Alford");
    change(&mut config);
    Server::start(&config, sockets.swap_remove(0), places).unwrap()
}

/// Starts all five servers of the ring.
pub fn ring() -> Vec<Server> {
    let (text, sockets) = free_ring();
    RING.iter()
        .zip(sockets)
        .map(|((name, _), sockets)| Server::start(&config(&text, name), sockets, atlas()).unwrap())
        .collect()
}

/// A client's connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client {
            reader: BufReader::new(stream),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads one line, without its LF; empty at the end of the stream.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned()
    }

    /// Sends a line and reads the first line of the reply.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n"));
        self.line()
    }

    /// First line of the reply to a `WHATSAT`; the JSON text is read and dropped.
    pub fn whatsat(&mut self, client: &str) -> String {
        self.send(format!("WHATSAT {client} 0 0\n"));
        self.whatsat_reply()
    }

    /// Sends reports of `count` clients, which all must be acknowledged, in few round trips. Returns the
    /// clients' names.
    pub fn report_all(&mut self, label: &str, count: usize) -> Vec<String> {
        let names: Vec<_> = (0..count)
            .map(|number| format!("{label}-{number}"))
            .collect();
        for part in names.chunks(500) {
            let lines: Vec<_> = part.iter().map(|name| report(name, "+1+1")).collect();
            self.send(lines.join("\n") + "\n");
            for _ in part {
                assert!(self.line().starts_with("AT "));
            }
        }
        names
    }

    /// [`Client::whatsat`] for many clients, in few round trips.
    pub fn whatsat_all<'a>(&mut self, clients: impl Iterator<Item = &'a str>) -> Vec<String> {
        let clients: Vec<_> = clients.collect();
        let mut lines = Vec::with_capacity(clients.len());
        // More at once could fill the sockets of both sides.
        for some in clients.chunks(64) {
            let questions: String = some
                .iter()
                .map(|client| format!("WHATSAT {client} 0 0\n"))
                .collect();
            self.send(questions);
            for _ in some {
                lines.push(self.whatsat_reply());
            }
        }
        lines
    }

    fn whatsat_reply(&mut self) -> String {
        let line = self.line();
        if line.starts_with("AT ") {
            while !self.line().is_empty() {}
        }
        line
    }

    /// Repeats [`Client::whatsat`] until it returns `wanted`.
    #[track_caller]
    pub fn await_whatsat(&mut self, client: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got = self.whatsat(client);
            if got == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "still {got:?}, not {wanted:?}");
            std::thread::yield_now();
        }
    }

    /// Waits for the end of the connection. Returns whether no byte came before it; a reset counts as
    /// an end.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let end = self.reader.read_to_end(&mut rest);
        let broken = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        rest.is_empty() && end.map_or_else(broken, |_| true)
    }

    pub fn half_close(&mut self) {
        self.stream().shutdown(Shutdown::Write).unwrap();
    }

    /// Reads until the server closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).unwrap();
        rest
    }
}

/// An `IAMAT` line with the current time.
pub fn report(client: &str, location: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!(
        "IAMAT {client} {location} {}.{:09}",
        now.as_secs(),
        now.subsec_nanos()
    )
}

/// Connects, sends bytes, and returns everything that the server answers until it closes.
pub fn send_and_read(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A server that closes before it has read everything resets the connection.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}
