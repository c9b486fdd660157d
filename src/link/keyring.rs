//! The key file that links are made with, which may be replaced while the server runs.
//!
//! A connection keeps the ciphers that it was made with; a new key counts for the next.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

use crate::config::keys::{Key, KeyFile};
use crate::model::digest::DigestKey;

/// Bytes of a fingerprint: enough to tell keys apart, and of no use for guessing one.
const FINGERPRINT_BYTES: usize = 4;

/// Text before the key in the input of a fingerprint, so that it is the hash of nothing else.
const FINGERPRINT_PREFIX: &[u8] = b"herd key fingerprint\n";

/// Returns the beginning of the SHA-256 of a key, in hexadecimal; empty on a build without SHA-256.
fn fingerprint(key: &Key) -> String {
    let Some(mut hash) = DefaultResolver.resolve_hash(&HashChoice::SHA256) else {
        return String::new();
    };
    let mut digest = vec![0; hash.hash_len()];
    hash.input(FINGERPRINT_PREFIX);
    hash.input(key.bytes());
    hash.result(&mut digest);
    hex::encode(&digest[..FINGERPRINT_BYTES])
}

/// The keys of one herd.
#[derive(Debug)]
pub(crate) struct Keyring(RwLock<Arc<KeyFile>>);

/// The key file is another herd's: that herd's servers would refuse this one, and its digests differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnotherHerd;

impl fmt::Display for AnotherHerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key file names another herd; changing it requires a restart")
    }
}

impl std::error::Error for AnotherHerd {}

impl Keyring {
    /// Begins with the keys read at the start.
    pub(crate) fn new(keys: KeyFile) -> Keyring {
        Keyring(RwLock::new(Arc::new(keys)))
    }

    /// Returns the current keys.
    pub(crate) fn current(&self) -> Arc<KeyFile> {
        Arc::clone(&self.0.read())
    }

    /// Checks that keys are of this herd, whose id never changes.
    pub(crate) fn check(&self, keys: &KeyFile) -> Result<(), AnotherHerd> {
        match keys.herd() == self.current().herd() {
            true => Ok(()),
            false => Err(AnotherHerd),
        }
    }

    /// Replaces the keys. Returns whether they are different; an error leaves them as they were.
    pub(crate) fn replace(&self, keys: KeyFile) -> Result<bool, AnotherHerd> {
        self.check(&keys)?;
        let mut current = self.0.write();
        let changed = keys != **current;
        *current = Arc::new(keys);
        Ok(changed)
    }

    /// Returns the fingerprints of the keys in force, by which they can be compared and not guessed: of
    /// the one that is dialed with, and of another that is accepted too.
    pub(crate) fn fingerprints(&self) -> Vec<String> {
        self.current().accepted().map(fingerprint).collect()
    }

    /// Returns the key of the herd's digests. It never changes, since the herd's id does not.
    pub(crate) fn digest_key(&self) -> DigestKey {
        DigestKey::new(self.current().herd().bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_shows_in_the_fingerprints() {
        let zeros = "0".repeat(64);
        let text = format!("herd {}\nkey {zeros}\n", "0".repeat(32));
        let keys = KeyFile::parse(text.as_bytes()).unwrap();
        // printf 'herd key fingerprint\n' and 32 zero bytes | sha256sum
        assert_eq!(Keyring::new(keys.clone()).fingerprints(), ["a762dad6"]);
        let shown = |keys: &KeyFile| Keyring::new(keys.clone()).fingerprints();
        let first = keys.rotated().unwrap();
        let second = first.rotated().unwrap();
        let third = second.rotated().unwrap();
        let [old, new] = &shown(&first)[..] else {
            panic!("not two keys");
        };
        assert_ne!(old, new);
        assert_eq!(shown(&second), [new.clone(), old.clone()]);
        assert_eq!(&shown(&third), std::slice::from_ref(new));
    }

    #[test]
    fn keys_change_and_the_herd_does_not() {
        let keys = KeyFile::generate().unwrap();
        let keyring = Keyring::new(keys.clone());
        assert_eq!(keyring.replace(keys.clone()), Ok(false));
        let next = keys.rotated().unwrap();
        assert_eq!(keyring.replace(next.clone()), Ok(true));
        let foreign = KeyFile::generate().unwrap();
        assert_eq!(keyring.replace(foreign), Err(AnotherHerd));
        assert_eq!(*keyring.current(), next);
    }
}
