//! The wiring of a server: what must run whatever its settings are.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;
use crate::config::HttpConfig;
use crate::http::Totals;
use crate::listener;
use crate::model::vector::Vector;
use crate::places::atlas::Atlas;

/// Starts a server without neighbors that keeps no journal.
fn start_in_memory() -> Server {
    let bind = || listener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let sockets = Sockets {
        clients: bind().into(),
        peers: bind().into(),
    };
    let config = Config {
        http: Some(HttpConfig {
            address: Address::parse_local("0").expect("an address"),
            is_optional: false,
            hosts: Vec::new(),
        }),
        ..Config::of_lone_server()
    };
    Server::start(&config, sockets, Places::Atlas(Atlas)).expect("a server")
}

#[test]
fn old_epochs_are_pruned_without_a_data_folder_too() {
    let server = start_in_memory();
    let mut marker = Vector::default();
    marker.advance(b"Welsh", 1, 7);
    marker.advance(b"Welsh", 2, 3);
    server.replica().advance(&marker);
    assert!(server.replica().vector().covers(b"Welsh", 1, 7));
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.replica().vector().covers(b"Welsh", 1, 7) {
        assert!(Instant::now() < deadline, "never pruned");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop();
}

/// The totals that the page of a server shows the differences of.
fn totals(server: &Server) -> Totals {
    server.http.as_ref().expect("an HTTP port").totals()
}

#[test]
fn totals_have_what_was_answered_between_two_looks() {
    let server = start_in_memory();
    let stream = TcpStream::connect(server.client_address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut replies = BufReader::new(&stream);
    let mut ask = |line: &str, end: &str| {
        (&stream).write_all(line.as_bytes()).unwrap();
        let mut reply = String::new();
        while !reply.ends_with(end) {
            assert!(replies.read_line(&mut reply).unwrap() > 0, "{reply}");
        }
    };
    ask("IAMAT kiwi +1+1 1\n", "\n");
    let before = totals(&server);
    // One newer, one that is not, one that is refused, a question, and one for an unknown client.
    ask("IAMAT kiwi +1+1 2\n", "\n");
    ask("IAMAT kiwi +1+1 2\n", "\n");
    ask("IAMAT kiwi +1+1 x\n", "\n");
    ask("WHATSAT kiwi 0 0\n", "\n\n");
    ask("WHATSAT moa 0 0\n", "\n");
    let after = totals(&server);
    assert_eq!(after.reports - before.reports, 2);
    assert_eq!(after.questions - before.questions, 1);
    // A turn ends after its replies have arrived.
    let turns = after.turn.since(&before.turn);
    assert!((4..=6).contains(&turns.count()), "{turns:?}");
    assert!(turns.quantile(0.5).is_some_and(|time| time < 20.0));
    assert_eq!(after.flood.since(&before.flood).quantile(0.5), None);
    server.stop();
}
