//! Reloads `servers.txt` and the key file into a running server.

use super::error::ReloadError;
use super::{Server, THREADS_PER_NEIGHBOR};
use crate::config::keys::KeyFile;
use crate::config::limits::check_threads;
use crate::config::topology::{ServerEntry, Topology};
use crate::link;
use crate::model::age;
use crate::model::time::Timestamp;

impl Server {
    /// Adopts a `servers.txt` and a key file that were read again: neighbors are added, removed and
    /// moved, and the next handshakes use the new keys. Other links are not touched. Returns a
    /// summary of the changes.
    ///
    /// Waits until the links to removed neighbors are closed, which takes seconds if one of them
    /// does not respond.
    pub fn reload(&mut self, topology: &Topology, keys: KeyFile) -> Result<String, ReloadError> {
        let _entered = self.group.enter();
        let name = &self.entry.name;
        let Some(entry) = topology.server(name) else {
            return Err(ReloadError::NotNamed(name.clone()));
        };
        let addresses = |entry: &ServerEntry| [entry.client.clone(), entry.peer.clone()];
        let (old, new) = (addresses(&self.entry), addresses(entry));
        if old != new {
            return Err(ReloadError::OwnAddress(Box::new([old, new])));
        }
        let age = self.forget_after.judge_reload(topology.forget_after());
        let age = age.map_err(ReloadError::ForgetAfter)?;
        let neighbors = link::neighbors(topology, name);
        let servers = topology.servers().len();
        let clients = self.descriptors.clients(neighbors.len(), servers);
        let clients = clients.map_err(ReloadError::Descriptors)?;
        let added = neighbors.len().saturating_sub(self.links.status().len());
        check_threads(THREADS_PER_NEIGHBOR * added).map_err(ReloadError::TooManyThreads)?;
        let of_herd = self.links.check_keys(&keys);
        of_herd.map_err(ReloadError::AnotherHerd)?;
        // The last step that can fail without a change.
        let before = self.services.replica.forget_after();
        let adopted = age.adopt(&self.services.replica, true, Timestamp::now());
        self.forget_after = adopted.map_err(ReloadError::ForgetAfter)?;
        let changed = self.links.replace_keys(keys);
        let keys = if changed.map_err(ReloadError::AnotherHerd)? {
            "changed"
        } else {
            "the same as before"
        };
        self.limit.set_max_clients(clients);
        self.topology.replace(topology.clone());
        let changes = self.links.set_neighbors(&neighbors);
        let changes = changes.map_err(ReloadError::Threads)?;
        let mut summary = format!("neighbors: {changes}; keys: {keys}");
        let after = topology.forget_after();
        if after != before {
            summary += &format!("; forget-after: {}", age::in_words(after));
        }
        Ok(summary)
    }
}
