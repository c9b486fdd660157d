//! Hostile clients of the HTTP port: clients of the line protocol must not notice them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::form::{choose, figure};
use crate::support::fleet::Fleet;
use crate::support::http;
use crate::support::load::{Load, Pace};

/// Requests that the port refuses, each in its own way, and some that it answers at length.
const SHAPES: [&str; 10] = [
    "POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length : 9\r\n\r\n",
    "GET /status HTTP/1.1\r\nHost: attacker.example\r\n\r\n",
    "GET http://attacker.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "IAMAT kiwi +1+1 1\r\nWHATSAT kiwi 10 5\r\n",
    "\x16\x03\x01\x02\0\x01\0\x01\u{7f}",
    "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

/// Connections that the attackers open in a second, and that they keep at a time.
const PER_SECOND: u32 = 500;
const KEPT: usize = 1_000;

/// A thread that opens connections at a steady rate: slow heads, huge heads, and all of [`SHAPES`].
struct Attack {
    over: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Attack {
    fn start(to: SocketAddr) -> Attack {
        let over = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let huge = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(16 << 10));
            let (begun, mut opened) = (Instant::now(), 0_u32);
            let mut kept = std::collections::VecDeque::new();
            while !stopped.load(Ordering::Relaxed) {
                let due = begun + Duration::from_secs(1) * opened / PER_SECOND;
                let early = due.saturating_duration_since(Instant::now());
                std::thread::park_timeout(early);
                if Instant::now() < due {
                    continue;
                }
                let number = opened as usize;
                opened += 1;
                let Ok(mut stream) = TcpStream::connect(to) else {
                    continue;
                };
                let _ = stream.set_nonblocking(true);
                let request = match number % 4 {
                    0 | 1 => "GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
                    2 if number % 8 == 2 => &huge,
                    _ => SHAPES[number / 4 % SHAPES.len()],
                };
                let _ = stream.write(request.as_bytes());
                kept.push_back(stream);
                if kept.len() > KEPT {
                    kept.pop_front();
                }
                // A slow head goes on.
                if let Some(older) = kept.get_mut(kept.len() / 2) {
                    let _ = older.write(b"x");
                }
            }
            opened as usize
        });
        Attack { over, thread }
    }

    fn stop(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A listener that closes each connection at once: the attack on it costs the machine what attackers
/// cost by themselves.
struct Dummy {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Dummy {
    fn start() -> Dummy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                drop(stream);
            }
        });
        Dummy {
            address,
            over,
            thread,
        }
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        self.thread.join().unwrap();
    }
}

/// The 99th percentile of a line client's round trips in the next seconds.
fn p99(server: SocketAddr, length: Duration) -> Duration {
    let pace = Pace {
        clients: 20,
        burst: 1,
        pause: Duration::from_millis(1),
    };
    let load = Load::start(server, "line", pace);
    std::thread::sleep(length);
    let (_, ended) = load.finish();
    ended.quantile(0.99)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn a_hostile_client_of_the_http_port_is_not_noticed_by_line_clients() {
    let mut fleet = Fleet::alone("http-hostile", &["--http", "0"]);
    fleet.start_all();
    let address = http::address(fleet.ready_line(0));
    let dummy = Dummy::start();
    let length = Duration::from_millis(choose(300, 2_000));
    let (mut to_quiet, mut to_dummy) = (Vec::new(), Vec::new());
    let mut opened = 0;
    for _ in 0..choose(1, 10) {
        let quiet = p99(fleet.address(0), length).as_secs_f64();
        let attack = Attack::start(dummy.address);
        let control = p99(fleet.address(0), length).as_secs_f64();
        attack.stop();
        let attack = Attack::start(address);
        let attacked = p99(fleet.address(0), length).as_secs_f64();
        // Whoever asks properly is answered all the while.
        let begun = Instant::now();
        assert_eq!(http::get(address, "/livez").status, 200);
        assert!(begun.elapsed() < Duration::from_secs(choose(5, 1)));
        opened += attack.stop();
        to_quiet.push(attacked / quiet);
        to_dummy.push(attacked / control);
    }
    dummy.stop();
    let (to_quiet, to_dummy) = (median(to_quiet), median(to_dummy));
    figure(
        "hostile client of the HTTP port",
        format_args!(
            "{opened} connections at {PER_SECOND} a second; p99 of a line client {to_dummy:.2} times that beside the \
             same attack on another process, {to_quiet:.2} times that on a quiet machine (medians)"
        ),
    );
    // Nothing of it was taken for a line of a client.
    let status = http::get(address, "/status").json();
    assert_eq!(status["lines_refused"], serde_json::json!({}));
    assert_eq!(status["state"], "ok");
}

#[test]
fn connections_that_hang_about_keep_nobody_out_of_the_http_port() {
    let mut fleet = Fleet::alone("http-held", &["--http", "0"]);
    fleet.start_all();
    let address = http::address(fleet.ready_line(0));
    let held: Vec<TcpStream> = (0..1_000)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").unwrap();
            stream
        })
        .collect();
    let mut worst = Duration::ZERO;
    for _ in 0..choose(5, 100) {
        let begun = Instant::now();
        assert_eq!(http::get(address, "/livez").status, 200);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(choose(5, 1)), "{took:?}");
        worst = worst.max(took);
    }
    figure(
        "1,000 slow connections to the HTTP port",
        format_args!("/livez answers within {:.1} ms", worst.as_secs_f64() * 1e3),
    );
    // Those that were not closed for others are told that they were too slow.
    let told = held.into_iter().filter(|mut stream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).is_ok() && &answer == b"HTTP/1.1 408"
    });
    let told = told.count();
    assert!((1..=64).contains(&told), "{told}");
}
