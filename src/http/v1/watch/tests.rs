//! Streams over sockets, with a replica and the watches of a server behind them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::sync::atomic::AtomicUsize;

use serde_json::{Value, json};

use super::*;
use crate::http::response::Body;
use crate::model::command::{Command, Report};
use crate::replica::Replica;
use crate::watch::publisher::Publisher;

/// Longest wait of a test for bytes.
const PATIENCE: Duration = Duration::from_secs(20);

fn iamat(line: &str) -> Report<'_> {
    match Command::parse(line.as_bytes()) {
        Ok(Command::Iamat(report)) => report,
        other => panic!("{line}: {other:?}"),
    }
}

/// A replica that is watched, and its streams.
struct Stage {
    replica: Arc<Replica>,
    publisher: Publisher,
    streams: Streams,
    taken: Arc<AtomicUsize>,
}

impl Stage {
    fn new(times: Times) -> Stage {
        let replica = Arc::new(Replica::new("Ball", 7, 100_000));
        let watches = Arc::new(Watches::new(&replica));
        Stage {
            replica,
            publisher: Publisher::start(&watches).unwrap(),
            streams: Streams::start_with(&watches, times).unwrap(),
            taken: Arc::default(),
        }
    }

    fn report_all(&self, clients: &[String], location: &str, seconds: u64) {
        for some in clients.chunks(500) {
            let line = |client: &String| format!("IAMAT {client} {location} {seconds}");
            let lines: Vec<_> = some.iter().map(line).collect();
            let reports: Vec<_> = lines.iter().map(|line| iamat(line)).collect();
            self.replica
                .report(&reports, Timestamp::now(), &mut Vec::new());
        }
    }

    fn report(&self, client: &str, location: &str, seconds: u64) {
        self.report_all(&[client.to_owned()], location, seconds);
    }

    fn try_open(&self, query: &str, seat: Option<Seat>) -> Result<TcpStream, response::Response> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        match self.streams.entrance().open(stream, query, seat) {
            Ok(()) => Ok(reader),
            Err((_, response)) => Err(response),
        }
    }

    fn open(&self, query: &str) -> Reader {
        let seat = Seat::take(&self.taken);
        assert!(seat.is_some());
        Reader(BufReader::new(self.try_open(query, seat).unwrap()))
    }

    /// Status and code of the answer to a query for which there is no stream.
    fn refused(&self, query: &str, seat: Option<Seat>) -> (u16, Value) {
        let response = self.try_open(query, seat).unwrap_err();
        let Body::Owned(json) = response.body else {
            panic!("{query}")
        };
        let json: Value = serde_json::from_slice(&json).unwrap();
        (response.status, json["error"]["code"].clone())
    }

    fn stop(self) {
        self.streams.stop();
        self.publisher.stop();
        assert_eq!(self.taken.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}

/// The reader of a stream.
struct Reader(BufReader<TcpStream>);

impl Reader {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// Reads the head of the answer.
    fn head(mut self) -> Reader {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.line();
        }
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("\r\nContent-Type: text/event-stream\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nCache-Control: no-store\r\n"), "{head}");
        self
    }

    /// Reads the next event.
    fn event(&mut self) -> (String, Value) {
        let name = self.line();
        let name = name
            .strip_prefix("event: ")
            .expect(&name)
            .trim_end()
            .to_owned();
        let data = self.line();
        let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(self.line(), "\n");
        (name, data)
    }

    /// Reads the next event, and returns its name, and of which client and watch it is.
    fn short(&mut self) -> (String, String, String) {
        let (name, data) = self.event();
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        (name, text("client"), text("watch"))
    }
}

#[track_caller]
fn check(got: (String, String, String), expected: [&str; 3]) {
    let (event, client, watch) = &got;
    assert_eq!([&event[..], client, watch], expected);
}

#[test]
fn a_stream_tells_what_is_inside_and_what_happens_then() {
    let stage = Stage::new(TIMES);
    stage.report("kiwi", "+34.068930-118.445127", 1_479_413_884);
    stage.report("far", "+0+0", 1);
    let mut one = stage.open("lat=34&lon=-118.4&radius=50").head();
    check(one.short(), ["reset", "", "watch"]);
    let (event, inside) = one.event();
    assert_eq!(event, "inside");
    let received = inside["received"].clone();
    let expected = json!({
        "client": "kiwi", "lat": 34.06893, "lon": -118.445127,
        "time": "2016-11-17T20:18:04.000000000Z", "received": received, "server": "Ball",
        "watch": "watch",
    });
    assert_eq!(inside, expected);
    let settled = json!({ "watch": "watch", "clients": 1 });
    assert_eq!(one.event(), ("settled".to_owned(), settled));
    let query = "name=%C3%A9&lat=0&lon=0&radius=10&name=one&client=kiwi&name=new&client=moa";
    let mut three = stage.open(query).head();
    let mut filled = Vec::new();
    for _ in 0..8 {
        filled.push(three.short());
    }
    for (watch, client) in [("é", "far"), ("one", "kiwi")] {
        let of =
            |event: &str, client: &str| (event.to_owned(), client.to_owned(), watch.to_owned());
        for wanted in [of("reset", ""), of("inside", client), of("settled", "")] {
            assert!(filled.contains(&wanted), "{wanted:?} {filled:?}");
        }
    }
    stage.report("kiwi", "+34.1-118.4", 1_479_413_885);
    check(one.short(), ["move", "kiwi", "watch"]);
    check(three.short(), ["move", "kiwi", "one"]);
    stage.report("kiwi", "+0.01+0.01", 1_479_413_886);
    let (event, left) = one.event();
    assert_eq!((&event[..], &left["lat"]), ("leave", &json!(0.01)));
    let mut both = [three.short(), three.short()];
    both.sort();
    let [entered, moved] = both;
    check(entered, ["enter", "kiwi", "é"]);
    check(moved, ["move", "kiwi", "one"]);
    stage.report("moa", "+80+80", 1);
    check(three.short(), ["move", "moa", "new"]);
    stage.replica.forget(b"kiwi", Timestamp::now());
    let mut both = [three.event(), three.event()];
    both.sort_by_key(|(_, data)| data["watch"].to_string());
    for ((event, data), watch) in both.into_iter().zip(["one", "é"]) {
        let expected = json!({ "client": "kiwi", "watch": watch });
        assert_eq!((&event[..], data), ("gone", expected));
    }
    stage.stop();
    let mut rest = String::new();
    let _ = one.0.read_to_string(&mut rest);
    assert_eq!(rest, "");
}

#[test]
fn a_slow_reader_ends_with_the_newest_of_every_client() {
    const CLIENTS: usize = 3_000;
    const ROUNDS: u64 = 20;
    let stage = Stage::new(TIMES);
    // With such ids each round is more than a connection holds.
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| format!("client-{number}-{}", "x".repeat(100)))
        .collect();
    let mut reader = stage.open("lat=0&lon=0&radius=1000").head();
    for round in 1..=ROUNDS {
        stage.report_all(&clients, &format!("+0.{round:02}+0"), round);
    }
    let mut newest = BTreeMap::new();
    let last = json!(0.2);
    let mut events = 0;
    while newest.len() < CLIENTS || newest.values().any(|latitude| *latitude != last) {
        let (event, data) = reader.event();
        events += 1;
        match &event[..] {
            "reset" | "settled" => continue,
            "inside" | "enter" | "move" => {}
            other => panic!("{other}"),
        }
        newest.insert(data["client"].to_string(), data["lat"].clone());
    }
    // Not every step was kept for it.
    assert!(events < CLIENTS * ROUNDS as usize, "{events}");
    stage.stop();
}

#[test]
fn a_reader_that_takes_nothing_is_closed_and_its_seat_is_free() {
    let batch = Duration::from_millis(300);
    let stage = Stage::new(Times { batch, ..TIMES });
    let clients: Vec<_> = (0..20_000)
        .map(|number| format!("client-{number}-{}", "x".repeat(200)))
        .collect();
    stage.report_all(&clients, "+0+0", 1);
    let deaf = stage.open("lat=0&lon=0&radius=1");
    let end = Instant::now() + PATIENCE;
    while stage.taken.load(std::sync::atomic::Ordering::Relaxed) > 0 {
        assert!(Instant::now() < end, "it is kept");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(deaf);
    stage.stop();
}

#[test]
fn a_quiet_stream_has_comments() {
    let quiet = Duration::from_millis(50);
    let stage = Stage::new(Times { quiet, ..TIMES });
    let mut reader = stage.open("client=nobody").head();
    check(reader.short(), ["reset", "", "watch"]);
    check(reader.short(), ["settled", "", "watch"]);
    for _ in 0..3 {
        assert_eq!([reader.line(), reader.line()], [":\n", "\n"]);
    }
    stage.stop();
}

#[test]
fn a_query_that_is_wrong_and_one_too_many_are_refused() {
    let stage = Stage::new(TIMES);
    let seat = || Seat::take(&stage.taken);
    for (query, status, code) in [
        ("", 400, "SYNTAX"),
        ("lat=x&lon=1&radius=1", 400, "LOCATION"),
        ("name=a&client=b&name=a&client=c", 400, "NAME"),
    ] {
        assert_eq!(
            stage.refused(query, seat()),
            (status, code.into()),
            "{query}"
        );
        assert_eq!(stage.refused(query, None), (status, code.into()), "{query}");
    }
    assert_eq!(stage.refused("client=a", None), (503, "BUSY".into()));
    let many = |count: usize| {
        let watches = (0..count).map(|number| format!("name=w{number}&client=a"));
        watches.collect::<Vec<_>>().join("&")
    };
    assert_eq!(stage.refused(&many(65), seat()), (503, "BUSY".into()));
    let mut most = stage.open(&many(64)).head();
    check(most.short(), ["reset", "", "w0"]);
    stage.stop();
}
