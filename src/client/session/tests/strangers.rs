//! Clients that speak another protocol.

use super::*;

/// Checks what a client that sends `segments` is answered, and why its session ends.
#[track_caller]
fn check_end(segments: &[&[u8]], replies: &[u8], reason: EndReason) {
    let mut fixture = Fixture::new();
    let mut script = ScriptedStream::new(segments);
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    assert!(script.shut, "closed in order");
    assert_eq!(script.taken, replies, "{}", script.taken.escape_ascii());
    assert!(fixture.services.replica.is_empty());
    script.closes = true;
    assert_eq!(fixture.turn(&mut script), TurnResult::Ended(reason));
}

#[test]
fn nothing_in_an_http_request_is_executed() {
    let body = b"Host: herd\r\n\r\nIAMAT a +1+1 1\n";
    let requests: [(&[u8], &[u8]); 2] = [
        (b"POST / HTTP/1.1\r\n", b"? POST / HTTP/1.1\n"),
        (b"IAMAT a +1+1 1 HTTP/1.0\n", b"? IAMAT a +1+1 1 HTTP/1.0\n"),
    ];
    for (request, reply) in requests {
        check_end(&[&[request, &body[..]].concat()], reply, EndReason::Http);
        check_end(&[request, body], reply, EndReason::Http);
        let (first, second) = request.split_at(request.len() - 3);
        check_end(&[first, second, body], reply, EndReason::Http);
    }
}

#[test]
fn a_tls_handshake_is_closed_without_a_reply() {
    let hello = b"\x16\x03\x01\x02\x00\x01\nIAMAT a +1+1 1\n";
    check_end(&[hello], b"", EndReason::Tls);
    check_end(&[&hello[..1], &hello[1..]], b"", EndReason::Tls);
    check_end(&[&hello[..2], &hello[2..]], b"", EndReason::Tls);
}

#[test]
fn only_the_first_line_can_be_another_protocol() {
    check(
        &["x\nGET / HTTP/1.1\n\x16\x03\nIAMAT a +1+1 1\n"],
        true,
        "? x\n? GET / HTTP/1.1\n? \x16\x03\nAT\n",
        TurnResult::Ended(EndReason::Client),
    );
    let others = "GET / HTTP/1.1 \nGET / HTTP/2\n";
    check(
        &[others],
        true,
        "? GET / HTTP/1.1 \n? GET / HTTP/2\n",
        TurnResult::Ended(EndReason::Client),
    );
}
