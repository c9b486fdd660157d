//! Opens a server's replica: replays the journal of an earlier start, and begins an epoch that no
//! earlier start had.

use std::sync::Arc;
use std::time::Instant;

use log::{error, info, warn};

use super::Replica;
use crate::config::Config;
use crate::logging::EVENT;
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::store::journal::{Journal, JournalError, Syncer};

impl Replica {
    /// Opens the replica of a server. With a data folder, also returns the handle that brings its
    /// journal to disk.
    ///
    /// Damage to the journal is logged and no error: the neighbors send again what is missing.
    pub fn open(config: &Config) -> Result<(Arc<Replica>, Option<Syncer>), JournalError> {
        let name = &config.server.name;
        let now = Timestamp::now().as_nanos();
        let mut replica = Replica::new(name, now, config.max_records);
        let Some(data) = &config.data_dir else {
            return Ok((Arc::new(replica), None));
        };
        let folder = data.join(name);
        let start = Instant::now();
        let mut forgotten = None;
        let opened = Journal::open(&folder, config.readers, |record| {
            if replica.restore(record) {
                let since = forgotten.unwrap_or(record.received);
                forgotten = Some(record.received.min(since));
            }
        });
        let (mut journal, recovered) = opened?;
        for (path, mode, error) in &recovered.exposed {
            let path = path.display();
            match error {
                None => info!("{path} could be read by others (mode {mode:03o}), and now can't"),
                Some(error) => warn!(
                    "{path} can be read by others (mode {mode:03o}), and that can't be changed: {error}"
                ),
            }
        }
        for damage in &recovered.damage {
            error!(
                "journal: {damage}; all readable records are kept, and the neighbors are asked for the rest"
            );
        }
        if recovered.torn_bytes > 0 {
            warn!(
                "journal: the last append, {} bytes, was under way when the server ended, and is dropped",
                recovered.torn_bytes
            );
        }
        replica.restore_vector(&recovered.vector);
        // A folder that was deleted or rolled back must not make an epoch occur twice.
        replica.epoch = now.max(recovered.epoch.saturating_add(1));
        let mut full = recovered.full;
        match journal.start_epoch(replica.epoch) {
            // It is appended before the first record.
            Err(error) if error.is_full() || full.is_some() => full = full.or(Some(error)),
            started => started.inspect_err(|error| error!("{error}"))?,
        }
        let failure = full.map(|error| error.to_string());
        if let Some(error) = &failure {
            error!("the journal can't be written, and reports are refused until it can: {error}");
        }
        info!(
            target: EVENT,
            "{} clients from {} in {:.3} s",
            replica.len(),
            folder.display(),
            start.elapsed().as_secs_f64()
        );
        let syncer = journal.syncer();
        let within = config.compact_within;
        replica.attach(journal, config.ack, failure, within, forgotten);
        Ok((Arc::new(replica), Some(syncer)))
    }

    /// Restores a record of an earlier start, before there is any link. Returns whether the journal thus
    /// holds a location that is to be forgotten.
    pub fn restore(&self, record: &RecordView<'_>) -> bool {
        let key = self.locations.key(record.client);
        self.locations.store(key, record).forgets(record)
    }

    /// Restores the vector of an earlier start, once all its records have been restored.
    pub fn restore_vector(&self, held: &Vector) {
        self.apply.lock().vector.merge(held);
    }
}
