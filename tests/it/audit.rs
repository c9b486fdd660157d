//! The audit between neighbors: records that were lost unnoticed are found and sent again, but only
//! once they have been missing in two rounds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::process::wait_until;
use crate::support::{KEYS, atlas, config, free_ring};
use herd::link::neighbor::LinkPhase;
use herd::model::digest::DigestKey;
use herd::model::record::RecordView;
use herd::model::time::Timestamp;
use herd::server::Server;

/// Two neighbors, Alford and Welsh, that compare digests at this interval.
fn pair(interval: Duration) -> [Server; 2] {
    let (text, mut sockets) = free_ring();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
    let fields = |name: &str| {
        line(name)
            .splitn(4, ' ')
            .take(3)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let text = format!("{} Welsh\n{} Alford\n", fields("Alford"), fields("Welsh"));
    [("Alford", 0), ("Welsh", 3)].map(|(name, index)| {
        let mut config = config(&text, name);
        config.digest_interval = interval;
        Server::start(&config, sockets.remove(index), atlas()).unwrap()
    })
}

/// An old record whose origin is Ball, which is not running.
fn old(client: &str, time: u64) -> Vec<u8> {
    format!("RECORD Ball 7 {time} 1479413884000000000 {client} +1+1 {time}").into_bytes()
}

/// Puts a record into a server's cache without flooding it.
fn plant(server: &Server, line: &[u8]) {
    server
        .replica()
        .restore(&RecordView::parse_line(line).unwrap());
}

/// Waits until both hold the same records.
#[track_caller]
fn await_equal(servers: &[Server; 2]) {
    let records = |server: &Server| {
        let mut all = BTreeSet::new();
        server.replica().scan(
            &mut all,
            |all: &mut BTreeSet<Vec<u8>>, record| {
                let mut line = Vec::new();
                record.write_line(&mut line);
                all.insert(line);
            },
            |_| true,
        );
        all
    };
    wait_until("equal records", || {
        records(&servers[0]) == records(&servers[1])
    });
}

/// Waits until both links are live and nothing is unacknowledged.
#[track_caller]
fn await_links(servers: &[Server; 2]) {
    let is_up = |server: &Server| {
        let mut links = server.links().into_values();
        links.all(|link| link.phase == LinkPhase::Live && link.unconfirmed() == Some(0))
    };
    wait_until("both links are live and idle", || servers.iter().all(is_up));
}

fn diverged(server: &Server) -> u64 {
    server.links().values().map(|link| link.diverged).sum()
}

#[test]
fn records_missing_in_two_rounds_are_found_counted_and_sent() {
    let interval = Duration::from_millis(700);
    let servers = pair(interval);
    let [alford, welsh] = &servers;
    for client in 0..1_000 {
        for server in &servers {
            plant(server, &old(&format!("same-{client}"), 5));
        }
    }
    await_links(&servers);
    // A few rounds without a difference.
    let quiet = Instant::now() + 3 * interval;
    while Instant::now() < quiet {
        assert_eq!((diverged(alford), diverged(welsh)), (0, 0));
        std::thread::sleep(Duration::from_millis(10));
    }

    let planted = Instant::now();
    plant(alford, &old("only-at-alford", 5));
    plant(welsh, &old("only-at-welsh", 5));
    plant(alford, &old("newer-at-welsh", 5));
    plant(welsh, &old("newer-at-welsh", 6));
    await_equal(&servers);
    assert!(planted.elapsed() >= interval, "{:?}", planted.elapsed());
    assert_eq!(
        (alford.replica().len(), welsh.replica().len()),
        (1_003, 1_003)
    );
    alford
        .replica()
        .locate(b"newer-at-welsh", Timestamp::now(), |record| {
            assert_eq!(record.unwrap().time_text, b"6");
        });
    // Each has sent at least the bucket in which only it had the newest record.
    let key = DigestKey::new(KEYS.herd().bytes());
    let clients = ["only-at-alford", "only-at-welsh", "newer-at-welsh"];
    let buckets: BTreeSet<_> = clients.map(|client| key.bucket(client.as_bytes())).into();
    for server in &servers {
        let found = diverged(server);
        assert!((1..=buckets.len() as u64).contains(&found), "{found}");
    }
    // Then no more differences are found.
    let found = [diverged(alford), diverged(welsh)];
    let quiet = Instant::now() + 3 * interval;
    while Instant::now() < quiet {
        assert_eq!([diverged(alford), diverged(welsh)], found);
        std::thread::sleep(Duration::from_millis(10));
    }
    servers.into_iter().for_each(Server::stop);
}

#[test]
fn many_missing_records_are_sent_in_one_round() {
    let servers = pair(Duration::from_secs(1));
    let [alford, welsh] = &servers;
    await_links(&servers);
    for client in 0..2_000 {
        plant(alford, &old(&client.to_string(), 5));
    }
    let key = DigestKey::new(KEYS.herd().bytes());
    let buckets: BTreeSet<_> = (0..2_000)
        .map(|client: u32| key.bucket(client.to_string().as_bytes()))
        .collect();
    assert!(buckets.len() > 200);
    let mut found = 0;
    wait_until("the difference is found", || {
        found = diverged(alford);
        found > 0
    });
    // All of it at once (the next round is a second later), but for buckets that were planted while the first digest was made.
    assert!(found > 32, "{found} buckets");
    await_equal(&servers);
    assert!(diverged(alford) <= 2 * buckets.len() as u64);
    assert_eq!(welsh.replica().len(), 2_000);
    servers.into_iter().for_each(Server::stop);
}
