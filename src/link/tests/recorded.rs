//! A recorded link with a server of before: the lines that a program of link version 1 sent and was
//! sent, word for word, when it was the newest. Today's server links with it and tells it nothing
//! that it would not know.

use super::*;
use crate::link::audit::PeerDigests;
use crate::link::framing::{Reader, Writer};
use crate::link::handshake::accept::Acceptor;
use crate::link::noise::{Initiator, Message};

/// Lines of a program of version 1 that dials: its identification, its side of the connection, and the
/// answers that it takes.
const RECORDED: &str = include_str!("recorded_version_1.lines");

#[test]
fn a_recorded_link_of_version_1_is_understood() {
    let (keys, clock) = (KeyFile::generate().unwrap(), Clock::new());
    let [hello, sent, taken] = RECORDED
        .split("---\n")
        .collect::<Vec<_>>()
        .try_into()
        .expect("three parts");
    // Only the herd's id is not in the recording: it goes with the key.
    let hello = hello.replace("HERD", &keys.herd().to_hex());
    let mut acceptor = Acceptor::default();
    let mut out = Vec::new();
    let (initiator, message) = Initiator::start(keys.dialed()).unwrap();
    let first = [&48_u16.to_be_bytes()[..], &message].concat();
    assert!(acceptor.take(&first, &keys, &mut out).unwrap().is_none());
    let answer = Message::try_from(&out[2..]).unwrap();
    let ciphers = initiator.finish(&answer).unwrap();
    let (mut reader, mut writer) = (Reader::new(ciphers.clone()), Writer::new(ciphers));
    let mut bytes = Vec::new();
    writer.write(&mut bytes, hello.as_bytes()).unwrap();
    let claim = acceptor.take(&bytes, &keys, &mut Vec::new()).unwrap();
    let own = Hello::new(keys.herd(), "Welsh", FIRST_EPOCH, clock.wall())
        .forgetting_after(Some(Duration::from_secs(86_400)));
    let mut answer = Vec::new();
    let peer = claim.unwrap().judge(&own, |_| true, &mut answer).unwrap();
    assert_eq!((peer.version, peer.hello.forget_after), (1, None));

    let mut server = Server::new("Welsh", FIRST_EPOCH, settings(&keys));
    server.add_link("Ball", clock.now());
    let neighbor = Arc::clone(&server.links["Ball"].neighbor);
    let [near, far] = Pipe::pair();
    let outgoing = Outgoing {
        writer: peer.writer,
        pipe: far,
        clock: clock.clone(),
    };
    let back = Arc::new(BackChannel::new(outgoing, peer.version));
    let (digests, received) = PeerDigests::new();
    let mut connection = Connection::start(
        Arc::clone(&neighbor),
        (peer.hello.epoch, peer.hello.forget_after),
        Arc::clone(&server.replica),
        (digests, Arc::default()),
        Arc::clone(&back),
        || clock.now(),
    )
    .unwrap();
    let end = connection.apply(sent.as_bytes(), clock.now(), clock.wall());
    assert!(matches!(end, Err(ref end) if end.reason() == "stopping"));
    assert!(server.replica.vector().covers(b"Ball", 7, 2));
    assert_eq!(server.replica.len(), 2);
    assert_eq!(received.try_iter().count(), 1, "a digest is compared");

    // The answers, in the words of version 1.
    let mut lines = String::new();
    let mut read = |reader: &mut Reader| {
        while let Some(line) = reader.take_line().unwrap() {
            lines += &format!("{}\n", String::from_utf8_lossy(line));
        }
    };
    reader.fill(&*answer).unwrap();
    read(&mut reader);
    while reader.fill(&near).is_ok() {
        read(&mut reader);
    }
    // A program of version 1 reads its own name last and no further.
    let taken = taken.replace("HERD", &keys.herd().to_hex());
    assert_eq!(lines, taken);
    let (own, _) = lines.split_once(" Ball").unwrap();
    assert!(own.starts_with("HELLO 1 3 "), "{own}");
    assert!(neighbor.facts(clock.now()).is_old);
}

fn settings(keys: &KeyFile) -> Settings {
    Settings {
        keys: keys.clone(),
        herd: keys.herd(),
        versions: None,
        queue: 100,
    }
}
