//! Who is who, before a record is taken.
//!
//! The dialer says `HELLO`, the other side answers with its own `HELLO`, or with `BYE` and the
//! reason. Both check the other's, so a refusal is known, with its reason, at both ends.

use std::fmt;
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::wire::Lines;
use crate::command::fields;
use crate::record::parse_u64;
use crate::time::Timestamp;

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
    /// The connection broke, or the time ran out.
    Io(io::Error),
    /// The other side does not speak this protocol.
    NotAPeer,
    /// It speaks no version that this server speaks.
    Version((u64, u64)),
    /// Somebody else answers at the neighbor's address.
    WrongName(String),
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
            HandshakeError::NotAPeer => f.write_str("it does not speak the herd's link protocol"),
            HandshakeError::Version((low, high)) => write!(
                f,
                "it speaks link versions {low} to {high}, this server {} to {}",
                VERSIONS.0, VERSIONS.1
            ),
            HandshakeError::WrongName(name) => write!(f, "it calls itself {name}"),
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

impl Hello {
    /// This server's own.
    pub fn new(name: &str, epoch: u64, clock: Timestamp) -> Hello {
        Hello {
            versions: VERSIONS,
            name: name.to_owned(),
            epoch,
            clock,
        }
    }

    fn to_line(&self) -> String {
        let (low, high) = self.versions;
        let clock = self.clock.as_nanos();
        format!("HELLO {low} {high} {} {} {clock}\n", self.name, self.epoch)
    }

    /// Reads the other side's `HELLO`, or the reason in its `BYE`.
    fn parse(line: &[u8]) -> Result<Hello, HandshakeError> {
        if let Some(reason) = line.strip_prefix(b"BYE ") {
            let reason = String::from_utf8_lossy(&reason[..reason.len().min(200)]).into_owned();
            return Err(HandshakeError::Refused(reason));
        }
        let mut fields = fields(line);
        let mut read = || {
            let (b"HELLO", low, high) = (
                fields.next()?,
                parse_u64(fields.next()?)?,
                parse_u64(fields.next()?)?,
            ) else {
                return None;
            };
            Some(Hello {
                versions: (low, high),
                name: std::str::from_utf8(fields.next()?).ok()?.to_owned(),
                epoch: parse_u64(fields.next()?)?,
                clock: Timestamp::from_nanos(parse_u64(fields.next()?)?),
            })
        };
        read().ok_or(HandshakeError::NotAPeer)
    }

    /// Judges what the other side says of itself by what this server says.
    fn check(&self, own: &Hello) -> Result<(), HandshakeError> {
        let (low, high) = self.versions;
        if low > own.versions.1 || high < own.versions.0 {
            return Err(HandshakeError::Version(self.versions));
        }
        let seconds = MAX_SKEW.as_secs();
        if self.clock.is_ahead_of(own.clock, seconds) || own.clock.is_ahead_of(self.clock, seconds)
        {
            return Err(HandshakeError::Skew(
                self.clock.difference(own.clock).to_string(),
            ));
        }
        Ok(())
    }
}

/// The dialer's side: says who it is, and hears whether the neighbor agrees.
pub fn dial(
    stream: &TcpStream,
    lines: &mut Lines,
    own: &Hello,
    neighbor: &str,
) -> Result<Hello, HandshakeError> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    (&mut &*stream).write_all(own.to_line().as_bytes())?;
    let other = Hello::parse(&lines.read_line(stream, deadline)?)?;
    other.check(own)?;
    if other.name != neighbor {
        return Err(HandshakeError::WrongName(other.name));
    }
    Ok(other)
}

/// The other side: hears who dials, and answers. `knows` says whether that name is a neighbor.
pub fn accept(
    stream: &TcpStream,
    lines: &mut Lines,
    own: impl FnOnce() -> Hello,
    knows: impl FnOnce(&str) -> bool,
) -> Result<Hello, HandshakeError> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let line = lines.read_line(stream, deadline)?;
    let own = own();
    let judged = Hello::parse(&line).and_then(|other| {
        other.check(&own)?;
        if knows(&other.name) {
            Ok(other)
        } else {
            Err(HandshakeError::NotANeighbor(other.name))
        }
    });
    let answer = match &judged {
        Ok(_) => own.to_line(),
        Err(reason) => format!("BYE {reason}\n"),
    };
    (&mut &*stream).write_all(answer.as_bytes())?;
    judged
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const NOW: Timestamp = Timestamp::from_nanos(1_479_413_884_000_000_000);

    fn hello(name: &str) -> Hello {
        Hello::new(name, 7, NOW)
    }

    /// What both ends of a handshake between `Ball`, who dials, and `Welsh` come to.
    #[track_caller]
    fn check(dialer: Hello, acceptor: Hello, expected: [&str; 2]) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let accepting = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            let knows = |name: &str| name == "Ball";
            accept(&stream, &mut Lines::default(), || acceptor, knows)
        });
        let stream = TcpStream::connect(address).expect("a connection");
        let dialed = dial(&stream, &mut Lines::default(), &dialer, "Welsh");
        let accepted = accepting.join().expect("the accepting side");
        let shown = [dialed, accepted].map(|result| match result {
            Ok(other) => format!("ok {}", other.name),
            Err(error) => error.to_string(),
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn both_ends_know_the_outcome_and_its_reason() {
        check(hello("Ball"), hello("Welsh"), ["ok Welsh", "ok Ball"]);
        let stranger = "servers.txt here names no neighbor Alford";
        check(
            hello("Alford"),
            hello("Welsh"),
            [&format!("refused: {stranger}"), stranger],
        );
        check(
            hello("Ball"),
            hello("Holiday"),
            ["it calls itself Holiday", "ok Ball"],
        );
        let newer = Hello {
            versions: (2, 3),
            ..hello("Ball")
        };
        let version = "it speaks link versions 2 to 3, this server 1 to 1";
        check(
            newer,
            hello("Welsh"),
            [&format!("refused: {version}"), version],
        );
        let ahead = Timestamp::from_nanos(NOW.as_nanos() + 3_600_000_000_000);
        let skewed = Hello {
            clock: ahead,
            ..hello("Ball")
        };
        let skew = "its clock differs by +3600.000000000 s, more than 60 s";
        check(skewed, hello("Welsh"), [&format!("refused: {skew}"), skew]);
    }

    #[test]
    fn who_speaks_another_protocol_is_told_apart() {
        for line in [
            "",
            "GET / HTTP/1.1",
            "HELLO",
            "HELLO 1 1 Ball 7",
            "HELLO 1 x Ball 7 7",
        ] {
            let error = Hello::parse(line.as_bytes()).expect_err(line);
            assert!(matches!(error, HandshakeError::NotAPeer), "{line}");
        }
    }
}
