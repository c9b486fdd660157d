//! Authenticates and identifies a peer before any record is accepted.
//!
//! First both sides prove that they hold a key of the herd ([`noise`](super::noise)); a dialer that does
//! not is sent nothing. Then, encrypted, the dialer sends `HELLO`, the other side answers with
//! its own `HELLO`, or with `BYE` and the reason. Both check the other's, so a refusal is known,
//! with its reason, at both ends.
//!
//! The dialer's side is here, [`accept`](mod@accept) has the other.

pub(super) mod accept;
mod error;
mod hello;

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::framing::{Reader, Stream, Writer, read};
use super::noise::{Initiator, MESSAGE_BYTES, Message};
use crate::config::keys::KeyFile;
pub use accept::accept;
pub use error::HandshakeError;
use error::no_cipher;
pub(super) use error::{failed, is_skew};
pub use hello::Hello;
pub(super) use hello::{OBSERVER, parse_age, seconds, skew};

/// Lowest and highest version of the link protocol that this server speaks.
const VERSIONS: (u64, u64) = (1, 3);

/// Version from which on a `PONG` carries the clock, and there is `TWIN`.
pub(super) const CLOCK_VERSION: u64 = 2;

/// Version from which on a `HELLO` carries the age at which records are forgotten, and there are
/// `FORGET-AFTER` and `TOMBSTONE`.
pub(super) const FORGET_VERSION: u64 = 3;

/// Maximum time for a handshake at the accepting side.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time for a handshake at the dialer: two round trips of 2 s, and time to compute.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum difference between two servers' clocks.
pub(super) const MAX_SKEW: Duration = Duration::from_secs(60);

/// A connection after its handshake.
#[derive(Debug)]
pub struct Peer {
    /// The other side's description of itself.
    pub hello: Hello,
    /// Version of the link protocol that both sides speak.
    pub version: u64,
    /// Age at which this server forgets records, as the other side was told it.
    pub told: Option<Duration>,
    /// The receiving half.
    pub reader: Reader,
    /// The sending half.
    pub writer: Writer,
}

/// A dialer's first message, made before the connection: a server that strangers flood gives each
/// connection only milliseconds to prove itself.
#[derive(Debug)]
pub struct Opening {
    initiator: Initiator,
    message: Message,
}

impl Opening {
    /// Makes the message.
    pub fn new(keys: &KeyFile) -> Result<Opening, HandshakeError> {
        let (initiator, message) = Initiator::start(keys.dialed()).map_err(no_cipher)?;
        Ok(Opening { initiator, message })
    }
}

/// The dialer's side: proves the key, identifies itself, and takes the neighbor's answer, all of it
/// before `deadline`.
pub fn dial(
    stream: impl Stream,
    keys: &KeyFile,
    own: &Hello,
    neighbor: &str,
    deadline: Instant,
) -> Result<Peer, HandshakeError> {
    dial_with(Opening::new(keys)?, stream, own, neighbor, deadline)
}

/// [`dial`] with a message that was made before the connection.
pub fn dial_with(
    Opening { initiator, message }: Opening,
    stream: impl Stream,
    own: &Hello,
    neighbor: &str,
    deadline: Instant,
) -> Result<Peer, HandshakeError> {
    send_message(stream, &message)?;
    let answer = receive_message(stream, deadline).map_err(|error| match error {
        HandshakeError::Closed => HandshakeError::KeyRefused,
        error => error,
    })?;
    let ciphers = initiator
        .finish(&answer)
        .map_err(|_| HandshakeError::WrongKey)?;
    let mut reader = Reader::new(ciphers.clone());
    let mut writer = Writer::new(ciphers);
    writer
        .write(stream, own.to_line(neighbor).as_bytes())
        .map_err(failed)?;
    let line = reader.read_line(stream, deadline).map_err(failed)?;
    let judged = Hello::parse(&line).and_then(|(hello, to)| {
        hello.check(&to, own)?;
        if hello.name != neighbor {
            return Err(HandshakeError::WrongName(hello.name));
        }
        Ok(hello)
    });
    match judged {
        Ok(hello) => Ok(Peer {
            version: hello.common_version(own),
            told: own.forget_after,
            hello,
            reader,
            writer,
        }),
        Err(HandshakeError::Refused(reason)) => Err(HandshakeError::Refused(reason)),
        Err(reason) => {
            // The other side has agreed and should know why nothing comes. If it is gone, the
            // reason counts all the same.
            let _ = writer.write(stream, format!("BYE {reason}\n").as_bytes());
            Err(reason)
        }
    }
}

/// Sends a message of the key's proof, framed like everything else.
fn send_message(mut stream: impl Stream, message: &Message) -> Result<(), HandshakeError> {
    let mut frame = [0; 2 + MESSAGE_BYTES];
    frame[1] = MESSAGE_BYTES as u8;
    frame[2..].copy_from_slice(message);
    stream.write_all(&frame).map_err(failed)
}

/// Receives such a message. A peer that announces any other size is not listened to.
fn receive_message(stream: impl Stream, deadline: Instant) -> Result<Message, HandshakeError> {
    let mut length = [0; 2];
    receive(stream, &mut length, deadline).map_err(failed)?;
    if usize::from(u16::from_be_bytes(length)) != MESSAGE_BYTES {
        return Err(HandshakeError::WrongKey);
    }
    let mut message = [0; MESSAGE_BYTES];
    receive(stream, &mut message, deadline).map_err(failed)?;
    Ok(message)
}

fn receive(stream: impl Stream, mut part: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !part.is_empty() {
        stream.wait_until(deadline)?;
        match read(stream, part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            bytes => part = &mut part[bytes..],
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    const NOW: Timestamp = Timestamp::from_nanos(1_479_413_884_000_000_000);

    /// One side of a handshake.
    #[derive(Clone)]
    struct Side {
        keys: KeyFile,
        hello: Hello,
    }

    fn side(keys: &KeyFile, name: &str) -> Side {
        Side {
            keys: keys.clone(),
            hello: Hello::new(keys.herd(), name, 7, NOW),
        }
    }

    /// Runs `dialer` against a server that accepts. Returns both outcomes.
    fn meet<T>(dialer: impl FnOnce(TcpStream) -> T, acceptor: Side) -> (T, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let knows = |name: &str| name == "Ball";
            let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
            let own = || acceptor.hello;
            shown(accept(&stream, &acceptor.keys, own, knows, deadline))
        });
        let dialed = dialer(TcpStream::connect(address).unwrap());
        (dialed, accepting.join().unwrap())
    }

    fn shown(result: Result<Peer, HandshakeError>) -> String {
        match result {
            Ok(peer) => format!("ok {}", peer.hello.name),
            Err(error) => error.to_string(),
        }
    }

    /// Checks the outcomes of a handshake in which `Ball` dials `Welsh`.
    #[track_caller]
    fn check(dialer: Side, acceptor: Side, expected: [&str; 2]) {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let dial = |stream: TcpStream| {
            shown(dial(
                &stream,
                &dialer.keys,
                &dialer.hello,
                "Welsh",
                deadline,
            ))
        };
        let (dialed, accepted) = meet(dial, acceptor);
        assert_eq!([dialed, accepted], expected);
    }

    #[test]
    fn both_ends_know_the_outcome_and_its_reason() {
        let keys = KeyFile::generate().unwrap();
        let hello = |name: &str| side(&keys, name);
        let refuse = |dialer: Side, acceptor: Side, reason: &str| {
            check(dialer, acceptor, [&format!("refused: {reason}"), reason]);
        };
        check(hello("Ball"), hello("Welsh"), ["ok Welsh", "ok Ball"]);
        let stranger = "servers.txt here names no neighbor Alford";
        refuse(hello("Alford"), hello("Welsh"), stranger);
        let mistaken = "it looks for Welsh at the address of Holiday";
        refuse(hello("Ball"), hello("Holiday"), mistaken);
        let mut newer = hello("Ball");
        newer.hello.versions = (4, 5);
        let version = "it speaks link versions 4 to 5, this server 1 to 3";
        refuse(newer, hello("Welsh"), version);
        let mut skewed = hello("Ball");
        skewed.hello.clock = Timestamp::from_nanos(NOW.as_nanos() + 3_600_000_000_000);
        let skew = "its clock differs by +3600 s, more than 60 s";
        refuse(skewed, hello("Welsh"), skew);
        let mut foreign = hello("Ball");
        foreign.hello.herd = KeyFile::generate().unwrap().herd();
        let another = "it has the key, but its key file names another herd";
        refuse(foreign, hello("Welsh"), another);
    }

    #[test]
    fn the_second_key_is_accepted_too_and_another_is_not() {
        let old = KeyFile::generate().unwrap();
        let both = old.rotated().unwrap();
        let new = both.rotated().unwrap();
        let done = new.rotated().unwrap();
        let good = ["ok Welsh", "ok Ball"];
        for (dialer, acceptor) in [
            (&old, &both),
            (&both, &old),
            (&both, &new),
            (&new, &both),
            (&new, &done),
            (&done, &new),
        ] {
            check(side(dialer, "Ball"), side(acceptor, "Welsh"), good);
        }
        let foreign = KeyFile::generate().unwrap();
        let bad = [
            "it closed during the handshake: it probably has another key, or no handshake slot free",
            "wrong key or not a peer",
        ];
        for (dialer, acceptor) in [(&old, &done), (&done, &old), (&foreign, &both)] {
            check(side(dialer, "Ball"), side(acceptor, "Welsh"), bad);
        }
    }

    /// Checks the outcome of a handshake with a stranger that sends `bytes`, and then nothing or the
    /// end; the stranger must be sent nothing.
    #[track_caller]
    fn check_stranger(bytes: &[u8], closes: bool, expected: &str) {
        let stranger = |mut stream: TcpStream| {
            stream.write_all(bytes).unwrap();
            if closes {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let mut received = Vec::new();
            // A server that closes before it has read all resets the connection.
            let _ = stream.read_to_end(&mut received);
            received
        };
        let keys = KeyFile::generate().unwrap();
        let (received, outcome) = meet(stranger, side(&keys, "Welsh"));
        assert_eq!((received.len(), &*outcome), (0, expected));
    }

    #[test]
    fn strangers_are_sent_nothing() {
        let wrong = "wrong key or not a peer";
        check_stranger(b"", true, "it closed during the handshake");
        check_stranger(b"\x00", true, "it closed during the handshake");
        check_stranger(b"", false, "the handshake took longer than 2 s");
        check_stranger(
            b"\x00\x30begun",
            false,
            "the handshake took longer than 2 s",
        );
        check_stranger(b"GET / HTTP/1.1\r\n\r\n", false, wrong);
        // A server of before links were encrypted.
        check_stranger(b"HELLO 1 1 Ball 7 1479413884000000000\n", false, wrong);
        check_stranger(b"\xff\xff", false, wrong);
        check_stranger(b"\x00\x31", false, wrong);
        check_stranger(&[&b"\x00\x30"[..], &[7; 48]].concat(), false, wrong);
    }
}
