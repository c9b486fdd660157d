//! The door with real sockets, and a handler that answers by the path.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;
use crate::http::response::{self, Body, TEXT};
use crate::listener::{self, Listener};

/// Bytes of a large answer: more than the kernel holds for a client that does not read.
const LARGE: usize = 8 << 20;

/// Answers `/large` with many bytes, `/never` not at all, and anything else with its path.
struct Fake {
    viewers: Vec<(TcpStream, Seat)>,
    kept: Vec<Reply>,
}

impl Handler for Fake {
    fn handle(&mut self, request: Request, reply: Reply) -> Result<(), Response> {
        match request.path.as_str() {
            "/large" => {
                let body = Body::Owned(vec![b'x'; LARGE]);
                reply.send(&Response::new(200, TEXT, body));
            }
            "/never" => self.kept.push(reply),
            "/busy" => return Err(Response::unavailable("busy")),
            path => reply.send(&Response::text(200, path)),
        }
        Ok(())
    }

    fn view(
        &mut self,
        mut stream: TcpStream,
        request: &Request,
        seat: Option<Seat>,
    ) -> Result<(), (TcpStream, Response)> {
        let Some(seat) = seat else {
            let text = format!("no seat at {}", request.path);
            return Err((stream, Response::unavailable(text)));
        };
        stream.write_all(&response::stream_head()).unwrap();
        self.viewers.push((stream, seat));
        Ok(())
    }
}

/// A port with that handler.
struct Port {
    listener: Listener,
    door: Door,
    counts: Arc<Counts>,
}

impl Port {
    fn start() -> Port {
        let counts = Arc::<Counts>::default();
        let fake = Fake {
            viewers: Vec::new(),
            kept: Vec::new(),
        };
        let door = Door::start(Hosts::default(), Arc::clone(&counts), fake).unwrap();
        let bound = listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = Listener::start("test", bound.into(), door.acceptor()).unwrap();
        Port {
            listener,
            door,
            counts,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// Sends these bytes and returns all that comes back.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        rest(&mut stream)
    }

    fn get(&self, path: &str) -> String {
        self.ask(&get(path))
    }

    fn counted(&self, wanted: Outcome) -> u64 {
        self.counts.get(wanted)
    }

    fn stop(self) {
        self.listener.stop();
        self.door.stop();
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    // A reset shows what came before it.
    let _ = stream.read_to_string(&mut text);
    text
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn requests_are_answered_and_their_connections_closed() {
    let port = Port::start();
    let answer = port.get("/a");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n/a\n"),
        "{answer}"
    );
    let head = port.ask(&get("/a").replace("GET", "HEAD"));
    assert!(
        head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert!(port.get("/busy").starts_with("HTTP/1.1 503 "));
    // The second request of two is not answered: where one ends can't be disputed.
    let two = port.ask(&(get("/a") + &get("/b")));
    assert_eq!(two.matches("HTTP/1.1").count(), 1, "{two}");
    let body = port.ask("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        body.starts_with("HTTP/1.1 400 ") && body.matches("HTTP/1.1").count() == 1,
        "{body}"
    );
    wait_until("counted", || port.counted(Outcome::Answered) == 4);
    wait_until("counted", || port.counted(Outcome::Refused) == 1);
    port.stop();
}

#[test]
fn a_head_in_small_parts_is_read_and_one_that_never_ends_is_refused_after_its_time() {
    let port = Port::start();
    let mut slow = port.connect();
    let begun = Instant::now();
    slow.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let mut parts = port.connect();
    for byte in get("/parts").as_bytes() {
        parts.write_all(&[*byte]).unwrap();
    }
    assert!(rest(&mut parts).ends_with("/parts\n"));
    // Each byte on its own does not begin the time again.
    let mut answer = String::new();
    while begun.elapsed() < 2 * connection::HEAD_TIMEOUT && slow.write_all(b"x").is_ok() {
        slow.set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let mut part = [0; 1024];
        match slow.read(&mut part) {
            Ok(0) => break,
            Ok(bytes) => answer += std::str::from_utf8(&part[..bytes]).unwrap(),
            Err(_) => {}
        }
    }
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(begun.elapsed() >= connection::HEAD_TIMEOUT);
    port.stop();
}

#[test]
fn a_newcomer_closes_the_head_that_has_been_silent_longest() {
    let port = Port::start();
    // The answer to a request shows that what was sent before has been read.
    let speak = |stream: &mut TcpStream, bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        assert!(port.get("/read").ends_with("/read\n"));
    };
    let mut silent: Vec<_> = (1..MAX_CONNECTIONS)
        .map(|_| {
            let mut stream = port.connect();
            speak(&mut stream, b"G");
            stream
        })
        .collect();
    // The first one speaks last of all, but for one that fills the last place.
    speak(&mut silent[0], b"ET ");
    silent.push(port.connect());
    for _ in 0..3 {
        assert!(port.get("/a").ends_with("/a\n"));
    }
    // An answered connection makes room before an unfinished head does.
    assert_eq!(port.counted(Outcome::Evicted), 1);
    assert_eq!(rest(&mut silent[1]), "");
    let newcomers: Vec<_> = (0..MAX_CONNECTIONS / 2).map(|_| port.connect()).collect();
    let expected = 1 + newcomers.len() as u64 - 1;
    wait_until("evicted", || port.counted(Outcome::Evicted) >= expected);
    assert_eq!(rest(&mut silent[2]), "");
    // The one that spoke last is still there.
    silent[0]
        .write_all(&get("/still").as_bytes()["GET ".len()..])
        .unwrap();
    assert!(rest(&mut silent[0]).ends_with("/still\n"));
    port.stop();
}

#[test]
fn clients_that_take_nothing_are_closed_for_newcomers() {
    let port = Port::start();
    let mut greedy: Vec<_> = (0..MAX_CONNECTIONS).map(|_| port.connect()).collect();
    for stream in &mut greedy {
        stream.write_all(get("/large").as_bytes()).unwrap();
    }
    for number in 0..20 {
        let path = format!("/{number}");
        assert!(port.get(&path).ends_with(&format!("{path}\n")));
    }
    // One that reads gets all of it.
    let large = port.get("/large");
    assert_eq!(large.len() - large.find("\r\n\r\n").unwrap() - 4, LARGE);
    port.stop();
}

#[test]
fn an_answer_that_does_not_come_is_excused_after_its_time() {
    let port = Port::start();
    let begun = Instant::now();
    let answer = port.get("/never");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(begun.elapsed() >= connection::WORK_TIMEOUT);
    port.stop();
}

#[test]
fn viewers_have_seats_of_their_own() {
    let port = Port::start();
    // Each kind of stream has its own.
    let mut viewers: Vec<_> = (0..2 * MAX_VIEWERS)
        .map(|number| {
            let mut stream = port.connect();
            let path = ["/events", "/v1/watch"][number % 2];
            stream.write_all(get(path).as_bytes()).unwrap();
            let mut first = [0; 15];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200 OK");
            stream
        })
        .collect();
    let full = port.get("/events");
    assert!(full.starts_with("HTTP/1.1 503 "), "{full}");
    assert!(full.ends_with("no seat at /events\n"), "{full}");
    let heads: Vec<_> = (0..2 * MAX_CONNECTIONS).map(|_| port.connect()).collect();
    assert!(port.get("/a").ends_with("/a\n"));
    assert_eq!(port.counted(Outcome::Viewer), 2 * MAX_VIEWERS as u64);
    drop(heads);
    // None of them was closed for a newcomer.
    for viewer in &mut viewers {
        viewer.set_nonblocking(true).unwrap();
        let mut rest = Vec::new();
        let end = viewer.read_to_end(&mut rest).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
    }
    let head = port.ask(&get("/events").replace("GET", "HEAD"));
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    port.stop();
}

#[test]
fn an_answered_connection_counts_as_answered_when_it_makes_room() {
    let port = Port::start();
    const REQUESTS: usize = 2 * MAX_CONNECTIONS;
    let answered: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let mut stream = port.connect();
            stream.write_all(get("/a").as_bytes()).unwrap();
            assert!(rest(&mut stream).ends_with("/a\n"));
            stream
        })
        .collect();
    drop(answered);
    wait_until("counted", || {
        port.counted(Outcome::Answered) + port.counted(Outcome::Evicted) == REQUESTS as u64
    });
    assert_eq!(port.counted(Outcome::Evicted), 0);
    port.stop();
}

#[test]
fn an_answer_to_head_has_no_body_when_it_is_refused_or_late() {
    let port = Port::start();
    for request in [
        get("/a").replace("localhost", "evil.example"),
        get("/never"),
    ] {
        let answer = port.ask(&request.replace("GET", "HEAD"));
        assert!(
            answer.starts_with("HTTP/1.1 ") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    }
    port.stop();
}
