//! Floods through servers that share their reports.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;

/// Each client's last report, shared by the servers of a test.
type Reports = Arc<Mutex<HashMap<String, String>>>;

/// A server of one connection; reports are seen by all servers that share `reports`.
fn serve(reports: &Reports, reply: fn(&str, &Reports) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let reports = Arc::clone(reports);
    // The thread ends with the client's connection.
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        for line in reader.lines() {
            let Ok(line) = line else { return };
            if stream.write_all(reply(&line, &reports).as_bytes()).is_err() {
                return;
            }
        }
    });
    address
}

fn right(line: &str, reports: &Reports) -> String {
    let mut reports = reports.lock().expect("reports");
    let (_, fields) = line.split_once(' ').expect("a command");
    let (client, _) = fields.split_once(' ').expect("a client");
    if line.starts_with("IAMAT ") {
        reports.insert(client.to_owned(), fields.to_owned());
        return format!("AT Ball +0.000000120 {fields}\n");
    }
    match reports.get(client) {
        Some(report) => format!("AT Ball +0.000000120 {report}\n{{}}\n\n"),
        None => format!("? {line}\n"),
    }
}

fn flood(
    to: [fn(&str, &Reports) -> String; 2],
    from: fn(&str, &Reports) -> String,
) -> Result<Vec<Row>, String> {
    let reports = Reports::default();
    let from = serve(&reports, from);
    let to = to.map(|reply| serve(&reports, reply));
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    measure(&from, &to, 20, Duration::MAX, &mut Progress::new())
}

#[test]
fn every_report_is_timed_at_every_server() {
    let rows = flood([right, right], right).expect("a flood");
    let counts: Vec<u64> = rows.iter().map(|row| row.delays.len()).collect();
    assert_eq!(counts, [20, 20, 40, 20]);
    assert!(rows[3].delays.max() >= rows[0].delays.max());
    assert!(rows[0].delays.min() > 1_000, "no loopback is faster");
    let text = text("here", 20, &rows);
    assert_eq!(text.lines().count(), 2 + 1 + 4, "{text}");
    assert_eq!(cells("here", 20, &rows[2])[1], ("to", "all".to_owned()));
}

#[test]
fn wrong_replies_make_it_void() {
    let refuses = |line: &str, _: &Reports| format!("? {line}\n");
    let error = flood([right, right], refuses).expect_err("no report taken");
    assert!(error.contains("a wrong reply to a report"), "{error}");
    let babbles = |_: &str, _: &Reports| "hello\n".to_owned();
    let error = flood([right, babbles], right).expect_err("a wrong reply");
    assert!(error.contains("a wrong reply: hello"), "{error}");
}

#[test]
fn times_grow_even_if_the_clock_does_not() {
    let mut previous = u128::MAX / 2;
    let first = next_time(&mut previous);
    let second = next_time(&mut previous);
    assert_ne!(first, second);
}
