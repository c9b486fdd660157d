//! Tombstones and expiry over values.

use super::*;
use crate::model::digest::DigestKey;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * SECOND)
}

#[track_caller]
fn forget(replica: &Replica, client: &str, now: Timestamp) -> Timestamp {
    match replica.forget(client.as_bytes(), now) {
        (ForgetOutcome::Forgotten(time), None) => time,
        other => panic!("{other:?}"),
    }
}

fn all(replica: &Replica) -> Vec<String> {
    let mut lines = Vec::new();
    replica.scan(
        &mut lines,
        |lines: &mut Vec<String>, record| {
            let mut line = Vec::new();
            record.write_line(&mut line);
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        },
        |_| true,
    );
    lines.sort();
    lines
}

#[test]
fn a_client_is_forgotten_until_a_later_report() {
    let replica = Replica::new("Ball", 1, 100);
    let (link, outlet) = replica.add_link();
    replica.set_live(first(link));
    check_report(
        &replica,
        &["IAMAT a +1+1 10", "IAMAT b +2+2 10"],
        &[Outcome::Stored; 2],
    );
    assert_eq!(forget(&replica, "a", NOW), NOW);
    check_stored(&replica, "a", None);
    assert_eq!(
        (replica.len(), replica.clients(), replica.tombstones()),
        (2, 1, 1)
    );
    // A report of before is answered, and says of itself that it is forgotten.
    for line in ["IAMAT a +1+1 10", "IAMAT a +1+1 999", "IAMAT a +1+1 1000"] {
        check_report(&replica, &[line], &[Outcome::Forgotten(NOW)]);
    }
    // Once more: a tombstone that is later, so that every server that has the first takes it too.
    assert_eq!(forget(&replica, "a", NOW).as_nanos(), NOW.as_nanos() + 1);
    assert_eq!(forget(&replica, "never seen", NOW), NOW);
    assert_eq!((replica.clients(), replica.tombstones()), (1, 2));
    check_report(
        &replica,
        &["IAMAT a +5+5 1000.000000002"],
        &[Outcome::Stored],
    );
    check_stored(&replica, "a", Some("+5+5"));
    assert_eq!((replica.clients(), replica.tombstones()), (2, 1));
    assert_eq!(
        queued(&outlet)[2..],
        [
            "TOMBSTONE Ball 1 3 1000000000000 a",
            "TOMBSTONE Ball 1 4 1000000000001 a",
            "TOMBSTONE Ball 1 5 1000000000000 never seen",
            "RECORD Ball 1 6 1000000000000 a +5+5 1000.000000002",
        ]
    );
    assert!(replica.vector().covers(b"Ball", 1, 6));
}

#[test]
fn a_device_whose_clock_leads_is_forgotten_at_every_server() {
    let replica = Replica::new("Ball", 1, 100);
    check_report(&replica, &["IAMAT a +1+1 1300"], &[Outcome::Stored]);
    let time = forget(&replica, "a", NOW);
    assert_eq!(time.as_nanos(), at(1_300).as_nanos() + 1);
    let lines = all(&replica);
    assert_eq!(lines, ["TOMBSTONE Ball 1 2 1300000000001 a"]);
    let tombstone = RecordView::parse_line(lines[0].as_bytes()).expect("a record");
    let peer = Replica::new("Welsh", 1, 1);
    let (link, _outlet) = peer.add_link();
    let report = "RECORD Ball 1 1 1000000000000 a +1+1 1300";
    let report = RecordView::parse_line(report.as_bytes()).expect("a record");
    // In whatever order they come.
    assert_eq!(peer.adopt(&[tombstone], first(link), NOW), 1);
    assert_eq!(peer.adopt(&[report], first(link), NOW), 0);
    assert_eq!(all(&peer), lines);
}

#[test]
fn a_full_server_forgets_the_clients_that_it_knows() {
    let replica = Replica::new("Ball", 1, 2);
    check_report(
        &replica,
        &["IAMAT a +1+1 10", "IAMAT b +2+2 10"],
        &[Outcome::Stored; 2],
    );
    assert_eq!(replica.forget(b"c", NOW), (ForgetOutcome::Full, None));
    forget(&replica, "a", NOW);
    assert_eq!(replica.forget(b"c", NOW), (ForgetOutcome::Full, None));
    check_report(&replica, &["IAMAT c +1+1 10"], &[Outcome::Full]);
    check_report(&replica, &["IAMAT a +1+1 1001"], &[Outcome::Stored]);
    replica.set_removed(true);
    assert_eq!(replica.forget(b"a", NOW), (ForgetOutcome::Removed, None));
}

#[test]
fn with_a_neighbor_that_knows_no_tombstones_nothing_is_forgotten() {
    let replica = Replica::new("Ball", 1, 100);
    replica.set_forget_after(Some(Duration::from_secs(100)));
    replica.trust_clock(Timestamp::from_nanos(u64::MAX));
    check_report(&replica, &["IAMAT a +1+1 900"], &[Outcome::Expired]);
    replica.set_old_neighbor(Some("Welsh"));
    check_report(&replica, &["IAMAT a +1+1 700"], &[Outcome::Stored]);
    let too_old = ForgetOutcome::NeighborTooOld("Welsh".into());
    assert_eq!(replica.forget(b"a", NOW), (too_old, None));
    assert_eq!(replica.drop_dead(at(9_999), || true), 0);
    let ages = (replica.forget_after(), replica.forget_after_in_force());
    assert_eq!(ages, (Some(Duration::from_secs(100)), None));
    replica.set_old_neighbor(None);
    check_stored(&replica, "a", None);
    assert_eq!(forget(&replica, "a", NOW), NOW);
}

#[test]
fn what_is_dead_is_not_answered_adopted_sent_or_digested() {
    let replica = Replica::new("Ball", 1, 100);
    check_report(
        &replica,
        &["IAMAT dead +1+1 900", "IAMAT edge +1+1 901"],
        &[Outcome::Stored; 2],
    );
    check_report(&replica, &["IAMAT live +1+1 1261"], &[Outcome::Stored]);
    replica.set_forget_after(Some(Duration::from_secs(100)));
    check_stored(&replica, "dead", None);
    check_stored(&replica, "edge", Some("+1+1"));
    check_report(
        &replica,
        &["IAMAT dead +1+1 900", "IAMAT new +1+1 900"],
        &[Outcome::Expired; 2],
    );
    let (link, _outlet) = replica.add_link();
    for (time, adopted) in [(900, 0), (901, 1)] {
        let line = format!("RECORD Welsh 1 {time} 1000000000000 x +1+1 {time}");
        let record = RecordView::parse_line(line.as_bytes()).expect("a record");
        assert_eq!(replica.adopt(&[record], first(link), NOW), adopted);
    }
    assert_eq!(replica.count_above(&Vector::default(), NOW), 3);
    let digest = |replica: &Replica| {
        let digest = replica.digest(&DigestKey::new(b"key"), NOW, || true);
        digest.expect("a digest").total()
    };
    // Of all these, only one is so far from the edge that every server must hold it.
    let only = Replica::new("Ball", 1, 100);
    let mut held = None;
    replica.scan(
        &mut held,
        |held, record| {
            if record.client == b"live" {
                let mut line = Vec::new();
                record.write_line(&mut line);
                *held = Some(line);
            }
        },
        |_| true,
    );
    let line = held.expect("the record");
    only.restore(&RecordView::parse_line(line.trim_ascii_end()).expect("a record"));
    assert_eq!(digest(&replica), digest(&only));
}

/// The marker behind what is sent has the neighbor claim what was left out.
#[test]
fn a_clock_that_leaps_ahead_leaves_nothing_out_of_what_is_sent() {
    let replica = Replica::new("Ball", 1, 100);
    let reports = ["IAMAT a +1+1 890", "IAMAT b +1+1 990"];
    check_report(&replica, &reports, &[Outcome::Stored; 2]);
    replica.set_forget_after(Some(Duration::from_secs(100)));
    let sent = |now| replica.count_above(&Vector::default(), now);
    assert_eq!((sent(NOW), sent(at(9_000))), (1, 0));
    replica.trust_clock(NOW);
    assert_eq!((sent(NOW), sent(at(9_000))), (1, 1));
}

#[test]
fn a_time_that_was_certain_by_mistake_is_so_until_the_next() {
    let replica = Replica::new("Ball", 1, 100);
    check_report(&replica, &["IAMAT a +1+1 990"], &[Outcome::Stored]);
    replica.set_forget_after(Some(Duration::from_secs(100)));
    // Its clock and a neighbor's are wrong alike, and right again.
    replica.trust_clock(at(9_000));
    replica.trust_clock(at(1_010));
    assert_eq!(replica.drop_dead(at(9_000), || true), 0);
    check_stored(&replica, "a", Some("+1+1"));
}

#[test]
fn the_dead_are_dropped_two_minutes_later_if_the_clock_is_trusted() {
    let replica = Replica::new("Ball", 1, 10_000);
    let lines: Vec<_> = (0..5_000)
        .map(|client| format!("IAMAT {client} +1+1 {}", 500 + client / 10))
        .collect();
    for line in &lines {
        check_report(&replica, &[line], &[Outcome::Stored]);
    }
    forget(&replica, "0", at(501));
    replica.set_forget_after(Some(Duration::from_secs(100)));
    // At 820 s, what is of 600 s and before has been dead for 120 s.
    assert_eq!(
        replica.drop_dead(at(820), || true),
        0,
        "the clock is not trusted"
    );
    replica.trust_clock(Timestamp::from_nanos(u64::MAX));
    assert_eq!(replica.drop_dead(at(719), || true), 0);
    let commits = replica.commits();
    assert_eq!(replica.drop_dead(at(820), || true), 1_010);
    assert_ne!(replica.commits(), commits, "a scan shows other records");
    assert_eq!((replica.len(), replica.tombstones()), (3_990, 0));
    // They have left room, and are reported again as new clients are.
    check_report(&replica, &["IAMAT 0 +1+1 1000"], &[Outcome::Stored]);
    // Ended after the first piece.
    assert!(replica.drop_dead(at(5_000), || false) < 4_000);
    let mut dropped = 1;
    while dropped > 0 {
        dropped = replica.drop_dead(at(5_000), || true);
    }
    assert!(replica.is_empty());
}
