//! A server with a places provider on the network: a real HTTP server on the loopback interface
//! that is slow or fails, and clients that must not be affected.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::process::wait_until;
use crate::support::{Client, PATIENCE, alone_with, report};
use crossbeam_channel::{Receiver, Sender, bounded};
use herd::config::PoolKind;
use herd::places::Places;
use herd::places::google_legacy::GoogleLegacy;
use herd::places::http::Options;
use herd::places::key::ApiKey;
use herd::places::overpass::Overpass;
use herd::places::remote::{Remote, Settings};
use herd::places::upstream::Upstream;
use herd::server::Server;

const ANSWER: &str = r#"{
   "html_attributions" : [],
   "results" : [
      { "geometry" : { "location" : { "lat" : 34.0700012, "lng" : -118.4440034 } }, "name" : "Dispatcher" }
   ],
   "status" : "OK"
}
"#;

/// An HTTP server that gives every call the same response, at once or when its gate opens.
struct FakeProvider {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    /// Opens when it is dropped.
    gate: Option<Sender<()>>,
    stop: Arc<AtomicBool>,
}

impl FakeProvider {
    /// Starts the server. With `held`, calls wait until the gate is dropped.
    fn start(status: u16, body: &'static str, held: bool) -> FakeProvider {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, stop) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (gate, closed) = bounded(0);
        let (counted, stopped) = (Arc::clone(&calls), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let (counted, closed) = (Arc::clone(&counted), closed.clone());
                std::thread::spawn(move || {
                    answer(stream.unwrap(), &counted, &closed, (status, body))
                });
            }
        });
        let gate = held.then_some(gate);
        FakeProvider {
            address,
            calls,
            gate,
            stop,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    fn options(&self) -> Options {
        Options {
            url: Some(format!("http://{}/places", self.address)),
            roots: None,
        }
    }

    fn google(&self) -> Places {
        let key = ApiKey::new("not-a-real-key").unwrap();
        remote(GoogleLegacy::new(key, &self.options()).unwrap(), None)
    }

    fn overpass(&self) -> Places {
        remote(Overpass::new(&self.options()).unwrap(), None)
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

fn remote(upstream: impl Upstream + 'static, calls_per_minute: Option<u32>) -> Places {
    let settings = Settings {
        workers: 8,
        calls_per_minute,
    };
    Places::Remote(Remote::start(Box::new(upstream), settings).unwrap())
}

/// Answers every request of a connection.
fn answer(
    stream: TcpStream,
    calls: &AtomicUsize,
    gate: &Receiver<()>,
    (status, body): (u16, &str),
) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        calls.fetch_add(1, Ordering::AcqRel);
        // Returns when the gate is dropped.
        let _ = gate.recv_timeout(Duration::from_secs(30));
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if reader
            .get_mut()
            .write_all((head + body).as_bytes())
            .is_err()
        {
            return;
        }
    }
}

const POOLS: [PoolKind; 2] = [PoolKind::Dedicated, PoolKind::Shared];

/// Starts a server with eight workers and one known client, and returns that client's `AT` line too.
fn server(pool: PoolKind, places: Places) -> (Server, String) {
    let server = alone_with(places, |config| (config.pool, config.workers) = (pool, 8));
    let mut client = Client::connect(server.client_address());
    let at_line = client.ask(&report("kiwi", "+34.068930-118.445127"));
    (server, at_line)
}

/// Reads the rest of a `WHATSAT` reply: a JSON text and an empty line.
fn json(client: &mut Client) -> serde_json::Value {
    let mut text = String::new();
    loop {
        let line = client.line();
        if line.is_empty() {
            return serde_json::from_str(&text).unwrap();
        }
        text += &line;
        text += "\n";
    }
}

#[test]
fn replies_keep_their_order_and_each_is_sent_whole() {
    for pool in POOLS {
        let mut fake = FakeProvider::start(200, ANSWER, true);
        let (server, at_line) = server(pool, fake.google());
        let mut client = Client::connect(server.client_address());
        client
            .send("before\nWHATSAT kiwi 10 5\nafter\nWHATSAT kiwi 10 0\nWHATSAT kiwi 11 5\nlast\n");
        // Replies before the call do not wait for it, and no later reply overtakes it.
        assert_eq!(client.line(), "? before");
        wait_until("the call", || fake.calls() == 1);
        client
            .stream()
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert!(
            client.stream().peek(&mut [0]).is_err(),
            "an early byte of the reply"
        );
        client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        fake.gate.take();
        assert_eq!(client.line(), at_line);
        assert_eq!(json(&mut client)["results"][0]["name"], "Dispatcher");
        assert_eq!(client.line(), "? after");
        assert_eq!(client.line(), at_line);
        assert_eq!(json(&mut client)["status"], "ZERO_RESULTS");
        assert_eq!(client.line(), at_line);
        assert_eq!(json(&mut client)["status"], "OK");
        assert_eq!(client.line(), "? last");
        assert_eq!(fake.calls(), 2, "a bound of 0 needs no call");
        server.stop();
    }
}

#[test]
fn a_half_closed_client_still_gets_its_places() {
    for pool in POOLS {
        let fake = FakeProvider::start(200, ANSWER, false);
        let (server, at_line) = server(pool, fake.google());
        let mut client = Client::connect(server.client_address());
        client.send("WHATSAT kiwi 10 5");
        client.half_close();
        let rest = String::from_utf8(client.rest()).unwrap();
        assert!(
            rest.starts_with(&at_line) && rest.ends_with("}\n\n"),
            "{rest}"
        );
        server.stop();
    }
}

/// Returns the number of calls for a thousand equal requests while the first call is held.
fn calls_for_equal_requests() -> usize {
    let mut fake = FakeProvider::start(200, ANSWER, true);
    let (server, at_line) = server(PoolKind::Shared, fake.google());
    let mut clients: Vec<_> = (0..1_000)
        .map(|_| {
            let mut client = Client::connect(server.client_address());
            client.send("WHATSAT kiwi 10 5\n");
            client
        })
        .collect();
    wait_until("the call", || fake.calls() == 1);
    // Once a later request is answered, a worker has taken every earlier one.
    let mut other = Client::connect(server.client_address());
    assert_eq!(other.ask("x"), "? x");
    fake.gate.take();
    for client in &mut clients {
        assert_eq!(client.line(), at_line);
        assert_eq!(json(client)["results"][0]["name"], "Dispatcher");
    }
    drop(clients);
    server.stop();
    fake.calls()
}

#[test]
fn a_thousand_equal_requests_make_one_call() {
    // On a busy machine a worker may be suspended while it holds a request until the first call has
    // ended, and then that request makes a second call.
    let mut attempts = (0..5).map(|_| calls_for_equal_requests());
    assert!(attempts.any(|calls| calls == 1), "more than one call");
}

#[test]
fn a_slow_provider_delays_its_callers_by_three_seconds_and_no_other_client() {
    for pool in POOLS {
        let fake = FakeProvider::start(200, ANSWER, true);
        let (server, at_line) = server(pool, fake.google());
        let start = Instant::now();
        let mut asking: Vec<_> = (0..4)
            .map(|number| {
                let mut client = Client::connect(server.client_address());
                client.send(format!("WHATSAT kiwi 1{number} 5\n"));
                client
            })
            .collect();
        wait_until("the calls", || fake.calls() == 4);
        let mut other = Client::connect(server.client_address());
        for _ in 0..100 {
            assert!(other.ask(&report("other", "+1+1")).starts_with("AT "));
        }
        assert!(start.elapsed() < Duration::from_secs(2), "others waited");
        for client in &mut asking {
            assert_eq!(client.line(), at_line);
            let reply = json(client);
            assert_eq!(reply["status"], "UNKNOWN_ERROR");
            assert!(
                reply["error_message"]
                    .as_str()
                    .unwrap()
                    .contains("did not answer in time")
            );
        }
        let took = start.elapsed();
        assert!(
            took > Duration::from_millis(2_900) && took < Duration::from_secs(5),
            "{took:?}"
        );
        server.stop();
    }
}

#[test]
fn failures_have_a_status_and_open_the_circuit_breaker() {
    let fake = FakeProvider::start(500, "<html>oops</html>", false);
    let (server, at_line) = server(PoolKind::Shared, fake.google());
    let mut client = Client::connect(server.client_address());
    let mut ask = |number: usize| {
        // No two requests are equal.
        assert_eq!(
            client.ask(&format!("WHATSAT kiwi 10.{number:04} 5")),
            at_line
        );
        json(&mut client)
    };
    let start = Instant::now();
    for number in 0..20 {
        assert_eq!(ask(number)["status"], "UNKNOWN_ERROR");
    }
    assert_eq!(fake.calls(), 20);
    let mut asked = 20;
    while start.elapsed() < Duration::from_secs(4) {
        let reply = ask(asked);
        asked += 1;
        assert_eq!(reply["status"], "UNKNOWN_ERROR");
        assert!(
            reply["error_message"]
                .as_str()
                .unwrap()
                .contains("suspended"),
            "{reply}"
        );
    }
    assert!(asked > 100);
    assert_eq!(fake.calls(), 20, "calls while the breaker is open");
    server.stop();
}

#[test]
fn requests_that_the_breaker_refuses_use_up_no_calls() {
    let fake = FakeProvider::start(500, "<html>oops</html>", false);
    let key = ApiKey::new("not-a-real-key").unwrap();
    let places = remote(GoogleLegacy::new(key, &fake.options()).unwrap(), Some(25));
    let (server, at_line) = server(PoolKind::Shared, places);
    let mut client = Client::connect(server.client_address());
    for number in 0..60 {
        assert_eq!(
            client.ask(&format!("WHATSAT kiwi 10.{number:04} 5")),
            at_line
        );
        let reply = json(&mut client);
        assert_eq!(
            reply["status"], "UNKNOWN_ERROR",
            "request {number}: {reply}"
        );
    }
    assert_eq!(fake.calls(), 20);
    server.stop();
}

#[test]
fn a_full_queue_is_answered_at_once() {
    let mut fake = FakeProvider::start(200, ANSWER, true);
    let (server, at_line) = server(PoolKind::Shared, fake.google());
    // Eight are with threads and 1,024 in the queue; the rest exceed its capacity.
    let mut clients: Vec<_> = (0..1_100)
        .map(|number| {
            let mut client = Client::connect(server.client_address());
            client.send(format!("WHATSAT kiwi 10.{number:04} 5\n"));
            client
        })
        .collect();
    let mut last = Client::connect(server.client_address());
    let start = Instant::now();
    assert_eq!(last.ask("WHATSAT kiwi 49 5"), at_line);
    assert_eq!(json(&mut last)["status"], "OVER_QUERY_LIMIT");
    assert!(start.elapsed() < Duration::from_secs(1));
    fake.gate.take();
    for client in &mut clients {
        assert_eq!(client.line(), at_line);
        json(client);
    }
    drop(clients);
    server.stop();
}

#[test]
fn answers_of_overpass_are_cached_and_googles_are_not() {
    let answer = r#"{"elements":[{"type":"node","id":1,"lat":34.0689,"lon":-118.4452,"tags":{"amenity":"cafe","name":"Cafe"}}]}"#;
    for (fake, places, calls) in [
        {
            let fake = FakeProvider::start(200, answer, false);
            let places = fake.overpass();
            (fake, places, 1)
        },
        {
            let fake = FakeProvider::start(200, ANSWER, false);
            let places = fake.google();
            (fake, places, 3)
        },
    ] {
        let (server, at_line) = server(PoolKind::Shared, places);
        let mut client = Client::connect(server.client_address());
        for _ in 0..3 {
            assert_eq!(client.ask("WHATSAT kiwi 10 5"), at_line);
            assert_eq!(json(&mut client)["status"], "OK");
        }
        assert_eq!(fake.calls(), calls);
        server.stop();
    }
}

#[test]
fn calls_per_minute_are_limited() {
    let fake = FakeProvider::start(200, ANSWER, false);
    let key = ApiKey::new("not-a-real-key").unwrap();
    let places = remote(GoogleLegacy::new(key, &fake.options()).unwrap(), Some(2));
    let (server, at_line) = server(PoolKind::Shared, places);
    let mut client = Client::connect(server.client_address());
    for expected in ["OK", "OK", "OVER_QUERY_LIMIT", "OVER_QUERY_LIMIT"] {
        assert_eq!(client.ask("WHATSAT kiwi 10 5"), at_line);
        assert_eq!(json(&mut client)["status"], expected);
    }
    assert_eq!(fake.calls(), 2);
    server.stop();
}

#[test]
fn stopping_aborts_calls_and_answers_waiting_clients() {
    for pool in POOLS {
        let fake = FakeProvider::start(200, ANSWER, true);
        let (server, at_line) = server(pool, fake.google());
        let mut client = Client::connect(server.client_address());
        client.send("WHATSAT kiwi 10 5\n");
        wait_until("the call", || fake.calls() == 1);
        let start = Instant::now();
        let stopping = std::thread::spawn(move || server.stop());
        assert_eq!(client.line(), at_line);
        assert_eq!(json(&mut client)["status"], "UNKNOWN_ERROR");
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "the call was not aborted"
        );
        drop(client);
        stopping.join().unwrap();
    }
}
