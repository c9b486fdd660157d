//! An HTTP server of the tests' own, one thread on a port of the loopback: it answers as a test
//! tells it to, well or badly, and records what it was asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How long the server waits for anything; past this a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the server answers each request.
#[derive(Clone, Debug)]
pub(super) enum Manner {
    /// With a status, further header lines and a body.
    Answer(u16, &'static str, Vec<u8>),
    /// With this body, time and again on the same connection, until the client hangs up.
    Keep(Vec<u8>),
    /// With a body that ends before the length that was announced.
    Truncate(Vec<u8>),
    /// With a body without a length, ended by closing, after these header lines.
    Unframed(&'static str, Vec<u8>),
    /// Not at all, until the client hangs up.
    Hang,
    /// With the head of an answer, then a byte now and then, without end.
    Drip,
    /// With a reset.
    Reset,
    /// With bytes that are no HTTP.
    Babble,
}

#[derive(Debug)]
pub(super) struct Fake {
    address: SocketAddr,
    /// Each request's head and body, as they came.
    pub(super) requests: Receiver<String>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(super) fn start(manner: Manner) -> Fake {
        Fake::start_tls(manner, None)
    }

    pub(super) fn start_tls(manner: Manner, tls: Option<Arc<ServerConfig>>) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (record, requests) = unbounded();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let socket = stream.unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.set_write_timeout(Some(PATIENCE)).unwrap();
                // The client may hang up at any point, and that is not this server's failure.
                let _ = match &tls {
                    None => serve(&socket, &socket, &manner, &record),
                    Some(config) => {
                        let tls = ServerConnection::new(Arc::clone(config)).unwrap();
                        let stream = StreamOwned::new(tls, &socket);
                        serve(stream, &socket, &manner, &record)
                    }
                };
            }
        });
        Fake {
            address,
            requests,
            stop,
            thread: Some(thread),
        }
    }

    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/places", self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread from its accept.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers one request on a connection, and closes it.
fn serve(
    mut stream: impl Read + Write,
    socket: &TcpStream,
    manner: &Manner,
    record: &Sender<String>,
) -> std::io::Result<()> {
    record.send(read_request(&mut stream)?).unwrap();
    match manner {
        Manner::Answer(status, headers, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} PlacesStatus\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            stream.write_all(body)?;
        }
        Manner::Keep(body) => loop {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            )?;
            stream.write_all(body)?;
            stream.flush()?;
            record.send(read_request(&mut stream)?).unwrap();
        },
        Manner::Truncate(body) => {
            let length = body.len() + 1;
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            )?;
            stream.write_all(body)?;
        }
        Manner::Unframed(headers, body) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\n{headers}Connection: close\r\n\r\n"
            )?;
            stream.write_all(body)?;
        }
        Manner::Hang => while stream.read(&mut [0; 64])? > 0 {},
        Manner::Drip => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
            for _ in 0..1000 {
                stream.write_all(b" ")?;
                stream.flush()?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Manner::Reset => {
            socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
            return Ok(());
        }
        Manner::Babble => stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")?,
    }
    stream.flush()?;
    // Unread input would turn the close into a reset.
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0; 64]);
    Ok(())
}

fn read_request(stream: &mut impl Read) -> std::io::Result<String> {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.trim().parse().unwrap())
        });
        if body.len() >= length.unwrap_or(0) {
            return Ok(text.into_owned());
        }
    }
}
