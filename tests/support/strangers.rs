//! Strangers: silent connections to a port, from an address of loopback.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::PATIENCE;

/// Connections of a flood that are open at a time at most, unless the server closes them before.
const OPEN: usize = 2_000;

/// A thread of strangers.
pub struct Strangers {
    over: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

/// Connects from that address.
pub fn connect(to: SocketAddr, from: [u8; 4]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// Connects a stranger; `None` if the server takes no connection now.
fn stranger(to: SocketAddr, from: [u8; 4]) -> Option<TcpStream> {
    let stream = connect(to, from).ok()?;
    stream.set_nonblocking(true).ok()?;
    // A port is free again at once.
    let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    linger.ok().map(|()| stream)
}

/// Returns whether the server has closed a connection.
fn is_closed(mut stream: &TcpStream) -> bool {
    !matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

impl Strangers {
    /// Opens that many silent connections a second.
    pub fn flood(to: SocketAddr, from: [u8; 4], per_second: u32) -> Strangers {
        Strangers::start(move |over| {
            let (mut open, mut opened, start) = (VecDeque::new(), 0, Instant::now());
            let pause = Duration::from_secs(1) / per_second;
            while !over.load(Ordering::Relaxed) {
                let due = start + pause * u32::try_from(opened).unwrap();
                let early = due.saturating_duration_since(Instant::now());
                if !early.is_zero() {
                    std::thread::sleep(early.max(Duration::from_millis(1)));
                }
                open.extend(stranger(to, from));
                opened += 1;
                while open.len() > OPEN || open.front().is_some_and(is_closed) {
                    open.pop_front();
                }
            }
            opened
        })
    }

    /// Keeps that many silent connections open: each that is closed is opened again at once.
    pub fn hold(to: SocketAddr, from: [u8; 4], connections: usize) -> Strangers {
        Strangers::start(move |over| {
            let (mut open, mut opened) = (VecDeque::new(), 0);
            while !over.load(Ordering::Relaxed) {
                open.retain(|stream| !is_closed(stream));
                if open.len() == connections {
                    std::thread::sleep(Duration::from_millis(1));
                }
                while open.len() < connections && !over.load(Ordering::Relaxed) {
                    open.extend(stranger(to, from));
                    opened += 1;
                }
            }
            opened
        })
    }

    fn start(run: impl FnOnce(&AtomicBool) -> usize + Send + 'static) -> Strangers {
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let thread = std::thread::spawn(move || run(&flag));
        Strangers { over, thread }
    }

    /// Ends them. Returns how many connections there were.
    pub fn stop(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
