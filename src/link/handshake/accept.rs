//! The accepting side of a handshake, without sockets, threads or clocks: bytes in, bytes out.
//!
//! A dialer proves by its first message that it has, or had, a key of the herd. Until then it is
//! sent nothing, and costs 50 bytes. The message may be a recording, so nothing is done on its
//! account but to answer it; the buffers for its lines are taken when it goes on. A `HELLO` that
//! decrypts is new: the answer went into its ciphers.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::error::{HandshakeError, failed, no_cipher};
use super::{Hello, Peer};
use crate::config::keys::KeyFile;
use crate::link::framing::{Reader, Stream, Writer, read};
use crate::link::noise::{self, Ciphers, MESSAGE_BYTES, Message};

/// Maximum time from the connection to the dialer's first message, which proves its key. A dialer
/// sends it at once, so it arrives with the connection.
pub(in crate::link) const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time from the connection to the dialer's `HELLO`, which takes a second round trip.
pub(in crate::link) const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that are read at once, and so the most that is held of a peer before it is identified.
pub(in crate::link) const PART_BYTES: usize = 1 << 10;

/// Bytes of a message's length.
const LENGTH_BYTES: usize = 2;

/// Bytes of a framed message of the key's proof.
const PROOF_BYTES: usize = LENGTH_BYTES + MESSAGE_BYTES;

/// Length of a message, as it is framed.
pub(super) const LENGTH: [u8; LENGTH_BYTES] = (MESSAGE_BYTES as u16).to_be_bytes();

/// A connection from its first byte to its `HELLO`.
#[derive(Debug, Default)]
pub(in crate::link) struct Acceptor(State);

#[derive(Debug)]
enum State {
    /// The bytes of the first message so far.
    Unproved(ArrayVec<u8, PROOF_BYTES>),
    /// The first message is answered; the beginning of the `HELLO`, once there is one.
    Proved(Ciphers, Option<Box<Reader>>),
}

impl Default for State {
    fn default() -> State {
        State::Unproved(ArrayVec::new())
    }
}

impl Acceptor {
    /// Takes bytes of the dialer, and appends what is to be sent to it, even if an error is
    /// returned. Returns its identification once that is whole.
    pub(in crate::link) fn take(
        &mut self,
        mut bytes: &[u8],
        keys: &KeyFile,
        out: &mut Vec<u8>,
    ) -> Result<Option<Claim>, HandshakeError> {
        if let State::Unproved(proof) = &mut self.0 {
            let (part, rest) = bytes.split_at(bytes.len().min(proof.remaining_capacity()));
            proof.extend(part.iter().copied());
            bytes = rest;
            // A peer that announces any other length is not listened to.
            let announced = &proof[..proof.len().min(LENGTH_BYTES)];
            if !LENGTH.starts_with(announced) {
                return Err(HandshakeError::WrongKey);
            }
            let message = proof.get(LENGTH_BYTES..).unwrap_or_default();
            let Ok(message) = Message::try_from(message) else {
                return Ok(None);
            };
            let (answer, ciphers) = noise::respond(keys, &message)
                .map_err(no_cipher)?
                .ok_or(HandshakeError::WrongKey)?;
            out.extend_from_slice(&LENGTH);
            out.extend_from_slice(&answer);
            self.0 = State::Proved(ciphers, None);
        }
        match &mut self.0 {
            State::Proved(ciphers, reader) if !bytes.is_empty() => {
                let reader = reader.get_or_insert_with(|| Box::new(Reader::new(ciphers.clone())));
                while !bytes.is_empty() {
                    reader.fill(&mut bytes).map_err(failed)?;
                }
                let line = reader.take_line().map_err(failed)?;
                let Some(line) = line.map(<[u8]>::to_vec) else {
                    return Ok(None);
                };
                Ok(self.claim(line))
            }
            _ => Ok(None),
        }
    }

    fn claim(&mut self, line: Vec<u8>) -> Option<Claim> {
        match std::mem::take(&mut self.0) {
            State::Proved(ciphers, Some(reader)) => Some(Claim {
                line,
                reader: *reader,
                writer: Writer::new(ciphers),
            }),
            _ => None,
        }
    }

    /// Returns whether the dialer has, or had, a key.
    pub(in crate::link) fn is_proved(&self) -> bool {
        matches!(self.0, State::Proved(..))
    }

    /// Returns the maximum time from the connection to the dialer's next step.
    pub(in crate::link) fn timeout(&self) -> Duration {
        match self.0 {
            State::Unproved(_) => PROOF_TIMEOUT,
            State::Proved(..) => ACCEPT_TIMEOUT,
        }
    }
}

/// The identification of a dialer that has the key and is there now.
#[derive(Debug)]
pub(in crate::link) struct Claim {
    line: Vec<u8>,
    reader: Reader,
    writer: Writer,
}

impl Claim {
    /// Checks it against this server's own, and appends the answer, which is the reason where an
    /// error is returned. `knows` returns whether that name is a neighbor.
    pub(in crate::link) fn judge(
        mut self,
        own: &Hello,
        knows: impl FnOnce(&str) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<Peer, HandshakeError> {
        let judged = Hello::parse(&self.line).and_then(|(hello, to)| {
            hello.check(&to, own)?;
            if !knows(&hello.name) {
                return Err(HandshakeError::NotANeighbor(hello.name));
            }
            Ok(hello)
        });
        let answer = match &judged {
            Ok(hello) => own.to_line(&hello.name),
            Err(reason) => format!("BYE {reason}\n"),
        };
        self.writer.write(out, answer.as_bytes()).map_err(failed)?;
        let hello = judged?;
        Ok(Peer {
            version: hello.common_version(own),
            told: own.forget_after,
            hello,
            reader: self.reader,
            writer: self.writer,
        })
    }
}

/// Runs the accepting side over one connection, and waits for the dialer until `deadline`. `knows`
/// returns whether that name is a neighbor.
pub fn accept(
    mut stream: impl Stream,
    keys: &KeyFile,
    own: impl FnOnce() -> Hello,
    knows: impl FnOnce(&str) -> bool,
    deadline: Instant,
) -> Result<Peer, HandshakeError> {
    let (mut acceptor, mut part) = (Acceptor::default(), [0; PART_BYTES]);
    loop {
        stream.wait_until(deadline).map_err(failed)?;
        let bytes = read(&mut stream, &mut part).map_err(failed)?;
        if bytes == 0 {
            return Err(HandshakeError::Closed);
        }
        let mut out = Vec::new();
        let claim = acceptor.take(&part[..bytes], keys, &mut out);
        stream.write_all(&out).map_err(failed)?;
        if let Some(claim) = claim? {
            let mut out = Vec::new();
            let judged = claim.judge(&own(), knows, &mut out);
            stream.write_all(&out).map_err(failed)?;
            return judged;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::noise::Initiator;
    use crate::model::time::Timestamp;

    /// A dialer, and the acceptor that it dials.
    struct Meeting {
        keys: KeyFile,
        acceptor: Acceptor,
        out: Vec<u8>,
    }

    impl Meeting {
        fn new() -> Meeting {
            Meeting {
                keys: KeyFile::generate().unwrap(),
                acceptor: Acceptor::default(),
                out: Vec::new(),
            }
        }

        fn take(&mut self, bytes: &[u8]) -> Result<Option<Claim>, HandshakeError> {
            self.acceptor.take(bytes, &self.keys, &mut self.out)
        }

        /// Takes bytes in parts of that size. Returns the claim, if the last part makes one.
        fn take_parts(&mut self, bytes: &[u8], size: usize) -> Option<Claim> {
            let mut claim = None;
            for part in bytes.chunks(size) {
                assert!(claim.is_none(), "more after a whole line");
                claim = self.take(part).unwrap();
            }
            claim
        }

        fn first_message(&self) -> (Initiator, Vec<u8>) {
            let (initiator, message) = Initiator::start(self.keys.dialed()).unwrap();
            (initiator, [&LENGTH[..], &message].concat())
        }

        fn hello(&self, name: &str) -> Hello {
            Hello::new(self.keys.herd(), name, 7, Timestamp::from_nanos(1))
        }

        /// Proves the key. Returns the dialer's two halves.
        fn prove(&mut self, size: usize) -> (Reader, Writer) {
            let (initiator, message) = self.first_message();
            assert!(self.take_parts(&message, size).is_none());
            let answer = self.out.split_off(LENGTH_BYTES);
            assert_eq!(std::mem::take(&mut self.out), LENGTH);
            let answer = Message::try_from(&answer[..]).unwrap();
            let ciphers = initiator.finish(&answer).unwrap();
            (Reader::new(ciphers.clone()), Writer::new(ciphers))
        }
    }

    fn encrypted(writer: &mut Writer, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        writer.write(&mut bytes, text.as_bytes()).unwrap();
        bytes
    }

    #[test]
    fn a_dialer_is_identified_however_its_bytes_are_split() {
        for size in [1, 2, 3, 49, 50, 51, PART_BYTES] {
            let mut meeting = Meeting::new();
            assert_eq!(meeting.acceptor.timeout(), PROOF_TIMEOUT);
            let (mut reader, mut writer) = meeting.prove(size);
            assert!(meeting.acceptor.is_proved());
            assert_eq!(meeting.acceptor.timeout(), ACCEPT_TIMEOUT);
            let (ball, welsh) = (meeting.hello("Ball"), meeting.hello("Welsh"));
            let line = encrypted(&mut writer, &ball.to_line("Welsh"));
            let claim = meeting.take_parts(&line, size).expect("a whole line");
            assert!(meeting.out.is_empty(), "nothing before it is judged");
            let mut answer = Vec::new();
            let peer = claim.judge(&welsh, |name| name == "Ball", &mut answer);
            assert_eq!(peer.unwrap().hello, ball);
            reader.fill(&*answer).unwrap();
            let answer = reader.take_line().unwrap().unwrap();
            assert_eq!(Hello::parse(answer).unwrap(), (welsh, "Ball".to_owned()));
        }
    }

    #[test]
    fn bytes_behind_the_identification_are_kept_for_the_protocol() {
        let mut meeting = Meeting::new();
        let (_, mut writer) = meeting.prove(PART_BYTES);
        let mut bytes = encrypted(&mut writer, &meeting.hello("Ball").to_line("Welsh"));
        bytes.extend(encrypted(&mut writer, "RESYNC\n"));
        let half = encrypted(&mut writer, "BYE stopping\n");
        bytes.extend(&half[..5]);
        let claim = meeting.take(&bytes).unwrap().expect("a whole line");
        let welsh = meeting.hello("Welsh");
        let mut peer = claim.judge(&welsh, |_| true, &mut Vec::new()).unwrap();
        assert_eq!(peer.reader.take_line().unwrap(), Some(&b"RESYNC"[..]));
        peer.reader.fill(&half[5..]).unwrap();
        assert_eq!(peer.reader.take_line().unwrap(), Some(&b"BYE stopping"[..]));
    }

    #[test]
    fn a_refused_dialer_is_sent_the_reason() {
        let mut meeting = Meeting::new();
        let (mut reader, mut writer) = meeting.prove(PART_BYTES);
        let line = encrypted(&mut writer, &meeting.hello("Alford").to_line("Welsh"));
        let claim = meeting.take(&line).unwrap().expect("a whole line");
        let mut answer = Vec::new();
        let error = claim.judge(&meeting.hello("Welsh"), |_| false, &mut answer);
        let reason = error.unwrap_err().to_string();
        assert_eq!(reason, "servers.txt here names no neighbor Alford");
        reader.fill(&*answer).unwrap();
        let answer = reader.take_line().unwrap().unwrap();
        assert_eq!(answer, format!("BYE {reason}").as_bytes());
    }

    #[test]
    fn a_stranger_is_refused_as_early_as_can_be_and_sent_nothing() {
        let early = |bytes: &[u8]| {
            let mut meeting = Meeting::new();
            for (at, byte) in bytes.iter().enumerate() {
                if let Err(error) = meeting.take(&[*byte]) {
                    assert!(matches!(error, HandshakeError::WrongKey), "{error}");
                    assert!(meeting.out.is_empty() && !meeting.acceptor.is_proved());
                    return Some(at);
                }
            }
            assert!(meeting.out.is_empty() && !meeting.acceptor.is_proved());
            None
        };
        assert_eq!(early(b"GET / HTTP/1.1\r\n"), Some(0));
        assert_eq!(early(b"\x00\x31"), Some(1));
        assert_eq!(early(b"\x00\x30unfinished"), None);
        assert_eq!(early(&[&LENGTH[..], &[7; 48]].concat()), Some(49));
    }

    #[test]
    fn a_recording_is_answered_once_and_gets_no_further() {
        let mut meeting = Meeting::new();
        let (_, message) = meeting.first_message();
        let mut recording = message.clone();
        let frame = [&42_u16.to_be_bytes()[..], &[7; 42]].concat();
        recording.extend(&frame);
        let error = meeting.take(&recording).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it sent a frame that was altered, or recorded elsewhere"
        );
        assert_eq!(meeting.out.len(), PROOF_BYTES);
    }
}
