//! Viewers over sockets.

use super::*;
use crate::model::command::{Command, Report};
use crate::model::time::Timestamp;
use crossbeam_channel::RecvTimeoutError;
use parking_lot::Mutex;
use serde_json::{Value, json};
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Longest wait of a test for an event.
const PATIENCE: Duration = Duration::from_secs(20);

fn servers(names: &[&str]) -> Servers {
    let neighbors = |name: &&str| ((*name).to_owned(), vec!["\"next\"".to_owned()]);
    Servers {
        name: "Ball".to_owned(),
        release: "0.1.0".to_owned(),
        epoch: 7,
        servers: names.iter().map(neighbors).collect(),
    }
}

/// A publisher and what it shows.
struct Stage {
    replica: Arc<Replica>,
    servers: Arc<Mutex<Servers>>,
    herd: Arc<Mutex<Option<Herd>>>,
    publisher: Publisher,
}

impl Stage {
    fn new() -> Stage {
        Stage::with_beginnings(publisher::MAX_BEGINNINGS)
    }

    fn with_beginnings(max_beginnings: usize) -> Stage {
        let replica = Arc::new(Replica::new("Ball", 7, 100_000));
        let shown = Arc::new(Mutex::new(servers(&["Ball", "Welsh"])));
        let herd = Arc::new(Mutex::new(None));
        let sources = Sources {
            replica: Arc::clone(&replica),
            servers: Box::new({
                let shown = Arc::clone(&shown);
                move || shown.lock().clone()
            }),
            totals: Box::new({
                let replica = Arc::clone(&replica);
                move || Totals {
                    records: replica.len() as u64,
                    ..Totals::default()
                }
            }),
            herd: Box::new({
                let herd = Arc::clone(&herd);
                move || herd.lock().clone()
            }),
        };
        Stage {
            replica,
            servers: shown,
            herd,
            publisher: Publisher::start_with(sources, max_beginnings).unwrap(),
        }
    }

    fn report(&self, client: &str, location: &str, time: u64) {
        let line = format!("IAMAT {client} {location} {time}");
        let Ok(Command::Iamat(report)) = Command::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        self.report_all(&[report]);
    }

    fn report_all(&self, reports: &[Report<'_>]) {
        let now = Timestamp::from_nanos(1_000_000_000_000_000);
        self.replica.report(reports, now, &mut Vec::new());
    }

    /// Opens a connection for a page. The channel closes when its seat is free.
    fn open(&self) -> (TcpStream, Receiver<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let page = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        page.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stream, _) = listener.accept().unwrap();
        // Otherwise the kernel takes megabytes for a page that does not read.
        let buffers = SockRef::from(&stream);
        buffers.set_send_buffer_size(64 << 10).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (seat, gone) = crossbeam_channel::bounded::<()>(0);
        let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        self.publisher
            .entrance()
            .enter(stream, head, Box::new(seat));
        (page, gone)
    }
}

/// A page: reads events and keeps the locations of the clients.
struct Page {
    stream: BufReader<TcpStream>,
    /// Latitude by client.
    clients: BTreeMap<String, f64>,
}

impl Page {
    fn new(stream: TcpStream) -> Page {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        stream.read_line(&mut head).unwrap();
        stream.read_line(&mut head).unwrap();
        assert_eq!(head, "HTTP/1.1 200 OK\r\n\r\n");
        Page {
            stream,
            clients: BTreeMap::new(),
        }
    }

    /// Reads the next event; `None` at the end.
    fn event(&mut self) -> Option<(String, Value)> {
        let mut line = || {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            line
        };
        let name = line();
        let name = name.strip_prefix("event: ")?.trim_end().to_owned();
        let data = line();
        let data = data.strip_prefix("data: ").unwrap();
        let data = serde_json::from_str(data).unwrap();
        assert_eq!(line(), "\n");
        if name == "frame" {
            self.apply(&data);
        }
        Some((name, data))
    }

    fn apply(&mut self, frame: &Value) {
        if frame["reset"] == true {
            self.clients.clear();
        }
        for client in frame["clients"].as_array().into_iter().flatten() {
            let id = client["client"].as_str().unwrap().to_owned();
            self.clients.insert(id, client["lat"].as_f64().unwrap());
        }
    }

    /// Returns the next event of that name.
    fn next(&mut self, name: &str) -> Value {
        loop {
            let (got, data) = self.event().unwrap();
            if got == name {
                return data;
            }
        }
    }

    /// Reads until the page has these clients, and no others.
    fn read_until(&mut self, clients: &BTreeMap<String, f64>) {
        let end = Instant::now() + PATIENCE;
        while self.clients != *clients {
            assert!(Instant::now() < end, "{:?}", self.clients);
            self.event().unwrap();
        }
    }
}

fn clients(clients: &[(&str, f64)]) -> BTreeMap<String, f64> {
    clients
        .iter()
        .map(|&(client, latitude)| (client.to_owned(), latitude))
        .collect()
}

#[test]
fn a_newcomer_gets_all_and_from_then_on_the_changes() {
    let stage = Stage::new();
    stage.report("a", "+1+1", 1);
    *stage.herd.lock() = Some((1, r#"{"version":1}"#.into()));
    let mut first = Page::new(stage.open().0);
    let (name, hello) = first.event().unwrap();
    assert_eq!(name, "hello");
    let expected = json!({
        "version": 1, "server": "Ball", "release": "0.1.0", "epoch": 7, "history": [],
        "servers": [
            {"name": "Ball", "neighbors": ["\"next\""]},
            {"name": "Welsh", "neighbors": ["\"next\""]},
        ],
    });
    assert_eq!(hello, expected);
    let (name, frame) = first.event().unwrap();
    assert_eq!((name.as_str(), &frame["reset"]), ("frame", &json!(true)));
    assert_eq!(first.clients, clients(&[("a", 1.0)]));
    assert_eq!(
        first.event(),
        Some(("herd".to_owned(), json!({"version": 1})))
    );
    stage.report("b", "+2+1", 1);
    let frame = first.next("frame");
    assert_eq!(frame["reports"], json!({"Ball": 1}));
    assert_eq!(
        (&frame["reset"], &frame["records"]),
        (&Value::Null, &json!(2))
    );
    assert_eq!(first.clients, clients(&[("a", 1.0), ("b", 2.0)]));
    assert_eq!(first.next("figures")["records"], 2);
    // One that comes later has the same, and the seconds that have passed.
    let mut second = Page::new(stage.open().0);
    let hello = second.next("hello");
    assert!(!hello["history"].as_array().unwrap().is_empty());
    assert_eq!(second.next("frame")["reset"], true);
    assert_eq!(second.clients, first.clients);
    stage.report("a", "+3+1", 2);
    for page in [&mut first, &mut second] {
        let frame = page.next("frame");
        assert_eq!(frame["clients"].as_array().unwrap().len(), 1);
        assert_eq!(page.clients, clients(&[("a", 3.0), ("b", 2.0)]));
    }
    // A survey is sent once.
    *stage.herd.lock() = Some((2, r#"{"version":2}"#.into()));
    for page in [&mut first, &mut second] {
        while page.next("herd") == json!({"version": 1}) {}
    }
    *stage.servers.lock() = servers(&["Ball"]);
    for page in [&mut first, &mut second] {
        let hello = page.next("hello");
        assert_eq!(hello["servers"].as_array().unwrap().len(), 1);
        assert_eq!(hello.get("history"), None);
    }
    stage.publisher.stop();
}

#[test]
fn pages_opened_in_the_middle_miss_nothing() {
    let stage = Stage::new();
    let mut expected = BTreeMap::new();
    let mut pages = Vec::new();
    for round in 1..=60 {
        for number in 0..20 {
            let client = format!("client-{}", (round * 7 + number) % 50);
            let latitude = f64::from(round);
            stage.report(&client, &format!("+{round}+1"), u64::from(round as u16));
            expected.insert(client, latitude);
        }
        if round % 12 == 0 {
            pages.push(Page::new(stage.open().0));
        }
        // Reports go on while the pages are read.
        if let Some(page) = pages.last_mut()
            && round % 6 == 0
        {
            page.event().unwrap();
        }
    }
    for page in &mut pages {
        page.read_until(&expected);
    }
    stage.publisher.stop();
}

#[test]
fn a_viewer_that_does_not_read_is_closed_and_the_others_get_everything() {
    let stage = Stage::new();
    let (stuck, gone) = stage.open();
    let mut page = Page::new(stage.open().0);
    let ids: Vec<String> = (0..5_000).map(|number| format!("{number:0>255}")).collect();
    // Of each frame a megabyte and more, until the kernel takes no more and the queue is full, or the
    // time is over.
    let mut round = 0;
    let end = Instant::now() + PATIENCE;
    while gone.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Timeout) {
        assert!(Instant::now() < end, "the viewer is still there");
        round += 1;
        let location = format!("+{}+1", round % 90);
        for group in ids.chunks(100) {
            let report = |id: &String| {
                let line = format!("IAMAT {id} {location} {round}");
                line.into_bytes()
            };
            let lines: Vec<Vec<u8>> = group.iter().map(report).collect();
            let reports: Vec<Report<'_>> = lines
                .iter()
                .map(|line| match Command::parse(line) {
                    Ok(Command::Iamat(report)) => report,
                    other => panic!("{other:?}"),
                })
                .collect();
            stage.report_all(&reports);
        }
        page.next("frame");
    }
    let expected = ids
        .into_iter()
        .map(|id| (id, f64::from(round % 90)))
        .collect();
    page.read_until(&expected);
    drop(stuck);
    stage.publisher.stop();
}

#[test]
fn a_page_that_is_closed_frees_its_seat() {
    let stage = Stage::new();
    let (page, gone) = stage.open();
    let (mut other, other_gone) = stage.open();
    drop(page);
    let freed = gone.recv_timeout(PATIENCE);
    assert_eq!(freed, Err(RecvTimeoutError::Disconnected));
    assert!(!matches!(
        other_gone.try_recv(),
        Err(crossbeam_channel::TryRecvError::Disconnected)
    ));
    let entrance = stage.publisher.entrance();
    stage.publisher.stop();
    let freed = other_gone.recv_timeout(PATIENCE);
    assert_eq!(freed, Err(RecvTimeoutError::Disconnected));
    other.read_to_end(&mut Vec::new()).unwrap();
    // Nobody is let in any more.
    let (late, _other_end) = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let late = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (late, listener.accept().unwrap())
    };
    let (seat, gone) = crossbeam_channel::bounded::<()>(0);
    entrance.enter(late, Vec::new(), Box::new(seat));
    let freed = gone.recv_timeout(PATIENCE);
    assert_eq!(freed, Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_newcomer_waits_while_the_beginnings_of_others_are_not_taken() {
    let stage = Stage::with_beginnings(64 << 10);
    for number in 0..5_000 {
        stage.report(&format!("{number:0>255}"), "+1+1", 1);
    }
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    const HELLO: &[u8] = b"event: hello\n";
    let open = || {
        let (mut page, gone) = stage.open();
        let mut head = [0; HEAD.len()];
        page.read_exact(&mut head).unwrap();
        assert_eq!(head, HEAD);
        (page, gone)
    };
    let mut hello = [0; HELLO.len()];
    let mut stuck = open();
    stuck.0.read_exact(&mut hello).unwrap();
    let mut waiting = open();
    // Many times the interval at which newcomers are let in.
    let limit = Duration::from_secs(3);
    waiting.0.set_read_timeout(Some(limit)).unwrap();
    let waited = waiting.0.read(&mut hello);
    assert!(waited.is_err(), "{waited:?}");
    waiting.0.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(stuck);
    waiting.0.read_exact(&mut hello).unwrap();
    assert_eq!(hello, HELLO);
    drop(waiting);
    stage.publisher.stop();
}
