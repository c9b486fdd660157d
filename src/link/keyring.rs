//! The key file that links are made with, which may be replaced while the server runs.
//!
//! A connection keeps the ciphers that it was made with; a new key counts for the next.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::config::keys::KeyFile;
use crate::model::digest::DigestKey;

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

    /// Replaces the keys. Returns whether they are different; an error leaves them as they were.
    pub(crate) fn replace(&self, keys: KeyFile) -> Result<bool, AnotherHerd> {
        let mut current = self.0.write();
        if keys.herd() != current.herd() {
            return Err(AnotherHerd);
        }
        let changed = keys != **current;
        *current = Arc::new(keys);
        Ok(changed)
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
