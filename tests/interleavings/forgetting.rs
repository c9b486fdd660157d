//! Properties of forgetting: clients are forgotten, and the dead are dropped, while others report.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shuttle::thread as threads;

use super::{NOW, Neighbor, Order, Server, reporter, send_report, sound};
use crate::model::record::RecordView;
use crate::model::time::Timestamp;
use crate::model::vector::Vector;
use crate::record::Record;
use crate::replica::outbox::{NeighborStart, QUEUE_BATCHES, Queued};

/// Clients are forgotten while they report, one of them with a clock that leads: a tombstone is later
/// than all that was stored before it, so what is queued for a neighbor is greater every time.
pub fn a_tombstone_is_later_than_what_it_forgets(server: Arc<impl Server + 'static>) {
    let (link, outbox) = server.add_link(QUEUE_BATCHES);
    server.set_live(NeighborStart { link, epoch: 1 });
    let forgetter = Arc::clone(&server);
    let forgetter = threads::spawn(move || {
        forgetter.forget(b"a", NOW);
        forgetter.forget(b"b", NOW);
    });
    let reporters = [
        reporter(&server, vec![("a", 1), ("b", 999), ("a", 1_001)]),
        reporter(&server, vec![("a", 1_200), ("a", 1_300)]),
    ];
    reporters
        .into_iter()
        .for_each(|reporter| reporter.join().unwrap());
    forgetter.join().unwrap();
    let mut last: HashMap<Vec<u8>, Record> = HashMap::new();
    while let Ok(Queued::Lines(lines)) = outbox.try_take() {
        for line in lines.strip_suffix(b"\n").unwrap().split(|&b| b == b'\n') {
            let view = RecordView::parse_line(line).unwrap();
            let former = last.insert(view.client.to_vec(), Record::new(&view));
            if let Some(former) = former {
                assert!(view.order(&former.view()).is_gt(), "{view:?} {former:?}");
            }
        }
    }
    // The last that was queued is what is stored: the newest wins.
    server.all_above(&Vector::default(), &mut |view| {
        assert_eq!(last.get(view.client).map(Record::view).as_ref(), Some(view));
    });
    assert!(last[&b"b"[..]].view().is_tombstone());
}

/// A neighbor's record comes while its client is forgotten: forgotten it stays, unless the record is
/// later than the tombstone. The counts follow.
pub fn a_forgotten_client_stays_forgotten() {
    let server = sound();
    let (from, _outbox) = server.add_link();
    let (other, outbox) = server.add_link();
    let mut neighbor = Neighbor::default();
    neighbor.resync(&*server, other, Order::LiveThenScan);
    send_report(&*server, "a", 1);
    let adopter = Arc::clone(&server);
    let adopter = threads::spawn(move || {
        for (client, seconds, sequence) in [("a", 999, 1), ("b", 999, 2), ("b", 1_001, 3)] {
            let text = seconds.to_string();
            let record = RecordView {
                client: client.as_bytes(),
                location: b"+2+2",
                time_text: text.as_bytes(),
                time: Timestamp::from_nanos(seconds * 1_000_000_000),
                received: NOW,
                origin: b"Welsh",
                epoch: 1,
                sequence,
            };
            let link = NeighborStart {
                link: from,
                epoch: 1,
            };
            adopter.adopt(&[record], link, NOW);
        }
    });
    Server::forget(&*server, b"a", NOW);
    assert!(server.locate(b"a", NOW, |found| found.is_none()));
    Server::forget(&*server, b"b", NOW);
    adopter.join().unwrap();
    assert!(server.locate(b"a", NOW, |found| found.is_none()));
    let is_known = server.locate(b"b", NOW, |found| found.is_some());
    let tombstones = 1 + usize::from(!is_known);
    assert_eq!((server.len(), server.tombstones()), (2, tombstones));
    assert!(!neighbor.drain(&outbox, false));
    neighbor.check(&*server);
}

/// The dead are dropped while their clients report: nothing is taken that lives, and the counts follow.
pub fn a_sweep_takes_the_dead_only() {
    let server = sound();
    let (link, _outbox) = server.add_link();
    send_report(&*server, "a", 1);
    send_report(&*server, "b", 1);
    server.set_forget_after(Some(Duration::from_secs(100)));
    server.trust_clock(NOW);
    let reporters = reporter(&server, vec![("a", 999)]);
    let sweeper = Arc::clone(&server);
    let sweeper = threads::spawn(move || sweeper.drop_dead(NOW, || true));
    let tombstone = RecordView::tombstone(b"b", NOW, b"Welsh", 1, 1);
    server.adopt(&[tombstone], NeighborStart { link, epoch: 1 }, NOW);
    reporters.join().unwrap();
    assert!(sweeper.join().unwrap() <= 2);
    let time = server.locate(b"a", NOW, |found| found.map(|view| view.time));
    assert_eq!(time, Some(Timestamp::from_nanos(999_000_000_000)));
    assert_eq!((server.len(), server.tombstones()), (2, 1));
}
