//! An HTTP server for tests, one thread on a port of the loopback interface: it behaves as a test
//! demands, well or badly, and records the requests.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Read and write timeout of the server; past this a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Behavior of the server on each request.
#[derive(Clone, Debug)]
pub(super) enum Behavior {
    /// Responds with a status, further header lines and a body.
    Answer(u16, &'static str, Vec<u8>),
    /// Responds with this body to every request of a connection, until the client closes it.
    Keep(Vec<u8>),
    /// Responds with a body that is shorter than its announced length.
    Truncate(Vec<u8>),
    /// Responds with these header lines and a body without a length, ended by closing.
    Unframed(&'static str, Vec<u8>),
    /// Sends nothing until the client closes the connection.
    Hang,
    /// Sends the head of a response, then a byte every 20 ms, for 20 s.
    Drip,
    /// Resets the connection.
    Reset,
    /// Sends bytes that are not HTTP.
    NotHttp,
}

#[derive(Debug)]
pub(super) struct FakeServer {
    address: SocketAddr,
    /// Head and body of each request as received.
    pub(super) requests: Receiver<String>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeServer {
    pub(super) fn start(behavior: Behavior) -> FakeServer {
        FakeServer::start_tls(behavior, None)
    }

    pub(super) fn start_tls(behavior: Behavior, tls: Option<Arc<ServerConfig>>) -> FakeServer {
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
                // The client may close the connection at any point, which is not an error here.
                let _ = match &tls {
                    None => serve(&socket, &socket, &behavior, &record),
                    Some(config) => {
                        let tls = ServerConnection::new(Arc::clone(config)).unwrap();
                        let stream = StreamOwned::new(tls, &socket);
                        serve(stream, &socket, &behavior, &record)
                    }
                };
            }
        });
        FakeServer {
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

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread from its accept.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers one request on a connection and closes it.
fn serve(
    mut stream: impl Read + Write,
    socket: &TcpStream,
    behavior: &Behavior,
    record: &Sender<String>,
) -> std::io::Result<()> {
    record.send(read_request(&mut stream)?).unwrap();
    match behavior {
        Behavior::Answer(status, headers, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} Status\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            stream.write_all(body)?;
        }
        Behavior::Keep(body) => loop {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            )?;
            stream.write_all(body)?;
            stream.flush()?;
            record.send(read_request(&mut stream)?).unwrap();
        },
        Behavior::Truncate(body) => {
            let length = body.len() + 1;
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            )?;
            stream.write_all(body)?;
        }
        Behavior::Unframed(headers, body) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\n{headers}Connection: close\r\n\r\n"
            )?;
            stream.write_all(body)?;
        }
        Behavior::Hang => while stream.read(&mut [0; 64])? > 0 {},
        Behavior::Drip => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
            for _ in 0..1000 {
                stream.write_all(b" ")?;
                stream.flush()?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Behavior::Reset => {
            socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
            return Ok(());
        }
        Behavior::NotHttp => stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")?,
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
