//! The line in which each side identifies itself, and the checks of the other side's.

use std::time::Duration;

use super::error::HandshakeError;
use super::{FORGET_VERSION, MAX_SKEW, VERSIONS};
use crate::config::keys::HerdId;
use crate::model::decimal::parse_u64;
use crate::model::fields::fields;
use crate::model::printable::Printable;
use crate::model::time::Timestamp;

/// Maximum length of the reason in a peer's `BYE` that is shown.
const MAX_REASON_BYTES: usize = 200;

/// Name of an observer. No server can have it: a name begins with a letter or a digit.
pub(in crate::link) const OBSERVER: &str = "-";

/// A server's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest version of the link protocol that it speaks.
    pub versions: (u64, u64),
    /// Id of its herd.
    pub herd: HerdId,
    /// Its name.
    pub name: String,
    /// Number of this start.
    pub epoch: u64,
    /// Time by its clock.
    pub clock: Timestamp,
    /// Age at which it forgets records, in whole seconds; `None` for never, as for every server that
    /// speaks an older version.
    pub forget_after: Option<Duration>,
}

impl Hello {
    /// Describes this server, which forgets nothing.
    pub fn new(herd: HerdId, name: &str, epoch: u64, clock: Timestamp) -> Hello {
        Hello {
            versions: VERSIONS,
            herd,
            name: name.to_owned(),
            epoch,
            clock,
            forget_after: None,
        }
    }

    /// Describes it as one that forgets records of that age.
    pub fn forgetting_after(self, age: Option<Duration>) -> Hello {
        Hello {
            forget_after: age,
            ..self
        }
    }

    /// Returns the highest version of the link protocol that both sides speak; each has checked that
    /// there is one.
    pub(in crate::link) fn common_version(&self, other: &Hello) -> u64 {
        self.versions.1.min(other.versions.1)
    }

    /// Returns the line `HELLO low high herd name epoch clock to forget-after` with its LF, where `to` is
    /// the name of the server that is addressed, and the age is in seconds, 0 for never. A server of
    /// before reads no further than the name.
    pub(super) fn to_line(&self, to: &str) -> String {
        let (low, high) = self.versions;
        let (herd, name, epoch) = (self.herd.to_hex(), &self.name, self.epoch);
        let clock = self.clock.as_nanos();
        let mut line = format!("HELLO {low} {high} {herd} {name} {epoch} {clock} {to}");
        if high >= FORGET_VERSION {
            line += &format!(" {}", seconds(self.forget_after));
        }
        line + "\n"
    }

    /// Reads the other side's `HELLO` and the name that it addresses, or the reason in its `BYE`.
    pub(super) fn parse(line: &[u8]) -> Result<(Hello, String), HandshakeError> {
        if let Some(reason) = line.strip_prefix(b"BYE ") {
            let reason = Printable(&reason[..reason.len().min(MAX_REASON_BYTES)]).to_string();
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
        // The rest may look different in a version that this server does not speak.
        if versions.0 > VERSIONS.1 || versions.1 < VERSIONS.0 {
            return Err(HandshakeError::Version(versions));
        }
        let name = |text: &[u8]| std::str::from_utf8(text).map(str::to_owned).ok();
        let mut read = || {
            let mut hello = Hello {
                versions,
                herd: HerdId::parse(field()?)?,
                name: name(field()?)?,
                epoch: parse_u64(field()?)?,
                clock: Timestamp::from_nanos(parse_u64(field()?)?),
                forget_after: None,
            };
            let to = name(field()?)?;
            if versions.1 >= FORGET_VERSION {
                hello.forget_after = parse_age(field()?)?;
            }
            Some((hello, to))
        };
        read().ok_or(HandshakeError::NotAPeer)
    }

    /// Checks the other side's `HELLO`, addressed to `to`, against this server's own.
    pub(super) fn check(&self, to: &str, own: &Hello) -> Result<(), HandshakeError> {
        if self.herd != own.herd {
            return Err(HandshakeError::AnotherHerd);
        }
        // An observer is no server: it is to see a clock that is wrong.
        let is_observed = [self, own].iter().any(|hello| hello.name == OBSERVER);
        if !is_observed && let Some(skew) = skew(self.clock, own.clock) {
            return Err(HandshakeError::Skew(skew));
        }
        if to != own.name {
            return Err(HandshakeError::Mistaken(to.to_owned(), own.name.clone()));
        }
        Ok(())
    }
}

/// Returns an age as neighbors are told it: whole seconds, 0 for never.
pub(in crate::link) fn seconds(age: Option<Duration>) -> u64 {
    age.map_or(0, |age| age.as_secs())
}

/// Reads what [`seconds`] returned; `None` for anything else.
pub(in crate::link) fn parse_age(text: &[u8]) -> Option<Option<Duration>> {
    let seconds = parse_u64(text)?;
    Some((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// Returns by how many whole seconds the other side's clock is ahead of this server's, if they differ
/// by more than servers' clocks may. Fractions would make every report of one fault a new one.
pub(in crate::link) fn skew(peer: Timestamp, own: Timestamp) -> Option<String> {
    let seconds = MAX_SKEW.as_secs();
    let differs = peer.is_ahead_of(own, seconds) || own.is_ahead_of(peer, seconds);
    differs.then(|| {
        let nanos = i128::from(peer.as_nanos()) - i128::from(own.as_nanos());
        format!("{:+}", nanos / 1_000_000_000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_at_which_records_are_forgotten_is_told_from_version_3_on() {
        let herd = "000102030405060708090a0b0c0d0e0f";
        let line =
            |versions: &str, age: &str| format!("HELLO {versions} {herd} Ball 7 7 Welsh{age}");
        let read = |line: String| Hello::parse(line.as_bytes()).map(|(hello, _)| hello);
        for (age, seconds) in [(" 0", 0), (" 86400", 86_400)] {
            let hello = read(line("1 3", age)).unwrap();
            assert_eq!(hello.forget_after.map_or(0, |age| age.as_secs()), seconds);
            assert_eq!(hello.to_line("Welsh"), line("1 3", age) + "\n");
        }
        for broken in ["", " x", " -1"] {
            assert!(matches!(
                read(line("1 3", broken)),
                Err(HandshakeError::NotAPeer)
            ));
        }
        let old = read(line("1 2", "")).unwrap().forgetting_after(None);
        assert_eq!(old.to_line("Welsh"), line("1 2", "") + "\n");
    }

    #[test]
    fn a_peer_with_the_key_and_another_protocol_is_recognized() {
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
        // A later version may send other fields after its number.
        let error = Hello::parse(b"HELLO 4 9 what comes then").unwrap_err();
        assert!(matches!(error, HandshakeError::Version((4, 9))));
    }
}
