//! The wiring of a server: what must run whatever its settings are.

use std::time::{Duration, Instant};

use super::*;
use crate::config::keys::KeyFile;
use crate::config::topology::Topology;
use crate::config::{Ack, DEFAULT_DIGEST_INTERVAL, PoolKind};
use crate::listener;
use crate::model::vector::Vector;
use crate::places::atlas::Atlas;

/// Starts a server without neighbors that keeps no journal.
fn start_in_memory() -> Server {
    let bind = || listener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let sockets = Sockets {
        clients: bind().into(),
        peers: bind().into(),
    };
    let topology = Topology::parse(b"Ball 127.0.0.1:1 127.0.0.1:2\n").expect("a topology");
    let config = Config {
        server: topology.server("Ball").expect("its line").clone(),
        topology,
        keys: KeyFile::generate().expect("a key"),
        bind: None,
        pool: PoolKind::default(),
        workers: 1,
        max_clients: None,
        max_clients_per_address: None,
        max_unsent_bytes: 256 << 20,
        max_records: 10,
        idle_timeout: Duration::from_secs(60),
        data_dir: None,
        ack: Ack::Memory,
        readers: crate::disk::Readers::Owner,
        digest_interval: DEFAULT_DIGEST_INTERVAL,
        http: None,
    };
    Server::start(&config, sockets, Places::Atlas(Atlas)).expect("a server")
}

#[test]
fn old_epochs_are_pruned_without_a_data_folder_too() {
    let server = start_in_memory();
    let mut marker = Vector::default();
    marker.advance(b"Welsh", 1, 7);
    marker.advance(b"Welsh", 2, 3);
    server.replica().advance(&marker);
    assert!(server.replica().vector().covers(b"Welsh", 1, 7));
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.replica().vector().covers(b"Welsh", 1, 7) {
        assert!(Instant::now() < deadline, "never pruned");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop();
}
