//! The key by which this server last had a link, remembered over restarts.
//!
//! Neighbors that turn a key down prove nothing: anybody at their addresses could do that. But a
//! server that has never had a link by its present key is most likely a stranger with a key of its
//! own making, whose clients would talk to nobody.

use std::fs;
use std::hash::Hasher;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use log::warn;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::config::keys::KeyFile;
use crate::disk::parent;

/// Name of the file in the server's data folder: one line, the fingerprint in hexadecimal.
const FILE: &str = "linked";

/// Remembers a key by its fingerprint.
#[derive(Debug)]
pub(crate) struct LinkedKey {
    /// `None` if nothing is to survive the process.
    path: Option<PathBuf>,
    fingerprint: Mutex<Option<String>>,
}

/// Returns a hash of the key that is dialed with: SipHash-1-3 under the id of the herd.
fn fingerprint(keys: &KeyFile) -> String {
    let mut hasher = SipHasher13::new_with_key(keys.herd().bytes());
    hasher.write(keys.dialed().bytes());
    hex::encode(hasher.finish128().as_bytes())
}

impl LinkedKey {
    /// Reads what was remembered in that data folder.
    pub(crate) fn open(folder: Option<&Path>) -> LinkedKey {
        let path = folder.map(|folder| folder.join(FILE));
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        LinkedKey {
            path,
            fingerprint: Mutex::new(text.map(|text| text.trim_end().to_owned())),
        }
    }

    /// Returns whether there has been a link by this key.
    pub(crate) fn is(&self, keys: &KeyFile) -> bool {
        self.fingerprint.lock().as_deref() == Some(&*fingerprint(keys))
    }

    /// Remembers that there is a link by this key.
    pub(crate) fn remember(&self, keys: &KeyFile) {
        let now = fingerprint(keys);
        let mut known = self.fingerprint.lock();
        if known.as_deref() == Some(&*now) {
            return;
        }
        if let Some(path) = &self.path
            && let Err(error) = write(path, &now)
        {
            // Until the next start it is remembered all the same.
            warn!("cannot write {}: {error}", path.display());
        }
        *known = Some(now);
    }
}

fn write(path: &Path, fingerprint: &str) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(parent(path))?;
    writeln!(file, "{fingerprint}")?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFile::generate().unwrap();
        let linked = LinkedKey::open(Some(folder.path()));
        assert!(!linked.is(&keys));
        linked.remember(&keys);
        assert!(linked.is(&keys));
        let again = LinkedKey::open(Some(folder.path()));
        assert!(again.is(&keys));
        assert!(!again.is(&keys.rotated().unwrap().rotated().unwrap()));
        assert!(!LinkedKey::open(None).is(&keys));
    }
}
