//! Who is who, before a record is taken.
//!
//! First both sides prove that they hold a key of the herd ([`noise`]); who does not is told
//! nothing. Then, encrypted, the dialer says `HELLO`, the other side answers with its own
//! `HELLO`, or with `BYE` and the reason. Both check the other's, so a refusal is known, with
//! its reason, at both ends.
//!
//! The first message may be a recording, so nothing is done on its account but to answer it. A
//! `HELLO` that decrypts is new: it is by ciphers that the answer went into.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::framing::{Reader, Writer, is_timeout, read, wait_until};
use super::noise::{self, Initiator, MESSAGE_BYTES, Message};
use crate::config::keys::{HerdId, KeyFile};
use crate::model::decimal::parse_u64;
use crate::model::fields::fields;
use crate::model::printable::Printable;
use crate::model::time::Timestamp;

/// Versions of the link protocol that this server speaks, lowest and highest.
const VERSIONS: (u64, u64) = (1, 1);

/// All the time that a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// How far two servers' clocks may be apart.
const MAX_SKEW: Duration = Duration::from_secs(60);

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest version that it speaks.
    pub versions: (u64, u64),
    /// Which herd it is of.
    pub herd: HerdId,
    /// Its name.
    pub name: String,
    /// Which start of it this is.
    pub epoch: u64,
    /// Its clock.
    pub clock: Timestamp,
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// There is no connection, or it broke.
    Io(io::Error),
    /// The time ran out.
    TimedOut,
    /// The other side closed before it was over.
    Closed,
    /// It closed when it was shown this server's key.
    KeyRefused,
    /// It does not have a key of this herd.
    WrongKey,
    /// It has the key, and does not speak this protocol.
    NotAPeer,
    /// It speaks no version that this server speaks.
    Version((u64, u64)),
    /// It is of another herd.
    AnotherHerd,
    /// Somebody else answers at the neighbor's address.
    WrongName(String),
    /// It takes this server for somebody else: for whom, and who this is.
    Mistaken(String, String),
    /// It is no neighbor of this server, by this server's `servers.txt`.
    NotANeighbor(String),
    /// The clocks are too far apart.
    Skew(String),
    /// The other side refused, and this is what it said.
    Refused(String),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Io(error) => write!(f, "{error}"),
            HandshakeError::TimedOut => {
                let seconds = HANDSHAKE_TIMEOUT.as_secs();
                write!(f, "the handshake took longer than {seconds} s")
            }
            HandshakeError::Closed => f.write_str("it closed during the handshake"),
            HandshakeError::KeyRefused => f.write_str(
                "it closed during the handshake: it probably has another key, or no handshake slot free",
            ),
            HandshakeError::WrongKey => f.write_str("wrong key or not a peer"),
            HandshakeError::NotAPeer => f.write_str("it does not speak the herd's link protocol"),
            HandshakeError::Version((low, high)) => write!(
                f,
                "it speaks link versions {low} to {high}, this server {} to {}",
                VERSIONS.0, VERSIONS.1
            ),
            HandshakeError::AnotherHerd => {
                f.write_str("it has the key, but its key file names another herd")
            }
            HandshakeError::WrongName(name) => write!(f, "it calls itself {name}"),
            HandshakeError::Mistaken(sought, own) => {
                write!(f, "it looks for {sought} at the address of {own}")
            }
            HandshakeError::NotANeighbor(name) => {
                write!(f, "servers.txt here names no neighbor {name}")
            }
            HandshakeError::Skew(skew) => {
                write!(
                    f,
                    "its clock differs by {skew} s, more than {} s",
                    MAX_SKEW.as_secs()
                )
            }
            HandshakeError::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

impl HandshakeError {
    /// Whether this is what a neighbor never does, whatever its settings: somebody else answers at
    /// its address, or changes what it sends.
    pub(super) fn is_suspicious(&self) -> bool {
        match self {
            HandshakeError::WrongKey | HandshakeError::NotAPeer => true,
            HandshakeError::Io(error) => error.kind() == ErrorKind::InvalidData,
            _ => false,
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HandshakeError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> HandshakeError {
        HandshakeError::Io(error)
    }
}

/// What an error of a socket means while hands are shaken, and when an observer asks.
pub(super) fn failed(error: io::Error) -> HandshakeError {
    match error.kind() {
        _ if is_timeout(&error) => HandshakeError::TimedOut,
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe => HandshakeError::Closed,
        _ => HandshakeError::Io(error),
    }
}

/// The machine gives no random numbers, or a name of a cipher is wrong.
fn no_cipher(error: snow::Error) -> HandshakeError {
    HandshakeError::Io(io::Error::other(error))
}

impl Hello {
    /// This server's own.
    pub fn new(herd: HerdId, name: &str, epoch: u64, clock: Timestamp) -> Hello {
        Hello {
            versions: VERSIONS,
            herd,
            name: name.to_owned(),
            epoch,
            clock,
        }
    }

    /// `HELLO low high herd name epoch clock to` and LF, where `to` is whom it is meant for.
    fn to_line(&self, to: &str) -> String {
        let (low, high) = self.versions;
        let (herd, name, epoch) = (self.herd.to_hex(), &self.name, self.epoch);
        let clock = self.clock.as_nanos();
        format!("HELLO {low} {high} {herd} {name} {epoch} {clock} {to}\n")
    }

    /// Reads the other side's `HELLO` and whom it is meant for, or the reason in its `BYE`.
    fn parse(line: &[u8]) -> Result<(Hello, String), HandshakeError> {
        if let Some(reason) = line.strip_prefix(b"BYE ") {
            let reason = Printable(&reason[..reason.len().min(200)]).to_string();
            return Err(HandshakeError::Refused(reason));
        }
        let mut fields = fields(line);
        let mut field = || fields.next();
        let mut read_versions = || {
            let keyword = field()?;
            let versions = (parse_u64(field()?)?, parse_u64(field()?)?);
            (keyword == b"HELLO").then_some(versions)
        };
        let versions = read_versions().ok_or(HandshakeError::NotAPeer)?;
        // What follows may look otherwise in a version that this server does not speak.
        if versions.0 > VERSIONS.1 || versions.1 < VERSIONS.0 {
            return Err(HandshakeError::Version(versions));
        }
        let name = |text: &[u8]| std::str::from_utf8(text).map(str::to_owned).ok();
        let mut read = || {
            let hello = Hello {
                versions,
                herd: HerdId::parse(field()?)?,
                name: name(field()?)?,
                epoch: parse_u64(field()?)?,
                clock: Timestamp::from_nanos(parse_u64(field()?)?),
            };
            Some((hello, name(field()?)?))
        };
        read().ok_or(HandshakeError::NotAPeer)
    }

    /// Judges what the other side says of itself, and to whom, by what this server says.
    fn check(&self, to: &str, own: &Hello) -> Result<(), HandshakeError> {
        if self.herd != own.herd {
            return Err(HandshakeError::AnotherHerd);
        }
        let seconds = MAX_SKEW.as_secs();
        if self.clock.is_ahead_of(own.clock, seconds) || own.clock.is_ahead_of(self.clock, seconds)
        {
            return Err(HandshakeError::Skew(
                self.clock.difference(own.clock).to_string(),
            ));
        }
        if to != own.name {
            return Err(HandshakeError::Mistaken(to.to_owned(), own.name.clone()));
        }
        Ok(())
    }
}

/// A connection behind its handshake.
#[derive(Debug)]
pub struct Peer {
    /// What the other side says of itself.
    pub hello: Hello,
    /// What it sends.
    pub reader: Reader,
    /// What is sent to it.
    pub writer: Writer,
}

/// The dialer's side: shows that it has the key, says who it is, and hears whether the neighbor
/// agrees. All of it before `deadline`.
pub fn dial(
    stream: &TcpStream,
    keys: &KeyFile,
    own: &Hello,
    neighbor: &str,
    deadline: Instant,
) -> Result<Peer, HandshakeError> {
    let (initiator, message) = Initiator::start(keys.dialed()).map_err(no_cipher)?;
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
            hello,
            reader,
            writer,
        }),
        Err(HandshakeError::Refused(reason)) => Err(HandshakeError::Refused(reason)),
        Err(reason) => {
            // The other side has agreed and should know why nothing comes. If it is gone, the
            // reason is what counts here.
            let _ = writer.write(stream, format!("BYE {reason}\n").as_bytes());
            Err(reason)
        }
    }
}

/// The other side: hears who dials, and answers. `knows` says whether that name is a neighbor.
pub fn accept(
    stream: &TcpStream,
    keys: &KeyFile,
    own: impl FnOnce() -> Hello,
    knows: impl FnOnce(&str) -> bool,
    deadline: Instant,
) -> Result<Peer, HandshakeError> {
    let message = receive_message(stream, deadline)?;
    let (answer, ciphers) = noise::respond(keys, &message)
        .map_err(no_cipher)?
        .ok_or(HandshakeError::WrongKey)?;
    send_message(stream, &answer)?;
    let mut reader = Reader::new(ciphers.clone());
    let mut writer = Writer::new(ciphers);
    let line = reader.read_line(stream, deadline).map_err(failed)?;
    let own = own();
    let judged = Hello::parse(&line).and_then(|(hello, to)| {
        hello.check(&to, &own)?;
        if !knows(&hello.name) {
            return Err(HandshakeError::NotANeighbor(hello.name));
        }
        Ok(hello)
    });
    let answer = match &judged {
        Ok(hello) => own.to_line(&hello.name),
        Err(reason) => format!("BYE {reason}\n"),
    };
    writer.write(stream, answer.as_bytes()).map_err(failed)?;
    Ok(Peer {
        hello: judged?,
        reader,
        writer,
    })
}

/// Sends a message of the key's proof, framed like everything else.
fn send_message(mut stream: &TcpStream, message: &Message) -> Result<(), HandshakeError> {
    let mut frame = [0; 2 + MESSAGE_BYTES];
    frame[1] = MESSAGE_BYTES as u8;
    frame[2..].copy_from_slice(message);
    stream.write_all(&frame).map_err(failed)
}

/// Receives one. Who announces any other size is not even listened to.
fn receive_message(stream: &TcpStream, deadline: Instant) -> Result<Message, HandshakeError> {
    let mut length = [0; 2];
    receive(stream, &mut length, deadline).map_err(failed)?;
    if usize::from(u16::from_be_bytes(length)) != MESSAGE_BYTES {
        return Err(HandshakeError::WrongKey);
    }
    let mut message = [0; MESSAGE_BYTES];
    receive(stream, &mut message, deadline).map_err(failed)?;
    Ok(message)
}

fn receive(stream: &TcpStream, mut part: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !part.is_empty() {
        wait_until(stream, deadline)?;
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
    use std::io::Read;
    use std::net::TcpListener;

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

    /// Lets `dialer` do what it does with a server that accepts. Both outcomes.
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

    /// What both ends of a handshake between `Ball`, who dials, and `Welsh` come to.
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
        newer.hello.versions = (2, 3);
        let version = "it speaks link versions 2 to 3, this server 1 to 1";
        refuse(newer, hello("Welsh"), version);
        let mut skewed = hello("Ball");
        skewed.hello.clock = Timestamp::from_nanos(NOW.as_nanos() + 3_600_000_000_000);
        let skew = "its clock differs by +3600.000000000 s, more than 60 s";
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

    /// What a stranger who sends `bytes`, and then nothing or the end, is told, and what the
    /// server makes of it.
    #[track_caller]
    fn check_stranger(bytes: &[u8], closes: bool, expected: &str) {
        let stranger = |mut stream: TcpStream| {
            stream.write_all(bytes).unwrap();
            if closes {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let mut told = Vec::new();
            // A server that closes before it has read all resets the connection.
            let _ = stream.read_to_end(&mut told);
            told
        };
        let keys = KeyFile::generate().unwrap();
        let (told, outcome) = meet(stranger, side(&keys, "Welsh"));
        assert_eq!((told.len(), &*outcome), (0, expected));
    }

    #[test]
    fn strangers_are_told_nothing() {
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

    #[test]
    fn who_has_the_key_and_speaks_another_protocol_is_told_apart() {
        let herd = "000102030405060708090a0b0c0d0e0f";
        let good = format!("HELLO 1 1 {herd} Ball 7 7 Welsh");
        Hello::parse(good.as_bytes()).unwrap();
        for line in [
            "",
            "GET / HTTP/1.1",
            "HELLO",
            "HELLO 1 1 Ball 7 7",
            &good.replace(" 7 7", " x 7"),
            &good.replace(" Welsh", ""),
            &good.replace("0f ", "0g "),
        ] {
            let error = Hello::parse(line.as_bytes()).expect_err(line);
            assert!(matches!(error, HandshakeError::NotAPeer), "{line}");
        }
        // A version to come may say other things after its number.
        let error = Hello::parse(b"HELLO 2 9 what comes then").unwrap_err();
        assert!(matches!(error, HandshakeError::Version((2, 9))));
    }
}
