//! `/v1` of real processes: where clients are, over HTTP.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::fleet::Fleet;
use crate::support::http::{self, get, try_send};
use crate::support::process::wait_until;
use crate::support::report;

/// Asserts the status and the code of an answer, and returns its words.
#[track_caller]
fn refused(address: SocketAddr, path: &str, status: u16, code: &str) -> String {
    let answer = get(address, path);
    let json = answer.json();
    assert_eq!(
        (answer.status, &json["error"]["code"]),
        (status, &json!(code)),
        "{path}: {json}"
    );
    assert_eq!(answer.field("Content-Type"), Some("application/json"));
    assert_eq!(answer.field("Cache-Control"), Some("no-store"));
    json["error"]["text"].as_str().unwrap().to_owned()
}

/// The events of a stream, as they come.
struct Events(BufReader<TcpStream>);

impl Events {
    #[track_caller]
    fn open(address: SocketAddr, path: &str) -> Events {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Events(reader)
    }

    /// The name and the data of the next event.
    #[track_caller]
    fn next(&mut self) -> (String, Value) {
        let mut text = String::new();
        while !text.ends_with("\n\n") {
            assert!(self.0.read_line(&mut text).unwrap() > 0, "{text}");
            // A comment, while nothing happens.
            if text == ":\n\n" {
                text.clear();
            }
        }
        let (event, data) = text.split_once("\ndata: ").unwrap();
        let event = event.strip_prefix("event: ").unwrap().to_owned();
        (event, serde_json::from_str(data).unwrap())
    }
}

#[test]
fn a_herd_answers_where_clients_are() {
    let mut fleet = Fleet::pair("v1", &["--http", "0"]);
    fleet.start_all();
    let address = http::address(fleet.ready_line(0));
    let other = http::address(fleet.ready_line(1));
    let mut client = fleet.client(0);
    client.ask(&report("kiwi/\u{e9}%", "+34.068930-118.445127"));
    client.ask(&report("moa", "+34.1-118.4"));
    let path = "/v1/clients/kiwi%2F%C3%A9%25";
    wait_until("the other server knows them", || {
        get(other, path).status == 200 && get(other, "/v1/clients/moa").status == 200
    });
    for address in [address, other] {
        let answer = get(address, path);
        assert_eq!(answer.field("Cache-Control"), Some("no-store"));
        assert_eq!(answer.field("Access-Control-Allow-Origin"), None);
        let kiwi = answer.json();
        assert_eq!(kiwi["client"], "kiwi/\u{e9}%");
        assert_eq!(
            (&kiwi["lat"], &kiwi["lon"]),
            (&json!(34.06893), &json!(-118.445127))
        );
        assert_eq!(kiwi["server"], fleet.name(0));
        for time in ["time", "received"] {
            let text = kiwi[time].as_str().unwrap();
            assert_eq!(text.len(), "2016-11-17T20:18:04.392014450Z".len(), "{text}");
        }
        let near = get(
            address,
            "/v1/nearby?lat=34.068930&lon=-118.445127&radius=10",
        )
        .json();
        assert_eq!(near["clients"][0]["km"], 0.0);
        assert_eq!(near["clients"][1]["client"], "moa");
        assert_eq!(near["more"], false);
        let around = get(address, "/v1/nearby?client=moa&radius=10&limit=1").json();
        assert_eq!(around["clients"][0]["client"], "kiwi/\u{e9}%");
        assert_eq!(around["more"], false);
        let within = get(
            address,
            "/v1/within?south=34&west=-119&north=35&east=-118&limit=1",
        );
        let within = within.json();
        assert_eq!(within["clients"].as_array().unwrap().len(), 1);
        assert_eq!(within["more"], true);
    }
    for (path, status, code) in [
        ("/v1/clients/nobody", 404, "UNKNOWN"),
        ("/v1/nearby?client=nobody&radius=1", 404, "UNKNOWN"),
        ("/v1/clients/%f", 400, "CLIENT"),
        ("/v1/clients/a?b=c", 400, "SYNTAX"),
        ("/v1/nearby?lat=1e5&lon=0&radius=1", 400, "LOCATION"),
        ("/v1/nearby?lat=0&lon=NaN&radius=1", 400, "LOCATION"),
        ("/v1/nearby?lat=0&lon=0&radius=inf", 400, "RADIUS"),
        (
            "/v1/nearby?lat=0&lon=0&radius=1&limit=99999999999999999999",
            400,
            "BOUND",
        ),
        ("/v1/within?south=1&west=0&north=0&east=0", 400, "LOCATION"),
        ("/v1/watch", 400, "SYNTAX"),
        ("/v1/watch?client=a&name=", 400, "NAME"),
        ("/v1/nothing", 404, "SYNTAX"),
    ] {
        refused(address, path, status, code);
    }
    let words = refused(
        address,
        "/v1/nearby?lat=0&lat=0&lon=0&radius=1",
        400,
        "SYNTAX",
    );
    assert!(
        words.starts_with("lat is given twice; ask /v1/nearby?"),
        "{words}"
    );
    // HEAD has the head alone, of a stream as well.
    for (path, status) in [
        (path, 200),
        ("/v1/clients/nobody", 404),
        ("/v1/watch?client=a", 200),
        ("/v1/watch", 400),
    ] {
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let answer = try_send(address, &head).unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{path}");
    }
    let post = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    assert_eq!(try_send(address, &post).unwrap().status, 405);
}

#[test]
fn a_watch_over_http_tells_what_any_server_learns_and_what_is_forgotten() {
    let mut fleet = Fleet::pair("v1-watch", &["--http", "0"]);
    fleet.start_all();
    let address = http::address(fleet.ready_line(0));
    let mut client = fleet.client(1);
    let mut events = Events::open(address, "/v1/watch?lat=10&lon=20&radius=50&name=home");
    assert_eq!(
        events.next(),
        ("reset".to_owned(), json!({ "watch": "home" }))
    );
    let settled = json!({ "watch": "home", "clients": 0 });
    assert_eq!(events.next(), ("settled".to_owned(), settled));
    for (location, expected) in [
        ("+10+20", "enter"),
        ("+10.1+20", "move"),
        ("+20+20", "leave"),
        ("+10+20", "enter"),
    ] {
        assert!(client.ask(&report("kiwi", location)).starts_with("AT "));
        let (event, data) = events.next();
        assert_eq!(event, expected);
        assert_eq!(
            (&data["client"], &data["watch"]),
            (&json!("kiwi"), &json!("home"))
        );
        assert_eq!(data["server"], fleet.name(1));
    }
    let mut second = fleet.client(1);
    assert!(second.ask("HELLO 2").starts_with("HELLO 2 "));
    assert!(second.ask("FORGET kiwi").starts_with("FORGOT "));
    let gone = json!({ "client": "kiwi", "watch": "home" });
    assert_eq!(events.next(), ("gone".to_owned(), gone));
    refused(address, "/v1/clients/kiwi", 404, "UNKNOWN");
    // Streams have seats of their own: sixteen, beside those of the pages.
    let mut others: Vec<_> = (1..16)
        .map(|_| Events::open(address, "/v1/watch?client=moa"))
        .collect();
    refused(address, "/v1/watch?client=moa", 503, "BUSY");
    let _page = Events::open(address, "/events");
    others.pop();
    wait_until("a seat is free", || {
        let head = format!("GET /v1/watch?client=moa HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.starts_with("HTTP/1.1 200 ")
    });
}
