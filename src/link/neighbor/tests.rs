//! The state of one neighbor.

use super::*;
use crate::replica::outbox::{Batch, OutboxSender, outbox};

fn neighbor(batches: usize) -> (OutboxSender, Neighbor) {
    let (sender, receiver) = outbox(batches);
    let (requests, _) = crossbeam_channel::bounded(1);
    let neighbor = Neighbor::new("Ball", LinkId(0), receiver.gauge(), requests);
    (sender, neighbor)
}

#[test]
fn lag_is_the_age_of_the_oldest_record_that_is_not_confirmed() {
    let (outbox, neighbor) = neighbor(2);
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let lag = |milliseconds| neighbor.status(at(milliseconds)).lag_ms;
    assert_eq!((lag(0), neighbor.status(start).unconfirmed()), (None, None));
    // Until the first resync it may lack anything.
    neighbor.connected(at(0));
    assert_eq!(lag(30), Some(30));
    assert_eq!(neighbor.resyncing(at(40)), at(0));
    neighbor.writing(10, at(0));
    neighbor.resynced();
    assert_eq!(lag(50), Some(50));
    outbox.push(&Batch::new(b"one\ntwo\n".to_vec(), 2)).unwrap();
    assert_eq!(neighbor.status(start).unconfirmed(), Some(12));
    // A rate changes nothing, and writes that are close count as one.
    for milliseconds in 100..200 {
        neighbor.writing(1, at(milliseconds));
    }
    assert!(neighbor.acknowledge(9));
    assert_eq!(lag(200), Some(200));
    assert!(neighbor.acknowledge(10));
    assert_eq!(lag(200), Some(100));
    assert!(neighbor.acknowledge(109));
    assert_eq!(lag(200), Some(10));
    assert!(neighbor.acknowledge(110));
    assert_eq!(lag(200), Some(0));
    assert_eq!(neighbor.status(start).unconfirmed(), Some(2));
    // More than was sent is no acknowledgement.
    assert!(!neighbor.acknowledge(111));
    // Records that an overflow has dropped are lacking until they have been sent again.
    neighbor.overflowed(at(250));
    neighbor.overflowed(at(260));
    assert_eq!(lag(300), Some(50));
    assert_eq!(neighbor.resyncing(at(290)), at(250));
    neighbor.writing(5, at(250));
    neighbor.resynced();
    assert_eq!(lag(300), Some(50));
    assert!(neighbor.acknowledge(115));
    assert_eq!(lag(300), Some(0));
    // The next connection counts from 0.
    neighbor.lost(at(310), Timestamp::from_nanos(5), "gone".to_owned(), None);
    assert_eq!(lag(320), None);
    neighbor.connected(at(400));
    assert!(neighbor.acknowledge(0));
    assert_eq!(lag(405), Some(5));
    assert_eq!(neighbor.status(start).unconfirmed(), Some(2));
}

#[test]
fn an_error_is_shown_while_it_matters_with_its_age() {
    let (_outbox, neighbor) = neighbor(2);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let shown = |seconds| {
        let error = neighbor.status(at(seconds)).error;
        error.map(|error| (error.ago_ms, error.reason))
    };
    assert_eq!(shown(0), None);
    neighbor.lost(start, Timestamp::from_nanos(5), "gone".to_owned(), None);
    let gone = |milliseconds| Some((milliseconds, "gone".to_owned()));
    assert_eq!(shown(3), gone(3_000));
    assert_eq!(shown(3_600), gone(3_600_000));
    neighbor.connected(at(4));
    assert_eq!(shown(20), gone(20_000), "not live yet");
    neighbor.resynced();
    assert_eq!(shown(9), gone(9_000));
    assert_eq!(shown(10), None);
}

#[test]
fn a_second_server_of_a_name_is_reported_as_long_as_there_is_evidence() {
    let (_outbox, neighbor) = neighbor(2);
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let report = |milliseconds, evidence| neighbor.report_twin(at(milliseconds), evidence, "x");
    assert!(report(0, TwinEvidence::Refused));
    assert!(!report(1_000, TwinEvidence::Refused));
    assert!(neighbor.twin(at(2_599)).is_some());
    assert_eq!(neighbor.twin(at(2_600)), None);
    assert!(report(3_000, TwinEvidence::Record));
    assert!(!report(4_000, TwinEvidence::Refused));
    assert!(neighbor.twin(at(12_999)).is_some());
    assert_eq!(neighbor.twin(at(13_000)), None);
    assert_eq!(neighbor.dialed_at(7), None);
    neighbor.dialed(7, "h:1".to_owned());
    assert_eq!(neighbor.dialed_at(7).as_deref(), Some("h:1"));
    assert_eq!(neighbor.dialed_at(8), None);
}

#[test]
fn a_marker_is_confirmed_with_the_records_before_it() {
    let (_outbox, neighbor) = neighbor(2);
    let marker = |sequence| {
        let mut vector = Vector::default();
        vector.advance(b"Ball", 1, sequence);
        Arc::new(vector)
    };
    let now = Instant::now();
    neighbor.connected(now);
    neighbor.holds(&marker(1));
    neighbor.writing(10, now);
    neighbor.marked(marker(11));
    neighbor.writing(5, now);
    neighbor.marked(marker(16));
    for (acknowledged, held) in [(9, 1), (10, 11), (14, 11), (15, 16)] {
        assert!(neighbor.acknowledge(acknowledged));
        assert_eq!(neighbor.confirmed(), *marker(held), "{acknowledged}");
    }
    // A connection that is lost does not unsay what was confirmed over it; markers that were
    // not confirmed count no more.
    neighbor.writing(1, now);
    neighbor.marked(marker(17));
    neighbor.connected(now);
    assert!(neighbor.acknowledge(0));
    assert_eq!(neighbor.confirmed(), *marker(16));
    // A neighbor that comes back without its data has confirmed nothing.
    neighbor.holds(&Vector::default());
    assert_eq!(neighbor.confirmed(), Vector::default());
}

#[test]
fn a_refusal_holds_until_the_neighbor_answers_something_else() {
    let (_outbox, neighbor) = neighbor(2);
    let (now, at) = (Instant::now(), Timestamp::from_nanos(5));
    let lose = |refusal| neighbor.lost(now, at, "gone".to_owned(), refusal);
    for (refusal, expected) in [
        (Some(Refusal::Skew), Some(Refusal::Skew)),
        (None, None),
        (Some(Refusal::NotANeighbor), Some(Refusal::NotANeighbor)),
        // It does not answer.
        (None, Some(Refusal::NotANeighbor)),
        (Some(Refusal::Other), Some(Refusal::Other)),
        (Some(Refusal::WrongKey), Some(Refusal::WrongKey)),
        (None, Some(Refusal::WrongKey)),
    ] {
        lose(refusal);
        assert_eq!(neighbor.facts(now).refusal, expected);
    }
    neighbor.connected(now);
    assert_eq!(neighbor.facts(now).refusal, None);
}

#[test]
fn an_overflow_shows_before_the_sender_has_seen_it() {
    let (outbox, neighbor) = neighbor(1);
    let now = Instant::now();
    neighbor.connected(now);
    neighbor.resynced();
    let batch = Batch::new(b"one\n".to_vec(), 1);
    outbox.push(&batch).unwrap();
    assert_eq!(neighbor.status(now).phase, LinkPhase::Live);
    outbox.push(&batch).unwrap_err();
    assert_eq!(neighbor.status(now).phase, LinkPhase::Dirty);
    outbox.clear();
    assert_eq!(neighbor.status(now).phase, LinkPhase::Live);
}

#[test]
fn a_phase_is_written_alike_in_words_and_in_json() {
    for phase in [
        LinkPhase::Down,
        LinkPhase::Connecting,
        LinkPhase::Resyncing,
        LinkPhase::Live,
        LinkPhase::Dirty,
    ] {
        let json = serde_json::to_string(&phase).unwrap();
        assert_eq!(json, format!("\"{phase}\""));
    }
}
