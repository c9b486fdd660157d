//! The key file that links are made with, which may be exchanged while the server runs.
//!
//! A connection keeps the ciphers that it was made with; what is exchanged counts for the next.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::config::keys::KeyFile;
use crate::model::digest::DigestKey;

/// The keys of one herd.
#[derive(Debug)]
pub struct Keyring(RwLock<Arc<KeyFile>>);

/// The file is another herd's: its servers would not let this one in, and its digests differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnotherHerd;

impl fmt::Display for AnotherHerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key file names another herd, which takes a restart")
    }
}

impl std::error::Error for AnotherHerd {}

impl Keyring {
    /// What the file says at the start.
    pub fn new(keys: KeyFile) -> Keyring {
        Keyring(RwLock::new(Arc::new(keys)))
    }

    /// What it says now.
    pub fn current(&self) -> Arc<KeyFile> {
        Arc::clone(&self.0.read())
    }

    /// Takes what it says after a change; whether that is anything new.
    pub fn replace(&self, keys: KeyFile) -> Result<bool, AnotherHerd> {
        let mut current = self.0.write();
        if keys.herd() != current.herd() {
            return Err(AnotherHerd);
        }
        let changed = keys != **current;
        *current = Arc::new(keys);
        Ok(changed)
    }

    /// What the herd's digests are keyed with. The same for ever, as the herd's id is.
    pub fn digest_key(&self) -> DigestKey {
        DigestKey::new(self.current().herd().bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
