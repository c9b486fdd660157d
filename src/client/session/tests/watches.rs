//! Pushes between replies.

use super::*;
use crate::model::command::Command;

impl Fixture {
    /// A session that has a watch of everything, and has been told that nothing is there.
    fn watching() -> (Fixture, ScriptedStream) {
        let mut fixture = Fixture::new();
        let mut script = ScriptedStream::new(&["HELLO 2\nWATCH all +0+0 20016\n"]);
        assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
        let text = String::from_utf8_lossy(&script.taken);
        assert!(
            text.ends_with("WATCHING all\nRESET all\nSETTLED all 0\n"),
            "{text}"
        );
        script.taken.clear();
        (fixture, script)
    }

    /// Applies reports of that many clients, which all watchers are to be told of.
    fn change(&mut self, clients: usize) {
        self.rounds += 1;
        for client in 0..clients {
            let line = format!("IAMAT client-{client} +1+1 {}", self.rounds);
            let Ok(Command::Iamat(report)) = Command::parse(line.as_bytes()) else {
                panic!("{line}");
            };
            let now = Timestamp::now();
            let replica = &self.services.replica;
            replica.report(&[report], now, &mut Vec::new());
        }
        self.services.watches.publish_all();
    }
}

fn lines(script: &ScriptedStream) -> Vec<&[u8]> {
    let lines = script.taken.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn pushes_come_between_replies() {
    let (mut fixture, mut script) = Fixture::watching();
    fixture.change(1);
    script.segments.push_back(b"PING a\nPING b\n".to_vec());
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsInput);
    let lines = lines(&script);
    assert_eq!(lines[..2], [b"PONG a", b"PONG b"]);
    assert!(lines[2].starts_with(b"ENTER all AT Ball "));
    assert_eq!(lines.len(), 3);
    assert!(!fixture.session.has_news());
}

#[test]
fn a_session_with_a_watch_is_never_idle_and_the_system_looks_after_it() {
    let (mut fixture, mut script) = Fixture::watching();
    assert_eq!(fixture.session.deadline(&fixture.services), Tick(u64::MAX));
    assert_eq!(script.kept_alive, Some(Duration::from_secs(60)));
    script.segments.push_back(b"UNWATCH all\n".to_vec());
    fixture.run(&mut script);
    let idle = fixture.now().after(fixture.services.idle_timeout);
    assert_eq!(fixture.session.deadline(&fixture.services), idle);
    // Half a line has its deadline all the same.
    let (mut fixture, mut script) = Fixture::watching();
    script.segments.push_back(b"PIN".to_vec());
    fixture.run(&mut script);
    let late = fixture.now().after(LINE_TIMEOUT);
    assert_eq!(fixture.session.deadline(&fixture.services), late);
}

#[test]
fn a_watcher_that_does_not_read_gets_one_batch_and_ten_seconds() {
    let (mut fixture, mut script) = Fixture::watching();
    script.capacity = 0;
    for _ in 0..5 {
        fixture.change(90);
        assert_eq!(fixture.run(&mut script), TurnResult::NeedsOutput);
        assert!(!fixture.session.has_news());
    }
    let unsent = fixture.session.unsent_bytes();
    assert!(unsent > 0 && unsent <= 64 << 10, "{unsent} bytes");
    let late = fixture.now().after(REPLY_TIMEOUT);
    assert_eq!(fixture.session.deadline(&fixture.services), late);
    // One that reads again is told of the newest of each.
    script.capacity = usize::MAX;
    while fixture.run(&mut script) == TurnResult::NeedsOutput {}
    assert_eq!(lines(&script).len(), 180);
    script.capacity = 0;
    fixture.change(1);
    assert_eq!(fixture.run(&mut script), TurnResult::NeedsOutput);
    fixture.set_now(late);
    fixture.turn(&mut script);
    let reason = EndReason::ReplyTimeout;
    assert!(matches!(fixture.session.progress, Progress::Draining(of, _) if of == reason));
    assert_eq!(fixture.services.watches.len(), 0);
}

#[test]
fn pushes_wait_for_what_the_session_waits_for() {
    let (mut fixture, mut script) = Fixture::watching();
    fixture.change(1);
    fixture.services.stall.wait(Box::new(|| ()));
    script.segments.push_back(b"IAMAT a +1+1 1\n".to_vec());
    assert_eq!(fixture.run(&mut script), TurnResult::Blocked);
    assert!(script.taken.is_empty() && !fixture.session.has_news());
}

#[test]
fn a_half_close_ends_watches() {
    let (mut fixture, mut script) = Fixture::watching();
    assert_eq!(fixture.services.watches.len(), 1);
    script.closes = true;
    fixture.change(1);
    script.segments.push_back(b"PING\n".to_vec());
    let ended = TurnResult::Ended(EndReason::Client);
    while fixture.turn(&mut script) != ended {}
    assert_eq!(fixture.services.watches.len(), 0);
}
