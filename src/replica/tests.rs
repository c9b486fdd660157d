//! Reports and adopted records over values: no socket, no clock.

mod forgetting;
mod journal;

use super::*;
use crate::model::command::Command;
use crate::replica::outbox::Queued;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

fn report(line: &str) -> Report<'_> {
    match Command::parse(line.as_bytes()) {
        Ok(Command::Iamat(report)) => report,
        other => panic!("{line}: {other:?}"),
    }
}

#[track_caller]
fn check_report(replica: &Replica, lines: &[&str], expected: &[Outcome]) {
    let reports: Vec<_> = lines.iter().map(|line| report(line)).collect();
    let mut outcomes = Vec::new();
    replica.report(&reports, NOW, &mut outcomes);
    assert_eq!(outcomes, expected, "{lines:?}");
}

#[track_caller]
fn check_stored(replica: &Replica, client: &str, location: Option<&str>) {
    let got = replica.locate(client.as_bytes(), NOW, |found| {
        found.map(|record| String::from_utf8_lossy(record.location).into_owned())
    });
    assert_eq!(got.as_deref(), location, "{client}");
}

fn first(link: LinkId) -> NeighborStart {
    NeighborStart { link, epoch: 1 }
}

fn queued(outlet: &OutboxReceiver) -> Vec<String> {
    let mut lines = Vec::new();
    while let Ok(Queued::Lines(group)) = outlet.try_take() {
        lines.extend(String::from_utf8_lossy(&group).lines().map(str::to_owned));
    }
    lines
}

#[test]
fn newest_wins_also_within_a_group() {
    use Outcome::{NotNewer, Stored};
    let replica = Replica::new("Ball", 1, 100);
    let (link, outlet) = replica.add_link();
    replica.set_live(first(link));
    check_report(
        &replica,
        &[
            "IAMAT a +1+1 10",
            "IAMAT a +2+2 10",
            "IAMAT a +3+3 9",
            "IAMAT b +4+4 1",
            "IAMAT a +5+5 11",
        ],
        &[Stored, NotNewer, NotNewer, Stored, Stored],
    );
    check_stored(&replica, "a", Some("+5+5"));
    check_stored(&replica, "b", Some("+4+4"));
    check_report(&replica, &["IAMAT a +6+6 11.0"], &[NotNewer]);
    check_stored(&replica, "a", Some("+5+5"));
    assert_eq!(
        queued(&outlet),
        [
            "RECORD Ball 1 1 1000000000000 a +1+1 10",
            "RECORD Ball 1 2 1000000000000 b +4+4 1",
            "RECORD Ball 1 3 1000000000000 a +5+5 11",
        ]
    );
    assert!(replica.vector().covers(b"Ball", 1, 3) && !replica.vector().covers(b"Ball", 1, 4));
}

#[test]
fn refused_reports_change_nothing() {
    let replica = Replica::new("Ball", 1, 2);
    check_report(
        &replica,
        &["IAMAT a +1+1 1300.000000001"],
        &[Outcome::TooFarAhead],
    );
    check_report(
        &replica,
        &[
            "IAMAT a +1+1 1300",
            "IAMAT b +1+1 1",
            "IAMAT c +1+1 1",
            "IAMAT b +2+2 2",
        ],
        &[
            Outcome::Stored,
            Outcome::Stored,
            Outcome::Full,
            Outcome::Stored,
        ],
    );
    check_stored(&replica, "b", Some("+2+2"));
    check_stored(&replica, "c", None);
    assert_eq!(replica.len(), 2);
    assert!(replica.vector().covers(b"Ball", 1, 3) && !replica.vector().covers(b"Ball", 1, 4));
}

#[test]
fn a_neighbors_records_go_to_the_others_only_and_only_once() {
    let replica = Replica::new("Ball", 1, 1);
    let (from, back) = replica.add_link();
    let (other, on) = replica.add_link();
    replica.set_live(first(from));
    replica.set_live(first(other));
    let line = "RECORD Welsh 5 7 1000000000000 a +1+1 10";
    let record = RecordView::parse_line(line.as_bytes()).expect("a record");
    assert_eq!(replica.adopt(&[record], first(from), NOW), 1);
    assert_eq!(replica.adopt(&[record], first(other), NOW), 0);
    let tie = RecordView {
        origin: b"Alford",
        ..record
    };
    assert_eq!(replica.adopt(&[tie], first(other), NOW), 0);
    assert_eq!(queued(&on), [line]);
    assert!(queued(&back).is_empty());
    // A single record advances nothing: another path may still hold what came before it.
    assert!(replica.vector().is_empty());
    // Limits act where a client reports, not between servers.
    let second = RecordView {
        client: b"b",
        ..record
    };
    assert_eq!(replica.adopt(&[second], first(from), NOW), 1);
}

#[test]
fn a_link_that_comes_up_gets_what_its_neighbor_lacks() {
    let replica = Replica::new("Ball", 1, 100);
    check_report(
        &replica,
        &["IAMAT a +1+1 1", "IAMAT b +1+1 1"],
        &[Outcome::Stored; 2],
    );
    let (link, outlet) = replica.add_link();
    let captured = replica.set_live(first(link));
    check_report(&replica, &["IAMAT c +1+1 1"], &[Outcome::Stored]);
    assert!(captured.covers(b"Ball", 1, 2) && !captured.covers(b"Ball", 1, 3));
    let mut held = Vector::default();
    held.advance(b"Ball", 1, 1);
    let mut sent = Vec::new();
    replica.records_above(
        &held,
        NOW,
        &mut sent,
        |sent, view| sent.push(view.sequence),
        |_| true,
    );
    sent.sort();
    assert_eq!(sent, [2, 3]);
    replica.send_markers();
    assert_eq!(
        queued(&outlet),
        [
            "RECORD Ball 1 3 1000000000000 c +1+1 1",
            "MARKER 0 Ball 1 3"
        ]
    );
}

#[test]
fn the_markers_of_a_server_that_has_caught_up_name_its_start() {
    let replica = Replica::new("Ball", 7, 100);
    let (link, outlet) = replica.add_link();
    assert!(replica.set_live(first(link)).is_empty());
    replica.send_markers();
    replica.set_ready();
    replica.send_markers();
    assert_eq!(queued(&outlet), ["MARKER 0", "MARKER 0 Ball 7 0"]);
    let captured = replica.set_live(first(link));
    assert!(captured.has_epoch(b"Ball", 7) && !captured.covers(b"Ball", 7, 1));
    // The claims of this server about itself stay.
    check_report(&replica, &["IAMAT a +1+1 1"], &[Outcome::Stored]);
    assert!(replica.set_live(first(link)).covers(b"Ball", 7, 1));
}

/// It needs no lock, so it does not wait for a disk that does not answer.
#[test]
fn a_removed_server_refuses_reports_while_the_disk_stalls() {
    let replica = Replica::new("Ball", 1, 10);
    let reports = [report("IAMAT a +1+1 1")];
    let mut outcomes = Vec::new();
    let stalled = replica.apply.lock();
    let limit = Duration::from_millis(1);
    assert_eq!(
        replica.report_within(limit, &reports, NOW, &mut outcomes, |_, _| ()),
        None
    );
    replica.set_removed(true);
    let answered = replica.report_within(limit, &reports, NOW, &mut outcomes, |_, _| ());
    assert_eq!(
        (answered, &*outcomes),
        (Some(None), &[Outcome::Removed][..])
    );
    drop(stalled);
    replica.set_removed(false);
    check_report(&replica, &["IAMAT a +1+1 1"], &[Outcome::Stored]);
}
