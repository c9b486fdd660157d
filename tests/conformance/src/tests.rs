//! Transcripts against scripted servers: correct servers pass, incorrect ones fail.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::*;

/// Runs a transcript against a server that answers one connection: it reads `wanted` bytes, sends
/// each of `replies` in a write of its own, reads to the end and closes.
fn run(transcript: &str, wanted: usize, replies: &[&str]) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let replies: Vec<String> = replies.iter().map(|&reply| reply.to_owned()).collect();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_nodelay(true).expect("an option");
        stream
            .read_exact(&mut vec![0; wanted])
            .expect("what the transcript sends");
        for reply in replies {
            // The transcript may have failed by now, and closed.
            let _ = stream.write_all(reply.as_bytes());
            thread::yield_now();
        }
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let result = Transcript::parse("transcript.txt", transcript)
        .expect(transcript)
        .run(&address);
    server.join().expect("the server's thread");
    result
}

#[track_caller]
fn check(transcript: &str, wanted: usize, replies: &[&str], expected: Result<(), &[&str]>) {
    match (run(transcript, wanted, replies), expected) {
        (Ok(()), Ok(())) => {}
        (Err(got), Err(parts)) => {
            for part in parts {
                assert!(got.contains(part), "{transcript}: {got}\nlacks {part}");
            }
        }
        (got, expected) => panic!("{transcript}: {got:?}, expected {expected:?}"),
    }
}

#[test]
fn right_replies_pass() {
    check("a refuses x", 2, &["? x\n"], Ok(()));
    check(
        "a > 1\na > 2\na < ? 1\na < ? 2",
        4,
        &["? 1\n? ", "2\n"],
        Ok(()),
    );
    check("a > x\na finish\na < ? x\na end", 2, &["? x\n"], Ok(()));
    check(r"a split 1 xyz\n", 4, &[], Ok(()));
    check("a > x\na once\na < ? x", 2, &["? x\n"], Ok(()));
    check("a silent 1", 0, &[], Ok(()));
    check(
        "a takes c +1+1 1",
        15,
        &["AT Ball +5.000000000 c +1+1 1\n"],
        Ok(()),
    );
    check(
        "a > x\na places 0 ZERO_RESULTS",
        2,
        &["{\"html_attributions\":[],\"results\":[],\"status\":\"ZERO_RESULTS\"}\n\n"],
        Ok(()),
    );
}

#[test]
fn a_wrong_reply_fails_with_its_place() {
    check(
        "# wrong\na > x\na < ? x",
        2,
        &["? \x01y\n"],
        Err(&[
            "transcript.txt:3: a:",
            r"expected  ? x\n",
            r"got       ? \x01y\n",
        ]),
    );
}

#[test]
fn too_much_fails() {
    check(
        "a refuses x",
        2,
        &["? x\n", "\n"],
        Err(&["after the last step", r"\n"]),
    );
    check(
        "a silent 1000",
        0,
        &["hello\n"],
        Err(&["silence", r"hello\n"]),
    );
    check(
        "a > x\na finish\na end",
        2,
        &["? x\n"],
        Err(&["the end of the stream", r"? x\n"]),
    );
    let json = "{\"html_attributions\":[],\"results\":[],\"status\":\"ZERO_RESULTS\"}";
    let three = format!("{json}\n\n\n");
    check(
        "a > x\na places 0",
        2,
        &[&three],
        Err(&["after the last step"]),
    );
    let torn = json.replace(',', ",\n\n") + "\n\n";
    check("a > x\na places 0", 2, &[&torn], Err(&["no JSON"]));
}

#[test]
fn a_reply_that_needs_two_reads_is_not_once() {
    // It is up to the kernel if the two writes come with one read, unless the second waits
    // for the client's end, which comes only after the step has failed.
    check(
        "a > x\na once\na < ? x\na < y",
        2,
        &["? x\n"],
        Err(&["more than one read"]),
    );
}

#[test]
fn an_early_end_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || drop(listener.accept().expect("a client")));
    let transcript = Transcript::parse("transcript.txt", "a < hello").expect("a transcript");
    let error = transcript.run(&address).expect_err("no reply");
    assert!(error.contains("(the end of the stream)"), "{error}");
    server.join().expect("the server's thread");
}

#[test]
fn a_reset_is_no_orderly_end() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    // To close over unread input is to reset.
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.read_exact(&mut [0; 1]).expect("a byte");
    });
    let transcript = Transcript::parse("transcript.txt", "a > hello\na end").expect("a transcript");
    let error = transcript.run(&address).expect_err("a reset");
    assert!(error.contains("no orderly end"), "{error}");
    server.join().expect("the server's thread");
}

#[test]
fn a_missing_server_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let transcript = Transcript::parse("transcript.txt", "a > x").expect("a transcript");
    let error = transcript.run(&address).expect_err("no server listens");
    assert!(
        error.contains("transcript.txt:1: a: can't connect to"),
        "{error}"
    );
}

#[test]
fn a_broken_transcript_names_file_and_line() {
    let error = Transcript::parse("transcript.txt", "a > x\na says").expect_err("no step");
    assert_eq!(error, "transcript.txt:2: no such step: `says`");
}

#[test]
fn two_runs_differ_in_their_unique() {
    assert_ne!(Run::new("").values.unique, Run::new("").values.unique);
    assert_eq!(Run::new("").values.unique.len(), 16);
}

#[test]
fn the_committed_transcripts_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    transcripts(&folder, &[Extra::Slow, Extra::Dialect2]).expect("transcripts");
}
