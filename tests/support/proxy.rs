//! A TCP proxy between a dialer and a server, which does to their connections what a bad network or
//! an attacker would.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;

/// Value of [`Settings::flip`] at which no byte is changed.
const NONE: usize = usize::MAX;

/// Bytes that the proxy's own sockets buffer while it is slow; anything beyond waits at the servers,
/// as it would with a slow network. Less than a segment of loopback would stall.
const SLOW_BUFFER_BYTES: usize = 64 << 10;

/// State shared with the threads of all connections.
#[derive(Default)]
struct Settings {
    /// True while nothing is passed on: from the dialer, and from the server.
    held: [AtomicBool; 2],
    /// Bytes a second each way; 0 is no limit.
    rate: AtomicUsize,
    /// Milliseconds from one end to the other, for connections made from now on.
    delay: AtomicUsize,
    /// True while new connections are reset at once.
    reset: AtomicBool,
    /// True while the dialer's bytes are recorded.
    record: AtomicBool,
    recorded: Mutex<Vec<Vec<u8>>>,
    /// Index of the byte in the next part read in which a bit is changed, once: from the dialer, and
    /// from the server.
    flip: [AtomicUsize; 2],
    connections: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

pub struct Proxy {
    pub address: SocketAddr,
    settings: Arc<Settings>,
}

impl Proxy {
    /// Accepts on a free port of loopback and dials `to` for each connection.
    pub fn start(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let settings = Arc::new(Settings {
            flip: [AtomicUsize::new(NONE), AtomicUsize::new(NONE)],
            ..Settings::default()
        });
        let shared = Arc::clone(&settings);
        std::thread::spawn(move || {
            for dialer in listener.incoming() {
                if shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(dialer) = dialer {
                    connect(dialer, to, &shared);
                }
            }
        });
        Proxy { address, settings }
    }

    /// Holds back, or passes on again, the bytes of the dialer and those of the server. Neither end
    /// notices anything but silence.
    pub fn hold(&self, dialer: bool, server: bool) {
        self.settings.held[0].store(dialer, Ordering::Relaxed);
        self.settings.held[1].store(server, Ordering::Relaxed);
    }

    /// Sets the bytes a second, each way; 0 is no limit.
    pub fn slow_down(&self, rate: usize) {
        self.settings.rate.store(rate, Ordering::Relaxed);
    }

    /// Sets the time that bytes take each way, for connections made from now on.
    pub fn delay(&self, time: Duration) {
        let milliseconds = usize::try_from(time.as_millis()).unwrap();
        self.settings.delay.store(milliseconds, Ordering::Relaxed);
    }

    /// Sets whether new connections are reset at once.
    pub fn reset(&self, reset: bool) {
        self.settings.reset.store(reset, Ordering::Relaxed);
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        for stream in self.settings.open.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.settings.connections.load(Ordering::Relaxed)
    }

    /// Starts to record the dialer's bytes.
    pub fn record(&self) {
        self.settings.record.store(true, Ordering::Relaxed);
    }

    /// The dialer's recorded bytes, by connection.
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        self.settings.recorded.lock().clone()
    }

    /// Changes a bit of that byte in the next part from the dialer.
    pub fn flip(&self, byte: usize) {
        self.settings.flip[0].store(byte, Ordering::Relaxed);
    }

    /// Changes a bit of that byte in the next part from the server.
    pub fn flip_back(&self, byte: usize) {
        self.settings.flip[1].store(byte, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.settings.ended.store(true, Ordering::Relaxed);
        self.hold(false, false);
        self.slow_down(0);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(dialer: TcpStream, to: SocketAddr, settings: &Arc<Settings>) {
    let connection = settings.connections.fetch_add(1, Ordering::Relaxed);
    if settings.reset.load(Ordering::Relaxed) {
        let _ = SockRef::from(&dialer).set_linger(Some(Duration::ZERO));
        return;
    }
    let Ok(dialed) = TcpStream::connect(to) else {
        return;
    };
    for stream in [&dialer, &dialed] {
        let _ = stream.set_nodelay(true);
        if settings.rate.load(Ordering::Relaxed) > 0 {
            let socket = SockRef::from(stream);
            let _ = socket.set_recv_buffer_size(SLOW_BUFFER_BYTES);
            let _ = socket.set_send_buffer_size(SLOW_BUFFER_BYTES);
        }
    }
    {
        let mut open = settings.open.lock();
        open.retain(|stream| stream.peer_addr().is_ok());
        open.extend([&dialer, &dialed].map(|stream| stream.try_clone().unwrap()));
    }
    let ways = [
        (dialer.try_clone().unwrap(), dialed.try_clone().unwrap()),
        (dialed, dialer),
    ];
    for (way, (from, to)) in ways.into_iter().enumerate() {
        let settings = Arc::clone(settings);
        std::thread::spawn(move || pass(from, to, way, connection, &settings));
    }
}

/// Copies from one socket to the other until either ends.
fn pass(mut from: TcpStream, mut to: TcpStream, way: usize, connection: usize, set: &Settings) {
    let mut part = [0; 16_384];
    let delay = Duration::from_millis(set.delay.load(Ordering::Relaxed) as u64);
    let late = (!delay.is_zero()).then(|| {
        let (late, parts) = channel();
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || pass_late(&parts, &from, &to));
        late
    });
    loop {
        let rate = set.rate.load(Ordering::Relaxed);
        // A slow network is slow in small steps.
        let step = if rate == 0 { part.len() } else { 1_400 };
        let Ok(bytes @ 1..) = from.read(&mut part[..step]) else {
            break;
        };
        if rate > 0 {
            std::thread::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64));
        }
        while set.held[way].load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if way == 0 && set.record.load(Ordering::Relaxed) {
            record(&part[..bytes], connection, set);
        }
        let flip = &set.flip[way];
        let at = flip.load(Ordering::Relaxed);
        if at < bytes {
            part[at] ^= 1;
            flip.store(NONE, Ordering::Relaxed);
        }
        if let Some(late) = &late {
            let due = Instant::now() + delay;
            if late.send((due, part[..bytes].to_vec())).is_err() {
                break;
            }
        } else if to.write_all(&part[..bytes]).is_err() {
            break;
        }
    }
    if let Some(late) = late {
        // The end takes as long as the bytes do.
        let _ = late.send((Instant::now() + delay, Vec::new()));
        return;
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Writes parts when they are due, and closes both sockets with an empty one.
fn pass_late(parts: &Receiver<(Instant, Vec<u8>)>, from: &TcpStream, mut to: &TcpStream) {
    for (due, part) in parts {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if part.is_empty() || to.write_all(&part).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn record(part: &[u8], connection: usize, settings: &Settings) {
    let mut recorded = settings.recorded.lock();
    if recorded.len() <= connection {
        recorded.resize(connection + 1, Vec::new());
    }
    recorded[connection].extend_from_slice(part);
}
