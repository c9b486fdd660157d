//! The door of the peer port: strangers that fill it, recordings, and peers that are slow.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::strangers::{Strangers, connect};
use crate::support::{KEYS, PATIENCE, atlas, config};
use herd::config::topology::Address;
use herd::link::framing::Stream;
use herd::link::handshake::{self, HandshakeError, Hello, Peer};
use herd::link::status;
use herd::model::time::Timestamp;
use herd::server::{Server, Sockets};

/// Address of Welsh in `servers.txt`, from which it dials. Other tests restart servers on ports of
/// 127.0.0.1, which strangers could have taken meanwhile.
const NEIGHBORS: [u8; 4] = [127, 0, 0, 7];

/// Address that `servers.txt` does not name.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 9];

/// Starts Ball, whose neighbor Welsh is the test itself.
fn start() -> Server {
    // A plain listener has a backlog of 128.
    let bind = || herd::listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (clients, peers) = (bind(), bind());
    // It dials Welsh in vain.
    let welsh = TcpListener::bind(SocketAddr::from((NEIGHBORS, 0))).unwrap();
    let text = format!(
        "Ball {} {} Welsh\nWelsh 127.0.0.1:1 {} Ball\n",
        clients.local_addr().unwrap(),
        peers.local_addr().unwrap(),
        welsh.local_addr().unwrap(),
    );
    let sockets = Sockets {
        clients: clients.into(),
        peers: peers.into(),
    };
    Server::start(&config(&text, "Ball"), sockets, atlas()).unwrap()
}

fn dial(stream: impl Stream, name: &str) -> Result<Peer, HandshakeError> {
    let own = Hello::new(KEYS.herd(), name, 7, Timestamp::now());
    handshake::dial(stream, &KEYS, &own, "Ball", Instant::now() + PATIENCE)
}

/// Links as Welsh does: dials until there is a vector. Returns how long that took.
#[track_caller]
fn link(peers: SocketAddr) -> Duration {
    let start = Instant::now();
    loop {
        let stream = connect(peers, NEIGHBORS).unwrap();
        let vector = dial(&stream, "Welsh").is_ok_and(|mut peer| {
            // A sign of life may come first.
            (0..2).any(|_| {
                let line = peer.reader.read_line(&stream, Instant::now() + PATIENCE);
                line.is_ok_and(|line| line.starts_with(b"VECTOR"))
            })
        });
        if vector {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "no link within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Asks for the status as `herd status` does, once. Returns how long that took.
#[track_caller]
fn ask(peers: SocketAddr) -> Duration {
    let (host, port) = (peers.ip().to_string(), peers.port());
    let (start, address) = (Instant::now(), Address { host, port });
    let deadline = start + PATIENCE;
    status::ask("Ball", &address, &KEYS, Timestamp::now(), deadline).unwrap();
    start.elapsed()
}

#[test]
fn strangers_keep_out_neither_a_neighbor_nor_an_observer() {
    for from in [NEIGHBORS, ELSEWHERE] {
        for flooded in [false, true] {
            let ball = start();
            let peers = ball.peer_address();
            let strangers = if flooded {
                Strangers::flood(peers, from, 1_000)
            } else {
                Strangers::hold(peers, from, 40)
            };
            let busy = Instant::now();
            while busy.elapsed() < Duration::from_secs(1) {
                let (linked, answered) = (link(peers), ask(peers));
                assert!(linked < Duration::from_secs(5), "{linked:?}");
                assert!(answered < Duration::from_secs(2), "{answered:?}");
            }
            let stopping = Instant::now();
            ball.stop();
            let stopped = stopping.elapsed();
            assert!(stopped < Duration::from_secs(3), "{stopped:?}");
            strangers.stop();
        }
    }
}

#[test]
fn observers_that_ask_nothing_hold_up_no_neighbor() {
    let ball = start();
    let peers = ball.peer_address();
    let observers: Vec<_> = (0..40)
        .map(|_| {
            let stream = TcpStream::connect(peers).unwrap();
            let peer = dial(&stream, "-").unwrap();
            (stream, peer)
        })
        .collect();
    let linked = link(peers);
    assert!(linked < Duration::from_secs(1), "{linked:?}");
    drop(observers);
    ask(peers);
    ball.stop();
}

/// A connection whose peer sends nothing for a time before it waits for an answer.
#[derive(Clone, Copy)]
struct Slow<'a>(&'a TcpStream, Duration);

impl Read for Slow<'_> {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        self.0.read(part)
    }
}

impl Write for Slow<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.0.write(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Slow<'_> {
    fn wait_until(self, deadline: Instant) -> io::Result<()> {
        std::thread::sleep(self.1);
        self.0.wait_until(deadline)
    }
}

/// The answer to the first message, of which the server hears nothing, and the round trip after it
/// take up to four seconds.
#[test]
fn a_peer_that_has_proved_its_key_has_time_for_long_round_trips() {
    let ball = start();
    let stream = TcpStream::connect(ball.peer_address()).unwrap();
    // There are two waits for parts of the answer before the next message.
    let slow = Slow(&stream, Duration::from_millis(1_300));
    let peer = dial(slow, "Welsh").unwrap();
    assert_eq!(peer.hello.name, "Ball");
    ball.stop();
}

/// A recorded first message is answered, and gives its place up to those that come later.
#[test]
fn recordings_keep_no_neighbor_out() {
    let ball = start();
    let peers = ball.peer_address();
    let recorder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = recorder.local_addr().unwrap();
    let dialing = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        assert!(dial(&stream, "Welsh").is_err());
    });
    let mut recorded = [0; 50];
    recorder
        .accept()
        .unwrap()
        .0
        .read_exact(&mut recorded)
        .unwrap();
    dialing.join().unwrap();
    let replay = || {
        let mut stream = connect(peers, ELSEWHERE).unwrap();
        stream.write_all(&recorded).unwrap();
        stream
    };
    let start = Instant::now();
    let mut first = replay();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    first.read_exact(&mut [0; 50]).unwrap();
    let others: Vec<_> = (0..40).map(|_| replay()).collect();
    assert_eq!(first.read(&mut [0]).unwrap_or_default(), 0, "it is closed");
    let closed = start.elapsed();
    assert!(
        closed < Duration::from_secs(4),
        "{closed:?}, as if nobody had come"
    );
    let linked = link(peers);
    assert!(linked < Duration::from_secs(4), "{linked:?}");
    drop(others);
    ball.stop();
}
